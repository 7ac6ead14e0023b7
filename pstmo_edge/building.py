"""From a model to a bundle whose error in millimetres has been measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pstmo_edge._version import __version__
from pstmo_edge.backends import CALIBRATED, check_lifter, get_backend, require
from pstmo_edge.bundle import (
    Accuracy,
    BackendSpec,
    Bundle,
    Calibration,
    EmittedFrames,
    Errors,
    InputSpec,
    Manifest,
    ModelSpec,
    OutputSpec,
    PrecisionSpec,
    TargetSpec,
    write_bundle,
)
from pstmo_edge.datasets import cmu_mocap, load_sequences
from pstmo_edge.datasets.sequences import PoseSequence, check_skeleton
from pstmo_edge.errors import AccuracyError, UsageError
from pstmo_edge.evaluation import Evaluation, Predict, jitter_mm, lookahead_errors
from pstmo_edge.manifest import LookaheadError
from pstmo_edge.preparing import (
    DEFAULT_MAX_DROP_MM,
    DEFAULT_MAX_JITTER_PERCENT,
    CalibrationWindows,
    Prepared,
    Progress,
    Request,
    calibration_of,
    check_request,
    measured,
    prepare,
)
from pstmo_edge.skeletons import get_skeleton

if TYPE_CHECKING:
    from torch import nn

    from pstmo_edge.builders import Builder, Built
    from pstmo_edge.calib.plan import Plan, Quantized

_ATTEMPTS = 5  # mixes that are built, each within tighter bounds than the one that exceeded them


def build(
    model: nn.Module,
    precision: str = "int8",
    backend: str = "onnxruntime",
    calibration: Sequence[PoseSequence] | None = None,
    out: str | os.PathLike[str] = "engine",
    *,
    target: str = "auto",
    max_drop_mm: float = DEFAULT_MAX_DROP_MM,
    held_out: Sequence[PoseSequence] | None = None,
    data: str = cmu_mocap.NAME,
    keypoints: str = "gt",
    force: bool = False,
    prepared: Prepared | None = None,
    report: str | os.PathLike[str] | None = None,
    max_jitter_percent: float | None = DEFAULT_MAX_JITTER_PERCENT,
    progress: Progress = lambda text, done, total: None,
) -> Bundle:
    """Build an engine from a model of the zoo, measure it on held-out motion, and write its bundle.

    `calibration` are sequences for the ranges of INT8 and `held_out` those the error is measured on: by default the
    training split of `data` and one camera a take of its test split. The build fails with AccuracyError if the engine's
    MPJPE exceeds the model's by more than `max_drop_mm` and no layers left in float mend it. An INT8 engine's jitter,
    with a detector's keypoints, may exceed the model's by no more than `max_jitter_percent` (None: by anything):
    layers that tremble get 16-bit activations where the backend has them, or stay in float. `prepared` saves the
    export and the model's own measurement where several engines are built. `report` is a folder for what INT8 does to
    the error by layer, joint and action. Raises UsageError, BackendError, DataError, BundleError.
    """
    request = check_request(
        precision, backend, out, target=target, max_drop_mm=max_drop_mm, force=force,
        max_jitter_percent=max_jitter_percent,
    )  # fmt: skip
    check_lifter(backend, model.lifter)
    used = None
    if request.precision in CALIBRATED:
        source = f"{data}, training split, {keypoints} keypoints" if calibration is None else "sequences of the caller"
        sequences = calibration or load_sequences(data, "train", keypoints, model.lifter.skeleton)
        check_skeleton(sequences, model.lifter.skeleton, source)
        used = calibration_of(sequences, model.lifter.window, source, exact=keypoints == "gt" and calibration is None)
    if report is not None and request.precision != "int8":
        raise UsageError(f"--report is of INT8: a {precision} engine has none")
    if prepared is None:
        prepared = prepare(model, data, keypoints, held_out, progress)
    return _Build(model, request, prepared, used, progress, None if report is None else Path(report)).run()


class _Build:
    """One build on its way."""

    def __init__(
        self,
        model: nn.Module,
        request: Request,
        prepared: Prepared,
        calibration: CalibrationWindows | None,
        progress: Progress,
        report: Path | None = None,
    ) -> None:
        self.model = model
        self.request = request
        self.prepared = prepared
        self.calibration = calibration
        self.window = model.lifter.window
        self.tell = progress
        self.report = report
        self.more_jitter: float | None = None  # than the model's, per cent

    def run(self) -> Bundle:
        """Every step, in order."""
        from pstmo_edge.builders import BUILDERS

        builder = BUILDERS[self.request.backend]()
        method = "none"
        keep_float: tuple[str, ...] = ()
        if self.request.precision not in ("fp32", "int8"):
            built, after, method, keep_float = self._format()
        elif self.calibration is None:
            built = builder.build_float(self.prepared.source)
            after = self._measure(built, "measuring the engine")
            self._check_drop(after)
        else:
            built, after, plan, chosen = self._quantize(builder, self.calibration)
            method, keep_float = plan.settings.describe(), chosen.left_in_float
            if self.report is not None:
                self._write_report(built, plan, chosen)
        self.tell("writing the bundle", 0, 0)
        manifest = self._manifest(built, method, keep_float, after)
        return write_bundle(self.request.out, manifest, built.artifacts, force=self.request.force)

    def _measure(self, built: Built, text: str) -> Evaluation | None:
        if self.prepared.before is None:
            return None
        return measured(built.session.run, self.prepared.held_out, self.window, text, self.tell)

    def _format(self) -> tuple[Built, Evaluation | None, str, tuple[str, ...]]:
        """Another format than fp32 and INT8: as it is, or refused."""
        from pstmo_edge.format_builders import METHODS, build_format, left_in_float

        request, source = self.request, self.prepared.source
        keep_float = left_in_float(request.backend, request.precision, self.model.lifter.ends)
        windows = None if self.calibration is None else self.calibration.windows
        self.tell(f"making the {request.precision} engine", 0, 0)
        built = build_format(request.backend, source, request.precision, windows, keep_float)
        after = self._measure(built, f"measuring the {request.precision} engine")
        self._check_drop(after)
        return built, after, METHODS.get(request.precision, "none"), keep_float

    def _quantize(self, builder: Builder, used: CalibrationWindows) -> tuple[Built, Evaluation | None, Plan, Quantized]:
        """INT8 in the layers that save most time within the limits on the error and the jitter."""
        from pstmo_edge.calib.mixing import Bounds
        from pstmo_edge.calib.plan import make_plan

        source, request = self.prepared.source, self.request
        probes = None if self.prepared.before is None else used.probes
        live = () if request.max_jitter_percent is None else used.live
        plan = make_plan(
            self.model, source.graph, used.windows, request.target, probes, live, self.tell, wide=builder.wide
        )
        bounds, refusal = Bounds(request.max_drop_mm, request.max_jitter_percent), self._nothing_fits()
        for _ in range(_ATTEMPTS):
            mix = plan.mix(bounds, ends_in_float=builder.ends_in_float)
            if not mix.integers:
                break
            quantized = plan.quantized(mix)
            self.tell(f"building the engine, {len(quantized.left_in_float)} layers stay in float", 0, 0)
            built = builder.build_int8(source, quantized.graph)
            after = self._measure(built, "measuring the INT8 engine")
            if too_far := self._drop_refusal(after):
                # Below what the mix spends, so that the next one is another.
                bounds, refusal = replace(bounds, max_drop_mm=min(bounds.max_drop_mm, mix.expected_mm) / 2), too_far
                continue
            jitter, limit = self._more_jitter(built), request.max_jitter_percent
            if jitter is None or limit is None or jitter <= limit:
                self.more_jitter = jitter
                return built, after, plan, quantized
            refusal = self._jitter_refusal(jitter)
            bounds = replace(bounds, max_jitter_percent=(bounds.max_jitter_percent or limit) / 2)
        raise AccuracyError(refusal)

    def _nothing_fits(self) -> str:
        limits = f"the error by more than {self.request.max_drop_mm:g} mm"
        if self.request.max_jitter_percent is not None:
            limits += f" or the jitter by more than {self.request.max_jitter_percent:g} %"
        return (
            f"no layer can run in INT8 without raising {limits}: choose --precision fp32, or raise --max-drop-mm or "
            f"--max-jitter-percent"
        )

    def _more_jitter(self, built: Built) -> float | None:
        """By how many per cent the engine trembles more than the model, with a detector's keypoints."""
        prepared = self.prepared
        if prepared.jitter_mm == 0:
            return None
        self.tell("measuring the INT8 engine's jitter", 0, 0)
        return 100 * (jitter_mm(built.session.run, prepared.live, self.window) / prepared.jitter_mm - 1)

    def _jitter_refusal(self, percent: float) -> str:
        return (
            f"{self.request.precision} on {self.request.backend} raises the jitter by {percent:.1f} %, above the limit "
            f"of {self.request.max_jitter_percent:g}: choose --precision w8a16 or fp32, or raise --max-jitter-percent"
        )

    def _write_report(self, built: Built, plan: Plan, chosen: Quantized) -> None:
        from pstmo_edge.backends.torch import TorchSession
        from pstmo_edge.calib.report import make_report, write_report

        assert self.report is not None
        lifter, request, prepared = self.model.lifter, self.request, self.prepared
        self.tell("measuring the report", 0, 0)
        title = f"{lifter.name}, {lifter.frames} frames: INT8 for {request.target.name} on {request.backend}"
        data = f"{prepared.data}, test split, {prepared.keypoints} keypoints"
        engines = TorchSession(self.model).run, built.session.run
        made = make_report(title, data, plan, chosen, engines, prepared.held_out, prepared.live, self.window)
        write_report(made, self.report, force=request.force)

    def _drop(self, after: Evaluation | None) -> float:
        before = self.prepared.before
        return 0.0 if before is None or after is None else after.mpjpe_mm - before.mpjpe_mm

    def _drop_refusal(self, after: Evaluation | None) -> str | None:
        """Why the engine's error is too large, if it is."""
        drop, before = self._drop(after), self.prepared.before
        if before is None or after is None or drop <= self.request.max_drop_mm:
            return None
        return (
            f"{self.request.precision} on {self.request.backend} raises the error by {drop:.2f} mm (from "
            f"{before.mpjpe_mm:.2f} to {after.mpjpe_mm:.2f}), above the limit of {self.request.max_drop_mm:g}: "
            f"choose --precision fp32 or raise --max-drop-mm"
        )

    def _check_drop(self, after: Evaluation | None) -> None:
        if refusal := self._drop_refusal(after):
            raise AccuracyError(refusal)

    def _manifest(
        self,
        built: Built,
        method: str,
        keep_float: tuple[str, ...],
        after: Evaluation | None,
    ) -> Manifest:
        request, lifter = self.request, self.model.lifter
        versions = require(request.backend, building=True)
        # An older runtime may lack an operator or a fix that the measured error relies on.
        needed = {name: ">=" + version.split("+")[0] for name, version in versions.items()}
        if request.backend == "tensorrt":
            versions, needed = {"tensorrt": "10.3 to 11"}, {"tensorrt": ">=10.3"}  # which one `compile` will tell
        quantized, used = request.precision == "int8", self.calibration
        return Manifest(
            pstmo_edge_version=__version__,
            input=InputSpec(
                skeleton=lifter.skeleton,
                joints=get_skeleton(lifter.skeleton).joints,
                channels=lifter.channels,
                frames=lifter.frames,
                t_downsample=lifter.t_downsample,
                frame_rate=lifter.frame_rate,
                target_index=self.window.target,
                lookahead_frames=lifter.frames - 1 - self.window.target,
            ),
            output=OutputSpec(
                skeleton=lifter.pose_skeleton,
                joints=get_skeleton(lifter.pose_skeleton).joints,
                frames=None
                if lifter.emitted is None
                else EmittedFrames(first=lifter.emitted[0], count=lifter.emitted[1]),
            ),
            model=ModelSpec(
                name=lifter.name,
                config=_plain(self.model.config),
                parameters=sum(parameter.numel() for parameter in self.model.parameters()),
                weights_sha256=lifter.weights_sha256,
            ),
            precision=PrecisionSpec(requested=request.precision, layers=built.layers, left_in_float=keep_float),
            target=TargetSpec(
                name=request.target.name if quantized else "generic",
                weight_bits=request.target.weight_bits if quantized else 32,
                # The native engine's sums are exact on every CPU, whatever its weights.
                requires=tuple(sorted(request.target.requires)) if quantized and request.backend != "native" else (),
            ),
            backend=BackendSpec(
                name=request.backend,
                version=versions[get_backend(request.backend).packages[0]],
                versions=needed,
            ),
            calibration=None
            if used is None
            else Calibration(method=method, windows=len(used.windows), key=used.key, source=used.source),
            accuracy=self._accuracy(after, built.session.run),
        )

    def _measured_with(self) -> str:
        """What computed the error, where it was not the runtime of the bundle."""
        built_with = get_backend(self.request.backend).built_with
        return f", the graph in {built_with[0]}" if built_with else ""

    def _accuracy(self, after: Evaluation | None, predict: Predict) -> Accuracy | None:
        prepared = self.prepared
        if prepared.before is None or after is None:
            return None
        return Accuracy(
            data=f"{prepared.data}, test split, {after.windows} windows{_each(after)}{self._measured_with()}",
            keypoints=prepared.keypoints,
            before=_errors(prepared.before),
            after=_errors(after),
            max_drop_mm=self.request.max_drop_mm,
            jitter_percent=self.more_jitter,
            max_jitter_percent=None if self.more_jitter is None else self.request.max_jitter_percent,
            lookahead=self._lookahead(predict),
        )

    def _lookahead(self, predict: Predict) -> tuple[LookaheadError, ...]:
        """The error by how many frames a stream waits for; nothing for windows that emit many poses."""
        most = self.window.frames - 1 - self.window.target
        if self.window.emitted is not None or not self.prepared.live:
            return ()
        self.tell("measuring what a shorter look-ahead costs", 0, 0)
        asked = sorted({0, min(1, most), *(round(most * share) for share in (0.125, 0.25, 0.5)), most})
        found = lookahead_errors(predict, self.prepared.live, self.window, asked)
        return tuple(LookaheadError(frames=frames, mpjpe_mm=error) for frames, error in found.items())


def _each(found: Evaluation) -> str:
    """What an account of windows adds where they are not as many as the frames."""
    return "" if found.frames == found.windows else f" for {found.frames} frames"


def _errors(found: Evaluation) -> Errors:
    return Errors(mpjpe_mm=found.mpjpe_mm, p_mpjpe_mm=found.p_mpjpe_mm, mpjve_mm=found.mpjve_mm)


def _plain(config: Any) -> dict[str, Any]:
    """A model's settings as plain values."""
    return dict(vars(config))
