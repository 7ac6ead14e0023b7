"""The stages of training as a user starts them: a recipe, data and a folder in, weights out.

A run is one folder with a subfolder for each of its stages: `pretrain` (Stage I), `finetune` (Stage II), `refine`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pstmo_edge.backends.torch import TorchSession
from pstmo_edge.datasets import load_sequences, one_camera_a_take
from pstmo_edge.datasets.sequences import PoseSequence
from pstmo_edge.errors import CheckpointError, UsageError
from pstmo_edge.evaluation import evaluate
from pstmo_edge.files import write_atomic
from pstmo_edge.models.checkpoints import save_weights
from pstmo_edge.models.fitting import fit_state
from pstmo_edge.models.refine import refiner
from pstmo_edge.models.zoo import MODELS, RUN_WEIGHTS, check_model, create_model, read_weights, state_arrays
from pstmo_edge.train import checkpoints, curve
from pstmo_edge.train.batches import SequenceWindows, Windows
from pstmo_edge.train.distributed import World, joined
from pstmo_edge.train.loop import LOG, Progress, Trainer
from pstmo_edge.train.objectives import Finetune, Objective, Pretrain, Refinement
from pstmo_edge.train.recipes import Recipe, to_dict
from pstmo_edge.windows import WindowSource, WindowSpec

STAGES = ("pretrain", "finetune", "refine")
REFINE_WEIGHTS = "refine.safetensors"
_VALIDATION_BATCH = 256


@dataclass(frozen=True)
class Transfer:
    """Which tensors of a model came from another one's weights, which are fresh, and which had no place in it."""

    source: str
    transferred: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hooks:
    """What a run tells while it works."""

    progress: Callable[[Progress], None] = lambda progress: None
    transferred: Callable[[Transfer], None] = lambda transfer: None
    resumed: Callable[[int], None] = lambda step: None


@dataclass
class Run:
    """One stage about to be trained."""

    recipe: Recipe
    stage: str
    out: Path
    initial: str | None = None
    resume: bool = False
    hooks: Hooks = field(default_factory=Hooks)

    def train(self) -> Path:
        """Train; returns the weights file. Raises UsageError, DataError, CheckpointError, WriteError, Stopped."""
        with joined() as world:
            return self._train(world)

    @property
    def folder(self) -> Path:
        """Where this stage's files go."""
        return self.out / self.stage

    def _train(self, world: World) -> Path:
        recipe = self.recipe
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        self._check_folder(world)
        check_model(recipe.model, recipe.frames)
        channels = len(MODELS[recipe.model].channels)
        window = WindowSpec(recipe.frames, recipe.t_downsample, recipe.target_index, channels)
        windows = training_windows(recipe, window)
        held_out = one_camera_a_take(load_sequences(recipe.data, "test", recipe.keypoints, recipe.skeleton))
        torch.manual_seed(recipe.seed)
        if not world.first:
            self.hooks = Hooks()  # one process reports
        objective, validate = self._objective(windows, held_out)
        trainer = Trainer(
            recipe, recipe.schedule(self.stage), objective, windows, self.folder, validate, world, self.hooks.progress
        )
        step = trainer.resume()
        if step:
            self.hooks.resumed(step)
        trainer.run()
        path = self.folder / RUN_WEIGHTS
        if world.first:  # the others might look for the best weights before they are written
            if recipe.keep == "best":
                trainer.load_best()
            curve.draw(self.folder / LOG, f"{recipe.model}, {recipe.frames} frames, {self.stage}")
            for name, model in objective.stored.items():
                write_weights(self.folder / f"{name}.safetensors", model, recipe)
        world.wait()
        return path

    def _check_folder(self, world: World) -> None:
        if not self.recipe.data:
            raise UsageError("this recipe has no data of its own: say where it is with --data")
        if self.recipe.qat is not None and self.stage == "finetune" and self._source() is None:
            raise UsageError("quantization-aware training starts from trained weights: name them with --from")
        if world.first:
            self.folder.mkdir(parents=True, exist_ok=True)
        if checkpoints.found(self.folder) and not self.resume:
            raise UsageError(f"{self.folder} holds a run: go on with --resume, or choose another --out")
        world.wait()

    def _objective(self, windows: Windows, held_out: tuple[PoseSequence, ...]) -> tuple[Objective, Callable[[], float]]:
        recipe = self.recipe
        if self.stage == "pretrain":
            model = self._model(f"{recipe.model}-pretrain", windows)
            pretrain = Pretrain(model, recipe.mask_rate, recipe.masked_joints)
            return pretrain, lambda: rebuild_error(pretrain, windows.spec, held_out)
        model = self._model(recipe.model, windows)
        if recipe.qat is not None and self.stage == "finetune":
            return self._quantized(model, windows, held_out)
        refine = create_model("refine") if self.stage == "refine" else None
        objective = Finetune(model) if refine is None else Refinement(model, refine)

        def validate() -> float:
            """MPJPE in millimetres, without mirroring."""
            return evaluate(
                TorchSession(model).run, held_out, windows.spec, refine=refiner(refine) if refine else None
            ).mpjpe_mm

        return objective, validate

    def _quantized(
        self, model: nn.Module, windows: Windows, held_out: tuple[PoseSequence, ...]
    ) -> tuple[Objective, Callable[[], float]]:
        """Stage II with integer layers, which are measured as they are."""
        from pstmo_edge.train.qat import QuantizedFinetune, calibration_for

        assert self.recipe.qat is not None
        objective = QuantizedFinetune(model, calibration_for(self.recipe, model), self.recipe.qat)
        emulated = TorchSession(objective.emulated())
        return objective, lambda: evaluate(emulated.run, held_out, windows.spec).mpjpe_mm

    def _model(self, name: str, windows: Windows) -> Any:
        recipe = self.recipe
        if name not in MODELS:
            raise UsageError(f"{recipe.model} has no stage {self.stage}")
        use = recipe.use_t_downsample or recipe.t_downsample
        model = create_model(
            name,
            recipe.frames,
            t_downsample=use,
            target_index=recipe.target_index,
            dropout=recipe.dropout,
            frame_rate=windows.fps * use / recipe.t_downsample,
            skeleton=recipe.skeleton,
            pose_skeleton=windows.pose_skeleton,
        )
        source = self._source()
        if source is not None:
            state, _, _ = read_weights(source)
            moved = transfer(model, state, source)
            write_atomic(self.folder / "transfer.json", json.dumps(dataclasses.asdict(moved), indent=1).encode())
            self.hooks.transferred(moved)
        return model

    def _source(self) -> str | None:
        """The weights that this stage starts from: those asked for, or those of the stage before it in this run."""
        if self.initial is not None:
            return None if self.initial == "none" else self.initial
        before = {"finetune": "pretrain", "refine": "finetune"}.get(self.stage)
        path = self.out / before / RUN_WEIGHTS if before else None
        if path is not None and path.is_file():
            return str(path)
        if self.stage == "refine":
            raise UsageError(f"refinement starts from a trained lifter, and {path} is not there: name one with --from")
        return None


def train(
    stage: str,
    recipe: Recipe,
    out: str | Path,
    *,
    initial: str | None = None,
    resume: bool = False,
    hooks: Hooks | None = None,
) -> Path:
    """Train one stage ("pretrain", "finetune" or "refine") of a run in the folder `out`; returns its weights file.

    Each stage starts from the one before it where that is in `out`; `initial` names other weights (as `load_model`
    takes them), or "none". The stage's folder gets a CSV log, the two newest checkpoints, the best epoch's weights
    and, at the end, `weights.safetensors` in half precision. Under torchrun the batch is shared by all processes.
    Raises UsageError, DataError, CheckpointError, WriteError, and Stopped after SIGTERM.
    """
    return Run(recipe, stage, Path(out), initial, resume, hooks or Hooks()).train()


def training_windows(recipe: Recipe, window: WindowSpec) -> Windows:
    """The recipe's training set: augmented world motion, or the views of a dataset as they are."""
    if recipe.augmentation is not None:
        from pstmo_edge.datasets.takes import load_takes
        from pstmo_edge.train.augmentation import MotionWindows

        return MotionWindows(load_takes(recipe.data, "train"), window, recipe.augmentation, recipe.skeleton)
    return SequenceWindows(load_sequences(recipe.data, "train", recipe.keypoints, recipe.skeleton), window)


def transfer(model: nn.Module, state: Mapping[str, np.ndarray], source: str) -> Transfer:
    """Put every tensor that fits by name and shape into the model; raises CheckpointError where none does."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    fitting = [name for name in expected if name in state and state[name].shape == expected[name]]
    if not fitting:
        raise CheckpointError(f"{source} holds nothing that fits {model.lifter.name} with {model.lifter.frames} frames")
    arrays = fit_state({n: state[n] for n in fitting}, {n: expected[n] for n in fitting}, source, model.lifter.name)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=False)
    return Transfer(
        source,
        tuple(fitting),
        tuple(name for name in expected if name not in fitting),
        tuple(sorted(name for name in state if name not in fitting)),  # a file orders them as it likes
    )


def rebuild_error(objective: Pretrain, window: WindowSpec, held_out: tuple[PoseSequence, ...]) -> float:
    """Stage I's error on held-out keypoints, with fixed masks: pixels of an image 1000 pixels wide."""
    device = next(objective.parameters()).device
    source = WindowSource([sequence.keypoints for sequence in held_out], window)
    rng = np.random.default_rng(0)
    total = 0.0
    with torch.inference_mode():
        for frames, windows in source.batches(_VALIDATION_BATCH):
            inputs = (tensor.to(device) for tensor in objective.masked(windows, rng))
            total += float(objective(*inputs)) * len(frames)
    return total / len(source) * objective.scale


def write_weights(path: Path, model: nn.Module, recipe: Recipe) -> None:
    """Write a model's weights in half precision, with what an engine must know about them.

    Those of quantization-aware training stay in float32: half precision would move some across a rounding edge.
    """
    arrays = {
        name: array.astype(np.float16) if array.dtype.kind == "f" and recipe.qat is None else array
        for name, array in state_arrays(model).items()
    }
    save_weights(path, arrays, {**model.lifter.notes(), "recipe": json.dumps(to_dict(recipe))})
