"""The translation of a rigid set of points from one view of it: linear least squares that wrong points do not bend."""

from __future__ import annotations

from functools import cache

import numpy as np

from pstmo_edge.arrays import FloatArray, IntArray

MIN_DEPTH = 0.1  # metres: a joint nearer than that is no view of a whole person
_ROUNDS, _STILL = 6, 1e-3  # at most so many, until the root moves by less than that many metres
_TUKEY = 4.685  # in standard deviations: 95 % efficiency for normal errors
_THREES = 30  # with 6 of 17 joints wrong, the chance that none of so many is of right ones alone is 0.0003


def fit_root(
    points: FloatArray, plane: FloatArray, weights: FloatArray, focal: tuple[float, float]
) -> tuple[FloatArray | None, FloatArray]:
    """The translation (3,) of points (N, 3) with weights (N,), seen at (N, 2) on the plane at distance 1.

    With it come the residuals (N,) in pixels of the focal lengths. None where a point would be behind the camera.
    """
    zero, one = np.zeros(len(points)), np.ones(len(points))
    # Rows of both equations of each joint, [N, 2, 3] t = [N, 2], in pixels once they are divided by depth.
    rows = np.stack([np.stack([one, zero, -plane[:, 0]], -1), np.stack([zero, one, -plane[:, 1]], -1)], axis=1)
    right = plane * points[:, 2:] - points[:, :2]
    rows, right = rows * np.asarray(focal)[:, None], right * focal
    flat = rows.reshape(-1, 3)
    root = _median_fit(points[:, 2], rows, right)
    for _ in range(_ROUNDS):
        depth = points[:, 2] + root[2]
        if not np.isfinite(root).all() or depth.min() < MIN_DEPTH:
            return None, zero
        residuals = _norm(rows @ root - right) / depth
        limit = _TUKEY * max(1.4826 * float(np.median(residuals)), 1e-6)
        robust = np.maximum(1 - (residuals / limit) ** 2, 0) ** 2
        each = np.repeat(weights * robust / depth**2, 2)[:, None]
        before, root = root, _solved((flat * each)[None], flat[None], right.reshape(1, -1))[0]
        if np.abs(root - before).max() < _STILL:
            break
    depth = points[:, 2] + root[2]
    if not np.isfinite(root).all() or depth.min() < MIN_DEPTH:
        return None, zero
    return root, _norm(rows @ root - right) / depth


def _median_fit(heights: FloatArray, rows: FloatArray, right: FloatArray) -> FloatArray:
    """Of the translations that three joints alone give, the one with the least median residual: the start.

    Where half of the joints are right, so is one of the threes (Rousseeuw 1984); from the mean of all, a joint that is
    a body's size off would pull the rounds to itself.
    """
    threes = _threes(len(rows))
    chosen = rows[threes].reshape(len(threes), -1, 3)
    roots = _solved(chosen, chosen, right[threes].reshape(len(threes), -1))
    depth = heights + roots[:, 2:]  # [K, N]
    residuals = _norm((roots @ rows.reshape(-1, 3).T).reshape(len(threes), -1, 2) - right)
    with np.errstate(divide="ignore", invalid="ignore"):
        residuals = np.where(depth < MIN_DEPTH, np.inf, residuals / depth)
    best: FloatArray = roots[int(np.argmin(np.median(residuals, axis=-1)))]
    return best


@cache
def _threes(count: int) -> IntArray:
    """Some threes of so many joints, the same each time."""
    rng = np.random.default_rng(0)
    return np.stack([rng.choice(count, 3, replace=False) for _ in range(_THREES)])


def _solved(weighted: FloatArray, rows: FloatArray, right: FloatArray) -> FloatArray:
    """The least-squares solutions (K, 3) of rows (K, M, 3) t = right (K, M); `weighted` are the rows with weights."""
    across = np.swapaxes(weighted, -1, -2)
    normal = across @ rows
    ridge = 1e-12 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(3)  # three joints may lie in a line
    solved: FloatArray = np.linalg.solve(normal + ridge, across @ right[..., None])[..., 0]
    return solved


def _norm(vectors: FloatArray) -> FloatArray:
    length: FloatArray = np.sqrt((vectors**2).sum(-1))
    return length
