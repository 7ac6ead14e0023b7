"""One's own keypoints: an .npz with plain arrays, no pickles.

| array | shape | what |
|---|---|---|
| `keypoints` | (L, 17, 2) or (L, 17, 3) | pixels, and the detector's confidence |
| `image_size` | (2,) | width and height in pixels |
| `skeleton` | text | the joint set, "human36m-17", "coco-17" or "mpi-inf-3dhp-17" |
| `fps` | number, optional | frames a second (50) |
| `poses` | (L, 17, 3), optional | metres, camera frame; relative to the hip, which is subtracted where it is not 0 |

Poses are of the joint set of the keypoints, but those of COCO keypoints are of Human3.6M's.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.cameras import normalise_screen
from pstmo_edge.datasets.sequences import PoseSequence, check_sequence
from pstmo_edge.errors import DataError
from pstmo_edge.skeletons import COCO, HUMAN36M, Skeleton, get_skeleton, require_skeleton

_FPS = 50.0  # frames a second, where the file does not say
_MAX_PIXELS = 1e6  # of a picture's side


def load(path: Path, skeleton: str = HUMAN36M.name) -> PoseSequence:
    """The sequence in the file; raises DataError for all that is missing, misshapen or not finite."""
    arrays = read_arrays(path)
    for name in ("keypoints", "image_size", "skeleton"):
        if name not in arrays:
            raise DataError(f"{path} has no array '{name}': it needs keypoints, image_size and skeleton")
    needed = get_skeleton(skeleton)
    if arrays["skeleton"].ndim:
        raise DataError(f"{path}: skeleton has shape {arrays['skeleton'].shape}, expected one name")
    require_skeleton(str(arrays["skeleton"]), needed, str(path))
    answer = HUMAN36M if needed is COCO else needed
    pixels, size = _numbers(arrays, "keypoints", path), _numbers(arrays, "image_size", path)
    joints = needed.num_joints
    if pixels.ndim != 3 or pixels.shape[1] != joints or pixels.shape[2] not in (2, 3):
        raise DataError(f"{path}: keypoints have shape {pixels.shape}, expected (frames, {joints}, 2 or 3)")
    if size.shape != (2,) or not ((size >= 1) & (size <= _MAX_PIXELS)).all():
        raise DataError(f"{path}: image_size is {size.tolist()}, expected a width and a height in pixels")
    fps = _numbers(arrays, "fps", path) if "fps" in arrays else np.array(_FPS)
    if fps.size != 1 or not 0 < fps.item() < np.inf:
        raise DataError(f"{path}: fps is {fps.tolist()}, expected the frames a second")
    image_size = (int(size[0]), int(size[1]))
    sequence = PoseSequence(
        subject=path.stem,
        action=path.stem,
        camera="0",
        keypoints=normalise_screen(pixels[..., :2].astype(np.float32), image_size),
        poses=_poses(arrays, (len(pixels), answer.num_joints, 3), answer, path) if "poses" in arrays else None,
        confidence=pixels[..., 2].astype(np.float32) if pixels.shape[2] == 3 else None,
        fps=float(fps.item()),
        image_size=image_size,
        skeleton=skeleton,
        pose_skeleton=answer.name,
    )
    return check_sequence(sequence)


def _poses(arrays: dict[str, FloatArray], shape: tuple[int, ...], skeleton: Skeleton, path: Path) -> FloatArray:
    poses = _numbers(arrays, "poses", path)
    if poses.shape != shape:
        raise DataError(f"{path}: poses have shape {poses.shape}, expected {shape}")
    if not np.isfinite(poses).all():
        raise DataError(f"{path}: a 3D pose is not finite")
    relative: FloatArray = (poses - poses[:, skeleton.root, None]).astype(np.float32)
    return relative


def _numbers(arrays: dict[str, FloatArray], name: str, path: Path) -> FloatArray:
    array = arrays[name]
    if array.dtype.kind not in "fiu":
        raise DataError(f"{path}: array '{name}' holds no numbers")
    return array


def read_arrays(path: Path) -> dict[str, FloatArray]:
    """The plain arrays of an .npz by name; raises DataError for anything else, pickled objects among it."""
    try:
        # NumPy leaves the file open where it finds no archive in it, so it is opened here.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is no .npz of plain arrays ({reason})") from None
