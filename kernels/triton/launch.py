"""Runs the kernels: shapes checked, outputs allocated, tiles chosen, programs counted.

`out` is written instead of a new tensor; `tiles` are those of `tuning` unless given. Where a kernel does not fit in a
type (some in float32), plain torch computes its op.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from pstmo_edge.kernels.triton import device, reference, tuning
from pstmo_edge.kernels.triton.reference import NORM_EPSILON, Product
from pstmo_edge.kernels.triton.tuning import Tiles

_MOST_ELEMENTS = 2**31 - 1  # offsets inside a tensor are 32-bit


def spatial_encoder(
    keypoints: Tensor, products: Sequence[Product], position: Tensor, dtype: torch.dtype,
    out: Tensor | None = None, tiles: Tiles | None = None,
) -> Tensor:  # fmt: skip
    """See `reference.spatial_encoder`."""
    first, second, third, last = products
    batch, frames, inputs = keypoints.shape
    hidden, channels = len(first.weight), len(last.weight)
    if first.grid is not None:
        raise ValueError("the first product of the spatial encoder has no quantized form")
    out = _output(out, (batch, frames, channels), dtype, keypoints)
    tiles = tiles or tuning.tiles("spatial_encoder", out.device, _narrowest(products), batch * frames)
    if tiles is None:
        return out.copy_(reference.spatial_encoder(keypoints, products, position, dtype))
    rows = _checked(batch * frames, inputs, channels)
    device.spatial_encoder[(triton.cdiv(rows, tiles.block_m),)](
        keypoints.contiguous(), first.weight, first.bias,
        *_flat(second), *_flat(third), *_flat(last), position, out, rows, frames,
        INPUTS=inputs, HIDDEN=hidden, CHANNELS=channels, BLOCK_M=tiles.block_m, CHUNK=tiles.chunk,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return out


def norm_linear(
    x: Tensor, norm: Tensor | None, product: Product, dtype: torch.dtype,
    out: Tensor | None = None, tiles: Tiles | None = None,
) -> Tensor:  # fmt: skip
    """See `reference.norm_linear`."""
    columns, channels = product.weight.shape
    rows = _checked(x.numel() // channels, channels, columns)
    out = _output(out, (*x.shape[:-1], columns), dtype, x)
    name = "head" if norm is None else "norm_linear"
    tiles = tiles or tuning.tiles(name, out.device, product.weight.dtype, rows)
    if tiles is None:
        return out.copy_(reference.norm_linear(x, norm, product, dtype))
    span = min(tiles.span, triton.cdiv(columns, tiles.chunk) * tiles.chunk)
    device.norm_linear[(triton.cdiv(rows, tiles.block_m), triton.cdiv(columns, span))](
        x.contiguous(), norm, *_flat(product), out, rows, NORM_EPSILON,
        CHANNELS=channels, COLUMNS=columns, NORM=norm is not None, SPAN=span, BLOCK_M=tiles.block_m, CHUNK=tiles.chunk,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return out


def attention(qkv: Tensor, heads: int, out: Tensor | None = None, tiles: Tiles | None = None) -> Tensor:
    """See `reference.attention`."""
    windows, tokens, wide = qkv.shape
    channels = wide // 3
    _checked(windows * tokens, wide)
    out = _output(out, (windows, tokens, channels), qkv.dtype, qkv)
    tiles = tiles or tuning.tiles("attention", out.device, qkv.dtype, windows * tokens)
    if tiles is None:
        return out.copy_(reference.attention(qkv, heads))
    pack = max(1, tiles.block_m // tokens)  # windows that one program takes whole
    blocks = 1 if pack > 1 else triton.cdiv(tokens, tiles.block_m)
    device.attention[(triton.cdiv(windows, pack), blocks, heads)](
        qkv.contiguous(), out, windows, tokens,
        HEADS=heads, WIDTH=channels // heads, PACKED=pack > 1, BLOCK_Q=tiles.block_m, BLOCK_K=tiles.chunk, PACK=pack,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return out


def feed_forward(
    x: Tensor, mixed: Tensor, norm: Tensor, products: Sequence[Product], position: Tensor | None, stride: int,
    out: Tensor | None = None, tiles: Tiles | None = None,
) -> Tensor:  # fmt: skip
    """See `reference.feed_forward`."""
    projection, wide, narrow = products
    batch, tokens, channels = x.shape
    hidden = len(wide.weight)
    taps = narrow.weight.shape[1] // hidden
    kept = -(-tokens // stride)
    rows = _checked(batch * tokens, channels) // tokens * kept
    out = _output(out, (batch, kept, channels), x.dtype, x)
    tiles = tiles or tuning.tiles(f"feed_forward_{taps}", out.device, _narrowest(products), rows)
    if tiles is None:
        return out.copy_(reference.feed_forward(x, mixed, norm, products, position, stride))
    device.feed_forward[(triton.cdiv(rows, tiles.block_m),)](
        x.contiguous(), mixed.contiguous(), *_flat(projection), norm, *_flat(wide), *_flat(narrow), position, out,
        rows, tokens, kept, stride, NORM_EPSILON,
        CHANNELS=channels, HIDDEN=hidden, TAPS=taps, BLOCK_M=tiles.block_m, CHUNK=tiles.chunk, CHUNK_0=tiles.chunk_0,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return out


def _flat(product: Product) -> tuple[Tensor, Tensor, Tensor | None]:
    return product.weight, product.bias, product.grid


def _narrowest(products: Sequence[Product]) -> torch.dtype:
    """The type that most of the work is done in."""
    return min((product.weight.dtype for product in products), key=lambda dtype: dtype.itemsize)


def _output(out: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, like: Tensor) -> Tensor:
    if out is None:
        return torch.empty(shape, dtype=dtype, device=like.device)
    assert (out.shape, out.dtype) == (shape, dtype), f"the output is {out.dtype} {tuple(out.shape)}"
    assert out.is_contiguous()
    return out


def _checked(rows: int, *widths: int) -> int:
    """The rows, if every tensor of so many can be addressed (ValueError)."""
    if rows * max(widths) > _MOST_ELEMENTS:
        raise ValueError(
            f"{rows} tokens of {max(widths)} values are more than 32-bit offsets reach: "
            f"lift at most {_MOST_ELEMENTS // max(widths)} tokens at once"
        )
    return rows
