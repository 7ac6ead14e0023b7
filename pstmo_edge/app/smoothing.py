"""Poses that tremble less: the One-Euro filter for live poses, Savitzky-Golay for recordings.

Every filter trades jitter for error: what both gain and cost on the test split stands in docs/streams.md. The defaults
were chosen on the training split with a detector's errors at 30 frames a second: of One-Euro the least jitter that
costs a live stream no more than half a millimetre, of Savitzky-Golay and of the root the least error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.errors import BackendError, DataError, UsageError

_LATE = 1.5  # usual spacings: a longer one ends a stretch of a recording


@dataclass(frozen=True)
class OneEuroSettings:
    """How strongly the One-Euro filter smooths.

    At rest it lets through what is slower than `min_cutoff` hertz; `beta` raises that limit by so many hertz for each
    metre a second of a joint's speed, which is itself smoothed at `speed_cutoff` hertz. Time between poses of more than
    `max_gap` seconds, or none, starts it anew.
    """

    min_cutoff: float = 1.0
    beta: float = 10.0
    speed_cutoff: float = 1.0
    max_gap: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what smooths nothing or for ever (UsageError)."""
        positive = (self.min_cutoff, self.speed_cutoff, self.max_gap)
        if not all(math.isfinite(value) and value > 0 for value in positive) or not 0 <= self.beta < math.inf:
            raise UsageError(f"no such filter: {self}; cutoffs and max_gap must be above 0, and beta at least 0")


POSE = OneEuroSettings()
ROOT = OneEuroSettings(min_cutoff=0.5, beta=2.0, speed_cutoff=0.3)  # its depth trembles more than joints do


class OneEuro:
    """The One-Euro filter of one person's joints (Casiez, Roussel & Vogel, CHI 2012), by timestamps.

    One cutoff a joint, from the length of its velocity, so that the result does not depend on the axes; the paper
    filters each coordinate by itself.
    """

    def __init__(self, settings: OneEuroSettings = POSE) -> None:
        self.settings = settings
        self.reset()

    def reset(self) -> None:
        """Begin anew: the next value comes out as it goes in."""
        self._time: float | None = None
        self._value = np.zeros(0)
        self._speed = np.zeros(0)

    def update(self, value: FloatArray, timestamp: float) -> FloatArray:
        """The smoothed value (..., 3) in metres at `timestamp` in seconds; a value that is not finite starts anew."""
        given = np.asarray(value, np.float64)
        since = None if self._time is None else timestamp - self._time
        if not np.isfinite(given).all():
            self.reset()
            return value
        self._time = timestamp
        if since is None or not 0 < since <= self.settings.max_gap or given.shape != self._value.shape:
            self._value, self._speed = given, np.zeros_like(given)
            return value
        self._speed = self._speed + _share(self.settings.speed_cutoff, since) * (
            (given - self._value) / since - self._speed
        )
        cutoff = self.settings.min_cutoff + self.settings.beta * np.linalg.norm(self._speed, axis=-1, keepdims=True)
        self._value = self._value + _share(cutoff, since) * (given - self._value)
        return self._value.astype(value.dtype)


def _share(cutoff: FloatArray | float, since: float) -> FloatArray:
    """How much of the way to a new value a first-order low pass goes in `since` seconds."""
    turned = 2 * math.pi * since * np.asarray(cutoff)
    share: FloatArray = turned / (1 + turned)
    return share


class LiveSmoother:
    """One person's poses and root, smoothed as they come; a filter each, since the root trembles otherwise."""

    def __init__(self, pose: OneEuroSettings = POSE, root: OneEuroSettings = ROOT) -> None:
        self._pose, self._root = OneEuro(pose), OneEuro(root)

    def __call__(
        self, pose: FloatArray, root: FloatArray | None, timestamp: float
    ) -> tuple[FloatArray, FloatArray | None]:
        """The pose (17, 3) and, where it is known, the root (3,), smoothed."""
        smoothed = self._pose.update(pose, timestamp)
        if root is None:
            self._root.reset()
            return smoothed, None
        return smoothed, self._root.update(root, timestamp)


def smoothed(values: FloatArray, timestamps: FloatArray, seconds: float = 0.52, order: int = 3) -> FloatArray:
    """A recording (L, ...) smoothed by Savitzky and Golay's polynomials (Analytical Chemistry 36, 1964).

    `timestamps` (L,) are seconds, evenly spaced but for gaps: a spacing of more than 1.5 usual ones ends a stretch, and
    none is smoothed across. A polynomial of `order` is fitted to the values within `seconds`; stretches too short for
    it are left as they are. Raises DataError for times that do not rise, BackendError without scipy.
    """
    times = np.asarray(timestamps, np.float64)
    if times.shape != values.shape[:1]:
        raise DataError(f"{len(times)} timestamps for {len(values)} poses: give one each")
    if len(times) < 2:
        return values.copy()
    steps = np.diff(times)
    if not (steps > 0).all():
        raise DataError("timestamps do not rise: sort the poses of one person by time first")
    try:
        from scipy.signal import savgol_filter
    except ImportError:
        raise BackendError("smoothing a recording needs scipy: pip install 'pstmo-edge[app]'") from None
    usual = float(np.median(steps))
    longest = 2 * int(seconds / usual / 2) + 1
    out = values.copy()
    for stretch in np.split(np.arange(len(times)), np.flatnonzero(steps > _LATE * usual) + 1):
        window = min(longest, len(stretch) - 1 + len(stretch) % 2)
        if window > order:
            out[stretch] = savgol_filter(values[stretch].astype(np.float64), window, order, axis=0)
    return out
