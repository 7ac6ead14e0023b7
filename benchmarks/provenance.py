"""Where, with what and how a result was measured: what makes it worth quoting."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pstmo_edge import doctor
from pstmo_edge.benchmarks.devices import read_device, read_gpus
from pstmo_edge.benchmarks.timing import TimingPlan
from pstmo_edge.datasets import cmu_mocap
from pstmo_edge.naming import unknown

# One camera; many at once, whose windows share a forward; a recording, at the batch that passes most windows a second.
SCENARIOS = ("single-stream", "multi-stream", "offline")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Settings:
    """How engines are checked and timed; `threads` None leaves each runtime its own choice."""

    threads: int | None = None
    max_drop_mm: float = 1.0
    check_windows: int = 1024  # at 27 frames about two seconds for each engine
    timing_windows: int = 64  # the windows that are timed, in an endless circle
    data: str = cmu_mocap.NAME
    keypoints: str = "gt"
    scenario: str = "single-stream"  # one of SCENARIOS
    streams: int = 8  # people or cameras at once, of multi-stream
    flip: bool = False  # average with the mirrored window: two forwards a pose, and FPS counts both
    timing: TimingPlan = field(default_factory=TimingPlan)

    def __post_init__(self) -> None:
        """Refuse a scenario that is not there (UsageError)."""
        if self.scenario not in SCENARIOS:
            raise unknown("scenario", self.scenario, SCENARIOS)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def collect(settings: Settings) -> dict[str, Any]:
    """The machine, versions, commit, threads, load and date, as plain values. Machine-dependent paths are left out."""
    found = doctor.diagnose()
    return {
        "date": datetime.now(timezone.utc).replace(microsecond=0).isoformat(),
        "pstmo_edge": found.package,
        "commit": commit(),
        "cpu": found.cpu,
        "cores": found.cores,
        "cpu_features": list(found.cpu_features),
        "target": found.target,
        "board": found.board,
        "device": None if (device := read_device()) is None else device.to_dict(),
        "gpu_readings": read_gpus(),
        "gpus": list(found.gpus),
        "memory_bytes": found.memory_total,
        "os": found.os,
        "python": found.python,
        "native_library": found.native.version,
        "runtimes": {runtime.name: runtime.version for runtime in found.runtimes if runtime.version},
        "threads": thread_counts(settings.threads, found.cores),
        "load_average_before": _load_average(),
        "settings": settings.to_dict(),
    }


def thread_counts(asked: int | None, cores: int) -> dict[str, Any]:
    """What was asked of every runtime, what torch really uses, and the environment's own limits."""
    torch = sys.modules.get("torch")  # loaded by now if it is measured at all
    return {
        "asked": asked,
        "cores": cores,
        "torch": torch.get_num_threads() if torch is not None else None,
        **{name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ},
    }


def describe_threads(threads: Mapping[str, Any]) -> str:
    """The thread counts in a few words."""
    if threads["asked"] is not None:
        return f"{threads['asked']} thread{'s' if threads['asked'] != 1 else ''}"
    return f"each runtime's own threads on {threads['cores']} core{'s' if threads['cores'] != 1 else ''}"


def lacks_vnni(provenance: Mapping[str, Any]) -> bool:
    """Whether this is an x86 CPU without the instructions that INT8 is fast with."""
    features = set(provenance["cpu_features"])
    return "avx2" in features and "vnni" not in features


def commit() -> str | None:
    """The commit this package's sources are at, with "+changes" where they differ; None outside its own checkout."""
    root = Path(__file__).resolve().parents[1]
    # An installed copy may lie inside someone else's repository (a .venv in it): only the sources' own root counts.
    if not (root / ".git").exists() or not (root / "pyproject.toml").is_file():
        return None
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    if head is None:
        return None
    return head + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")


def _git(root: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _load_average() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):  # not on every system
        return None
