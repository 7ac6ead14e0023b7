import csv
import dataclasses
import os
import signal

import numpy as np
import pytest
import torch

from pstmo_edge.datasets import cmu_mocap
from pstmo_edge.errors import CheckpointError, DataError
from pstmo_edge.models.zoo import create_model
from pstmo_edge.train import checkpoints
from pstmo_edge.train.augmentation import MotionWindows
from pstmo_edge.train.distributed import World
from pstmo_edge.train.loop import NAN_LIMIT, Stopped, Trainer
from pstmo_edge.train.objectives import Finetune
from pstmo_edge.train.recipes import Augmentation, Recipe

TINY = Recipe(
    "p-stmo-s", 9, t_downsample=2, data="cmu-mocap", dropout=0.0, batch=4, epochs=2, steps_per_epoch=4,
    checkpoint_steps=3, threads=1, augmentation=Augmentation(),
)  # fmt: skip
ALONE = World(0, 1, torch.device("cpu"))


def tiny_trainer(folder, recipe=TINY, world=ALONE, validate=lambda: 1.0):
    torch.manual_seed(recipe.seed)
    model = create_model(recipe.model, recipe.frames, t_downsample=recipe.t_downsample, dropout=recipe.dropout)
    windows = MotionWindows(cmu_mocap.takes("train"), model.lifter.window, recipe.augmentation)
    return Trainer(recipe, recipe.schedule("finetune"), Finetune(model), windows, folder, validate, world)


def weights(run):
    return {name: tensor.clone() for name, tensor in run.objective.state_dict().items()}


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(
    ("stop", "reached"),
    [(3, 3), (5, 3), (6, 6)],  # at a checkpoint; after an epoch's end that no checkpoint has seen; in the next epoch
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, stop, reached, dropout):
    recipe = dataclasses.replace(TINY, dropout=dropout)
    whole = tiny_trainer(tmp_path / "whole", recipe)
    whole.folder.mkdir()
    whole.run()

    (tmp_path / "cut").mkdir()
    cut = tiny_trainer(tmp_path / "cut", recipe)
    cut.report = lambda now: (_ for _ in ()).throw(RuntimeError) if now.step == stop else None
    with pytest.raises(RuntimeError):
        cut.run()
    resumed = tiny_trainer(tmp_path / "cut", recipe)
    torch.rand(7)  # what other code drew in between must not matter
    assert resumed.resume() == reached
    resumed.run()

    expected, found = weights(whole), weights(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    logs = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("whole", "cut")]
    rows, again = ([row[:-1] for row in csv.reader(log)] for log in logs)  # but for the seconds
    assert again == rows
    assert len(rows) == 3


def test_only_the_newest_two_checkpoints_are_kept(tmp_path):
    run = tiny_trainer(tmp_path)
    run.run()
    assert [path.name for path in checkpoints.found(tmp_path)] == [
        "checkpoint-0000006.safetensors",
        "checkpoint-0000008.safetensors",
    ]


def test_another_recipe_does_not_resume_and_says_what_differs(tmp_path):
    tiny_trainer(tmp_path).run()
    other = tiny_trainer(tmp_path, dataclasses.replace(TINY, lr=2e-3))
    before = [path.read_bytes() for path in checkpoints.found(tmp_path)]
    with pytest.raises(CheckpointError, match=r"lr \(0\.002, was 0\.001\)"):
        other.resume()
    assert [path.read_bytes() for path in checkpoints.found(tmp_path)] == before


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(tmp_path):
    tiny_trainer(tmp_path).run()
    older, newest = checkpoints.found(tmp_path)
    newest.write_bytes(newest.read_bytes()[:-100])
    assert tiny_trainer(tmp_path).resume() == 6
    older.write_bytes(b"nothing")
    with pytest.raises(CheckpointError):
        tiny_trainer(tmp_path).resume()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(tmp_path, number):
    before = signal.getsignal(number)
    run = tiny_trainer(tmp_path)
    run.report = lambda now: os.kill(os.getpid(), number) if now.step == 1 else None
    with pytest.raises(Stopped, match="--resume") as caught:
        run.run()
    assert caught.value.exit_status == 128 + number
    assert [path.name for path in checkpoints.found(tmp_path)] == ["checkpoint-0000002.safetensors"]
    assert signal.getsignal(number) is before


def test_the_best_epoch_is_kept(tmp_path):
    errors = iter([3.0, 5.0])
    run = tiny_trainer(tmp_path, validate=lambda: next(errors))
    after_first = {}
    run.report = lambda now: after_first.update(weights(run)) if now.step == 4 else None
    run.run()
    assert run.place.best == 3.0
    assert not all(torch.equal(after_first[name], tensor) for name, tensor in weights(run).items())
    run.load_best()
    assert all(torch.equal(after_first[name], tensor) for name, tensor in weights(run).items())


def test_losses_that_are_not_finite_are_skipped_then_stop_the_run(tmp_path):
    run = tiny_trainer(tmp_path)
    sample = run.loader.windows.sample
    poisoned = []

    def poison(frames, rng):
        batch = sample(frames, rng)
        if len(poisoned) < 2:
            batch.poses[:] = np.nan
            poisoned.append(1)
        return batch

    run.loader.windows.sample = poison
    run.run()
    assert all(torch.isfinite(tensor).all() for tensor in weights(run).values())
    assert (tmp_path / "skipped.csv").read_text() == "1,1\n1,2\n"

    (tmp_path / "bad").mkdir()
    run = tiny_trainer(tmp_path / "bad")
    run.loader.windows.sample = lambda frames, rng: dataclasses.replace(
        sample(frames, rng), poses=np.full((4, 9, 17, 3), np.nan, np.float32)
    )
    before = {name: parameter.clone() for name, parameter in run.objective.named_parameters()}
    with pytest.raises(DataError, match=f"{NAN_LIMIT} times in a row"):
        run.run()
    assert all(torch.equal(before[name], parameter) for name, parameter in run.objective.named_parameters())


def test_training_learns(tmp_path):
    """Two hundred windows seen again and again: the loss must fall by half."""
    recipe = dataclasses.replace(TINY, epochs=1, steps_per_epoch=40, batch=16, lr=1e-3, dropout=0.0)
    sums = [0.0]
    run = tiny_trainer(tmp_path, recipe)
    fixed = run.loader.windows.sample(np.arange(0, 3200, 200), np.random.default_rng(0))
    run.loader.windows.sample = lambda frames, rng: fixed
    run.report = lambda now: sums.append(run.place.loss_sum)
    run.run()
    losses = np.diff(sums)
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
