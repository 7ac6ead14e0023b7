"""rtmlib (RTMDet/YOLOX and RTMPose or RTMO without mmpose): all people in a picture.

Its models are downloaded when they are first used; files that are here already are given with `det` and `pose`.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pstmo_edge.app.detectors.base import found, nobody, picture_of
from pstmo_edge.app.types import Detections, Frame
from pstmo_edge.errors import BackendError, UsageError
from pstmo_edge.naming import unknown

MODES = ("lightweight", "balanced", "performance")
RUNTIMES = ("onnxruntime", "opencv", "openvino")
_POSE_SIZES = {"performance": (288, 384)}  # width, height; the others' is 192 x 256


@dataclass(frozen=True)
class Kind:
    """One of rtmlib's solutions: its class, the joints it gives and the set that the first of them are."""

    solution: str
    joints: int
    skeleton: str
    kept: int  # the first so many are the set


KINDS = {
    "body": Kind("Body", 17, "coco-17", 17),
    "body-with-feet": Kind("BodyWithFeet", 26, "halpe-26", 26),
    "wholebody": Kind("Wholebody", 133, "coco-17", 17),  # COCO-WholeBody begins with COCO's own 17
    "rtmo": Kind("Body", 17, "coco-17", 17),  # one model for everything: faster with many people
}


class RtmLib:
    """One of rtmlib's solutions."""

    name = "rtmlib"

    def __init__(self, solution: Any, kind: Kind) -> None:
        self._solution = solution
        self._kind = kind
        self.skeleton = kind.skeleton

    def detect(self, frame: Frame) -> Detections:
        """See `Detector`."""
        picture = np.ascontiguousarray(picture_of(frame, self.name)[:, :, ::-1])  # it reads BGR
        if getattr(self._solution, "one_stage", False):
            points, scores = self._solution.pose_model(picture)
        else:
            # Called as a whole, the solution takes the whole picture for a person where it found none.
            boxes = self._solution.det_model(picture)
            if len(boxes) == 0:
                return nobody(self._kind.kept, self.skeleton)
            points, scores = self._solution.pose_model(picture, bboxes=boxes)
        return self._as_detections(np.asarray(points), np.asarray(scores))

    def _as_detections(self, points: Any, scores: Any) -> Detections:
        if len(points) == 0:
            return nobody(self._kind.kept, self.skeleton)
        expected = (len(points), self._kind.joints)
        if points.shape != (*expected, 2) or scores.shape != expected:
            raise BackendError(
                f"rtmlib's pose model gave points {points.shape} and scores {scores.shape}; {self._kind.solution} has "
                f"{self._kind.joints} joints: give pose= a model of that joint set"
            )
        return found(points[:, : self._kind.kept], scores[:, : self._kind.kept], self.skeleton)

    def close(self) -> None:
        """See `Detector`."""
        self._solution = None


def open_detector(
    kind: str = "body",
    mode: str = "balanced",
    det: str | None = None,
    pose: str | None = None,
    det_size: tuple[int, int] = (640, 640),
    pose_size: tuple[int, int] | None = None,
    runtime: str = "onnxruntime",
    device: str = "cpu",
) -> RtmLib:
    """Open one of rtmlib's solutions.

    `kind` is "body" (COCO-17), "body-with-feet" (Halpe-26), "wholebody" (its 17 body joints are used) or "rtmo" (one
    stage); `mode` trades speed for accuracy: "lightweight", "balanced" or "performance". `det` and `pose` are ONNX
    files of one's own instead of downloads (YOLOX for people, RTMPose for joints), `det_size` and `pose_size` their
    input sizes (width, height). `runtime` and `device` are rtmlib's. Raises UsageError, and BackendError where a model
    cannot be had or opened.
    """
    for what, value, known in (("kind", kind, KINDS), ("mode", mode, MODES), ("runtime", runtime, RUNTIMES)):
        if value not in known:
            raise unknown(f"rtmlib {what}", value, known)
    options = {"mode": mode, "backend": runtime, "device": device, "to_openpose": False}
    options |= _files(kind, det, det_size, pose, pose_size or _POSE_SIZES.get(mode, (192, 256)))
    solution = _solution_class(KINDS[kind].solution)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints, and standard output is for poses
            return RtmLib(solution(**options), KINDS[kind])
    except Exception as error:  # whatever a download or a runtime raises
        raise BackendError(
            f"rtmlib cannot open its {mode} models for {kind} ({type(error).__name__}: {error}); without a network, "
            "give files that are here: det=DETECTOR.onnx, pose=POSE.onnx"
        ) from error


def _files(kind: str, det: str | None, det_size: Any, pose: str | None, pose_size: Any) -> dict[str, Any]:
    if kind == "rtmo":
        if det is not None or pose is not None:
            raise UsageError("rtmo takes no files of one's own: rtmlib always downloads it; use another kind")
        return {"pose": "rtmo"}
    for path in (det, pose):
        if path is not None and not Path(path).is_file():
            raise UsageError(f"{path} is no file: det and pose are ONNX models on this machine")
    if pose is not None and "rtmo" in pose:
        raise UsageError(f"{pose}: rtmlib replaces a pose model whose path holds 'rtmo' by a download; rename it")
    chosen = {} if det is None else {"det": det, "det_input_size": tuple(det_size)}
    return chosen if pose is None else {**chosen, "pose": pose, "pose_input_size": tuple(pose_size)}


def _solution_class(name: str) -> Any:
    try:
        import rtmlib
    except Exception as error:  # OpenCV without the system's libraries, above all
        raise BackendError(
            f"rtmlib cannot be imported here ({type(error).__name__}: {error}): pip install 'pstmo-edge[rtmlib]', and "
            "for its OpenCV the system's libGL and libglib"
        ) from error
    return getattr(rtmlib, name)
