"""What each stage of training minimises: a module whose output is the loss of a batch.

The published loss is the mean joint distance throughout (P-STMO, sections 3.2 and 3.4).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pstmo_edge.arrays import BoolArray, FloatArray
from pstmo_edge.errors import DataError
from pstmo_edge.models.p_stmo import PSTMO, PSTMOPretrain
from pstmo_edge.models.refine import Refine
from pstmo_edge.train.batches import Batch

MM = 1000.0
PIXELS = 500.0  # normalised screen coordinates to pixels of an image 1000 pixels wide


def joint_distance(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean distance of all joints, in the unit of its arguments (..., J, D)."""
    return (predicted - target).norm(dim=-1).mean()


class Objective(nn.Module):
    """A stage: `models` by the name of the file that their weights go to, and the loss."""

    unit: str  # of the validation error
    scale: float  # from the loss to an error in that unit
    models: dict[str, nn.Module]

    @property
    def stored(self) -> dict[str, nn.Module]:
        """The models in the form in which a run stores them at its end, by the same names."""
        return self.models

    def inputs(self, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """What `forward` takes, on the CPU; `rng` is the same in all processes."""
        raise NotImplementedError


class Finetune(Objective):
    """Stage II: the pose of the target frame and, of models with a head for them, the poses of all frames."""

    unit = "mm"

    def __init__(self, lifter: PSTMO | nn.Module) -> None:
        super().__init__()
        self.lifter = lifter
        self.scale = MM / 2 if isinstance(lifter, PSTMO) else MM
        self.target: int = lifter.lifter.window.target
        self.models = {"weights": lifter}

    def inputs(self, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """Keypoints and poses."""
        return torch.from_numpy(batch.keypoints), torch.from_numpy(batch.poses)

    def forward(self, keypoints: Tensor, poses: Tensor) -> Tensor:
        """(B, T, 17, 2) and (B, T, 17, 3) to the loss."""
        if not isinstance(self.lifter, PSTMO):
            return joint_distance(self.lifter(keypoints), poses[:, self.target])
        one, every = self.lifter.forward_both(keypoints)
        return joint_distance(every, poses) + joint_distance(one, poses[:, self.target])


class Pretrain(Objective):
    """Stage I, masked pose modelling: hidden frames and joints are rebuilt from the visible ones."""

    unit, scale = "px", PIXELS

    def __init__(self, model: PSTMOPretrain, mask_rate: float, masked_joints: int) -> None:
        super().__init__()
        self.model = model
        self.mask_rate, self.masked_joints = mask_rate, masked_joints
        self.models = {"weights": model}

    def inputs(self, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """Keypoints and masks."""
        return self.masked(batch.keypoints, rng)

    def masked(self, keypoints: FloatArray, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """Keypoints (B, T, 17, 2) with masks drawn for them, the same for the whole batch, as published."""
        masks = draw_masks(keypoints.shape[1], self.mask_rate, self.masked_joints, rng)
        return torch.from_numpy(keypoints), *(torch.from_numpy(mask) for mask in masks)

    def forward(self, keypoints: Tensor, temporal_mask: Tensor, spatial_mask: Tensor) -> Tensor:
        """(B, T, 17, 2), (T,) and (T, 17) to the loss over all frames, hidden and visible, as published."""
        rebuilt = self.model(keypoints, temporal_mask, spatial_mask)
        wanted = torch.cat([keypoints[:, ~temporal_mask], keypoints[:, temporal_mask]], dim=1)
        return joint_distance(rebuilt, wanted)


def draw_masks(
    frames: int, mask_rate: float, masked_joints: int, rng: np.random.Generator
) -> tuple[BoolArray, BoolArray]:
    """The frames hidden, (T,), and the joints hidden in each frame, (T, 17); True hides.

    As published the last joint is never hidden: the code draws from the first 16.
    """
    temporal = np.zeros(frames, bool)
    temporal[rng.permutation(frames)[: int(frames * mask_rate)]] = True
    spatial = np.zeros((frames, 17), bool)
    chosen = rng.random((frames, 16)).argsort(axis=1)[:, :masked_joints]
    np.put_along_axis(spatial, chosen, values=True, axis=1)
    return temporal, spatial


class Refinement(Objective):
    """The refinement module on a lifter; both are trained, by the refined pose's error alone, as published."""

    unit, scale = "mm", MM

    def __init__(self, lifter: PSTMO, refine: Refine) -> None:
        super().__init__()
        self.lifter, self.refine = lifter, refine
        self.target: int = lifter.lifter.window.target
        self.models = {"weights": lifter, "refine": refine}

    def inputs(self, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """Keypoints, the target's pose, and the camera."""
        if not (np.isfinite(batch.depth).all() and np.isfinite(batch.intrinsics).all()):
            raise DataError("refinement needs the cameras' intrinsics and the root's depth, which this data lacks")
        arrays = (batch.keypoints, batch.poses[:, self.target], batch.depth, batch.intrinsics)
        return tuple(torch.from_numpy(array) for array in arrays)

    def forward(self, keypoints: Tensor, pose: Tensor, depth: Tensor, intrinsics: Tensor) -> Tensor:
        """(B, T, 17, 2), (B, 17, 3), (B,) and (B, 4) to the loss."""
        lifted = self.lifter(keypoints)
        rebuilt = self.refine.rebuild(keypoints[:, self.target], lifted, depth, intrinsics)
        return joint_distance(self.refine(lifted, rebuilt), pose)
