"""All people of one camera: each has a window of its own, and all windows of a frame are lifted together.

A person who is not found in a frame is pushed as a frame without joints, which holds the last ones and flags the pose
stale; one who is lost for longer than `max_gap` has left. Whoever comes back, or is suddenly elsewhere, starts anew,
and nobody else notices.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pstmo_edge.app.tracking import Tracker, TrackerSettings, shares_apart
from pstmo_edge.app.types import Detections, Frame, PersonPose
from pstmo_edge.arrays import FloatArray
from pstmo_edge.filling import JOINTS
from pstmo_edge.mappings import Mapping, mapping
from pstmo_edge.streaming import Counters, PoseResult, Stream, StreamSettings, open_stream, read_ready

if TYPE_CHECKING:
    from pstmo_edge.engine import Engine

# How far a body's joints get on the mean, in shares of its extent: between two frames, and a second.
_JUMP, _FASTEST = 0.5, 2.0


@dataclass
class PeopleCounters:
    """Where detections went: detected == tracked + twins + unsure + crowded; poses == delivered of all streams."""

    frames: int = 0
    detected: int = 0
    tracked: int = 0
    twins: int = 0  # the same person as another detection
    unsure: int = 0  # too few joints
    crowded: int = 0  # beyond the number of people
    held: int = 0  # frames of a known person that was not found in them
    poses: int = 0
    jumps: int = 0  # persons of a source that knows them who were suddenly elsewhere


@dataclass
class _Person:
    """One person's stream, and what is remembered of its frames until their poses come out."""

    stream: Stream
    began: float  # seconds; its poses are beside a gap until the window is full, where `again`
    again: bool
    last_seen: float
    last: FloatArray | None = None  # its keypoints (17, 3) then
    frames: deque[tuple[Frame, FloatArray]] = field(default_factory=deque)  # by push, oldest first
    first_push: int = 0  # the push that frames[0] is


@dataclass(frozen=True)
class Update:
    """What one frame brought: poses that became ready, and who came and went."""

    poses: tuple[PersonPose, ...]
    joined: tuple[int, ...] = ()
    left: tuple[int, ...] = ()


class People:
    """Streams by person over one engine. Not for use from two threads at once.

    The size of the picture is that of the frames, whatever the settings say; where it changes, all sequences end.
    """

    def __init__(self, engine: Engine, settings: StreamSettings, tracking: TrackerSettings | None = None) -> None:
        self.engine, self.settings = engine, settings
        self._tracking = tracking or TrackerSettings(memory=settings.max_gap, min_confidence=settings.min_confidence)
        self.counters = PeopleCounters()
        self._tracker = Tracker(self._tracking)
        self._people: dict[int, _Person] = {}
        self._ended: list[Counters] = []
        self._known: set[int] = set()
        self._mapping: Mapping | None = None
        given = engine.manifest.input
        self._behind_seconds = given.target_index * given.t_downsample / given.frame_rate

    def update(self, frame: Frame, detections: Detections) -> Update:
        """Push one frame's people and return what became ready; raises DataError for joints that cannot be mapped."""
        self.counters.frames += 1
        self.counters.detected += len(detections.keypoints)
        resized = [] if frame.image_size == self.settings.image_size else list(self._people)
        self.settings = dataclasses.replace(self.settings, image_size=frame.image_size)
        if resized:
            self._forget()
        poses = [pose for person in resized for pose in self._end(person)]
        found, gone = self._who(frame, detections)
        poses += [pose for person in gone for pose in self._end(person)]
        left = [*resized, *gone]
        joined = tuple(person for person in found if person not in self._people)
        for person in joined:
            self._begin(person, frame.timestamp)
        if detections.ids is not None:
            self._known.update(joined)
        for number, present in self._people.items():
            self._push(number, present, frame, found.get(number))
        results = read_ready([present.stream for present in self._people.values()])
        for (number, present), ready in zip(self._people.items(), results, strict=True):
            poses += [self._pose(number, present, result) for result in ready]
        self.counters.poses += len(poses)
        return Update(tuple(poses), joined, tuple(left))

    def finish(self) -> Update:
        """End all sequences and return the poses that are left."""
        left = tuple(self._people)
        poses = tuple(pose for person in left for pose in self._end(person))
        self.counters.poses += len(poses)
        self._forget()
        return Update(poses, left=left)

    @property
    def streams(self) -> Counters:
        """The counters of all streams there are and were, added up."""
        every = [*self._ended, *(person.stream.counters for person in self._people.values())]
        names = [each.name for each in dataclasses.fields(Counters)]
        return Counters(**{name: sum(getattr(counters, name) for counters in every) for name in names})

    def _forget(self) -> None:
        self._tracker = Tracker(self._tracking, first=self._tracker.next)

    def _who(self, frame: Frame, detections: Detections) -> tuple[dict[int, FloatArray], list[int]]:
        """The keypoints (17, 3) of the persons found in a frame, by number, and the persons who have left."""
        keypoints = self._mapped(detections)
        if detections.ids is not None:
            return self._given(frame, detections.ids, keypoints)
        tracked = self._tracker.update(frame.timestamp, keypoints)
        self.counters.tracked += len(tracked.kept)
        self.counters.twins += tracked.twins
        self.counters.unsure += tracked.unsure
        self.counters.crowded += tracked.crowded
        found = dict(zip(tracked.persons, keypoints[list(tracked.kept)], strict=True))
        return found, [person for person in tracked.left if person in self._people]

    def _given(
        self, frame: Frame, ids: Sequence[int], keypoints: FloatArray
    ) -> tuple[dict[int, FloatArray], list[int]]:
        """Persons of a source that knows them: those unseen for too long have left."""
        found = dict(zip(ids, keypoints, strict=True))
        left = [
            number
            for number, person in self._people.items()
            if (number not in found and frame.timestamp - person.last_seen > self._tracking.memory)
            or (number in found and self._jumped(person, found[number], frame.timestamp))
        ]
        self.counters.jumps += sum(number in found for number in left)
        fresh = [number for number in found if number not in self._people and number not in left]
        room = max(self._tracking.most_people - (len(self._people) - len(left)), 0)
        for number in fresh[room:]:
            found.pop(number)
        self.counters.crowded += len(fresh[room:])
        self.counters.tracked += len(found)
        return found, left

    def _jumped(self, person: _Person, keypoints: FloatArray, time: float) -> bool:
        """Whether these keypoints are farther from the last ones than a body moves: another person's."""
        if person.last is None:
            return False
        limit = _JUMP + _FASTEST * (time - person.last_seen)
        return shares_apart(person.last, keypoints, self._tracking.min_confidence) > limit

    def _mapped(self, detections: Detections) -> FloatArray:
        target = self.engine.manifest.input.skeleton
        if self._mapping is None or self._mapping.source.name != detections.skeleton:
            self._mapping = mapping(detections.skeleton, target)
        return self._mapping(detections.keypoints)

    def _begin(self, number: int, time: float) -> None:
        stream = open_stream(self.engine, self.settings, self.engine.manifest.input.skeleton)
        self._people[number] = _Person(stream, time, number in self._known, time)

    def _push(self, number: int, person: _Person, frame: Frame, keypoints: FloatArray | None) -> None:
        if keypoints is None:
            self.counters.held += 1
            keypoints = np.zeros((JOINTS, 3))
        else:
            person.last, person.last_seen = keypoints, frame.timestamp
        person.frames.append((dataclasses.replace(frame, image=None), keypoints))
        person.stream.feed(keypoints, frame.timestamp)

    def _end(self, number: int) -> list[PersonPose]:
        person = self._people.pop(number)
        poses = [self._pose(number, person, result) for result in person.stream.finish()]
        self._ended = [_sum([*self._ended, person.stream.counters])]
        return poses

    def _pose(self, number: int, person: _Person, result: PoseResult) -> PersonPose:
        """A stream's answer with the frame of the source that it belongs to."""
        while person.first_push < result.frame:
            person.frames.popleft()
            person.first_push += 1
        frame, keypoints = person.frames[0]
        beside_gap = person.again and result.timestamp - person.began < self._behind_seconds
        told = dataclasses.replace(result, frame=frame.index, gap=result.gap or beside_gap)
        return PersonPose(number, told, keypoints, told.pose)


def _sum(counters: Sequence[Counters]) -> Counters:
    names = [each.name for each in dataclasses.fields(Counters)]
    return Counters(**{name: sum(getattr(each, name) for each in counters) for name in names})
