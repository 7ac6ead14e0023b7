"""One person's sliding window: push a frame, get a pose.

`open_stream` gives a stream over any engine: the native library's, in C++ (kernels/runtime/stream.cc), or its twin in
NumPy (`reference_stream`), and the tests hold the two equal bit for bit. What a stream does with time, gaps and missing
joints is told in docs/c-api.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pstmo_edge.arrays import BoolArray, FloatArray
from pstmo_edge.errors import DataError, UsageError
from pstmo_edge.filling import JOINTS
from pstmo_edge.skeletons import get_skeleton, require_skeleton

if TYPE_CHECKING:
    from pstmo_edge.engine import Engine
    from pstmo_edge.manifest import InputSpec


@dataclass(frozen=True)
class StreamSettings:
    """What a stream is opened with.

    `image_size` is (width, height) in pixels, `fps` the camera's frames a second, `lookahead` the window frames a pose
    waits for (None: as many as the model was trained with), `max_gap` the seconds without a measured joint that end a
    sequence, `min_confidence` the limit below which a joint is missing, `backlog` how many moments a ready pose waits
    to be read.
    """

    image_size: tuple[int, int]
    fps: float = 30.0
    lookahead: int | None = 0
    max_gap: float = 0.5
    min_confidence: float = 0.3
    backlog: int = 8

    def __post_init__(self) -> None:
        """Refuse values outside their limits, which are those of the C ABI."""
        width, height = self.image_size
        if not (1 <= width <= 65536 and 1 <= height <= 65536):
            raise UsageError(f"the image is {width} x {height} pixels: each side must be 1 to 65536")
        if not 1 <= self.fps <= 1000:
            raise UsageError(f"fps is {self.fps}: it must be 1 to 1000")
        if not 0 < self.max_gap <= 10 or self.max_gap * self.fps < 2:
            raise UsageError(f"max_gap is {self.max_gap}: it must be two frames (2 / fps) to 10 seconds")
        if not 0 <= self.min_confidence <= 1e30:
            raise UsageError(f"min_confidence is {self.min_confidence}: it must be 0 or more")
        if not 1 <= self.backlog <= 4096:
            raise UsageError(f"backlog is {self.backlog}: it must be 1 to 4096")

    def lookahead_of(self, given: InputSpec) -> int:
        """The look-ahead in window frames for a model; raises UsageError where it has fewer."""
        wanted = given.lookahead_frames if self.lookahead is None else self.lookahead
        if not 0 <= wanted <= given.lookahead_frames:
            raise UsageError(
                f"a look-ahead of {wanted} frames was asked for: this model has 0 to {given.lookahead_frames}"
            )
        return wanted


@dataclass(frozen=True)
class PoseResult:
    """One pose, and how far it can be trusted.

    `pose` is (17, 3) in metres, camera frame, relative to the root joint; `timestamp` its time in seconds, `frame` the
    number of the push whose pose it is, `lookahead_ms` how much later the newest frame that it used was. `degraded`: a
    joint or a frame that it used was missing and filled in (`filled_frames` of the window's are concerned). `stale`: no
    joint of its own frame was measured. `gap`: its window was cut short by a gap. `missing` (17,) says which joints of
    its own frame were missing, `regained` (17,) which of them were seen again before the pose was due and interpolated.
    """

    pose: FloatArray
    timestamp: float
    frame: int
    lookahead_ms: float
    degraded: bool
    stale: bool
    gap: bool
    missing: BoolArray
    regained: BoolArray
    filled_frames: int

    @property
    def valid(self) -> bool:
        """Whether nothing speaks against it."""
        return not (self.degraded or self.stale or self.gap)


@dataclass(frozen=True)
class Counters:
    """Where every pushed frame went: received == delivered + dropped + rejected + pending, at any moment."""

    received: int = 0
    delivered: int = 0
    rejected: int = 0  # their timestamp was not finite, repeated or out of order
    pending: int = 0  # their pose waits for later frames, or to be read
    dropped_unread: int = 0  # their pose was not read within the backlog
    dropped_by_rate: int = 0  # the camera is faster than the model's clock
    dropped_empty: int = 0  # no joint was measured, before the first or after a gap
    dropped_not_finite: int = 0  # their pose was not finite
    gaps: int = 0  # sequences that a gap ended

    @property
    def dropped(self) -> int:
        """Frames without a pose."""
        return self.dropped_unread + self.dropped_by_rate + self.dropped_empty + self.dropped_not_finite


class Stream(Protocol):
    """One person in front of one camera. Not for use from two threads at once."""

    def push(self, keypoints: FloatArray, timestamp: float | None = None) -> PoseResult | None:
        """Push one frame, (17, 2) pixels or (17, 3) with confidence, and return the oldest pose that is ready, if any.

        `timestamp` is the frame's time in seconds on any clock; None stands for one frame after the last. A frame
        whose timestamp is not finite, repeated or out of order is rejected and counted. Raises DataError where the
        shape is another.
        """
        ...

    def feed(self, keypoints: FloatArray, timestamp: float | None = None) -> None:
        """Push without reading: for many streams, whose poses `read_ready` then reads together."""
        ...

    def read(self) -> PoseResult | None:
        """The next pose that is ready, if any: after a gap there are many."""
        ...

    @staticmethod
    def read_each(streams: Sequence[Any]) -> list[PoseResult | None]:
        """The next ready pose of each of many such streams over one engine, computed in one batch."""
        ...

    def finish(self) -> list[PoseResult]:
        """End the sequence and return all poses that are left; the next push starts a new one."""
        ...

    @property
    def counters(self) -> Counters:
        """Where the frames went."""
        ...


def open_stream(engine: Engine, settings: StreamSettings, skeleton: str | None = None) -> Stream:
    """A stream over an engine: in the native library where the engine runs there, else `ReferenceStream`.

    `skeleton` names the joint set of the keypoints, if the caller knows it. Raises UsageError and DataError.
    """
    manifest = engine.manifest
    settings.lookahead_of(manifest.input)
    if manifest.emitted is not None:
        raise UsageError(
            f"{engine.path} emits {manifest.poses_a_window} poses a window, which serves recordings: build one for a "
            "stream without --emit"
        )
    if skeleton is not None:
        require_skeleton(skeleton, get_skeleton(manifest.input.skeleton), "the stream")
    from pstmo_edge.reference_stream import ReferenceStream

    native = engine.native_stream(settings)
    return ReferenceStream(engine, settings) if native is None else native


def as_frame(keypoints: FloatArray) -> FloatArray:
    """Keypoints (17, 2) or (17, 3) as float32 (17, 3), with confidence 1 where there is none; raises DataError."""
    given = np.asarray(keypoints)
    if given.shape not in ((JOINTS, 2), (JOINTS, 3)):
        raise DataError(f"a frame has shape {given.shape}: a stream reads (17, 2), or (17, 3) with confidence")
    with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold is infinite, hence missing
        frame = given.astype(np.float32)
    if frame.shape[1] == 2:
        frame = np.concatenate([frame, np.ones((JOINTS, 1), np.float32)], axis=1)
    return frame


def next_time(last: float | None, fps: float) -> float:
    """The time of a frame without a timestamp: one frame after the last, and 0 for the first."""
    return 0.0 if last is None else last + 1 / fps


def read_ready(streams: Sequence[Stream]) -> list[list[PoseResult]]:
    """All poses that are ready of streams over one engine, by stream, oldest first; their windows share a batch."""
    results: list[list[PoseResult]] = [[] for _ in streams]
    while streams and any(found := type(streams[0]).read_each(streams)):
        for place, result in enumerate(found):
            results[place] += [] if result is None else [result]
    return results
