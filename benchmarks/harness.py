"""From a list of engines to a report: open or build each, check it, time those that passed, recommend one.

The engines of one model are a group: they are timed in turns, and a finished group is kept, so that an interrupted run
goes on where it was.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pstmo_edge import metrics
from pstmo_edge.arrays import FloatArray
from pstmo_edge.benchmarks import cost, moments, provenance
from pstmo_edge.benchmarks.cases import (
    UNKNOWN,
    BuildCase,
    BundleCase,
    Case,
    described,
    empty_row,
    runtime_installed,
)
from pstmo_edge.benchmarks.checks import HeldOut, check_output, errors_mm, held_out, predict
from pstmo_edge.benchmarks.devices import PowerMeter, read_device, throttled
from pstmo_edge.benchmarks.picture import full_title
from pstmo_edge.benchmarks.provenance import Settings
from pstmo_edge.benchmarks.references import References
from pstmo_edge.benchmarks.report import Report, refuse_existing, write_report
from pstmo_edge.benchmarks.rows import Row, recommend, summary
from pstmo_edge.benchmarks.timing import Infer, Latency, best_batch, time_interleaved
from pstmo_edge.benchmarks.unfinished import Unfinished
from pstmo_edge.datasets import one_camera_a_take
from pstmo_edge.datasets.sequences import PoseSequence
from pstmo_edge.errors import PstmoEdgeError
from pstmo_edge.evaluation import evaluate
from pstmo_edge.skeletons import get_skeleton, mirrored
from pstmo_edge.windows import WindowSpec

if TYPE_CHECKING:
    from pstmo_edge.engine import Engine

# Told what is being done, and how many of how many steps are done (0 of 0: unknown); the same as that of `build`.
Progress: TypeAlias = Callable[[str, int, int], None]

_LONGEST_REASON = 400
_PREPARING = {"data", "held_out", "keypoints"}  # those of build's options that concern the model alone


@dataclass(frozen=True)
class _Prepared:
    """A row without times; `engine`, `data` and `poses` (of that data) only where its output passed the check."""

    row: Row
    engine: Engine | None = None
    data: HeldOut | None = None
    poses: FloatArray | None = None
    accuracy_data: str = ""


def run_report(
    cases: Sequence[Case],
    out: str | os.PathLike[str],
    force: bool = False,
    *,
    settings: Settings | None = None,
    work: str | os.PathLike[str] | None = None,
    build_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Measure the cases, and write the report folder `out`; follows `run` and `write_report`, errors and all.

    An interrupted run leaves `out`.unfinished.json with the groups it has measured. The same run started again, by the
    same version on the same machine, goes on from there.
    """
    refuse_existing(out, force)
    unfinished = Path(f"{os.fspath(out).rstrip('/')}.unfinished.json")
    report = run(
        cases, settings=settings, work=work, build_options=build_options, progress=progress, unfinished=unfinished
    )
    write_report(report, out, force)
    unfinished.unlink(missing_ok=True)
    return report


def run(
    cases: Sequence[Case],
    *,
    settings: Settings | None = None,
    sequences: Sequence[PoseSequence] | None = None,
    work: str | os.PathLike[str] | None = None,
    build_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    unfinished: Path | None = None,
) -> Report:
    """One row for every case, in order; what fails or is not installed becomes a row with its reason.

    `sequences` are held-out motion with true poses (default: the test split of the settings' data). Engines are
    built into `work`, which stays, or else into a temporary folder; `build_options` go to `pstmo_edge.building`.
    `unfinished` keeps finished groups.
    """
    settings = settings or Settings()
    tell = progress or (lambda text, done, total: None)
    groups = _groups(cases)
    with ExitStack() as stack:
        folder = Path(work) if work is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = _Bench(settings, sequences, folder, build_options or {}, tell)
        for case in cases:
            bench.add_reference(case)
        before, device = provenance.collect(settings), read_device()
        kept = Unfinished(unfinished, before, list(groups))
        done: dict[int, _Prepared] = {}
        for name, numbers in groups.items():
            if (finished := kept.rows(name)) is None:
                measured = bench.measure([cases[number] for number in numbers])
                kept.keep(name, [(item.row, item.accuracy_data) for item in measured])
            else:
                tell(f"{name}: measured before the interruption", 0, 0)
                measured = [_Prepared(row, accuracy_data=data) for row, data in finished]
            done.update(zip(numbers, measured, strict=True))
        if device is not None and (after := read_device()) is not None:
            before["throttled"] = list(throttled(device, after))
    prepared = _without_needless_names([done[number] for number in range(len(cases))])
    several = len(groups) > 1
    rows = tuple(item.row for item in prepared)
    marked = rows if several else recommend(rows, settings.max_drop_mm)
    return _report(prepared, marked, before, settings)


def _groups(cases: Sequence[Case]) -> dict[str, list[int]]:
    """The numbers of the cases by the model they are of; bundles join a model where there is but one."""
    names = [_model_name(case) if isinstance(case, BuildCase) else "engines" for case in cases]
    several = len(set(names) - {"engines"}) > 1
    groups: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        groups.setdefault(name if several else "engines", []).append(number)
    return groups


def _model_name(case: BuildCase) -> str:
    lifter = case.model.lifter
    return f"{lifter.name}-{lifter.frames}-{lifter.weights_sha256[:8]}"


class _Bench:
    """Opens and checks engines; held-out windows and the torch models' poses are computed once for each kind."""

    def __init__(
        self,
        settings: Settings,
        sequences: Sequence[PoseSequence] | None,
        work: Path,
        build_options: Mapping[str, Any],
        tell: Progress,
    ) -> None:
        self.settings = settings
        self.sequences: dict[str, Sequence[PoseSequence]] = (
            {sequences[0].skeleton: sequences} if sequences else {}  # by their joint set
        )
        self.work = work
        self.build_options = build_options
        self.tell = tell
        self.references = References()
        self.prepared: dict[tuple[str, Any], Any] = {}  # by the digest of the weights and the frames they emit
        self.held_out: dict[tuple[str, WindowSpec], HeldOut] = {}

    def add_reference(self, case: Case) -> None:
        """Remember the torch model of a case for all bundles made of its weights."""
        if isinstance(case, BuildCase):
            self.references.add(case.model)

    def measure(self, cases: Sequence[Case]) -> list[_Prepared]:
        """The rows of a group with their times; the engines are closed after it."""
        prepared = [self.prepare(case) for case in cases]
        speed = cost.matrix_gflops()
        rows = _timed(prepared, self.settings, self.tell)
        return [
            replace(item, row=_with_share(row, speed, self.settings.flip), engine=None)
            for item, row in zip(prepared, rows, strict=True)
        ]

    def prepare(self, case: Case) -> _Prepared:
        """The case's row without times, checked; never raises but for an interrupt."""
        row = empty_row(case)
        try:
            engine = self._open(case)
            row = described(row, engine.manifest)
            data = self._data(engine.manifest.input.skeleton, engine.spec)
            self.tell(f"checking {row.title}", 0, 0)
            poses = predict(engine.infer, data.windows)
            reference = self.references.poses(engine.manifest, data)
            checked = check_output(poses, reference, data, engine.manifest, self.settings.max_drop_mm)
            if self.settings.flip:
                row = self._flipped(row, engine)
            row = replace(row, mflop=_mflop(engine))
        except Exception as error:  # one engine's trouble is one row
            missing = not runtime_installed(row.backend)
            return _Prepared(replace(row, status="missing" if missing else "failed", reason=one_line(error)))
        accuracy = engine.manifest.accuracy
        where = f"{accuracy.data}, {accuracy.keypoints} keypoints" if accuracy else ""
        return _Prepared(replace(row, checked=checked), engine, data, data.by_frame(poses), where)

    def _flipped(self, row: Row, engine: Engine) -> Row:
        """The row with the errors of averaged poses, of the engine and of its torch model."""
        if row.mpjpe_mm is None:
            return row
        self.tell(f"measuring {row.title} with mirroring", 0, 0)
        sequences = one_camera_a_take(tuple(self.sequences[engine.manifest.input.skeleton]))
        found = evaluate(engine.infer, sequences, engine.spec, flip=True)
        before = self.references.flipped(engine.manifest, sequences, engine.spec)
        change = None if before is None else found.mpjpe_mm - before.mpjpe_mm
        return replace(row, mpjpe_mm=found.mpjpe_mm, p_mpjpe_mm=found.p_mpjpe_mm, change_mm=change)

    def _open(self, case: Case) -> Engine:
        from pstmo_edge.engine import load_engine

        path = case.path if isinstance(case, BundleCase) else self._build(case)
        return load_engine(path, threads=self.settings.threads)

    def _build(self, case: BuildCase) -> Path:
        from pstmo_edge.building import build
        from pstmo_edge.preparing import check_request

        def tell(text: str, done: int, total: int) -> None:
            self.tell(f"{case.backend} {case.precision}: {text}", done, total)

        lifter = case.model.lifter
        each = "" if lifter.emitted is None else f"-{lifter.emitted[1]}"
        out = self.work / f"{lifter.name}-{lifter.frames}{each}-{case.backend}-{case.precision}"
        tell("building", 0, 0)
        check_request(case.precision, case.backend, out, force=True)  # a missing runtime shows before any work is done
        options = {
            "max_drop_mm": self.settings.max_drop_mm,
            "data": self.settings.data,
            "keypoints": self.settings.keypoints,
            **self.build_options,
        }
        if case.backend != "native":
            # Without kernels for 16-bit activations a bound on the jitter leaves layers in float: the ready runtimes
            # are measured at their fastest.
            options["max_jitter_percent"] = None
        prepared = self._prepared(case.model, tell)
        build(
            case.model, case.precision, case.backend, out=out, force=True, prepared=prepared, progress=tell, **options
        )
        return out

    def _prepared(self, model: Any, tell: Progress) -> Any:
        """The model's graph and its own error, made once for all its engines."""
        from pstmo_edge.preparing import prepare, prepare_unmeasured

        key = model.lifter.weights_sha256, model.lifter.emitted
        if key not in self.prepared and model.lifter.weights == "random":
            self.prepared[key] = prepare_unmeasured(model, tell)
        if key not in self.prepared:
            known = {name: self.build_options[name] for name in _PREPARING & self.build_options.keys()}
            self.prepared[key] = prepare(
                model, progress=tell, **{"keypoints": self.settings.keypoints, "data": self.settings.data, **known}
            )
        return self.prepared[key]

    def _data(self, skeleton: str, spec: WindowSpec) -> HeldOut:
        if skeleton not in self.sequences:
            from pstmo_edge.datasets import load_sequences

            self.sequences[skeleton] = load_sequences(self.settings.data, "test", self.settings.keypoints, skeleton)
        key = skeleton, spec
        if key not in self.held_out:
            self.held_out[key] = held_out(self.sequences[skeleton], spec, self.settings.check_windows)
        return self.held_out[key]


def one_line(error: Exception) -> str:
    """An error as one line of bounded length; ours say all by themselves, others need their type."""
    text = " ".join(str(error).split())
    if not isinstance(error, PstmoEdgeError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 1] + "…"


def _without_needless_names(prepared: Sequence[_Prepared]) -> list[_Prepared]:
    """A bundle's name is kept only where backend and precision do not tell the rows apart."""
    kinds = Counter(_kind(item.row) for item in prepared)
    return [
        item
        if item.row.backend == UNKNOWN or kinds[_kind(item.row)] > 1
        else replace(item, row=replace(item.row, name=""))
        for item in prepared
    ]


def _kind(row: Row) -> tuple[str, str, int]:
    return row.backend, row.precision, row.emitted


def _timed(prepared: Sequence[_Prepared], settings: Settings, tell: Progress) -> list[Row]:
    """All rows; those whose output passed the check with their times."""
    streams: dict[int, tuple[Infer, Sequence[FloatArray]]] = {}
    sizes: dict[int, int] = {}
    found: dict[int, Latency | Exception] = {}
    for number, item in enumerate(prepared):
        if item.engine is None or item.data is None:
            continue
        infer, batches = _infer(item.engine, settings), partial(item.data.batches, settings.timing_windows)
        try:
            sizes[number] = _batch_size(infer, batches, item.row, settings, tell)
        except Exception as error:  # its trouble is its row
            found[number] = error
            continue
        streams[number] = infer, batches(sizes[number])
    text = f"timing {len(streams)} engines in turns"
    found |= time_interleaved(streams, settings.timing, advance=lambda share: tell(text, round(100 * share), 100))
    recording = settings.scenario == "offline"
    rows = [
        _with_latency(replace(item.row, batch=sizes.get(number, 1)), found.get(number), recording)
        for number, item in enumerate(prepared)
    ]
    for number, (infer, windows) in streams.items():
        if rows[number].status == "ok":
            rows[number] = _with_power(rows[number], infer, windows)
    return rows


def _with_power(row: Row, infer: Infer, windows: Sequence[FloatArray], seconds: float = 1.0) -> Row:
    """The row with what the device draws while nothing else is measured, and the energy of a pose."""
    with PowerMeter() as meter:
        if not meter.source:
            return row
        poses, start = 0, time.monotonic()
        for window in itertools.cycle(windows):
            infer(window)
            poses += row.poses_a_forward
            if (spent := time.monotonic() - start) >= seconds:
                break
    watts = meter.mean_watts()
    return row if watts is None else replace(row, power_w=watts, energy_mj=1e3 * watts * spent / poses)


def _infer(engine: Engine, settings: Settings) -> Infer:
    """One forward, or with mirroring the two whose mean is the pose."""
    if not settings.flip:
        return engine.infer
    given, wanted = get_skeleton(engine.manifest.input.skeleton), get_skeleton(engine.manifest.output.skeleton)

    def both(windows: FloatArray) -> FloatArray:
        mean: FloatArray = (engine.infer(windows) + mirrored(engine.infer(mirrored(windows, given)), wanted)) / 2
        return mean

    return both


def _batch_size(
    infer: Infer, batches: Callable[[int], Sequence[FloatArray]], row: Row, settings: Settings, tell: Progress
) -> int:
    if settings.scenario == "offline":
        tell(f"looking for the best batch of {row.title}", 0, 0)
        return best_batch(infer, batches)
    return settings.streams if settings.scenario == "multi-stream" else 1


def _mflop(engine: Engine) -> float | None:
    """What a window costs by the model's architecture; None for a model that this version does not know."""
    given = engine.manifest.input
    try:
        return cost.mflop(engine.manifest.model.name, given.frames, given.target_index, engine.manifest.emitted)
    except PstmoEdgeError:
        return None


def _with_share(row: Row, matrix_gflops: float, flip: bool) -> Row:
    """The share of the machine's matrix speed that a row reached, all its forwards counted."""
    if row.mflop is None or row.fps is None:
        return row
    windows_per_s = row.fps * row.batch
    return replace(row, limit_share=row.mflop * windows_per_s * (2 if flip else 1) / 1e3 / matrix_gflops)


def _with_latency(row: Row, latency: Latency | Exception | None, recording: bool) -> Row:
    if latency is None:
        return row
    if isinstance(latency, Exception):
        return replace(row, status="failed", reason=f"failed while it was timed: {one_line(latency)}")
    return replace(
        row,
        p50_ms=latency.p50_ms,
        p90_ms=latency.p90_ms,
        p99_ms=latency.p99_ms,
        fps=latency.fps,
        samples=latency.samples,
        noise=latency.noise,
        jitter_ms=latency.jitter_ms,
        percentiles_ms=latency.percentiles_ms,
        poses_per_s=latency.fps * row.batch * (row.emitted if recording else 1),
    )


def _report(
    prepared: Sequence[_Prepared], rows: tuple[Row, ...], found: Mapping[str, Any], settings: Settings
) -> Report:
    best = next((item for item, row in zip(prepared, rows, strict=True) if row.recommended), None)
    # Poses of random weights show nothing.
    shown = best or next((item for item in prepared if item.poses is not None and not item.row.weights), None)
    checked = [len(item.data.windows) for item in prepared if item.data is not None]
    report = Report(
        rows=rows,
        summary=summary(rows, settings.max_drop_mm, provenance.lacks_vnni(found)),
        data="; ".join(dict.fromkeys(item.accuracy_data for item in prepared if item.accuracy_data)) or "nothing",
        checked_windows=min(checked, default=0),
        provenance=found,
    )
    if shown is None or shown.poses is None or shown.data is None:
        return report
    return replace(
        report,
        shown=full_title(shown.row, rows),
        moments=moments.choose(shown.poses, shown.data),
        actions=_actions(shown.poses, shown.data),
    )


def _actions(poses: FloatArray, data: HeldOut) -> dict[str, dict[str, float]]:
    by_action = metrics.per_action(errors_mm(poses, data), data.actions)
    counts = dict(zip(*np.unique(np.array(data.actions), return_counts=True), strict=True))
    return {name: {"mpjpe_mm": error, "windows": int(counts[name])} for name, error in by_action.items()}
