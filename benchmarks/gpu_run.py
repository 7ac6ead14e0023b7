"""What `gpu.py` does, step by step; each step leaves its figures in one dictionary."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from typing import Any

import numpy as np
import torch
import triton

from pstmo_edge import __version__
from pstmo_edge.benchmarks import gpu_timing as timing
from pstmo_edge.benchmarks.gpu import BATCHES, CHECKED_BATCHES, COMPILED_BATCHES, FP8_SINCE, PRECISIONS, Budget
from pstmo_edge.benchmarks.gpu_checks import SMALL, Operands, Sizes, check_network, check_ops, failed
from pstmo_edge.benchmarks.gpu_networks import (
    Network,
    Ours,
    Plain,
    flash_attention,
    random_network,
    trained_network,
)
from pstmo_edge.benchmarks.gpu_timing import Machine
from pstmo_edge.benchmarks.provenance import commit
from pstmo_edge.errors import BackendError
from pstmo_edge.kernels.triton import cost, launch, tuning
from pstmo_edge.kernels.triton.engine import LEAST_CAPABILITY

DRY_BATCHES = (2,)


def measure(arguments: argparse.Namespace, budget: Budget, save: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Everything, as plain values; `save` gets what there is after every step, should the run be cut short."""
    machine = _machine(arguments.dry_run)
    capability = _capability(machine)
    found = _provenance(machine, capability, arguments)
    network = random_network(9 if arguments.dry_run else arguments.frames, arguments.dry_run)
    lacking = {"fp8"} if capability < FP8_SINCE else set()
    precisions = [name for name in PRECISIONS if name in set(arguments.precisions) - lacking]
    found["not_measured"] = [f"{name}: compute capability {capability / 10} has none" for name in lacking]
    found["not_measured"] += [f"{name}: not asked for" for name in PRECISIONS if name not in arguments.precisions]
    found["checks"] = list(_checks(machine, capability, precisions, network, arguments.dry_run))
    good = [name for name in precisions if all(c["passed"] for c in found["checks"] if c["precision"] == name)]
    found["not_measured"] += [f"{name}: a check failed" for name in precisions if name not in good]
    save(found)
    if not arguments.checks_only:
        steps: list[tuple[str, Callable[[], Any]]] = [
            ("peaks", lambda: timing.peaks(machine)),
            ("ours", lambda: _ours(machine, network, good, budget)),
            ("latency", lambda: _latency(machine, network, good)),
            ("ops", lambda: _ops(machine, capability, good)),
            ("eager", lambda: _eager(machine, network, budget)),
            ("power", lambda: _power(machine, network, good, budget)),
            ("millimetres", lambda: _millimetres(machine, good, arguments.dry_run)),
            ("compiled", lambda: _compiled(machine, network, budget)),
        ]
        for name, step in steps:
            found[name] = _attempted(name, step, found["not_measured"]) if budget.allows(name) else None
            print(f"{name}: {_short(found[name])}", flush=True)
            save(found)
        found["shares"] = _shares(found, network)
        found["projections"] = _projections(found, network)
    found["not_measured"] += budget.left_out
    found["state_after"] = timing.driver_state()
    return found


def _attempted(name: str, step: Callable[[], Any], not_measured: list[str]) -> Any:
    try:
        return step()
    except Exception as error:  # a step that fails must not cost what the others measured
        not_measured.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
        return None


def _machine(dry: bool) -> Machine:
    if dry:
        return Machine(torch.device("cpu"))
    if not torch.cuda.is_available():
        raise SystemExit("no GPU that torch can use: give --dry-run to try the script, or install a driver")
    torch.backends.cuda.matmul.allow_tf32 = False  # fp32 means fp32, as torch has it by default
    return Machine(torch.device("cuda", torch.cuda.current_device()))


def _capability(machine: Machine) -> int:
    if not machine.is_gpu:
        return FP8_SINCE
    major, minor = torch.cuda.get_device_capability()
    if major * 10 + minor < LEAST_CAPABILITY:
        raise SystemExit(f"compute capability {major}.{minor}: the kernels need 8.0")
    return major * 10 + minor


def _provenance(machine: Machine, capability: int, arguments: argparse.Namespace) -> dict[str, Any]:
    device: dict[str, Any] = {"name": "cpu (dry run: no time here means anything)", "capability": capability}
    if machine.is_gpu:
        found = torch.cuda.get_device_properties(machine.device)
        device |= {
            "name": found.name, "multiprocessors": found.multi_processor_count, "memory_bytes": found.total_memory,
        }  # fmt: skip
    return {
        "dry_run": arguments.dry_run, "date": datetime.now(timezone.utc).replace(microsecond=0).isoformat(),
        "commit": commit(), "pstmo_edge": __version__, "python": platform.python_version(), "torch": torch.__version__,
        "triton": triton.__version__, "cuda": torch.version.cuda, "device": device,
        "state_before": timing.driver_state(),
    }  # fmt: skip


# ---- checks ----------------------------------------------------------------------------------------------------------


def _checks(machine: Machine, capability: int, precisions: list[str], network: Network, dry: bool) -> Any:
    for precision in precisions if dry else ("fp32", *precisions):
        for check in check_ops(machine.device, precision, SMALL if dry else Sizes(), capability):
            yield check.to_dict()
    for precision in precisions:
        try:
            yield from _network_checks(machine, precision, network, DRY_BATCHES if dry else CHECKED_BATCHES)
        except Exception as error:  # the other precisions may still be right
            yield failed(network.name, precision, "", error).to_dict()


def _network_checks(machine: Machine, precision: str, network: Network, batches: tuple[int, ...]) -> Any:
    truth = Plain(network.fused, torch.float64, machine.device)
    narrow = torch.float16 if precision == "fp16" else torch.bfloat16
    plain: list[Callable[[torch.Tensor], torch.Tensor]] = [Plain(network.fused, narrow, machine.device)]
    if precision in ("int8", "fp8"):
        plain.append(network.on_cpu(precision))
    ours = Ours(network.lifter(precision), network.frames, machine)
    for check in check_network(
        network.name, precision, ours.poses, plain, truth, batches, network.frames, machine.device
    ):
        print(f"{precision} {check.size}: error {check.error:.2e}, allowed {check.limit:.2e}", flush=True)
        yield check.to_dict()
    ours.release()


def _millimetres(machine: Machine, precisions: list[str], dry: bool) -> dict[str, Any] | None:
    """Trained weights on held-out motion: MPJPE of each precision, and how far its poses are from the fp32 ones."""
    if dry:
        return None
    network, (windows, truth) = trained_network()
    with torch.no_grad():
        reference = network.fused.to(machine.device)(torch.from_numpy(windows).to(machine.device)).cpu().numpy()
    network.fused.cpu()
    found = {"network": network.name, "windows": len(windows), "fp32": {"mpjpe_mm": _mpjpe(reference, truth)}}
    for precision in precisions:
        ours = Ours(network.lifter(precision), network.frames, machine)
        assert ours.engine is not None
        poses = ours.engine.run(windows)
        ours.release()
        found[precision] = {
            "mpjpe_mm": _mpjpe(poses, truth),
            "mpjpe_change_mm": _mpjpe(poses, truth) - _mpjpe(reference, truth),
            "moved_mm": _mpjpe(poses, reference),
        }
    return found


def _mpjpe(poses: Any, truth: Any) -> float:
    centred = [pose - pose[:, :1] for pose in (poses, truth)]
    return float(np.linalg.norm(centred[0] - centred[1], axis=-1).mean() * 1e3)


# ---- times -----------------------------------------------------------------------------------------------------------


def _batches(machine: Machine) -> tuple[int, ...]:
    return BATCHES if machine.is_gpu else DRY_BATCHES


def _keypoints(machine: Machine, network: Network, batch: int) -> torch.Tensor:
    return Operands(machine.device, 3).normal(batch, network.frames, 17, 2, scale=0.3)


def _timed(machine: Machine, batch: int, run: Callable[[], object]) -> dict[str, Any]:
    found: dict[str, Any] = dict(timing.device_ms(machine, run))
    return found | {"batch": batch, "windows_per_s": batch / found["median_ms"] * 1e3}


def _ours(machine: Machine, network: Network, precisions: list[str], budget: Budget) -> dict[str, Any]:
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


def _latency(machine: Machine, network: Network, precisions: list[str]) -> dict[str, Any]:
    """One window from an array on the host to a pose there: what a camera waits for, copies and all."""
    found: dict[str, Any] = {}
    keypoints = _keypoints(machine, network, 1).cpu().numpy()
    for precision in precisions:
        ours = Ours(network.lifter(precision), network.frames, machine)
        found[precision] = timing.wall_ms(machine, ours.with_copies(keypoints))
        ours.release()
    return found


def _eager(machine: Machine, network: Network, budget: Budget) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model, rows = Plain(network.fused, dtype, machine.device), []
        for batch in _batches(machine):
            if budget.allows(f"eager, {name}, batch {batch}"):
                rows.append(_plain_row(machine, network, model, batch))
        found[name] = rows
    return found


def _compiled(machine: Machine, network: Network, budget: Budget) -> list[dict[str, Any]]:
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


def _power(machine: Machine, network: Network, precisions: list[str], budget: Budget) -> dict[str, Any]:
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


def _ops(machine: Machine, capability: int, precisions: list[str]) -> dict[str, Any]:
    """Every kernel alone, at a batch that fills the GPU, with the tiles for many tokens."""
    windows, tokens = (256, 243) if machine.is_gpu else (1, 9)
    return {name: dict(_op_rows(machine, capability, name, windows, tokens)) for name in precisions}


def _op_rows(machine: Machine, capability: int, precision: str, windows: int, tokens: int) -> Any:
    sizes = Sizes() if machine.is_gpu else SMALL
    some, c, h = Operands(machine.device, 4), sizes.channels, sizes.hidden
    narrow = torch.float16 if precision == "fp16" else torch.bfloat16
    x, mixed = (some.normal(windows, tokens, c, dtype=narrow) for _ in range(2))
    norm, position = some.norm(c), some.normal(tokens, c)
    layer = [some.product(c, c, precision), some.product(h, c, precision)]
    encoder = [some.product(h, cost.INPUTS, "fp32"), *(some.product(o, h, precision) for o in (h, h, c))]
    keypoints, qkv = (
        some.normal(windows, tokens, cost.INPUTS, scale=0.3),
        some.normal(windows, tokens, 3 * c, dtype=narrow),
    )
    calls: dict[str, Callable[..., object]] = {
        "spatial_encoder": lambda **to: launch.spatial_encoder(keypoints, encoder, position, narrow, **to),
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
        kind = "half" if name == "attention" else tuning.CLASSES[products["qkv"].weight.dtype]
        choice = tuning.choice(name, kind, capability)
        if choice is None:
            continue
        found: dict[str, Any] = dict(timing.device_ms(machine, partial(call, tiles=choice.many)))
        seconds, one = found["median_ms"] / 1e3, counted[name]
        if machine.is_gpu:
            found["operations_per_s"] = windows * one.operations / seconds
            found["bytes_per_s"] = (windows * one.token_bytes + one.weight_bytes) / seconds
        yield name, found


def _shares(found: dict[str, Any], network: Network) -> dict[str, Any] | None:
    """How much of the measured peak the whole network reached at its best batch, by precision."""
    if not found.get("peaks") or not found.get("ours") or found["dry_run"]:
        return None
    total, shares = cost.operations(network.frames, network.layers), {}
    for precision, rows in found["ours"].items():
        rates = [row["windows_per_s"] for row in rows if row["windows_per_s"]]
        peak = found["peaks"].get(precision)
        shares[precision] = max(rates) * total / peak if rates and peak else None
    return shares


def _projections(found: dict[str, Any], network: Network) -> list[dict[str, Any]] | None:
    """Chips that are not here, from the share of the larger limit that every op reached here. Never a measurement."""
    if not found.get("peaks") or not found.get("ops") or found["dry_run"]:
        return None
    out: list[dict[str, Any]] = []
    for precision, rows in found["ops"].items():
        shares = _efficiency(rows, precision, found["peaks"])
        if shares is not None and precision != "fp16":
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
        peak = peaks.get("bf16" if name == "attention" else precision)
        if not peak or not peaks.get("copy"):
            return None
        shares[name] = max(row["operations_per_s"] / peak, row["bytes_per_s"] / float(peaks["copy"] or 1))
    return shares | {"head": min(shares.values())}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 400 else text[:400] + " ..."
