"""Runs the child processes that open foreign files, so that a hostile or damaged one cannot harm this process."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.errors import DataError

_MEMORY_FLOOR, _MEMORY_PER_BYTE = 2 << 30, 12
_WALL_SECONDS = 600


def read_in_child(child: Path, path: Path, *arguments: str, remedy: str) -> dict[str, FloatArray]:
    """The plain arrays that the script `child` finds in the file `path`, by name.

    The script is given the file, where to write an .npz, its limit on memory in bytes, and `arguments`. `remedy` tells
    the user what to do about a file it refuses or dies of; either is a DataError.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    memory = _MEMORY_FLOOR + _MEMORY_PER_BYTE * path.stat().st_size
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "plain.npz"
        # Isolated mode keeps the environment's and the current folder's modules out of the child.
        command = [sys.executable, "-I", str(child), str(path.resolve()), str(answer), str(memory), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_WALL_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise DataError(f"{path}: opening it took more than {_WALL_SECONDS} s") from None
        if done.returncode != 0:
            reason = _reason(done.returncode, done.stderr)
            raise DataError(f"{path} is no usable dataset file ({reason}); {remedy}")
        try:
            with np.load(answer, allow_pickle=False) as plain:
                return {name: plain[name] for name in plain.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            raise DataError(f"{path}: its reader left no usable answer; {remedy}") from None


def _reason(status: int, stderr: bytes) -> str:
    """Why a child failed: its last line, made printable and short, or the signal that it died of."""
    if status < 0:
        names = {int(each): each.name for each in signal.Signals}
        return f"its reader died of {names.get(-status, f'signal {-status}')}"
    lines = stderr.decode(errors="replace").strip().splitlines() or [f"status {status}"]
    return "".join(c if c.isprintable() else " " for c in lines[-1])[:200]
