"""The products with weights inside a model, one by one: to watch them, to compute them differently, to name them.

A layer is known by its bias, whether it is called or a model uses its weights itself, and always appears as a matrix
product of rows (..., K) with weights (N, K); a convolution over time is the product over its taps side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# Told the layer's name, its rows (..., K), its weights (N, K) and its bias (N,); returns the outputs (..., N).
Intercept: TypeAlias = Callable[[str, Tensor, Tensor, Tensor], Tensor]


@contextmanager
def intercepted(model: nn.Module, intercept: Intercept, only: Collection[str] | None = None) -> Iterator[None]:
    """While the body runs, every layer of `model` with weights and a bias (or `only` these) is left to `intercept`."""
    names = {id(bias): name for name, bias in layer_biases(model).items() if only is None or name in only}
    with _Interception(names, intercept):
        yield


def layer_biases(model: nn.Module) -> dict[str, nn.Parameter]:
    """The bias of every linear layer and convolution, by the layer's name."""
    return {
        name: module.bias
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d) and module.bias is not None
    }


def layer_weights(model: nn.Module, keypoints: Tensor) -> dict[str, Tensor]:
    """The weights (N, K) of every layer that a forward of these windows (B, T, 17, C) computes, in order."""
    found: dict[str, Tensor] = {}

    def record(name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        found[name] = weight.detach()
        return F.linear(x, weight, bias)

    with torch.no_grad(), intercepted(model, record):
        model(keypoints)
    return found


def normalised_layers(model: nn.Module, keypoints: Tensor) -> dict[str, str]:
    """The layers that alone read what a LayerNorm puts out: the norm's name by that of the layer."""
    watch = _NormWatch(model)
    with torch.no_grad(), watch:
        model(keypoints)
    return watch.pairs()


class _Interception(TorchFunctionMode):
    """Hands every product with weights to a function."""

    def __init__(self, names: Mapping[int, str], intercept: Intercept) -> None:
        super().__init__()
        self.names, self.intercept = names, intercept

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and (name := self.names.get(id(_bias(args, kwargs)))) is not None:
            return self.intercept(name, args[0], args[1], _bias(args, kwargs))
        if func is F.conv1d and (name := self.names.get(id(_bias(args, kwargs)))) is not None:
            return self._convolution(name, *args, **kwargs)
        return func(*args, **kwargs)

    def _convolution(
        self, name: str, x: Tensor, weight: Tensor, bias: Tensor, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1,
    ) -> Tensor:  # fmt: skip
        """(B, C, T) to (B, N, T'), as one product over the taps side by side, first tap first."""
        (stride,), (padding,), (dilation,) = map(_tuple, (stride, padding, dilation))
        assert groups == 1, f"{name} has groups"
        taps = weight.shape[-1]
        x = F.pad(x.transpose(1, 2), (0, 0, padding, padding))
        ends = (x.shape[1] - dilation * (taps - 1) - 1) // stride * stride + 1
        rows = torch.cat([x[:, tap * dilation : tap * dilation + ends : stride] for tap in range(taps)], dim=-1)
        return self.intercept(name, rows, weight.transpose(1, 2).flatten(1), bias).transpose(1, 2)


class _NormWatch(TorchFunctionMode):
    """Sees which functions read the outputs of LayerNorms."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.layers = {id(bias): name for name, bias in layer_biases(model).items()}
        self.norms = {
            id(module.weight): name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)
        }
        self.outputs: dict[int, tuple[str, Tensor]] = {}  # the tensor is held, so that its id stays its own
        self.readers: dict[str, list[str | None]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for value in (*args, *kwargs.values()):
            if id(value) in self.outputs:
                layer = self.layers.get(id(_bias(args, kwargs))) if func is F.linear else None
                self.readers.setdefault(self.outputs[id(value)][0], []).append(layer)
        out = func(*args, **kwargs)
        if func is F.layer_norm:
            weight = args[2] if len(args) > 2 else kwargs.get("weight")
            if (name := self.norms.get(id(weight))) is not None:
                self.outputs[id(out)] = name, out
        return out

    def pairs(self) -> dict[str, str]:
        return {
            readers[0]: norm for norm, readers in self.readers.items() if len(readers) == 1 and readers[0] is not None
        }


def _bias(args: Any, kwargs: Any) -> Any:
    return args[2] if len(args) > 2 else kwargs.get("bias")


def _tuple(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)
