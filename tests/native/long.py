"""The long native tests: `python tests/native/long.py` runs them and renews docs/reliability.md from their logs.

The figures take about an hour of one core: a camera's year does not fit a CI run. `--jobs soak,fuzz` runs some of them,
`--render` none; what was not run keeps its last log in build/reliability.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOGS = ROOT / "build" / "reliability"
PAGE = ROOT / "docs" / "reliability.md"
START, END = "<!-- reliability: made by tests/native/long.py -->", "<!-- end of reliability -->"


@dataclass(frozen=True)
class Job:
    """One long test: how it is run, and how its log becomes (tried, failed, remark)."""

    what: str
    preset: str
    command: tuple[str, ...]
    read: Callable[[str], tuple[int, int, str]]


def _soak(log: str) -> tuple[int, int, str]:
    found = {name: int(value) for name, value in re.findall(r'"(\w+)": (-?\d+)', log)}
    bad = found["not_finite"] + found["unflagged"] + found["allocations"]
    remark = (
        f"{found['results']:,} poses, {found['gaps']:,} gaps, {found['rejected']:,} frames rejected; "
        f"{found['allocations']} allocations, resident memory grew by {found['resident_growth_bytes'] / 1024:.0f} KB"
    )
    return found["frames"], bad, remark


def _fuzz(log: str) -> tuple[int, int, str]:
    mutants = int(re.search(r"(\d+) mutants", log)[1])
    reports = log.count("ERROR:") + log.count("runtime error")
    return mutants, reports, "a planted bug is found first, within 8,000 mutants"


def _checks(log: str) -> tuple[int, int, str]:
    done, failed = map(int, re.search(r"(\d+) checks, (\d+) failed", log).groups())
    return done, failed, ""


def _threads(log: str) -> tuple[int, int, str]:
    each = int(re.search(r"calls a thread: (\d+)", log)[1])
    ok, busy, wrong = map(int, re.search(r"(\d+) ok, (\d+) busy, (\d+) wrong", log).groups())
    races = log.count("WARNING: ThreadSanitizer")
    remark = f"8 handles at once equal to one; one handle from two threads: {busy:,} of {ok + busy:,} answered BUSY"
    return 18 * each + ok + busy, wrong + races, remark  # nine cameras push and read


def _memory(log: str) -> tuple[int, int, str]:
    tried = sum(map(int, re.findall(r"(\d+) allocations made to fail", log)))
    return tried, int(re.search(r"(\d+) failed", log)[1]), "OUT_OF_MEMORY each time, nothing lost"


def _footprint(log: str) -> tuple[int, int, str]:
    found = {name: float(value) for name, value in re.findall(r'"(\w+)": ([\d.]+)', log)}
    remark = (
        f"worst of all: open {found['open_ms']:.0f} ms, first pose {found['first_pose_ms']:.0f} ms, "
        f"{found['peak_resident_bytes'] / 1e6:.1f} MB resident"
    )
    return int(found["tries"]), int(re.search(r"(\d+) failed", log)[1]), remark


JOBS = {
    "soak": Job(
        "frames with NaN, missing joints, gaps, set clocks, reordered times: P-STMO-S, 9 frames",
        "native", ("soak", "small", "1000000"), _soak,
    ),
    "soak-tiny": Job(
        "the same, four days at 30 frames a second: a tiny engine", "native", ("soak", "tiny", "10400000"), _soak
    ),
    "fuzz": Job(
        "mutants of a bundle with a corrected digest, under ASan and UBSan",
        "asan",
        ("fuzz_bundle", "1000000", "7"),
        _fuzz,
    ),
    "flips": Job(
        "checks of damaged bundles: every flipped bit and every cut of the manifest and the weights' header",
        "native", ("test_bundles", "all"), _checks,
    ),
    "plans": Job(
        "mutants of a launch plan and its cubins, under ASan and UBSan", "asan", ("fuzz_plan", "300000", "7"), _fuzz
    ),
    "cuda": Job(
        "checks of the CUDA engine, the driver a stand-in, under ASan and UBSan: every call of the driver failing, "
        "every cut of a plan and a cubin, every ninth of a plan's bits and every bit of a cubin flipped",
        "asan", ("test_cuda_failures", "./libstandin_cuda.so", "1"), _checks,
    ),
    "threads": Job("calls of the ABI under TSan", "tsan", ("test_threads", "tiny", "36000"), _threads),
    "footprint": Job(
        "programs that open P-STMO-S of 243 frames in INT8: first pose in 150 ms, 40 MB resident",
        "native", ("footprint", "long", "100", "150"), _footprint,
    ),
    "memory": Job("allocations made to fail in turn", "native", ("test_memory", "tiny"), _memory),
}  # fmt: skip


def run(name: str) -> None:
    """Build what the job needs, run it at low priority, and keep its log."""
    job = JOBS[name]
    subprocess.run(["cmake", "--preset", job.preset], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    build = ["cmake", "--build", "--preset", job.preset, "-j", str(os.cpu_count() or 1)]
    subprocess.run(build, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    folder = ROOT / "build" / ("native" if job.preset == "native" else f"native-{job.preset}") / "tests" / "native"
    for kind in set(job.command) & {"tiny", "small", "long"}:
        subprocess.run([folder / "make_bundle", folder / kind, kind], check=True)
    done = subprocess.run(
        ["nice", "-n", "10", folder / job.command[0], *job.command[1:]], cwd=folder, capture_output=True, text=True
    )
    LOGS.mkdir(parents=True, exist_ok=True)
    (LOGS / f"{name}.txt").write_text(f"{done.stdout}{done.stderr}exit status {done.returncode}\n{_stamp()}\n")


def _stamp() -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    return f"{datetime.now(timezone.utc):%Y-%m-%d}, {commit.strip()}"


def table() -> str:
    """The figures of all logs that there are."""
    lines = [
        "| what | tried | failed | rate below, 95 % | remark | when, commit |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    for name, job in JOBS.items():
        path = LOGS / f"{name}.txt"
        if not path.exists():
            continue
        log = path.read_text()
        tried, failed, remark = job.read(log)
        if failed == 0 and "exit status 0" not in log:
            failed = 1
        bound = f"{3 / tried:.0e}" if failed == 0 else "-"
        lines.append(f"| {job.what} | {tried:,} | {failed} | {bound} | {remark} | {log.splitlines()[-1]} |")
    return "\n".join(lines)


def render() -> None:
    """Put the table between its marks in docs/reliability.md."""
    page = PAGE.read_text()
    before, rest = page.split(START)
    PAGE.write_text(f"{before}{START}\n\n{table()}\n\n{END}{rest.split(END)[1]}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", default=",".join(JOBS), help="names, separated by commas")
    parser.add_argument("--render", action="store_true", help="run nothing")
    given = parser.parse_args()
    if not given.render:
        for name in given.jobs.split(","):
            print(name, flush=True)
            run(name)
    render()
    sys.stdout.write(table() + "\n")


if __name__ == "__main__":
    main()
