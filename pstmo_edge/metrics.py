"""The errors lifters are judged by, each in millimetres (or per cent) from poses in metres.

All take `predicted` and `target` of shape (..., J, 3); a frame's error is the mean over its joints.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.errors import DataError

MM = 1000.0


def joint_errors(predicted: FloatArray, target: FloatArray) -> FloatArray:
    """Distance of every joint, (..., J), millimetres."""
    if predicted.shape != target.shape:
        raise DataError(f"predicted poses have shape {predicted.shape} and true ones {target.shape}: they must agree")
    return np.linalg.norm(predicted.astype(np.float64) - target, axis=-1) * MM


def mpjpe(predicted: FloatArray, target: FloatArray) -> FloatArray:
    """Mean per-joint position error of every frame (protocol 1), millimetres."""
    return joint_errors(predicted, target).mean(-1)


def procrustes_aligned(predicted: FloatArray, target: FloatArray) -> FloatArray:
    """`predicted` after the similarity transform (rotation, scale, translation) that fits `target` best, per frame.

    Source: Umeyama 1991; a reflection is not allowed, as in protocol 2 of Human3.6M.
    """
    predicted, target = predicted.astype(np.float64), target.astype(np.float64)
    centre_p, centre_t = predicted.mean(-2, keepdims=True), target.mean(-2, keepdims=True)
    p, t = predicted - centre_p, target - centre_t
    u, singular, vt = np.linalg.svd(np.swapaxes(p, -1, -2) @ t)
    sign = np.sign(np.linalg.det(u @ vt))
    u[..., -1] *= sign[..., None]
    singular[..., -1] *= sign
    size = np.maximum((p**2).sum((-2, -1)), np.finfo(np.float64).tiny)
    scale = singular.sum(-1) / size
    aligned: FloatArray = scale[..., None, None] * (p @ u @ vt) + centre_t
    return aligned


def p_mpjpe(predicted: FloatArray, target: FloatArray) -> FloatArray:
    """MPJPE after Procrustes alignment of every frame (protocol 2), millimetres."""
    return joint_errors(procrustes_aligned(predicted, target), target).mean(-1)


def n_mpjpe(predicted: FloatArray, target: FloatArray) -> FloatArray:
    """MPJPE after the best scale of every frame (Rhodin et al. 2018), millimetres."""
    predicted = predicted.astype(np.float64)
    size = np.maximum((predicted**2).sum((-2, -1), keepdims=True), np.finfo(np.float64).tiny)
    return mpjpe(predicted * ((predicted * target).sum((-2, -1), keepdims=True) / size), target)


def mpjve(predicted: FloatArray, target: FloatArray) -> float:
    """Mean per-joint velocity error of one sequence (L, J, 3), millimetres a frame (Pavllo et al. 2019)."""
    if len(predicted) < 2:
        return 0.0
    return float(joint_errors(np.diff(predicted, axis=0), np.diff(target, axis=0)).mean())


def acceleration_error(predicted: FloatArray, target: FloatArray) -> float:
    """Mean per-joint acceleration error of one sequence (L, J, 3), millimetres a frame squared: what is seen as jitter.

    Source: Kanazawa et al., "Learning 3D human dynamics from video", CVPR 2019, section 6.1, by frames.
    """
    if len(predicted) < 3:
        return 0.0
    return float(joint_errors(np.diff(predicted, 2, axis=0), np.diff(target, 2, axis=0)).mean())


def pck(predicted: FloatArray, target: FloatArray, threshold_mm: float = 150.0) -> float:
    """Percentage of joints within `threshold_mm` (MPI-INF-3DHP)."""
    return float((joint_errors(predicted, target) < threshold_mm).mean() * 100)


def auc(predicted: FloatArray, target: FloatArray) -> float:
    """Mean PCK over thresholds of 0, 5, ..., 150 mm (MPI-INF-3DHP), per cent."""
    errors = joint_errors(predicted, target)
    return float(np.mean([(errors < threshold).mean() * 100 for threshold in range(0, 151, 5)]))


def action_of(name: str) -> str:
    """The action a take belongs to: 'Sitting 1' and 'Sitting' are one."""
    return name.split(" ")[0]


def per_action(errors: FloatArray, actions: Sequence[str]) -> dict[str, float]:
    """Mean of the frame errors (N,) over each action, by action name; a published total is the mean of these."""
    groups = np.array([action_of(action) for action in actions])
    return {str(action): float(errors[groups == action].mean()) for action in np.unique(groups)}
