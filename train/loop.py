"""The fine-tuning loop: the published loss, on a CPU, resumable to the bit.

Every batch is drawn with random numbers that depend only on the seed and the step, so a run that was killed and
resumed sees the very windows that an uninterrupted one sees.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pstmo_edge.errors import DataError
from pstmo_edge.files import write_atomic
from pstmo_edge.models.p_stmo import PSTMO
from pstmo_edge.train import checkpoints
from pstmo_edge.train.augmentation import MotionWindows
from pstmo_edge.train.recipes import Recipe, to_dict

NAN_LIMIT = 5  # losses that are not finite, in a row
LOG_COLUMNS = ("epoch", "step", "lr", "loss", "train_mpjpe_mm", "val_mpjpe_mm", "seconds")


def position_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean joint distance in metres, the published training loss."""
    return (predicted - target).norm(dim=-1).mean()


@dataclass
class Trainer:
    """One fine-tuning run in one folder; `run` goes from wherever the folder's newest checkpoint stands."""

    recipe: Recipe
    model: PSTMO
    windows: MotionWindows
    folder: Path
    validate: Callable[[PSTMO], float]
    report: Callable[[int, dict[str, Any]], None] = lambda step, row: None

    def __post_init__(self) -> None:
        """Make the optimiser as published: Adam with amsgrad, one rate for all."""
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.recipe.lr, amsgrad=True, foreach=False)
        self.place = checkpoints.Place(0, 0.0, 0)
        self.bad_in_a_row = 0

    @property
    def steps_per_epoch(self) -> int:
        """How many whole batches an epoch has."""
        return self.recipe.steps_per_epoch or max(1, len(self.windows) // self.recipe.batch)

    @property
    def total_steps(self) -> int:
        """How many optimiser steps the recipe asks for."""
        return self.recipe.epochs * self.steps_per_epoch

    def resume(self) -> int:
        """Go back to the newest checkpoint of the folder, if any; returns the step reached."""
        found = checkpoints.found(self.folder)
        if found:
            self.place = checkpoints.restore(found[-1], self.model, self.optimizer, to_dict(self.recipe))
            self._forget_later_rows()
        return self.place.step

    def _forget_later_rows(self) -> None:
        """Drop log rows that were written after the checkpoint: those epochs end again."""
        path = self.folder / "log.csv"
        if path.exists():
            head, *rows = path.read_text().splitlines()
            kept = [row for row in rows if int(row.split(",")[1]) <= self.place.step]
            write_atomic(path, ("\n".join([head, *kept]) + "\n").encode())

    def run(self) -> None:
        """Train to the end of the recipe, with a checkpoint every `checkpoint_steps` and a CSV row every epoch."""
        self.model.train()
        started = time.monotonic()
        while self.place.step < self.total_steps:
            epoch, within = divmod(self.place.step, self.steps_per_epoch)
            if within == 0:
                self.place = checkpoints.Place(self.place.step, 0.0, 0)
            loss = self._step(epoch, within)
            step = self.place.step + 1
            self.place = checkpoints.Place(step, self.place.loss_sum + loss, self.place.loss_count + 1)
            if step % self.steps_per_epoch == 0:
                self._finish_epoch(epoch, time.monotonic() - started)
            if step % self.recipe.checkpoint_steps == 0 or step == self.total_steps:
                checkpoints.save(self.folder, self.model, self.optimizer, self.place, to_dict(self.recipe))
            self.report(step, {"loss": self.place.loss_sum / max(1, self.place.loss_count)})

    def _step(self, epoch: int, within: int) -> float:
        order = np.random.default_rng([self.recipe.seed, epoch]).permutation(len(self.windows))
        frames = order[within * self.recipe.batch : (within + 1) * self.recipe.batch]
        rng = np.random.default_rng([self.recipe.seed, epoch, within])
        keypoints, poses = (torch.from_numpy(array) for array in self.windows.sample(frames, rng))
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(epoch)
        centre, every = self.model.forward_both(keypoints)
        target = self.windows.source.spec.target
        loss = position_error(every, poses) + position_error(centre, poses[:, target])
        self.optimizer.zero_grad()
        loss.backward()
        value = float(loss.detach())
        if math.isfinite(value):
            self.bad_in_a_row = 0
            self.optimizer.step()
            return value
        self.bad_in_a_row += 1
        if self.bad_in_a_row >= NAN_LIMIT:
            raise DataError(f"the loss was not finite {NAN_LIMIT} times in a row at step {self.place.step}: lower --lr")
        return self.place.loss_sum / max(1, self.place.loss_count)

    def _finish_epoch(self, epoch: int, seconds: float) -> None:
        loss = self.place.loss_sum / self.place.loss_count
        error = self.validate(self.model)
        self.model.train()
        row = (
            epoch + 1,
            self.place.step,
            f"{self.recipe.rate(epoch):.3g}",
            f"{loss:.5f}",
            f"{loss * 500:.2f}",
            f"{error:.2f}",
        )
        path = self.folder / "log.csv"
        new = not path.exists()
        with path.open("a") as log:
            if new:
                log.write(",".join(LOG_COLUMNS) + "\n")
            log.write(",".join(map(str, (*row, f"{seconds:.1f}"))) + "\n")
        self.report(self.place.step, {"epoch": epoch + 1, "loss": loss, "val_mpjpe_mm": error})
