"""The figures of `gpu.py`: how fast the networks and each kernel are here, and what share of the peaks that is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from pstmo_edge.benchmarks import gpu_timing as timing
from pstmo_edge.benchmarks.gpu import BATCHES, COMPILED_BATCHES, Budget
from pstmo_edge.benchmarks.gpu_checks import SMALL, TOKENS, Operands, Sizes
from pstmo_edge.benchmarks.gpu_networks import Network, Ours, Plain, flash_attention
from pstmo_edge.benchmarks.gpu_timing import Machine
from pstmo_edge.errors import BackendError
from pstmo_edge.kernels.triton import cost, launch, tuning
from pstmo_edge.kernels.triton.lifter import stream_type

DRY_BATCHES = (2,)


def _batches(machine: Machine) -> tuple[int, ...]:
    return BATCHES if machine.is_gpu else DRY_BATCHES


def _keypoints(machine: Machine, network: Network, batch: int) -> torch.Tensor:
    return Operands(machine.device, 3).normal(batch, network.frames, 17, 2, scale=0.3)


def _timed(machine: Machine, batch: int, run: Callable[[], object]) -> dict[str, Any]:
    found: dict[str, Any] = dict(timing.device_ms(machine, run))
    return found | {"batch": batch, "windows_per_s": batch / found["median_ms"] * 1e3}


def ours(machine: Machine, network: Network, precisions: list[str], budget: Budget) -> dict[str, Any]:
    """Our kernels under CUDA graphs, on the device, by precision and batch."""
    found: dict[str, Any] = {}
    for precision in precisions:
        ours = Ours(network.lifter(precision), network.frames, machine)
        rows = found[precision] = []
        for batch in _batches(machine):
            if not budget.allows(f"ours, {precision}, batch {batch}"):
                break
            try:
                rows.append(_timed(machine, batch, ours.replay(_keypoints(machine, network, batch))))
            except (BackendError, torch.cuda.OutOfMemoryError):
                rows.append({"batch": batch, "windows_per_s": None, "why": "the memory does not hold it"})
        ours.release()
    return found


def latency(machine: Machine, network: Network, precisions: list[str]) -> dict[str, Any]:
    """One window from an array on the host to a pose there: what a camera waits for, copies and all."""
    found: dict[str, Any] = {}
    keypoints = _keypoints(machine, network, 1).cpu().numpy()
    for precision in precisions:
        ours = Ours(network.lifter(precision), network.frames, machine)
        found[precision] = timing.wall_ms(machine, ours.with_copies(keypoints))
        ours.release()
    return found


def eager(machine: Machine, network: Network, budget: Budget) -> dict[str, Any]:
    """Plain torch, nothing compiled."""
    found: dict[str, Any] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model, rows = Plain(network.fused, dtype, machine.device), []
        for batch in _batches(machine):
            if budget.allows(f"eager, {name}, batch {batch}"):
                rows.append(_plain_row(machine, network, model, batch))
        found[name] = rows
    return found


def compiled(machine: Machine, network: Network, budget: Budget) -> list[dict[str, Any]]:
    """torch.compile, max-autotune with CUDA graphs, bf16: a minute a size, so those that count go first."""
    rows: list[dict[str, Any]] = []
    if not machine.is_gpu:
        return rows
    for batch in COMPILED_BATCHES:
        if budget.allows(f"torch.compile, batch {batch}", needs=75):
            torch._dynamo.reset()
            model = torch.compile(
                Plain(network.fused, torch.bfloat16, machine.device), mode="max-autotune", fullgraph=True
            )
            rows.append(_plain_row(machine, network, model, batch))
            print(f"torch.compile, batch {batch}: {rows[-1]}", flush=True)
    return rows


def _plain_row(
    machine: Machine, network: Network, model: Callable[[torch.Tensor], object], batch: int
) -> dict[str, Any]:
    keypoints = _keypoints(machine, network, batch)
    try:
        with flash_attention(), torch.no_grad():
            return _timed(machine, batch, lambda: model(keypoints))
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return {"batch": batch, "windows_per_s": None, "why": "the memory does not hold it"}
    except Exception as error:  # whatever a compiler raises is a row, and the rest goes on
        return {"batch": batch, "windows_per_s": None, "why": f"{type(error).__name__}: {error}"[:200]}


def power(machine: Machine, network: Network, precisions: list[str], budget: Budget) -> dict[str, Any]:
    """Watts of the board and windows a joule; None where nothing tells them."""
    found: dict[str, Any] = {}
    batch = 1024 if machine.is_gpu else 1
    for precision in precisions:
        if budget.allows(f"power, {precision}"):
            ours = Ours(network.lifter(precision), network.frames, machine)
            drawn = timing.watts(machine, ours.replay(_keypoints(machine, network, batch)))
            found[precision] = None if drawn is None else drawn | {
                "batch": batch, "windows_per_joule": batch * drawn["runs_per_s"] / drawn["mean_w"]
            }  # fmt: skip
            ours.release()
    return found


# ---- shares of the peaks ---------------------------------------------------------------------------------------------


def ops(machine: Machine, capability: int, precisions: list[str]) -> dict[str, Any]:
    """Every kernel alone, at a batch that fills the GPU, with the tiles for many tokens."""
    windows, tokens = (256, 243) if machine.is_gpu else (1, 9)
    return {name: dict(_op_rows(machine, capability, name, windows, tokens)) for name in precisions}


def _op_rows(machine: Machine, capability: int, precision: str, windows: int, tokens: int) -> Any:
    sizes = Sizes() if machine.is_gpu else SMALL
    some, c, h = Operands(machine.device, 4), sizes.channels, sizes.hidden
    narrow = TOKENS[precision]
    stream = stream_type(narrow)
    x, mixed = (some.normal(windows, tokens, c, dtype=each) for each in (stream, narrow))
    norm, position = some.norm(c), some.normal(tokens, c)
    layer = [some.product(c, c, precision), some.product(h, c, precision)]
    encoder = [some.product(h, cost.INPUTS, "fp32"), *(some.product(o, h, precision) for o in (h, h, c))]
    keypoints, qkv = (
        some.normal(windows, tokens, cost.INPUTS, scale=0.3),
        some.normal(windows, tokens, 3 * c, dtype=narrow),
    )
    calls: dict[str, Callable[..., object]] = {
        "spatial_encoder": lambda **to: launch.spatial_encoder(keypoints, encoder, position, stream, **to),
        "norm_linear": lambda **to: launch.norm_linear(x, norm, products["qkv"], narrow, **to),
        "attention": lambda **to: launch.attention(qkv, sizes.heads, **to),
        "feed_forward_1": lambda **to: launch.feed_forward(x, mixed, norm, [*layer, products["w_2"]], None, 1, **to),
        "feed_forward_3": lambda **to: launch.feed_forward(x, mixed, norm, [*layer, products["conv"]], None, 3, **to),
    }
    products = {
        "qkv": some.product(3 * c, c, precision), "w_2": some.product(c, h, precision),
        "conv": some.product(c, 3 * h, precision),
    }  # fmt: skip
    counted = {found.name: found for found in reversed(cost.costs(243, 3, precision))}  # the first of each name counts
    for name, call in calls.items():
        kind = tuning.CLASSES[narrow if name == "attention" else products["qkv"].weight.dtype]
        choice = tuning.choice(name, kind, capability)
        if choice is None:
            continue
        found: dict[str, Any] = dict(timing.device_ms(machine, partial(call, tiles=choice.many)))
        seconds, one = found["median_ms"] / 1e3, counted[name]
        if machine.is_gpu:
            found["operations_per_s"] = windows * one.operations / seconds
            found["bytes_per_s"] = (windows * one.token_bytes + one.weight_bytes) / seconds
        yield name, found


def shares(found: dict[str, Any], network: Network) -> dict[str, Any] | None:
    """How much of the measured peak the whole network reached at its best batch, by precision."""
    if not found.get("peaks") or not found.get("ours") or found["dry_run"]:
        return None
    total, shares = cost.operations(network.frames, network.layers), {}
    for precision, rows in found["ours"].items():
        rates = [row["windows_per_s"] for row in rows if row["windows_per_s"]]
        peak = found["peaks"].get(precision)
        shares[precision] = max(rates) * total / peak if rates and peak else None
    return shares


def projections(found: dict[str, Any], network: Network) -> list[dict[str, Any]] | None:
    """Chips that are not here, from the share of the larger limit that every op reached here. Never a measurement."""
    if not found.get("peaks") or not found.get("ops") or found["dry_run"]:
        return None
    out: list[dict[str, Any]] = []
    for precision, rows in found["ops"].items():
        shares = _efficiency(rows, precision, found["peaks"])
        if shares is not None:
            out += [
                {**projection.__dict__, "measured_on": found["device"]["name"]}
                for chip in cost.CHIPS
                for batch in (1, 64)
                if (projection := cost.project(chip, network.frames, network.layers, precision, batch, shares))
            ]
    return out


def _efficiency(rows: dict[str, Any], precision: str, peaks: dict[str, float | None]) -> dict[str, float] | None:
    shares: dict[str, float] = {}
    for name, row in rows.items():
        peak = peaks.get(cost.narrow_precision(precision) if name == "attention" else precision)
        if not peak or not peaks.get("copy"):
            return None
        shares[name] = max(row["operations_per_s"] / peak, row["bytes_per_s"] / float(peaks["copy"] or 1))
    return shares | {"head": min(shares.values())}
