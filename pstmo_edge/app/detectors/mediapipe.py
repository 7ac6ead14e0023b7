"""MediaPipe's pose landmarks (BlazePose, arXiv 2006.10204): one person, 33 landmarks, the model inside the wheel.

The releases that carry the model need NumPy 1, so this detector wants a virtual environment of its own:
`pip install 'pstmo-edge[mediapipe]'`. Of several people it follows one, whom it chooses.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from pstmo_edge.app.detectors.base import found, nobody, picture_of
from pstmo_edge.app.types import Detections, Frame
from pstmo_edge.errors import BackendError, UsageError

SKELETON = "blazepose-33"
LANDMARKS = 33
_MODELS = ("lite", "full", "heavy")  # by MediaPipe's `model_complexity`


class MediaPipe:
    """MediaPipe's own tracking of one person: a detector starts it, each next crop follows the last landmarks."""

    name = "mediapipe"
    skeleton = SKELETON

    def __init__(self, solution: Any) -> None:
        self._solution = solution

    def detect(self, frame: Frame) -> Detections:
        """See `Detector`. A landmark outside the picture was guessed, not seen: its confidence is 0."""
        picture = np.ascontiguousarray(picture_of(frame, self.name))
        landmarks = self._solution.process(picture).pose_landmarks
        if landmarks is None:
            return nobody(LANDMARKS, SKELETON)
        values = np.array([[each.x, each.y, each.visibility] for each in landmarks.landmark], np.float32)
        points, visibility = values[:, :2], values[:, 2]
        inside = ((points >= 0) & (points <= 1)).all(-1)
        size = np.array([picture.shape[1], picture.shape[0]], np.float32)
        return found((points * size)[None], np.where(inside, visibility, 0)[None], SKELETON)

    def close(self) -> None:
        """See `Detector`."""
        if self._solution is not None:
            self._solution.close()
            self._solution = None


def open_detector(
    complexity: int = 1, confidence: float = 0.5, tracking: float = 0.5, *, pictures: bool = False, smooth: bool = False
) -> MediaPipe:
    """Open MediaPipe's pose solution.

    `complexity` is 0, 1 or 2 (lite, full, heavy), of which the wheel carries only 1. `confidence` and `tracking` are
    the limits for finding and for following a person. `pictures`: every frame is searched anew, for pictures that do
    not follow each other. `smooth` turns on MediaPipe's own filter, which takes every camera for one of 30 frames a
    second and so is off: the lifter and the pipeline smooth by timestamp. Raises UsageError and BackendError.
    """
    if complexity not in range(len(_MODELS)):
        raise UsageError(f"complexity is {complexity}: it must be 0, 1 or 2")
    for name, value in (("confidence", confidence), ("tracking", tracking)):
        if not 0 <= value <= 1:
            raise UsageError(f"{name} is {value}: it must be 0 to 1")
    _require_model(complexity)
    return MediaPipe(
        _pose_solution()(
            static_image_mode=pictures,
            model_complexity=complexity,
            smooth_landmarks=smooth,
            min_detection_confidence=confidence,
            min_tracking_confidence=tracking,
        )
    )


def _pose_solution() -> Any:
    try:
        from mediapipe.python.solutions.pose import Pose
    except Exception as error:  # NumPy 2 beside a wheel made for NumPy 1 fails in many ways
        raise BackendError(
            f"mediapipe cannot be imported here ({type(error).__name__}: {error}): it needs NumPy 1, so give it a "
            "virtual environment of its own: pip install 'pstmo-edge[mediapipe]'"
        ) from error
    return Pose


def _require_model(complexity: int) -> None:
    """MediaPipe would download a model that is not there, into its own package folder."""
    spec = find_spec("mediapipe")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    name = f"modules/pose_landmark/pose_landmark_{_MODELS[complexity]}.tflite"
    if not any(Path(folder, name).is_file() for folder in folders):
        raise BackendError(
            f"this release of mediapipe does not carry {Path(name).name}: install the one that does, "
            "pip install 'pstmo-edge[mediapipe]', and leave complexity at 1"
        )
