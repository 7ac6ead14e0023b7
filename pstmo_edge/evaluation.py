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
from pstmo_edge.skeletons import get_skeleton, mirrored
from pstmo_edge.windows import WindowSource, WindowSpec

# (B, T, 17, 2) normalised keypoints to (B, 17, 3) poses in metres, or to (B, K, 17, 3) where K are emitted a window.
Predict: TypeAlias = Callable[[FloatArray], FloatArray]
# Poses (N, 17, 3), the keypoints (N, 17, 2) of the same frames, the root's depth (N,) and the intrinsics (N, 4) to
# refined poses (N, 17, 3).
Refine: TypeAlias = Callable[[FloatArray, FloatArray, FloatArray, FloatArray], FloatArray]


@dataclass(frozen=True)
class Evaluation:
    """Errors of one lifter on one set of sequences; the totals are means over actions, as published.

    `frame_mpjpe_mm` is the plain mean over the `frames` measured; fewer `windows` give their poses where each emits
    those of many frames. With `flip` each pose is the mean of two forwards, of the window
    and of its mirror image, as the published errors are. MPJVE is in millimetres a frame.
    """

    mpjpe_mm: float
    p_mpjpe_mm: float
    mpjve_mm: float
    frame_mpjpe_mm: float
    flip: bool
    windows: int
    frames: int
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

    The sequences must be of one dataset: the same keypoint and pose skeletons throughout. Where windows emit the poses
    of many frames, a sequence is covered once, window after window. `advance` is told how many frames each batch gave.
    """
    source = WindowSource([sequence.inputs(spec.channels) for sequence in sequences], spec)
    given, wanted = get_skeleton(sequences[0].skeleton), get_skeleton(sequences[0].pose_skeleton)
    poses = np.empty((len(source), wanted.num_joints, 3), np.float32)
    for targets, windows in source.batches(batch):
        pose = predict(windows)
        if flip:
            pose = (pose + mirrored(predict(mirrored(windows, given)), wanted)) / 2
        frames, inside = source.emitted(targets)
        poses[frames[inside]] = pose.reshape(*frames.shape, *poses.shape[1:])[inside]
        if advance is not None:
            advance(int(inside.sum()))
    poses[:, wanted.root] = 0  # the root is the origin by definition; the published evaluation sets it too
    return poses


def evaluate(
    predict: Predict,
    sequences: Sequence[PoseSequence],
    spec: WindowSpec,
    *,
    flip: bool = False,
    batch: int = 256,
    advance: Callable[[int], None] | None = None,
    refine: Refine | None = None,
) -> Evaluation:
    """The errors of a lifter on every valid frame of the sequences; raises DataError where true poses are missing.

    With `refine` the poses are refined before they are measured, which takes the root's true depth from the data.
    """
    if not sequences:
        raise DataError("no sequences to evaluate on")
    targets = [sequence.true_poses() for sequence in sequences]
    poses = predict_all(predict, sequences, spec, flip=flip, batch=batch, advance=advance)
    if refine is not None:
        poses = _refined(refine, poses, sequences)
    valid = [sequence.valid_frames() for sequence in sequences]
    kept = [target[frames] for target, frames in zip(targets, valid, strict=True)]
    found = score(poses[np.concatenate(valid)], kept, [sequence.action for sequence in sequences], flip=flip)
    return found if spec.emitted is None else dataclasses.replace(found, windows=window_count(sequences, spec))


def jitter_mm(
    predict: Predict, sequences: Sequence[PoseSequence], spec: WindowSpec, frames_a_sequence: int = 40
) -> float:
    """The mean acceleration error (millimetres a frame squared) over neighbouring frames in the middle of sequences.

    Of a window that emits many poses the first counts, so that each comes from another window, as in a stream.
    """
    source = WindowSource([sequence.inputs(spec.channels) for sequence in sequences], spec)
    poses = np.concatenate([sequence.true_poses() for sequence in sequences])
    root = get_skeleton(sequences[0].pose_skeleton).root
    errors, counts, start = [], [], 0
    for sequence in sequences:
        middle = max(0, (len(sequence) - frames_a_sequence) // 2)
        targets = start + np.arange(middle, min(middle + frames_a_sequence, len(sequence)))
        frames, inside = source.emitted(targets)
        targets, frames = targets[inside[:, 0]], frames[inside[:, 0], 0]
        found = predict(source.gather(targets))
        found = np.array(found if spec.emitted is None else found[:, 0])
        found[:, root] = 0
        errors.append(metrics.acceleration_error(found, poses[frames]))
        counts.append(len(frames))
        start += len(sequence)
    return float(np.average(errors, weights=counts))


def lookahead_errors(
    predict: Predict,
    sequences: Sequence[PoseSequence],
    spec: WindowSpec,
    lookaheads: Sequence[int],
    most_windows: int = 1024,
    batch: int = 256,
) -> dict[int, float]:
    """MPJPE in millimetres by look-ahead in frames of the window: what lies beyond is the newest frame again.

    That is what a stream does. The same windows are measured for each, evenly spread over all sequences. Raises
    DataError where true poses are missing.
    """
    source = WindowSource([sequence.inputs(spec.channels) for sequence in sequences], spec)
    poses = np.concatenate([sequence.true_poses() for sequence in sequences])
    root = get_skeleton(sequences[0].pose_skeleton).root
    targets = source.targets()[:: max(len(source.targets()) // most_windows, 1)]
    frames, inside = source.emitted(targets)
    targets, frames = targets[inside[:, 0]], frames[inside[:, 0], 0]
    errors = {}
    for lookahead in lookaheads:
        slots = np.minimum(np.arange(spec.frames), spec.target + lookahead)
        found = []
        for start in range(0, len(targets), batch):
            pose = predict(source.gather(targets[start : start + batch])[:, slots])
            found.append(np.array(pose if spec.emitted is None else pose[:, 0]))
        predicted = np.concatenate(found)
        predicted[:, root] = 0
        errors[lookahead] = 1000.0 * float(np.linalg.norm(predicted - poses[frames], axis=-1).mean())
    return errors


def window_count(sequences: Sequence[PoseSequence], spec: WindowSpec) -> int:
    """How many windows `predict_all` lifts."""
    return sum(len(spec.targets(len(sequence))) for sequence in sequences)


def _refined(refine: Refine, poses: FloatArray, sequences: Sequence[PoseSequence]) -> FloatArray:
    views = []
    for sequence in sequences:
        if sequence.root is None or sequence.intrinsics is None:
            raise DataError(f"{sequence.name} lacks the root's depth or the camera's intrinsics: it cannot be refined")
        intrinsics = np.broadcast_to(sequence.intrinsics, (len(sequence), 4))
        views.append((sequence.keypoints, sequence.root[:, 2], intrinsics))
    arrays = (np.concatenate(column).astype(np.float32) for column in zip(*views, strict=True))
    refined = refine(poses, *arrays)
    refined[:, get_skeleton(sequences[0].pose_skeleton).root] = 0
    return refined


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
        frames=len(true),
        actions={name: {"mpjpe_mm": by_action[name], "p_mpjpe_mm": aligned_by_action[name]} for name in by_action},
    )
