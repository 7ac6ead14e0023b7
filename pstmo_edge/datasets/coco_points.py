"""COCO's 17 keypoints on a Human3.6M body.

Twelve of them are joints of both sets. A Human3.6M body has no face, so nose, eyes and ears are put on a head of
average proportions that looks where the shoulders point: an approximation, since heads turn and a detector marks what
it sees.
"""

from __future__ import annotations

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.skeletons import COCO, HUMAN36M

_NAMES = {name: name for name in ("Shoulder", "Elbow", "Wrist", "Hip", "Knee")} | {"Ankle": "Foot"}
_SHARED = [
    (COCO.joints.index(side + theirs), HUMAN36M.joints.index(side + ours))
    for theirs, ours in _NAMES.items()
    for side in "LR"
]
_TO, _FROM = (list(column) for column in zip(*_SHARED, strict=True))
_THORAX, _HEAD, _LEFT, _RIGHT = (HUMAN36M.joints.index(name) for name in ("Thorax", "Head", "LShoulder", "RShoulder"))
# Left, up and forward of the thorax, in lengths of the line from there to the top of the head: nose, eyes, ears.
_FACE = np.array([[0, 0.50, 0.42], [0.13, 0.60, 0.34], [-0.13, 0.60, 0.34], [0.29, 0.56, 0.06], [-0.29, 0.56, 0.06]])
_TINY = 1e-9


def coco_from_human36m(points: FloatArray) -> FloatArray:
    """Human3.6M joints (..., 17, 3) to COCO keypoints (..., 17, 3), in the same frame and unit."""
    out = np.empty_like(points)
    out[..., _TO, :] = points[..., _FROM, :]
    neck = points[..., _HEAD, :] - points[..., _THORAX, :]
    length = np.linalg.norm(neck, axis=-1, keepdims=True)
    up = neck / np.maximum(length, _TINY)
    across = points[..., _LEFT, :] - points[..., _RIGHT, :]
    across = across - (across * up).sum(-1, keepdims=True) * up
    left = across / np.maximum(np.linalg.norm(across, axis=-1, keepdims=True), _TINY)
    frame = np.stack([left, up, np.cross(left, up)], axis=-2) * length[..., None]
    out[..., : len(_FACE), :] = points[..., _THORAX, None, :] + _FACE @ frame
    return out
