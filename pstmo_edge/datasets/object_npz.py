"""Opens .npz files of object arrays (pickles inside) without letting them into this process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.errors import DataError

CHILD = Path(__file__).with_name("_object_npz_child.py")
_MEMORY_FLOOR, _MEMORY_PER_BYTE = 2 << 30, 12
_WALL_SECONDS = 600


def read_object_npz(path: Path) -> dict[str, FloatArray]:
    """Every array of the file by its path in it ("positions_3d/S1/Walking 1"); raises DataError."""
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    memory = _MEMORY_FLOOR + _MEMORY_PER_BYTE * path.stat().st_size
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "plain.npz"
        command = [sys.executable, "-I", str(CHILD), str(path.resolve()), str(answer), str(memory)]
        try:
            # Isolated mode keeps the environment's and the current folder's modules out of the child.
            done = subprocess.run(command, capture_output=True, timeout=_WALL_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise DataError(f"{path}: opening it took more than {_WALL_SECONDS} s") from None
        if done.returncode != 0:
            lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"status {done.returncode}"]
            reason = "".join(c if c.isprintable() else " " for c in lines[-1])[:200]
            raise DataError(f"{path} is no usable dataset file ({reason}); make it again with VideoPose3D's scripts")
        with np.load(answer, allow_pickle=False) as plain:
            return {name: plain[name] for name in plain.files}
