"""What the PNG plots and the page share: colours, marker shapes, axis ranges, and how a skeleton is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.benchmarks.moments import Moment, project
from pstmo_edge.benchmarks.rows import Row
from pstmo_edge.skeletons import HUMAN36M

# All of these are readable on white and on near-black.
LEFT, RIGHT, MIDDLE, GHOST = "#3b7ddd", "#e2603f", "#8a8f98", "#a9aeb6"
_BACKEND_COLOURS = {
    "torch": "#e2603f",
    "onnxruntime": "#3b7ddd",
    "openvino": "#8b5cd6",
    "tensorrt": "#5a9e3a",
    "native": "#c2457e",
}
# matplotlib's names of marker shapes; the page draws the same ones.
_SHAPES = {"fp32": "o", "int8": "D", "fp16": "s", "bf16": "s", "fp8": "^"}
LEAST_SPAN_MM = 2.0  # a plot that zooms into hundredths of a millimetre would show noise as if it mattered


@dataclass(frozen=True)
class Mark:
    """One row on the plot of FPS against MPJPE."""

    number: int  # of the row in the report
    row: Row
    fps: float
    mpjpe_mm: float

    @property
    def label(self) -> str:
        """The text beside the marker."""
        return self.row.title

    @property
    def colour(self) -> str:
        """The backend's colour."""
        return _BACKEND_COLOURS.get(self.row.backend, MIDDLE)

    @property
    def shape(self) -> str:
        """The precision's marker, as matplotlib names it."""
        return _SHAPES.get(self.row.precision, "o")


def marks(rows: Sequence[Row]) -> list[Mark]:
    """The rows that have both a speed and an error; the recommended one first, for its label is placed first."""
    shown = [
        Mark(number, row, row.fps, row.mpjpe_mm)
        for number, row in enumerate(rows)
        if row.status == "ok" and row.fps is not None and row.mpjpe_mm is not None
    ]
    return sorted(shown, key=lambda mark: not mark.row.recommended)


def plot_ranges(shown: Sequence[Mark]) -> tuple[tuple[float, float], tuple[float, float]]:
    """(low, high) of the FPS axis, which starts at zero, and of the error axis, which spans two millimetres or more."""
    fastest = max((mark.fps for mark in shown), default=1.0)
    errors = [mark.mpjpe_mm for mark in shown] or [0.0]
    middle, span = (max(errors) + min(errors)) / 2, max(1.5 * (max(errors) - min(errors)), LEAST_SPAN_MM)
    low = max(0.0, middle - span / 2)
    return (0.0, 1.15 * fastest), (low, low + span)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers within [low, high]."""
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


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
