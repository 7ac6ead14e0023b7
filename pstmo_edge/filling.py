"""Missing joints: held on the body while nobody sees them, interpolated once they are seen again.

kernels/runtime/filling.cc has what streams do in the same arithmetic and order; results are equal bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pstmo_edge.arrays import BoolArray, FloatArray
from pstmo_edge.cameras import normalise_screen

JOINTS = 17
BODY = 4  # joints that tell how a body moves
FARTHEST = 1000.0  # image widths from the picture; far below what could overflow in a network
_NEVER = -math.inf


@dataclass(frozen=True)
class Returned:
    """Joints that are seen again, and what that tells of the frames in which they were held.

    `joints` (17,) says which, `since` (17,) when each was last seen before (-inf: never), `until` when it was seen
    again, both in seconds, and `off` (17, 2) how far that was from where it would have been held.
    """

    joints: BoolArray
    since: FloatArray
    until: float
    off: FloatArray

    @property
    def earliest(self) -> float:
        """Nothing that was filled at this time or before is told of."""
        return float(self.since[self.joints].min())

    def correct(self, values: FloatArray, time: float) -> tuple[FloatArray, BoolArray]:
        """What was filled at `time`, (17, C), with these joints interpolated; and which they are, (17,).

        A held joint moved with the body from its last sighting. Moved with the body from the next one back it would be
        elsewhere by `off`; between the two it passes from one to the other at even pace, so that it is on both
        sightings. One that was never seen before has the next one alone.
        """
        joints = self.joints & (self.since < time)
        known = joints & np.isfinite(self.since)
        share = np.ones(JOINTS)
        share[known] = (time - self.since[known]) / (self.until - self.since[known])
        corrected = values.copy()
        corrected[joints, :2] = (values[joints, :2] + share[joints, None] * self.off[joints]).astype(np.float32)
        return corrected, joints


class Holder:
    """Pixels of one frame to what the model reads, with missing joints held on the body where they were last seen."""

    def __init__(self, image_size: tuple[int, int], min_confidence: float, channels: int) -> None:
        self.image_size = image_size
        self.min_confidence = np.float32(min_confidence)
        self.channels = channels
        self.forget()

    def forget(self) -> None:
        """Begin a new sequence."""
        self.begun = False
        self.seen_at = np.full(JOINTS, _NEVER)
        self.measured = np.zeros(JOINTS, bool)  # in the frame before
        self.last = np.zeros((JOINTS, 2), np.float32)

    def fill(self, frame: FloatArray, time: float) -> tuple[FloatArray, BoolArray, Returned | None]:
        """A frame (17, 3) in pixels to values (17, C), the missing joints (17,), and those that are seen again, if any.

        A missing joint moves with the body: as the joints do, on the mean, that were measured in this frame and the
        last, where they are BODY or more. One that was never seen is put at the mean of those measured now. The third
        channel, where the model has one, is the confidence, and 0 for a joint that is held.
        """
        with np.errstate(all="ignore"):
            points = normalise_screen(frame[:, :2], self.image_size)
            confidence = frame[:, 2]
            measured = (confidence >= self.min_confidence) & np.isfinite(confidence)
            measured &= (np.abs(points) <= np.float32(FARTHEST)).all(axis=1)
        both = measured & self.measured
        if not both.all() and both.sum() >= BODY:
            shift = _mean(points[both].astype(np.float64) - self.last[both])
            self.last += shift.astype(np.float32)  # that of measured joints is replaced below
        again = measured & ~self.measured
        returned = None
        if self.begun and again.any():
            off = np.where(again[:, None], points.astype(np.float64) - self.last, 0.0)
            returned = Returned(again, self.seen_at.copy(), time, off)
        self.last[measured] = points[measured]
        self.seen_at[measured] = time
        self.begun |= bool(measured.any())
        self.measured = measured
        never = self.seen_at == _NEVER
        if measured.any() and never.any():
            self.last[never] = _mean(points[measured].astype(np.float64)).astype(np.float32)
        values = [self.last, np.where(measured, confidence, np.float32(0))[:, None]]
        return np.concatenate(values, axis=1)[:, : self.channels], ~measured, returned


def fill_recording(points: FloatArray, measured: BoolArray) -> FloatArray:
    """A recording's points (L, J, 2) with the joints filled that were not measured (L, J), as streams fill them.

    Every frame is known, so a joint is interpolated wherever it has a sighting on either side. Beside the body, whose
    way is the sum of its steps, that is a straight line; before the first and after the last sighting it stands still
    there. One that is never seen is at the mean of those measured. At least one must be, in some frame.
    """
    both = measured[1:] & measured[:-1]
    count = both.sum(1, keepdims=True)
    steps = np.where(both[..., None], np.diff(points.astype(np.float64), axis=0), 0.0).sum(1) / np.maximum(count, 1)
    way = np.concatenate([np.zeros((1, 2)), np.where(count >= BODY, steps, 0.0).cumsum(0)])
    beside = points - way[:, None]
    known = measured.any(1)
    middle = np.where(measured[..., None], beside, 0.0).sum(1) / np.maximum(measured.sum(1), 1)[:, None]
    frames, filled = np.arange(len(points)), points.copy()
    for joint in np.flatnonzero(~measured.all(0)):
        seen = measured[:, joint]
        at, values = (seen, beside[:, joint]) if seen.any() else (known, middle)
        line = np.stack([np.interp(frames, frames[at], axis) for axis in values[at].T], axis=-1) + way
        filled[~seen, joint] = line[~seen]
    return filled


def _mean(points: FloatArray) -> FloatArray:
    """The mean (2,) of points (K, 2), added one after the other as the C++ adds them."""
    mean: FloatArray = np.cumsum(points, axis=0)[-1] / len(points)
    return mean
