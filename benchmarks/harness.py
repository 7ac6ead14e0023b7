"""From a list of engines to a report: open or build each, check it, time those that passed, recommend one."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pstmo_edge import metrics
from pstmo_edge.arrays import FloatArray
from pstmo_edge.benchmarks import moments, provenance
from pstmo_edge.benchmarks.cases import (
    UNKNOWN,
    BuildCase,
    BundleCase,
    Case,
    default_cases,
    described,
    empty_row,
    runtime_installed,
)
from pstmo_edge.benchmarks.checks import HeldOut, check_output, errors_mm, held_out, predict
from pstmo_edge.benchmarks.provenance import Settings
from pstmo_edge.benchmarks.references import References
from pstmo_edge.benchmarks.report import Report, refuse_existing, write_report
from pstmo_edge.benchmarks.rows import Row, recommend, summary
from pstmo_edge.benchmarks.timing import Latency, time_interleaved
from pstmo_edge.datasets.sequences import PoseSequence
from pstmo_edge.errors import PstmoEdgeError
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


def run_default(
    model: Any,
    out: str | os.PathLike[str],
    force: bool = False,
    *,
    settings: Settings | None = None,
    bundles: Sequence[str | os.PathLike[str]] = (),
    work: str | os.PathLike[str] | None = None,
    build_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Measure torch fp32 and fp32 and int8 of every CPU runtime, and write the report folder `out`.

    `bundles` are engines that exist already: they are measured too, and those made of this model's weights stand in
    for the ones that would be built. The rest follows `run` and `write_report`, with the errors they raise.
    """
    refuse_existing(out, force)
    cases = default_cases(model, bundles)
    report = run(cases, settings=settings, work=work, build_options=build_options, progress=progress)
    write_report(report, out, force)
    return report


def run(
    cases: Sequence[Case],
    *,
    settings: Settings | None = None,
    sequences: Sequence[PoseSequence] | None = None,
    work: str | os.PathLike[str] | None = None,
    build_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Report:
    """One row for every case, in order; what fails or is not installed becomes a row with its reason.

    `sequences` are held-out motion with true poses (default: the test split of the bundled motion). Engines are
    built into `work`, which stays, or else into a temporary folder; `build_options` go to `pstmo_edge.building`.
    """
    settings = settings or Settings()
    tell = progress or (lambda text, done, total: None)
    with ExitStack() as stack:
        folder = Path(work) if work is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = _Bench(settings, sequences, folder, build_options or {}, tell)
        for case in cases:
            bench.add_reference(case)
        prepared = _without_needless_names([bench.prepare(case) for case in cases])
        before = provenance.collect(settings)
        rows = recommend(_timed(prepared, settings, tell), settings.max_drop_mm)
    return _report(prepared, rows, before, settings)


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
        self.prepared: dict[str, Any] = {}  # by the digest of the weights
        self.held_out: dict[tuple[str, WindowSpec], HeldOut] = {}

    def add_reference(self, case: Case) -> None:
        """Remember the torch model of a case for all bundles made of its weights."""
        if isinstance(case, BuildCase):
            self.references.add(case.model)

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
        except Exception as error:  # one engine's trouble is one row
            missing = not runtime_installed(case, row.backend)
            return _Prepared(replace(row, status="missing" if missing else "failed", reason=one_line(error)))
        accuracy = engine.manifest.accuracy
        where = f"{accuracy.data}, {accuracy.keypoints} keypoints" if accuracy else ""
        return _Prepared(replace(row, checked=checked), engine, data, poses, where)

    def _open(self, case: Case) -> Engine:
        from pstmo_edge.engine import load_engine

        path = case.path if isinstance(case, BundleCase) else self._build(case)
        return load_engine(path, threads=self.settings.threads)

    def _build(self, case: BuildCase) -> Path:
        from pstmo_edge.building import build, check_request

        def tell(text: str, done: int, total: int) -> None:
            self.tell(f"{case.backend} {case.precision}: {text}", done, total)

        lifter = case.model.lifter
        out = self.work / f"{lifter.name}-{lifter.frames}-{case.backend}-{case.precision}"
        tell("building", 0, 0)
        check_request(case.precision, case.backend, out, force=True)  # a missing runtime shows before any work is done
        options = {"max_drop_mm": self.settings.max_drop_mm, **self.build_options}
        prepared = self._prepared(case.model, tell)
        build(
            case.model, case.precision, case.backend, out=out, force=True, prepared=prepared, progress=tell, **options
        )
        return out

    def _prepared(self, model: Any, tell: Progress) -> Any:
        """The model's graph and its own error, made once for all its engines."""
        from pstmo_edge.building import prepare

        digest = model.lifter.weights_sha256
        if digest not in self.prepared:
            known = {name: self.build_options[name] for name in _PREPARING & self.build_options.keys()}
            self.prepared[digest] = prepare(model, progress=tell, **{"keypoints": self.settings.keypoints, **known})
        return self.prepared[digest]

    def _data(self, skeleton: str, spec: WindowSpec) -> HeldOut:
        if skeleton not in self.sequences:
            from pstmo_edge.datasets import load_sequences

            self.sequences[skeleton] = load_sequences(
                split="test", keypoints=self.settings.keypoints, skeleton=skeleton
            )
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
    kinds = Counter((item.row.backend, item.row.precision) for item in prepared)
    return [
        item
        if item.row.backend == UNKNOWN or kinds[item.row.backend, item.row.precision] > 1
        else replace(item, row=replace(item.row, name=""))
        for item in prepared
    ]


def _timed(prepared: Sequence[_Prepared], settings: Settings, tell: Progress) -> list[Row]:
    """All rows; those whose output passed the check with their times."""
    streams = {
        number: (item.engine.infer, item.data.singles(settings.timing_windows))
        for number, item in enumerate(prepared)
        if item.engine is not None and item.data is not None
    }
    text = f"timing {len(streams)} engines in turns"
    found = time_interleaved(streams, settings.timing, advance=lambda share: tell(text, round(100 * share), 100))
    return [_with_latency(item.row, found.get(number)) for number, item in enumerate(prepared)]


def _with_latency(row: Row, latency: Latency | Exception | None) -> Row:
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
        poses_per_s=latency.fps * row.batch,
    )


def _report(
    prepared: Sequence[_Prepared], rows: tuple[Row, ...], found: Mapping[str, Any], settings: Settings
) -> Report:
    best = next((item for item, row in zip(prepared, rows, strict=True) if row.recommended), None)
    shown = best or next((item for item in prepared if item.poses is not None), None)
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
        shown=shown.row.title,
        moments=moments.choose(shown.poses, shown.data),
        actions=_actions(shown.poses, shown.data),
    )


def _actions(poses: FloatArray, data: HeldOut) -> dict[str, dict[str, float]]:
    by_action = metrics.per_action(errors_mm(poses, data), data.actions)
    counts = dict(zip(*np.unique(np.array(data.actions), return_counts=True), strict=True))
    return {name: {"mpjpe_mm": error, "windows": int(counts[name])} for name, error in by_action.items()}
