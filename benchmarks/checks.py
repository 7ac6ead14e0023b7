"""What an engine's output must hold before it may be timed, on real windows it was not built with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pstmo_edge import metrics
from pstmo_edge.arrays import FloatArray
from pstmo_edge.datasets.sequences import PoseSequence
from pstmo_edge.errors import PstmoEdgeError
from pstmo_edge.evaluation import Predict
from pstmo_edge.manifest import Manifest
from pstmo_edge.windows import WindowSource, WindowSpec

SAME = 1e-4  # of the largest output: what fp32 runtimes may differ by
# A good INT8 engine stays within a few millimetres of its float model; a broken one is off by hundreds.
FAR_MM = 10.0
FAR_SHARE = 0.2  # of the poses' size, where weights mean nothing and a millimetre neither
SAMPLING_MM = 1.0  # the check windows are a sample of the frames that the manifest's error was measured on
SAMPLING_SHARE = 0.25  # the same for an error as a whole, which varies more than a difference of two


class CheckError(PstmoEdgeError):
    """An engine whose output is not what its manifest or its float model promises."""


@dataclass(frozen=True)
class HeldOut:
    """Windows (N, T, 17, C) spread evenly over held-out motion, and what is true of the frames they give poses of.

    `keypoints` (M, 17, 2) and `poses` (M, 17, 3) are those of these frames: the N targets, or where a window emits
    `emitted` poses all of them, one window after the other; beyond the end of a sequence its last frame. `names` tells
    where each was seen.
    """

    windows: FloatArray
    keypoints: FloatArray
    poses: FloatArray
    names: tuple[str, ...]
    actions: tuple[str, ...]
    frames_in_all: int
    emitted: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """What an engine's poses must have: (N, 17, 3) or (N, K, 17, 3)."""
        return (len(self.windows), *(() if self.emitted is None else (self.emitted,)), *self.poses.shape[1:])

    def by_frame(self, poses: FloatArray) -> FloatArray:
        """An engine's poses in the order of `poses`, (M, 17, 3)."""
        return poses.reshape(self.poses.shape)

    def batches(self, count: int, size: int = 1) -> list[FloatArray]:
        """About `count` of the windows, evenly spread, in batches (size, T, 17, C), at least one; some may repeat."""
        step = max(1, len(self.windows) // count)
        chosen = np.resize(np.arange(len(self.windows))[::step][:count], max(1, count // size) * size)
        return [np.ascontiguousarray(self.windows[rows]) for rows in np.split(chosen, len(chosen) // size)]


def held_out(sequences: Sequence[PoseSequence], spec: WindowSpec, count: int) -> HeldOut:
    """At most `count` windows, evenly spread over all frames of `sequences`; raises DataError without true poses."""
    source = WindowSource([sequence.inputs(spec.channels) for sequence in sequences], spec)
    poses = np.concatenate([sequence.true_poses() for sequence in sequences])
    owners = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    every = source.targets()
    targets = every[np.unique(np.linspace(0, len(every) - 1, min(count, len(every))).round().astype(np.int64))]
    frames = np.minimum(source.emitted(targets)[0], source.ends[targets][:, None] - 1).ravel()
    return HeldOut(
        windows=np.ascontiguousarray(source.gather(targets)),
        keypoints=source.values[frames, :, :2],
        poses=poses[frames],
        names=tuple(sequences[owner].name for owner in owners[frames]),
        actions=tuple(metrics.action_of(sequences[owner].action) for owner in owners[frames]),
        frames_in_all=len(source),
        emitted=spec.emitted,
    )


def predict(infer: Predict, windows: FloatArray, batch: int = 64) -> FloatArray:
    """The raw poses (N, 17, 3) or (N, K, 17, 3) of windows (N, T, 17, 2), a batch at a time."""
    return np.concatenate([infer(windows[start : start + batch]) for start in range(0, len(windows), batch)])


def errors_mm(poses: FloatArray, data: HeldOut) -> FloatArray:
    """The MPJPE of every frame (M,), millimetres, with the root at the origin as in every evaluation."""
    rooted = poses.copy()
    rooted[:, 0] = 0
    return metrics.mpjpe(rooted, data.poses)


def check_output(
    poses: FloatArray, reference: FloatArray | None, data: HeldOut, manifest: Manifest, max_drop_mm: float
) -> str:
    """What was found right about an engine's poses (`data.shape`), in a few words; raises CheckError.

    `reference` are the fp32 torch model's poses of the same windows, None where that model is not at hand.
    """
    if poses.shape != data.shape:
        raise CheckError(f"wrong output: its poses have shape {poses.shape}, not {data.shape}")
    if not np.isfinite(poses).all():
        raise CheckError(f"wrong output: {np.count_nonzero(~np.isfinite(poses))} values are not finite")
    _check_promise(manifest, max_drop_mm)
    poses, reference = data.by_frame(poses), None if reference is None else data.by_frame(reference)
    if reference is None:
        return _check_error(poses, data, manifest)
    if manifest.precision.requested == "fp32":
        return _check_same(poses, reference)
    if manifest.accuracy is None:
        return _check_like(poses, reference)
    return _check_near(poses, reference, data, max_drop_mm)


def _check_promise(manifest: Manifest, max_drop_mm: float) -> None:
    drop = manifest.accuracy.drop_mm if manifest.accuracy else 0.0
    if drop > max_drop_mm:
        raise CheckError(f"its manifest says it loses {drop:.2f} mm, the limit is {max_drop_mm:g} mm")


def _check_same(poses: FloatArray, reference: FloatArray) -> str:
    difference = float(np.abs(poses - reference).max() / np.abs(reference).max())
    if not difference <= SAME:
        raise CheckError(
            f"wrong output: it differs from the torch model by {difference:.2g} of the largest output, "
            f"{SAME:g} is allowed"
        )
    return f"equal to torch within {difference:.1g} of the largest output"


def _check_like(poses: FloatArray, reference: FloatArray) -> str:
    """For an engine without an error: INT8 of random weights is compared with the float model by shares alone."""
    share = float(metrics.mpjpe(poses, reference).mean() / metrics.mpjpe(reference, np.zeros_like(reference)).mean())
    if not share <= FAR_SHARE:
        raise CheckError(
            f"wrong output: its poses are {share:.0%} of their size from the torch model's on average, "
            f"{FAR_SHARE:.0%} is allowed"
        )
    return f"{share:.1%} of the poses' size from torch on average; random weights, so no error"


def _check_near(poses: FloatArray, reference: FloatArray, data: HeldOut, max_drop_mm: float) -> str:
    distance = float(metrics.mpjpe(poses, reference).mean())
    if not distance <= FAR_MM:
        raise CheckError(
            f"wrong output: on held-out motion its poses are {distance:.1f} mm from the torch model's on average, "
            f"{FAR_MM:g} is allowed; was it calibrated on too little motion?"
        )
    drop = float((errors_mm(poses, data) - errors_mm(reference, data)).mean())
    if not drop <= max_drop_mm + SAMPLING_MM:
        raise CheckError(
            f"it loses {drop:.2f} mm on {len(data.windows)} held-out windows, the limit is {max_drop_mm:g} mm "
            f"and {SAMPLING_MM:g} for the sample"
        )
    return f"{distance:.2f} mm from torch on average, its error {drop:+.2f} mm"


def _check_error(poses: FloatArray, data: HeldOut, manifest: Manifest) -> str:
    if manifest.accuracy is None:
        raise CheckError("its output cannot be checked: no torch model with its weights here, no error in its manifest")
    by_action = metrics.per_action(errors_mm(poses, data), data.actions)
    found = float(np.mean(list(by_action.values())))  # as the manifest's: the mean over actions
    promised = manifest.accuracy.after.mpjpe_mm
    if not abs(found - promised) <= SAMPLING_SHARE * promised:
        raise CheckError(
            f"wrong output: {found:.1f} mm on {len(data.windows)} held-out windows where its manifest promises "
            f"{promised:.1f} mm; was it made for other motion or keypoints?"
        )
    return f"{found:.1f} mm on held-out windows (manifest: {promised:.1f}); its torch model is not at hand"
