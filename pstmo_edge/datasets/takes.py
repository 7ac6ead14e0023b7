"""World motion by name or folder: what training with augmentation starts from."""

from __future__ import annotations

from pathlib import Path

from pstmo_edge.datasets import cmu_mocap
from pstmo_edge.datasets.cmu_mocap import Take
from pstmo_edge.errors import UsageError
from pstmo_edge.naming import unknown


def load_takes(data: str, split: str) -> tuple[Take, ...]:
    """The takes of 'train' or 'test' of the bundled motion or of a folder of BVH files, at 50 frames a second.

    Raises UsageError for data that has no world motion, DataError for files that cannot be used.
    """
    if data == cmu_mocap.NAME:
        return cmu_mocap.takes(split)
    from pstmo_edge.datasets import bvh

    folder = Path(data)
    if not folder.exists():
        raise unknown("motion (no folder of that name, and not bundled)", data, (cmu_mocap.NAME,))
    if not bvh.holds_motion(folder):
        raise UsageError(
            f"augmentation works on world motion, and {data} is neither {cmu_mocap.NAME} nor a folder of .bvh files: "
            f"choose a recipe without augmentation"
        )
    return bvh.takes(folder, split)
