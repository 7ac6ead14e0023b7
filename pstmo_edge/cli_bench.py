"""`pstmo-edge bench`: every runtime side by side, and two results compared."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from pstmo_edge import console
from pstmo_edge.cli_options import ENGINE, Data, Force, Json, Keypoints, Threads, print_json
from pstmo_edge.errors import DataError, UsageError


def add_commands(app: typer.Typer) -> None:
    """Register this module's command."""
    app.command()(bench)


def bench(
    engines: Annotated[
        list[str] | None,
        typer.Argument(
            help="Bundles to measure beside the default rows, or models: p-stmo-s-27-causal, poseformer-81."
        ),
    ] = None,
    table: Annotated[
        str | None, typer.Option(help="All models of a table: seed (the published one) or equal-27 (at equal effort).")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="A folder with weights for the table: MODEL-FRAMES.pth, .safetensors or a run.")
    ] = None,
    scenario: Annotated[
        str,
        typer.Option(help="single-stream, multi-stream (--streams windows a forward) or offline (the best batch)."),
    ] = "single-stream",
    streams: Annotated[int, typer.Option(min=1, help="People or cameras at once, of multi-stream.")] = 8,
    flip: Annotated[
        bool, typer.Option("--flip", help="Average with the mirrored window: two forwards a pose.")
    ] = False,
    data: Data = "cmu-mocap",
    keypoints: Keypoints = "gt",
    out: Annotated[Path, typer.Option(help="The folder of the report.")] = Path("report"),
    force: Force = False,
    results: Annotated[
        Path | None, typer.Option(help="Also keep the result there, as DEVICE/WHAT.json: see benchmarks/results.")
    ] = None,
    threads: Threads = None,
    max_drop_mm: Annotated[float, typer.Option(help="How much a recommended engine may raise the MPJPE.")] = 1.0,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare two results (report folders or JSON files) instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure fp32 and int8 on every runtime here, side by side, and write a report.

    An interrupted run goes on when it is started again.

    Example: pstmo-edge bench --table seed --out report --force
    """
    from pstmo_edge.benchmarks import archive, harness, tables
    from pstmo_edge.benchmarks.provenance import Settings

    if compare:
        _compare(engines or [], as_json)
        return
    settings = Settings(
        threads, max_drop_mm, data=data, keypoints=keypoints, scenario=scenario, streams=streams, flip=flip
    )
    if table is not None:
        # Models of 243 frames cost a hundred times those of 27: fewer windows tell as well that an output is right.
        settings = dataclasses.replace(settings, check_windows=128)
    if weights is not None and table is None:
        raise UsageError("--weights is for --table; give a model's own weights to build, and its engine to bench")
    wanted = _bench_cases(engines, table, weights)
    with console.progress_bar() as bar:
        report = harness.run_report(wanted, out, force, settings=settings, progress=bar)
    kept = archive.keep(report, results, _measured(engines, table)) if results is not None else None
    if as_json:
        print_json(report.to_dict())
        return
    tables.render(report, console.stdout)
    console.stdout.print(f"report: {out}/index.html, report.json, fps_vs_mpjpe.png, poses.png", soft_wrap=True)
    if kept is not None:
        console.stdout.print(f"result: {kept}", soft_wrap=True)


def _measured(engines: list[str] | None, table: str | None) -> str:
    """What a result is called: its table, the engines and models that were named, or bench."""
    return table or "-".join(Path(text).name for text in engines or ()) or "bench"


def _bench_cases(engines: list[str] | None, table: str | None, weights: Path | None) -> list[Any]:
    """The bundles and models that were named; without any the default model, beside ./engine where that is there."""
    import pstmo_edge as pe
    from pstmo_edge.benchmarks import cases

    given = engines or ([] if table or not ENGINE.exists() else [str(ENGINE)])
    bundles = [Path(text) for text in given if Path(text).exists()]
    models = [text for text in given if not Path(text).exists()]
    if unlike := [text for text in models if "/" in text]:
        raise DataError(f"no such engine: {unlike[0]}")
    named = [case for text in models for case in cases.model_cases(text)]
    if table is not None:
        return [*cases.table_cases(table, weights), *named, *(cases.BundleCase(path) for path in bundles)]
    if named:
        return [*named, *(cases.BundleCase(path) for path in bundles)]
    return cases.default_cases(pe.load_model(), bundles)


def _compare(paths: list[str], as_json: bool) -> None:
    from pstmo_edge.benchmarks import comparison

    if len(paths) != 2:
        raise UsageError(f"--compare takes two results, {len(paths)} given")
    found = comparison.compare(*(comparison.read_report(Path(path)) for path in paths))
    if as_json:
        print_json(found.to_dict())
        return
    for letter, where in zip("AB", found.where, strict=True):
        console.stdout.print(f"{letter}: {where}", soft_wrap=True, markup=False)
    console.stdout.print(comparison.table(found))
    for letter, titles in zip("AB", found.only, strict=True):
        if titles:
            console.stdout.print(f"only in {letter}: {', '.join(titles)}", soft_wrap=True, markup=False)
    for note in found.notes:
        console.stdout.print(f"note: {note}", soft_wrap=True, markup=False)
