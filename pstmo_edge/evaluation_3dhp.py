"""MPI-INF-3DHP's own evaluation: MPJPE, PCK and AUC over the valid frames of its test set (Mehta et al. 2017).

As the release's Matlab code does it (mpii_evaluate_errors, mpii_compute_3d_pck): both poses relative to the pelvis,
nothing aligned or scaled; MPJPE is the mean over all 17 joints, the pelvis with its zero among them; PCK and AUC count
the 14 joints of the head's top, neck and limbs, so neither pelvis, spine nor head, which are nearly free. A joint is
right if its error is less than the threshold. A total is over all frames, which is P-STMO's mean of sequences weighted
by their frames.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pstmo_edge import metrics
from pstmo_edge.arrays import FloatArray, IntArray
from pstmo_edge.datasets.mat_file import require_data_library
from pstmo_edge.datasets.mpi_inf_3dhp import ACTIVITIES
from pstmo_edge.datasets.sequences import PoseSequence
from pstmo_edge.errors import DataError
from pstmo_edge.evaluation import Predict, predict_all, window_count
from pstmo_edge.files import write_atomic
from pstmo_edge.skeletons import MPI_INF_3DHP, require_skeleton
from pstmo_edge.windows import WindowSpec

COUNTED = slice(0, 14)  # the joints of PCK and AUC: the skeleton has pelvis, spine and head behind them


@dataclass(frozen=True)
class Evaluation3DHP:
    """Errors of one lifter on test sequences of MPI-INF-3DHP; PCK (at 150 mm) and AUC are per cent.

    `frames` are the valid ones; fewer `windows` give their poses where each emits those of many. `sequences` and
    `activities` give the same three and the number of `frames` by name; activities are empty where the data does not
    tell them. With `flip` each pose is the mean of two forwards, of the window and of its mirror image.
    """

    mpjpe_mm: float
    pck: float
    auc: float
    flip: bool
    windows: int
    frames: int
    sequences: dict[str, dict[str, float]]
    activities: dict[str, dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)


def evaluate_3dhp(
    predict: Predict,
    sequences: Sequence[PoseSequence],
    spec: WindowSpec,
    *,
    flip: bool = False,
    batch: int = 256,
    advance: Callable[[int], None] | None = None,
    activities: Mapping[str, IntArray] | None = None,
    predictions: str | os.PathLike[str] | None = None,
) -> Evaluation3DHP:
    """The errors of a lifter on every valid frame of the sequences.

    `activities` is `mpi_inf_3dhp.activities(folder)`; `predictions` is where `write_predictions` shall put the poses.
    `advance` is told how many frames each batch gave, valid or not. Raises DataError where true poses are missing or
    of another skeleton, and what `write_predictions` does.
    """
    _check(sequences)
    if predictions is not None:  # said before the work, not after it
        require_data_library("scipy", f"cannot write {os.fspath(predictions)}")
    poses = predict_all(predict, sequences, spec, flip=flip, batch=batch, advance=advance)
    if predictions is not None:
        write_predictions(predictions, sequences, poses)
    found = score_3dhp(poses, sequences, flip=flip, activities=activities)
    return found if spec.emitted is None else dataclasses.replace(found, windows=window_count(sequences, spec))


def score_3dhp(
    poses: FloatArray,
    sequences: Sequence[PoseSequence],
    *,
    flip: bool = False,
    activities: Mapping[str, IntArray] | None = None,
) -> Evaluation3DHP:
    """The errors of poses (total frames, 17, 3) metres, valid frames and others, in the order of the sequences."""
    _check(sequences)
    pieces = _valid_pieces(poses, sequences)
    found = np.concatenate(pieces)
    true = np.concatenate([_relative(each.true_poses()[each.valid_frames()]) for each in sequences])
    names = np.concatenate([np.full(len(piece), each.subject) for each, piece in zip(sequences, pieces, strict=True)])
    numbers = np.concatenate([_activity(each, activities or {}) for each in sequences])
    done = np.array(["", *ACTIVITIES])[numbers]
    total = _errors(found, true)
    return Evaluation3DHP(
        mpjpe_mm=total["mpjpe_mm"],
        pck=total["pck"],
        auc=total["auc"],
        flip=flip,
        windows=len(true),
        frames=len(true),
        sequences=_by_name(found, true, names, dict.fromkeys(each.subject for each in sequences)),
        activities=_by_name(found, true, done, ACTIVITIES),
    )


def write_predictions(path: str | os.PathLike[str], sequences: Sequence[PoseSequence], poses: FloatArray) -> None:
    """Write poses (total frames, 17, 3) metres as the `inference_data.mat` that the release's Matlab code reads.

    One variable a sequence, named TS1 to TS6: (3, 17, 1, valid frames), millimetres relative to the pelvis, as P-STMO's
    published code writes it. Raises DataError where SciPy is missing, WriteError.
    """
    require_data_library("scipy", f"cannot write {os.fspath(path)}")
    from scipy.io import savemat

    pieces = _valid_pieces(poses, sequences)
    arrays = {
        each.subject: np.float32(metrics.MM) * piece.transpose(2, 1, 0)[:, :, None]
        for each, piece in zip(sequences, pieces, strict=True)
    }
    write_atomic(path, lambda file: savemat(file, arrays))


def _check(sequences: Sequence[PoseSequence]) -> None:
    if not sequences:
        raise DataError("no sequences to evaluate on")
    for each in sequences:
        each.true_poses()
        require_skeleton(each.pose_skeleton, MPI_INF_3DHP, each.name)
    if not any(each.valid_frames().any() for each in sequences):
        raise DataError("none of the frames to evaluate on is valid")


def _valid_pieces(poses: FloatArray, sequences: Sequence[PoseSequence]) -> list[FloatArray]:
    """The poses of every sequence's valid frames, relative to the pelvis."""
    lengths = [len(each) for each in sequences]
    if len(poses) != sum(lengths):
        raise DataError(f"{len(poses)} poses for {sum(lengths)} frames: one for every frame is needed, valid or not")
    pieces = np.split(_relative(poses), np.cumsum(lengths)[:-1])
    return [piece[each.valid_frames()] for each, piece in zip(sequences, pieces, strict=True)]


def _relative(poses: FloatArray) -> FloatArray:
    return poses - poses[:, MPI_INF_3DHP.root, None]


def _activity(sequence: PoseSequence, activities: Mapping[str, IntArray]) -> IntArray:
    """The activity of every valid frame, 1 to 7, or 0 where it is not known."""
    numbers = activities.get(sequence.subject)
    if numbers is None:
        return np.zeros(int(sequence.valid_frames().sum()), np.int64)
    if numbers.shape != (len(sequence),):
        raise DataError(f"{sequence.name}: {len(numbers)} activities for {len(sequence)} frames")
    return np.where((numbers >= 1) & (numbers <= len(ACTIVITIES)), numbers, 0)[sequence.valid_frames()]


def _by_name(
    found: FloatArray, true: FloatArray, names: np.ndarray, order: Sequence[str] | dict[str, None]
) -> dict[str, dict[str, float]]:
    present = {name: names == name for name in order if (names == name).any()}
    return {name: _errors(found[rows], true[rows]) for name, rows in present.items()}


def _errors(found: FloatArray, true: FloatArray) -> dict[str, float]:
    return {
        "mpjpe_mm": float(metrics.mpjpe(found, true).mean()),
        "pck": metrics.pck(found[:, COUNTED], true[:, COUNTED]),
        "auc": metrics.auc(found[:, COUNTED], true[:, COUNTED]),
        "frames": len(true),
    }
