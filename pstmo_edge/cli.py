"""`pstmo-edge`: thin commands over the public API."""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from pstmo_edge import cli_deploy, cli_run, console
from pstmo_edge._version import __version__
from pstmo_edge.errors import DataError, PstmoEdgeError, UsageError
from pstmo_edge.naming import unknown

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Lift 2D keypoints to 3D poses on edge devices: train, build, measure and run P-STMO engines.",
)  # fmt: skip
train_app = typer.Typer(no_args_is_help=True, help="Train a lifter, in one, two or three stages.")
app.add_typer(train_app, name="train")
data_app = typer.Typer(no_args_is_help=True, help="Convert and inspect datasets.")
app.add_typer(data_app, name="data")

ENGINE, AUTO = Path("engine"), "auto"
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Data = Annotated[
    str,
    typer.Option(
        help="cmu-mocap (bundled), a folder of Human3.6M, MPI-INF-3DHP or BVH files, or an .npz of keypoints."
    ),
]
Keypoints = Annotated[
    str, typer.Option(help="gt, detected (bundled motion), or the name of a 2D file such as cpn_ft_h36m_dbb.")
]
Model = Annotated[str | None, typer.Option(help="p-stmo-s (the default) or p-stmo, where the weights do not say.")]
Frames = Annotated[
    int | None,
    typer.Option(help="Frames in a window: 9, 27 (the default), 81, 243 or 351, where the weights do not say."),
]
Checkpoint = Annotated[
    str | None,
    typer.Option(help="A .pth or .safetensors file, the folder of a training run, or weights in the box by name."),
]
Step = Annotated[
    int | None, typer.Option(help="Every how many frames the weights were trained on, where the file does not say.")
]
TrainedOn = Annotated[
    str,
    typer.Option(help="What published weights were trained on: human36m, mpi-inf-3dhp (millimetres) or in-the-wild."),
]
Emit = Annotated[
    str,
    typer.Option(help="Poses of a window: centre (one), all, or the odd number of middle frames; P-STMO's family."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace the output folder.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of the runtime (its own choice by default).")]


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
    from pstmo_edge.building import check_calibration, check_request, prepare

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
        _print_json(found if payoff is None else {**found, "measured": payoff.to_dict()})
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
        _print_json(result)
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


@app.command()
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
        _print_json(report.to_dict())
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
        _print_json(found.to_dict())
        return
    for letter, where in zip("AB", found.where, strict=True):
        console.stdout.print(f"{letter}: {where}", soft_wrap=True, markup=False)
    console.stdout.print(comparison.table(found))
    for letter, titles in zip("AB", found.only, strict=True):
        if titles:
            console.stdout.print(f"only in {letter}: {', '.join(titles)}", soft_wrap=True, markup=False)
    for note in found.notes:
        console.stdout.print(f"note: {note}", soft_wrap=True, markup=False)


Recipe = Annotated[str, typer.Option(help="The settings of the run, by name; `pstmo-edge train recipes` lists them.")]
RunFolder = Annotated[Path, typer.Option(help="The folder of the run; each stage has a subfolder of it.")]
TrainingData = Annotated[
    str | None,
    typer.Option(help="A folder (Human3.6M, MPI-INF-3DHP, BVH files) or cmu-mocap, instead of the recipe's."),
]
From = Annotated[
    str | None,
    typer.Option("--from", help="Weights to start from, or none; by default those of the stage before it in --out."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")]
Lookahead = Annotated[
    int | None, typer.Option(min=-1, help="Window frames after the predicted one: 0 is causal, -1 the centre.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Override any field of the recipe: lr=5e-4, augmentation.speed=0.1.")
]
Override = "Override the recipe."


def _stage_command(stage: str, summary: str, example: str) -> None:
    """Add one stage of training as a command; the three differ in their name and help alone."""

    def command(
        recipe: Recipe = "cmu-27",
        out: RunFolder = Path("run"),
        data: TrainingData = None,
        keypoints: Annotated[str | None, typer.Option(help="gt, or the name of a 2D file.")] = None,
        initial: From = None,
        resume: Resume = False,
        lookahead: Lookahead = None,
        epochs: Annotated[int | None, typer.Option(min=1, help=Override)] = None,
        batch: Annotated[int | None, typer.Option(min=2, help=Override)] = None,
        seed: Annotated[int | None, typer.Option(min=0, help=Override)] = None,
        threads: Annotated[int | None, typer.Option(min=1, help=Override)] = None,
        settings: Settings = None,
        qat: Annotated[
            bool,
            typer.Option(
                "--qat",
                help="Of finetune: Stage II once more, as integer layers compute, from trained weights.",
            ),
        ] = False,
    ) -> None:
        from pstmo_edge.train.recipes import get_recipe, overridden

        start = get_recipe(recipe)
        if qat:
            if stage != "finetune":
                raise UsageError(f"--qat is for `train finetune`: {stage} makes no lifter that a build could quantize")
            from pstmo_edge.train.qat import quantization_aware

            start = quantization_aware(start)
        common = {"data": data, "keypoints": keypoints, "lookahead": lookahead, "batch": batch, "seed": seed}
        length = {"finetune": "epochs"}.get(stage, f"{stage}_epochs")
        chosen = overridden(start, settings or (), **common, threads=threads, **{length: epochs})
        _train(stage, chosen, out, initial, resume)

    command.__doc__ = f"{summary}\n\nExample: pstmo-edge train {example}"
    train_app.command(stage)(command)


def _train(stage: str, recipe: Any, out: Path, initial: str | None, resume: bool) -> None:
    from pstmo_edge.train import stages

    def transferred(moved: stages.Transfer) -> None:
        console.stderr.print(console.transfer_text(moved.source, moved.transferred, moved.fresh, moved.left_out))

    with console.progress_bar() as bar:

        def progress(now: Any) -> None:
            text = f"epoch {now.epoch}, loss {now.loss:.4f}, {now.error:.1f} {now.unit}"
            bar(f"{text}, {now.windows_per_second:.0f} windows/s", now.step, now.steps)
            if now.validation is not None:
                console.stderr.print(f"{text}, held-out {now.validation:.2f} {now.unit}")

        hooks = stages.Hooks(progress, transferred, lambda step: console.stderr.print(f"going on from step {step}"))
        weights = stages.train(stage, recipe, out, initial=initial, resume=resume, hooks=hooks)
    console.stdout.print(f"weights: {weights}; use them with --checkpoint {out}", soft_wrap=True)


_stage_command(
    "pretrain",
    "Stage I, masked pose modelling: rebuild hidden frames and joints of 2D keypoints.",
    "pretrain --recipe p-stmo-s --data human36m --out run",
)
_stage_command(
    "finetune",
    "Stage II: lift 2D keypoints to 3D poses, from the encoder of Stage I where the run has one.",
    "finetune --recipe p-stmo-s --data human36m --out run --resume",
)
_stage_command(
    "refine",
    "Train the refinement module on top of a lifter, which takes the camera's intrinsics and the root's depth.",
    "refine --recipe p-stmo --data human36m --out run",
)


@train_app.command()
def recipes(as_json: Json = False) -> None:
    """List the recipes.

    Example: pstmo-edge train recipes
    """
    from pstmo_edge.train.recipes import RECIPES, to_dict

    if as_json:
        _print_json({name: to_dict(recipe) for name, recipe in RECIPES.items()})
        return
    console.stdout.print(console.recipes_table(RECIPES))


@data_app.command()
def convert(
    dataset: Annotated[str, typer.Argument(help="mpi-inf-3dhp.")],
    source: Annotated[Path, typer.Argument(help="The folder of the original release.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("dataset"),
) -> None:
    """Turn a dataset's original files into the .npz files that training reads.

    Example: pstmo-edge data convert mpi-inf-3dhp mpi_inf_3dhp --out dataset
    """
    from pstmo_edge.datasets import mpi_inf_3dhp

    if dataset != "mpi-inf-3dhp":
        raise unknown("dataset to convert", dataset, ("mpi-inf-3dhp",))
    with console.progress_bar() as bar:
        for path in mpi_inf_3dhp.convert(source, out, bar):
            console.stdout.print(f"wrote {path}", soft_wrap=True)


@data_app.command()
def inspect(
    data: Annotated[str, typer.Argument(help="cmu-mocap, a folder, or an .npz of keypoints.")] = "cmu-mocap",
    keypoints: Keypoints = "gt",
    skeleton: Annotated[str, typer.Option(help="The joint set of the keypoints.")] = "human36m-17",
    as_json: Json = False,
) -> None:
    """Read both splits of a dataset and say what is in them.

    Example: pstmo-edge data inspect cmu-mocap
    """
    from pstmo_edge.datasets import SPLITS, load_sequences
    from pstmo_edge.datasets.sequences import summary

    found = {split: summary(load_sequences(data, split, keypoints, skeleton)) for split in SPLITS}
    if as_json:
        _print_json(found)
        return
    console.stdout.print(console.data_table(found))


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
        _print_json(found.as_dict())
        return
    render(found, console.stdout)
