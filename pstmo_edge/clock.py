"""The model's clock of a stream: at which moments a window wants keypoints, whatever times frames come at.

kernels/runtime/clock.cc has the same arithmetic in the same order; results are equal bit for bit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pstmo_edge.manifest import InputSpec


class Clock:
    """The model's clock: the moments, one period apart, at which its window wants keypoints.

    A slot of the window is t_downsample / frame_rate seconds long. Where the camera is faster, a slot is cut into as
    many moments as its frames allow, at most t_downsample. A camera with the model's rate (within 2 %) is locked: each
    of its frames stands for the moment nearest to it, and the clock follows its jitter slowly. Others are resampled.
    """

    def __init__(self, given: InputSpec, fps: float) -> None:
        slot = given.t_downsample / given.frame_rate
        self.steps = int(min(max(math.floor(fps * slot + 0.05), 1), given.t_downsample))
        self.period = slot / self.steps
        self.locked = abs(fps * self.period - 1) <= 0.02
        self.tolerance = (0.5 if self.locked else 0.01) * self.period
        self.next = 0.0

    def start(self, time: float) -> None:
        """Start with a frame at `time`, which is the first moment."""
        self.next = time + self.period

    def reaches(self, time: float) -> bool:
        """Whether another moment lies at or before a frame at `time`."""
        return self.next <= time + self.tolerance

    def is_at(self, time: float) -> bool:
        """Whether the next moment is the frame's own."""
        return self.next >= time - self.tolerance

    def pass_moment(self) -> None:
        """Go on to the next moment."""
        self.next += self.period

    def pass_frame(self, time: float) -> None:
        """Go on from a moment that was the own one of a frame at `time`."""
        limit = 0.02 * self.period if self.locked else 0.0
        self.next += self.period + min(max(time - self.next, -limit), limit)
