"""Check and time the GPU kernels on the GPU that is here: one command, eight minutes, no network.

    python benchmarks/gpu.py                 from a checkout, with nothing but torch, triton, NumPy and safetensors
    python benchmarks/gpu.py --dry-run       the same road on a CPU, at toy sizes; its times mean nothing
    python benchmarks/gpu.py --sanitize      memory errors and races of all kernels, found by compute-sanitizer: slow

writes `benchmarks/results/gpu-DEVICE.json`, the last one `gpu-DEVICE-sanitizer.json`. What fails a check is not timed,
what there was no time for is listed under "not_measured", and the exit status is 1 where a check failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BATCHES = (1, 4, 16, 64, 256, 1024, 4096)
COMPILED_BATCHES = (1, 1024, 64, 4096)
CHECKED_BATCHES = (1, 3, 17)
PRECISIONS = ("bf16", "fp16", "int8", "fp8")
FP8_SINCE = 89
SANITIZERS = ("memcheck", "racecheck")


def make_importable() -> None:
    """One package made of links to the folders of a checkout, where it is not installed."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks"]
    package = Path(tempfile.mkdtemp(prefix="pstmo-edge-")) / "pstmo_edge"
    package.mkdir()
    for source in (
        *(ROOT / "pstmo_edge").iterdir(),
        *(ROOT / name for name in ("train", "calib", "kernels", "benchmarks")),
    ):
        (package / source.name).symlink_to(source)
    sys.path.insert(0, str(package.parent))


class Budget:
    """The seconds of the whole run, and what was left out because they were spent."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.left_out: list[str] = []

    def allows(self, what: str, needs: float = 5.0) -> bool:
        """Whether there is time for `what`; if not it is noted."""
        if time.monotonic() + needs < self.end:
            return True
        self.left_out.append(f"{what}: out of time")
        return False


def main() -> None:
    """Check, time, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="on a CPU through triton's interpreter, at toy sizes")
    parser.add_argument("--sanitize", action="store_true", help="the checks alone, under compute-sanitizer")
    parser.add_argument("--checks-only", action="store_true", help="time nothing")
    parser.add_argument("--seconds", type=float, default=440.0, help="of the whole run")
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--frames", type=int, default=243)
    parser.add_argument("--out", type=Path, help="the JSON; by default named after the device")
    arguments = parser.parse_args()
    if arguments.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"
    elif os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET is set: unset it, or give --dry-run")
    if arguments.sanitize:
        sanitize(arguments.precisions, arguments.out)
        return
    from pstmo_edge.benchmarks.gpu_run import measure

    budget = Budget(arguments.seconds)
    found = measure(arguments, budget, lambda so_far: write(arguments.out or default_path(so_far), so_far))
    out = arguments.out or default_path(found)
    write(out, found)
    print(f"written: {out}")
    failed = [check for check in found["checks"] if not check["passed"]]
    if failed:
        sys.exit(f"{len(failed)} of {len(found['checks'])} checks failed: see 'checks' in {out}")


def sanitize(precisions: list[str], out: Path | None) -> None:
    """Run the checks under each tool of compute-sanitizer and write its verdict; exits with 1 where one is bad."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        sys.exit("no compute-sanitizer here: it comes with the CUDA toolkit")
    checked: dict[str, Any] = {}
    tools: dict[str, Any] = {}
    for name in SANITIZERS:
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder, "checks.json")
            checks = [sys.executable, __file__, "--checks-only", "--seconds", "3000", "--out", str(result)]
            command = [tool, "--tool", name, "--error-exitcode", "1", *checks, "--precisions", *precisions]
            done = subprocess.run(command, capture_output=True, text=True)
            checked = json.loads(result.read_text()) if result.exists() else checked
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("=========")]
        tools[name] = {"passed": done.returncode == 0, "said": said[-20:]}
        print(f"{name}: {'passed' if done.returncode == 0 else 'FAILED'}: {said[-1] if said else 'it said nothing'}")
    found = {key: value for key, value in checked.items() if key != "checks"} | {
        "checks": len(checked.get("checks", [])), "precisions": precisions, "sanitizer": tools,
    }  # fmt: skip
    write(out or default_path({"device": {"name": "unknown"}} | found, "-sanitizer"), found)
    if not all(each["passed"] for each in tools.values()):
        sys.exit("compute-sanitizer found errors, or the checks failed under it")


def default_path(found: dict[str, Any], suffix: str = "") -> Path:
    """Beside the other results, by the device's name."""
    name = re.sub(r"[^a-z0-9]+", "-", found["device"]["name"].lower()).strip("-")
    return ROOT / "benchmarks" / "results" / f"gpu-{name}{suffix}.json"


def write(out: Path, found: dict[str, Any]) -> None:
    """The JSON, as a whole or not at all."""
    from pstmo_edge.files import write_atomic

    write_atomic(out, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    if not __package__:
        make_importable()
    main()
