"""The bundled motion: 15 minutes of real people from the CMU Motion Capture Database, as Human3.6M would show them.

The takes are world positions of the 17 Human3.6M joints at 50 frames a second. Each is seen by the four cameras of
a Human3.6M subject (training subjects for the training split, S9 and S11 for the test split) after its middle has
been put over the middle of the stage.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.cameras import Camera, human36m_cameras, normalise_screen, project, world_to_camera
from pstmo_edge.datasets import human36m
from pstmo_edge.datasets.coco_points import coco_from_human36m
from pstmo_edge.datasets.detector import DetectorModel
from pstmo_edge.datasets.sequences import PoseSequence
from pstmo_edge.naming import unknown
from pstmo_edge.skeletons import COCO, HUMAN36M, Skeleton, get_skeleton, require_skeleton

NAME = "cmu-mocap"
FPS = 50.0
KEYPOINTS = ("gt", "detected")
STAGE_SUBJECTS = human36m.SUBJECTS  # whose cameras see which split
_UNIT = 1e-4  # metres; the source itself is rounded to this


@dataclass(frozen=True)
class Take:
    """One recorded motion: world positions (L, 17, 3) in metres, z up, its middle over the origin."""

    split: str
    action: str
    positions: FloatArray


def pack(takes: Mapping[str, FloatArray], meta: Mapping[str, object]) -> bytes:
    """The bundled file's bytes: 'split/action' to positions (L, 17, 3), as differences in tenths of a millimetre."""
    whole = {name: np.round(positions / _UNIT).astype(np.int32) for name, positions in takes.items()}
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        lengths=np.array([len(rows) for rows in whole.values()], np.int32),
        first=np.stack([rows[0] for rows in whole.values()]),
        steps=np.concatenate([np.diff(rows, axis=0).astype(np.int16) for rows in whole.values()]).transpose(1, 2, 0),
        meta=np.array(json.dumps({**meta, "takes": list(whole)})),
    )
    return buffer.getvalue()


@cache
def takes(split: str) -> tuple[Take, ...]:
    """Every take of 'train' or 'test'."""
    with resources.files("pstmo_edge").joinpath("data/cmu_mocap.npz").open("rb") as file, np.load(file) as packed:
        names = json.loads(str(packed["meta"]))["takes"]
        lengths, first, steps = packed["lengths"], packed["first"], packed["steps"].transpose(2, 0, 1)
    pieces = np.split(steps.astype(np.int32), np.cumsum(lengths - 1)[:-1])
    found = []
    for name, start, piece in zip(names, first, pieces, strict=True):
        part, action = name.split("/", 1)
        if part == split:
            positions = np.concatenate([start[None], start + np.cumsum(piece, axis=0)]) * _UNIT
            found.append(Take(split, action, centred(positions)))
    return tuple(found)


def acknowledgement() -> str:
    """The notice that must travel with the motion."""
    with resources.files("pstmo_edge").joinpath("data/cmu_mocap.npz").open("rb") as file, np.load(file) as packed:
        return str(json.loads(str(packed["meta"]))["source"])


def centred(positions: FloatArray) -> FloatArray:
    """World positions (L, J, 3) moved along the floor so that the root's range has its middle at the origin."""
    root = positions[:, 0, :2]
    moved = positions.copy()
    moved[..., :2] -= (root.min(0) + root.max(0)) / 2
    return moved


def view(positions: FloatArray, camera: Camera) -> tuple[FloatArray, FloatArray]:
    """What a camera sees of world positions (L, J, 3): pixels (L, J, 2) and root-relative poses (L, J, 3)."""
    seen = world_to_camera(positions, camera)
    return project(seen, camera), seen - seen[:, :1]


@cache
def load(split: str, keypoints: str = "gt", skeleton: str = HUMAN36M.name) -> tuple[PoseSequence, ...]:
    """Every take of a split seen by four cameras; `keypoints` is 'gt' (exact) or 'detected' (see DetectorModel)."""
    return seen(takes(split), split, keypoints, skeleton)


def seen(
    takes: Sequence[Take], split: str, keypoints: str = "gt", skeleton: str = HUMAN36M.name
) -> tuple[PoseSequence, ...]:
    """What the cameras of the split's subjects see of world motion, the subjects in turn.

    `skeleton` is the joint set of the keypoints, Human3.6M's or COCO's.
    """
    if keypoints not in KEYPOINTS:
        raise unknown("keypoints of world motion", keypoints, KEYPOINTS)
    if skeleton != COCO.name:
        require_skeleton(HUMAN36M.name, get_skeleton(skeleton), "world motion")
    subjects = STAGE_SUBJECTS[split]
    return tuple(
        _sequence(take, subjects[number % len(subjects)], camera, keypoints, get_skeleton(skeleton))
        for number, take in enumerate(takes)
        for camera in human36m_cameras(subjects[number % len(subjects)])
    )


def _sequence(take: Take, subject: str, camera: Camera, keypoints: str, skeleton: Skeleton) -> PoseSequence:
    body = world_to_camera(take.positions, camera)
    pixels = project(coco_from_human36m(body) if skeleton is COCO else body, camera)
    confidence = None
    if keypoints == "detected":
        seed = zlib.crc32(f"{take.split}/{take.action}/{subject}/{camera.name}".encode())
        pixels, confidence = DetectorModel().apply(pixels, np.random.default_rng(seed), skeleton=skeleton)
    return PoseSequence(
        subject=subject,
        action=take.action,
        camera=camera.name,
        keypoints=normalise_screen(pixels, camera.image_size).astype(np.float32),
        poses=(body - body[:, :1]).astype(np.float32),
        confidence=None if confidence is None else confidence.astype(np.float32),
        fps=FPS,
        image_size=camera.image_size,
        skeleton=skeleton.name,
        root=body[:, 0].astype(np.float32),
        intrinsics=camera.normalised,
    )
