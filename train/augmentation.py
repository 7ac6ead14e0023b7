"""Training windows made on the fly from world motion: another heading, body, camera and detector for each.

Everything is done for a whole batch at once on (B, T, 17, ...) arrays; B windows of T frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pstmo_edge.arrays import FloatArray, IntArray
from pstmo_edge.cameras import Camera, human36m_cameras, project_with, quaternion_matrix
from pstmo_edge.datasets import cmu_mocap
from pstmo_edge.datasets.detector import DetectorModel
from pstmo_edge.skeletons import HUMAN36M, mirrored
from pstmo_edge.train.recipes import Augmentation
from pstmo_edge.windows import WindowSource, WindowSpec

_NEAREST = 1.0  # metres: a person closer than this is moved back to the middle of the stage


@dataclass(frozen=True)
class _Rig:
    """The training subjects' cameras as arrays over cameras."""

    rotation: FloatArray
    position: FloatArray
    focal: FloatArray
    centre: FloatArray
    radial: FloatArray
    tangential: FloatArray
    size: FloatArray

    @classmethod
    def of(cls, cameras: list[Camera]) -> _Rig:
        columns = {
            name: np.array([getattr(camera, name) for camera in cameras])
            for name in ("rotation", "position", "focal", "centre", "radial", "tangential")
        }
        return cls(**columns, size=np.array([camera.image_size for camera in cameras], float))


class MotionWindows:
    """Windows of world motion, turned into what a random camera would have given: the training set."""

    def __init__(self, spec: WindowSpec, settings: Augmentation) -> None:
        self.settings = settings
        self.fps = cmu_mocap.FPS / spec.t_downsample
        self.source = WindowSource([take.positions for take in cmu_mocap.takes("train")], spec)
        subjects = cmu_mocap.STAGE_SUBJECTS["train"]
        self.rig = _Rig.of([camera for subject in subjects for camera in human36m_cameras(subject)])

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, frames: IntArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Keypoints (B, T, 17, 2) and root-relative poses (B, T, 17, 3) of the windows around `frames` (B,)."""
        world = other_bodies(self.source.gather(frames).astype(np.float64), self.settings, rng)
        world = turned(world, self.settings, rng)
        seen, cameras = self._seen(world, rng)
        pixels = self._project(seen, cameras, rng)
        pixels = self._detected(pixels, rng)
        size = self.rig.size[cameras][:, None, None]
        keypoints = pixels / size[..., :1] * 2 - size / size[..., :1]
        poses = seen - seen[:, :, :1]
        flip = rng.random(len(frames)) < self.settings.mirror
        keypoints[flip], poses[flip] = mirrored(keypoints[flip]), mirrored(poses[flip])
        return keypoints.astype(np.float32), poses.astype(np.float32)

    def _seen(self, world: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, IntArray]:
        """The batch in the frames of randomly chosen, slightly moved cameras."""
        count = len(world)
        cameras = rng.integers(len(self.rig.focal), size=count)
        tilt = rotation_vectors(rng.normal(0, self.settings.camera_tilt, (count, 3)))
        rotation = (self.rig.rotation[cameras] @ tilt)[:, None]
        position = self.rig.position[cameras] + rng.normal(0, self.settings.camera_shift, (count, 3))
        seen = (world - position[:, None, None]) @ rotation
        close = seen[..., 2].min((1, 2)) < _NEAREST
        middle = world[close] - world[close].mean((1, 2), keepdims=True) * [1, 1, 0]
        seen[close] = (middle - position[close][:, None, None]) @ rotation[close]
        return seen, cameras

    def _project(self, seen: FloatArray, cameras: IntArray, rng: np.random.Generator) -> FloatArray:
        zoom = 1 + rng.normal(0, self.settings.focal, (len(seen), 1))
        columns = (self.rig.focal[cameras] * zoom, *(getattr(self.rig, n)[cameras] for n in ("centre", "radial")))
        focal, centre, radial = (column[:, None, None] for column in columns)
        return project_with(seen, focal, centre, radial, self.rig.tangential[cameras][:, None, None])

    def _detected(self, pixels: FloatArray, rng: np.random.Generator) -> FloatArray:
        chosen = rng.random(len(pixels)) < self.settings.detector
        exact = pixels[chosen]
        if len(exact):
            found, _ = DetectorModel().apply(exact, rng, fps=self.fps)
            pixels[chosen] = exact + (found - exact) * rng.uniform(0, 1.5, (len(exact), 1, 1, 1))
        return pixels


def rotation_vectors(vectors: FloatArray) -> FloatArray:
    """Rotation matrices (N, 3, 3) of small rotation vectors (N, 3) in radians."""
    return quaternion_matrix(np.concatenate([np.ones((len(vectors), 1)), vectors / 2], axis=-1))


def turned(world: FloatArray, settings: Augmentation, rng: np.random.Generator) -> FloatArray:
    """World points (B, T, 17, 3), some of them turned about the vertical axis, all moved along the floor."""
    count = len(world)
    angle = rng.uniform(-np.pi, np.pi, count) * (rng.random(count) < settings.turned)
    matrix = np.zeros((count, 1, 3, 3))
    matrix[:, 0, 0, 0] = matrix[:, 0, 1, 1] = np.cos(angle)
    matrix[:, 0, 0, 1] = np.sin(angle)
    matrix[:, 0, 1, 0] = -matrix[:, 0, 0, 1]
    matrix[:, 0, 2, 2] = 1
    shift = np.concatenate([rng.normal(0, settings.shift, (count, 2)), np.zeros((count, 1))], axis=-1)
    return world @ matrix + shift[:, None, None]


def other_bodies(world: FloatArray, settings: Augmentation, rng: np.random.Generator) -> FloatArray:
    """World points (B, T, 17, 3) with the bones of some windows scaled, left and right alike, feet on the floor."""
    count, joints = len(world), HUMAN36M.num_joints
    change = rng.random((count, 1)) < settings.bodies
    size = np.exp(rng.normal(0, settings.body_size, (count, 1)) * change)
    bones = np.exp(rng.normal(0, settings.bone_length, (count, joints)) * change)
    for left, right in zip(HUMAN36M.left, HUMAN36M.right, strict=True):
        bones[:, left] = bones[:, right]
    scale = bones * size
    out = world.copy()
    # The hip's height follows the legs; along the floor the body stays where it was.
    out[:, :, 0, 2] *= scale[:, 2:4].mean(-1)[:, None]
    for joint, parent in HUMAN36M.bones:
        bone = world[:, :, joint] - world[:, :, parent]
        out[:, :, joint] = out[:, :, parent] + bone * scale[:, joint][:, None, None]
    return out
