"""libpstmo_edge on the GPU that is here: the same kernels without Python around them, checked first, then timed.

From a checkout, with what `gpu.py` has: the library is built with CMake where none is installed, and the bundle is
written here, since the package's own writer needs more than torch, triton, NumPy and safetensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from pstmo_edge import __version__
from pstmo_edge.benchmarks import gpu_timing as timing
from pstmo_edge.benchmarks.gpu import BATCHES, ROOT, Budget
from pstmo_edge.benchmarks.gpu_checks import Check, Operands, check_network, failed
from pstmo_edge.benchmarks.gpu_networks import Network
from pstmo_edge.benchmarks.gpu_timing import Machine
from pstmo_edge.errors import BackendError
from pstmo_edge.files import write_atomic
from pstmo_edge.kernels import native
from pstmo_edge.kernels.abi import NativeEngine
from pstmo_edge.kernels.cuda import single_window
from pstmo_edge.kernels.triton.packing import SingleCompiler, kernel_files
from pstmo_edge.kernels.triton.plan import Compiler, compiler_for
from pstmo_edge.skeletons import get_skeleton

MAX_BATCH = 1024
SINGLE = "fp16, single launch"
_JOINTS = "human36m-17"


def need_library() -> None:
    """The library, built in a folder of its own where the package has none; raises BackendError where it cannot be."""
    if native.available():
        return
    if shutil.which("cmake") is None or not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise BackendError(f"no libpstmo_edge ({native.why_unavailable()}), and no CMake and C++ compiler to build it")
    folder = Path(tempfile.mkdtemp(prefix="pstmo-edge-library-"))
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(folder)],
        ["cmake", "--build", str(folder), "--target", "pstmo_edge", "-j", str(os.cpu_count() or 1)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise BackendError(f"libpstmo_edge does not build: {' '.join((done.stderr or done.stdout).split())[-300:]}")
    os.environ[native.LIBRARY_VARIABLE] = str(folder / "libpstmo_edge.so")
    native._load.cache_clear()
    if not native.available():
        raise BackendError(str(native.why_unavailable()))


def write_folder(
    folder: Path, network: Network, precision: str, chip: str, single: SingleCompiler | None = None,
    compilers: Callable[[int], Compiler] = compiler_for,
) -> None:  # fmt: skip
    """A bundle that holds this network for one chip and for no CPU."""
    files = {"weights.safetensors": save({}), **kernel_files(network.lifter(precision), network.frames, [chip], single,
                                                             compilers)}  # fmt: skip
    folder.mkdir()
    for name, data in files.items():
        write_atomic(folder / name, data)
    document = _manifest(network, precision, files)
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    document["manifest_sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    write_atomic(folder / "manifest.json", json.dumps(document, indent=2).encode() + b"\n")


def _manifest(network: Network, precision: str, files: dict[str, bytes]) -> dict[str, Any]:
    joints, config, centre = list(get_skeleton(_JOINTS).joints), network.config, network.frames // 2
    entries = [
        {"path": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
    ]
    return {
        "schema_version": 1, "pstmo_edge_version": __version__, "created": "2026-01-01T00:00:00Z",
        "input": {
            "skeleton": _JOINTS, "joints": joints, "channels": ["x", "y"], "frames": network.frames, "t_downsample": 1,
            "frame_rate": 50.0, "target_index": centre, "lookahead_frames": network.frames - 1 - centre,
            "normalisation": "screen: x / w * 2 - 1, y / w * 2 - h / w",
            "units": "pixels before normalisation, image width 2 after it",
        },
        "output": {
            "skeleton": _JOINTS, "joints": joints, "frames": None, "units": "metres", "frame": "camera, root-relative",
            "camera_convention": "x right, y down, z forward, away from the camera",
        },
        "model": {
            "name": "p-stmo-s",
            "config": {
                "frames": network.frames, "layers": config.layers, "channels": config.channels,
                "hidden": config.hidden, "heads": config.heads, "joints": len(joints), "dropout": config.dropout,
            },
            "parameters": 0, "weights_sha256": entries[0]["sha256"],
        },
        "precision": {"requested": precision, "layers": [], "left_in_float": []},
        "target": {"name": "generic", "weight_bits": 8, "requires": []},
        "backend": {"name": "native", "version": __version__, "versions": {}},
        "calibration": None, "accuracy": None, "files": entries,
    }  # fmt: skip


class LibraryRun:
    """The library's engines on this GPU by what they run, each checked before it may be timed."""

    def __init__(self, machine: Machine, network: Network, capability: int) -> None:
        self.machine, self.network, self.capability = machine, network, capability
        self.engines: dict[str, NativeEngine] = {}

    def checks(
        self,
        precisions: list[str],
        truth: Callable[[Any], Any],
        plain: Callable[[str], list[Any]],
        batches: tuple[int, ...],
    ) -> Iterator[Check]:
        """Every precision's poses against float64, as `check_network` has it; the engines that pass are kept."""
        variants: list[tuple[str, str, SingleCompiler | None]] = [(name, name, None) for name in precisions]
        if "fp16" in precisions and shutil.which("nvcc") is not None:
            variants.append((SINGLE, "fp16", single_window.compiled))
        for name, precision, single in variants:
            try:
                engine = self._opened(precision, single)
                found = list(
                    check_network(
                        f"libpstmo_edge, {name}", precision, self._poses(engine), plain(precision), truth, batches,
                        self.network.frames, self.machine.device,
                    )
                )  # fmt: skip
            except Exception as error:  # a precision that does not open must not cost what the others measure
                yield failed(f"libpstmo_edge, {name}", precision, "", error)
                continue
            yield from found
            if all(check.passed for check in found):
                self.engines[name] = engine

    def _opened(self, precision: str, single: SingleCompiler | None) -> NativeEngine:
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent, "bundle")
            write_folder(folder, self.network, precision, f"sm_{self.capability}", single)
            return NativeEngine(folder, device="cuda", max_batch=MAX_BATCH)

    def _poses(self, engine: NativeEngine) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda keypoints: torch.from_numpy(engine.run(keypoints.cpu().numpy())).to(keypoints.device)

    def timed(self, budget: Budget) -> dict[str, Any]:
        """From arrays to poses through the C ABI by the clock on the wall, copies and the call from Python included."""
        found: dict[str, Any] = {}
        for name, engine in self.engines.items():
            rows = found[name] = []
            for batch in (each for each in BATCHES if each <= MAX_BATCH):
                if budget.allows(f"libpstmo_edge, {name}, batch {batch}"):
                    keypoints = Operands(self.machine.device, 3).normal(batch, self.network.frames, 17, 2, scale=0.3)
                    windows = keypoints.cpu().numpy()
                    times = timing.wall_ms(self.machine, partial(engine.run, windows))
                    rows.append({**times, "batch": batch, "windows_per_s": batch / times["median_ms"] * 1e3})
        return found
