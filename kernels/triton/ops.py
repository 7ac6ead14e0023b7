"""The ops as torch sees them: `torch.ops.pstmo_edge.*`, on a GPU the kernels, on a CPU their references.

(Or on a CPU the kernels through triton's interpreter: `interpreted`.)

Each has a shape function too, so a model made of them goes through torch.compile and torch.export as a whole. A
product is spread over three lists, since a schema knows no classes: see `reference.Product`.
"""

# No `from __future__ import annotations`: torch reads the schemas off these annotations.
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor

from pstmo_edge.kernels.triton import reference
from pstmo_edge.kernels.triton.reference import Product

_on_cpu: ModuleType = reference


@contextmanager
def interpreted() -> Iterator[None]:
    """While the body runs, the ops on a CPU run the kernels: slowly, and exactly as they are written.

    Raises RuntimeError where triton was loaded without TRITON_INTERPRET=1.
    """
    global _on_cpu
    from pstmo_edge.kernels.triton import device, launch

    if not device.INTERPRETED.value:
        raise RuntimeError("set TRITON_INTERPRET=1 before the kernels are loaded: they were loaded for a GPU")
    before, _on_cpu = _on_cpu, launch
    try:
        yield
    finally:
        _on_cpu = before


def _products(weights: Sequence[Tensor], biases: Sequence[Tensor], grids: Sequence[Tensor | None]) -> list[Product]:
    return [Product(*parts) for parts in zip(weights, biases, grids, strict=True)]


@torch.library.custom_op("pstmo_edge::spatial_encoder", mutates_args=(), device_types="cuda")
def spatial_encoder(
    keypoints: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], grids: Sequence[Tensor | None],
    position: Tensor, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """Keypoints (B, T, I) to tokens (B, T, C); see `reference.spatial_encoder`."""
    from pstmo_edge.kernels.triton import launch

    return launch.spatial_encoder(keypoints, _products(weights, biases, grids), position, dtype)


@spatial_encoder.register_kernel("cpu")
def _(keypoints, weights, biases, grids, position, dtype):  # type: ignore[no-untyped-def]
    return _on_cpu.spatial_encoder(keypoints, _products(weights, biases, grids), position, dtype)


@spatial_encoder.register_fake
def _(keypoints, weights, biases, grids, position, dtype):  # type: ignore[no-untyped-def]
    return keypoints.new_empty((*keypoints.shape[:2], weights[-1].shape[0]), dtype=dtype)


@torch.library.custom_op("pstmo_edge::norm_linear", mutates_args=(), device_types="cuda")
def norm_linear(
    x: Tensor, norm: Tensor | None, weight: Tensor, bias: Tensor, grid: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Tokens (..., C) to (..., N); see `reference.norm_linear`."""
    from pstmo_edge.kernels.triton import launch

    return launch.norm_linear(x, norm, Product(weight, bias, grid), dtype)


@norm_linear.register_kernel("cpu")
def _(x, norm, weight, bias, grid, dtype):  # type: ignore[no-untyped-def]
    return _on_cpu.norm_linear(x, norm, Product(weight, bias, grid), dtype)


@norm_linear.register_fake
def _(x, norm, weight, bias, grid, dtype):  # type: ignore[no-untyped-def]
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=dtype)


@torch.library.custom_op("pstmo_edge::attention", mutates_args=(), device_types="cuda")
def attention(qkv: Tensor, heads: int) -> Tensor:
    """Queries, keys and values (B, T, 3 C) to (B, T, C); see `reference.attention`."""
    from pstmo_edge.kernels.triton import launch

    return launch.attention(qkv, heads)


@attention.register_kernel("cpu")
def _(qkv, heads):  # type: ignore[no-untyped-def]
    return _on_cpu.attention(qkv, heads)


@attention.register_fake
def _(qkv, heads):  # type: ignore[no-untyped-def]
    return qkv.new_empty((*qkv.shape[:2], qkv.shape[2] // 3))


@torch.library.custom_op("pstmo_edge::feed_forward", mutates_args=(), device_types="cuda")
def feed_forward(
    x: Tensor, mixed: Tensor, norm: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor],
    grids: Sequence[Tensor | None], position: Tensor | None, stride: int,
) -> Tensor:  # fmt: skip
    """Tokens and what they gathered (B, T, C) to (B, ceil(T / stride), C); see `reference.feed_forward`."""
    from pstmo_edge.kernels.triton import launch

    return launch.feed_forward(x, mixed, norm, _products(weights, biases, grids), position, stride)


@feed_forward.register_kernel("cpu")
def _(x, mixed, norm, weights, biases, grids, position, stride):  # type: ignore[no-untyped-def]
    return _on_cpu.feed_forward(x, mixed, norm, _products(weights, biases, grids), position, stride)


@feed_forward.register_fake
def _(x, mixed, norm, weights, biases, grids, position, stride):  # type: ignore[no-untyped-def]
    return x.new_empty((x.shape[0], (x.shape[1] - 1) // stride + 1, x.shape[2]))
