"""Our own library, libpstmo_edge, through its C ABI: P-STMO and P-STMO-S on the CPU without any other package."""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.bundle import Bundle
from pstmo_edge.errors import BackendError
from pstmo_edge.kernels import native
from pstmo_edge.kernels.abi import NativeEngine
from pstmo_edge.manifest import Precision

ARTIFACT = "weights.safetensors"
_TEXT = 1024
_FORMATS: tuple[Precision, ...] = ("fp32", "int8", "w8a16")  # as the probe numbers them


@dataclass(frozen=True)
class Part:
    """A layer of the network, its attention, or what is neither, in a profile."""

    name: str
    seconds: float
    multiply_adds: float
    precision: Precision


class ProbeSession:
    """An engine of weights in memory, for builds, tests and the benchmark: see kernels/runtime/probe.h."""

    def __init__(self, weights: bytes, frames: int, layers: int, threads: int | None = None, isa: str = "auto") -> None:
        lib = _library()
        text = ctypes.create_string_buffer(_TEXT)
        self._handle = lib.pstmo_edge_probe_open(
            weights, len(weights), frames, layers, threads or 0, isa.encode(), text, _TEXT
        )
        if self._handle is None:
            raise BackendError(text.value.decode(errors="replace"))
        self._lib = lib
        self.isa: str = lib.pstmo_edge_probe_isa(self._handle).decode()
        self.memory_bytes: int = lib.pstmo_edge_probe_memory(self._handle)
        weakref.finalize(self, lib.pstmo_edge_probe_close, self._handle)

    def run(self, keypoints: FloatArray) -> FloatArray:
        """See `backends.Session`."""
        windows = np.ascontiguousarray(keypoints, np.float32)
        poses = np.empty((len(windows), windows.shape[2], 3), np.float32)
        self._lib.pstmo_edge_probe_infer(self._handle, windows.ctypes.data, len(windows), poses.ctypes.data)
        return poses

    def encode(self, frame: FloatArray, token: FloatArray) -> None:
        """A frame (17, 2) to its token, written to `token` (C,)."""
        self._lib.pstmo_edge_probe_encode(self._handle, frame.ctypes.data, token.ctypes.data)

    def run_tokens(self, tokens: FloatArray, oldest: int = 0) -> FloatArray:
        """Tokens (T, C), a ring whose oldest row is `oldest`, to a pose (17, 3)."""
        pose = np.empty((17, 3), np.float32)
        self._lib.pstmo_edge_probe_infer_tokens(self._handle, tokens.ctypes.data, oldest, pose.ctypes.data)
        return pose

    def profile(self) -> list[Part]:
        """Where the calling thread spent its time since the last call, which starts the counting."""
        count = self._lib.pstmo_edge_probe_parts(self._handle)
        names = [self._lib.pstmo_edge_probe_part(self._handle, i).decode() for i in range(count)]
        nanoseconds, work, formats = np.zeros(count), np.zeros(count), np.zeros(count, np.int32)
        arrays = (array.ctypes.data for array in (nanoseconds, work, formats))
        self._lib.pstmo_edge_probe_profile(self._handle, *arrays)
        columns = zip(names, nanoseconds / 1e9, work, formats, strict=True)
        return [Part(name, float(seconds), float(count), _FORMATS[form]) for name, seconds, count, form in columns]


def peak(isa: str, weight_bits: int, precision: Precision, iterations: int) -> float:
    """Multiply-adds that a bare loop of so many iterations did, on one thread; 0 where there is no such kernel here."""
    return float(_library().pstmo_edge_probe_peak(isa.encode(), weight_bits, _FORMATS.index(precision), iterations))


def open_session(bundle: Bundle, threads: int | None = None) -> NativeEngine:
    """Open the bundle by its path: the library verifies what it reads itself."""
    return NativeEngine(bundle.path, threads)


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    lib = native.library()
    if lib is None:
        raise BackendError(f"the native backend needs the library libpstmo_edge: {native.why_unavailable()}")
    return _declare(lib)


def _declare(lib: ctypes.CDLL) -> ctypes.CDLL:
    """Types of the functions used here, the others are in kernels/abi.py; pointers are void*: NumPy gives addresses."""
    pointer, size, i32, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int32, ctypes.c_char_p
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "probe_open": (pointer, [text, size, i32, i32, i32, text, pointer, size]),
        "probe_close": (None, [pointer]),
        "probe_isa": (text, [pointer]),
        "probe_memory": (size, [pointer]),
        "probe_infer": (None, [pointer, pointer, i32, pointer]),
        "probe_encode": (None, [pointer, pointer, pointer]),
        "probe_infer_tokens": (None, [pointer, pointer, i32, pointer]),
        "probe_parts": (i32, [pointer]),
        "probe_part": (text, [pointer, i32]),
        "probe_profile": (None, [pointer, pointer, pointer, pointer]),
        "probe_peak": (ctypes.c_double, [text, i32, i32, i32]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, f"pstmo_edge_{name}")
        function.restype, function.argtypes = result, arguments
    return lib
