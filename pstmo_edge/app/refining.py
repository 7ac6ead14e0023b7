"""What is told of a pose besides the stream's answer: its doubt, a smooth form of it, and where the person stands."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pstmo_edge.app.doubt import DoubtModel, DoubtTracker
from pstmo_edge.app.placing import BodyScale, Intrinsics, Placer, World
from pstmo_edge.app.smoothing import ROOT, OneEuro
from pstmo_edge.app.types import PersonPose
from pstmo_edge.arrays import FloatArray

if TYPE_CHECKING:
    from pstmo_edge.app.people import People


@dataclass(frozen=True)
class RefineSettings:
    """What is to be told.

    `intrinsics` None stands for the stated assumption (`Intrinsics.assumed`), `world` turns poses and roots into a
    world frame, `height` in metres gives poses their size, `smooth` filters poses and roots as they come, `doubt` says
    whether doubt is told where it was fitted for the engine's weights.
    """

    intrinsics: Intrinsics | None = None
    world: World | None = None
    height: float | None = None
    smooth: bool = False
    doubt: bool = True


@dataclass
class _Memory:
    """What is remembered of one person."""

    doubt: DoubtTracker | None
    scale: BodyScale | None
    pose: OneEuro | None
    root: OneEuro | None


class PoseRefiner:
    """Adds to the poses of one camera's people what is known besides. Not for use from two threads at once."""

    def __init__(self, people: People, settings: RefineSettings | None = None) -> None:
        self.people, self.settings = people, settings or RefineSettings()
        self.doubt = DoubtModel.for_engine(people.engine) if self.settings.doubt else None
        self._placer: Placer | None = None
        self._size: tuple[int, int] | None = None
        self._memories: dict[int, _Memory] = {}

    def refine(self, poses: Sequence[PersonPose]) -> tuple[PersonPose, ...]:
        """The same poses with doubt, smooth, of the known height, and placed."""
        return tuple(map(self._refined, poses))

    def forget(self, person: int) -> None:
        """A person has left."""
        self._memories.pop(person, None)

    def _refined(self, given: PersonPose) -> PersonPose:
        memory = self._memories.get(given.person)
        if memory is None:
            memory = self._memories[given.person] = self._remember()
        result, pose, keypoints = given.result, given.pose, given.keypoints
        doubt = None if memory.doubt is None else memory.doubt.estimate(result, keypoints)
        scale = 1.0 if memory.scale is None else memory.scale.update(pose)
        pose = (pose * scale).astype(np.float32)
        root = None if keypoints is None else self._root(pose, keypoints)
        if memory.pose is not None:
            pose = memory.pose.update(pose, result.timestamp)
        if memory.root is not None and root is not None:
            root = memory.root.update(root, result.timestamp)
        if self.settings.world is not None:
            pose = self.settings.world.turned(pose)
        return dataclasses.replace(
            given,
            pose=pose,
            doubt_mm=None if doubt is None else doubt.per_joint_mm,
            doubtful=doubt is not None and doubt.doubtful,
            root=root,
        )

    def _root(self, pose: FloatArray, keypoints: FloatArray) -> FloatArray | None:
        size = self.people.settings.image_size
        if self._placer is None or size != self._size:
            given = self.people.engine.manifest
            self._size = size
            self._placer = Placer(
                self.settings.intrinsics or Intrinsics.assumed(size),
                self.settings.world,
                keypoint_skeleton=given.input.skeleton,
                pose_skeleton=given.output.skeleton,
                min_confidence=self.people.settings.min_confidence,
            )
        placed = self._placer.place(pose, keypoints)
        return None if placed is None else placed.root

    def _remember(self) -> _Memory:
        people, settings = self.people, self.settings
        return _Memory(
            doubt=None if self.doubt is None else DoubtTracker(people.engine, people.settings, self.doubt),
            scale=None if settings.height is None else BodyScale(settings.height),
            pose=OneEuro() if settings.smooth else None,
            root=OneEuro(ROOT) if settings.smooth else None,
        )
