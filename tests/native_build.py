"""The native tests' build, shared by all test processes: made once, under a lock."""

import fcntl
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@cache
def native_build(target: str = "all") -> Path:
    """The build folder of the preset `native` with `target` in it; skips where there is no compiler or no CMake."""
    if shutil.which("cmake") is None or not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("needs CMake and a C++ compiler")
    folder = ROOT / "build" / "native"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run("cmake", "--preset", "native")
        run("cmake", "--build", "--preset", "native", "--target", target, "-j", str(os.cpu_count() or 1))
    return folder


@cache
def native_bundle(kind: str = "tiny") -> Path:
    """A bundle of random weights for backend native: tiny, small (p-stmo-s with 9 frames) or int8 (the same)."""
    folder = native_build("make_bundle") / f"{kind}-{os.getpid()}"
    run(native_build("make_bundle") / "tests/native/make_bundle", folder, kind)
    return folder


def run(*command: str | Path) -> str:
    """Run a command at the root of the repository and return its output; an error shows what it said."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout
