"""Training windows made on the fly from world motion: another heading, speed, body, camera and detector for each.

Everything is done for many windows at once on (B, T, 17, ...) arrays; B windows of T frames.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pstmo_edge.arrays import BoolArray, FloatArray, IntArray
from pstmo_edge.cameras import Camera, human36m_cameras, project_with, quaternion_matrix
from pstmo_edge.datasets import cmu_mocap
from pstmo_edge.datasets.cmu_mocap import Take
from pstmo_edge.datasets.coco_points import coco_from_human36m
from pstmo_edge.datasets.detector import DetectorModel
from pstmo_edge.errors import DataError
from pstmo_edge.skeletons import COCO, HUMAN36M, get_skeleton, mirrored, require_skeleton
from pstmo_edge.train.batches import Batch
from pstmo_edge.train.recipes import Augmentation
from pstmo_edge.windows import WindowSource, WindowSpec

_NEAREST = 1.0  # metres: a person closer than this is moved back to the middle of the stage
# A free camera: metres from the person, radians below the horizon, focal lengths in image widths (a phone to a tele).
_DISTANCE, _PITCH, _LENS = (2.0, 7.0), (-0.2, 0.6), (0.7, 2.2)
_OFF_CENTRE = 0.12  # how far beside the person it aims, standard deviation as a share of the distance
_LOST_JOINT = 0.15  # chance of a joint to be lost once in a window that loses joints


@dataclass(frozen=True)
class _Cameras:
    """Cameras as arrays over them; rows are taken with `at`."""

    rotation: FloatArray
    position: FloatArray
    focal: FloatArray
    centre: FloatArray
    radial: FloatArray
    tangential: FloatArray
    size: FloatArray

    @classmethod
    def of(cls, cameras: Sequence[Camera]) -> _Cameras:
        columns = {
            name: np.array([getattr(camera, name) for camera in cameras])
            for name in ("rotation", "position", "focal", "centre", "radial", "tangential")
        }
        return cls(**columns, size=np.array([camera.image_size for camera in cameras], float))

    def at(self, rows: IntArray) -> _Cameras:
        """These rows, as copies."""
        return _Cameras(**{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)})

    def put(self, chosen: BoolArray, others: _Cameras) -> None:
        """Replace the chosen rows."""
        for field in dataclasses.fields(self):
            getattr(self, field.name)[chosen] = getattr(others, field.name)

    def normalised(self) -> FloatArray:
        """Focal lengths and centres in normalised screen coordinates, (B, 4)."""
        width = self.size[:, :1]
        return np.concatenate([self.focal / width * 2, self.centre / width * 2 - self.size / width], axis=-1)


class MotionWindows:
    """Windows of world motion, turned into what a random camera would have given: the training set.

    `skeleton` names the keypoints: those of Human3.6M or of COCO. The poses are always Human3.6M's.
    """

    pose_skeleton = HUMAN36M.name

    def __init__(
        self, takes: Sequence[Take], spec: WindowSpec, settings: Augmentation, skeleton: str = HUMAN36M.name
    ) -> None:
        if not takes:
            raise DataError("no motion to train on")
        if skeleton != COCO.name:
            require_skeleton(skeleton, HUMAN36M, "world motion")
        self.spec, self.settings, self.skeleton = spec, settings, get_skeleton(skeleton)
        self.fps = cmu_mocap.FPS
        self.source = WindowSource([take.positions for take in takes], spec, np.float64)
        subjects = cmu_mocap.STAGE_SUBJECTS["train"]
        self.rig = _Cameras.of([camera for subject in subjects for camera in human36m_cameras(subject)])

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, items: IntArray, rng: np.random.Generator) -> Batch:
        """See `batches.Windows`; an item is the window around one frame of the motion."""
        world = other_bodies(self._played(items, rng), self.settings, rng)
        world = turned(world, self.settings, rng)
        seen, cameras = self._seen(world, rng)
        points = coco_from_human36m(seen) if self.skeleton is COCO else seen
        pixels, visible = self._detected(_project(points, cameras), rng)
        pixels, visible = self._lost(pixels, visible, rng)
        size = cameras.size[:, None, None]
        keypoints = pixels / size[..., :1] * 2 - size / size[..., :1]
        poses, depth, intrinsics = seen - seen[:, :, :1], seen[:, self.spec.target, 0, 2], cameras.normalised()
        flip = rng.random(len(items)) < self.settings.mirror
        if self.spec.channels == 3:
            keypoints = np.concatenate([keypoints, visible[..., None]], axis=-1)
        keypoints[flip], poses[flip] = mirrored(keypoints[flip], self.skeleton), mirrored(poses[flip])
        intrinsics[flip, 2] *= -1
        return Batch(*(array.astype(np.float32) for array in (keypoints, poses, depth, intrinsics)))

    def _played(self, items: IntArray, rng: np.random.Generator) -> FloatArray:
        """World positions (B, T, 17, 3) of the windows, each played at its own speed."""
        if not self.settings.speed:
            return self.source.gather(items)
        values, first, last = self.source.values, self.source.starts[items, None], self.source.ends[items, None] - 1
        speed = np.exp(rng.normal(0, self.settings.speed, (len(items), 1)))
        moments = np.clip(items[:, None] + self.spec.offsets * speed, first, last)
        before = moments.astype(np.int64)
        part = (moments - before)[..., None, None]
        return (1 - part) * values[before] + part * values[np.minimum(before + 1, last)]

    def _seen(self, world: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, _Cameras]:
        """The batch in the frames of its cameras: the rig's, moved a little, and free ones."""
        count, settings = len(world), self.settings
        cameras = self.rig.at(rng.integers(len(self.rig.focal), size=count))
        cameras.rotation[:] = cameras.rotation @ rotation_vectors(rng.normal(0, settings.camera_tilt, (count, 3)))
        cameras.position[:] += rng.normal(0, settings.camera_shift, (count, 3))
        free = rng.random(count) < settings.free_camera
        if free.any():
            cameras.put(free, _free_cameras(world[free], rng))
        cameras.focal[:] *= 1 + rng.normal(0, settings.focal, (count, 1))
        rotation, position = cameras.rotation[:, None], cameras.position[:, None, None]
        seen = (world - position) @ rotation
        close = (seen[..., 2].min((1, 2)) < _NEAREST) & ~free
        middle = world[close] - world[close].mean((1, 2), keepdims=True) * [1, 1, 0]
        seen[close] = (middle - position[close]) @ rotation[close]
        # Whoever walks past a free camera stays before it.
        seen[..., 2] += np.maximum(_NEAREST / 2 - seen[..., 2].min((1, 2)), 0)[:, None, None]
        return seen, cameras

    def _detected(self, pixels: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """What a detector makes of some of the windows, and its confidence (B, T, 17)."""
        visible = np.ones(pixels.shape[:3])
        chosen = rng.random(len(pixels)) < self.settings.detector
        exact = pixels[chosen]
        if len(exact):
            fps = self.fps / self.spec.t_downsample
            found, visible[chosen] = DetectorModel().apply(exact, rng, fps=fps, skeleton=self.skeleton)
            pixels[chosen] = exact + (found - exact) * rng.uniform(0, 1.5, (len(exact), 1, 1, 1))
        return pixels, visible

    def _lost(self, pixels: FloatArray, visible: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Some joints of some windows stay for a while where they were last seen, and are said to be invisible."""
        if not self.settings.missing:
            return pixels, visible
        count, frames, joints = pixels.shape[:3]
        lost = (rng.random((count, 1)) < self.settings.missing) & (rng.random((count, joints)) < _LOST_JOINT)
        start = rng.integers(frames, size=(count, joints))
        end = start + rng.integers(1, frames // 2 + 2, size=(count, joints))
        time = np.arange(frames)[:, None]
        held = lost[:, None] & (time >= start[:, None]) & (time < end[:, None])  # [B, T, J]
        source = np.where(held, np.maximum(start - 1, 0)[:, None], time)
        return np.take_along_axis(pixels, source[..., None], axis=1), np.where(held, 0, visible)


def _project(seen: FloatArray, cameras: _Cameras) -> FloatArray:
    columns = (cameras.focal, cameras.centre, cameras.radial, cameras.tangential)
    focal, centre, radial, tangential = (column[:, None, None] for column in columns)
    return project_with(seen, focal, centre, radial, tangential)


def _free_cameras(world: FloatArray, rng: np.random.Generator) -> _Cameras:
    """One camera a window anywhere around the person in (B, T, 17, 3), without distortion, aimed roughly at them."""
    count = len(world)
    yaw, pitch, roll = rng.uniform(-np.pi, np.pi, count), rng.uniform(*_PITCH, count), rng.normal(0, 0.05, count)
    distance = rng.uniform(*_DISTANCE, (count, 1))
    forward = np.stack([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), -np.sin(pitch)], axis=-1)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    axes = np.stack([right, np.cross(forward, right), forward], axis=-1)  # columns: right, down, forward
    about = np.stack([np.zeros(count), np.zeros(count), roll], axis=-1)
    aim = world.mean((1, 2)) + rng.normal(0, _OFF_CENTRE, (count, 3)) * distance
    size = np.full((count, 2), 1000.0)
    return _Cameras(
        rotation=axes @ rotation_vectors(about),
        position=aim - forward * distance,
        focal=np.repeat(rng.uniform(*_LENS, (count, 1)) * size[:, :1], 2, axis=1),
        centre=size / 2,
        radial=np.zeros((count, 3)),
        tangential=np.zeros((count, 2)),
        size=size,
    )


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
