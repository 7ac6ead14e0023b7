"""Training windows: where they come from, and which of them every process gets at every step.

Which windows a step sees, and every random number in them, depends only on the seed, the epoch and the step: a run that
was killed and resumed, or that is spread over more processes, sees the very windows that a plain one sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np

from pstmo_edge.arrays import FloatArray, IntArray
from pstmo_edge.datasets.sequences import PoseSequence
from pstmo_edge.errors import DataError
from pstmo_edge.skeletons import get_skeleton, mirrored
from pstmo_edge.windows import WindowSource, WindowSpec

SHARD = 32  # windows that share one random generator: a process makes only the shards it needs


@dataclass(frozen=True)
class Batch:
    """B windows of T frames, float32.

    `keypoints` (B, T, 17, C) normalised, with their visibility where the model reads it, `poses` (B, T, 17, 3)
    root-relative metres, `depth` (B,) of the root joint at the target frame in metres and `intrinsics` (B, 4) as in
    `PoseSequence`; both are NaN where the data lacks them.
    """

    keypoints: FloatArray
    poses: FloatArray
    depth: FloatArray
    intrinsics: FloatArray


class Windows(Protocol):
    """A training set: numbered items, any of which can be made at any time."""

    fps: float  # of the data, before t_downsample
    spec: WindowSpec
    pose_skeleton: str

    def __len__(self) -> int:
        """How many items an epoch has."""
        ...

    def sample(self, items: IntArray, rng: np.random.Generator) -> Batch:
        """The windows of some items; `rng` is the only source of chance."""
        ...


class SequenceWindows:
    """The views of a dataset as they are, each window plain and mirrored once an epoch, as published."""

    def __init__(self, sequences: Sequence[PoseSequence], spec: WindowSpec) -> None:
        if not sequences:
            raise DataError("no sequences to train on")
        self.spec = spec
        self.fps = sequences[0].fps
        self.pose_skeleton = sequences[0].pose_skeleton
        self.keypoints = _with_mirrored(
            [sequence.inputs(spec.channels) for sequence in sequences], sequences[0].skeleton, spec
        )
        self.poses = _with_mirrored([sequence.true_poses() for sequence in sequences], self.pose_skeleton, spec)
        self.frames = np.flatnonzero(np.concatenate([sequence.valid_frames() for sequence in sequences]))
        # One row a sequence, and which row a frame belongs to: intrinsics do not change within a view.
        unknown = np.full(4, np.nan)
        self.intrinsics = np.array([unknown if s.intrinsics is None else s.intrinsics for s in sequences], np.float32)
        self.view = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
        self.depth = np.concatenate(
            [np.full(len(s), np.nan) if s.root is None else s.root[:, 2] for s in sequences]
        ).astype(np.float32)

    def __len__(self) -> int:
        return 2 * len(self.frames)

    def sample(self, items: IntArray, rng: np.random.Generator) -> Batch:
        """See `Windows`; odd items are mirrored. Nothing is left to chance."""
        frames, flip = self.frames[items // 2], items % 2 == 1
        rows = frames + flip * len(self.view)
        intrinsics = self.intrinsics[self.view[frames]]
        intrinsics[flip, 2] *= -1
        return Batch(self.keypoints.gather(rows), self.poses.gather(rows), self.depth[frames], intrinsics)


def _with_mirrored(arrays: list[FloatArray], skeleton: str, spec: WindowSpec) -> WindowSource:
    """The sequences, and behind them their mirror images: cheaper to keep than to make for every window."""
    return WindowSource([*arrays, *(mirrored(array, get_skeleton(skeleton)) for array in arrays)], spec)


class Loader:
    """The batches of a run, for one of `world` processes; `threads` make the next ones ahead of time."""

    def __init__(
        self, windows: Windows, batch: int, seed: int, *, rank: int = 0, world: int = 1, threads: int = 0
    ) -> None:
        self.windows, self.size, self.seed = windows, batch, seed
        share = batch // world
        self.rows = slice(rank * share, (rank + 1) * share)
        self.steps = max(1, len(windows) // batch)  # whole batches in the training set
        self._order: tuple[int, IntArray] = (-1, np.empty(0, np.int64))
        self._pool = ThreadPoolExecutor(threads) if threads else None
        self._ahead: dict[tuple[int, int], Future[Batch]] = {}
        self._depth = 2 * threads

    def batch(self, epoch: int, within: int, steps_per_epoch: int) -> Batch:
        """This process's share of one step's windows."""
        if self._pool is None:
            return self.make(epoch, within)
        for number in range(self._depth):
            later = epoch + (within + number) // steps_per_epoch, (within + number) % steps_per_epoch
            if later not in self._ahead:
                self._ahead[later] = self._pool.submit(self.make, *later)
        return self._ahead.pop((epoch, within)).result()

    def make(self, epoch: int, within: int) -> Batch:
        """The windows of one step, made now."""
        known, order = self._order
        if known != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.windows))
            self._order = epoch, order
        items = np.take(order, np.arange(within * self.size, (within + 1) * self.size), mode="wrap")
        first, last = self.rows.start // SHARD, (self.rows.stop - 1) // SHARD
        shards = [
            self.windows.sample(
                items[number * SHARD : (number + 1) * SHARD],
                np.random.default_rng([self.seed, epoch, within, number]),
            )
            for number in range(first, last + 1)
        ]
        rows = slice(self.rows.start - first * SHARD, self.rows.stop - first * SHARD)
        return Batch(
            *(np.concatenate([getattr(shard, field.name) for shard in shards])[rows] for field in fields(Batch))
        )

    def close(self) -> None:
        """Stop making batches ahead."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
