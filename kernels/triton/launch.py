"""Runs the kernels: shapes checked, outputs allocated, tiles chosen, programs counted.

`out` is written instead of a new tensor; `tiles` are those of `tuning` unless given. Where a kernel does not fit in a
type (some in float32), plain torch computes its op. Each op's `..._call` says what would be launched and launches
nothing: plans for the engine without Python are made of the same calls (`plan`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from pstmo_edge.kernels.triton import device, reference, tuning
from pstmo_edge.kernels.triton.reference import NORM_EPSILON, Product
from pstmo_edge.kernels.triton.tuning import Tiles

MOST_ELEMENTS = 2**31 - 1  # offsets inside a tensor are 32-bit


@dataclass(frozen=True)
class Call:
    """One launch: a kernel, its arguments by name and in order, what is fixed when it is compiled, and its programs.

    `grid` holds (things, things of a program) for each of its axes.
    """

    kernel: str
    arguments: dict[str, Any]
    constants: dict[str, Any]
    grid: tuple[tuple[int, int], ...]
    tiles: Tiles

    def run(self) -> None:
        """Launch it."""
        kernel = getattr(device, self.kernel)
        kernel[tuple(triton.cdiv(count, each) for count, each in self.grid)](
            **self.arguments, **self.constants, num_warps=self.tiles.warps, num_stages=self.tiles.stages
        )


def spatial_encoder(
    keypoints: Tensor, products: Sequence[Product], position: Tensor, dtype: torch.dtype,
    out: Tensor | None = None, tiles: Tiles | None = None,
) -> Tensor:  # fmt: skip
    """See `reference.spatial_encoder`."""
    batch, frames, _ = keypoints.shape
    if products[0].grid is not None:
        raise ValueError("the first product of the spatial encoder has no quantized form")
    out = _output(out, (batch, frames, len(products[-1].weight)), dtype, keypoints)
    tiles = tiles or tuning.tiles("spatial_encoder", out.device, narrowest(products), batch * frames)
    if tiles is None:
        return out.copy_(reference.spatial_encoder(keypoints, products, position, dtype))
    spatial_encoder_call(keypoints.contiguous(), products, position, out, tiles).run()
    return out


def spatial_encoder_call(
    keypoints: Tensor, products: Sequence[Product], position: Tensor, out: Tensor, tiles: Tiles
) -> Call:
    """What `spatial_encoder` launches."""
    first, second, third, last = products
    batch, frames, inputs = keypoints.shape
    hidden, channels = len(first.weight), len(last.weight)
    rows = _checked(batch * frames, inputs, channels)
    arguments = {
        "x_ptr": keypoints, "w1_ptr": first.weight, "b1_ptr": first.bias,
        **_flat("2", second), **_flat("3", third), **_flat("4", last),
        "position_ptr": position, "out_ptr": out, "rows": rows, "frames": frames,
    }  # fmt: skip
    constants = {"INPUTS": inputs, "HIDDEN": hidden, "CHANNELS": channels}
    return _call("spatial_encoder", arguments, constants, ((rows, tiles.block_m),), tiles)


def norm_linear(
    x: Tensor, norm: Tensor | None, product: Product, dtype: torch.dtype,
    out: Tensor | None = None, tiles: Tiles | None = None,
) -> Tensor:  # fmt: skip
    """See `reference.norm_linear`."""
    columns, channels = product.weight.shape
    rows = x.numel() // channels
    out = _output(out, (*x.shape[:-1], columns), dtype, x)
    name = "head" if norm is None else "norm_linear"
    tiles = tiles or tuning.tiles(name, out.device, product.weight.dtype, rows)
    if tiles is None:
        return out.copy_(reference.norm_linear(x, norm, product, dtype))
    norm_linear_call(x.contiguous(), norm, product, out, tiles).run()
    return out


def norm_linear_call(x: Tensor, norm: Tensor | None, product: Product, out: Tensor, tiles: Tiles) -> Call:
    """What `norm_linear` launches."""
    columns, channels = product.weight.shape
    rows = _checked(x.numel() // channels, channels, columns)
    span = min(tiles.span, triton.cdiv(columns, tiles.chunk) * tiles.chunk)
    arguments = {
        "x_ptr": x, "norm_ptr": norm, **_flat("", product), "out_ptr": out, "rows": rows, "eps": NORM_EPSILON
    }  # fmt: skip
    constants = {"CHANNELS": channels, "COLUMNS": columns, "NORM": norm is not None, "SPAN": span}
    return _call("norm_linear", arguments, constants, ((rows, tiles.block_m), (columns, span)), tiles)


def attention(qkv: Tensor, heads: int, out: Tensor | None = None, tiles: Tiles | None = None) -> Tensor:
    """See `reference.attention`."""
    windows, tokens, wide = qkv.shape
    out = _output(out, (windows, tokens, wide // 3), qkv.dtype, qkv)
    tiles = tiles or tuning.tiles("attention", out.device, qkv.dtype, windows * tokens)
    if tiles is None:
        return out.copy_(reference.attention(qkv, heads))
    attention_call(qkv.contiguous(), heads, out, tiles).run()
    return out


def attention_call(qkv: Tensor, heads: int, out: Tensor, tiles: Tiles) -> Call:
    """What `attention` launches."""
    windows, tokens, wide = qkv.shape
    _checked(windows * tokens, wide)
    pack = max(1, tiles.block_m // tokens)  # windows that one program takes whole
    blocks = (1, 1) if pack > 1 else (tokens, tiles.block_m)
    arguments = {"qkv_ptr": qkv, "out_ptr": out, "windows": windows, "tokens": tokens}
    constants = {"HEADS": heads, "WIDTH": wide // 3 // heads, "PACKED": pack > 1, "PACK": pack}
    return _call("attention", arguments, constants, ((windows, pack), blocks, (heads, 1)), tiles)


def feed_forward(
    x: Tensor, mixed: Tensor, norm: Tensor, products: Sequence[Product], position: Tensor | None, stride: int,
    out: Tensor | None = None, tiles: Tiles | None = None,
) -> Tensor:  # fmt: skip
    """See `reference.feed_forward`."""
    batch, tokens, channels = x.shape
    taps = products[2].weight.shape[1] // len(products[1].weight)
    kept = -(-tokens // stride)
    out = _output(out, (batch, kept, channels), x.dtype, x)
    tiles = tiles or tuning.tiles(f"feed_forward_{taps}", out.device, narrowest(products), batch * kept)
    if tiles is None:
        return out.copy_(reference.feed_forward(x, mixed, norm, products, position, stride))
    feed_forward_call(x.contiguous(), mixed.contiguous(), norm, products, position, stride, out, tiles).run()
    return out


def feed_forward_call(
    x: Tensor, mixed: Tensor, norm: Tensor, products: Sequence[Product], position: Tensor | None, stride: int,
    out: Tensor, tiles: Tiles,
) -> Call:  # fmt: skip
    """What `feed_forward` launches."""
    projection, wide, narrow = products
    batch, tokens, channels = x.shape
    hidden, kept = len(wide.weight), -(-tokens // stride)
    rows = _checked(batch * tokens, channels) // tokens * kept
    arguments = {
        "x_ptr": x, "mixed_ptr": mixed, **_flat("0", projection), "norm_ptr": norm, **_flat("1", wide),
        **_flat("2", narrow), "position_ptr": position, "out_ptr": out,
        "rows": rows, "tokens": tokens, "kept": kept, "stride": stride, "eps": NORM_EPSILON,
    }  # fmt: skip
    constants = {"CHANNELS": channels, "HIDDEN": hidden, "TAPS": narrow.weight.shape[1] // hidden}
    return _call("feed_forward", arguments, constants, ((rows, tiles.block_m),), tiles)


def _call(
    kernel: str, arguments: dict[str, Any], constants: dict[str, Any], grid: tuple[tuple[int, int], ...], tiles: Tiles
) -> Call:
    return Call(kernel, arguments, tuning.constants(kernel, tiles) | constants, grid, tiles)


def _flat(name: str, product: Product) -> dict[str, Tensor | None]:
    return {f"w{name}_ptr": product.weight, f"b{name}_ptr": product.bias, f"g{name}_ptr": product.grid}


def narrowest(products: Sequence[Product]) -> torch.dtype:
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
    if rows * max(widths) > MOST_ELEMENTS:
        raise ValueError(
            f"{rows} tokens of {max(widths)} values are more than 32-bit offsets reach: "
            f"lift at most {MOST_ELEMENTS // max(widths)} tokens at once"
        )
    return rows
