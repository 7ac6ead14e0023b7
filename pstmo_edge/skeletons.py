"""Named joint sets: which joint is which, which are left and right, and how one set maps to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pstmo_edge.errors import DataError
from pstmo_edge.naming import unknown

if TYPE_CHECKING:
    from pstmo_edge.arrays import FloatArray


@dataclass(frozen=True)
class Skeleton:
    """A joint set: names in order, each joint's parent (-1 for a root), and the mirrored pairs as (left, right)."""

    name: str
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse a joint set that contradicts itself."""
        if len(self.parents) != len(self.joints) or len(self.left) != len(self.right):
            raise ValueError(f"skeleton {self.name}: {len(self.joints)} joints, {len(self.parents)} parents")

    @property
    def num_joints(self) -> int:
        """How many joints there are."""
        return len(self.joints)

    @property
    def root(self) -> int:
        """The joint that has no parent; a keypoint set without bones through the pelvis has its first such joint."""
        return self.parents.index(-1)

    @property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """Every (joint, parent) pair."""
        return tuple((joint, parent) for joint, parent in enumerate(self.parents) if parent >= 0)

    @property
    def mirror(self) -> tuple[int, ...]:
        """The joint order after left and right are swapped."""
        order = list(range(self.num_joints))
        for left, right in zip(self.left, self.right, strict=True):
            order[left], order[right] = right, left
        return tuple(order)


HUMAN36M = Skeleton(
    name="human36m-17",
    joints=(
        "Hip", "RHip", "RKnee", "RFoot", "LHip", "LKnee", "LFoot", "Spine", "Thorax",
        "Neck/Nose", "Head", "LShoulder", "LElbow", "LWrist", "RShoulder", "RElbow", "RWrist",
    ),
    parents=(-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15),
    left=(4, 5, 6, 11, 12, 13),
    right=(1, 2, 3, 14, 15, 16),
)  # fmt: skip

COCO = Skeleton(
    name="coco-17",
    joints=(
        "Nose", "LEye", "REye", "LEar", "REar", "LShoulder", "RShoulder", "LElbow", "RElbow",
        "LWrist", "RWrist", "LHip", "RHip", "LKnee", "RKnee", "LAnkle", "RAnkle",
    ),
    parents=(-1, 0, 0, 1, 2, 0, 0, 5, 6, 7, 8, 5, 6, 11, 12, 13, 14),
    left=(1, 3, 5, 7, 9, 11, 13, 15),
    right=(2, 4, 6, 8, 10, 12, 14, 16),
)  # fmt: skip

MPI_INF_3DHP = Skeleton(
    name="mpi-inf-3dhp-17",
    joints=(
        "HeadTop", "Neck", "RShoulder", "RElbow", "RWrist", "LShoulder", "LElbow", "LWrist", "RHip",
        "RKnee", "RAnkle", "LHip", "LKnee", "LAnkle", "Pelvis", "Spine", "Head",
    ),
    parents=(16, 15, 1, 2, 3, 1, 5, 6, 14, 8, 9, 14, 11, 12, -1, 14, 1),
    left=(5, 6, 7, 11, 12, 13),
    right=(2, 3, 4, 8, 9, 10),
)  # fmt: skip

# 26 keypoints of AlphaPose and rtmlib (AlphaPose, TPAMI 2022): COCO's, then head top, neck, hip and six of the feet.
HALPE = Skeleton(
    name="halpe-26",
    joints=(
        *COCO.joints, "HeadTop", "Neck", "Hip",
        "LBigToe", "RBigToe", "LSmallToe", "RSmallToe", "LHeel", "RHeel",
    ),
    parents=(17, 0, 0, 1, 2, 18, 18, 5, 6, 7, 8, 19, 19, 11, 12, 13, 14, 18, 19, -1, 15, 16, 15, 16, 15, 16),
    left=(*COCO.left, 20, 22, 24),
    right=(*COCO.right, 21, 23, 25),
)  # fmt: skip

# MediaPipe's 33 landmarks (BlazePose, arXiv 2006.10204).
BLAZEPOSE = Skeleton(
    name="blazepose-33",
    joints=(
        "Nose", "LEyeInner", "LEye", "LEyeOuter", "REyeInner", "REye", "REyeOuter", "LEar", "REar", "LMouth", "RMouth",
        "LShoulder", "RShoulder", "LElbow", "RElbow", "LWrist", "RWrist", "LPinky", "RPinky", "LIndex", "RIndex",
        "LThumb", "RThumb", "LHip", "RHip", "LKnee", "RKnee", "LAnkle", "RAnkle", "LHeel", "RHeel", "LFootIndex",
        "RFootIndex",
    ),
    parents=(
        -1, 0, 1, 2, 0, 4, 5, 3, 6, 0, 0, 0, 0, 11, 12, 13, 14, 15, 16, 15, 16, 15, 16, 11, 12, 23, 24, 25, 26, 27, 28,
        29, 30,
    ),
    left=(1, 2, 3, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31),
    right=(4, 5, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32),
)  # fmt: skip

# OpenPose's two body models, in the order of its output page (BODY_25 is the default one).
OPENPOSE_25 = Skeleton(
    name="openpose-25",
    joints=(
        "Nose", "Neck", "RShoulder", "RElbow", "RWrist", "LShoulder", "LElbow", "LWrist", "Hip", "RHip", "RKnee",
        "RAnkle", "LHip", "LKnee", "LAnkle", "REye", "LEye", "REar", "LEar", "LBigToe", "LSmallToe", "LHeel",
        "RBigToe", "RSmallToe", "RHeel",
    ),
    parents=(1, 8, 1, 2, 3, 1, 5, 6, -1, 8, 9, 10, 8, 12, 13, 0, 0, 15, 16, 14, 14, 14, 11, 11, 11),
    left=(5, 6, 7, 12, 13, 14, 16, 18, 19, 20, 21),
    right=(2, 3, 4, 9, 10, 11, 15, 17, 22, 23, 24),
)  # fmt: skip

OPENPOSE_18 = Skeleton(
    name="openpose-18",
    joints=(
        "Nose", "Neck", "RShoulder", "RElbow", "RWrist", "LShoulder", "LElbow", "LWrist", "RHip", "RKnee", "RAnkle",
        "LHip", "LKnee", "LAnkle", "REye", "LEye", "REar", "LEar",
    ),
    parents=(1, -1, 1, 2, 3, 1, 5, 6, 1, 8, 9, 1, 11, 12, 0, 0, 14, 15),
    left=(5, 6, 7, 11, 12, 13, 15, 17),
    right=(2, 3, 4, 8, 9, 10, 14, 16),
)  # fmt: skip

_ALL = (HUMAN36M, COCO, MPI_INF_3DHP, HALPE, BLAZEPOSE, OPENPOSE_25, OPENPOSE_18)
SKELETONS = {skeleton.name: skeleton for skeleton in _ALL}

# What VideoPose3D's keypoint files call their joint sets ("layout_name" in the metadata).
LAYOUTS = {"h36m": HUMAN36M, "coco": COCO}


def get_skeleton(name: str) -> Skeleton:
    """The joint set called `name`; raises UsageError with the nearest match."""
    if name not in SKELETONS:
        raise unknown("skeleton", name, SKELETONS)
    return SKELETONS[name]


def require_skeleton(found: str, needed: Skeleton, source: str) -> None:
    """Raise DataError unless `found` names the joint set that the model was trained on."""
    if found != needed.name:
        raise DataError(
            f"{source} holds {found} keypoints and the model reads {needed.name}: the joint orders differ, "
            f"so its poses would be nonsense; map the joints first"
        )


def mirrored(keypoints: FloatArray, skeleton: Skeleton = HUMAN36M) -> FloatArray:
    """Left for right: (..., J, C) with x (0 at the centre) negated and the mirrored joints swapped."""
    flipped = keypoints[..., skeleton.mirror, :].copy()
    flipped[..., 0] *= -1
    return flipped
