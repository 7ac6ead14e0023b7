"""What the commands have in common: options that several take, and JSON for machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

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


def print_json(values: Any) -> None:
    """To standard output, indented."""
    print(json.dumps(values, indent=2))
