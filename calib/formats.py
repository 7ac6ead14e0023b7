"""The formats beside INT8, each as an emulation of one layer: half precision, FP8, 16-bit activations, 4-bit weights.

What each means exactly is the docstring of its layer; `calib.format_graph` writes the same as an ONNX graph. Between
the layers everything stays in float32, as with INT8.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pstmo_edge.arrays import FloatArray
from pstmo_edge.calib.calibrate import calibrate
from pstmo_edge.calib.emulation import EmulatedModel, Layer, copied
from pstmo_edge.calib.observers import Progress, Statistics, observe, silent
from pstmo_edge.calib.rounding import compensated, gptq
from pstmo_edge.calib.settings import Rounding, Settings, Weights
from pstmo_edge.errors import UsageError

if TYPE_CHECKING:  # a schema's library, which a machine that only measures need not have
    from pstmo_edge.manifest import Precision

E4M3_MAX = 448.0  # the largest value of FP8 E4M3 (OCP 8-bit floating point specification, section 5)
GROUP = 32  # weights of a row that share a scale in 4 bits: a block size that ONNX Runtime has a kernel for
INT4_LIMIT = 7
HALF_TYPES: dict[str, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}
# To the nearest, the last layer's weights alone would cost 2 mm of P-STMO-S with 27 frames; with GPTQ no layer costs.
_W8 = Settings(Weights(8, rounding=Rounding.GPTQ))


@dataclass(frozen=True)
class HalfLayer:
    """Weights (N, K) rounded to `dtype` (fp16 or bf16), ties to even.

    With `compute` the input is rounded too, and so is the product before its float32 bias is added, as on a GPU that
    multiplies in half precision and adds in float32. Without it the product is float32: only the file gets smaller.
    """

    dtype: torch.dtype
    compute: bool = False

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Rows (..., K) to (..., N)."""
        if not self.compute:
            return F.linear(x, weight.to(self.dtype).float(), bias)
        product = F.linear(x.to(self.dtype).float(), weight.to(self.dtype).float())
        return product.to(self.dtype).float() + bias


def round_e4m3(x: Tensor) -> Tensor:
    """The nearest values of FP8 E4M3, ties to even mantissas; what is beyond 448 saturates, NaN stays NaN.

    ONNX's QuantizeLinear and TensorRT's saturate likewise. A bare conversion would make NaN of what is beyond 464.
    """
    return x.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).float()


@dataclass(frozen=True)
class Fp8Layer:
    """One layer in FP8 E4M3: `weight` (N, K) holds values of that format, with a scale (N,) for every output channel.

    y = (sum over k of round_e4m3(x / input_scale) * weight) * (input_scale * weight_scale[n]) + bias[n], the sum in
    float32.
    """

    weight: Tensor
    weight_scale: Tensor
    input_scale: float
    bias: Tensor

    @classmethod
    def of(cls, seen: Statistics) -> Fp8Layer:
        """Scales that put the largest value seen on 448; weights rounded by GPTQ, which needs the mean products."""
        assert seen.products is not None
        largest = float(torch.maximum(seen.high, -seen.low).max())
        scale = _or_one(seen.weight.abs().amax(1) / E4M3_MAX)
        input_scale = float(_or_one(torch.tensor(largest / E4M3_MAX)))
        weight = compensated(seen.weight, scale, seen.products, round_e4m3)
        return cls(weight, scale, input_scale, seen.bias)

    def __call__(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Rows (..., K) to (..., N); what the float layer would have used is ignored."""
        q = round_e4m3(x / torch.tensor(self.input_scale))
        return F.linear(q, self.weight) * (self.input_scale * self.weight_scale) + self.bias


@dataclass(frozen=True)
class Int4Layer:
    """Weights (N, K) in 4 bits, -7..7, with a scale (N, ceil(K / group)) for every `group` of a row.

    Inputs stay in float32.
    """

    weight: Tensor
    weight_scale: Tensor
    group: int
    bias: Tensor

    @classmethod
    def of(cls, seen: Statistics, rounding: Rounding = Rounding.GPTQ, group: int = GROUP) -> Int4Layer:
        """Min-max scales by group; GPTQ needs the mean products of the inputs."""
        scale = group_scales(seen.weight, group)
        by_weight = scale.repeat_interleave(group, 1)[:, : seen.weight.shape[1]]
        if rounding is Rounding.GPTQ:
            assert seen.products is not None
            integers = gptq(seen.weight, by_weight, INT4_LIMIT, seen.products)
        else:
            integers = torch.round(seen.weight / by_weight).clamp(-INT4_LIMIT, INT4_LIMIT).to(torch.int8)
        return cls(integers, scale, group, seen.bias)

    def dequantized(self) -> Tensor:
        """The weights (N, K) that the integers stand for."""
        return self.weight.float() * self.weight_scale.repeat_interleave(self.group, 1)[:, : self.weight.shape[1]]

    def __call__(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Rows (..., K) to (..., N); what the float layer would have used is ignored."""
        return F.linear(x, self.dequantized(), self.bias)


def group_scales(weight: Tensor, group: int) -> Tensor:
    """The 4-bit scale (N, ceil(K / group)) of every group of weights (N, K)."""
    padded = F.pad(weight, (0, -weight.shape[1] % group))
    return _or_one(padded.unflatten(1, (-1, group)).abs().amax(-1) / INT4_LIMIT)


def emulated(
    model: nn.Module,
    precision: Precision,
    windows: FloatArray,
    keep_float: Collection[str] = (),
    *,
    compute: bool = False,
    tell: Progress = silent,
) -> EmulatedModel:
    """A fused model in one of the formats, all layers but `keep_float`.

    `windows` (N, T, 17, C) calibrate the scales of inputs and GPTQ; fp16 and bf16 need them for the layers' names
    alone, so one will do. `compute` is that of `HalfLayer`. Raises UsageError where weights leave the range of fp16.
    """
    if precision == "w8a16":
        return calibrate(model, windows, _W8.leaving(*keep_float), tell).widened()
    seen = observe(model, windows, products=precision not in HALF_TYPES, tell=tell)
    chosen = {name: statistics for name, statistics in seen.items() if name not in set(keep_float)}
    return EmulatedModel(copied(model), _layers(chosen, precision, compute))


def _layers(seen: Mapping[str, Statistics], precision: Precision, compute: bool) -> dict[str, Layer]:
    if precision in HALF_TYPES:
        _check_range(seen, precision)
        return dict.fromkeys(seen, HalfLayer(HALF_TYPES[precision], compute))
    if precision == "fp8":
        return {name: Fp8Layer.of(statistics) for name, statistics in seen.items()}
    assert precision == "w4", precision
    return {name: Int4Layer.of(statistics) for name, statistics in seen.items()}


def _check_range(seen: Mapping[str, Statistics], precision: Precision) -> None:
    """Refuse weights that would become infinite."""
    limit = torch.finfo(HALF_TYPES[precision]).max
    for name, statistics in seen.items():
        largest = float(statistics.weight.abs().max())
        if largest > limit:
            raise UsageError(f"{name} has a weight of {largest:.3g}, beyond {precision}'s {limit:.5g}: choose bf16")


def _or_one(scale: Tensor) -> Tensor:
    """Scales, 1 where there is nothing to scale."""
    return torch.where(scale == 0, 1.0, scale)
