"""The stream in NumPy over any engine: the specification of kernels/runtime/stream.cc, and equal to it bit for bit.

A window is filled from the frames up to its newest, whenever it is read: what a later frame tells of joints that were
missing changes the windows that wait for that frame, and no other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pstmo_edge.arrays import BoolArray, FloatArray
from pstmo_edge.clock import Clock
from pstmo_edge.filling import JOINTS, Holder, Returned
from pstmo_edge.streaming import Counters, PoseResult, StreamSettings, as_frame, next_time

if TYPE_CHECKING:
    from pstmo_edge.engine import Engine

LONGEST_TIME = 1e10  # seconds; beyond it a double no longer tells microseconds apart
LATE_FRAMES = 1.5  # frames without one: what lies between was not measured


@dataclass(frozen=True)
class _Moment:
    """What one moment of the clock holds."""

    time: float
    values: FloatArray
    missing: BoolArray
    filled: bool  # a joint or the whole frame was
    regained: BoolArray = field(default_factory=lambda: np.zeros(JOINTS, bool))  # missing, and seen again since
    returned: tuple[Returned, ...] = ()  # what the frames since the moment before tell of earlier ones

    def corrected(self, returned: Returned) -> _Moment:
        """The same with the joints interpolated that were seen again."""
        values, joints = returned.correct(self.values, self.time)
        return dataclasses.replace(self, values=values, regained=self.regained | joints)


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
        self.holder = Holder(settings.image_size, settings.min_confidence, len(given.channels))
        self.frames = given.frames
        self.behind = given.target_index * self.clock.steps
        self.ahead = settings.lookahead_of(given) * self.clock.steps
        self.slack = settings.backlog + math.ceil(settings.max_gap / self.clock.period) + 1
        self.moments: dict[int, _Moment] = {}
        self.returned: list[Returned] = []  # told since the newest moment
        self.told = -1  # the moment up to which the returned have corrected the earlier ones
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
        values, missing, returned = self.holder.fill(frame, time)
        here = _Moment(time, values, missing, bool(missing.any()))
        if not missing.all():
            self.last_seen = time
        made = 0
        if self.running:
            made = self._advance(here, returned)
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
        self.returned = []
        self.clock.start(here.time)
        self._store(here)

    def _advance(self, here: _Moment, returned: Returned | None) -> int:
        """Store the moments up to a frame, interpolated between the frame before and this one; return their number."""
        before = self.previous
        assert before is not None
        if returned is not None:
            before = before.corrected(returned)
            self.returned.append(returned)
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
            self._store(_Moment(time, values, missing, bool(missing.any()) or late, before.regained))
            self.clock.pass_moment()
        return made

    def _store(self, moment: _Moment) -> None:
        self.newest += 1
        oldest = self.newest - self.ahead - self.slack
        while self.targets and self.targets[0].moment < oldest:  # not read in time
            self.counts["dropped_unread"] += 1
            self.targets.pop(0)
        self.moments[self.newest] = dataclasses.replace(moment, returned=tuple(self.returned))
        self.returned = []
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
        self._tell(target.first, last)
        slots = target.moment - self.behind + self.clock.steps * np.arange(self.frames)
        moments = [self.moments[int(i)] for i in np.clip(slots, target.first, last)]
        return _Window(target, last, np.stack([moment.values for moment in moments]), sum(m.filled for m in moments))

    def _tell(self, first: int, last: int) -> None:
        """Interpolate what the moments up to `last` tell of earlier ones of the same sequence, from `first` on."""
        for teller in range(max(self.told, first, min(self.moments)) + 1, last + 1):
            for returned in self.moments[teller].returned:
                moment = teller - 1
                while moment >= first and moment in self.moments and self.moments[moment].time > returned.earliest:
                    self.moments[moment] = self.moments[moment].corrected(returned)
                    moment -= 1
        self.told = max(self.told, last)

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
            regained=own.regained,
            filled_frames=window.filled,
        )


_COUNTED = ("received", "dropped_unread", "dropped_by_rate", "dropped_empty", "dropped_not_finite")
