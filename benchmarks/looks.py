"""What the PNG plots and the page share: colours, marker shapes, and how a skeleton is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.benchmarks.moments import Moment, project
from pstmo_edge.benchmarks.rows import Row
from pstmo_edge.skeletons import HUMAN36M

# The page has the first two lighter where it is dark.
LEFT, RIGHT, MIDDLE, GHOST = "#2c6bcf", "#c2441f", "#8a8f98", "#a9aeb6"
# Told apart by the colour-blind too: grey for the reference, then blue, orange, green and magenta.
_BACKEND_COLOURS = {
    "torch": "#747d8b",
    "onnxruntime": "#3b7ddd",
    "openvino": "#e07a1f",
    "tensorrt": "#2f8f63",
    "native": "#c2457e",
}
# matplotlib's names of marker shapes; the page draws the same ones.
_SHAPES = {"fp32": "o", "int8": "D", "fp16": "s", "bf16": "v", "fp8": "^", "w8a16": "p"}  # any other: a hexagon


def colour(row: Row) -> str:
    """The colour of the row's backend."""
    return _BACKEND_COLOURS.get(row.backend, MIDDLE)


def shape(row: Row) -> str:
    """The marker of the row's precision, as matplotlib names it."""
    return _SHAPES.get(row.precision, "h")


def backends(rows: Sequence[Row]) -> dict[str, str]:
    """The backends of the rows that are drawn, with their colours."""
    return {row.backend: colour(row) for row in rows if row.status == "ok"}


def shapes(rows: Sequence[Row]) -> dict[str, str]:
    """The precisions of the rows that are drawn, with their markers."""
    return {row.precision: shape(row) for row in rows if row.status == "ok"}


def bone_side(joint: int) -> str:
    """'left', 'right' or 'middle': the side of the bone that ends in a joint."""
    if joint in HUMAN36M.left:
        return "left"
    return "right" if joint in HUMAN36M.right else "middle"


BONE_COLOURS = {"left": LEFT, "right": RIGHT, "middle": MIDDLE}


def pose_radius(moments: Sequence[Moment]) -> float:
    """The one scale of all 3D pictures: the farthest any joint can get from its picture's centre, metres.

    Taken over every direction one can look from, so that turning a pose never pushes it out of the picture.
    """
    poses = [np.asarray(points) for moment in moments for points in (moment.predicted, moment.true)]
    spread = (np.linalg.norm(pose - pose_centre(moment_pose), axis=-1).max() for pose, moment_pose in _with_true(poses))
    return 1.04 * max(spread, default=1.0)


def pose_centre(true: FloatArray) -> FloatArray:
    """The point (3,) that a moment's pictures turn about: the middle of the true pose's box."""
    centre: FloatArray = (true.min(0) + true.max(0)) / 2
    return centre


def centred_projections(moment: Moment, yaw: float, pitch: float) -> tuple[FloatArray, FloatArray]:
    """The predicted and the true pose (17, 2) as seen from one direction, metres about the moment's centre."""
    centre = pose_centre(np.asarray(moment.true))
    predicted, true = (np.asarray(points) - centre for points in (moment.predicted, moment.true))
    return project(predicted, yaw, pitch), project(true, yaw, pitch)


def fit_keypoints(moment: Moment) -> FloatArray:
    """The 2D input (17, 2) moved and scaled into [-1, 1], y down: a person far away fills the picture too."""
    points = np.asarray(moment.keypoints)
    low, high = points.min(0), points.max(0)
    scaled: FloatArray = (points - (low + high) / 2) / max(float((high - low).max()) / 2, 1e-9)
    return scaled


def _with_true(poses: Sequence[FloatArray]) -> list[tuple[FloatArray, FloatArray]]:
    """Each pose beside the true one of its moment; `poses` alternate predicted, true."""
    return [(poses[number], poses[number | 1]) for number in range(len(poses))]
