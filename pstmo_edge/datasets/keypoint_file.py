"""One's own keypoints: an .npz with plain arrays, no pickles.

| array | shape | what |
|---|---|---|
| `keypoints` | (L, 17, 2) or (L, 17, 3) | pixels, and the detector's confidence |
| `image_size` | (2,) | width and height in pixels |
| `skeleton` | text | the joint set, "human36m-17" |
| `fps` | number, optional | frames a second (50) |
| `poses` | (L, 17, 3), optional | metres, camera frame, relative to the hip |
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.cameras import normalise_screen
from pstmo_edge.datasets.sequences import PoseSequence, check_sequence
from pstmo_edge.errors import DataError
from pstmo_edge.skeletons import HUMAN36M, get_skeleton, require_skeleton


def load(path: Path, skeleton: str = HUMAN36M.name) -> PoseSequence:
    """The sequence in the file; raises DataError for all that is missing, misshapen or not finite."""
    arrays = _read(path)
    for name in ("keypoints", "image_size", "skeleton"):
        if name not in arrays:
            raise DataError(f"{path} has no array '{name}': it needs keypoints, image_size and skeleton")
    needed = get_skeleton(skeleton)
    require_skeleton(str(arrays["skeleton"]), needed, str(path))
    pixels, size = arrays["keypoints"], arrays["image_size"]
    joints = needed.num_joints
    if pixels.ndim != 3 or pixels.shape[1] != joints or pixels.shape[2] not in (2, 3):
        raise DataError(f"{path}: keypoints have shape {pixels.shape}, expected (frames, {joints}, 2 or 3)")
    if size.shape != (2,) or not (size > 0).all():
        raise DataError(f"{path}: image_size is {size.tolist()}, expected a width and a height in pixels")
    poses = arrays.get("poses")
    if poses is not None and poses.shape != (len(pixels), joints, 3):
        raise DataError(f"{path}: poses have shape {poses.shape}, expected {(len(pixels), joints, 3)}")
    image_size = (int(size[0]), int(size[1]))
    sequence = PoseSequence(
        subject=path.stem,
        action=path.stem,
        camera="0",
        keypoints=normalise_screen(pixels[..., :2].astype(np.float32), image_size),
        poses=None if poses is None else (poses - poses[:, :1]).astype(np.float32),
        confidence=pixels[..., 2].astype(np.float32) if pixels.shape[2] == 3 else None,
        fps=float(arrays.get("fps", np.float64(50.0))),
        image_size=image_size,
        skeleton=skeleton,
    )
    return check_sequence(sequence)


def _read(path: Path) -> dict[str, FloatArray]:
    try:
        # NumPy leaves the file open where it finds no archive in it, so it is opened here.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is no .npz of plain arrays ({reason})") from None
