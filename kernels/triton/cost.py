"""What a window costs by op: operations and bytes, counted from the shapes; and projections of speed from them.

Operations are 2 a multiply-add, attention included. Bytes are those that must pass through the GPU's memory at least:
tokens read and written between the kernels once, and weights once a forward, whatever the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pstmo_edge.models.p_stmo import STRIDES

CHANNELS, HIDDEN, INPUTS, OUTPUTS = 256, 512, 34, 51
_WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1, "fp8": 1}
_TOKEN_BYTES = {"fp32": 4}  # others have 2
_STREAM_BYTES = {"fp32": 4, "bf16": 4}  # of the residual stream: see `lifter.stream_type`


@dataclass(frozen=True)
class Cost:
    """One op of the network: its operations and bytes of tokens a window, its bytes of weights a forward.

    `precision` is what its products are computed in; it may be wider than the network's.
    """

    name: str
    precision: str
    operations: int
    token_bytes: int
    weight_bytes: int


def narrow_precision(precision: str) -> str:
    """What a network multiplies in where it has no weights, which is also what it has tokens in."""
    return "fp16" if precision in ("int8", "fp8") else precision


def costs(frames: int, layers: int, precision: str) -> list[Cost]:
    """Every launch of a forward, in order; `layers` of the temporal encoder are 3 (P-STMO-S) or 4."""
    size = _WEIGHT_BYTES[precision]
    token, stream = _TOKEN_BYTES.get(precision, 2), _STREAM_BYTES.get(precision, 2)
    half = narrow_precision(precision)
    encoder = 2 * HIDDEN * HIDDEN + HIDDEN * CHANNELS
    found = [
        Cost(
            "spatial_encoder", precision, 2 * frames * (INPUTS * HIDDEN + encoder),
            frames * (4 * INPUTS + stream * CHANNELS), 4 * INPUTS * HIDDEN + size * encoder,
        )
    ]  # fmt: skip
    tokens = frames
    for stride in (*[None] * layers, *STRIDES[frames]):
        taps, kept = (1, tokens) if stride is None else (3, -(-tokens // stride))
        read = tokens if stride in (None, 1, 3) else 3 * kept  # input tokens that the feed-forward computes with
        read = 3 * tokens if stride == 1 else read
        found += [
            Cost(
                "norm_linear", precision, 2 * tokens * 3 * CHANNELS * CHANNELS,
                tokens * CHANNELS * (stream + 3 * token), size * 3 * CHANNELS * CHANNELS,
            ),
            Cost("attention", half, 4 * tokens * tokens * CHANNELS, token * tokens * 4 * CHANNELS, 0),
            Cost(
                f"feed_forward_{taps}", precision,
                2 * (read * CHANNELS * (CHANNELS + HIDDEN) + kept * taps * HIDDEN * CHANNELS),
                CHANNELS * ((stream + token) * read + stream * kept),
                size * CHANNELS * (CHANNELS + HIDDEN + taps * HIDDEN),
            ),
        ]  # fmt: skip
        tokens = kept
    return [*found, Cost("head", "fp32", 2 * CHANNELS * OUTPUTS, stream * CHANNELS, 4 * CHANNELS * OUTPUTS)]


def operations(frames: int, layers: int) -> int:
    """Operations of a window."""
    return sum(cost.operations for cost in costs(frames, layers, "fp32"))


# ---- chips that are not at hand --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chip:
    """Dense peaks in operations a second by precision, bytes a second, and where the figures are published.

    A precision without a peak is None: the chip has no units for it.
    """

    name: str
    capability: int
    peaks: Mapping[str, float | None]
    bandwidth: float
    source: str


def _orin(name: str, int8_tops: float, fp32_tflops: float, gigabytes: float) -> Chip:
    """Orin: sparse INT8 TOPS of the GPU alone as published; dense is half, FP16 half of that, TF32 a quarter."""
    dense = int8_tops / 2 * 1e12
    peaks = {"int8": dense, "bf16": dense / 2, "fp16": dense / 2, "fp32": fp32_tflops * 1e12, "fp8": None}
    return Chip(
        name, 87, peaks, gigabytes * 1e9, "NVIDIA, Jetson Orin module data sheets and Jetson Orin Nano Super blog"
    )


CHIPS: tuple[Chip, ...] = (
    _orin("Orin Nano 8GB Super", 66.8, 2.09, 102),
    _orin("Orin NX 16GB", 60.2, 1.88, 102.4),
    _orin("AGX Orin 64GB", 170.0, 5.31, 204.8),
    Chip(
        "Thor T5000", 110,
        {"int8": None, "fp8": 517e12, "bf16": 258.5e12, "fp16": 258.5e12, "fp32": 8.05e12},
        273e9, "NVIDIA, Jetson Thor data sheet",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Projection:
    """Windows a second that a chip might reach. It is a projection and no measurement, wherever it is shown.

    `basis` says what share of the peaks was assumed, and whether that share was ever measured.
    """

    chip: str
    precision: str
    batch: int
    windows_per_s: float
    basis: str


def project(
    chip: Chip, frames: int, layers: int, precision: str, batch: int, efficiency: Mapping[str, float] | None = None
) -> Projection | None:
    """Every op at the larger of its two times (arithmetic, memory), added up; None where the chip lacks the precision.

    `efficiency` is the share of its larger limit that each op reached on a GPU that was measured; None assumes all of
    it, which no kernel reaches: then the figure is a limit.
    """
    seconds = 0.0
    for cost in costs(frames, layers, precision):
        peak = chip.peaks.get(cost.precision)
        if peak is None:
            return None
        arithmetic = batch * cost.operations / peak
        memory = (batch * cost.token_bytes + cost.weight_bytes) / chip.bandwidth
        seconds += max(arithmetic, memory) / (1.0 if efficiency is None else efficiency[cost.name])
    basis = (
        "limit: 100 % of the peaks, no efficiency was measured" if efficiency is None else "measured efficiency by op"
    )
    return Projection(chip.name, precision, batch, batch / seconds, f"projection, {basis}")


def projections(
    frames: int, layers: int, batches: Sequence[int] = (1, 64), efficiency: Mapping[str, float] | None = None
) -> list[Projection]:
    """For every chip and precision that it has."""
    found = [
        project(chip, frames, layers, precision, batch, efficiency)
        for chip in CHIPS
        for precision in ("fp16", "int8", "fp8")
        for batch in batches
    ]
    return [projection for projection in found if projection is not None]
