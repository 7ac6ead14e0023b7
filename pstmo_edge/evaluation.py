"""What a lifter's error is, in millimetres, on sequences whose true poses are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from pstmo_edge import metrics
from pstmo_edge.arrays import FloatArray
from pstmo_edge.datasets.sequences import PoseSequence
from pstmo_edge.errors import DataError
from pstmo_edge.skeletons import mirrored
from pstmo_edge.windows import WindowSource, WindowSpec

# (B, T, 17, 2) normalised keypoints to (B, 17, 3) poses in metres.
Predict: TypeAlias = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True)
class Evaluation:
    """Errors of one lifter on one set of sequences; the totals are means over actions, as published.

    `frame_mpjpe_mm` is the plain mean over frames. With `flip` each pose is the mean of two forwards, of the window
    and of its mirror image, as the published errors are. MPJVE is in millimetres a frame.
    """

    mpjpe_mm: float
    p_mpjpe_mm: float
    mpjve_mm: float
    frame_mpjpe_mm: float
    flip: bool
    windows: int
    actions: dict[str, dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)


def predict_all(
    predict: Predict,
    sequences: Sequence[PoseSequence],
    spec: WindowSpec,
    *,
    flip: bool = False,
    batch: int = 256,
    advance: Callable[[int], None] | None = None,
) -> FloatArray:
    """The pose of every frame of every sequence, (total frames, 17, 3) metres with the root at the origin.

    `advance` is told how many windows each batch held.
    """
    source = WindowSource([sequence.keypoints for sequence in sequences], spec)
    poses = np.empty((len(source), sequences[0].keypoints.shape[1], 3), np.float32)
    for frames, windows in source.batches(batch):
        pose = predict(windows)
        if flip:
            pose = (pose + mirrored(predict(mirrored(windows)))) / 2
        poses[frames] = pose
        if advance is not None:
            advance(len(frames))
    poses[:, 0] = 0  # the root is the origin by definition; the published evaluation sets it too
    return poses


def evaluate(
    predict: Predict,
    sequences: Sequence[PoseSequence],
    spec: WindowSpec,
    *,
    flip: bool = False,
    batch: int = 256,
    advance: Callable[[int], None] | None = None,
) -> Evaluation:
    """The errors of a lifter on every frame of the sequences; raises DataError where true poses are missing."""
    if not sequences:
        raise DataError("no sequences to evaluate on")
    targets = [sequence.true_poses() for sequence in sequences]
    poses = predict_all(predict, sequences, spec, flip=flip, batch=batch, advance=advance)
    return score(poses, targets, [sequence.action for sequence in sequences], flip=flip)


def score(
    poses: FloatArray, targets: Sequence[FloatArray], actions: Sequence[str], *, flip: bool = False
) -> Evaluation:
    """The errors of poses (total frames, 17, 3) against the true poses of each sequence, in order."""
    true = np.concatenate(targets)
    lengths = [len(target) for target in targets]
    names = [name for name, length in zip(actions, lengths, strict=True) for _ in range(length)]
    errors, aligned = metrics.mpjpe(poses, true), metrics.p_mpjpe(poses, true)
    by_action, aligned_by_action = metrics.per_action(errors, names), metrics.per_action(aligned, names)
    pieces = np.split(poses, np.cumsum(lengths)[:-1])
    velocity = [metrics.mpjve(piece, target) for piece, target in zip(pieces, targets, strict=True)]
    return Evaluation(
        mpjpe_mm=float(np.mean(list(by_action.values()))),
        p_mpjpe_mm=float(np.mean(list(aligned_by_action.values()))),
        mpjve_mm=float(np.average(velocity, weights=lengths)),
        frame_mpjpe_mm=float(errors.mean()),
        flip=flip,
        windows=len(true),
        actions={name: {"mpjpe_mm": by_action[name], "p_mpjpe_mm": aligned_by_action[name]} for name in by_action},
    )
