"""The C ABI of engines and streams (kernels/include/pstmo_edge.h) through ctypes: thin, without its rules."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pstmo_edge.errors import BackendError, BundleError, DataError, PstmoEdgeError, UsageError
from pstmo_edge.filling import JOINTS
from pstmo_edge.kernels import native
from pstmo_edge.streaming import Counters, PoseResult, StreamSettings, as_frame, next_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pstmo_edge.arrays import FloatArray

_OK, _TIMESTAMP_REJECTED, _NO_RESULT, _NOT_FINITE = 0, 11, 12, 13
_ERRORS: dict[int, type[PstmoEdgeError]] = {
    3: UsageError,
    6: BundleError,
    7: BundleError,
    8: BundleError,
    13: DataError,
}  # others are BackendError
_DEGRADED, _STALE, _GAP = 2, 4, 8
_TEXT = 512
_MAX_BATCH = 256  # windows a call; the ABI takes more, but a call cannot be interrupted


def _struct(name: str, fields: dict[str, Any]) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": [("size", c_uint32), *fields.items()]})


_EngineOptions = _struct(
    "_EngineOptions",
    {"threads": c_uint32} | dict.fromkeys(("isa", "device", "driver"), c_char_p) | {"max_batch": c_uint32},
)
_EngineInfo = _struct(
    "_EngineInfo",
    dict.fromkeys(
        ("frames", "joints", "channels", "t_downsample", "target_index", "lookahead_frames", "threads"), c_uint32
    )
    | dict.fromkeys(("frame_rate", "lookahead_ms"), c_double)
    | dict.fromkeys(("model", "precision", "skeleton", "pose_skeleton", "target", "isa"), c_char_p),
)
_StreamOptions = _struct(
    "_StreamOptions",
    {"image_width": c_uint32, "image_height": c_uint32, "lookahead": c_int32, "fps": c_double, "max_gap": c_double}
    | {"min_confidence": c_float, "backlog": c_uint32, "skeleton": c_char_p},
)
_Pose = _struct(
    "_Pose",
    {"flags": c_uint32, "missing": c_uint32, "filled_frames": c_uint32, "frame": c_uint64}
    | {"timestamp": c_double, "lookahead_ms": c_double, "joints": c_float * (JOINTS * 3), "regained": c_uint32},
)
_COUNTED = ("received", "delivered", "dropped", "rejected", "dropped_unread", "dropped_by_rate", "dropped_empty")
_Counters = _struct(
    "_Counters", {"pending": c_uint32} | dict.fromkeys((*_COUNTED, "dropped_not_finite", "gaps"), c_uint64)
)


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    lib = native.library()
    if lib is None:
        raise BackendError(f"the native library cannot be used: {native.why_unavailable()}")
    floats, text = POINTER(c_float), (c_char_p, c_size_t)
    for name, arguments in {
        "engine_open": (c_char_p, POINTER(_EngineOptions), POINTER(c_void_p), *text),
        "engine_info_read": (c_void_p, POINTER(_EngineInfo)),
        "engine_infer": (c_void_p, floats, c_size_t, c_uint32, floats, c_size_t),
        "engine_error_read": (c_void_p, *text),
        "stream_create": (c_void_p, POINTER(_StreamOptions), POINTER(c_void_p)),
        "stream_push": (c_void_p, floats, c_size_t, c_double),
        "stream_finish": (c_void_p,),
        "stream_read": (c_void_p, POINTER(_Pose)),
        "streams_read": (POINTER(c_void_p), c_size_t, POINTER(_Pose), POINTER(c_int32)),
        "stream_counters_read": (c_void_p, POINTER(_Counters)),
        "stream_error_read": (c_void_p, *text),
    }.items():
        function = getattr(lib, f"pstmo_edge_{name}")
        function.argtypes, function.restype = arguments, c_int32
    for name in ("engine_close", "stream_close"):
        function = getattr(lib, f"pstmo_edge_{name}")
        function.argtypes, function.restype = (c_void_p,), None
    return lib


def _raise(status: int, text: str) -> None:
    sentence = text or _library().pstmo_edge_status_describe(status).decode()
    raise _ERRORS.get(status, BackendError)(sentence)


def _pointer(array: FloatArray) -> Any:
    return array.ctypes.data_as(POINTER(c_float))


class _Handle:
    """An opaque handle that is closed with its Python object."""

    noun = ""

    def __init__(self, handle: c_void_p) -> None:
        self._handle = handle

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            getattr(_library(), f"pstmo_edge_{self.noun}_close")(self._handle)

    def _check(self, status: int) -> None:
        if status == _OK:
            return
        text = ctypes.create_string_buffer(_TEXT)
        getattr(_library(), f"pstmo_edge_{self.noun}_error_read")(self._handle, text, _TEXT)
        _raise(status, text.value.decode(errors="replace"))


class NativeEngine(_Handle):
    """A bundle of backend native in the library.

    `threads` None: one for each core, at most 4; `isa` names kernels ("portable", "avx2", ...), None the best here.
    `device` "cuda" or "cuda:N" is a GPU, for whose chip the bundle must hold kernels: it lifts `max_batch` windows at
    once (None: 64); `driver` is the CUDA driver's library where it is not the system's.
    Raises BundleError, BackendError and UsageError with the library's sentence.
    """

    noun = "engine"

    def __init__(
        self,
        path: str | os.PathLike[str],
        threads: int | None = None,
        isa: str | None = None,
        device: str = "cpu",
        max_batch: int | None = None,
        driver: str | os.PathLike[str] | None = None,
    ) -> None:
        options = _EngineOptions(
            ctypes.sizeof(_EngineOptions), threads or 0, None if isa is None else isa.encode(), device.encode(),
            None if driver is None else os.fsencode(driver), max_batch or 0,
        )  # fmt: skip
        handle, text = c_void_p(), ctypes.create_string_buffer(_TEXT)
        status = _library().pstmo_edge_engine_open(os.fsencode(path), byref(options), byref(handle), text, _TEXT)
        if status != _OK:
            _raise(status, text.value.decode(errors="replace"))
        super().__init__(handle)

    @property
    def info(self) -> dict[str, int | float | str]:
        """What the library says of the engine, by the names of pstmo_edge_engine_info."""
        found = _EngineInfo(ctypes.sizeof(_EngineInfo))
        self._check(_library().pstmo_edge_engine_info_read(self._handle, byref(found)))
        values = {name: getattr(found, name) for name, _ in _EngineInfo._fields_[1:]}  # type: ignore[misc]
        return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}

    def run(self, keypoints: FloatArray) -> FloatArray:
        """Normalised keypoints (B, T, 17, 2) to poses (B, 17, 3) float32 in metres."""
        windows = np.ascontiguousarray(keypoints, np.float32)
        poses = np.empty((len(windows), JOINTS, 3), np.float32)
        for start in range(0, len(windows), _MAX_BATCH):
            part, out = windows[start : start + _MAX_BATCH], poses[start : start + _MAX_BATCH]
            self._check(
                _library().pstmo_edge_engine_infer(
                    self._handle, _pointer(part), part.size, len(part), _pointer(out), out.size
                )
            )
        return poses

    def stream(self, settings: StreamSettings) -> NativeStream:
        """A stream of this engine; raises UsageError."""
        width, height = settings.image_size
        options = _StreamOptions(
            ctypes.sizeof(_StreamOptions),
            width,
            height,
            -1 if settings.lookahead is None else settings.lookahead,
            settings.fps,
            settings.max_gap,
            settings.min_confidence,
            settings.backlog,
            None,
        )
        handle = c_void_p()
        self._check(_library().pstmo_edge_stream_create(self._handle, byref(options), byref(handle)))
        return NativeStream(handle, settings.fps)


def read_streams(streams: Sequence[NativeStream]) -> list[PoseResult | None]:
    """The oldest ready pose of each of one engine's streams, lifted in one batch; None where there is none.

    Raises UsageError for streams of different engines or one that is given twice.
    """
    count, lib = len(streams), _library()
    poses, statuses = (_Pose * count)(), (c_int32 * count)()
    for pose in poses:
        pose.size = ctypes.sizeof(_Pose)
    handles = (c_void_p * count)(*(stream._handle for stream in streams))
    status = lib.pstmo_edge_streams_read(handles, count, poses, statuses)
    if status != _OK:
        _raise(status, "")
    return [_result(pose) if found == _OK else None for pose, found in zip(poses, statuses, strict=True)]


class NativeStream(_Handle):
    """A stream in the library; see `pstmo_edge.streaming.Stream`. The library keeps its engine alive."""

    noun = "stream"

    def __init__(self, handle: c_void_p, fps: float) -> None:
        super().__init__(handle)
        self._fps = fps
        self._last_time: float | None = None

    def push(self, keypoints: FloatArray, timestamp: float | None = None) -> PoseResult | None:
        """See `Stream`."""
        self.feed(keypoints, timestamp)
        return self.read()

    def feed(self, keypoints: FloatArray, timestamp: float | None = None) -> None:
        """See `Stream`."""
        frame = as_frame(keypoints)
        time = next_time(self._last_time, self._fps) if timestamp is None else timestamp
        status = _library().pstmo_edge_stream_push(self._handle, _pointer(frame), frame.size, time)
        if status != _TIMESTAMP_REJECTED:
            self._check(status)
            self._last_time = time

    def read(self) -> PoseResult | None:
        """See `Stream`."""
        pose = _Pose(ctypes.sizeof(_Pose))
        status = _NOT_FINITE
        while status == _NOT_FINITE:  # counted there
            status = _library().pstmo_edge_stream_read(self._handle, byref(pose))
        if status == _NO_RESULT:
            return None
        self._check(status)
        return _result(pose)

    read_each = staticmethod(read_streams)

    def finish(self) -> list[PoseResult]:
        """See `Stream`."""
        self._check(_library().pstmo_edge_stream_finish(self._handle))
        return list(iter(self.read, None))

    @property
    def counters(self) -> Counters:
        """See `Stream`."""
        found = _Counters(ctypes.sizeof(_Counters))
        self._check(_library().pstmo_edge_stream_counters_read(self._handle, byref(found)))
        names = [name for name in Counters.__dataclass_fields__ if name != "size"]
        return Counters(**{name: getattr(found, name) for name in names})


def _result(pose: Any) -> PoseResult:
    return PoseResult(
        pose=np.array(pose.joints, np.float32).reshape(JOINTS, 3),
        timestamp=pose.timestamp,
        frame=pose.frame,
        lookahead_ms=pose.lookahead_ms,
        degraded=bool(pose.flags & _DEGRADED),
        stale=bool(pose.flags & _STALE),
        gap=bool(pose.flags & _GAP),
        missing=(pose.missing >> np.arange(JOINTS) & 1).astype(bool),
        regained=(pose.regained >> np.arange(JOINTS) & 1).astype(bool),
        filled_frames=pose.filled_frames,
    )
