"""Which windows a calibration sees: spread over every action and take, made by the preprocessing of inference."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.datasets.sequences import PoseSequence, check_sequence
from pstmo_edge.errors import DataError
from pstmo_edge.metrics import action_of
from pstmo_edge.windows import WindowSpec, extract_windows

DEFAULT_WINDOWS = 256


def calibration_windows(
    sequences: Sequence[PoseSequence], spec: WindowSpec, count: int = DEFAULT_WINDOWS
) -> FloatArray:
    """`count` windows (N, T, 17, C): the same number from every action, at even distances in its takes.

    Raises DataError where there are no sequences or their keypoints cannot be used.
    """
    if not sequences:
        raise DataError("no sequences to calibrate on")
    groups: dict[str, list[PoseSequence]] = {}
    for sequence in sequences:
        groups.setdefault(action_of(sequence.action), []).append(check_sequence(sequence))
    shares = np.diff(np.linspace(0, count, len(groups) + 1).round().astype(int))
    chosen = [_spread(group, spec, share) for group, share in zip(groups.values(), shares, strict=True) if share]
    return np.concatenate(chosen).astype(np.float32)


def windows_key(windows: FloatArray) -> str:
    """SHA-256 of the windows: says whether two calibrations saw the same data."""
    return hashlib.sha256(np.ascontiguousarray(windows, "<f4").tobytes()).hexdigest()


def _spread(group: Sequence[PoseSequence], spec: WindowSpec, count: int) -> FloatArray:
    """`count` windows at even distances along the sequences of one action, laid end to end."""
    ends = np.cumsum([len(sequence) for sequence in group])
    positions = ((np.arange(count) + 0.5) * ends[-1] / count).astype(int)
    owners = np.searchsorted(ends, positions, side="right")
    windows = [
        extract_windows(
            group[owner].inputs(spec.channels), np.array([position - (ends[owner] - len(group[owner]))]), spec
        )
        for owner, position in zip(owners, positions, strict=True)
    ]
    return np.concatenate(windows)
