"""What this machine is and what it lacks: CPU, memory, GPU, native library and runtimes, none of them imported."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pstmo_edge._version import __version__
from pstmo_edge.kernels import native
from pstmo_edge.targets import TARGETS, detect_target, machine_features

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PROC, _DEVICES, _DEVICE_TREE = Path("/proc"), Path("/dev"), Path("/sys/firmware/devicetree/base/model")


@dataclass(frozen=True)
class Runtime:
    """One optional package: its installed version or None, what it is for, and the command that installs it."""

    name: str
    version: str | None
    purpose: str
    install: str


@dataclass(frozen=True)
class Native:
    """The native library: its version and file, or why there is none."""

    version: str | None
    path: str | None
    why_unavailable: str | None


@dataclass(frozen=True)
class Diagnosis:
    """One machine; sizes in bytes, None where the system does not tell."""

    os: str
    python: str
    package: str
    cpu: str
    cores: int
    cpu_features: tuple[str, ...]
    target: str
    weight_bits: int
    memory_total: int | None
    memory_available: int | None
    disk_free: int
    gpus: tuple[str, ...]
    board: str | None
    native: Native
    runtimes: tuple[Runtime, ...]

    def missing(self) -> tuple[Runtime, ...]:
        """Return the runtimes that are not installed; those that need an NVIDIA GPU only where there is one."""
        return tuple(r for r in self.runtimes if r.version is None and (self.gpus or r.name not in _NEEDS_GPU))

    def as_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists, strings and numbers."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


# name, distributions that bring it (the first that is installed counts), purpose, how to install it
_RUNTIMES: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    ("torch", ("torch",), "build, train, eval of checkpoints", "pip install 'pstmo-edge[build]'"),
    ("onnx", ("onnx",), "export", "pip install 'pstmo-edge[build]'"),
    (
        "onnxruntime",
        ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
        "backend onnxruntime",
        "pip install 'pstmo-edge[onnxruntime]'",
    ),
    ("openvino", ("openvino",), "backend openvino", "pip install 'pstmo-edge[openvino]'"),
    ("scipy", ("scipy",), "the .mat files of MPI-INF-3DHP; run with several people", "pip install 'pstmo-edge[data]'"),
    ("h5py", ("h5py",), "the .mat files of MPI-INF-3DHP", "pip install 'pstmo-edge[data]'"),
    (
        "tensorrt",
        ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt_lean"),
        "backend tensorrt, on NVIDIA GPUs",
        "pip install 'tensorrt>=10.3,<12'",
    ),
    ("cuda-python", ("cuda-python", "cuda-bindings"), "device memory of backend tensorrt", "pip install cuda-python"),
    ("av", ("av",), "run: cameras, videos, view to .mp4", "pip install 'pstmo-edge[app]'"),
    ("rerun", ("rerun-sdk",), "run --view rerun", "pip install 'pstmo-edge[view]'"),
    ("rtmlib", ("rtmlib",), "run --detector rtmlib", "pip install 'pstmo-edge[rtmlib]'"),
    (
        "mediapipe",
        ("mediapipe",),
        "run --detector mediapipe",
        "pip install 'pstmo-edge[mediapipe]'  # in an environment of its own: it needs NumPy 1",
    ),
    ("ray", ("ray",), "lift --ray", "pip install 'pstmo-edge[ray]'"),
    ("triton", ("triton",), "GPU kernels of torch", "pip install triton"),
)
# JetPack brings its own TensorRT, and a pip one beside it does not fit its driver.
_ON_JETSON = {"tensorrt": "sudo apt install python3-libnvinfer; python3 -m venv --system-site-packages .venv"}
_NEEDS_GPU = frozenset({"tensorrt", "triton", "cuda-python"})


def diagnose(folder: Path | None = None) -> Diagnosis:
    """Look at this machine without importing a runtime; free disk is that of `folder` (default: the current one)."""
    total, available = _memory()
    target = TARGETS[detect_target()]
    return Diagnosis(
        os=f"{platform.system()} {platform.release()} ({_distribution()}), {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        package=__version__,
        cpu=_cpu_model(),
        cores=_cores(),
        cpu_features=tuple(sorted(machine_features())),
        target=target.name,
        weight_bits=target.weight_bits,
        memory_total=total,
        memory_available=available,
        disk_free=shutil.disk_usage(folder or Path()).free,
        gpus=_gpus(),
        board=_text(_DEVICE_TREE).strip("\0\n ") or None,
        native=Native(native.version(), _string(native.path()), native.why_unavailable()),
        runtimes=tuple(
            Runtime(name, _version(dists), why, _ON_JETSON.get(name, how) if _is_jetson() else how)
            for name, dists, why, how in _RUNTIMES
        ),
    )


def render(diagnosis: Diagnosis, console: "Console | None" = None) -> None:
    """Print a diagnosis as tables, and below them the commands that install what is missing."""
    from rich.console import Console

    console = console or Console()
    console.print(_machine_table(diagnosis))
    console.print(_runtime_table(diagnosis.runtimes))
    if diagnosis.native.why_unavailable:
        console.print(f"No native library: {diagnosis.native.why_unavailable}", markup=False, soft_wrap=True)
    commands = dict.fromkeys(runtime.install for runtime in diagnosis.missing())
    if commands:
        console.print("\nTo install what is missing:")
    for command in commands:
        console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)


def _machine_table(d: Diagnosis) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table("", "", title="Machine", show_header=False, title_justify="left")
    table.columns[1].overflow = "fold"
    rows = {
        "pstmo-edge": d.package,
        "system": d.os,
        "board": d.board,
        "Python": d.python,
        "CPU": f"{d.cpu}, {d.cores} cores for this process",
        "CPU features": " ".join(d.cpu_features) or "unknown",
        "target": f"{d.target} ({d.weight_bits}-bit weights: {TARGETS[d.target].why})",
        "memory": f"{_gigabytes(d.memory_available)} free of {_gigabytes(d.memory_total)}",
        "disk": f"{_gigabytes(d.disk_free)} free here",
        "GPU": "\n".join(d.gpus) or "no NVIDIA GPU found",
        "native library": f"{d.native.version} ({d.native.path})" if d.native.version else "missing",
    }
    for name, value in rows.items():
        if value is not None:
            table.add_row(name, escape(value))
    return table


def _runtime_table(runtimes: Sequence[Runtime]) -> "Table":
    from rich.table import Table

    table = Table("runtime", "version", "for", title="Runtimes", title_justify="left")
    for runtime in runtimes:
        table.add_row(runtime.name, runtime.version or "[yellow]not installed[/]", runtime.purpose)
    return table


def _is_jetson() -> bool:
    return "Jetson" in _text(_DEVICE_TREE)


def _version(distributions: Sequence[str]) -> str | None:
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.version()


def _cpu_model() -> str:
    for line in _text(_PROC / "cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"model name", "Model"}:
            return value.strip()
    return platform.processor() or "unknown CPU"


def _cores() -> int:
    """Return how many cores this process may use, which in a container is often fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> tuple[int | None, int | None]:
    """Return total and available memory in bytes, as Linux tells them."""
    fields = dict(line.split(":", 1) for line in _text(_PROC / "meminfo").splitlines() if ":" in line)

    def size(name: str) -> int | None:
        return int(fields[name].split()[0]) * 1024 if name in fields else None

    return size("MemTotal"), size("MemAvailable")


def _gpus() -> tuple[str, ...]:
    """Return NVIDIA GPUs by name, driver and memory; a driver without its tool still shows as one entry."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        found = tuple(line.strip() for line in answer.stdout.splitlines() if line.strip())
    except (OSError, subprocess.SubprocessError):
        found = ()
    if found:
        return found
    driver = _text(_PROC / "driver/nvidia/version").partition("\n")[0]
    if driver or (_DEVICES / "nvidia0").exists() or (_DEVICES / "nvhost-gpu").exists():
        return (driver or "NVIDIA GPU (nvidia-smi does not answer)",)
    return ()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _string(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _gigabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.1f} GiB"
