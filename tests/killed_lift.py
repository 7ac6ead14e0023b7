"""Kill `pstmo-edge lift` at random moments, start it again, and count what was lost or done twice.

Usage: `python killed_lift.py ENGINE FOLDER FILES KILLS SEED [SECONDS]` (SECONDS: the latest moment of a kill).

Prints JSON. An output that a later run wrote again would have another inode; one that is lost is missing or has not the
poses that one undisturbed forward gives.
"""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from recordings import write_archive

import pstmo_edge as pe
from pstmo_edge.datasets import keypoint_file
from pstmo_edge.evaluation import predict_all


def outputs(out: Path) -> dict[str, tuple[int, int]]:
    """Every finished file with its inode and size."""
    return {str(path): (path.stat().st_ino, path.stat().st_size) for path in out.rglob("*.npz") if path.name[0] != "."}


def run(engine: str, source: Path, out: Path, wait: float | None) -> dict | None:
    """One run; None where it was killed after `wait` seconds of lifting."""
    command = [sys.executable, "-m", "pstmo_edge", "lift", str(source), "--out", str(out), "--engine", engine]
    had = len(outputs(out)) if out.exists() else 0
    child = subprocess.Popen([*command, "--threads", "1", "--json"], stdout=subprocess.PIPE, text=True)
    if wait is None:
        text = child.communicate()[0]
        assert child.returncode == 0, text
        return json.loads(text)
    while child.poll() is None and len(outputs(out) if out.exists() else ()) == had:
        time.sleep(0.01)  # so that kills fall into the work and not into the start of Python
    time.sleep(wait)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    return None


def lost(engine, recordings: list[Path], source: Path, out: Path) -> int:
    """How many recordings have not exactly their own poses."""
    sequences = [keypoint_file.load(path) for path in recordings]
    expected = predict_all(engine.infer, sequences, engine.spec)
    ends = np.cumsum([len(sequence) for sequence in sequences])[:-1]
    count = 0
    for path, right in zip(recordings, np.split(expected, ends), strict=True):
        target = out / path.relative_to(source)
        if target.is_file():
            with np.load(target) as found:
                poses = found["poses"]
            count += poses.shape != right.shape or not np.allclose(poses, right, atol=1e-5)
        else:
            count += 1
    return int(count)


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    files, kills, rng = int(sys.argv[3]), int(sys.argv[4]), random.Random(int(sys.argv[5]))
    latest = float(sys.argv[6]) if len(sys.argv) > 6 else 0.3
    source, out = folder / "in", folder / "out"
    recordings = write_archive(source, files)
    before: dict[str, tuple[int, int]] = {}
    repeated, progress, midway = 0, [], 0
    for _ in range(kills):
        run(name, source, out, rng.uniform(0, latest))
        now = outputs(out)
        repeated += sum(now.get(path) != known for path, known in before.items())
        midway += any(path.name.endswith(".part") for path in out.rglob("*"))
        before = now
        progress.append(len(now))
    last = run(name, source, out, None)
    now = outputs(out)
    repeated += sum(now.get(path) != known for path, known in before.items())
    missing = lost(pe.load_engine(name, threads=1), recordings, source, out)
    left = [path.name for path in out.rglob("*") if path.name.endswith(".part")]
    again = run(name, source, out, None)
    print(
        json.dumps(
            {
                "files": files, "kills": kills, "done_at_each_kill": progress, "kills_in_a_write": midway,
                "lost": missing, "repeated": repeated, "left_over": len(left),
                "last_run": {key: last[key] for key in ("lifted", "skipped")},
                "run_again": {key: again[key] for key in ("lifted", "skipped")},
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
