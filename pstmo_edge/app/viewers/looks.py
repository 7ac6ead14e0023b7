"""What poses look like in every viewer: colours of sides and flags, labels, and the view from the side."""

from __future__ import annotations

import math

import numpy as np

from pstmo_edge.app.types import PersonPose
from pstmo_edge.arrays import FloatArray
from pstmo_edge.skeletons import Skeleton

Colour = tuple[int, int, int]

LEFT, RIGHT, CENTRE = (
    (240, 140, 46),
    (64, 156, 255),
    (214, 218, 224),
)  # told apart by people who do not see red or green
FAINT: Colour = (70, 78, 90)  # of what is there for orientation
FLAGS: dict[str, Colour] = {
    "valid": (72, 187, 120),
    "degraded": (236, 201, 75),
    "stale": (245, 101, 101),
    "gap": (183, 148, 244),
}
DOUBTFUL: Colour = (237, 100, 166)
YAW, PITCH = 30.0, -10.0  # degrees: seen from a little to the left and above, so that depth shows
SURE = 0.3  # the confidence below which a keypoint is drawn as missing


def sides(skeleton: Skeleton) -> tuple[Colour, ...]:
    """The colour of each bone, in the order of `skeleton.bones`: by the side its far end is on."""
    by_joint = dict.fromkeys(skeleton.left, LEFT) | dict.fromkeys(skeleton.right, RIGHT)
    return tuple(by_joint.get(joint, CENTRE) for joint, _ in skeleton.bones)


def colour_of(pose: PersonPose) -> Colour:
    """The colour of the worst that is known about a pose."""
    if pose.flag in ("gap", "stale") or not pose.doubtful:
        return FLAGS[pose.flag]
    return DOUBTFUL


def label_of(pose: PersonPose) -> str:
    """One line: who, the flag, whether the pose is doubtful, and its look-ahead."""
    words = [pose.flag, *(["doubtful"] if pose.doubtful else [])]
    return f"{pose.person}: {', '.join(words)}, +{pose.result.lookahead_ms:.0f} ms"


def as_seen(points: FloatArray, z_up: bool) -> FloatArray:
    """Points (..., 3) with x to the right, y down and z away, of points in those axes or in a world with z up."""
    return points[..., [0, 2, 1]] * np.array([1, -1, 1], points.dtype) if z_up else points


def turned(points: FloatArray, yaw: float = YAW, pitch: float = PITCH) -> FloatArray:
    """Points (..., 3) of the camera frame turned about the vertical by `yaw`, then tilted by `pitch`, in degrees.

    The first two of the result are right and down, the third away from who looks.
    """
    sine, cosine = math.sin(math.radians(yaw)), math.cos(math.radians(yaw))
    about = np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
    sine, cosine = math.sin(math.radians(pitch)), math.cos(math.radians(pitch))
    tilt = np.array([[1, 0, 0], [0, cosine, sine], [0, -sine, cosine]])
    seen: FloatArray = points @ about.T @ tilt.T
    return seen
