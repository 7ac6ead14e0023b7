"""What INT8 means here, exactly: the definition that every graph, runtime and kernel is tested against.

An integer layer takes a float input x (..., K) and gives a float output y (..., N):

    q   = clamp(round_half_even(x / input_scale) + zero_point, low, high)
    acc = sum over k of (q - zero_point) * weight                 (integers; 32 bits hold every sum)
    y   = float(acc) * (input_scale * weight_scale[n]) + bias[n]  (float32)

which is ONNX's QuantizeLinear and DequantizeLinear around a product. A convolution over time is the same product over
its taps side by side (`models.interception`). Everything between the layers stays in float32.

Activations may have 16 bits instead of 8 (w8a16), by layer: symmetric, zero_point 0, -32768..32767. Their sums stay in
32 bits because the magnitudes of an output channel's weights add up to no more than 65535 (65535 x 32768 < 2^31), as
they do with K <= 516 whatever the weights are; a channel that exceeds this has its weights made coarser
(`IntegerLayer.widened`). The native engine refuses weights beyond it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pstmo_edge.calib.settings import Activations
from pstmo_edge.models.interception import intercepted, layer_biases

_FLOAT32_INTEGERS = 2**24  # float32 holds every integer up to here
_LEAST_PIECE = 32  # of a product that is split; below it double precision is faster
_INT16 = (-(2**15), 2**15 - 1)
_HEADROOM = 2.0  # of a 16-bit grid above the inputs seen
_WORD_WEIGHTS = 2**16 - 1  # what an output channel's weights may add up to with 16-bit inputs


class Layer(Protocol):
    """What computes one layer in place of the model: gets rows (..., K), the weights (N, K) and the bias (N,)."""

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The outputs (..., N)."""
        ...


@dataclass(frozen=True)
class Grid:
    """The integers that an activation becomes: `scale` apart, `zero_point` for 0, from `low` to `high`."""

    scale: float
    zero_point: int
    low: int
    high: int

    def quantize(self, x: Tensor) -> Tensor:
        """Float values to integers (held as float32), ties to even, saturated."""
        return self.centred(x) + self.zero_point

    def centred(self, x: Tensor) -> Tensor:
        """The same less the zero point."""
        # A tensor: torch multiplies by the reciprocal of a plain number, which rounds differently.
        scaled = x.detach() / torch.tensor(self.scale)
        return scaled.round_().clamp_(self.low - self.zero_point, self.high - self.zero_point)

    def dequantize(self, q: Tensor) -> Tensor:
        """Integers to the values they stand for."""
        return (q - self.zero_point) * self.scale


def grid_of_range(low: float, high: float, activations: Activations) -> Grid:
    """The grid that spans the values `low` to `high`, widened so that it holds 0 exactly.

    The scale is a float32, as every engine stores it. A range without width gets a scale of 1.
    """
    first, last = activations.limits
    low, high = min(low, 0.0), max(high, 0.0)
    if activations.symmetric:
        return Grid(_float32(max(-low, high) / last) or 1.0, 0, first, last)
    scale = _float32((high - low) / last) or 1.0
    return Grid(scale, min(max(round(-low / scale), 0), last), first, last)


@dataclass(frozen=True)
class IntegerLayer:
    """One layer with integer weights (N, K) int8, their scales (N,), the grid of its input, and its bias (N,).

    Without a `grid` every token (row) gets its own at run time, as `activations` say. `saturating_pairs` emulates a CPU
    whose multiply-add of two unsigned by two signed bytes saturates at 16 bits (VPMADDUBSW): what an engine for
    another CPU would compute there. It needs unsigned inputs. `reach` is the largest absolute input that calibration
    saw.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor
    activations: Activations
    grid: Grid | None
    saturating_pairs: bool = False
    reach: float = 0.0

    def __post_init__(self) -> None:
        if self.saturating_pairs and self.activations.symmetric:
            raise ValueError("pair sums are of unsigned by signed bytes: they have no symmetric activations")
        worst = self.weight.abs().sum(1, dtype=torch.int64).max().item() * self.largest_input
        assert worst < 2**self.accumulator_bits / 2, f"a sum may reach {worst}, beyond {self.accumulator_bits} bits"

    @property
    def largest_input(self) -> int:
        """The largest absolute value of an input integer less its zero point."""
        low, high = self.activations.limits
        return high if self.grid is None else max(high - self.grid.zero_point, self.grid.zero_point - low)

    @property
    def accumulator_bits(self) -> int:
        """What a sum needs: 32 bits; affine 16-bit activations may exceed them and are added in 64."""
        return 64 if self.activations.bits == 16 and not self.activations.symmetric else 32

    def widened(self) -> IntegerLayer:
        """The same weights with 16-bit activations, symmetric: their steps are a hundred times finer or more.

        The range is twice what calibration saw; with so many steps nothing need be clipped. Channels whose sums could
        leave 32 bits get coarser weights: none of a trained model's do.
        """
        activations = Activations(16, symmetric=True)
        grid = grid_of_range(-_HEADROOM * self.reach, _HEADROOM * self.reach, activations)
        weight, scale = _within(_WORD_WEIGHTS, self.weight, self.weight_scale)
        return replace(
            self, weight=weight, weight_scale=scale, activations=activations, grid=grid, saturating_pairs=False
        )

    def dequantized(self) -> Tensor:
        """The weights (N, K) that the integers stand for."""
        return self.weight.float() * self.weight_scale[:, None]

    def __call__(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Rows (..., K) to (..., N); what the float layer would have used is ignored."""
        if self.grid is None:
            scale, offset = _grid_by_token(x, self.activations)
            low, high = self.activations.limits
            centred = torch.clamp(torch.round(x / scale), low - offset, high - offset)
        else:
            scale, offset = torch.tensor(self.grid.scale), self.grid.zero_point
            centred = self.grid.centred(x)
        acc = self._pair_sums(centred + offset, offset) if self.saturating_pairs else self._sums(centred)
        return acc.mul_(scale * self.weight_scale).add_(self.bias)

    @cached_property
    def _factors(self) -> tuple[Tensor, int]:
        """The weights as floats, and how many products of theirs float32 adds exactly in whatever order."""
        largest = max(1, int(self.weight.abs().max())) * self.largest_input
        return self.weight.float(), _FLOAT32_INTEGERS // largest

    def _sums(self, centred: Tensor) -> Tensor:
        """Exact integer sums (..., N), rounded to float32 once."""
        weight, exact = self._factors
        if centred.shape[-1] <= exact:
            return F.linear(centred, weight)
        if exact < _LEAST_PIECE:
            return F.linear(centred.double(), weight.double()).float()
        pieces = zip(centred.split(exact, -1), weight.split(exact, -1), strict=True)
        return sum((F.linear(x, w).double() for x, w in pieces), torch.zeros(1, dtype=torch.float64)).float()

    def _pair_sums(self, q: Tensor, offset: int | Tensor) -> Tensor:
        """As VPMADDUBSW adds: neighbours along K in saturating 16 bits, then in 32; the zero point goes last."""
        weight = self.weight.double()
        if weight.shape[1] % 2:
            weight, q = F.pad(weight, (0, 1)), F.pad(q, (0, 1))
        x = q.double().unflatten(-1, (-1, 2))
        pairs = weight.unflatten(-1, (-1, 2))
        total = torch.zeros(*q.shape[:-1], len(weight), dtype=torch.float64)
        for number in range(pairs.shape[1]):
            total += (x[..., number, :] @ pairs[:, number].T).clamp(*_INT16)
        return (total - offset * weight.sum(1)).float()

    def saturated(self, x: Tensor) -> int:
        """How many 16-bit pair sums of these inputs (..., K) leave the range of 16 bits: 0 is safe on every CPU."""
        assert self.grid is not None
        q = self.grid.quantize(x).flatten(0, -2)
        weight = self.weight.float()
        if weight.shape[1] % 2:
            weight, q = F.pad(weight, (0, 1)), F.pad(q, (0, 1))
        count = 0
        for first, second, w in zip(q[:, ::2].T, q[:, 1::2].T, weight.unflatten(-1, (-1, 2)).unbind(1), strict=True):
            sums = first[:, None] * w[:, 0] + second[:, None] * w[:, 1]
            count += int(((sums < _INT16[0]) | (sums > _INT16[1])).sum())
        return count


def _within(limit: int, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Integer weights (N, K) whose magnitudes add up to `limit` at most in every row, and their scales (N,)."""
    sums = weight.abs().sum(1, dtype=torch.int64)
    # Rounding to the nearest adds half a step for each weight at most.
    shrunk = torch.where(sums > limit, (limit - weight.shape[1] / 2) / sums, 1.0)
    return (weight.float() * shrunk[:, None]).round().to(torch.int8), scale / shrunk


def _grid_by_token(x: Tensor, activations: Activations) -> tuple[Tensor, Tensor]:
    """Scale and zero point (..., 1) of every row, measured on the row."""
    first, last = activations.limits
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    scale = (torch.maximum(-low, high) if activations.symmetric else high - low) / last
    scale = torch.where(scale == 0, 1.0, scale)
    return scale, torch.zeros_like(scale) if activations.symmetric else torch.round(-low / scale).clamp(first, last)


class EmulatedModel(nn.Module):
    """A fused model of which some layers are computed by others: `layers` by name; the rest stays in float.

    It takes and returns what the model does. `layers` may be any `Layer`: integer ones, or those of other formats.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, Layer]) -> None:
        super().__init__()
        if unknown := sorted(set(layers) - set(layer_biases(model))):
            raise KeyError(f"the model has no layers {', '.join(unknown)}")
        self.model = model
        self.layers = dict(layers)

    @property
    def lifter(self) -> Any:
        """See `models.zoo.Lifter`."""
        return self.model.lifter

    @property
    def config(self) -> Any:
        """The architecture's settings."""
        return self.model.config

    def forward(self, keypoints: Tensor) -> Tensor:
        """(B, T, 17, C) to (B, 17, 3)."""
        with intercepted(self.model, lambda name, *operands: self.layers[name](*operands), self.layers):
            out: Tensor = self.model(keypoints)
        return out

    def compute(self, name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """One layer's outputs (..., N) from its rows (..., K), in whatever format it has."""
        layer = self.layers.get(name)
        return F.linear(x, weight, bias) if layer is None else layer(x, weight, bias)

    def with_layers(self, names: Iterable[str]) -> EmulatedModel:
        """The same with only these of its layers, the others in float."""
        return EmulatedModel(self.model, {name: self.layers[name] for name in names})

    def widened(self, names: Iterable[str] | None = None) -> EmulatedModel:
        """The same with 16-bit activations in these of its integer layers, or in all: see `IntegerLayer.widened`."""
        chosen = set(self.layers if names is None else names)
        layers = {
            name: layer.widened() if name in chosen and isinstance(layer, IntegerLayer) else layer
            for name, layer in self.layers.items()
        }
        return EmulatedModel(self.model, layers)

    def saturating(self) -> EmulatedModel:
        """The same on a CPU whose pair sums saturate at 16 bits: see `IntegerLayer`."""
        layers = {
            name: replace(layer, saturating_pairs=True) if isinstance(layer, IntegerLayer) else layer
            for name, layer in self.layers.items()
        }
        return EmulatedModel(self.model, layers)

    def saturated_pairs(self, keypoints: Tensor) -> dict[str, int]:
        """How many pair sums of every integer layer leave 16 bits on these windows (B, T, 17, C)."""
        found: dict[str, int] = {}

        def count(name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            layer = self.layers.get(name)
            if isinstance(layer, IntegerLayer):
                found[name] = found.get(name, 0) + layer.saturated(x)
            return self.compute(name, x, weight, bias)

        with torch.inference_mode(), intercepted(self.model, count):
            self.model(keypoints)
        return found


def boundaries(model: EmulatedModel, keypoints: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """The inputs (..., K) and outputs (..., N) of every weighted layer on these windows, to compare graphs by."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def record(name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out = model.compute(name, x, weight, bias)
        found[name] = (x, out)
        return out

    with torch.inference_mode(), intercepted(model.model, record):
        model.model(keypoints)
    return found


def fake_quantized(x: Tensor, scale: Tensor | float, zero_point: Tensor | int, low: int, high: int) -> Tensor:
    """Values on the grid, with the gradient of a straight line inside it and none outside (straight-through).

    What training sees of an integer layer: the same values as `Grid`, in float.
    """
    clamped = (x / scale).clamp(low - zero_point, high - zero_point)
    return (clamped + (clamped.round() - clamped).detach()) * scale


def copied(model: nn.Module) -> nn.Module:
    """A copy whose weights may be changed."""
    return copy.deepcopy(model).requires_grad_(False).eval()


def _float32(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))
