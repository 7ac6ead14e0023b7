"""Which person of this frame is which of the last: by their keypoints, one to one.

Written here because no kept library fits a device: norfair asks for NumPy below 2, trackers and supervision for NumPy 2
and an OpenCV of their own, which takes the place of JetPack's, and boxmot is AGPL. The assignment itself is SciPy's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pstmo_edge.arrays import BoolArray, FloatArray
from pstmo_edge.errors import BackendError

_LEAST_JOINTS = 4  # common to both, or there is nothing to tell a person by
_SPEED_MEMORY = 0.6  # of the last speed that is kept when a new one is measured
_FAR = 1e6


@dataclass(frozen=True)
class TrackerSettings:
    """Distances are mean distances of joints, as shares of the person's extent in the picture.

    `gate` is how far a person may be from where it was expected, and grows by `gate_growth` a second that it was not
    seen; a walker moves 0.8 heights a second. `twin` is the distance below which two detections are the same person.
    `memory` is how many seconds a person who is not seen is waited for.
    """

    gate: float = 0.25
    gate_growth: float = 0.6
    twin: float = 0.06
    memory: float = 0.5
    min_confidence: float = 0.3
    most_people: int = 16


@dataclass
class _Track:
    """Where a person was last seen, joint by joint, and how fast it moves as a whole."""

    person: int
    points: FloatArray  # [J, 2] pixels, each where that joint was last seen
    known: BoolArray  # [J] joints that were ever seen
    extent: float  # pixels
    time: float
    speed: FloatArray  # [2] pixels a second

    def expected(self, time: float) -> FloatArray:
        return self.points + self.speed * (time - self.time)


@dataclass(frozen=True)
class Tracked:
    """The persons of one frame: `persons` numbers the detections `kept` (indices), `left` are those given up.

    `twins` detections were the same person as another, `unsure` had too few joints, `crowded` exceeded the number of
    people: all of them are counted and not tracked.
    """

    persons: tuple[int, ...]
    kept: tuple[int, ...]
    left: tuple[int, ...]
    twins: int = 0
    unsure: int = 0
    crowded: int = 0


class Tracker:
    """Gives each person a number that stays, from `first` on, and never gives it to another."""

    def __init__(self, settings: TrackerSettings | None = None, first: int = 0) -> None:
        self.settings = settings or TrackerSettings()
        self.next = first
        self._tracks: list[_Track] = []

    def update(self, time: float, keypoints: FloatArray) -> Tracked:
        """The persons of a frame at `time` seconds, from keypoints (N, J, 3) in pixels with confidence."""
        seen = (keypoints[..., 2] >= self.settings.min_confidence) & np.isfinite(keypoints).all(-1)  # [N, J]
        sure = [int(i) for i in np.flatnonzero(seen.sum(-1) >= _LEAST_JOINTS)]
        kept = self._without_twins(sure, keypoints, seen)
        left = [track.person for track in self._tracks if time - track.time > self.settings.memory]
        self._tracks = [track for track in self._tracks if track.person not in left]
        matches = self._match(time, kept, keypoints, seen)
        room = self.settings.most_people - len(self._tracks)
        fresh = sorted((i for i in kept if i not in matches), key=lambda i: -keypoints[i, :, 2].sum())
        crowded = fresh[max(room, 0) :]
        for i in fresh[: max(room, 0)]:
            matches[i] = self._start(time)
        for i, track in matches.items():
            _follow(track, time, keypoints[i, :, :2], seen[i])
        found = sorted(matches)
        return Tracked(
            persons=tuple(matches[i].person for i in found),
            kept=tuple(found),
            left=tuple(left),
            twins=len(sure) - len(kept),
            unsure=len(keypoints) - len(sure),
            crowded=len(crowded),
        )

    def _start(self, time: float) -> _Track:
        track = _Track(self.next, np.zeros((0, 2)), np.zeros(0, bool), 1.0, time, np.zeros(2))
        self.next += 1
        self._tracks.append(track)
        return track

    def _match(self, time: float, kept: list[int], keypoints: FloatArray, seen: BoolArray) -> dict[int, _Track]:
        """Detections to tracks with the least sum of distances, none above its gate."""
        if not kept or not self._tracks:
            return {}
        costs = np.full((len(kept), len(self._tracks)), _FAR)
        for column, track in enumerate(self._tracks):
            gate = self.settings.gate + self.settings.gate_growth * (time - track.time)
            for row, i in enumerate(kept):
                extent = max(track.extent, _extent(keypoints[i, seen[i], :2]))
                apart = _distance(track.expected(time), track.known, keypoints[i, :, :2], seen[i]) / extent
                if apart <= gate:
                    costs[row, column] = apart
        rows, columns = _assign(costs)
        pairs = zip(rows, columns, strict=True)
        return {kept[row]: self._tracks[column] for row, column in pairs if costs[row, column] < _FAR}

    def _without_twins(self, sure: list[int], keypoints: FloatArray, seen: BoolArray) -> list[int]:
        """Detections from the surest on, without those that lie on one already taken."""
        taken: list[int] = []
        for i in sorted(sure, key=lambda i: -float(keypoints[i, seen[i], 2].sum())):
            extent = _extent(keypoints[i, seen[i], :2])
            if all(
                _distance(keypoints[j, :, :2], seen[j], keypoints[i, :, :2], seen[i]) > self.settings.twin * extent
                for j in taken
            ):
                taken.append(i)
        return sorted(taken)


def shares_apart(here: FloatArray, there: FloatArray, min_confidence: float) -> float:
    """The mean distance of two people's joints (J, 3), as a share of the larger extent; 0 where nothing can be told."""
    known, seen = here[:, 2] >= min_confidence, there[:, 2] >= min_confidence
    if (known & seen).sum() < _LEAST_JOINTS:
        return 0.0
    extent = max(_extent(here[known, :2]), _extent(there[seen, :2]))
    return _distance(here[:, :2], known, there[:, :2], seen) / extent


def _follow(track: _Track, time: float, points: FloatArray, seen: BoolArray) -> None:
    """Take a detection over into a track."""
    if not len(track.points):
        track.points, track.known = points.copy(), seen.copy()
    elapsed = time - track.time
    both = track.known & seen
    if elapsed > 0 and both.any():
        speed = (points[both] - track.points[both]).mean(0) / elapsed
        track.speed = _SPEED_MEMORY * track.speed + (1 - _SPEED_MEMORY) * speed
    # Joints that are hidden now move along with the rest, so that they are expected where the person is.
    track.points = np.where(seen[:, None], points, track.expected(time))
    track.known = track.known | seen
    track.extent, track.time = _extent(points[seen]), time


def _extent(points: FloatArray) -> float:
    """The diagonal of the box around points (K, 2), at least a pixel."""
    return max(float(np.linalg.norm(np.ptp(points, axis=0))), 1.0)


def _distance(here: FloatArray, known: BoolArray, there: FloatArray, seen: BoolArray) -> float:
    """The mean distance of the joints that both have, in pixels; far where they are too few."""
    both = known & seen
    if both.sum() < _LEAST_JOINTS:
        return _FAR
    return float(np.linalg.norm(here[both] - there[both], axis=-1).mean())


def _assign(costs: FloatArray) -> tuple[list[int], list[int]]:
    """The one-to-one assignment of rows to columns with the least sum."""
    if 1 in costs.shape:  # the usual case needs no package
        row, column = np.unravel_index(int(costs.argmin()), costs.shape)
        return [int(row)], [int(column)]
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise BackendError("tracking several people needs SciPy: pip install 'pstmo-edge[app]'") from None
    rows, columns = linear_sum_assignment(costs)
    return rows.tolist(), columns.tolist()
