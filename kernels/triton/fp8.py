"""P-STMO in FP8 for the kernels: inputs centred, and the kernels in fp16 that would cost most.

E4M3 has 3 bits of mantissa: with every layer in it MPJPE rises by several times what INT8 costs (docs/gpu.md). One
kernel multiplies in one type, so the layers that it computes stay in fp16 together, and kernels that are compiled for
fp16 anyway compute them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pstmo_edge.arrays import FloatArray
from pstmo_edge.calib.centring import centre
from pstmo_edge.calib.emulation import EmulatedModel, copied
from pstmo_edge.calib.formats import Fp8Layer
from pstmo_edge.calib.observers import batches, observe
from pstmo_edge.calib.sensitivity import Probes
from pstmo_edge.kernels.triton.lifter import ENDS
from pstmo_edge.metrics import mpjpe

# What `choose` found for the weights in the box, in its order (benchmarks/results/gpu_precision.json). Networks of
# other lengths and weights get the same kernels; what they cost there was not measured.
IN_FP16 = (
    "Transformer.model.layers.2.feed_forward", "spatial_encoder", "Transformer.model.layers.0.feed_forward",
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One more kernel in fp16: the rise of MPJPE on the probes, and the share of the multiply-adds left in FP8."""

    kernel: str
    change_mm: float
    fp8_share: float


def kernel_of(layer: str) -> str:
    """The kernel that computes a layer, by its place in the network."""
    if layer.startswith("encoder."):
        return "spatial_encoder"
    return f"{layer.rsplit('.', 2)[0]}.{'norm_linear' if layer.endswith('.qkv') else 'feed_forward'}"


def all_in_fp8(fused: nn.Module, windows: FloatArray, *, centred: bool = True) -> EmulatedModel:
    """A fused model with its inputs centred and all layers but the two ends in FP8; windows (N, T, 17, C) calibrate."""
    model = copied(fused)
    if centred:
        centre(model, observe(model, windows), torch.from_numpy(windows[:1]))
    seen = observe(model, windows, products=True)
    return EmulatedModel(model, {name: Fp8Layer.of(found) for name, found in seen.items() if name not in ENDS})


def leaving(emulated: EmulatedModel, kernels: Collection[str] = IN_FP16) -> EmulatedModel:
    """The same without the layers of these kernels, which are then computed in the type of the tokens."""
    return emulated.with_layers(name for name in emulated.layers if kernel_of(name) not in kernels)


def fp8_share(emulated: EmulatedModel, windows: FloatArray) -> float:
    """The share of the multiply-adds of all layers with weights that FP8 layers do."""
    seen = observe(emulated.model, windows[:1])
    work = {name: each.rows * each.weight.numel() for name, each in seen.items()}
    return sum(work[name] for name in emulated.layers) / sum(work.values())


def choose(emulated: EmulatedModel, probes: Probes, limit_mm: float) -> list[Step]:
    """The kernels to leave in fp16, one after another, until MPJPE on the probes rises by `limit_mm` at most.

    First go those that alone in FP8 move poses most. Probes are motion that the weights may have seen, never that which
    the cost is reported on.
    """
    exact = _poses(emulated.model, probes.windows)
    error = _mm(exact, probes.poses)

    def moved(kernel: str) -> float:
        alone = emulated.with_layers(name for name in emulated.layers if kernel_of(name) == kernel)
        return _mm(_poses(alone, probes.windows), exact)

    steps: list[Step] = []
    for kernel in sorted({kernel_of(name): None for name in emulated.layers}, key=moved, reverse=True):
        kept = leaving(emulated, [*(step.kernel for step in steps), kernel])
        change = _mm(_poses(kept, probes.windows), probes.poses) - error
        steps.append(Step(kernel, change, fp8_share(kept, probes.windows)))
        if change <= limit_mm:
            break
    return steps


def _poses(model: nn.Module, windows: FloatArray) -> FloatArray:
    with torch.no_grad():
        return np.concatenate([model(batch).numpy() for _, batch in batches(windows)])


def _mm(poses: FloatArray, truth: FloatArray) -> float:
    """MPJPE relative to the root."""
    return float(np.mean(mpjpe(poses - poses[:, :1], truth - truth[:, :1])))
