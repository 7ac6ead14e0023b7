"""What speaks against a pose: the signs that `doubt` is told by, measured from what went in and what came out.

All are of the body and of time, not of pixels and frames: distances are over the body's size in the image, times are
seconds, so they mean the same at any distance and frame rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pstmo_edge.app.placing import shared_joints
from pstmo_edge.arrays import BoolArray, FloatArray
from pstmo_edge.errors import DataError
from pstmo_edge.manifest import InputSpec
from pstmo_edge.skeletons import COCO, HUMAN36M, Skeleton, get_skeleton
from pstmo_edge.streaming import PoseResult

JOINT_SIGNS = (
    "missing",  # in its own frame
    "regained",  # that, and seen again before the pose was due: interpolated
    "held",  # seconds since it was measured, at most 1
    "lost",  # share of the last NEAR seconds' frames in which it was missing
    "unsure",  # 1 - confidence in its own frame; 0 where it is missing
    "speed",  # of the keypoint relative to the body, body sizes a second, log(1 + x)
    "tremble",  # how far its last three places are from a line at even pace, body sizes, log(1 + 100 x)
    "misfit",  # of the pose and its keypoint, millimetres, log(1 + x / 10)
    "depth",  # metres before or behind the root
    "reach",  # metres from the root
)
POSE_SIGNS = (
    "blind",  # share of the model's look-ahead that the pose did not wait for
    "young",  # share of the window's past that came before the sequence began
    "filled",  # share of the window's frames that were filled in somewhere
    "strange",  # distance of the 2D pose from those trained on, inside the space they span, log
    "outside",  # and out of it, log
    "crooked",  # left and right bones' difference in length, mean of |log ratio|
    "unlike",  # bones' shares of the body against those trained on, root mean square of log ratios
    "small",  # body size in the image, widths, log
)
MIRROR_SIGNS = ("disagrees", "disagree")  # with the mirrored window's pose, log(1 + mm / 10): the joint, and all joints
SIGNS = (*JOINT_SIGNS, *(f"{name}, body" for name in JOINT_SIGNS), *POSE_SIGNS)
NEAR = 0.25
# The keypoints behind a joint of the pose that is none itself.
_BEHIND = {
    "Hip": ("LHip", "RHip"), "Spine": ("LHip", "RHip", "LShoulder", "RShoulder"), "Thorax": ("LShoulder", "RShoulder"),
    "Neck/Nose": ("Nose",), "Head": ("LEye", "REye", "LEar", "REar"), "LFoot": ("LAnkle",), "RFoot": ("RAnkle",),
}  # fmt: skip


@dataclass(frozen=True)
class Motion:
    """What the 2D poses and bones trained on are like.

    Poses are centred and scaled to a root mean square of 1 (2 J values): `mean` (2 J,), `axes` (K, 2 J), the standard
    deviation `spread` (K,) along each and `rest` outside them; `bones` (J - 1,) are each bone's share of all.
    """

    mean: FloatArray
    axes: FloatArray
    spread: FloatArray
    rest: float
    bones: FloatArray

    def strangeness(self, points: FloatArray) -> tuple[float, float]:
        """The distance of a centred and scaled pose (J, 2) inside the axes, a root mean square of deviations, and out.

        1 is a usual pose in both.
        """
        away = points.reshape(-1) - self.mean
        inside = self.axes @ away
        left = away - inside @ self.axes
        return float(np.sqrt(((inside / self.spread) ** 2).mean())), float(np.sqrt((left**2).mean()) / self.rest)

    @classmethod
    def of(cls, points: FloatArray, bones: FloatArray, axes: int = 12) -> Motion:
        """Of centred and scaled poses (N, J, 2) and bone lengths (N, J - 1)."""
        flat = points.reshape(len(points), -1).astype(np.float64)
        mean = flat.mean(0)
        _, _, directions = np.linalg.svd(flat - mean, full_matrices=False)
        inside = (flat - mean) @ directions[:axes].T
        left = flat - mean - inside @ directions[:axes]
        shares = (bones / bones.sum(-1, keepdims=True)).mean(0)
        return cls(mean, directions[:axes], inside.std(0), float(np.sqrt((left**2).mean())), shares)


@dataclass(frozen=True)
class Seen:
    """One frame of a person: its time and that of its sequence's start, and of each keypoint (K,) what is known.

    `points` (K, 2) are normalised, missing ones held as the stream holds them; `held` is how long, in seconds.
    """

    time: float
    start: float
    points: FloatArray
    missing: BoolArray
    confidence: FloatArray
    held: FloatArray

    @property
    def size(self) -> float:
        """The body's, the root mean square of its points about their mean, image widths over 2."""
        return max(float(np.sqrt(((self.points - self.points.mean(0)) ** 2).sum() / len(self.points))), 1e-6)


class Signs:
    """Measures the signs of one engine's poses; has settings and no state."""

    def __init__(self, given: InputSpec, lifted: Skeleton, keypoint_skeleton: str, motion: Motion) -> None:
        seen = get_skeleton(keypoint_skeleton)
        self.motion, self.skeleton, self.frames = motion, lifted, given.frames
        self.behind = sources(seen, lifted)
        self.pairs = shared_joints(seen, lifted)
        slot = given.t_downsample / given.frame_rate
        self.past, self.future = given.target_index * slot, given.lookahead_frames * slot

    def measure(self, result: PoseResult, frames: Sequence[Seen]) -> FloatArray:
        """(17, len(SIGNS)) of a result whose own frame is the last of `frames`, those of the last NEAR seconds."""
        joints = self._of_joints(result, frames)
        pose = np.concatenate([joints.mean(0), self._of_pose(result, frames[-1])])
        return np.concatenate([joints, np.broadcast_to(pose, (len(joints), len(pose)))], axis=-1)

    def _of_joints(self, result: PoseResult, frames: Sequence[Seen]) -> FloatArray:
        pose = result.pose.astype(np.float64)
        own, before, first = frames[-1], frames[max(-2, -len(frames))], frames[max(-3, -len(frames))]
        keypoints = np.stack(
            [
                own.missing,
                own.missing & result.regained,
                own.held,
                np.mean([seen.missing for seen in frames], axis=0),
                1 - own.confidence,
                np.log1p(_speed(frames) / own.size),
                np.log1p(100 * _length(before.points - (first.points + own.points) / 2) / own.size),
            ],
            axis=-1,
        )
        reach = pose - pose[self.skeleton.root]
        made = np.stack([self._misfit(pose, own), np.abs(reach[:, 2]), _length(reach)], axis=-1)
        return np.concatenate([self.behind @ keypoints, made], axis=-1)

    def _misfit(self, pose: FloatArray, own: Seen) -> FloatArray:
        """The distance (17,) of each joint from its keypoint after the best scale and shift, log(1 + mm / 10).

        Weak perspective needs no intrinsics. Joints that are no keypoints get the mean of the others.
        """
        seen, lifted = self.pairs
        flat, points = pose[lifted, :2], own.points[seen].astype(np.float64)
        weight = np.where(own.missing[seen], 1e-3, own.confidence[seen])[:, None]
        weight /= weight.sum()
        flat, points = flat - (weight * flat).sum(0), points - (weight * points).sum(0)
        scale = max(float((weight * flat * points).sum() / max((weight * flat**2).sum(), 1e-12)), 1e-6)
        away = _length(points / scale - flat)
        out = np.full(len(pose), away.mean())
        out[lifted] = away
        return np.log1p(np.minimum(out, 2.0) * 100)

    def _of_pose(self, result: PoseResult, own: Seen) -> FloatArray:
        blind = 0.0 if self.future == 0 else 1 - min(result.lookahead_ms / 1000 / self.future, 1.0)
        young = 0.0 if self.past == 0 else 1 - min((own.time - own.start) / self.past, 1.0)
        inside, outside = self.motion.strangeness((own.points - own.points.mean(0)) / own.size)
        crooked, unlike = _inconsistency(bone_lengths(result.pose, self.skeleton), self.motion.bones, self.skeleton)
        filled = result.filled_frames / self.frames
        strange, away = np.log(inside + 1e-3), np.log(outside + 1e-3)
        return np.array([blind, young, filled, strange, away, crooked, unlike, np.log(own.size)])


def disagreement(pose: FloatArray, other: FloatArray) -> FloatArray:
    """The signs of mirrored disagreement, (17, 2), of a pose and that of the mirrored window, turned back."""
    away = _length(pose.astype(np.float64) - other) * 1000.0
    return np.stack([np.log1p(away / 10), np.full(len(away), np.log1p(away.mean() / 10))], axis=-1)


def sources(seen: Skeleton, lifted: Skeleton) -> FloatArray:
    """Which keypoints stand behind each joint of the pose: (J_pose, J_keypoints), rows that sum to 1."""
    if seen == lifted:
        return np.eye(seen.num_joints)
    if (seen, lifted) != (COCO, HUMAN36M):
        raise DataError(f"no doubt is defined for {seen.name} keypoints and {lifted.name} poses")
    shares = np.zeros((lifted.num_joints, seen.num_joints))
    for row, name in zip(shares, lifted.joints, strict=True):
        names = _BEHIND.get(name, (name,))
        row[[seen.joints.index(each) for each in names]] = 1 / len(names)
    return shares


def bone_lengths(poses: FloatArray, skeleton: Skeleton) -> FloatArray:
    """The lengths (..., J - 1) of the bones of poses (..., J, 3), in the order of `skeleton.bones`."""
    joints, parents = np.array(skeleton.bones).T
    return _length(poses[..., joints, :].astype(np.float64) - poses[..., parents, :])


def _length(vectors: FloatArray) -> FloatArray:
    length: FloatArray = np.sqrt((vectors**2).sum(-1))
    return length


def _speed(frames: Sequence[Seen]) -> FloatArray:
    """How fast each keypoint moves against the body, image widths over 2 a second, (K,)."""
    first, last = frames[0], frames[-1]
    if last.time <= first.time:
        return np.zeros(len(first.points))
    moved = last.points - first.points
    return _length(moved - moved.mean(0)) / (last.time - first.time)


def _inconsistency(lengths: FloatArray, usual: FloatArray, skeleton: Skeleton) -> tuple[float, float]:
    lengths = np.maximum(lengths, 1e-6)
    rank = {joint: number for number, (joint, _) in enumerate(skeleton.bones)}
    pairs = zip(skeleton.left, skeleton.right, strict=True)
    ratios = [np.log(lengths[rank[left]] / lengths[rank[right]]) for left, right in pairs]
    unlike = np.log(lengths / lengths.sum() / usual)
    return float(np.abs(ratios).mean()), float(np.sqrt((unlike**2).mean()))


def usual_points(points: FloatArray) -> FloatArray:
    """2D poses (N, J, 2) centred and scaled to a root mean square of 1, as `Motion` wants them."""
    centred = points - points.mean(1, keepdims=True)
    scaled: FloatArray = centred / np.sqrt((centred**2).sum(-1).mean(-1))[:, None, None]
    return scaled
