"""From one joint set to another, by name: what a detector finds to what a model reads.

A joint is either the same point of the body under another name, or the middle of some. What has to be guessed from
farther away is not mapped: such a pair is refused, and the error names the weights that read the detector's joints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pstmo_edge.arrays import FloatArray, IntArray
from pstmo_edge.errors import DataError
from pstmo_edge.skeletons import COCO, HUMAN36M, Skeleton, get_skeleton

# Human3.6M's joints by Halpe's names. Its spine is half way from hip to thorax; its "Neck/Nose" is put between neck
# and nose, where annotators of neither set would look, so it is the least exact of the seventeen.
_HUMAN36M_BY_HALPE = {
    "RFoot": ("RAnkle",), "LFoot": ("LAnkle",), "Spine": ("Hip", "Neck"), "Thorax": ("Neck",),
    "Neck/Nose": ("Neck", "Nose"), "Head": ("HeadTop",),
}  # fmt: skip

# For every joint that has another name, or none, in the source: the joints whose mean it is.
_RENAMED: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {
    ("blazepose-33", COCO.name): {},
    ("halpe-26", COCO.name): {},
    ("halpe-26", HUMAN36M.name): _HUMAN36M_BY_HALPE,
    ("openpose-18", COCO.name): {},
    ("openpose-25", COCO.name): {},
}
_COCO_ENGINE = (
    "an engine of weights that read COCO keypoints does: "
    "pstmo-edge build --checkpoint p-stmo-s-27-coco --out engine-coco"
)


@dataclass(frozen=True)
class Mapping:
    """A linear map between joint sets: each target joint is the mean of some source joints.

    `picks` (J_target, K) are source joints; a target with fewer than K of them repeats them in equal shares.
    """

    source: Skeleton
    target: Skeleton
    picks: IntArray

    def __call__(self, keypoints: FloatArray) -> FloatArray:
        """Keypoints (..., J_source, 3), pixels and confidence, as (..., J_target, 3).

        A mean is as sure as the least sure of its joints, so it is missing where one of them is.
        """
        picked = keypoints[..., self.picks, :]  # [..., J, K, 3]
        confidence = picked[..., 2].min(-1, keepdims=True)
        mapped: FloatArray = np.concatenate([picked[..., :2].mean(-2), confidence], axis=-1)
        return mapped

    @property
    def derived(self) -> tuple[str, ...]:
        """The target joints that no single source joint is."""
        return tuple(self.target.joints[i] for i, pick in enumerate(self.picks) if len(set(pick.tolist())) > 1)


def mapping(source: str, target: str) -> Mapping:
    """The map from one named joint set to another; raises UsageError for an unknown name, DataError for no map."""
    here, there = get_skeleton(source), get_skeleton(target)
    if here is not there and (source, target) not in _RENAMED:
        lacking = ", ".join(sorted(set(there.joints) - set(here.joints))[:4])
        as_coco = source == COCO.name or (source, COCO.name) in _RENAMED
        raise DataError(
            f"{source} keypoints cannot be turned into {target}, which this engine reads: {lacking} ... are not among "
            f"them; {_COCO_ENGINE if as_coco else f'an engine of weights that read {source} is needed'}"
        )
    renamed = _RENAMED.get((source, target), {})
    picks = [[here.joints.index(name) for name in renamed.get(joint, (joint,))] for joint in there.joints]
    width = int(np.lcm.reduce([len(pick) for pick in picks]))
    return Mapping(here, there, np.array([pick * (width // len(pick)) for pick in picks]))
