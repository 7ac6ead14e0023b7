"""The child process that opens a foreign .mat file: run as a script, never imported by the package.

SciPy's reader was not made for hostile files and dies on some; here it takes nobody along. What leaves is an .npz of
plain arrays named by variable ("valid_frame") or by cell ("annot2/0/0").
Arguments: the file, where to write, the limit on memory in bytes, which library reads it, and the variables to read.
A refusal is one line on standard error.
"""

from __future__ import annotations

import importlib
import resource
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

CPU_SECONDS = 300


def main() -> None:
    """Convert one file."""
    source, target, memory, library, *names = sys.argv[1:]
    importlib.import_module({"scipy": "scipy.io"}.get(library, library))  # ours: before the limits that are the file's
    resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        np.savez(target, **dict(READERS[library](source, names)))
    except Exception as error:  # a hostile file can raise anything
        sys.exit(f"{type(error).__name__}: {error}"[:300])


def read_with_scipy(source: str, names: list[str]) -> Iterator[tuple[str, Any]]:
    """Versions 4 to 7; variables that nobody asked for are skipped unread."""
    from scipy.io import loadmat

    found = loadmat(source, appendmat=False, variable_names=names)
    for name in names:
        if name not in found:
            raise ValueError(f"it has no variable {name}")
        yield from flatten(name, found[name])


def read_with_h5py(source: str, names: list[str]) -> Iterator[tuple[str, Any]]:
    """Version 7.3, which stores axes in reverse; what points into another file, which HDF5 allows, is refused."""
    import h5py

    with h5py.File(source, "r") as file:
        for name in names:
            if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"it has no variable {name}")
            data = file[name]
            if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
                raise ValueError(f"{name} is no array of its own")
            yield from flatten(name, data[()].T)


def flatten(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Walk cell arrays down to numbers."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiubO":
        raise ValueError(f"{path} holds no numbers")
    if value.dtype != object:
        yield path, value
        return
    for index in np.ndindex(value.shape):
        yield from flatten("/".join([path, *map(str, index)]), value[index])


READERS = {"scipy": read_with_scipy, "h5py": read_with_h5py}

if __name__ == "__main__":
    main()
