"""`pstmo-edge`: thin commands over the public API."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from pstmo_edge import console
from pstmo_edge._version import __version__
from pstmo_edge.errors import DataError, PstmoEdgeError, UsageError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Lift 2D keypoints to 3D poses on edge devices: train, build, measure and run P-STMO engines.",
)  # fmt: skip
train_app = typer.Typer(no_args_is_help=True, help="Train a lifter.")
app.add_typer(train_app, name="train")

ENGINE = Path("engine")
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Data = Annotated[
    str, typer.Option(help="cmu-mocap (bundled), a folder in VideoPose3D's layout, or an .npz of keypoints.")
]
Keypoints = Annotated[
    str, typer.Option(help="gt, detected (bundled motion), or the name of a 2D file such as cpn_ft_h36m_dbb.")
]
Model = Annotated[str, typer.Option(help="p-stmo-s or p-stmo.")]
Frames = Annotated[int, typer.Option(help="Frames in a window: 9, 27, 81, 243 or 351.")]
Checkpoint = Annotated[Path | None, typer.Option(help="A .pth or .safetensors file; without one, the bundled weights.")]
Step = Annotated[
    int | None, typer.Option(help="Every how many frames the weights were trained on, where the file does not say.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace the output folder.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of the runtime (its own choice by default).")]


def main() -> None:
    """Run the command line: a user's mistake is one line on standard error and exit status 1 or 2."""
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


def _print_json(values: Any) -> None:
    print(json.dumps(values, indent=2))


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
    model: Model = "p-stmo-s",
    frames: Frames = 27,
    checkpoint: Checkpoint = None,
    t_downsample: Step = None,
    precision: Annotated[str, typer.Option(help="fp32 or int8.")] = "int8",
    backend: Annotated[str, typer.Option(help="onnxruntime, openvino or torch.")] = "onnxruntime",
    calib: Data = "cmu-mocap",
    keypoints: Keypoints = "gt",
    max_drop_mm: Annotated[float, typer.Option(help="How much INT8 may raise the MPJPE, millimetres.")] = 1.0,
    target: Annotated[str, typer.Option(help="auto, x86-avx2, x86-vnni, arm64-dotprod or generic.")] = "auto",
    out: Annotated[Path, typer.Option(help="The folder to write.")] = ENGINE,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Build an engine from a checkpoint and measure it.

    Example: pstmo-edge build --precision int8 --out engine
    """
    import pstmo_edge as pe
    from pstmo_edge.building import check_request

    options: dict[str, Any] = {"target": target, "max_drop_mm": max_drop_mm, "force": force}
    check_request(precision, backend, out, **options)
    lifter = pe.load_model(model, frames, checkpoint, t_downsample=t_downsample)
    with console.progress_bar() as bar:
        bundle = pe.build(lifter, precision, backend, out=out, data=calib, keypoints=keypoints, progress=bar, **options)
    if as_json:
        _print_json(bundle.manifest.model_dump(mode="json"))
        return
    console.stdout.print(f"[bold]{out}[/bold]: {precision} engine for {backend}")
    console.stdout.print(console.manifest_table(bundle.manifest))


@app.command("eval")
def evaluate(
    engine: Annotated[Path | None, typer.Argument(help="A bundle; by default engine/ or what --model names.")] = None,
    model: Annotated[str | None, typer.Option(help="Evaluate a model in torch instead of an engine.")] = None,
    frames: Frames = 27,
    checkpoint: Checkpoint = None,
    t_downsample: Step = None,
    data: Data = "cmu-mocap",
    keypoints: Keypoints = "gt",
    protocol: Annotated[str, typer.Option(help="h36m: MPJPE and P-MPJPE, mean over actions.")] = "h36m",
    flip: Annotated[bool, typer.Option("--flip", help="Average with the mirrored input: two forwards a pose.")] = False,
    as_json: Json = False,
) -> None:
    """Measure the error of an engine or a model, in millimetres, on the test split.

    Example: pstmo-edge eval engine --keypoints detected --flip
    """
    import pstmo_edge as pe

    if protocol != "h36m":
        raise UsageError(f"unknown protocol {protocol}: known is h36m")
    if model is None and checkpoint is not None:
        model = "p-stmo-s"
    if engine is not None and model is not None:
        raise UsageError("give an engine or --model, not both")
    if model is not None:
        from pstmo_edge.backends.torch import TorchSession

        lifter = pe.load_model(model, frames, checkpoint, t_downsample=t_downsample)
        predict, window, name = TorchSession(lifter).run, lifter.lifter.window, f"{model}, {frames} frames, torch"
    else:
        path = engine or ENGINE
        if engine is None and not path.exists():
            raise UsageError(f"no engine in {path}/: build one with `pstmo-edge build`, or name a --model")
        opened = pe.load_engine(path)
        predict, window, name = opened.infer, opened.spec, f"{path} ({opened.backend})"
    sequences = pe.load_sequences(data, "test", keypoints)
    total = sum(map(len, sequences))
    with console.progress_bar() as bar:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            bar(f"evaluating {name}", done, total)

        found = pe.evaluate(predict, sequences, window, flip=flip, advance=advance)
    if as_json:
        _print_json(found.to_dict())
        return
    mirrored = "with mirroring (two forwards a pose)" if flip else "without mirroring"
    setting = f"{data}, test split, {keypoints} keypoints, {found.windows} windows, {mirrored}"
    console.stdout.print(f"{name}: {setting}")
    console.stdout.print(console.evaluation_table(found))


@app.command()
def bench(
    engines: Annotated[list[Path] | None, typer.Argument(help="Bundles to measure beside the default rows.")] = None,
    out: Annotated[Path, typer.Option(help="The folder of the report.")] = Path("report"),
    force: Force = False,
    threads: Threads = None,
    max_drop_mm: Annotated[float, typer.Option(help="How much a recommended engine may raise the MPJPE.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Measure fp32 and int8 on every runtime here, side by side, and write a report.

    Example: pstmo-edge bench --out report --force
    """
    import pstmo_edge as pe
    from pstmo_edge.benchmarks import harness, tables
    from pstmo_edge.benchmarks.provenance import Settings

    bundles = list(engines or ([ENGINE] if ENGINE.exists() else []))
    for path in bundles:
        if not path.exists():
            raise DataError(f"no such engine: {path}")
    settings = Settings(threads=threads, max_drop_mm=max_drop_mm)
    with console.progress_bar() as bar:
        report = harness.run_default(pe.load_model(), out, force, settings=settings, bundles=bundles, progress=bar)
    if as_json:
        _print_json(report.to_dict())
        return
    tables.render(report, console.stdout)
    console.stdout.print(f"report: {out}/index.html, report.json, fps_vs_mpjpe.png, poses.png", soft_wrap=True)


@train_app.command()
def finetune(
    recipe: Annotated[str, typer.Option(help="The settings of the run, by name.")] = "cmu-27",
    data: Data = "cmu-mocap",
    out: Annotated[Path, typer.Option(help="The folder of the run.")] = Path("runs/finetune"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="Override the recipe.")] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Override the recipe.")] = None,
    lr: Annotated[float | None, typer.Option(help="Override the recipe.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Override the recipe.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Override the recipe.")] = None,
) -> None:
    """Fine-tune a lifter: loss on the centre pose and on all frames, as published.

    Example: pstmo-edge train finetune --recipe cmu-27 --out runs/mine --resume
    """
    from pstmo_edge.train import stages
    from pstmo_edge.train.recipes import get_recipe

    settings = stages.overridden(get_recipe(recipe), epochs=epochs, batch=batch, lr=lr, seed=seed, threads=threads)
    total = 0
    with console.progress_bar() as bar:

        def started(step: int, steps: int) -> None:
            nonlocal total
            total = steps
            if step:
                console.stderr.print(f"going on from step {step} of {steps}")

        def report(step: int, row: dict[str, Any]) -> None:
            bar(f"training, loss {row['loss']:.4f}", step, total)
            if "val_mpjpe_mm" in row:
                line = f"epoch {row['epoch']}: loss {row['loss']:.4f}, MPJPE {row['val_mpjpe_mm']:.2f} mm"
                console.stderr.print(line)

        weights = stages.finetune(settings, out, data=data, resume=resume, report=report, started=started)
    console.stdout.print(f"weights: {weights}; use them with --checkpoint {weights}", soft_wrap=True)


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
        _print_json(manifest.model_dump(mode="json"))
        return
    console.stdout.print(console.manifest_table(manifest))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Print what this machine has and lacks, and how to install it.

    Example: pstmo-edge doctor
    """
    from pstmo_edge.doctor import diagnose, render

    found = diagnose()
    if as_json:
        _print_json(found.as_dict())
        return
    render(found, console.stdout)
