"""`pstmo-edge`: thin commands over the public API."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from pstmo_edge import cli_bench, cli_deploy, cli_run, cli_train, console
from pstmo_edge._version import __version__
from pstmo_edge.cli_options import (
    AUTO,
    ENGINE,
    Checkpoint,
    Data,
    Emit,
    Force,
    Frames,
    Json,
    Keypoints,
    Model,
    Step,
    TrainedOn,
    print_json,
)
from pstmo_edge.errors import PstmoEdgeError, UsageError
from pstmo_edge.naming import unknown

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Lift 2D keypoints to 3D poses on edge devices: train, build, measure and run P-STMO engines.",
)  # fmt: skip
app.add_typer(cli_train.train_app, name="train")
app.add_typer(cli_train.data_app, name="data")


def main() -> None:
    """Run the command line: a user's mistake is one line on standard error and exit status 1 or 2."""
    warnings.showwarning = lambda message, *_: print(f"pstmo-edge: warning: {message}", file=sys.stderr)
    try:
        status = app(standalone_mode=False)
    except PstmoEdgeError as error:
        status = _fail(str(error), error.exit_status)
    except TyperException as error:
        status = _fail(error.format_message(), 2)
    except (KeyboardInterrupt, typer.Abort):
        status = _fail("interrupted", 130)
    except OSError as error:
        status = _fail(f"{error.filename or 'the system'}: {error.strerror or error}", 1)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(text: str, status: int) -> int:
    sys.stdout.flush()
    print(f"pstmo-edge: error: {' '.join(text.split())}", file=sys.stderr)
    return status


def _version(wanted: bool) -> None:
    if wanted:
        print(f"pstmo-edge {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options of the program itself."""


@app.command()
def build(
    model: Model = None,
    frames: Frames = None,
    checkpoint: Checkpoint = None,
    t_downsample: Step = None,
    trained_on: TrainedOn = "human36m",
    precision: Annotated[
        str,
        typer.Option(help="fp32, fp16, bf16, int8, fp8, w8a16, w4, or auto: the fastest here within --max-drop-mm."),
    ] = "int8",
    backend: Annotated[
        str,
        typer.Option(
            help="native, onnxruntime, openvino, tensorrt or torch; auto is native where that runs the model."
        ),
    ] = AUTO,
    emit: Emit = "centre",
    calib: Data = "cmu-mocap",
    keypoints: Keypoints = "gt",
    max_drop_mm: Annotated[float, typer.Option(help="How much INT8 may raise the MPJPE, millimetres.")] = 1.0,
    max_jitter_percent: Annotated[
        float,
        typer.Option(help="How much INT8 may raise the jitter; layers that tremble get more bits or stay in float."),
    ] = 2.0,
    target: Annotated[
        str, typer.Option(help="auto (this machine), x86-avx2, x86-vnni, arm64-dotprod, generic or tensorrt.")
    ] = "auto",
    out: Annotated[Path, typer.Option(help="The folder to write.")] = ENGINE,
    report: Annotated[
        Path | None, typer.Option(help="A folder for what INT8 does to the error, by layer, joint and action.")
    ] = None,
    measured: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure whether INT8 pays on this device, and say so.")
    ] = True,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Build an engine from a checkpoint and measure it.

    Example: pstmo-edge build --precision int8 --out engine
    """
    import pstmo_edge as pe
    from pstmo_edge.backends import CALIBRATED, check_lifter, default_backend
    from pstmo_edge.preparing import check_calibration, check_request, prepare

    options: dict[str, Any] = {"target": target, "max_drop_mm": max_drop_mm, "force": force}
    options["max_jitter_percent"] = max_jitter_percent
    # What is wrong with it shows before the weights are read; onnxruntime also checks the export of all others.
    check_request(
        "int8" if precision == AUTO else precision, "onnxruntime" if backend == AUTO else backend, out, **options
    )
    if precision == AUTO and not measured:
        raise UsageError("--precision auto has to measure: leave --no-measure out, or name a precision")
    lifter = pe.load_model(model, frames, checkpoint, t_downsample=t_downsample, trained_on=trained_on)
    lifter = pe.emitting(lifter, emit)
    backend = default_backend("int8" if precision == AUTO else precision, lifter.lifter) if backend == AUTO else backend
    check_lifter(backend, lifter.lifter)
    if precision == AUTO or precision in CALIBRATED:
        check_calibration(lifter, calib, keypoints)
    payoff = None
    with console.progress_bar() as bar:
        common: dict[str, Any] = {"data": calib, "keypoints": keypoints, "progress": bar}
        common["prepared"] = prepare(lifter, calib, keypoints, progress=bar)
        if precision == AUTO:
            payoff = _payoff(lifter, backend, None, common, options)
            precision = payoff.recommended
        bundle = pe.build(lifter, precision, backend, out=out, report=report, **common, **options)
        portable = None
        if backend == "tensorrt":
            bundle, portable = _compiled_if_here(bundle, bar)
        elif measured and payoff is None and precision == "int8":
            payoff = _payoff(lifter, backend, out, common, options)
    if as_json:
        found = bundle.manifest.model_dump(mode="json")
        print_json(found if payoff is None else {**found, "measured": payoff.to_dict()})
        return
    console.stdout.print(f"[bold]{out}[/bold]: {precision} engine for {backend}")
    console.stdout.print(console.manifest_table(bundle.manifest))
    if portable is not None:
        console.stdout.print(portable, soft_wrap=True, markup=False)
    for line in [] if payoff is None else payoff.lines():
        console.stdout.print(line, soft_wrap=True)


def _payoff(lifter: Any, backend: str, built: Path | None, common: dict[str, Any], options: dict[str, Any]) -> Any:
    """What each precision brings on this device."""
    from pstmo_edge.benchmarks.payoff import measure

    return measure(
        lifter, backend, common["prepared"], built, target=options["target"], data=common["data"],
        keypoints=common["keypoints"], max_drop_mm=options["max_drop_mm"],
        max_jitter_percent=options["max_jitter_percent"], progress=common["progress"],
    )  # fmt: skip


def _compiled_if_here(bundle: Any, progress: Any) -> tuple[Any, str | None]:
    """The bundle with this device's engine, or as it is and the command that is left to be run on the device."""
    from pstmo_edge.trt.compiling import compile_bundle, missing_here

    if missing_here() is None:
        return compile_bundle(bundle.path, tell=progress), None
    return bundle, f"Portable: run `pstmo-edge compile {bundle.path}` on the device that will run it."


@app.command("eval")
def evaluate(
    engine: Annotated[Path | None, typer.Argument(help="A bundle; by default engine/ or what --model names.")] = None,
    model: Annotated[str | None, typer.Option(help="Evaluate a model in torch instead of an engine.")] = None,
    frames: Frames = None,
    checkpoint: Checkpoint = None,
    t_downsample: Step = None,
    trained_on: TrainedOn = "human36m",
    emit: Emit = "centre",
    refine: Annotated[
        str | None, typer.Option(help="Refine the poses with this module's weights; takes the root's true depth.")
    ] = None,
    data: Data = "cmu-mocap",
    keypoints: Keypoints = "gt",
    protocol: Annotated[
        str, typer.Option(help="h36m: MPJPE and P-MPJPE, mean over actions; 3dhp: MPJPE, PCK and AUC.")
    ] = "h36m",
    flip: Annotated[bool, typer.Option("--flip", help="Average with the mirrored input: two forwards a pose.")] = False,
    predictions: Annotated[
        Path | None, typer.Option(help="Protocol 3dhp: also write the .mat file that the official evaluation reads.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the error of an engine or a model, in millimetres, on the test split.

    Example: pstmo-edge eval engine --keypoints detected --flip
    """
    import pstmo_edge as pe

    if protocol not in ("h36m", "3dhp"):
        raise unknown("protocol", protocol, ("h36m", "3dhp"))
    if engine is not None and (model is not None or checkpoint is not None):
        raise UsageError("give an engine, or --model and --checkpoint, not both")
    if model is None and checkpoint is None and emit != "centre":
        raise UsageError("--emit is for --model and --checkpoint: an engine emits what it was built for")
    if protocol != "3dhp" and predictions is not None:
        raise UsageError("--predictions is for --protocol 3dhp")
    if protocol == "3dhp" and refine is not None:
        raise UsageError("--refine is for --protocol h36m")
    if model is not None or checkpoint is not None:
        from pstmo_edge.backends.torch import TorchSession

        lifter = pe.load_model(model, frames, checkpoint, t_downsample=t_downsample, trained_on=trained_on)
        lifter = pe.emitting(lifter, emit)
        about = lifter.lifter
        predict, window, skeleton = TorchSession(lifter).run, about.window, about.skeleton
        name = f"{about.name}, {about.frames} frames, torch"
    else:
        path = engine or ENGINE
        if engine is None and not path.exists():
            raise UsageError(f"no engine in {path}/: build one with `pstmo-edge build`, or name a --model")
        opened = pe.load_engine(path)
        predict, window, name = opened.infer, opened.spec, f"{path} ({opened.backend})"
        skeleton = opened.manifest.input.skeleton
    sequences = pe.load_sequences(data, "test", keypoints, skeleton)
    mirrored = "with mirroring (two forwards a pose)" if flip else "without mirroring"
    with console.progress_bar() as bar:
        advance = console.Counted(bar, f"evaluating {name}", sum(map(len, sequences)))
        if protocol == "3dhp":
            from pstmo_edge.datasets.mpi_inf_3dhp import activities
            from pstmo_edge.evaluation_3dhp import evaluate_3dhp

            done = activities(Path(data))
            scores = evaluate_3dhp(
                predict, sequences, window, flip=flip, advance=advance, activities=done, predictions=predictions
            )
            result, table = scores.to_dict(), console.table_3dhp(scores)
        else:
            found = pe.evaluate(predict, sequences, window, flip=flip, advance=advance, refine=_refiner(refine))
            result, table = found.to_dict(), console.evaluation_table(found)
            mirrored += ", refined with the root's true depth" if refine else ""
    if as_json:
        print_json(result)
        return
    windows = f"{result['windows']} windows" + (f" of {window.emitted} poses each" if window.emitted else "")
    console.stdout.print(f"{name}: {data}, test split, {keypoints} keypoints, {windows}, {mirrored}")
    console.stdout.print(table)


def _refiner(weights: str | None) -> Any:
    if weights is None:
        return None
    import pstmo_edge as pe
    from pstmo_edge.models.refine import refiner

    path = Path(weights)
    return refiner(pe.load_model("refine", checkpoint=path / "refine/refine.safetensors" if path.is_dir() else path))


cli_bench.add_commands(app)


@app.command()
def info(
    engine: Annotated[Path, typer.Argument(help="A bundle.")] = ENGINE,
    as_json: Json = False,
) -> None:
    """Verify a bundle and print its manifest.

    Example: pstmo-edge info engine
    """
    from pstmo_edge.bundle import open_bundle

    manifest = open_bundle(engine).manifest
    if as_json:
        print_json(manifest.model_dump(mode="json"))
        return
    console.stdout.print(console.manifest_table(manifest))


cli_run.add_commands(app)
cli_deploy.add_commands(app)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Print what this machine has and lacks, and how to install it.

    Example: pstmo-edge doctor
    """
    from pstmo_edge.doctor import diagnose, render

    found = diagnose()
    if as_json:
        print_json(found.as_dict())
        return
    render(found, console.stdout)
