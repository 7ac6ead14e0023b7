"""The native library through ctypes; everything here works, and says why, where the library is missing."""

import ctypes
import os
import sys
from functools import lru_cache
from pathlib import Path

from pstmo_edge._version import __version__

LIBRARY_VARIABLE = "PSTMO_EDGE_LIBRARY"
_FILE_NAMES = {"win32": "pstmo_edge.dll", "darwin": "libpstmo_edge.dylib"}
_HOW_TO_BUILD = "install a C++ compiler, then the package again with `--force-reinstall --no-deps --no-cache-dir`"


class _Version(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("size", "major", "minor", "patch")]


class _CpuFeatures(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("count", ctypes.c_uint32), ("present", ctypes.c_uint64)]


def library() -> ctypes.CDLL | None:
    """Return the loaded library, or None where it was not built or cannot be used."""
    return _load()[0]


def available() -> bool:
    """Tell whether the native library can be used."""
    return library() is not None


def why_unavailable() -> str | None:
    """Say in one sentence why the library cannot be used and what helps; None where it can."""
    return _load()[2]


def path() -> Path | None:
    """Return the file the library was loaded from, or None."""
    return _load()[1]


def version() -> str | None:
    """Return the library's own version ("0.1.0"), or None where it is missing."""
    lib = library()
    return None if lib is None else _read_version(lib)


@lru_cache(maxsize=1)
def cpu_features() -> frozenset[str]:
    """Return the features this CPU has and the operating system allows; empty where the library is missing.

    The names are those of the C ABI, for instance "avx2", "avx512_vnni" or "dotprod".
    """
    lib = library()
    if lib is None:
        return frozenset()
    features = _CpuFeatures(size=ctypes.sizeof(_CpuFeatures))
    _check(lib, lib.pstmo_edge_cpu_features_read(ctypes.byref(features)))
    known = range(features.count)
    return frozenset(lib.pstmo_edge_cpu_feature_describe(i).decode() for i in known if features.present >> i & 1)


@lru_cache(maxsize=1)
def _load() -> tuple[ctypes.CDLL | None, Path | None, str | None]:
    """Find, open and check the library once a process: (library, its file, why there is none)."""
    file = _find()
    if file is None:
        return None, None, f"it was not built when the package was installed: {_HOW_TO_BUILD}"
    try:
        lib = _declare(ctypes.CDLL(str(file)))
    except (OSError, AttributeError) as error:
        return None, None, f"{file} cannot be used ({error}): {_HOW_TO_BUILD}"
    found = _read_version(lib)
    if found != __version__:
        return None, None, f"{file} is version {found} but the package is {__version__}: {_HOW_TO_BUILD}"
    return lib, file, None


def _find() -> Path | None:
    chosen = os.environ.get(LIBRARY_VARIABLE)
    if chosen:
        return Path(chosen)
    # An editable install has two folders under one package: the sources, and the one that holds what was compiled.
    folders = sys.modules["pstmo_edge.kernels"].__path__
    name = _FILE_NAMES.get(sys.platform, "libpstmo_edge.so")
    return next((file for folder in folders if (file := Path(folder, name)).is_file()), None)


def _declare(lib: ctypes.CDLL) -> ctypes.CDLL:
    lib.pstmo_edge_status_describe.argtypes = [ctypes.c_int32]
    lib.pstmo_edge_status_describe.restype = ctypes.c_char_p
    lib.pstmo_edge_version_read.argtypes = [ctypes.POINTER(_Version)]
    lib.pstmo_edge_version_read.restype = ctypes.c_int32
    lib.pstmo_edge_cpu_features_read.argtypes = [ctypes.POINTER(_CpuFeatures)]
    lib.pstmo_edge_cpu_features_read.restype = ctypes.c_int32
    lib.pstmo_edge_cpu_feature_describe.argtypes = [ctypes.c_uint32]
    lib.pstmo_edge_cpu_feature_describe.restype = ctypes.c_char_p
    return lib


def _read_version(lib: ctypes.CDLL) -> str:
    found = _Version(size=ctypes.sizeof(_Version))
    _check(lib, lib.pstmo_edge_version_read(ctypes.byref(found)))
    return f"{found.major}.{found.minor}.{found.patch}"


def _check(lib: ctypes.CDLL, status: int) -> None:
    if status != 0:  # every struct here is filled by this module, so a refusal is a bug of ours
        raise RuntimeError(f"native library: {lib.pstmo_edge_status_describe(status).decode()} (status {status})")
