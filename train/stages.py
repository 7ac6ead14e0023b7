"""The stages of training as a user starts them: a recipe, data and a folder in, weights out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pstmo_edge.datasets import cmu_mocap, load_sequences, one_camera_a_take
from pstmo_edge.errors import UsageError
from pstmo_edge.evaluation import evaluate
from pstmo_edge.models.checkpoints import save_weights
from pstmo_edge.models.p_stmo import PSTMO
from pstmo_edge.models.zoo import create_model, state_arrays
from pstmo_edge.train import checkpoints
from pstmo_edge.train.augmentation import MotionWindows
from pstmo_edge.train.loop import Trainer
from pstmo_edge.train.recipes import Recipe, to_dict
from pstmo_edge.windows import WindowSpec

WEIGHTS = "weights.safetensors"


def finetune(
    recipe: Recipe,
    out: Path,
    *,
    data: str = cmu_mocap.NAME,
    resume: bool = False,
    report: Callable[[int, dict[str, Any]], None] = lambda step, row: None,
    started: Callable[[int, int], None] = lambda step, total: None,
) -> Path:
    """Train a lifter as the published code does (loss on the centre pose and on all frames) and write its weights.

    The folder gets a CSV log, the two newest checkpoints and, at the end, `weights.safetensors` in half precision.
    `started` is told the first and the last step, `report` every step. Raises UsageError where `out` holds a run and
    `resume` is not set, or where the recipe trains no lifter.
    """
    if data != cmu_mocap.NAME:
        raise UsageError(f"fine-tuning reads world motion, which only {cmu_mocap.NAME} has: leave --data out")
    out.mkdir(parents=True, exist_ok=True)
    if checkpoints.found(out) and not resume:
        raise UsageError(f"{out} holds a run: go on with --resume, or choose another --out")
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    model = create_model(recipe.model, recipe.frames, t_downsample=recipe.t_downsample, dropout=recipe.dropout)
    if not isinstance(model, PSTMO):
        raise UsageError(f"{recipe.model} is no lifter: fine-tuning trains p-stmo-s or p-stmo")
    window = WindowSpec(recipe.frames, recipe.t_downsample)
    held_out = one_camera_a_take(load_sequences(data, "test"))

    def validate(model: PSTMO) -> float:
        """MPJPE in millimetres on held-out motion, exact keypoints, without mirroring."""
        model.eval()
        with torch.no_grad():
            return evaluate(lambda batch: model(torch.from_numpy(batch)).numpy(), held_out, window).mpjpe_mm

    trainer = Trainer(recipe, model, MotionWindows(window, recipe.augmentation), out, validate, report)
    started(trainer.resume(), trainer.total_steps)
    trainer.run()
    path = out / WEIGHTS
    write_half(path, model, recipe)
    return path


def write_half(path: Path, model: PSTMO, recipe: Recipe) -> None:
    """Write a model's weights in half precision, with what an engine must know about them."""
    arrays = {
        name: array.astype(np.float16) if array.dtype.kind == "f" else array
        for name, array in state_arrays(model).items()
    }
    notes = {"model": recipe.model, "frames": str(recipe.frames), "t_downsample": str(recipe.t_downsample)}
    notes |= {"frame_rate": str(cmu_mocap.FPS), "skeleton": "human36m-17", "recipe": json.dumps(to_dict(recipe))}
    save_weights(path, arrays, notes)


def overridden(recipe: Recipe, **values: Any) -> Recipe:
    """The recipe with the given fields changed; None leaves a field as it is."""
    return dataclasses.replace(recipe, **{name: value for name, value in values.items() if value is not None})
