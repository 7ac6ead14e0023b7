"""COCO's 17 keypoints on a Human3.6M body as motion capture gives it.

Twelve of them are joints of both sets. The other five are a face, which such a body does not have: nose, eyes and ears
are put on a head of average proportions. On the bodies of the CMU database (the bundled motion and BVH files) joint
"Neck/Nose" is where neck and skull meet and "Head", 9 cm above it, lies between the ears; the head nods and tilts with
the line between the two and looks where the shoulders point. This is an approximation: heads also turn, and a detector
marks what it sees.
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
_THORAX, _SKULL, _HEAD, _LEFT, _RIGHT = (
    HUMAN36M.joints.index(name) for name in ("Thorax", "Neck/Nose", "Head", "LShoulder", "RShoulder")
)
# Nose, eyes and ears (5, 3): left, up and forward of the middle between the ears, in lengths of the way from thorax to
# head, which is 0.26 m on CMU's bodies. In metres: ears 0.15 apart, eyes 0.064 apart, 0.087 before the ears and 0.024
# above them, the tip of the nose 0.12 before them.
FACE: FloatArray = np.array(
    [[0, -0.07, 0.46], [0.123, 0.09, 0.33], [-0.123, 0.09, 0.33], [0.285, 0, 0], [-0.285, 0, 0]],
)
_TINY = 1e-9  # metres: what is shorter has no direction


def coco_from_human36m(points: FloatArray, face: FloatArray = FACE) -> FloatArray:
    """Human3.6M joints (..., 17, 3) in metres to COCO keypoints (..., 17, 3), in the same frame, world or camera.

    `face` is FACE or faces of other shapes (..., 5, 3), which broadcast against the bodies: [B, 1, 5, 3] gives each
    of B windows one. Where shoulders or head have no direction the face collapses towards the head; it is never NaN.
    """
    out = np.empty_like(points)
    out[..., _TO, :] = points[..., _FROM, :]
    neck, skull = points[..., _SKULL, :] - points[..., _THORAX, :], points[..., _HEAD, :] - points[..., _SKULL, :]
    size = np.linalg.norm(neck, axis=-1) + np.linalg.norm(skull, axis=-1)
    up = _unit(skull)
    across = points[..., _LEFT, :] - points[..., _RIGHT, :]
    left = _unit(across - (across * up).sum(-1, keepdims=True) * up)
    axes = np.stack([left, up, np.cross(left, up)], axis=-2) * size[..., None, None]
    out[..., : len(FACE), :] = points[..., _HEAD, None, :] + face @ axes
    return out


def _unit(vectors: FloatArray) -> FloatArray:
    """Vectors (..., 3) of length 1, or next to 0 where there is no direction."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _TINY)
