"""Checkpoints of a training run: weights, optimiser, random state and place, in one safetensors file.

No pickle is written or read. The two newest are kept, so that a fault while one is written never leaves none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pstmo_edge.errors import CheckpointError
from pstmo_edge.models.checkpoints import load_weights, save_weights

KEEP = 2


@dataclass(frozen=True)
class Place:
    """Where a run stands: optimiser steps done, and the running loss and its count since the epoch began."""

    step: int
    loss_sum: float
    loss_count: int


def save(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, place: Place, recipe: dict[str, Any]
) -> Path:
    """Write `checkpoint-<step>.safetensors` and remove all but the newest two."""
    arrays = {f"model.{name}": tensor.numpy() for name, tensor in model.state_dict().items()}
    names = [name for name, _ in model.named_parameters()]
    for number, state in optimizer.state_dict()["state"].items():
        for key, tensor in state.items():
            arrays[f"optimizer.{key}.{names[number]}"] = np.atleast_1d(tensor.numpy())
    arrays["random.torch"] = torch.get_rng_state().numpy()
    path = folder / f"checkpoint-{place.step:07d}.safetensors"
    save_weights(path, arrays, {"place": json.dumps(place.__dict__), "recipe": json.dumps(recipe)})
    for old in found(folder)[:-KEEP]:
        old.unlink()
    return path


def found(folder: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    return sorted(folder.glob("checkpoint-*.safetensors"))


def restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, recipe: dict[str, Any]) -> Place:
    """Put model, optimiser and random state back; raises CheckpointError if the file is of another recipe."""
    arrays, metadata = load_weights(path)
    if json.loads(metadata["recipe"]) != json.loads(json.dumps(recipe)):
        raise CheckpointError(
            f"{path} was written by a run with other settings: resume with the same recipe and options, "
            f"or choose another --out"
        )
    model.load_state_dict({name: torch.from_numpy(arrays[f"model.{name}"]) for name in model.state_dict()})
    state = optimizer.state_dict()
    for number, (name, _) in enumerate(model.named_parameters()):
        state["state"][number] = {
            key.split(".")[1]: torch.from_numpy(value).reshape(() if key.startswith("optimizer.step.") else value.shape)
            for key, value in arrays.items()
            if key.startswith("optimizer.") and key.split(".", 2)[2] == name
        }
    optimizer.load_state_dict(state)
    torch.set_rng_state(torch.from_numpy(arrays["random.torch"]))
    return Place(**json.loads(metadata["place"]))
