"""The one type that every dataset becomes: a camera's view of one take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.errors import DataError
from pstmo_edge.skeletons import HUMAN36M


@dataclass(frozen=True)
class PoseSequence:
    """2D keypoints of one take seen by one camera and, where known, the 3D poses behind them.

    `keypoints` (L, 17, 2) are in normalised screen coordinates, `poses` (L, 17, 3) in metres, camera frame, relative
    to the root joint, `confidence` (L, 17) is the detector's, in 0..1.
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

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return f"{self.subject}/{self.action}/{self.camera}"

    def __len__(self) -> int:
        return len(self.keypoints)

    def true_poses(self) -> FloatArray:
        """The 3D poses; raises DataError where there are none."""
        if self.poses is None:
            raise DataError(f"{self.name} has no 3D poses, so no error can be measured on it")
        return self.poses


def check_sequence(sequence: PoseSequence) -> PoseSequence:
    """The sequence, unless its keypoints have the wrong shape, are empty, or are not finite (DataError)."""
    keypoints = sequence.keypoints
    joints = HUMAN36M.num_joints
    if keypoints.ndim != 3 or keypoints.shape[1:] != (joints, 2):
        raise DataError(f"{sequence.name}: keypoints have shape {keypoints.shape}, expected (frames, {joints}, 2)")
    if len(keypoints) == 0:
        raise DataError(f"{sequence.name}: no frames, at least 1 is needed")
    bad = np.argwhere(~np.isfinite(keypoints))
    if len(bad):
        raise DataError(
            f"{sequence.name}: frame {bad[0][0]}, joint {HUMAN36M.joints[bad[0][1]]} is not a finite number "
            f"({len(np.unique(bad[:, 0]))} of {len(keypoints)} frames are affected); fill or drop missing joints first"
        )
    return sequence
