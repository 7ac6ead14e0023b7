"""What one window costs in arithmetic, and how fast this machine multiplies matrices: the share that is reached."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import numpy as np

from pstmo_edge.backends import installed_version

_SIZE = 1024  # of the matrices: large enough for the full speed, small enough for 20 ms on two old cores
_TRIALS = 12


def model_mflop(model: Any) -> float:
    """Million floating-point operations (2 per multiply-add, attention included) of one window of a torch model."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    window = torch.zeros(1, model.lifter.frames, 17, len(model.lifter.channels))
    counter = FlopCounterMode(display=False)
    # The counter sees the products of attention only where they are not fused.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(window)
    return float(counter.get_total_flops() / 1e6)


@cache
def mflop(
    name: str, frames: int, target_index: int | None = None, emitted: tuple[int, int] | None = None
) -> float | None:
    """The same for a model of the zoo, whatever its weights; None where torch is not installed.

    `emitted` is (first frame, number of frames) where a window gives the poses of many, see `emission.emitting`.
    """
    if installed_version("torch") is None:
        return None
    from pstmo_edge.models.emission import with_emitted
    from pstmo_edge.models.zoo import create_model

    target = target_index if emitted is None else None
    return model_mflop(with_emitted(create_model(name, frames, target_index=target).eval(), emitted))


def matrix_gflops() -> float:
    """The best fp32 matrix product of a short series, in GFLOP/s: with torch's threads where it is there."""
    first, second = (np.random.default_rng(seed).random((_SIZE, _SIZE), np.float32) for seed in (0, 1))
    multiply = _multiply(first, second)
    multiply()
    best = float("inf")
    for _ in range(_TRIALS):
        start = time.perf_counter()
        multiply()
        best = min(best, time.perf_counter() - start)
    return 2 * _SIZE**3 / best / 1e9


def _multiply(first: Any, second: Any) -> Any:
    if installed_version("torch") is None:
        return lambda: first @ second
    import torch

    one, two = torch.from_numpy(first), torch.from_numpy(second)
    return lambda: torch.mm(one, two)
