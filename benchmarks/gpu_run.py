"""What `gpu.py` does, step by step; each step leaves its figures in one dictionary."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch
import triton

from pstmo_edge import __version__
from pstmo_edge.benchmarks import gpu_library, gpu_speeds
from pstmo_edge.benchmarks import gpu_timing as timing
from pstmo_edge.benchmarks.gpu import CHECKED_BATCHES, FP8_SINCE, PRECISIONS, Budget
from pstmo_edge.benchmarks.gpu_checks import SMALL, TOKENS, Sizes, check_network, check_ops, failed
from pstmo_edge.benchmarks.gpu_networks import (
    Network,
    Ours,
    Plain,
    random_network,
    trained_network,
)
from pstmo_edge.benchmarks.gpu_precision import as_kernels, poses_of
from pstmo_edge.benchmarks.gpu_timing import Machine
from pstmo_edge.benchmarks.provenance import commit
from pstmo_edge.errors import BackendError
from pstmo_edge.kernels.triton.engine import LEAST_CAPABILITY
from pstmo_edge.kernels.triton.lifter import lifter_of


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
    library = _library(machine, capability, good, network, found)
    save(found)
    if not arguments.checks_only:
        steps: list[tuple[str, Callable[[], Any]]] = [
            ("peaks", lambda: timing.peaks(machine)),
            ("ours", lambda: gpu_speeds.ours(machine, network, good, budget)),
            ("latency", lambda: gpu_speeds.latency(machine, network, good)),
            ("ops", lambda: gpu_speeds.ops(machine, capability, good)),
            ("eager", lambda: gpu_speeds.eager(machine, network, budget)),
            ("library", lambda: None if library is None else library.timed(budget)),
            ("power", lambda: gpu_speeds.power(machine, network, good, budget)),
            ("millimetres", lambda: _millimetres(machine, good, arguments.dry_run)),
            ("compiled", lambda: gpu_speeds.compiled(machine, network, budget)),
        ]
        for name, step in steps:
            found[name] = _attempted(name, step, found["not_measured"]) if budget.allows(name) else None
            print(f"{name}: {_short(found[name])}", flush=True)
            save(found)
        found["shares"] = gpu_speeds.shares(found, network)
        found["projections"] = gpu_speeds.projections(found, network)
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
            yield from _network_checks(machine, precision, network, gpu_speeds.DRY_BATCHES if dry else CHECKED_BATCHES)
        except Exception as error:  # the other precisions may still be right
            yield failed(network.name, precision, "", error).to_dict()


def _plain(machine: Machine, precision: str, network: Network) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    """Plain torch in the type of the tokens and, of a quantized network, its emulation.

    Of bf16 it is the kernels' arithmetic in plain torch: with a residual stream in bf16 too, as `.to(torch.bfloat16)`
    has it, its error would be so large that nothing could fail.
    """
    if precision == "bf16":
        lifter = lifter_of(network.fused).to(machine.device)
        return [lambda keypoints: poses_of(lifter, keypoints, as_kernels(TOKENS[precision]))]
    plain: list[Callable[[torch.Tensor], torch.Tensor]] = [Plain(network.fused, TOKENS[precision], machine.device)]
    return [*plain, network.on_cpu(precision)] if precision in ("int8", "fp8") else plain


def _network_checks(machine: Machine, precision: str, network: Network, batches: tuple[int, ...]) -> Any:
    truth = Plain(network.fused, torch.float64, machine.device)
    plain = _plain(machine, precision, network)
    ours = Ours(network.lifter(precision), network.frames, machine)
    for check in check_network(
        network.name, precision, ours.poses, plain, truth, batches, network.frames, machine.device
    ):
        print(f"{precision} {check.size}: error {check.error:.2e}, allowed {check.limit:.2e}", flush=True)
        yield check.to_dict()
    ours.release()


def _library(
    machine: Machine, capability: int, precisions: list[str], network: Network, found: dict[str, Any]
) -> gpu_library.LibraryRun | None:
    """The engine of libpstmo_edge: its checks are added to those found, what passed them is ready to be timed."""
    if not machine.is_gpu:
        found["not_measured"].append("libpstmo_edge: a dry run has no driver (tests/kernels/cuda stands in for one)")
        return None
    try:
        gpu_library.need_library()
    except BackendError as error:
        found["not_measured"].append(f"libpstmo_edge: {error}")
        return None
    truth = Plain(network.fused, torch.float64, machine.device)
    run = gpu_library.LibraryRun(machine, network, capability)
    for check in run.checks(precisions, truth, lambda precision: _plain(machine, precision, network), CHECKED_BATCHES):
        print(f"{check.what} {check.size}: error {check.error:.2e}, allowed {check.limit:.2e} {check.note}", flush=True)
        found["checks"].append(check.to_dict())
    return run


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


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 400 else text[:400] + " ..."
