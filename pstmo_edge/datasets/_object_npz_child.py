"""The child process that opens a foreign .npz of object arrays: run as a script, never imported by the package.

Such files hold pickles. They are opened here, alone, under limits on memory and time, by an unpickler that knows only
NumPy's own arrays; what leaves is an .npz of plain arrays named by their path ("positions_3d/S1/Walking 1/0").
Arguments: the file, where to write, and the limit on memory in bytes. A refusal is one line on standard error.
"""

from __future__ import annotations

import io
import json
import pickle
import resource
import sys
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

CPU_SECONDS = 300
ALLOWED = {
    (module, name)
    for core in ("numpy.core", "numpy._core")
    for module, name in ((f"{core}.multiarray", "_reconstruct"), (f"{core}.multiarray", "scalar"))
} | {("numpy", "ndarray"), ("numpy", "dtype")}


class ArrayUnpickler(pickle.Unpickler):
    """Knows arrays and plain containers, and refuses all that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """The few constructors of arrays."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")
        return super().find_class(module, name)


def main() -> None:
    """Convert one file."""
    source, target, memory = sys.argv[1], sys.argv[2], int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        np.savez(target, **dict(plain_arrays(source)))
    except Exception as error:  # a hostile file can raise anything
        sys.exit(f"{type(error).__name__}: {error}"[:300])


def plain_arrays(source: str) -> Iterator[tuple[str, Any]]:
    """Every array of the file by its path."""
    with zipfile.ZipFile(source) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                yield from flatten(member.removesuffix(".npy"), read_member(io.BytesIO(file.read())))


def read_member(file: BinaryIO) -> Any:
    """One .npy: a plain array, or what an object array of one element holds."""
    version = np.lib.format.read_magic(file)
    header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    dtype = header(file)[2]
    if not dtype.hasobject:
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)
    return ArrayUnpickler(file).load()


def flatten(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Walk dicts, lists and object arrays down to numbers; what is no number is kept as JSON text."""
    if isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 0:
        value = value.item()
    if path == "metadata":
        yield path, np.array(json.dumps(value))
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from flatten(f"{path}/{key}", inner)
    elif isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.dtype == object):
        for index, inner in enumerate(value):
            yield from flatten(f"{path}/{index}", inner)
    elif isinstance(value, (int, float, np.number)) or (isinstance(value, np.ndarray) and value.dtype.kind in "fiub"):
        yield path, np.asarray(value)
    else:
        raise ValueError(f"{path} holds a {type(value).__name__}, not numbers")


if __name__ == "__main__":
    main()
