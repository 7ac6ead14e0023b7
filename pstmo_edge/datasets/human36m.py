"""Human3.6M in VideoPose3D's layout: `data_3d_h36m.npz` and `data_2d_h36m_<keypoints>.npz` in one folder.

The dataset is licensed to each user by its owners; it is read from where the user put it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.cameras import Camera, human36m_cameras, normalise_screen, world_to_camera
from pstmo_edge.datasets.object_npz import read_object_npz
from pstmo_edge.datasets.sequences import PoseSequence, check_sequence
from pstmo_edge.errors import DataError, UsageError
from pstmo_edge.skeletons import COCO, HUMAN36M, LAYOUTS, Skeleton, get_skeleton

FPS = 50.0
SUBJECTS = {"train": ("S1", "S5", "S6", "S7", "S8"), "test": ("S9", "S11")}
POSES, KEYPOINTS = "data_3d_h36m.npz", "data_2d_h36m_{}.npz"
# A published 2D file of each joint set, to name where the one that was given is of another.
_PUBLISHED = {HUMAN36M.name: "cpn_ft_h36m_dbb", COCO.name: "detectron_pt_coco"}
# The 17 moving joints among the 32 of the recordings.
_RECORDED = 32
_MOVING = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)


def is_folder(folder: Path) -> bool:
    """Whether a folder holds the dataset or a part of it."""
    return (folder / POSES).is_file() or any(folder.glob(KEYPOINTS.format("*")))


def load(folder: Path, split: str, keypoints: str = "gt", skeleton: str = HUMAN36M.name) -> tuple[PoseSequence, ...]:
    """Every take of the split seen by four cameras; `keypoints` names the 2D file ("gt", "cpn_ft_h36m_dbb").

    With COCO keypoints ("detectron_pt_coco") this is what P-STMO trains on for videos from the wild: their poses are
    Human3.6M's. Raises DataError where a file is missing, damaged, of another skeleton, or does not match the other.
    """
    path = folder / KEYPOINTS.format(keypoints)
    positions, found = read_object_npz(folder / POSES), read_object_npz(path)
    _check_layout(found, get_skeleton(skeleton), path)
    takes = [place.split("/")[1:3] for place in positions if place.startswith("positions_3d/")]
    sequences = [
        _view(positions, found, subject, action, number, camera, skeleton)
        for subject, action in (take for take in takes if len(take) == 2)
        if subject in SUBJECTS[split]
        for number, camera in enumerate(_cameras(subject, folder))
    ]
    if not sequences:
        raise DataError(f"{folder} holds no takes of {', '.join(SUBJECTS[split])}: the {split} split is empty")
    return tuple(sequences)


def _check_layout(found: dict[str, FloatArray], needed: Skeleton, path: Path) -> None:
    if "metadata" not in found:
        raise DataError(f"{path} has no metadata, so its joint order is unknown")
    metadata = json.loads(str(found["metadata"]))
    if not isinstance(metadata, dict):
        raise DataError(f"{path}: its metadata are no dict, so its joint order is unknown")
    layout = str(metadata.get("layout_name", "h36m"))
    holds = LAYOUTS[layout].name if layout in LAYOUTS else layout
    if holds != needed.name:
        other = f" ({_PUBLISHED[needed.name]} is of {needed.name})" if needed.name in _PUBLISHED else ""
        raise DataError(
            f"{path} holds {holds} keypoints and {needed.name} are asked for: name another 2D file as the keypoints"
            f"{other}, or use a model and a skeleton of {holds}"
        )


def _cameras(subject: str, folder: Path) -> tuple[Camera, ...]:
    try:
        return human36m_cameras(subject)
    except UsageError:
        raise DataError(f"{folder}: {subject} has no published cameras, so its takes cannot be seen") from None


def _view(
    positions: dict[str, FloatArray],
    found: dict[str, FloatArray],
    subject: str,
    action: str,
    number: int,
    camera: Camera,
    skeleton: str,
) -> PoseSequence:
    name = f"{subject}/{action}, camera {number}"
    pixels = found.get(f"positions_2d/{subject}/{action}/{number}")
    if pixels is None:
        raise DataError(f"the 2D file lacks {name}, which the 3D file has")
    if pixels.ndim != 3 or pixels.shape[2] < 2:
        raise DataError(f"{name}: its keypoints have shape {pixels.shape}, expected (frames, joints, 2)")
    joints = _joints(positions.get(f"positions_3d/{subject}/{action}", np.empty(0)), name)
    if len(pixels) < len(joints):
        raise DataError(f"{name}: {len(pixels)} frames of 2D for {len(joints)} of 3D")
    seen = world_to_camera(joints, camera)
    # Videos run on for some frames after the motion capture has stopped.
    pixels = pixels[: len(joints), :, :2].astype(np.float32)
    sequence = PoseSequence(
        subject=subject,
        action=action,
        camera=camera.name,
        keypoints=normalise_screen(pixels, camera.image_size),
        poses=(seen - seen[:, :1]).astype(np.float32),
        fps=FPS,
        image_size=camera.image_size,
        skeleton=skeleton,
        root=seen[:, 0].astype(np.float32),
        intrinsics=camera.normalised,
    )
    return check_sequence(sequence)


def _joints(world: FloatArray, name: str) -> FloatArray:
    """World positions (L, 17, 3) of recorded ones (L, 32, 3), or of 17 joints as they are."""
    if world.ndim != 3 or world.shape[1:] not in ((_RECORDED, 3), (HUMAN36M.num_joints, 3)):
        raise DataError(f"{name}: its 3D poses have shape {world.shape}, expected (frames, {_RECORDED}, 3)")
    joints = world if world.shape[1] == HUMAN36M.num_joints else world[:, _MOVING]
    if not np.isfinite(joints).all():
        raise DataError(f"{name}: a 3D pose is not finite")
    return joints.astype(np.float64)
