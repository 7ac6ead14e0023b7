"""A few held-out moments to look at: what went in, what came out, what was true."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.benchmarks.checks import HeldOut, errors_mm

PERCENTILES = (10, 50, 75, 95)
# Seen from the recording camera a wrong depth would not show: look from the side, and a little from above.
YAW_DEGREES, PITCH_DEGREES = 50.0, 12.0


@dataclass(frozen=True)
class Moment:
    """One frame: 2D input (17, 2) with y down, predicted and true pose (17, 3) in metres, as nested tuples.

    `percentile` says how its error ranks among all checked windows: 95 is one of the worst.
    """

    action: str
    name: str
    percentile: int
    error_mm: float
    keypoints: tuple[tuple[float, ...], ...]
    predicted: tuple[tuple[float, ...], ...]
    true: tuple[tuple[float, ...], ...]

    @property
    def rank(self) -> str:
        """How its error compares with that of the other windows, in a few words."""
        return f"worse than {self.percentile} % of frames"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Moment:
        """The moment that `to_dict` wrote."""
        points = {key: _points(values[key]) for key in ("keypoints", "predicted", "true")}
        return cls(**{**values, **points})


def choose(poses: FloatArray, data: HeldOut) -> tuple[Moment, ...]:
    """The windows at fixed percentiles of the error, so that nobody picks them; each of another action if possible.

    `poses` (N, 17, 3) are the engine's on `data`.
    """
    errors = errors_mm(poses, data)
    order = np.argsort(errors, kind="stable")
    chosen: list[int] = []
    for percentile in PERCENTILES[: len(order)]:
        centre = round(percentile / 100 * (len(order) - 1))
        near = sorted(range(len(order)), key=lambda rank: abs(rank - centre))
        seen = {data.actions[index] for index in chosen}
        # Among ranks within 2 % of the percentile one of a new action is preferred.
        close = [rank for rank in near if abs(rank - centre) <= 0.02 * len(order)]
        fresh = [rank for rank in close if data.actions[order[rank]] not in seen]
        chosen.append(int(order[(fresh or near)[0]]))
    return tuple(
        _moment(poses[index], data, index, percentile, float(errors[index]))
        for index, percentile in zip(chosen, PERCENTILES, strict=False)
    )


def project(
    points: tuple[tuple[float, ...], ...] | FloatArray, yaw: float = YAW_DEGREES, pitch: float = PITCH_DEGREES
) -> FloatArray:
    """Camera-frame points (J, 3), metres, seen in parallel projection: (J, 2) with y down, metres.

    `yaw` turns the viewer about the vertical, `pitch` lifts him, in degrees.
    """
    x, y, z = np.asarray(points, np.float64).T
    turn, tilt = np.radians(yaw), np.radians(pitch)
    across = x * np.cos(turn) + z * np.sin(turn)
    away = -x * np.sin(turn) + z * np.cos(turn)
    return np.stack([across, y * np.cos(tilt) - away * np.sin(tilt)], axis=-1)


def _moment(pose: FloatArray, data: HeldOut, index: int, percentile: int, error: float) -> Moment:
    rooted = pose - np.eye(1, len(pose))[0][:, None] * pose[0]  # only the root itself moves to the origin
    return Moment(
        action=data.actions[index],
        name=data.names[index],
        percentile=percentile,
        error_mm=round(error, 2),
        keypoints=_points(data.keypoints[index]),
        predicted=_points(rooted),
        true=_points(data.poses[index]),
    )


def _points(values: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(float(value), 4) for value in point) for point in values)
