"""One person's sliding window: push a frame, get a pose.

`open_stream` gives a stream over any engine. `ReferenceStream` is the specification, in NumPy and over `engine.infer`;
the native library has the same stream in C++ (kernels/runtime/stream.cc), which encodes each frame once, and the tests
hold the two equal bit for bit. What a stream does with time, gaps and missing joints is told in docs/c-api.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pstmo_edge.arrays import BoolArray, FloatArray
from pstmo_edge.cameras import normalise_screen
from pstmo_edge.errors import DataError, UsageError
from pstmo_edge.skeletons import get_skeleton, require_skeleton

if TYPE_CHECKING:
    from pstmo_edge.engine import Engine
    from pstmo_edge.manifest import InputSpec

JOINTS = 17
LONGEST_TIME = 1e10  # seconds; beyond it a double no longer tells microseconds apart
LATE_FRAMES = 1.5  # frames without one: what lies between was not measured
BODY = 4  # joints that tell how a body moves
FARTHEST = 1000.0  # image widths from the picture; far below what could overflow in a network


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
    its own frame were missing.
    """

    pose: FloatArray
    timestamp: float
    frame: int
    lookahead_ms: float
    degraded: bool
    stale: bool
    gap: bool
    missing: BoolArray
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


class Clock:
    """The model's clock: the moments, one period apart, at which its window wants keypoints.

    A slot of the window is t_downsample / frame_rate seconds long. Where the camera is faster, a slot is cut into as
    many moments as its frames allow, at most t_downsample. A camera with the model's rate (within 2 %) is locked: each
    of its frames stands for the moment nearest to it, and the clock follows its jitter slowly. Others are resampled.
    """

    def __init__(self, given: InputSpec, fps: float) -> None:
        slot = given.t_downsample / given.frame_rate
        self.steps = int(min(max(math.floor(fps * slot + 0.05), 1), given.t_downsample))
        self.period = slot / self.steps
        self.locked = abs(fps * self.period - 1) <= 0.02
        self.tolerance = (0.5 if self.locked else 0.01) * self.period
        self.next = 0.0

    def start(self, time: float) -> None:
        """Start with a frame at `time`, which is the first moment."""
        self.next = time + self.period

    def reaches(self, time: float) -> bool:
        """Whether another moment lies at or before a frame at `time`."""
        return self.next <= time + self.tolerance

    def is_at(self, time: float) -> bool:
        """Whether the next moment is the frame's own."""
        return self.next >= time - self.tolerance

    def pass_moment(self) -> None:
        """Go on to the next moment."""
        self.next += self.period

    def pass_frame(self, time: float) -> None:
        """Go on from a moment that was the own one of a frame at `time`."""
        limit = 0.02 * self.period if self.locked else 0.0
        self.next += self.period + min(max(time - self.next, -limit), limit)


class Holder:
    """Pixels of one frame to what the model reads, with missing joints held on the body where they were last seen."""

    def __init__(self, settings: StreamSettings, channels: int) -> None:
        self.image_size = settings.image_size
        self.min_confidence = np.float32(settings.min_confidence)
        self.channels = channels
        self.forget()

    def forget(self) -> None:
        """Begin a new sequence."""
        self.seen = np.zeros(JOINTS, bool)
        self.measured = np.zeros(JOINTS, bool)  # in the frame before
        self.last = np.zeros((JOINTS, 2), np.float32)

    def fill(self, frame: FloatArray) -> tuple[FloatArray, BoolArray]:
        """(17, 3) in pixels to values (17, C) and the missing joints (17,).

        A missing joint moves with the body: as the joints do, on the mean, that were measured in this frame and the
        last, where they are BODY or more. One that was never seen is put at the mean of those measured now. The third
        channel, where the model has one, is the confidence, and 0 for a joint that is held.
        """
        with np.errstate(all="ignore"):
            points = normalise_screen(frame[:, :2], self.image_size)
            confidence = frame[:, 2]
            measured = (confidence >= self.min_confidence) & np.isfinite(confidence)
            measured &= (np.abs(points) <= np.float32(FARTHEST)).all(axis=1)
        both = measured & self.measured
        if not measured.all() and both.sum() >= BODY:
            shift = _mean(points[both].astype(np.float64) - self.last[both])
            self.last += shift.astype(np.float32)  # that of measured joints is replaced below
        self.last[measured] = points[measured]
        self.seen |= measured
        self.measured = measured
        if measured.any() and not self.seen.all():
            self.last[~self.seen] = _mean(points[measured].astype(np.float64)).astype(np.float32)
        values = [self.last, np.where(measured, confidence, np.float32(0))[:, None]]
        return np.concatenate(values, axis=1)[:, : self.channels], ~measured


def _mean(points: FloatArray) -> FloatArray:
    """The mean (2,) of points (K, 2), added one after the other as the C++ adds them."""
    mean: FloatArray = np.cumsum(points, axis=0)[-1] / len(points)
    return mean


@dataclass(frozen=True)
class _Moment:
    """What one moment of the clock holds."""

    time: float
    values: FloatArray
    missing: BoolArray
    filled: bool  # a joint or the whole frame was


@dataclass
class _Target:
    """A moment whose pose is wanted, by the push that owns it, and the bounds of its sequence."""

    moment: int
    first: int
    gap_before: bool
    frame: int
    last: int | None = None
    gap_behind: bool = False


@dataclass(frozen=True)
class _Window:
    """What a pose is computed from: `values` (T, 17, C) up to the moment `last`, `filled` frames of it filled in."""

    target: _Target
    last: int
    values: FloatArray
    filled: int


class ReferenceStream:
    """The stream in NumPy over any engine; see `Stream`."""

    def __init__(self, engine: Engine, settings: StreamSettings) -> None:
        given = engine.manifest.input
        self.engine = engine
        self.settings = settings
        self.clock = Clock(given, settings.fps)
        self.holder = Holder(settings, len(given.channels))
        self.frames = given.frames
        self.behind = given.target_index * self.clock.steps
        self.ahead = settings.lookahead_of(given) * self.clock.steps
        self.slack = settings.backlog + math.ceil(settings.max_gap / self.clock.period) + 1
        self.moments: dict[int, _Moment] = {}
        self.targets: list[_Target] = []
        self.newest = -1
        self.running = False
        self.first = 0
        self.gap_before = False
        self.last_time: float | None = None
        self.last_seen = 0.0
        self.previous: _Moment | None = None
        self.counts = dict.fromkeys((*_COUNTED, "rejected", "delivered", "gaps"), 0)

    @property
    def counters(self) -> Counters:
        """See `Stream`."""
        return Counters(pending=len(self.targets), **self.counts)

    def push(self, keypoints: FloatArray, timestamp: float | None = None) -> PoseResult | None:
        """See `Stream`."""
        self.feed(keypoints, timestamp)
        return self.read()

    def feed(self, keypoints: FloatArray, timestamp: float | None = None) -> None:
        """See `Stream`."""
        frame = as_frame(keypoints)
        self._push(frame, next_time(self.last_time, self.settings.fps) if timestamp is None else timestamp)

    def read(self) -> PoseResult | None:
        """See `Stream`."""
        while (window := self._take()) is not None:
            result = self._deliver(window, self.engine.infer(window.values[None])[0])
            if result is not None:
                return result
        return None

    @staticmethod
    def read_each(streams: Sequence[ReferenceStream]) -> list[PoseResult | None]:
        """See `Stream`."""
        windows = [stream._take() for stream in streams]
        ready = [window.values for window in windows if window is not None]
        poses = iter(streams[0].engine.infer(np.stack(ready)) if ready else ())
        pairs = zip(streams, windows, strict=True)
        return [None if window is None else stream._deliver(window, next(poses)) for stream, window in pairs]

    def finish(self) -> list[PoseResult]:
        """See `Stream`."""
        self._cut(gap=False)
        return list(iter(self.read, None))

    def _push(self, frame: FloatArray, time: float) -> None:
        number = self.counts["received"]
        self.counts["received"] += 1
        if self._rejects(time):
            self.counts["rejected"] += 1
            return
        set_back = self.last_time is not None and time <= self.last_time
        if self.running and (set_back or time - self.last_seen > self.settings.max_gap):
            self._cut(gap=True)
        self.last_time = time
        if not self.running:
            self.holder.forget()
        values, missing = self.holder.fill(frame)
        here = _Moment(time, values, missing, bool(missing.any()))
        if not missing.all():
            self.last_seen = time
        made = 0
        if self.running:
            made = self._advance(here)
        elif not missing.all():
            self._start(here)
            made = 1
        else:
            self.counts["dropped_empty"] += 1
            return
        self.previous = here
        if made:
            self.targets.append(_Target(self.newest, self.first, self.gap_before, number))
        else:
            self.counts["dropped_by_rate"] += 1

    def _rejects(self, time: float) -> bool:
        if not abs(time) <= LONGEST_TIME:
            return True
        last = self.last_time
        return last is not None and time <= last and last - time <= self.settings.max_gap

    def _start(self, here: _Moment) -> None:
        self.running = True
        self.first = self.newest + 1
        self.clock.start(here.time)
        self._store(here)

    def _advance(self, here: _Moment) -> int:
        """Store the moments up to a frame, interpolated between the frame before and this one; return their number."""
        before = self.previous
        assert before is not None
        late = here.time - before.time > LATE_FRAMES / self.settings.fps
        made = 0
        while self.clock.reaches(here.time):
            made += 1
            if self.clock.is_at(here.time):
                self._store(here)
                self.clock.pass_frame(here.time)
                continue
            time = self.clock.next
            share = (time - before.time) / (here.time - before.time)
            start, end = before.values.astype(np.float64), here.values.astype(np.float64)
            values = (start + share * (end - start)).astype(np.float32)
            missing = before.missing | here.missing
            self._store(_Moment(time, values, missing, bool(missing.any()) or late))
            self.clock.pass_moment()
        return made

    def _store(self, moment: _Moment) -> None:
        self.newest += 1
        oldest = self.newest - self.ahead - self.slack
        while self.targets and self.targets[0].moment < oldest:  # not read in time
            self.counts["dropped_unread"] += 1
            self.targets.pop(0)
        self.moments[self.newest] = moment
        self.moments.pop(oldest - self.behind - 1, None)

    def _cut(self, gap: bool) -> None:
        """End the sequence: poses that wait for later frames get the last one in their place."""
        if not self.running:
            return
        for target in self.targets:
            if target.last is None:
                target.last, target.gap_behind = self.newest, gap
        self.running = False
        self.gap_before = gap
        self.counts["gaps"] += gap

    def _is_ready(self, target: _Target) -> bool:
        return target.last is not None or target.moment + self.ahead <= self.newest

    def _take(self) -> _Window | None:
        """The window of the oldest pose that is ready, which is no longer pending then."""
        if not (self.targets and self._is_ready(self.targets[0])):
            return None
        target = self.targets.pop(0)
        after = target.moment + self.ahead
        last = after if target.last is None else min(after, target.last)
        slots = target.moment - self.behind + self.clock.steps * np.arange(self.frames)
        moments = [self.moments[int(i)] for i in np.clip(slots, target.first, last)]
        return _Window(target, last, np.stack([moment.values for moment in moments]), sum(m.filled for m in moments))

    def _deliver(self, window: _Window, pose: FloatArray) -> PoseResult | None:
        """What is told of a pose (17, 3); None, and counted, where it is not finite."""
        if not np.isfinite(pose).all():
            self.counts["dropped_not_finite"] += 1
            return None
        self.counts["delivered"] += 1
        target, own = window.target, self.moments[window.target.moment]
        cut_before = target.gap_before and target.moment - self.behind < target.first
        return PoseResult(
            pose=pose,
            timestamp=own.time,
            frame=target.frame,
            lookahead_ms=(self.moments[window.last].time - own.time) * 1000.0,
            degraded=window.filled > 0,
            stale=bool(own.missing.all()),
            gap=cut_before or (target.gap_behind and window.last < target.moment + self.ahead),
            missing=own.missing,
            filled_frames=window.filled,
        )


_COUNTED = ("received", "dropped_unread", "dropped_by_rate", "dropped_empty", "dropped_not_finite")


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
