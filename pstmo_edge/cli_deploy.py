"""Commands that come after `build`: lift archives."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pstmo_edge import console
from pstmo_edge.errors import UsageError

Engine = Annotated[Path, typer.Option(help="A bundle; one built with --emit gives many poses a forward.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def add_commands(app: typer.Typer) -> None:
    """Register this module's commands."""
    app.command()(lift)


def lift(
    pattern: Annotated[
        str, typer.Argument(help="A folder of .npz keypoint files, one file, or a quoted pattern: 'archive/**/*.npz'.")
    ],
    out: Annotated[Path, typer.Option(help="The folder of the poses; a run that was stopped goes on in it.")],
    engine: Engine = Path("engine"),
    batch: Annotated[int, typer.Option(min=1, help="Windows a forward.")] = 256,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the runtime, of each worker with --ray (then 1).")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(help="Run on a Ray cluster: its address, auto, or local. Needs the extra ray.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes with --ray; by default all it has.")] = None,
    as_json: Json = False,
) -> None:
    """Lift folders of keypoint files to 3D poses, each file exactly once.

    Example: pstmo-edge lift recordings --engine engine-9 --out poses
    """
    from pstmo_edge import lifting
    from pstmo_edge.engine import load_engine

    if workers is not None and ray is None:
        raise UsageError("--workers is for --ray: without it one process lifts")
    jobs = lifting.find_jobs(pattern, out)
    start, done = time.perf_counter(), 0
    with console.progress_bar() as bar:

        def told(outcome: lifting.Outcome) -> None:
            nonlocal done
            done += 1
            bar("lifting", done, len(jobs))
            if outcome.error:
                console.stderr.print(f"pstmo-edge: not lifted: {outcome.error}", soft_wrap=True, markup=False)

        if ray is None:
            summary = lifting.lift(load_engine(engine, threads), jobs, out, batch, told)
        else:
            from pstmo_edge import lifting_ray

            summary = lifting_ray.lift(engine, jobs, out, ray, workers, threads or 1, batch, told)
    _report(summary, time.perf_counter() - start, out, as_json)
    if summary.failed:
        raise typer.Exit(1)


def _report(summary: Any, seconds: float, out: Path, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**summary.to_dict(), "seconds": round(seconds, 3)}, indent=2))
        return
    rate = f", {summary.poses / seconds:.0f} poses/s" if summary.poses else ""
    console.stdout.print(
        f"{out}: {summary.lifted} files lifted, {summary.skipped} were done, {len(summary.failed)} failed; "
        f"{summary.poses} poses in {seconds:.1f} s{rate}",
        soft_wrap=True,
    )
