"""Projection, screen normalisation and world/camera transforms, in Human3.6M's conventions.

The camera frame has x to the right, y down and z forward; the world frame has z up. Lengths are metres.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.naming import unknown


@dataclass(frozen=True)
class Camera:
    """A calibrated camera: intrinsics in pixels, distortion as Human3.6M publishes it, and where it stands."""

    name: str
    image_size: tuple[int, int]
    focal: tuple[float, float]
    centre: tuple[float, float]
    radial: tuple[float, float, float]
    tangential: tuple[float, float]
    orientation: tuple[float, float, float, float]  # unit quaternion (w, x, y, z), camera to world
    position: tuple[float, float, float]  # metres, world

    @property
    def normalised(self) -> FloatArray:
        """Focal lengths and centre (fx, fy, cx, cy) in normalised screen coordinates, (4,)."""
        width, height = self.image_size
        focal, centre = np.asarray(self.focal) / width * 2, np.asarray(self.centre) / width * 2
        return np.concatenate([focal, centre - [1, height / width]])

    @property
    def rotation(self) -> FloatArray:
        """The 3x3 matrix that turns camera coordinates into world coordinates."""
        return quaternion_matrix(np.asarray(self.orientation))


def quaternion_matrix(quaternion: FloatArray) -> FloatArray:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4) in (w, x, y, z) order; they are normalised first."""
    w, x, y, z = np.moveaxis(quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def world_to_camera(points: FloatArray, camera: Camera) -> FloatArray:
    """World points (..., 3) in metres, seen from the camera: (..., 3) in metres."""
    return (points - np.asarray(camera.position)) @ camera.rotation


def camera_to_world(points: FloatArray, camera: Camera) -> FloatArray:
    """The inverse of `world_to_camera`."""
    return points @ camera.rotation.T + np.asarray(camera.position)


def project(points: FloatArray, camera: Camera) -> FloatArray:
    """Pixels (..., 2) of camera-frame points (..., 3), with Human3.6M's radial and tangential distortion."""
    return project_with(
        points,
        focal=np.asarray(camera.focal),
        centre=np.asarray(camera.centre),
        radial=np.asarray(camera.radial),
        tangential=np.asarray(camera.tangential),
    )


def project_with(
    points: FloatArray, focal: FloatArray, centre: FloatArray, radial: FloatArray, tangential: FloatArray
) -> FloatArray:
    """`project` with bare parameters (..., 2 or 3) that broadcast against points (..., 3): many cameras at once."""
    plane = points[..., :2] / points[..., 2:]
    r2 = (plane**2).sum(-1, keepdims=True)
    stretch = 1 + (radial * np.concatenate([r2, r2**2, r2**3], axis=-1)).sum(-1, keepdims=True)
    shear = (tangential * plane).sum(-1, keepdims=True)
    return focal * (plane * (stretch + shear) + tangential * r2) + centre


def normalise_screen(pixels: FloatArray, image_size: tuple[int, int]) -> FloatArray:
    """Pixels (..., 2) to the screen coordinates lifters read: x in [-1, 1], y in [-h/w, h/w] (Pavllo et al. 2019)."""
    width, height = image_size
    return pixels / width * 2 - np.array([1, height / width], dtype=pixels.dtype)


def denormalise_screen(points: FloatArray, image_size: tuple[int, int]) -> FloatArray:
    """The inverse of `normalise_screen`."""
    width, height = image_size
    return (points + np.array([1, height / width], dtype=points.dtype)) * width / 2


@cache
def human36m_cameras(subject: str) -> tuple[Camera, ...]:
    """The four published cameras of a Human3.6M subject; raises UsageError for a subject without any."""
    table: dict[str, Any] = json.loads(resources.files("pstmo_edge").joinpath("data/h36m_cameras.json").read_text())
    if subject not in table["extrinsic"]:
        raise unknown("Human3.6M subject", subject, table["extrinsic"])
    return tuple(
        Camera(
            name=inner["id"],
            image_size=tuple(inner["image_size"]),
            focal=tuple(inner["focal"]),
            centre=tuple(inner["centre"]),
            radial=tuple(inner["radial"]),
            tangential=tuple(inner["tangential"]),
            orientation=tuple(outer["orientation"]),
            position=tuple(outer["position"]),
        )
        for inner, outer in zip(table["intrinsic"], table["extrinsic"][subject], strict=True)
    )
