"""Tile sizes by kernel, type and number of tokens: data, apart from the kernels, with what was rejected and why.

No entry was chosen by its speed, because no GPU was at hand: which tiles are fastest is **not measured**. They are the
largest that `aot` compiles for every target without spilling a register and within its shared memory, and for few
tokens the ones that make the most programs. `benchmarks/results/gpu_kernels.json` holds what each takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch


@dataclass(frozen=True)
class Tiles:
    """How a kernel is cut: tokens (or queries) of a program, the slice of its inner loop, warps, pipeline stages.

    `span` is the output columns of a program of `norm_linear`, `chunk_0` the slice of a feed-forward's projection.
    """

    block_m: int
    chunk: int
    warps: int
    stages: int
    span: int = 64
    chunk_0: int = 32


@dataclass(frozen=True)
class Choice:
    """What one kernel uses in one class of types: for few tokens (latency) and for many (throughput)."""

    few: Tiles
    many: Tiles


# "half" is bf16 and fp16; a kernel without a line in a class does not fit, and plain torch computes its op.
TABLE: dict[tuple[str, str], Choice] = {
    ("spatial_encoder", "half"): Choice(Tiles(16, 32, 8, 2), Tiles(32, 32, 8, 2)),
    ("spatial_encoder", "int8"): Choice(Tiles(16, 32, 8, 2), Tiles(32, 32, 8, 2)),
    ("spatial_encoder", "fp8"): Choice(Tiles(16, 32, 8, 2), Tiles(32, 32, 8, 2)),
    ("norm_linear", "single"): Choice(Tiles(16, 32, 8, 1), Tiles(16, 32, 8, 1)),
    ("norm_linear", "half"): Choice(Tiles(16, 64, 4, 2), Tiles(64, 64, 8, 2, span=768)),
    ("norm_linear", "int8"): Choice(Tiles(16, 64, 4, 2), Tiles(64, 64, 8, 2, span=768)),
    ("norm_linear", "fp8"): Choice(Tiles(16, 64, 4, 2), Tiles(64, 64, 8, 2, span=768)),
    ("head", "single"): Choice(Tiles(16, 32, 4, 2), Tiles(16, 32, 4, 2)),
    ("attention", "single"): Choice(Tiles(32, 32, 4, 2), Tiles(64, 32, 4, 2)),
    ("attention", "half"): Choice(Tiles(16, 64, 2, 2), Tiles(64, 64, 4, 2)),
    ("feed_forward_1", "single"): Choice(Tiles(16, 16, 8, 1), Tiles(16, 16, 8, 1)),
    ("feed_forward_1", "half"): Choice(Tiles(16, 32, 4, 2), Tiles(64, 32, 8, 2)),
    ("feed_forward_1", "int8"): Choice(Tiles(16, 32, 8, 2), Tiles(64, 32, 8, 2)),
    ("feed_forward_1", "fp8"): Choice(Tiles(16, 32, 8, 2), Tiles(64, 32, 8, 2)),
    ("feed_forward_3", "half"): Choice(Tiles(16, 32, 8, 2), Tiles(32, 32, 8, 2)),
    ("feed_forward_3", "int8"): Choice(Tiles(16, 32, 8, 2), Tiles(32, 32, 8, 2)),
    ("feed_forward_3", "fp8"): Choice(Tiles(16, 32, 8, 2), Tiles(32, 32, 8, 2)),
}
# The same for one compute capability alone, and for bf16 or fp16 alone.
EXCEPTIONS: dict[tuple[str, str, int], Choice] = {
    # There the tiles of the table spill 8 and 16 bytes.
    ("spatial_encoder", "fp16", 100): Choice(Tiles(16, 16, 8, 2), Tiles(32, 32, 8, 2)),
    ("spatial_encoder", "fp16", 110): Choice(Tiles(16, 16, 8, 2), Tiles(32, 32, 8, 2)),
    # With the residual stream in fp32, 64 rows spill 192 bytes; with other slices, stages or warps no fewer than 152.
    ("feed_forward_1", "bf16", 100): Choice(Tiles(16, 32, 4, 2), Tiles(32, 32, 8, 2)),
    # The accumulators of wgmma and tcgen05 spill: 152 bytes in int8 on 9.0; in fp8 16 there, 128 on 11.0.
    ("feed_forward_1", "int8", 90): Choice(Tiles(16, 32, 8, 2), Tiles(32, 32, 8, 2)),
    ("feed_forward_1", "fp8", 90): Choice(Tiles(16, 32, 8, 2), Tiles(64, 32, 8, 2, chunk_0=64)),
    ("feed_forward_1", "fp8", 110): Choice(Tiles(16, 32, 8, 2), Tiles(32, 32, 8, 2)),
}

# (kernel, class, tiles, why not). Spills are those of triton 3.7.1's ptxas; none of these was ever timed.
REJECTED: tuple[tuple[str, str, Tiles, str], ...] = (
    ("spatial_encoder", "half", Tiles(64, 32, 8, 1), "64 x 512 sums spill 1.2 kB a thread on sm_86, 2.4 on sm_90"),
    ("spatial_encoder", "half", Tiles(64, 32, 16, 2), "16 warps leave 128 registers: spills on every target"),
    ("spatial_encoder", "half", Tiles(32, 64, 8, 2), "168 kB of shared memory: sm_86, 89 and 120 have 99"),
    ("spatial_encoder", "half", Tiles(16, 32, 4, 2), "spills on sm_100 and 120"),
    ("spatial_encoder", "single", Tiles(16, 16, 8, 1), "tf32x3 holds every operand twice: spills 5 kB"),
    ("norm_linear", "half", Tiles(128, 64, 8, 2, span=768), "115 kB of shared memory on sm_86"),
    ("head", "single", Tiles(32, 32, 4, 2), "spills 1.8 kB: a float32 operand of 256 inputs is held whole, and twice"),
    ("head", "single", Tiles(16, 16, 4, 2), "spills 164 bytes on sm_86"),
    ("feed_forward_1", "half", Tiles(64, 64, 8, 2), "106 kB of shared memory on sm_86; spills on sm_100"),
    ("feed_forward_1", "int8", Tiles(64, 32, 16, 2), "spills on sm_90, 100 and 120"),
    ("feed_forward_3", "int8", Tiles(64, 32, 8, 2), "spills 184 bytes on sm_86, 1.1 kB on sm_90"),
    ("feed_forward_1", "half", Tiles(128, 32, 16, 2), "spills on every target"),
    ("feed_forward_3", "half", Tiles(64, 32, 8, 2), "spills 32 bytes on sm_86, 460 on sm_90"),
    ("feed_forward_3", "single", Tiles(16, 16, 8, 1), "spills 164 bytes on sm_86"),
)  # fmt: skip

CLASSES = {
    torch.float32: "single", torch.bfloat16: "bf16", torch.float16: "fp16",
    torch.int8: "int8", torch.float8_e4m3fn: "fp8",
}  # fmt: skip
# Fewer tokens than this for every multiprocessor count as few: large tiles would leave some of them idle.
TOKENS_OF_A_MULTIPROCESSOR = 64


def tiles(kernel: str, device: torch.device, dtype: torch.dtype, tokens: int) -> Tiles | None:
    """What a kernel should use for its weights' type and so many tokens; None where it does not fit."""
    if device.type != "cuda":  # the interpreter, where everything fits
        chosen = choice(kernel, CLASSES[dtype], 0) or TABLE.get((kernel, "half")) or TABLE["head", "single"]
        return chosen.many
    capability, multiprocessors = _chip(device)
    found = choice(kernel, CLASSES[dtype], capability)
    if found is None:
        return None
    return found.few if tokens < TOKENS_OF_A_MULTIPROCESSOR * multiprocessors else found.many


def choice(kernel: str, kind: str, capability: int) -> Choice | None:
    """The table's line for a class of types and a compute capability (87 for 8.7), or None."""
    line = "half" if kind in ("bf16", "fp16") else kind
    return EXCEPTIONS.get((kernel, kind, capability)) or TABLE.get((kernel, line))


@lru_cache
def _chip(device: torch.device) -> tuple[int, int]:
    found = torch.cuda.get_device_properties(device)
    return found.major * 10 + found.minor, found.multi_processor_count


def constants(kernel: str, chosen: Tiles) -> dict[str, Any]:
    """The tiles as the parameters of a kernel that are fixed when it is compiled."""
    if kernel == "attention":  # PACK, the windows of a program, follows from their length
        return {"BLOCK_Q": chosen.block_m, "BLOCK_K": chosen.chunk}
    fixed = {"BLOCK_M": chosen.block_m, "CHUNK": chosen.chunk}
    if kernel == "feed_forward":
        return fixed | {"CHUNK_0": chosen.chunk_0}
    return fixed | ({"SPAN": chosen.span} if kernel == "norm_linear" else {})
