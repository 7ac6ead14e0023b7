"""Kill a writer at random moments and look at what it leaves.

Usage: `python killed_writer.py {file|folder} FOLDER ROUNDS SEED`.

Prints JSON: rounds, how many left something half-written (must be 0), how many versions were seen, and the leftovers
after one more undisturbed write (must be none). Children are forked, so that a round costs milliseconds.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from pstmo_edge.files import write_atomic, write_folder_atomic

SIZE = 300_000


def content(version: int) -> bytes:
    return version.to_bytes(8, "big") * (SIZE // 8)


def write(kind: str, target: Path, version: int) -> None:
    if kind == "file":
        write_atomic(target, content(version))
        return
    with write_folder_atomic(target, force=True) as folder:
        for name in "ab":
            (folder / name).write_bytes(content(version))


def read(kind: str, target: Path) -> int | None:
    """The version that the target holds, or None when it is not one whole version."""
    paths = [target] if kind == "file" else [target / "a", target / "b"]
    if kind == "folder" and sorted(os.listdir(target)) != ["a", "b"]:
        return None
    found = [path.read_bytes() for path in paths]
    version = int.from_bytes(found[0][:8], "big")
    return version if all(data == content(version) for data in found) else None


def kill_one(kind: str, target: Path, start: int, seconds: float) -> None:
    child = os.fork()
    if child == 0:
        for version in range(start, start + 1_000_000):
            write(kind, target, version)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def main() -> None:
    kind, target, rounds = sys.argv[1], Path(sys.argv[2]) / "target", int(sys.argv[3])
    rng = random.Random(int(sys.argv[4]))
    write(kind, target, 0)
    seen, bad, killed_midway = {0}, 0, 0
    for index in range(rounds):
        kill_one(kind, target, (index + 1) << 32, rng.uniform(0.0, 0.03))
        killed_midway += len(os.listdir(target.parent)) > 1
        version = read(kind, target)
        bad += version is None
        seen.add(version or 0)
    write(kind, target, 1)
    left = sorted(set(os.listdir(target.parent)) - {"target"})
    print(json.dumps({"rounds": rounds, "bad": bad, "seen": len(seen), "midway": killed_midway, "left": left}))


if __name__ == "__main__":
    main()
