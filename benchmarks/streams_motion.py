"""The bundled motion as a live camera's keypoints: any frame rate, a detector's errors, lost joints; and its truth."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np

from pstmo_edge.arrays import BoolArray, FloatArray
from pstmo_edge.cameras import Camera, human36m_cameras, project, world_to_camera
from pstmo_edge.datasets.cmu_mocap import FPS, STAGE_SUBJECTS, Take
from pstmo_edge.datasets.coco_points import coco_from_human36m
from pstmo_edge.datasets.detector import DetectorModel
from pstmo_edge.engine import Engine
from pstmo_edge.skeletons import COCO, HUMAN36M, get_skeleton
from pstmo_edge.streaming import PoseResult

RUN_SECONDS = 0.4  # how long a detector loses a joint at a time, on the mean


@dataclass(frozen=True)
class Losses:
    """Which share of all joints is missing, each on its own ("single") or for RUN_SECONDS on the mean ("runs")."""

    share: float = 0.0
    kind: str = "single"

    def draw(self, shape: tuple[int, ...], fps: float, rng: np.random.Generator) -> BoolArray:
        """Which joints of frames (L, J) are missing."""
        draws = rng.random(shape)
        if self.kind == "single" or self.share == 0:
            return draws < self.share
        end = min(1 / (RUN_SECONDS * fps), 1.0)
        start = end * self.share / (1 - self.share)
        missing = np.empty(shape, bool)
        missing[0] = draws[0] < self.share
        for frame in range(1, len(missing)):
            was = missing[frame - 1]
            missing[frame] = np.where(was, draws[frame] >= end, draws[frame] < start)
        return missing


@dataclass(frozen=True)
class Recording:
    """One take seen by one camera, as keypoints (L, 17, 3) in pixels at times (L,), and where everybody really was."""

    name: str
    action: str
    camera: Camera
    times: FloatArray
    keypoints: FloatArray
    body: FloatArray  # (L50, 17, 3) metres, camera frame, at the motion's own rate
    skeleton: str  # of the keypoints

    def mirrored(self) -> Recording:
        """Its mirror image's keypoints; the body stays as it is."""
        turned = self.keypoints[:, list(get_skeleton(self.skeleton).mirror)]
        turned[..., 0] = self.camera.image_size[0] - turned[..., 0]
        return replace(self, keypoints=turned)

    def truth(self, times: FloatArray) -> FloatArray:
        """The joints (N, 17, 3) in the camera frame, metres, at these times."""
        place = np.clip(np.asarray(times, np.float64) * FPS, 0, len(self.body) - 1)
        before = np.minimum(place.astype(int), len(self.body) - 2)
        part = (place - before)[:, None, None]
        moved: FloatArray = (1 - part) * self.body[before] + part * self.body[before + 1]
        return moved


def record(
    take: Take, camera: Camera, *, fps: float = 30.0, skeleton: str = HUMAN36M.name, detected: bool = True,
    losses: Losses | None = None,
) -> Recording:  # fmt: skip
    """What a detector reports of a take: seeded by the take, the camera, the rate and the losses."""
    body = world_to_camera(take.positions, camera)
    losses = losses or Losses()
    nothing: FloatArray = np.zeros(0)
    recording = Recording(f"{take.action}/{camera.name}", take.action, camera, nothing, nothing, body, skeleton)
    times = np.arange(0, (len(body) - 1) / FPS + 1e-9, 1 / fps)
    joints = recording.truth(times)
    coco = skeleton == COCO.name
    pixels = project(coco_from_human36m(joints) if coco else joints, camera)
    rng = np.random.default_rng(zlib.crc32(f"{recording.name}/{fps}/{skeleton}/{losses}".encode()))
    confidence: FloatArray = np.ones(pixels.shape[:2])
    if detected:
        pixels, confidence = DetectorModel().apply(pixels, rng, fps, COCO if coco else HUMAN36M)
    confidence[losses.draw(confidence.shape, fps, rng)] = 0.0
    keypoints = np.concatenate([pixels, confidence[..., None]], axis=-1).astype(np.float32)
    return replace(recording, times=times, keypoints=keypoints)


def cameras(take: Take, number: int) -> tuple[Camera, ...]:
    """Those that see the take with this number in its split, as everywhere in the project."""
    subjects = STAGE_SUBJECTS[take.split]
    return human36m_cameras(subjects[number % len(subjects)])


def streamed(engine: Engine, recording: Recording, fps: float, lookahead: int | None) -> list[PoseResult]:
    """Every pose of a recording, pushed frame by frame through a stream."""
    stream = engine.stream(recording.camera.image_size, fps=fps, lookahead=lookahead, skeleton=recording.skeleton)
    results = []
    for keypoints, time in zip(recording.keypoints, recording.times, strict=True):
        result = stream.push(keypoints, float(time))
        results += [] if result is None else [result, *iter(stream.read, None)]
    return results + stream.finish()
