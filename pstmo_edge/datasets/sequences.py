"""The one type that every dataset becomes: a camera's view of one take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pstmo_edge.arrays import BoolArray, FloatArray
from pstmo_edge.errors import DataError
from pstmo_edge.skeletons import HUMAN36M, get_skeleton, require_skeleton


@dataclass(frozen=True)
class PoseSequence:
    """2D keypoints of one take seen by one camera and, where known, the 3D poses behind them.

    `keypoints` (L, 17, 2) are in normalised screen coordinates, `poses` (L, 17, 3) in metres, camera frame, relative
    to the root joint, `confidence` (L, 17) is the detector's, in 0..1. `valid` (L,) says which frames have a pose to
    train and to measure on (all, where it is None); the others still fill windows. `root` (L, 3) is where the root
    joint is in the camera frame, metres, and `intrinsics` (4,) the focal lengths and the centre (fx, fy, cx, cy) in
    normalised screen coordinates: what refinement needs to turn depth into a pose.
    """

    subject: str
    action: str
    camera: str
    keypoints: FloatArray
    poses: FloatArray | None
    fps: float
    image_size: tuple[int, int]
    confidence: FloatArray | None = None
    skeleton: str = HUMAN36M.name
    pose_skeleton: str = HUMAN36M.name
    valid: BoolArray | None = None
    root: FloatArray | None = None
    intrinsics: FloatArray | None = None

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return f"{self.subject}/{self.action}/{self.camera}"

    def __len__(self) -> int:
        return len(self.keypoints)

    def inputs(self, channels: int = 2) -> FloatArray:
        """What a model reads of every frame: the keypoints (L, 17, 2), or with their visibility (L, 17, 3).

        Visibility is the detector's confidence, and 1 where there is none.
        """
        if channels == 2:
            return self.keypoints
        visible = np.ones(self.keypoints.shape[:2], np.float32) if self.confidence is None else self.confidence
        return np.concatenate([self.keypoints, visible[..., None]], axis=-1)

    def true_poses(self) -> FloatArray:
        """The 3D poses; raises DataError where there are none."""
        if self.poses is None:
            raise DataError(f"{self.name} has no 3D poses, so no error can be measured on it")
        return self.poses

    def valid_frames(self) -> BoolArray:
        """Which frames have a pose to train and to measure on, (L,)."""
        return np.ones(len(self), bool) if self.valid is None else self.valid


def check_sequence(sequence: PoseSequence) -> PoseSequence:
    """The sequence, unless its keypoints have the wrong shape, are empty, or are not finite (DataError)."""
    keypoints = sequence.keypoints
    skeleton = get_skeleton(sequence.skeleton)
    joints = skeleton.num_joints
    if keypoints.ndim != 3 or keypoints.shape[1:] != (joints, 2):
        raise DataError(f"{sequence.name}: keypoints have shape {keypoints.shape}, expected (frames, {joints}, 2)")
    if len(keypoints) == 0:
        raise DataError(f"{sequence.name}: no frames, at least 1 is needed")
    bad = np.argwhere(~np.isfinite(keypoints))
    if len(bad):
        raise DataError(
            f"{sequence.name}: frame {bad[0][0]}, joint {skeleton.joints[bad[0][1]]} is not a finite number "
            f"({len(np.unique(bad[:, 0]))} of {len(keypoints)} frames are affected); fill or drop missing joints first"
        )
    return sequence


def check_skeleton(sequences: Iterable[PoseSequence], skeleton: str, source: str) -> None:
    """Raise DataError unless every sequence has the keypoints that a model reads; `source` names the data."""
    for found in {sequence.skeleton for sequence in sequences}:
        require_skeleton(found, get_skeleton(skeleton), source)


def summary(sequences: Sequence[PoseSequence]) -> dict[str, Any]:
    """What a set of sequences holds, in plain values."""
    first, frames = sequences[0], sum(map(len, sequences))
    return {
        "views": len(sequences),
        "frames": frames,
        "valid frames": int(sum(sequence.valid_frames().sum() for sequence in sequences)),
        "minutes": round(sum(len(sequence) / sequence.fps for sequence in sequences) / 60, 1),
        "frames a second": sorted({sequence.fps for sequence in sequences}),
        "subjects": sorted({sequence.subject for sequence in sequences}),
        "actions": sorted({sequence.action for sequence in sequences}),
        "keypoints": first.skeleton,
        "poses": first.pose_skeleton if first.poses is not None else "none",
        "refinable": all(s.root is not None and s.intrinsics is not None for s in sequences),
    }
