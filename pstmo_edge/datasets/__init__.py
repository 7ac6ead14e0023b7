"""Files on disk to sequences of 2D keypoints and 3D poses."""

from __future__ import annotations

import os
from pathlib import Path

from pstmo_edge.datasets import cmu_mocap
from pstmo_edge.datasets.sequences import PoseSequence
from pstmo_edge.errors import DataError, UsageError
from pstmo_edge.naming import unknown
from pstmo_edge.skeletons import HUMAN36M, MPI_INF_3DHP, get_skeleton

SPLITS = ("train", "test")


def load_sequences(
    data: str | os.PathLike[str] = cmu_mocap.NAME,
    split: str = "test",
    keypoints: str = "gt",
    skeleton: str = HUMAN36M.name,
) -> tuple[PoseSequence, ...]:
    """The sequences of one split of a dataset.

    `data` is the name of the bundled motion, a folder of Human3.6M (VideoPose3D's layout), of MPI-INF-3DHP (P-STMO's
    layout) or of BVH files, or an .npz of one's own keypoints (see `keypoint_file`; it is its own training and test
    split). `keypoints` says whose: "gt" (exact), "detected" (world motion with a detector's errors), or the name of a
    2D file ("cpn_ft_h36m_dbb"); `skeleton` names the joint set that they must be of.
    Raises UsageError for an unknown name, DataError for data that cannot be used.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    get_skeleton(skeleton)
    if str(data) == cmu_mocap.NAME:
        return cmu_mocap.load(split, keypoints, skeleton)
    path = Path(data)
    if path.is_dir():
        return _load_folder(path, split, keypoints, skeleton)
    if path.is_file():
        from pstmo_edge.datasets import keypoint_file

        return (keypoint_file.load(path, skeleton),)
    if path.suffix or os.sep in str(data):
        raise DataError(f"no such file or folder: {data}")
    raise UsageError(
        f"{data} is neither bundled motion ({cmu_mocap.NAME}) nor a file or folder: give a folder of Human3.6M, "
        f"MPI-INF-3DHP or BVH files, or an .npz of keypoints"
    )


def _load_folder(folder: Path, split: str, keypoints: str, skeleton: str) -> tuple[PoseSequence, ...]:
    """The dataset that a folder holds, told by its files; where it holds two, by the skeleton that is asked for."""
    from pstmo_edge.datasets import bvh, human36m, mpi_inf_3dhp

    is_human36m = human36m.is_folder(folder)
    # The published code keeps both datasets in one folder.
    if (skeleton == MPI_INF_3DHP.name or not is_human36m) and any(
        (folder / name).is_file() for name in mpi_inf_3dhp.FILES.values()
    ):
        return mpi_inf_3dhp.load(folder, split, keypoints, skeleton)
    if is_human36m:
        return human36m.load(folder, split, keypoints, skeleton)
    if bvh.holds_motion(folder):
        return cmu_mocap.seen(bvh.takes(folder, split), split, keypoints, skeleton)
    raise DataError(
        f"{folder} holds no dataset: it has neither {human36m.POSES} and {human36m.KEYPOINTS.format('*')} (Human3.6M), "
        f"nor {' or '.join(mpi_inf_3dhp.FILES.values())} (MPI-INF-3DHP), nor any .bvh file"
    )


def one_camera_a_take(sequences: tuple[PoseSequence, ...]) -> tuple[PoseSequence, ...]:
    """A quarter of the views, every take once, its camera in turn: enough for a gate, and unbiased by camera."""
    takes: dict[tuple[str, str], list[PoseSequence]] = {}
    for sequence in sequences:
        takes.setdefault((sequence.subject, sequence.action), []).append(sequence)
    return tuple(views[number % len(views)] for number, views in enumerate(takes.values()))
