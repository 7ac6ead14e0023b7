"""Results as files: FOLDER/DEVICE/NAME.json, so that those of one device stand together and can be compared.

`pstmo-edge bench --results FOLDER` writes them. What another run of the same kind on the same device found is replaced:
version control keeps what was before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pstmo_edge.benchmarks.report import Report
from pstmo_edge.files import write_atomic

RESULTS = Path("benchmarks/results")


def device_slug(provenance: Mapping[str, Any]) -> str:
    """A device as the name of a folder: the module of a board, or the CPU with its cores, and its GPUs.

    orin-nano-8gb-developer-kit, amd-epyc-2-cores, intel-xeon-gold-6430-16-cores-nvidia-h100.
    """
    board = provenance.get("device") or {}
    name = board.get("module") or board.get("name") or provenance.get("board")
    if not name:
        cores = provenance["cores"]
        gpus = dict.fromkeys(gpu.split(",")[0] for gpu in provenance.get("gpus", ()))  # "name, driver, memory"
        name = " ".join([provenance["cpu"], f"{cores} core{'s' if cores != 1 else ''}", *gpus])
    return _slug(name)


def result_name(provenance: Mapping[str, Any], what: str = "bench") -> str:
    """A run as the name of a file: what was measured, and how where that is not the usual.

    bench, seed-offline, bench-multi-stream-8-flip.
    """
    settings = provenance["settings"]
    scenario = settings["scenario"]
    parts = [what]
    if scenario != "single-stream":
        parts.append(scenario)
    if scenario == "multi-stream":
        parts.append(str(settings["streams"]))
    if settings["flip"]:
        parts.append("flip")
    return _slug("-".join(parts))


def keep(report: Report, folder: Path = RESULTS, what: str = "bench") -> Path:
    """Write a report's JSON below `folder` and return its path; raises WriteError."""
    found = report.provenance
    path = folder / device_slug(found) / f"{result_name(found, what)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(report.to_dict(), indent=2, allow_nan=False).encode() + b"\n")
    return path


def newest(name: str, folder: Path = RESULTS) -> Path | None:
    """The latest result of that name by its own date, of whatever device; None where there is none."""
    found = [*folder.glob(f"*/{name}.json"), *folder.glob(f"{name}.json")]
    return max(found, key=lambda path: json.loads(path.read_text())["provenance"]["date"], default=None)


def _slug(text: str) -> str:
    """Lower-case letters and digits with single hyphens between them, without (R) and (TM)."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", text.lower())).strip("-") or "unknown"
