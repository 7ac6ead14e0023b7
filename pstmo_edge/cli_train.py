"""`pstmo-edge train` and `pstmo-edge data`: weights, and the datasets they are made from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pstmo_edge import console
from pstmo_edge.cli_options import Json, Keypoints, print_json
from pstmo_edge.errors import UsageError
from pstmo_edge.naming import unknown

train_app = typer.Typer(no_args_is_help=True, help="Train a lifter, in one, two or three stages.")
data_app = typer.Typer(no_args_is_help=True, help="Convert and inspect datasets.")

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
        print_json({name: to_dict(recipe) for name, recipe in RECIPES.items()})
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
        print_json(found)
        return
    console.stdout.print(console.data_table(found))
