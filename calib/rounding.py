"""Weights to integers: the scale of every channel, and the rounding of every weight."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pstmo_edge.calib.settings import Granularity, MeanSquaredError, Weights

_DAMPING = 0.01  # of the mean of the Hessian's diagonal (Frantar et al., section 3.3)
_BLOCK = 64
_SHRINKINGS = torch.linspace(1.0, 0.6, 41)  # the ranges that are tried, as shares of the largest weight


def weight_scales(weight: Tensor, settings: Weights) -> Tensor:
    """The scale (N,) of every output channel of weights (N, K); one for all of them where they share it."""
    largest = weight.abs().amax(1)
    if settings.granularity is Granularity.PER_TENSOR:
        largest = largest.max().expand(len(weight))
    scale = torch.where(largest == 0, 1.0, largest / settings.limit)
    if isinstance(settings.observer, MeanSquaredError):
        scale = scale * _best_shares(weight, scale, settings)
    return scale.contiguous()


def _best_shares(weight: Tensor, scale: Tensor, settings: Weights) -> Tensor:
    """What share (N,) of its range every channel keeps for the least squared error of its weights."""
    errors = torch.stack([(nearest(weight, scale * s, settings.limit) * (scale * s)[:, None] - weight).square().sum(1)
                          for s in _SHRINKINGS])  # fmt: skip
    if settings.granularity is Granularity.PER_TENSOR:
        errors = errors.sum(1, keepdim=True).expand_as(errors)
    return _SHRINKINGS[errors.argmin(0)]


def nearest(weight: Tensor, scale: Tensor, limit: int) -> Tensor:
    """Every weight (N, K) to the nearest integer, ties to even: (N, K) int8."""
    return torch.round(weight / scale[:, None]).clamp(-limit, limit).to(torch.int8)


def gptq(weight: Tensor, scale: Tensor, limit: int, products: Tensor) -> Tensor:
    """Integers (N, K) int8, at most `limit` from 0, that move the outputs least: see `compensated`."""
    return compensated(weight, scale, products, lambda x: torch.round(x).clamp(-limit, limit)).to(torch.int8)


def compensated(weight: Tensor, scale: Tensor, products: Tensor, on_grid: Callable[[Tensor], Tensor]) -> Tensor:
    """Values (N, K) of a grid that move the outputs least, for inputs whose mean of x x^T is `products` (K, K).

    `on_grid` gives the grid's nearest values; `scale` is (N,), or (N, K) where not all weights of a row share one.
    Frantar et al., ICLR 2023: column by column, the largest inputs first, later columns make up for the errors of
    earlier ones; the inverse Hessian comes from one Cholesky factor.
    """
    order = products.diagonal().argsort(descending=True)
    hessian = products[order][:, order].double()
    diagonal = hessian.diagonal()
    dead = diagonal == 0  # an input that was always 0: its weights are rounded, and no others make up for it
    diagonal += torch.where(dead, 1.0, _DAMPING * float(diagonal.mean()))
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True).float()
    left = weight[:, order].clone()
    steps = scale[:, None].expand_as(weight) if scale.dim() == 1 else scale[:, order]
    found = torch.zeros_like(left)
    for start in range(0, left.shape[1], _BLOCK):
        end = min(start + _BLOCK, left.shape[1])
        errors = torch.zeros(len(left), end - start)
        for column in range(start, end):
            step = steps[:, column]
            value = on_grid(left[:, column] / step)
            found[:, column] = value
            error = (left[:, column] - value * step) / inverse[column, column]
            left[:, column:end] -= error[:, None] * inverse[column, column:end]
            errors[:, column - start] = error
        left[:, end:] -= errors @ inverse[start:end, end:]
    return torch.empty_like(found).index_copy_(1, order, found)
