"""From sequences to the windows a lifter reads: stride, edge padding, mirroring, look-ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pstmo_edge.arrays import FloatArray, IntArray
from pstmo_edge.errors import DataError


@dataclass(frozen=True)
class WindowSpec:
    """Which frames a window holds: `frames` of them, `t_downsample` apart, around (or up to) its target frame.

    `target_index` is the window position whose pose is predicted; None means the centre, as published. `channels` of
    each keypoint are 2, x and y, or 3 with its visibility.
    """

    frames: int
    t_downsample: int = 1
    target_index: int | None = None
    channels: int = 2

    def __post_init__(self) -> None:
        """Refuse windows that hold nothing."""
        if self.frames < 1 or self.t_downsample < 1 or not 0 <= self.target < self.frames:
            raise ValueError(f"no such window: {self}")

    @property
    def target(self) -> int:
        """The position of the predicted frame inside the window."""
        return self.frames // 2 if self.target_index is None else self.target_index

    @property
    def offsets(self) -> IntArray:
        """Frame numbers relative to the target, (frames,)."""
        return (np.arange(self.frames) - self.target) * self.t_downsample


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

    def batches(self, size: int) -> Iterator[tuple[IntArray, FloatArray]]:
        """(targets, windows) of every frame, `size` windows at a time, in order."""
        targets = np.arange(len(self))
        for start in range(0, len(targets), size):
            chunk = targets[start : start + size]
            yield chunk, self.gather(chunk)
