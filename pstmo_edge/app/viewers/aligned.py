"""Every frame with its own poses, although they come later: look-ahead undone, for files that nobody waits for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from pstmo_edge.app.types import Detections, Frame, PersonPose, View

HELD = 0.25  # seconds for which a person's last pose is shown in frames that have none: the model's clock is slower
SLACK = 0.1  # seconds beyond the look-ahead


@dataclass
class Moment:
    """One frame, what was found in it, and its poses by person."""

    frame: Frame
    detections: Detections
    poses: dict[int, PersonPose] = field(default_factory=dict)
    status: str = ""


class Aligner:
    """Holds frames for as long as poses of theirs can come, `lookahead` seconds and a little.

    `keep` makes of a picture what is remembered meanwhile (a smaller one), and at most `most` frames are: the oldest
    goes out first, with the poses that it has.
    """

    def __init__(self, lookahead: float, keep: Callable[[Any], Any] = lambda image: image, most: int = 600) -> None:
        self.lookahead, self.keep, self.most = lookahead, keep, most
        self._waiting: deque[Moment] = deque()
        self._last: dict[int, tuple[float, PersonPose]] = {}

    def push(self, view: View) -> list[Moment]:
        """Take a view and return the moments that are complete, oldest first."""
        newest = self._waiting[-1].frame.index if self._waiting else -1
        if view.frame.index != newest:
            image = None if view.frame.image is None else self.keep(view.frame.image)
            self._waiting.append(Moment(replace(view.frame, image=image), view.detections, status=view.status))
        by_index = {moment.frame.index: moment for moment in self._waiting}
        for pose in view.poses:
            moment = by_index.get(pose.result.frame)
            if moment is not None:
                moment.poses[pose.person] = pose
        ready: list[Moment] = []
        while self._waiting and (self._is_complete(self._waiting[0], view.frame) or len(self._waiting) > self.most):
            ready.append(self._completed(self._waiting.popleft()))
        return ready

    def flush(self) -> list[Moment]:
        """The moments that are left: nothing more comes."""
        ready = [self._completed(moment) for moment in self._waiting]
        self._waiting.clear()
        return ready

    def _is_complete(self, moment: Moment, newest: Frame) -> bool:
        passed = newest.timestamp - moment.frame.timestamp
        wait = self.lookahead + SLACK if self.lookahead else 0.0
        return passed < 0 or passed >= wait - 1e-6

    def _completed(self, moment: Moment) -> Moment:
        now = moment.frame.timestamp
        self._last |= {person: (now, pose) for person, pose in moment.poses.items()}
        self._last = {person: (at, pose) for person, (at, pose) in self._last.items() if 0 <= now - at <= HELD}
        moment.poses = {person: pose for person, (_, pose) in sorted(self._last.items())}
        return moment
