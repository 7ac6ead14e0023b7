"""Human3.6M in VideoPose3D's layout: `data_3d_h36m.npz` and `data_2d_h36m_<keypoints>.npz` in one folder.

The dataset is licensed to each user by its owners; it is read from where the user put it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.cameras import human36m_cameras, normalise_screen, world_to_camera
from pstmo_edge.datasets.object_npz import read_object_npz
from pstmo_edge.datasets.sequences import PoseSequence, check_sequence
from pstmo_edge.errors import DataError
from pstmo_edge.skeletons import HUMAN36M, LAYOUTS, Skeleton, get_skeleton, require_skeleton

FPS = 50.0
SUBJECTS = {"train": ("S1", "S5", "S6", "S7", "S8"), "test": ("S9", "S11")}
# The 17 moving joints among the 32 of the recordings.
_MOVING = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)


def load(folder: Path, split: str, keypoints: str = "gt", skeleton: str = HUMAN36M.name) -> tuple[PoseSequence, ...]:
    """Every take of the split seen by four cameras; `keypoints` names the 2D file ("gt", "cpn_ft_h36m_dbb").

    With COCO keypoints ("detectron_pt_coco") this is what P-STMO trains on for videos from the wild. Raises DataError
    where a file is missing, damaged, of another skeleton, does not match the other, or a subject has no cameras.
    """
    positions = read_object_npz(folder / "data_3d_h36m.npz")
    found = read_object_npz(folder / f"data_2d_h36m_{keypoints}.npz")
    _check_layout(found, get_skeleton(skeleton), folder / f"data_2d_h36m_{keypoints}.npz")
    takes = [name.split("/")[1:] for name in positions if name.startswith("positions_3d/")]
    sequences = [
        _view(positions[f"positions_3d/{subject}/{action}"], found, subject, action, camera, skeleton)
        for subject, action in takes
        if subject in SUBJECTS[split]
        for camera in range(4)
    ]
    if not sequences:
        raise DataError(f"{folder} holds no takes of {', '.join(SUBJECTS[split])}: the {split} split is empty")
    return tuple(sequences)


def _check_layout(found: dict[str, FloatArray], needed: Skeleton, path: Path) -> None:
    if "metadata" not in found:
        raise DataError(f"{path} has no metadata, so its joint order is unknown")
    layout = str(json.loads(str(found["metadata"])).get("layout_name", "h36m"))
    require_skeleton(LAYOUTS[layout].name if layout in LAYOUTS else layout, needed, str(path))


def _view(
    world: FloatArray, found: dict[str, FloatArray], subject: str, action: str, number: int, skeleton: str
) -> PoseSequence:
    name = f"positions_2d/{subject}/{action}/{number}"
    if name not in found:
        raise DataError(f"the 2D file lacks {subject}/{action}, camera {number}, which the 3D file has")
    pixels = found[name]
    if len(pixels) < len(world):
        raise DataError(f"{subject}/{action}, camera {number}: {len(pixels)} frames of 2D for {len(world)} of 3D")
    camera = human36m_cameras(subject)[number]
    joints = world if world.shape[1] == HUMAN36M.num_joints else world[:, _MOVING]
    seen = world_to_camera(joints.astype(np.float64), camera)
    # Videos run on for some frames after the motion capture has stopped.
    pixels = pixels[: len(world), :, :2].astype(np.float32)
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
