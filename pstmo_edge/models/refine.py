"""The refinement module: a lifted pose is mixed with the one that its own depths and the 2D keypoints imply.

Source: Cai et al., "Exploiting Spatial-temporal Relationships for 3D Pose Estimation via Graph Convolutional Networks",
ICCV 2019, as P-STMO uses it. Parameter names are the published ones.

The published code takes the depth of the root joint from the ground truth, in training and in evaluation alike, and so
do the published refined errors. Where no depth is known an estimate must take its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pstmo_edge.arrays import FloatArray
from pstmo_edge.skeletons import HUMAN36M


@dataclass(frozen=True)
class RefineConfig:
    """The size of the module."""

    joints: int = HUMAN36M.num_joints
    root: int = HUMAN36M.root
    hidden: int = 1024
    dropout: float = 0.5


class Refine(nn.Module):
    """Two estimates of a pose in, for each joint a share for either, their mix in x and y out."""

    def __init__(self, config: RefineConfig) -> None:
        super().__init__()
        self.config = config
        self.post_refine = nn.Sequential(
            nn.Linear(6 * config.joints, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, 2 * config.joints),
            nn.Sigmoid(),
        )

    def forward(self, pose: Tensor, rebuilt: Tensor) -> Tensor:
        """A lifted pose and a back-projected one, (B, J, 3) metres, to the refined one, whose z is the lifter's."""
        share = self.post_refine(torch.cat([pose, rebuilt], dim=-1).flatten(1)).unflatten(1, (-1, 2))  # [B, J, 2]
        mixed = share * pose[..., :2] + (1 - share) * rebuilt[..., :2]
        return torch.cat([mixed, pose[..., 2:]], dim=-1)

    def rebuild(self, keypoints: Tensor, pose: Tensor, depth: Tensor, intrinsics: Tensor) -> Tensor:
        """The pose that the keypoints show at the lifted depths, (B, J, 3) metres, relative to the root.

        `keypoints` (B, J, 2) are normalised, `pose` (B, J, 3) is the lifted one, `depth` (B,) the root's distance
        along the optical axis in metres, `intrinsics` (B, 4) as in `PoseSequence`. The lens's distortion is ignored,
        as published.
        """
        root = self.config.root
        relative = torch.where(torch.arange(self.config.joints, device=pose.device) == root, 0.0, pose[..., 2])
        z = (relative + depth[:, None])[..., None]
        xy = (keypoints - intrinsics[:, None, 2:]) * z / intrinsics[:, None, :2]
        points = torch.cat([xy, z], dim=-1)
        return points - points[:, root : root + 1]


def refiner(refine: Refine) -> Callable[[FloatArray, FloatArray, FloatArray, FloatArray], FloatArray]:
    """The refinement module as `evaluation.evaluate` takes it."""
    device = next(refine.parameters()).device

    def refined(poses: FloatArray, *camera: FloatArray) -> FloatArray:
        with torch.inference_mode():
            lifted, keypoints, depth, intrinsics = (torch.from_numpy(a).to(device) for a in (poses, *camera))
            out: FloatArray = refine(lifted, refine.rebuild(keypoints, lifted, depth, intrinsics)).cpu().numpy()
        return out

    return refined
