"""The training loop: one stage in one folder, on a CPU, a GPU or many processes, resumable to the bit."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pstmo_edge.errors import CheckpointError, DataError, PstmoEdgeError, UsageError
from pstmo_edge.files import write_atomic
from pstmo_edge.models.checkpoints import load_weights, save_weights
from pstmo_edge.models.zoo import state_arrays
from pstmo_edge.train import checkpoints
from pstmo_edge.train.batches import Loader, Windows
from pstmo_edge.train.checkpoints import Place
from pstmo_edge.train.distributed import World, share_batch_norm
from pstmo_edge.train.memory import keep_freed
from pstmo_edge.train.objectives import Objective
from pstmo_edge.train.recipes import Recipe, Schedule

NAN_LIMIT = 5  # losses that are not finite, in a row
LOG = "log.csv"
BEST = "best-{}.safetensors"
_LOADER_THREADS = 4  # on a GPU: as many make windows while it computes
_MASKS = 1 << 20  # a place in the random sequence that no shard of windows has


class Stopped(PstmoEdgeError):
    """A run that was asked to stop (SIGTERM or Ctrl-C) and has saved where it stands."""

    def __init__(self, number: int, step: int, folder: Path) -> None:
        super().__init__(f"stopped at step {step}, nothing is lost: go on with --resume ({folder})")
        self.exit_status = 128 + number


@dataclass(frozen=True)
class Progress:
    """Where a run stands, told after every step; `validation` is there after an epoch's last step."""

    step: int
    steps: int
    epoch: int
    loss: float
    error: float
    unit: str
    windows_per_second: float
    validation: float | None = None


class Trainer:
    """One stage of a run in one folder; `run` goes from wherever the folder's newest checkpoint stands."""

    def __init__(
        self,
        recipe: Recipe,
        schedule: Schedule,
        objective: Objective,
        windows: Windows,
        folder: Path,
        validate: Callable[[], float],
        world: World,
        report: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        if recipe.batch % world.size:
            raise UsageError(f"a batch of {recipe.batch} cannot be shared by {world.size} processes: change --batch")
        self.recipe, self.schedule, self.folder, self.world = recipe, schedule, folder, world
        self.validate, self.report = validate, report
        self.objective = objective.to(world.device)
        if world.size > 1:
            share_batch_norm(objective)
        if world.device.type == "cpu":
            keep_freed()
        trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        # As published: Adam with amsgrad, one rate for all.
        self.optimizer = torch.optim.Adam(trained, lr=schedule.lr, amsgrad=True, fused=True)
        threads = _LOADER_THREADS if world.device.type == "cuda" else 0
        self.loader = Loader(windows, recipe.batch, recipe.seed, rank=world.rank, world=world.size, threads=threads)
        self.steps_per_epoch = recipe.steps_per_epoch or self.loader.steps
        self.total_steps = schedule.epochs * self.steps_per_epoch
        self.place = Place()
        self._run_step = self._wrapped()
        self._signal = 0

    def _wrapped(self) -> nn.Module:
        """The objective as it is called: compiled where asked for, its gradients averaged over all processes."""
        module: nn.Module = torch.compile(self.objective) if self.recipe.compile else self.objective
        if self.world.size > 1:
            module = nn.parallel.DistributedDataParallel(module)
        return module

    def resume(self) -> int:
        """Go back to the folder's newest whole checkpoint, if there is any; returns the step reached."""
        found = checkpoints.found(self.folder)
        for path in reversed(found):
            try:
                load_weights(path)
            except CheckpointError:
                if path == found[0]:
                    raise
                continue  # damaged after it was written: the one before it is kept for this
            self.place = checkpoints.restore(path, self.objective, self.optimizer, self.recipe)
            break
        if self.world.first:
            self._forget_later_rows()
        return self.place.step

    def _forget_later_rows(self) -> None:
        """Drop log rows that were written after the checkpoint: those epochs end again."""
        path = self.folder / LOG
        if path.exists():
            head, *rows = path.read_text().splitlines()
            kept = [row for row in rows if row.count(",") > 1 and int(row.split(",")[1]) <= self.place.step]
            write_atomic(path, ("\n".join([head, *kept]) + "\n").encode())

    def run(self) -> None:
        """Train to the end of the schedule; raises Stopped after SIGTERM or Ctrl-C, once a checkpoint is written."""
        self.objective.train()
        started, first = time.monotonic(), self.place.step
        try:
            with self._listening():
                while self.place.step < self.total_steps:
                    self._advance(started, first)
        finally:
            self.loader.close()

    def _advance(self, started: float, first: int) -> None:
        epoch, within = divmod(self.place.step, self.steps_per_epoch)
        if within == 0:
            self.place = dataclasses.replace(self.place, loss_sum=0.0, loss_count=0)
        stop = self.step(epoch, within)
        step, validation = self.place.step, None
        seconds = time.monotonic() - started
        if within + 1 == self.steps_per_epoch:
            validation = self._finish_epoch(epoch, seconds)
        if stop or step % self.recipe.checkpoint_steps == 0 or step == self.total_steps:
            self._save()
        loss = self.place.loss_sum / max(1, self.place.loss_count)
        rate = (step - first) * self.recipe.batch / max(seconds, 1e-9)
        error, unit = loss * self.objective.scale, self.objective.unit
        self.report(Progress(step, self.total_steps, epoch + 1, loss, error, unit, rate, validation))
        if stop and step < self.total_steps:
            raise Stopped(stop, step, self.folder)

    def step(self, epoch: int, within: int) -> int:
        """Make the step `within` of an epoch, both counted from 0; returns the signal that asks to stop, or 0."""
        recipe, device = self.recipe, self.world.device
        batch = self.loader.batch(epoch, within, self.steps_per_epoch)
        masks = np.random.default_rng([recipe.seed, epoch, within, _MASKS])
        inputs = [tensor.to(device, non_blocking=True) for tensor in self.objective.inputs(batch, masks)]
        # Dropout draws from torch's generator: a seed for each step leaves no random state to store.
        torch.manual_seed(
            int(np.random.SeedSequence([recipe.seed, epoch, within, self.world.rank]).generate_state(1)[0])
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(epoch)
        self.optimizer.zero_grad()
        with self._precision():
            loss = self._run_step(*inputs)
        loss.backward()
        value, stop = self._agree(loss.detach())
        place = dataclasses.replace(self.place, step=self.place.step + 1)
        if math.isfinite(value):
            self.optimizer.step()
            self.place = dataclasses.replace(
                place, loss_sum=place.loss_sum + value, loss_count=place.loss_count + 1, bad_in_a_row=0
            )
            return stop
        self.place = dataclasses.replace(place, bad_in_a_row=place.bad_in_a_row + 1)
        self._log_skipped(epoch)
        if self.place.bad_in_a_row >= NAN_LIMIT:
            raise DataError(
                f"the loss was not finite {NAN_LIMIT} times in a row, at step {self.place.step}: lower the rate with "
                f"--set lr=..., or look for bad keypoints in the data; the last checkpoint is whole"
            )
        return stop

    def _agree(self, loss: Tensor) -> tuple[float, int]:
        """The mean loss over all processes, and the signal any of them has got: all of them must do the same."""
        both = torch.stack([loss.float(), torch.tensor(float(self._signal), device=loss.device)])
        value, number = self.world.mean(both).tolist()
        return value, round(number) and (self._signal or signal.SIGTERM)

    def _precision(self) -> AbstractContextManager[object]:
        device = self.world.device.type
        wanted = self.recipe.precision
        if wanted == "auto":
            wanted = "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
        return torch.autocast(device, torch.bfloat16) if wanted == "bf16" else nullcontext()

    def _finish_epoch(self, epoch: int, seconds: float) -> float:
        """Validate, keep the best, add a row to the log; returns the validation error."""
        error = 0.0
        if self.world.first:
            self.objective.eval()
            error = self.validate()
            self.objective.train()
            loss = self.place.loss_sum / max(1, self.place.loss_count)
            rate = self.schedule.rate(epoch)
            unit = self.objective.unit
            self._log(
                {
                    "epoch": epoch + 1,
                    "step": self.place.step,
                    "lr": f"{rate:.3g}",
                    "loss": f"{loss:.5f}",
                    f"train_{unit}": f"{loss * self.objective.scale:.2f}",
                    f"val_{unit}": f"{error:.2f}",
                    "seconds": f"{seconds:.1f}",
                }
            )
        error = float(self.world.mean(torch.tensor(error, device=self.world.device)) * self.world.size)
        if self.place.best < 0 or error < self.place.best:
            self.place = dataclasses.replace(self.place, best=error)
            if self.world.first:
                for name, model in self.objective.models.items():
                    save_weights(self.folder / BEST.format(name), state_arrays(model), {})
        return error

    def load_best(self) -> None:
        """Put the weights of the epoch with the smallest validation error back into the models."""
        for name, model in self.objective.models.items():
            arrays, _ = load_weights(self.folder / BEST.format(name))
            model.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()})

    def _log(self, row: dict[str, Any]) -> None:
        path = self.folder / LOG
        text = io.StringIO()
        writer = csv.DictWriter(text, row, lineterminator="\n")
        if not path.exists():
            writer.writeheader()
        writer.writerow(row)
        with path.open("a") as log:
            log.write(text.getvalue())
        self._to_tensorboard({name: float(value) for name, value in row.items()})

    def _to_tensorboard(self, row: dict[str, float]) -> None:
        """The same numbers for TensorBoard, where it is installed."""
        with suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            with SummaryWriter(str(self.folder / "tensorboard")) as writer:
                for name in row.keys() - {"epoch", "step"}:
                    writer.add_scalar(name, row[name], int(row["step"]))

    def _log_skipped(self, epoch: int) -> None:
        if self.world.first:
            with (self.folder / "skipped.csv").open("a") as log:
                log.write(f"{epoch + 1},{self.place.step}\n")

    def _save(self) -> None:
        if self.world.first:
            checkpoints.save(self.folder, self.objective, self.optimizer, self.place, self.recipe)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Take SIGTERM and Ctrl-C as a wish to stop after the step in hand; a second one ends the process."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.getsignal(number) for number in numbers}

        def remember(number: int, frame: FrameType | None) -> None:
            self._signal = number
            signal.signal(number, before[signal.Signals(number)])

        for number in numbers:
            signal.signal(number, remember)
        try:
            yield
        finally:
            for number in numbers:
                signal.signal(number, before[number])
