"""A seeded model of the errors that a 2D keypoint detector makes, for data that has only exact keypoints.

Three things distinguish a detector's errors from white noise, and all three are here: jitter is correlated in time,
it is larger at the wrists and feet than at the hips, and now and then a joint is simply elsewhere for a few frames
(on its mirrored twin, or on something in the background). Each joint comes with a confidence that falls with its
error but does not reveal it. Sizes are fractions of the person's height in the image, so distance does not matter; on
the bundled test split the defaults give Human3.6M joints a mean error of 4.9 pixels of a 1000-pixel image (median 3.9,
99th percentile 17).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pstmo_edge.arrays import BoolArray, FloatArray
from pstmo_edge.skeletons import COCO, HUMAN36M, Skeleton

# Standard deviation per axis by joint, in the order of the joint set: hips and trunk steady, wrists and feet least so,
# and of a face the ears.
_JITTER = {
    HUMAN36M.name: (
        0.007, 0.008, 0.010, 0.014, 0.008, 0.010, 0.014, 0.007, 0.007,
        0.008, 0.010, 0.009, 0.013, 0.018, 0.009, 0.013, 0.018,
    ),
    COCO.name: (
        0.006, 0.006, 0.006, 0.008, 0.008, 0.009, 0.009, 0.013, 0.013,
        0.018, 0.018, 0.010, 0.010, 0.011, 0.011, 0.014, 0.014,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class DetectorModel:
    """How a detector errs; rates and correlation are per frame at `fps`."""

    correlation: float = 0.85
    outlier_rate: float = 0.0015
    outlier_end: float = 0.2
    outlier_size: float = 0.08
    swap_share: float = 0.5
    fps: float = 50.0

    def apply(
        self, pixels: FloatArray, rng: np.random.Generator, fps: float = 50.0, skeleton: Skeleton = HUMAN36M
    ) -> tuple[FloatArray, FloatArray]:
        """What a detector would report for exact keypoints (..., L, 17, 2): keypoints and confidences (..., L, 17).

        `fps` is the rate of the given frames; at a lower one, neighbours are less alike.
        """
        step = self.fps / fps
        person = np.ptp(pixels[..., 1], axis=-1).mean(-1)[..., None, None, None]  # [..., 1, 1, 1]
        errors = self._jitter(pixels.shape, rng, self.correlation**step, skeleton) * person
        active, swapped, offsets = self._episodes(pixels.shape, rng, step)
        twin = pixels[..., skeleton.mirror, :] - pixels
        wrong = np.where(swapped, twin, 0) + offsets * person
        errors = np.where(active, errors + wrong, errors)
        relative = np.linalg.norm(errors, axis=-1) / np.maximum(person[..., 0], 1e-9)
        confidence = 0.95 / (1 + (relative / 0.06) ** 2) + rng.normal(0, 0.04, relative.shape)
        return pixels + errors, np.clip(confidence, 0.02, 1.0)

    def _jitter(self, shape: tuple[int, ...], rng: np.random.Generator, keep: float, skeleton: Skeleton) -> FloatArray:
        """First-order autoregressive noise along the frame axis (-3), unit height."""
        noise = rng.standard_normal(shape) * np.asarray(_JITTER[skeleton.name])[:, None]
        fresh = np.sqrt(1 - keep**2)
        for frame in range(1, shape[-3]):
            noise[..., frame, :, :] = keep * noise[..., frame - 1, :, :] + fresh * noise[..., frame, :, :]
        return noise

    def _episodes(
        self, shape: tuple[int, ...], rng: np.random.Generator, step: float
    ) -> tuple[BoolArray, BoolArray, FloatArray]:
        """Which joints are elsewhere (..., L, 17, 1), whether on their twin, and by how much besides."""
        start, end = 1 - (1 - self.outlier_rate) ** step, 1 - (1 - self.outlier_end) ** step
        draws = rng.random(shape[:-1])
        active = np.zeros(shape[:-1], bool)
        kind = rng.random(shape[:-1]) < self.swap_share
        offset = rng.normal(0, self.outlier_size, shape)
        # Before the first frame the process has already been running: begin in its steady state.
        active[..., 0, :] = draws[..., 0, :] < start / (start + end)
        for frame in range(1, shape[-3]):
            was = active[..., frame - 1, :]
            active[..., frame, :] = np.where(was, draws[..., frame, :] > end, draws[..., frame, :] < start)
            kind[..., frame, :] = np.where(was, kind[..., frame - 1, :], kind[..., frame, :])
            offset[..., frame, :, :] = np.where(was[..., None], offset[..., frame - 1, :, :], offset[..., frame, :, :])
        return active[..., None], kind[..., None], offset
