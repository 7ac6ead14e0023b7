"""A keypoint model of one's own in ONNX Runtime: one person in a picture.

The contract. One input (1, 3, H, W) float32, RGB (or BGR) with a mean subtracted and divided by a deviation; the crop
is fitted into it with its shape kept, and the rest is filled with the mean. The outputs are told by their shapes:

- one of rank 4, (1, J, h, w): heat maps (Xiao et al., ECCV 2018), a joint is at its largest value, moved a quarter of
  a cell towards the larger neighbour; the value is the confidence;
- two of rank 3, (1, J, W * r) and (1, J, H * r): SimCC (Li et al., ECCV 2022), a joint is at the largest value of
  each; the smaller of the two is the confidence;
- one of rank 3, (N, J, 3): N people's x, y in pixels of the input (or 0 to 1), and confidence.

Models that find people first, or have other inputs, are rtmlib's matter (`det`, `pose`) or need a small class like
this one. A model file is as trusted as a program: ONNX Runtime runs it in this process.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pstmo_edge.app.detectors.base import found, nobody, picture_of
from pstmo_edge.app.types import Detections, Frame
from pstmo_edge.arrays import FloatArray
from pstmo_edge.errors import BackendError, UsageError
from pstmo_edge.naming import unknown
from pstmo_edge.skeletons import get_skeleton

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # RGB, 0 to 255
ORDERS = ("rgb", "bgr")
PADDING = 1.25  # of the box around a person, as top-down models are trained
FOUND = 0.3  # the mean confidence below which nobody is there


@dataclass(frozen=True)
class Crop:
    """What part of the picture fills the model's input: pixel = corner + input pixel * scale."""

    corner: tuple[float, float]
    scale: float

    @classmethod
    def around(cls, low: FloatArray, high: FloatArray, size: tuple[int, int]) -> Crop:
        """The smallest crop of the shape `size` (width, height) that holds a box, with the box in its middle."""
        scale = float(max((high - low) / size))
        corner = (low + high) / 2 - np.array(size) * scale / 2
        return cls((float(corner[0]), float(corner[1])), scale)

    def cut(self, picture: NDArray[np.uint8], size: tuple[int, int], fill: FloatArray) -> FloatArray:
        """The crop as (H, W, 3) float32, each pixel bilinear between four of the picture's, `fill` outside it."""
        height, width = picture.shape[:2]
        x = self.corner[0] + (np.arange(size[0]) + 0.5) * self.scale - 0.5
        y = self.corner[1] + (np.arange(size[1]) + 0.5) * self.scale - 0.5
        outside = ((y < -0.5) | (y > height - 0.5))[:, None] | ((x < -0.5) | (x > width - 0.5))[None, :]
        left, across = _cells(x, width)
        top, down = _cells(y, height)
        rows = _mix(picture[top], picture[np.minimum(top + 1, height - 1)], down[:, None, None])
        cut = _mix(rows[:, left], rows[:, np.minimum(left + 1, width - 1)], across[:, None])
        cut[outside] = fill
        return cut

    def to_picture(self, points: FloatArray) -> FloatArray:
        """Points (..., 2) in pixels of the input as pixels of the picture."""
        placed: FloatArray = np.asarray(points, np.float32) * np.float32(self.scale) + np.array(self.corner, np.float32)
        return placed


def _cells(at: FloatArray, count: int) -> tuple[Any, FloatArray]:
    """The pixel at or before each place, and the share of the next one."""
    at = at.clip(0, count - 1)
    first = at.astype(np.int64)
    return first, (at - first).astype(np.float32)


def _mix(first: Any, second: Any, share: FloatArray) -> FloatArray:
    mixed: FloatArray = first * (1 - share) + second * share
    return mixed


def from_heatmaps(maps: FloatArray, size: tuple[int, int]) -> FloatArray:
    """(1, J, h, w) heat maps as (1, J, 3): input pixels and confidence."""
    _, joints, height, width = maps.shape
    flat = maps.reshape(joints, -1)
    best = flat.argmax(-1)
    y, x = np.divmod(best, width)
    joint = np.arange(joints)
    padded = np.pad(maps[0], ((0, 0), (1, 1), (1, 1)), mode="edge")
    ahead = padded[joint, y + 1, x + 2] - padded[joint, y + 1, x]
    below = padded[joint, y + 2, x + 1] - padded[joint, y, x + 1]
    cells = np.stack([x + 0.5 + 0.25 * np.sign(ahead), y + 0.5 + 0.25 * np.sign(below)], -1)
    points = cells * (np.array(size) / [width, height])
    return np.concatenate([points, flat[joint, best][:, None]], -1)[None].astype(np.float32)


def from_simcc(across: FloatArray, down: FloatArray, size: tuple[int, int]) -> FloatArray:
    """(1, J, W * r) and (1, J, H * r) as (1, J, 3): input pixels and confidence."""
    places = [
        values[0].argmax(-1) * (extent / values.shape[-1]) for values, extent in zip((across, down), size, strict=True)
    ]
    confidence = np.minimum(across[0].max(-1), down[0].max(-1))
    return np.stack([*places, confidence], -1)[None].astype(np.float32)


@dataclass(frozen=True)
class OnnxSettings:
    """What a model needs to be told about; see `open_detector`."""

    skeleton: str
    size: tuple[int, int]
    mean: FloatArray
    std: FloatArray
    order: str
    normalised: bool
    follow: bool


class OnnxDetector:
    """One person's keypoint model: the whole picture first, then a crop that follows the person."""

    name = "onnx"

    def __init__(self, session: Any, settings: OnnxSettings) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self._settings = settings
        self.skeleton = settings.skeleton
        self.joints = get_skeleton(settings.skeleton).num_joints
        self._box: tuple[FloatArray, FloatArray] | None = None

    def detect(self, frame: Frame) -> Detections:
        """See `Detector`. Nobody is there where the mean confidence is under 0.3; the next search is of all."""
        picture = picture_of(frame, self.name)
        whole = (np.zeros(2), np.array([picture.shape[1], picture.shape[0]], float))
        low, high = self._box or whole
        crop = Crop.around(low, high, self._settings.size)
        people = self._points(self._run(self._as_input(crop.cut(picture, self._settings.size, self._settings.mean))))
        people = people[people[..., 2].mean(-1) >= FOUND]
        if len(people) == 0:
            self._box = None
            return nobody(self.joints, self.skeleton)
        points = crop.to_picture(people[..., :2])
        self._box = _box_around(points[0], people[0, :, 2], whole) if self._settings.follow else None
        return found(points, people[..., 2], self.skeleton)

    def close(self) -> None:
        """See `Detector`."""
        self._session = None

    def check(self) -> None:
        """Run an empty picture through the model; raises BackendError where its outputs are not in the contract."""
        width, height = self._settings.size
        self._points(self._run(np.zeros((1, 3, height, width), np.float32)))

    def _as_input(self, cut: FloatArray) -> FloatArray:
        values = (cut - self._settings.mean) / self._settings.std
        if self._settings.order == "bgr":
            values = values[:, :, ::-1]
        return np.ascontiguousarray(values.transpose(2, 0, 1)[None], np.float32)

    def _run(self, values: FloatArray) -> list[FloatArray]:
        try:
            outputs: list[FloatArray] = self._session.run(None, {self._input: values})
        except Exception as error:  # ONNX Runtime raises its own types
            raise BackendError(f"the keypoint model failed on a {values.shape} input: {error}") from error
        return outputs

    def _points(self, outputs: list[FloatArray]) -> FloatArray:
        """The outputs as (N, J, 3): input pixels and confidence; raises BackendError for shapes not in the contract."""
        size, shapes = self._settings.size, [output.shape for output in outputs]
        if len(outputs) == 1 and shapes[0][:2] == (1, self.joints) and len(shapes[0]) == 4:
            return from_heatmaps(outputs[0], size)
        if len(outputs) == 1 and shapes[0][1:] == (self.joints, 3):
            unit = np.array([*size, 1], np.float32) if self._settings.normalised else np.ones(3, np.float32)
            return outputs[0].astype(np.float32) * unit
        if len(outputs) == 2 and all(len(shape) == 3 and shape[:2] == (1, self.joints) for shape in shapes):
            return from_simcc(outputs[0], outputs[1], size)
        raise BackendError(
            f"the keypoint model gives {' and '.join(map(str, shapes))}: with {self.skeleton} it must give heat maps "
            f"(1, {self.joints}, h, w), SimCC (1, {self.joints}, W r) and (1, {self.joints}, H r), or points "
            f"(N, {self.joints}, 3)"
        )


def _box_around(
    points: FloatArray, confidence: FloatArray, whole: tuple[FloatArray, FloatArray]
) -> tuple[FloatArray, FloatArray] | None:
    """The padded box around the joints that were found, or None where they are too few to follow."""
    seen = points[(confidence >= FOUND) & np.isfinite(points).all(-1)]
    if len(seen) < 3:
        return None
    low, high = seen.min(0), seen.max(0)
    reach = (high - low) / 2 * PADDING
    low, high = (low + high) / 2 - reach, (low + high) / 2 + reach
    low, high = np.maximum(low, whole[0]), np.minimum(high, whole[1])
    return (low, high) if (high - low).min() >= 8 else None


def open_detector(
    model: str,
    skeleton: str,
    size: tuple[int, int] | None = None,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    order: str = "rgb",
    *,
    normalised: bool = False,
    follow: bool = True,
    threads: int | None = None,
) -> OnnxDetector:
    """Open a model file; see the contract above.

    `skeleton` names the joint set that the model was trained on, in its order: a wrong name gives wrong poses, and
    nothing but a wrong number of joints can be noticed. `size` (width, height) is needed where the file leaves it open.
    `mean` and `std` are RGB, 0 to 255. `normalised`: points come as 0 to 1. `follow`: the next crop is the box around
    this frame's joints, else every frame is searched as a whole. Raises UsageError and BackendError.
    """
    get_skeleton(skeleton)
    if order not in ORDERS:
        raise unknown("channel order", order, ORDERS)
    if min(std) <= 0:
        raise UsageError(f"std is {std}: each must be above 0")
    session = _open_session(model, threads)
    known = OnnxSettings(
        skeleton,
        _input_size(session, model, size),
        np.array(mean, np.float32),
        np.array(std, np.float32),
        order,
        normalised,
        follow,
    )
    detector = OnnxDetector(session, known)
    detector.check()
    return detector


def _open_session(model: str, threads: int | None) -> Any:
    import onnxruntime as ort

    if not Path(model).is_file():
        raise UsageError(f"{model} is no file: give the ONNX model of a keypoint detector")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(Path(model).read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises its own types
        raise BackendError(f"onnxruntime {ort.__version__} refuses {model}: {error}") from error


def _input_size(session: Any, model: str, size: tuple[int, int] | None) -> tuple[int, int]:
    """The input's (width, height), from the file or as given; raises UsageError where they contradict each other."""
    inputs = session.get_inputs()
    shape: list[Any] = list(inputs[0].shape) if len(inputs) == 1 else []
    if len(shape) != 4 or shape[1] != 3 or inputs[0].type != "tensor(float)":
        described = ", ".join(f"{each.type} {each.shape}" for each in inputs)
        raise UsageError(f"{model} reads {described}: a keypoint model must read one float32 (1, 3, H, W)")
    fixed = [side if isinstance(side, int) else None for side in (shape[3], shape[2])]
    if size is None and None in fixed:
        raise UsageError(f"{model} reads pictures of any size: give size=(width, height) of those it was trained with")
    if size is not None and any(side not in (None, given) for side, given in zip(fixed, size, strict=True)):
        raise UsageError(f"{model} reads {fixed[0]} x {fixed[1]} pictures, not {size[0]} x {size[1]}")
    width, height = size or (shape[3], shape[2])
    return int(width), int(height)
