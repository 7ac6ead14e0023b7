"""The interface of a detector, the table of those there are, and how one is opened.

A detector module has `open_detector(**options)` that returns a `Detector`; nothing else is asked of it, and nothing of
it is imported before it is asked for.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import NoneType
from typing import Any, Protocol, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from pstmo_edge.app.types import Detections, Frame
from pstmo_edge.arrays import FloatArray
from pstmo_edge.errors import BackendError, DataError, UsageError
from pstmo_edge.naming import nearest, unknown


class Detector(Protocol):
    """Finds the keypoints of people in one frame. For one camera and one thread: some follow a person in time."""

    name: str
    skeleton: str  # the joint set of its keypoints

    def detect(self, frame: Frame) -> Detections:
        """The people in a frame, none of them guessed where nobody is seen.

        Raises DataError for a frame without a picture.
        """
        ...

    def close(self) -> None:
        """Free what it holds; a second call does nothing."""
        ...


@dataclass(frozen=True)
class Entry:
    """One line of the table: the package that it needs, the extra that brings it, and what is to be known about it."""

    name: str
    package: str
    extra: str
    about: str


DETECTORS = {
    entry.name: entry
    for entry in (
        Entry("mediapipe", "mediapipe", "mediapipe", "one person; carries its model, so it needs no download"),
        Entry("rtmlib", "rtmlib", "rtmlib", "all people; downloads its models once, or takes det= and pose= files"),
        Entry("onnx", "onnxruntime", "onnxruntime", "your own ONNX model of one person's keypoints"),
    )
}


def open_detector(name: str, **options: Any) -> Detector:
    """Open the detector called `name`; its options are the arguments of `open_detector` in its module, or their text.

    Raises UsageError for an unknown name or option, BackendError where its package is missing or refuses.
    """
    if name not in DETECTORS:
        raise unknown("detector", name, DETECTORS)
    entry = DETECTORS[name]
    if find_spec(entry.package) is None:
        raise BackendError(
            f"the {name} detector needs {entry.package}, not installed here: pip install 'pstmo-edge[{entry.extra}]'"
        )
    opener = import_module(f"pstmo_edge.app.detectors.{name}").open_detector
    _check_options(name, options, opener)
    kinds = get_type_hints(opener)
    detector: Detector = opener(**{key: from_text(key, value, kinds[key]) for key, value in options.items()})
    return detector


def from_text(option: str, value: Any, kind: Any) -> Any:
    """An option's value; text from a command line becomes the number, flag or tuple ("192x256") that is asked for.

    Raises UsageError for text that is none.
    """
    kind = next((each for each in get_args(kind) if each is not NoneType), kind) if NoneType in get_args(kind) else kind
    if not isinstance(value, str) or kind is str:
        return value
    try:
        if kind is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[value.lower()]
        if get_origin(kind) is tuple:
            each = get_args(kind)
            return tuple(one(text) for one, text in zip(each, re.split("[x/]", value), strict=True))
        return kind(value)
    except (ValueError, KeyError):
        parts = get_args(kind) if get_origin(kind) is tuple else (kind,)
        wanted = " x ".join(part.__name__ for part in parts)
        raise UsageError(f"{option} is {value!r}: it must be {wanted}") from None


def _check_options(name: str, options: dict[str, Any], opener: Any) -> None:
    parameters = inspect.signature(opener).parameters
    for option in options:
        if option not in parameters:
            guess = nearest(option, parameters)
            hint = f": did you mean {guess!r}?" if guess else "."
            raise UsageError(f"{name} has no option {option!r}{hint} Known: {', '.join(parameters)}")
    needed = {key for key, parameter in parameters.items() if parameter.default is parameter.empty}
    if needed - set(options):
        raise UsageError(f"the {name} detector needs {' and '.join(sorted(needed - set(options)))}")


def picture_of(frame: Frame, detector: str) -> NDArray[np.uint8]:
    """The frame's picture, (H, W, 3) uint8 RGB; raises DataError where it has none or something else."""
    image = frame.image
    if image is None:
        raise DataError(f"frame {frame.index} has no picture: {detector} reads pictures, its source gives keypoints")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise DataError(
            f"frame {frame.index} is {image.shape} {image.dtype}: a picture is (height, width, 3) uint8, RGB"
        )
    return image


def found(points: FloatArray, confidence: FloatArray, skeleton: str) -> Detections:
    """Detections of points (N, J, 2) in pixels and confidences (N, J).

    Confidences are cut to 0 .. 1; a joint whose position or confidence is not finite was not found.
    """
    keypoints = np.concatenate([points, confidence[..., None]], axis=-1).astype(np.float32)
    keypoints[..., 2] = keypoints[..., 2].clip(0, 1)
    keypoints[~np.isfinite(keypoints).all(-1)] = 0
    return Detections(keypoints, skeleton)


def nobody(joints: int, skeleton: str) -> Detections:
    """Detections of nobody."""
    return Detections(np.zeros((0, joints, 3), np.float32), skeleton)
