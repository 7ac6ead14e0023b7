"""What a build stands on: its request checked, the model exported and measured, the windows to calibrate on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pstmo_edge.arrays import FloatArray
from pstmo_edge.backends import as_precision, get_backend, require
from pstmo_edge.bundle import Precision
from pstmo_edge.datasets import cmu_mocap, load_sequences, one_camera_a_take
from pstmo_edge.datasets.sequences import PoseSequence, check_skeleton
from pstmo_edge.errors import BackendError, DataError, UsageError
from pstmo_edge.evaluation import Evaluation, Predict, evaluate, jitter_mm
from pstmo_edge.targets import Target, resolve_target, runs_here
from pstmo_edge.windows import WindowSpec

if TYPE_CHECKING:
    from torch import nn

    from pstmo_edge.builders import Source

DEFAULT_MAX_DROP_MM = 1.0
DEFAULT_MAX_JITTER_PERCENT = 2.0  # more than that would be seen as trembling

# Told what is being done: a sentence, and how many steps it has (0: unknown) or has taken.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Request:
    """What was asked for, checked before any work is done."""

    precision: Precision
    backend: str
    out: Path
    target: Target
    max_drop_mm: float
    force: bool
    max_jitter_percent: float | None = DEFAULT_MAX_JITTER_PERCENT

    def __post_init__(self) -> None:
        """Refuse what cannot work, before minutes are spent on it."""
        get_backend(self.backend, self.precision)
        require(self.backend, building=True)
        if self.precision == "int8" and self.backend != "native" and not runs_here(self.target):
            raise BackendError(
                f"an engine for {self.target.name} cannot be measured on this CPU, where its "
                f"{self.target.weight_bits}-bit weights would overflow: build it on such a CPU, or give --target auto"
            )
        if self.out.exists() and not self.force:
            raise UsageError(f"{self.out} exists: give another --out, or --force to replace it")
        if not self.max_drop_mm >= 0:
            raise UsageError(f"--max-drop-mm is {self.max_drop_mm}: it must be 0 or more")
        if self.max_jitter_percent is not None and not self.max_jitter_percent >= 0:
            raise UsageError(f"--max-jitter-percent is {self.max_jitter_percent}: it must be 0 or more")


def check_request(
    precision: str,
    backend: str,
    out: str | os.PathLike[str],
    *,
    target: str = "auto",
    max_drop_mm: float = DEFAULT_MAX_DROP_MM,
    force: bool = False,
    max_jitter_percent: float | None = DEFAULT_MAX_JITTER_PERCENT,
) -> Request:
    """What `build` is asked for, checked without loading anything; raises UsageError and BackendError."""
    chosen = as_precision(precision)
    target = "tensorrt" if backend == "tensorrt" and target == "auto" else target
    return Request(chosen, backend, Path(out), resolve_target(target), max_drop_mm, force, max_jitter_percent)


@dataclass(frozen=True)
class Prepared:
    """A model's graph and the error of the model itself: the same for every backend and precision.

    Without `before` nothing is measured and nothing gated: the weights mean nothing, and only speed is of interest.
    `live` is held-out motion as a detector sees it and `jitter_mm` the model's acceleration error there: with exact
    keypoints a model's own trembling is smaller than any camera will show.
    """

    source: Source
    held_out: Sequence[PoseSequence]
    before: Evaluation | None
    data: str
    keypoints: str
    live: Sequence[PoseSequence] = ()
    jitter_mm: float = 0.0


def prepare(
    model: nn.Module,
    data: str = cmu_mocap.NAME,
    keypoints: str = "gt",
    held_out: Sequence[PoseSequence] | None = None,
    progress: Progress = lambda text, done, total: None,
) -> Prepared:
    """Export a model, check the graph, and measure the model on held-out motion; raises UsageError and DataError."""
    from pstmo_edge.backends.torch import TorchSession

    live = held_out
    if held_out is None:
        skeleton = model.lifter.skeleton
        held_out = one_camera_a_take(load_sequences(data, "test", keypoints, skeleton))
        if any(sequence.poses is None for sequence in held_out):
            # One's own keypoints are good to calibrate on; the error is measured where the truth is known.
            held_out, data = one_camera_a_take(load_sequences(skeleton=skeleton)), cmu_mocap.NAME
        live = one_camera_a_take(_as_detected("test", skeleton)) if keypoints == "gt" else held_out
    assert live is not None
    check_skeleton(held_out, model.lifter.skeleton, data)
    for sequence in held_out:
        sequence.true_poses()
    source = _exported(model, progress)
    run = TorchSession(model).run
    before = measured(run, held_out, model.lifter.window, "measuring the fp32 model", progress)
    progress("measuring the fp32 model's jitter", 0, 0)
    jitter = jitter_mm(run, live, model.lifter.window)
    return Prepared(source, held_out, before, data, keypoints, live, jitter)


def _as_detected(split: str, skeleton: str) -> tuple[PoseSequence, ...]:
    """The bundled motion as a detector sees it, which is what an engine will meet."""
    return load_sequences(split=split, keypoints="detected", skeleton=skeleton)


def prepare_unmeasured(model: nn.Module, progress: Progress = lambda text, done, total: None) -> Prepared:
    """Export a model whose weights mean nothing: its engines have no error to gate, and their manifests say none."""
    return Prepared(_exported(model, progress), (), None, "", "")


def _exported(model: nn.Module, progress: Progress) -> Source:
    from pstmo_edge.builders import Source
    from pstmo_edge.export import export_onnx, exportable

    progress("exporting the graph and checking it against the model", 0, 0)
    return Source(model, export_onnx(exportable(model)))


def check_calibration(model: nn.Module, data: str, keypoints: str) -> None:
    """Raise DataError or UsageError for calibration data that cannot be used, before anything is measured."""
    sequences = load_sequences(data, "train", keypoints, model.lifter.skeleton)
    check_skeleton(sequences, model.lifter.skeleton, data)
    _check_length(sequences, model.lifter.window)


def _check_length(sequences: Sequence[PoseSequence], window: WindowSpec) -> None:
    frames = sum(len(sequence) for sequence in sequences)
    if frames < window.frames:
        raise DataError(
            f"the calibration data has {frames} frames, fewer than one window of {window.frames}: "
            f"give more with --calib"
        )


@dataclass(frozen=True)
class CalibrationWindows:
    """What INT8 is calibrated on."""

    windows: FloatArray
    key: str
    source: str
    probes: Sequence[PoseSequence]  # motion with true poses, on which the cost of every layer is measured
    live: Sequence[PoseSequence]  # the same as a detector sees it


def calibration_of(
    sequences: Sequence[PoseSequence], window: WindowSpec, source: str, *, exact: bool
) -> CalibrationWindows:
    """Windows of these sequences, and motion with true poses; `exact` keypoints are seen as a detector would, too."""
    from pstmo_edge.calib.windows import calibration_windows, windows_key

    _check_length(sequences, window)
    windows, skeleton = calibration_windows(sequences, window), sequences[0].skeleton
    probes = live = sequences
    if any(sequence.poses is None for sequence in sequences):
        probes, exact = load_sequences(split="train", skeleton=skeleton), True
    if exact:
        live = _as_detected("train", skeleton)
    return CalibrationWindows(windows, windows_key(windows), source, probes, live)


def measured(
    predict: Predict, sequences: Sequence[PoseSequence], window: WindowSpec, text: str, tell: Progress
) -> Evaluation:
    """`evaluate`, telling how far it is."""
    total, done = sum(map(len, sequences)), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        tell(text, done, total)

    return evaluate(predict, sequences, window, advance=advance)
