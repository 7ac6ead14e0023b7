"""Commands that come after `build`: lift archives, compile for a device, write a server's model repository."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pstmo_edge import console
from pstmo_edge.cli_options import Json, print_json
from pstmo_edge.errors import UsageError
from pstmo_edge.manifest import Manifest

Engine = Annotated[Path, typer.Option(help="A bundle; one built with --emit gives many poses a forward.")]


def add_commands(app: typer.Typer) -> None:
    """Register this module's commands."""
    app.command()(lift)
    app.command("compile")(compile_engine)
    app.command("export-triton")(export_triton)


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


def compile_engine(
    bundle: Annotated[
        Path, typer.Argument(help="A bundle of build --backend tensorrt; with --gpu, of --backend native.")
    ] = Path("engine"),
    out: Annotated[
        Path | None, typer.Option(help="A new folder; by default the engine is put into the bundle.")
    ] = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option(help="A chip to add our own CUDA kernels for: sm_87 (Orin), several, or all; needs no GPU."),
    ] = None,
    single_launch: Annotated[
        bool,
        typer.Option(
            "--single-launch",
            help="With --gpu, float bundles alone: a window that comes alone is lifted in one launch, whose latency is"
            " not measured yet; fp16 as without it, the same accuracy. Needs nvcc.",
        ),
    ] = False,
    batch: Annotated[
        str | None, typer.Option(help="Windows a forward: least, usual and most, 1,1,64 by default, or one number.")
    ] = None,
    dla: Annotated[
        int | None, typer.Option(min=0, help="A DLA core for the layers it takes; fp16 or int8, --batch 1 by default.")
    ] = None,
    workspace_mib: Annotated[int | None, typer.Option(min=16, help="Scratch memory of the builder, 512.")] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="It opens with later TensorRT of the same major version.")
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="It opens on every GPU from Ampere on; not for Jetson.")
    ] = False,
    allow_float: Annotated[
        bool, typer.Option("--allow-float", help="Keep an INT8 or FP8 engine of which TensorRT left layers in float.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compile a TensorRT engine on the device that will run it, and read its layers' precision back.

    With --gpu, compile our own kernels for a chip that need not be here, for the engine of libpstmo_edge.

    Example: pstmo-edge compile engine
    Example: pstmo-edge compile engine --gpu sm_87
    """
    if single_launch and not gpu:
        raise UsageError("--single-launch is for --gpu: it is a kernel of our own engine, not TensorRT's")
    if gpu:
        _report_manifest(_add_kernels(bundle, gpu, out, single_launch), as_json)
        return
    from pstmo_edge.trt.compiling import compile_bundle

    changes: dict[str, object] = {} if dla is None else {"dla_core": dla}
    if batch is not None or dla is not None:
        changes |= _batches("1" if batch is None else batch)
    changes |= {} if workspace_mib is None else {"workspace_mib": workspace_mib}
    given = {"version_compatible": version_compatible, "hardware_compatible": hardware_compatible}
    changes |= {name: True for name, value in given.items() if value}
    with console.progress_bar() as bar:
        compiled = compile_bundle(bundle, out, changes=changes, allow_float=allow_float, tell=bar)
    _report_manifest(compiled.manifest, as_json)


def _add_kernels(bundle: Path, chips: list[str], out: Path | None, single_launch: bool) -> Manifest:
    from pstmo_edge.engine import require_gpu_packages

    require_gpu_packages("compile --gpu")
    from pstmo_edge.kernels.cuda import single_window
    from pstmo_edge.kernels.triton import bundling, packing

    single = single_window.compiled if single_launch else None
    with console.progress_bar() as bar:
        chosen = packing.CHIPS if chips == ["all"] else chips
        return bundling.add_kernels(bundle, chosen, out, single=single, tell=bar).manifest


def _report_manifest(manifest: Manifest, as_json: bool) -> None:
    if as_json:
        print_json(manifest.model_dump(mode="json"))
        return
    console.stdout.print(console.manifest_table(manifest))


def _batches(text: str) -> dict[str, object]:
    parts = text.split(",")
    if len(parts) not in (1, 3) or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"--batch is {text!r}: give one number, or least, usual and most like 1,1,64")
    sizes = [int(part) for part in (parts if len(parts) == 3 else parts * 3)]
    return dict(zip(("batch_min", "batch_opt", "batch_max"), sizes, strict=True))


def export_triton(
    engine: Annotated[Path, typer.Argument(help="A bundle of onnxruntime, openvino or compiled tensorrt.")],
    out: Annotated[Path, typer.Option(help="The model repository to write.")] = Path("model_repository"),
    name: Annotated[str, typer.Option(help="The model's name; the streaming one adds -stream.")] = "lifter",
    max_batch: Annotated[int, typer.Option(min=1, help="Windows, or sequences, in one forward.")] = 64,
    instances: Annotated[int, typer.Option(min=1, help="Copies of the model that run side by side.")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="Run ONNX Runtime on the server's GPU.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the output folder.")] = False,
) -> None:
    """Write a model repository for NVIDIA's Triton Inference Server.

    Example: pstmo-edge export-triton engine --out model_repository
    """
    from pstmo_edge import serving

    names = serving.export_triton(engine, out, serving.Serving(name, max_batch, instances, gpu), force)
    console.stdout.print(f"{out}: {', '.join(names)}; tritonserver --model-repository {out}", soft_wrap=True)


def _report(summary: Any, seconds: float, out: Path, as_json: bool) -> None:
    if as_json:
        print_json({**summary.to_dict(), "seconds": round(seconds, 3)})
        return
    rate = f", {summary.poses / seconds:.0f} poses/s" if summary.poses else ""
    console.stdout.print(
        f"{out}: {summary.lifted} files lifted, {summary.skipped} were done, {len(summary.failed)} failed; "
        f"{summary.poses} poses in {seconds:.1f} s{rate}",
        soft_wrap=True,
    )
