"""What the stages of a camera app hand to each other."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pstmo_edge.arrays import FloatArray
from pstmo_edge.streaming import PoseResult


@dataclass(frozen=True)
class Frame:
    """One frame of a source.

    `index` counts what the source gave, from 0; `timestamp` is its time in seconds on the source's own clock;
    `image_size` is (width, height) in pixels as shown (a portrait video is turned first); `image` is (H, W, 3) uint8
    RGB, or None where the source gives keypoints alone.
    """

    index: int
    timestamp: float
    image_size: tuple[int, int]
    image: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Detections:
    """The people found in one frame.

    `keypoints` is (N, J, 3): pixels and confidence, in the joint order of the skeleton named `skeleton`. A joint that
    was not found has confidence 0. `ids` are the (N,) persons where the source already knows them (a tracked file).
    """

    keypoints: FloatArray
    skeleton: str
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class PersonPose:
    """One person's pose, ready to be shown or written.

    `person` is the tracker's number. `result` is the stream's answer, whose `frame` is here the number of the
    source's frame whose pose it is (look-ahead: not the newest one). `keypoints` (17, 3) are the pixels and
    confidences of that frame in the engine's input skeleton, None for a frame that only the clock made. `pose` is the
    pose to show, (17, 3) metres, camera frame, root-relative: `result.pose`, smoothed where asked. `doubt_mm` (17,) is
    the expected error of each joint in millimetres, None where the engine has no calibrated doubt; `doubtful` whether
    the pose as a whole is. `root` (3,) is the root joint in metres in the camera frame (or in the world frame that
    `placing` was given), None where it is not known.
    """

    person: int
    result: PoseResult
    keypoints: FloatArray | None
    pose: FloatArray
    doubt_mm: FloatArray | None = None
    doubtful: bool = False
    root: FloatArray | None = None

    @property
    def flag(self) -> str:
        """The worst that is known about it: "gap", "stale", "degraded" or "valid"."""
        for name in ("gap", "stale", "degraded"):
            if getattr(self.result, name):
                return name
        return "valid"


@dataclass(frozen=True)
class View:
    """What a viewer or a writer gets for one frame of the source.

    `frame` and `detections` are the newest; `poses` those that became ready with it, which belong to earlier frames
    where there is look-ahead (their `result.timestamp` says when). `joined` and `left` are persons who came and went.
    `status` is the line of figures that the screen shows.
    """

    frame: Frame
    detections: Detections
    poses: tuple[PersonPose, ...]
    joined: tuple[int, ...] = ()
    left: tuple[int, ...] = ()
    status: str = ""
    latency_ms: dict[str, float] = field(default_factory=dict)
