"""MPI-INF-3DHP (Mehta et al. 2017), as P-STMO's published code reads it, and the way there from the original release.

`data_train_3dhp.npz` and `data_test_3dhp.npz` each hold one pickled dict, `data`:

| file | path in it | what |
|---|---|---|
| train | `S1 Seq1` | the list [views, frames a second] |
| train | ... `/0/<camera>/data_2d`, `data_3d` | (L, 17, 2) pixels, (L, 17, 3) millimetres in the camera's frame |
| test | `TS1/data_2d`, `data_3d`, `valid` | the same, and (L,) which frames count |
| test | `TS1/activity` | (L,) 1 to 7; only in files that `convert` wrote, and no reader of the others minds it |

The 3D joints are the release's `univ_annot3`: people scaled to one height. The dataset is licensed to each user by its
owners; it is read from where the user put it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pstmo_edge.arrays import BoolArray, FloatArray, IntArray
from pstmo_edge.cameras import normalise_screen
from pstmo_edge.datasets.mat_file import read_mat
from pstmo_edge.datasets.object_npz import read_object_npz
from pstmo_edge.datasets.sequences import PoseSequence, check_sequence
from pstmo_edge.errors import DataError
from pstmo_edge.files import write_atomic
from pstmo_edge.naming import unknown
from pstmo_edge.skeletons import MPI_INF_3DHP, get_skeleton, require_skeleton

FILES = {"train": "data_train_3dhp.npz", "test": "data_test_3dhp.npz"}
# What is used of every training take: its first so many frames, at so many a second (the release's sequence table).
TRAIN_TAKES = {
    ("S1", "Seq1"): (6416, 25), ("S1", "Seq2"): (12430, 50), ("S2", "Seq1"): (6502, 25), ("S2", "Seq2"): (6081, 25),
    ("S3", "Seq1"): (12488, 50), ("S3", "Seq2"): (12283, 50), ("S4", "Seq1"): (6171, 25), ("S4", "Seq2"): (6675, 25),
    ("S5", "Seq1"): (12820, 50), ("S5", "Seq2"): (12312, 50), ("S6", "Seq1"): (6188, 25), ("S6", "Seq2"): (6145, 25),
    ("S7", "Seq1"): (6239, 25), ("S7", "Seq2"): (6320, 25), ("S8", "Seq1"): (6468, 25), ("S8", "Seq2"): (6054, 25),
}  # fmt: skip
# Of 14; the published code leaves out the others, most of which look down from above.
CAMERAS = (0, 1, 2, 4, 5, 6, 7, 8)
TEST_SUBJECTS = ("TS1", "TS2", "TS3", "TS4", "TS5", "TS6")
TEST_FPS = 25.0  # the release does not say; the slower of the studio's two rates
ACTIVITIES = (
    "Standing/Walking", "Exercising", "Sitting", "Reaching/Crouching", "On The Floor", "Sports", "Miscellaneous",
)  # fmt: skip
_STUDIO, _OUTDOORS = (2048, 2048), (1920, 1080)
_RECORDED = 28  # joints of a training annotation, of which these are the skeleton's 17, in order
_JOINTS = (7, 5, 14, 15, 16, 9, 10, 11, 23, 24, 25, 18, 19, 20, 4, 3, 6)
_MM = 1000.0
_REMEDY = "make it again with pstmo-edge data convert mpi-inf-3dhp"

# Told what is being done: a sentence, how many steps are done, and how many there are.
Progress = Callable[[str, int, int], None]


def load(
    folder: Path, split: str, keypoints: str = "gt", skeleton: str = MPI_INF_3DHP.name
) -> tuple[PoseSequence, ...]:
    """Every view of a split: 16 takes by 8 cameras to train on, six sequences to test on.

    Of a test sequence all frames fill windows and the `valid` ones count, as published. `root` is the pelvis of the
    scaled person; camera intrinsics are not in these files. Raises UsageError for other `keypoints` than "gt", and
    DataError where a file is missing, damaged or incomplete, or another `skeleton` is asked for.
    """
    if keypoints != "gt":
        raise unknown("keypoints of MPI-INF-3DHP", keypoints, ("gt",))
    path = folder / FILES[split]
    require_skeleton(MPI_INF_3DHP.name, get_skeleton(skeleton), str(path))
    found = read_object_npz(path, _REMEDY)
    return _train_views(found, path) if split == "train" else _test_views(found, path)


def activities(folder: Path) -> dict[str, IntArray]:
    """What is done in each frame of the test sequences, (L,) by subject; ACTIVITIES[number - 1] names it.

    Empty for files that others made: the published layout leaves it out. Raises DataError like `load`.
    """
    found = read_object_npz(folder / FILES["test"], _REMEDY)
    named = {subject: f"data/{subject}/activity" for subject in TEST_SUBJECTS}
    return {subject: found[name].astype(np.int64) for subject, name in named.items() if name in found}


def convert(source: Path, out: Path, progress: Progress = lambda text, done, total: None) -> tuple[Path, ...]:
    """Write the files that `load` reads from the original release; returns their paths.

    `source` holds S1/Seq1/annot.mat to S8/Seq2/annot.mat, TS1/annot_data.mat to TS6/annot_data.mat (perhaps below the
    release's own mpi_inf_3dhp_test_set), or both. A split that is not there at all is left out; one that is there in
    part is refused, for what is measured on a part compares with nothing. Raises DataError and WriteError.
    """
    train = {f"{subject} {take}": source / subject / take / "annot.mat" for subject, take in TRAIN_TAKES}
    test = {subject: _test_root(source) / subject / "annot_data.mat" for subject in TEST_SUBJECTS}
    splits = [("train", train, _train_take), ("test", test, _test_take)]
    wanted = [each for each in splits if any(path.is_file() for path in each[1].values())]
    if not wanted:
        raise DataError(f"{source} holds neither S1/Seq1/annot.mat nor TS1/annot_data.mat: give the release's folder")
    for _, paths, _ in wanted:
        _require_all((str(path) for path in paths.values() if not path.is_file()), str(source))
    out.mkdir(parents=True, exist_ok=True)
    return tuple(_convert_split(out / FILES[split], paths, read, progress) for split, paths, read in wanted)


def _train_views(found: dict[str, FloatArray], path: Path) -> tuple[PoseSequence, ...]:
    places = {
        (subject, take, camera): f"data/{subject} {take}/0/{camera}"
        for subject, take in TRAIN_TAKES
        for camera in CAMERAS
    }
    _require_all((place for place in places.values() if f"{place}/data_2d" not in found), str(path))
    return tuple(
        _sequence(found, place, subject, take, str(camera), float(TRAIN_TAKES[subject, take][1]), _STUDIO)
        for (subject, take, camera), place in places.items()
    )


def _test_views(found: dict[str, FloatArray], path: Path) -> tuple[PoseSequence, ...]:
    places = {subject: f"data/{subject}" for subject in TEST_SUBJECTS}
    _require_all((place for place in places.values() if f"{place}/valid" not in found), str(path))
    return tuple(
        _sequence(
            found, place, subject, subject, "0", TEST_FPS, image_size(subject), found[f"{place}/valid"].ravel() != 0
        )
        for subject, place in places.items()
    )


def image_size(subject: str) -> tuple[int, int]:
    """Width and height in pixels: TS5 and TS6 were filmed outdoors with another camera."""
    return _OUTDOORS if subject in ("TS5", "TS6") else _STUDIO


def _require_all(missing: Iterable[str], source: str) -> None:
    lacking = list(missing)
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise DataError(f"{source} lacks {', '.join(lacking[:3])}{more}: the split would be incomplete")


def _sequence(
    found: dict[str, FloatArray],
    place: str,
    subject: str,
    action: str,
    camera: str,
    fps: float,
    size: tuple[int, int],
    valid: BoolArray | None = None,
) -> PoseSequence:
    name = f"{subject}/{action}/{camera}"
    # Taken out of what was read: the training split has a million frames, and two copies of it would be too many.
    pixels, joints = found.pop(f"{place}/data_2d"), found.pop(f"{place}/data_3d", np.empty(0))
    _check_shapes(name, pixels, joints, valid)
    joints = joints / _MM
    root = joints[:, MPI_INF_3DHP.root]
    sequence = PoseSequence(
        subject=subject,
        action=action,
        camera=camera,
        keypoints=normalise_screen(pixels[..., :2], size).astype(np.float32),
        poses=(joints - root[:, None]).astype(np.float32),
        fps=fps,
        image_size=size,
        skeleton=MPI_INF_3DHP.name,
        pose_skeleton=MPI_INF_3DHP.name,
        valid=valid,
        root=root.astype(np.float32),
    )
    if not np.isfinite(sequence.true_poses()[sequence.valid_frames()]).all():
        raise DataError(f"{name}: a 3D pose that counts is not finite")
    return check_sequence(sequence)


def _check_shapes(name: str, pixels: FloatArray, joints: FloatArray, valid: BoolArray | None) -> None:
    count = MPI_INF_3DHP.num_joints
    for what, array, axes in (("2D", pixels, 2), ("3D", joints, 3)):
        if array.ndim != 3 or array.shape[1:] != (count, axes):
            raise DataError(f"{name}: the {what} joints have shape {array.shape}, expected (frames, {count}, {axes})")
    if len(pixels) != len(joints):
        raise DataError(f"{name}: {len(pixels)} frames of 2D for {len(joints)} of 3D")
    if valid is not None and valid.shape != (len(pixels),):
        raise DataError(f"{name}: {valid.size} frames are said to be valid or not, of {len(pixels)}")


def _test_root(source: Path) -> Path:
    # The release's script unpacks the test set into a folder inside a folder of the same name.
    below = source / "mpi_inf_3dhp_test_set"
    candidates = (source, below, below / below.name)
    holds = (each for each in candidates if any((each / subject).is_dir() for subject in TEST_SUBJECTS))
    return next(holds, source)


def _convert_split(
    target: Path, paths: Mapping[str, Path], read: Callable[[str, Path], Any], progress: Progress
) -> Path:
    data = {}
    for done, (name, path) in enumerate(paths.items()):
        progress(f"reading {name}", done, len(paths))
        data[name] = read(name, path)
    progress(f"writing {target.name}", len(paths), len(paths))
    write_atomic(target, lambda file: np.savez_compressed(file, data=np.array(data, dtype=object)))
    return target


def _train_take(name: str, path: Path) -> list[Any]:
    """One take in the published layout: a dict of views by camera number (as text), and the frame rate."""
    found = read_mat(path, "annot2", "univ_annot3", "cameras")
    cameras = found["cameras"].ravel()
    if not np.array_equal(cameras, np.arange(len(cameras))):
        raise DataError(f"{path}: its cameras are {cameras.tolist()}, expected 0, 1, 2 ... in order")
    subject, take = name.split(" ")
    frames, fps = TRAIN_TAKES[subject, take]
    views = {}
    for camera in CAMERAS:
        pixels, joints = (
            _cell(found, path, f"{each}/{camera}/0", axes) for each, axes in (("annot2", 2), ("univ_annot3", 3))
        )
        _check_shapes(f"{path}, camera {camera}", pixels, joints, None)
        views[str(camera)] = {"data_2d": pixels[:frames], "data_3d": joints[:frames]}
    return [views, fps]


def _cell(found: Mapping[str, FloatArray], path: Path, name: str, axes: int) -> FloatArray:
    """The skeleton's joints (L, 17, axes) of one camera's annotation (L, 28 * axes)."""
    rows = found.get(name)
    if rows is None or rows.ndim != 2 or rows.shape[1] != _RECORDED * axes:
        shape = "missing" if rows is None else f"of shape {rows.shape}"
        raise DataError(f"{path}: {name} is {shape}, expected (frames, {_RECORDED * axes})")
    return rows.reshape(len(rows), _RECORDED, axes)[:, _JOINTS]


def _test_take(name: str, path: Path) -> dict[str, FloatArray]:
    """One test sequence in the published layout, and the activity of each frame besides."""
    found = read_mat(path, "annot2", "univ_annot3", "valid_frame", "activity_annotation")
    pixels, joints = (
        found[each].transpose()[:, 0] if found[each].ndim == 4 else found[each] for each in ("annot2", "univ_annot3")
    )
    valid, activity = found["valid_frame"].ravel(), found["activity_annotation"].ravel()
    _check_shapes(str(path), pixels, joints, valid != 0)
    if activity.shape != valid.shape:
        raise DataError(f"{path}: {activity.size} activities for {valid.size} frames of {name}")
    plain = {"data_2d": pixels, "data_3d": joints, "valid": valid, "activity": activity.astype(np.uint8)}
    return {key: np.ascontiguousarray(value) for key, value in plain.items()}
