"""Checkpoints of a training run: weights, optimiser and place, in one safetensors file.

No pickle is written or read. The two newest are kept, so that a fault while one is written never leaves none. No
random state is stored: every random number of a step depends on the seed and the step alone.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pstmo_edge.errors import CheckpointError
from pstmo_edge.models.checkpoints import load_weights, save_weights
from pstmo_edge.train.recipes import Recipe, differences, to_dict

KEEP = 2


@dataclass(frozen=True)
class Place:
    """Where a run stands.

    Optimiser steps done; the sum and the count of the losses since the epoch began; losses that were not finite, in a
    row; and the smallest validation error so far (-1: none yet).
    """

    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    bad_in_a_row: int = 0
    best: float = -1.0


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, place: Place, recipe: Recipe) -> Path:
    """Write `checkpoint-<step>.safetensors` and remove all but the newest two."""
    arrays = {f"model.{name}": tensor.cpu().numpy() for name, tensor in model.state_dict().items()}
    names = _trained(model)
    for number, state in optimizer.state_dict()["state"].items():
        for key, tensor in state.items():
            arrays[f"optimizer.{key}.{names[number]}"] = np.atleast_1d(tensor.cpu().numpy())
    path = folder / f"checkpoint-{place.step:07d}.safetensors"
    save_weights(path, arrays, {"place": json.dumps(asdict(place)), "recipe": json.dumps(to_dict(recipe))})
    for old in found(folder)[:-KEEP]:
        old.unlink()
    return path


def found(folder: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    return sorted(folder.glob("checkpoint-*.safetensors"))


def restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe) -> Place:
    """Put model and optimiser back; raises CheckpointError, naming the fields, if the file is of another recipe."""
    arrays, metadata = load_weights(path)
    changed = differences(recipe, json.loads(metadata.get("recipe", "{}")))
    if changed:
        raise CheckpointError(
            f"{path} was written by a run with other settings: {', '.join(changed)}; resume with the same recipe and "
            f"options, or choose another --out"
        )
    try:
        model.load_state_dict({name: torch.from_numpy(arrays[f"model.{name}"]) for name in model.state_dict()})
    except (KeyError, RuntimeError):
        raise CheckpointError(f"{path} was written by another stage or version: choose another --out") from None
    state = optimizer.state_dict()
    for number, name in enumerate(_trained(model)):
        state["state"][number] = {
            key.split(".")[1]: torch.from_numpy(value).reshape(() if key.startswith("optimizer.step.") else value.shape)
            for key, value in arrays.items()
            if key.startswith("optimizer.") and key.split(".", 2)[2] == name
        }
    optimizer.load_state_dict(state)
    return Place(**json.loads(metadata["place"]))


def _trained(model: nn.Module) -> list[str]:
    """The parameters that the optimiser holds, in its order."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]
