"""From sequences to the windows a lifter reads: stride, edge padding, mirroring, look-ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pstmo_edge.arrays import BoolArray, FloatArray, IntArray
from pstmo_edge.errors import DataError


@dataclass(frozen=True)
class WindowSpec:
    """Which frames a window holds: `frames` of them, `t_downsample` apart, around (or up to) its target frame.

    `target_index` is the window position whose pose is predicted; None means the centre, as published. `channels` of
    each keypoint are 2, x and y, or 3 with its visibility. Where a window gives the poses of many frames, `emitted` is
    their number, and the target is the first of them; None stands for the one pose of the target.
    """

    frames: int
    t_downsample: int = 1
    target_index: int | None = None
    channels: int = 2
    emitted: int | None = None

    def __post_init__(self) -> None:
        """Refuse windows that hold nothing."""
        if self.frames < 1 or self.t_downsample < 1 or not 0 <= self.target < self.frames:
            raise ValueError(f"no such window: {self}")
        if self.emitted is not None and not 1 <= self.emitted <= self.frames - self.target:
            raise ValueError(f"no such frames in the window: {self}")

    @property
    def target(self) -> int:
        """The position of the predicted frame inside the window."""
        return self.frames // 2 if self.target_index is None else self.target_index

    @property
    def offsets(self) -> IntArray:
        """Frame numbers relative to the target, (frames,)."""
        return (np.arange(self.frames) - self.target) * self.t_downsample

    @property
    def hop(self) -> int:
        """How many frames a sequence moves on until its next t_downsample windows emit what these did not."""
        return (self.emitted or 1) * self.t_downsample

    def targets(self, length: int) -> IntArray:
        """The frames of a sequence whose windows, together, emit the pose of every frame once.

        All of them where a window emits one pose; else blocks of t_downsample neighbours, a hop apart. What the last
        windows emit past the end is left over.
        """
        frames = np.arange(length)
        return frames[frames % self.hop < self.t_downsample]


def window_indices(length: int, centres: IntArray, spec: WindowSpec) -> IntArray:
    """Frame numbers (N, frames) of the windows around `centres` (N,); outside the sequence its edge is repeated.

    The published extraction (P-STMO, generator_tds) pads a sequence that is shorter than the window on the left
    only; here both sides are padded, which is the same wherever at most one side needs it.
    """
    return np.clip(np.asarray(centres)[:, None] + spec.offsets, 0, length - 1)


def extract_windows(sequence: FloatArray, centres: IntArray, spec: WindowSpec) -> FloatArray:
    """Windows (N, frames, J, C) of a sequence (L, J, C) around the given frames."""
    return sequence[window_indices(len(sequence), centres, spec)]


class WindowSource:
    """All windows of many sequences, gathered on demand from one flat array (one window a frame, no copies kept)."""

    def __init__(self, sequences: Sequence[FloatArray], spec: WindowSpec, dtype: type = np.float32) -> None:
        if not sequences:
            raise DataError("no sequences to make windows from")
        lengths = np.array([len(sequence) for sequence in sequences])
        self.spec = spec
        self.values = np.concatenate([np.asarray(sequence, dtype) for sequence in sequences])
        self.ends = np.repeat(np.cumsum(lengths), lengths)
        self.starts = self.ends - np.repeat(lengths, lengths)

    def __len__(self) -> int:
        return len(self.values)

    def indices(self, frames: IntArray) -> IntArray:
        """Flat frame numbers (N, frames) of the windows whose targets are the flat frame numbers (N,)."""
        wanted = np.asarray(frames)[:, None] + self.spec.offsets
        return np.clip(wanted, self.starts[frames][:, None], self.ends[frames][:, None] - 1)

    def gather(self, frames: IntArray) -> FloatArray:
        """The windows (N, frames, J, C) around the flat frame numbers (N,)."""
        return np.take(self.values, self.indices(frames), axis=0)

    def targets(self) -> IntArray:
        """The flat frame numbers of the windows that emit the pose of every frame once, see `WindowSpec.targets`."""
        starts = np.unique(self.starts)
        lengths = np.diff(starts, append=len(self))
        return np.concatenate([start + self.spec.targets(int(n)) for start, n in zip(starts, lengths, strict=True)])

    def emitted(self, targets: IntArray) -> tuple[IntArray, BoolArray]:
        """The flat frame numbers (N, K) of the poses that windows emit, and which of them their sequence really has."""
        frames = np.asarray(targets)[:, None] + np.arange(self.spec.emitted or 1) * self.spec.t_downsample
        return frames, frames < self.ends[targets][:, None]

    def batches(self, size: int) -> Iterator[tuple[IntArray, FloatArray]]:
        """(targets, windows) that emit the pose of every frame once, `size` windows at a time, in order."""
        targets = self.targets()
        for start in range(0, len(targets), size):
            chunk = targets[start : start + size]
            yield chunk, self.gather(chunk)
