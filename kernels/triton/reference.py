"""What the ops compute, in plain torch: the specification, the CPU's implementation, and the baseline of every test.

Float ops work in the type of their tokens, so the same function in float64 is the truth that errors are measured from,
and in bfloat16 the plain code that a kernel must not be worse than. Where a product is quantized, what lies between
the products is float32; where float32 tokens meet a product in bfloat16 or float16, it rounds them as autocast does.
Source of the numerics: Shan et al., ECCV 2022, sections 3.1 to 3.3, as `models.fused` has them: BatchNorms folded, the
published LayerNorm as the stock one with its gain scaled and 1e-12 under the root.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

GRID_HEADER = 4  # floats before the multipliers: scale and zero point of the input, and two zeros for alignment
E4M3_MAX = 448.0
NORM_EPSILON = 1e-12
QUANTIZED = (torch.int8, torch.float8_e4m3fn)


@dataclass(frozen=True)
class Product:
    """One matrix product: `weight` (N, K), float32 `bias` (N,) and, where the weights are int8 or fp8, a `grid`.

    The grid is float32 (4 + 2 N,): scale and zero point (0 .. 255) of the input, two zeros, N multipliers (scale of the
    input times that of the output channel), and N 32-bit integers, as bits: what the int8 sums hold too much, because
    their inputs are stored less 128. See `calib.emulation` for what the integers mean.
    """

    weight: Tensor
    bias: Tensor
    grid: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse what no kernel reads: quantized weights without a grid, or a grid without them (ValueError)."""
        if (self.grid is not None) != (self.weight.dtype in QUANTIZED):
            raise ValueError(f"weights of {self.weight.dtype} {'have no' if self.grid is not None else 'need a'} grid")
        if self.grid is not None and self.grid.shape != (GRID_HEADER + 2 * len(self.weight),):
            raise ValueError(f"a grid of {len(self.weight)} outputs is not {tuple(self.grid.shape)}")


def int8_product(
    weight: Tensor, weight_scale: Tensor, bias: Tensor, input_scale: float, input_zero_point: int
) -> Product:
    """A product with int8 weights (N, K), their scales (N,) and unsigned 8-bit inputs on one grid."""
    surplus = (input_zero_point - 128) * weight.sum(1, dtype=torch.int64)
    offsets = surplus.to(torch.int32).view(torch.float32)
    return Product(weight, bias, _grid(input_scale, input_zero_point, weight_scale, offsets))


def fp8_product(weight: Tensor, weight_scale: Tensor, bias: Tensor, input_scale: float) -> Product:
    """A product with weights (N, K) that are values of E4M3, their scales (N,), and inputs on one scale."""
    zeros = torch.zeros_like(weight_scale)
    return Product(weight.to(torch.float8_e4m3fn), bias, _grid(input_scale, 0, weight_scale, zeros))


def _grid(input_scale: float, zero: int, weight_scale: Tensor, offsets: Tensor) -> Tensor:
    scale = torch.tensor(input_scale, dtype=torch.float32)
    header = torch.tensor([input_scale, zero, 0, 0], dtype=torch.float32)
    return torch.cat([header, scale * weight_scale.float(), offsets])


def quantized(x: Tensor, product: Product) -> Tensor:
    """Inputs (..., K) as float64: int8 codes less their zero point, or values of E4M3."""
    assert product.grid is not None
    scale, zero = product.grid[0].to(x.dtype), product.grid[1].to(x.dtype)
    if product.weight.dtype == torch.int8:
        return torch.clamp(torch.round(x / scale), -zero, 255 - zero).double()
    return (x / scale).clamp(-E4M3_MAX, E4M3_MAX).float().to(torch.float8_e4m3fn).double()


def multiplied(x: Tensor, product: Product) -> Tensor:
    """Rows (..., K) to (..., N), in the type of `x`."""
    if product.grid is None:
        dtype = product.weight.dtype if x.dtype == torch.float32 else x.dtype
        return F.linear(x.to(dtype), product.weight.to(dtype), product.bias.to(dtype)).to(x.dtype)
    count = len(product.weight)
    sums = F.linear(quantized(x, product), product.weight.double()).to(x.dtype)  # exact before it is rounded once
    return sums * product.grid[GRID_HEADER : GRID_HEADER + count].to(x.dtype) + product.bias.to(x.dtype)


def _working(dtype: torch.dtype, products: Sequence[Product]) -> torch.dtype:
    narrow = dtype in (torch.float16, torch.bfloat16)
    return torch.float32 if narrow and any(product.grid is not None for product in products) else dtype


def normed(x: Tensor, norm: Tensor) -> Tensor:
    """The stock LayerNorm of rows (..., C); `norm` (2, C) holds its gain and its shift."""
    return F.layer_norm(x, x.shape[-1:], norm[0].to(x.dtype), norm[1].to(x.dtype), NORM_EPSILON)


def spatial_encoder(keypoints: Tensor, products: Sequence[Product], position: Tensor, dtype: torch.dtype) -> Tensor:
    """The per-frame MLP and the position table: keypoints (B, T, I) to tokens (B, T, C) of `dtype`.

    `products` are I to H, the residual block's two, and H to C; `position` is (T, C). The first product is in the
    type of its weights: coordinates lose two pixels of an image in bfloat16.
    """
    first, second, third, last = products
    working = _working(dtype, products)
    x = multiplied(keypoints.to(first.weight.dtype), first)
    x = F.leaky_relu(x, 0.2).to(working)
    y = F.leaky_relu(multiplied(x, second), 0.2)
    x = x + F.leaky_relu(multiplied(y, third), 0.2)
    return (multiplied(x, last) + position.to(working)).to(dtype)


def norm_linear(x: Tensor, norm: Tensor | None, product: Product, dtype: torch.dtype) -> Tensor:
    """A product (..., C) to (..., N) behind a LayerNorm, or behind none: queries, keys and values; the head."""
    working = _working(x.dtype, [product])
    if product.weight.dtype == torch.float32 and x.dtype != torch.float64:
        working = torch.float32
    x = x.to(working)
    return multiplied(x if norm is None else normed(x, norm), product).to(dtype)


def attention(qkv: Tensor, heads: int) -> Tensor:
    """Queries (already scaled), keys and values (B, T, 3 C) to what the queries gather, (B, T, C)."""
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    scores = torch.softmax(query @ key.transpose(-1, -2), dim=-1)  # [B, H, T, T]
    return (scores @ value).transpose(1, 2).flatten(-2).contiguous()


def feed_forward(
    x: Tensor, mixed: Tensor, norm: Tensor, products: Sequence[Product], position: Tensor | None, stride: int
) -> Tensor:
    """The rest of a transformer layer: what attention gathered, projected and added; then norm, ReLU network, added.

    x and mixed (B, T, C), which may differ in type; `products` are C to C, C to H, and H to C or, of a strided layer,
    3 H to C: a convolution over three tokens with padding 1 that keeps every `stride`-th, and so does the residual.
    `position` (>= T', C) is what the next layer adds first. To (B, T', C) in the type of x, T' = ceil(T / stride).
    """
    projection, wide, narrow = products
    dtype, working = x.dtype, _working(x.dtype, products)
    x = x.to(working) + multiplied(mixed.to(working), projection)
    hidden = F.relu(multiplied(normed(x, norm), wide))
    if narrow.weight.shape[1] != wide.weight.shape[0]:
        hidden = F.pad(hidden, (0, 0, 1, 1)).unfold(1, 3, stride).transpose(-1, -2).flatten(-2)  # [B, T', 3 H]
    out = x[:, ::stride] + multiplied(hidden, narrow)
    if position is not None:
        out = out + position[: out.shape[1]].to(working)
    return out.to(dtype)
