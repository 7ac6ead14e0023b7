"""Opens foreign .mat files without letting their readers into this process.

Versions 4 to 7 are read by SciPy, whose reader dies on some damaged files; version 7.3 is HDF5 and read by h5py.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pstmo_edge.arrays import FloatArray
from pstmo_edge.datasets.foreign import read_in_child
from pstmo_edge.errors import DataError

CHILD = Path(__file__).with_name("_mat_file_child.py")
_HDF5 = b"\x89HDF\r\n\x1a\n"
_USER_BLOCK = 512  # where HDF5 begins in a file of version 7.3: Matlab's own header is before it


def read_mat(path: Path, *names: str) -> dict[str, FloatArray]:
    """The named variables as plain numbers, axes in Matlab's order; a cell array's are "name/row/column".

    Raises DataError for a file that is missing, damaged or without one of them, and where a reader is not installed.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    library = "h5py" if _is_hdf5(path) else "scipy"
    require_data_library(library, f"{path} cannot be opened")
    return read_in_child(CHILD, path, library, *names, remedy="download it again")


def require_data_library(name: str, problem: str) -> None:
    """Raise DataError, which begins with `problem`, unless an optional package for datasets is installed."""
    if importlib.util.find_spec(name) is None:
        raise DataError(f"{problem}: it needs {name}, which is not installed; run pip install 'pstmo-edge[data]'")


def _is_hdf5(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(_USER_BLOCK + len(_HDF5))
    except OSError as error:
        raise DataError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    return start.startswith(_HDF5) or start[_USER_BLOCK:] == _HDF5
