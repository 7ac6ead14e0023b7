import csv
import dataclasses
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from pstmo_edge.errors import CheckpointError, DataError, UsageError
from pstmo_edge.models.zoo import create_model, load_model
from pstmo_edge.train import checkpoints, stages
from pstmo_edge.train.augmentation import MotionWindows
from pstmo_edge.train.loop import NAN_LIMIT, Trainer
from pstmo_edge.train.recipes import RECIPES, Recipe, from_dict, get_recipe, to_dict

TINY = Recipe("p-stmo-s", 9, t_downsample=2, batch=4, epochs=2, steps_per_epoch=4, checkpoint_steps=3, threads=1)


def trainer(folder, recipe=TINY):
    torch.manual_seed(recipe.seed)
    model = create_model(recipe.model, recipe.frames, dropout=recipe.dropout)
    return Trainer(recipe, model, MotionWindows(model.lifter.window, recipe.augmentation), folder, lambda model: 1.0)


def weights(run):
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


@pytest.mark.parametrize(
    ("stop", "reached"),
    [(3, 3), (5, 3), (6, 6)],  # at a checkpoint; after an epoch's end that no checkpoint has seen; in the next epoch
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, stop, reached):
    whole = trainer(tmp_path / "whole")
    whole.folder.mkdir()
    whole.run()

    (tmp_path / "cut").mkdir()
    cut = trainer(tmp_path / "cut")
    cut.report = lambda step, row: (_ for _ in ()).throw(KeyboardInterrupt) if step == stop else None
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    resumed = trainer(tmp_path / "cut")
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
    run = trainer(tmp_path)
    run.run()
    assert [path.name for path in checkpoints.found(tmp_path)] == [
        "checkpoint-0000006.safetensors",
        "checkpoint-0000008.safetensors",
    ]


def test_another_recipe_does_not_resume(tmp_path):
    trainer(tmp_path).run()
    other = trainer(tmp_path, dataclasses.replace(TINY, lr=2e-3))
    with pytest.raises(CheckpointError, match="other settings"):
        other.resume()


def test_losses_that_are_not_finite_are_skipped_then_stop_the_run(tmp_path):
    run = trainer(tmp_path)
    sample = run.windows.sample
    poisoned = []

    def poison(frames, rng):
        keypoints, poses = sample(frames, rng)
        if len(poisoned) < 2:
            poses[:] = np.nan
            poisoned.append(1)
        return keypoints, poses

    run.windows.sample = poison
    run.run()
    assert all(torch.isfinite(tensor).all() for tensor in weights(run).values())

    (tmp_path / "bad").mkdir()
    run = trainer(tmp_path / "bad")
    run.windows.sample = lambda frames, rng: tuple(array * np.nan for array in sample(frames, rng))
    before = {name: parameter.clone() for name, parameter in run.model.named_parameters()}
    with pytest.raises(DataError, match=f"{NAN_LIMIT} times in a row"):
        run.run()
    assert all(torch.equal(before[name], parameter) for name, parameter in run.model.named_parameters())


def test_recipes_survive_json():
    for recipe in RECIPES.values():
        assert from_dict(to_dict(recipe)) == recipe
    with pytest.raises(UsageError, match="did you mean 'cmu-27'"):
        get_recipe("cmu27")


def test_training_learns(tmp_path):
    """Two hundred windows seen again and again: the loss must fall by half."""
    recipe = dataclasses.replace(TINY, epochs=1, steps_per_epoch=40, batch=16, lr=1e-3, dropout=0.0)
    losses = []
    run = trainer(tmp_path, recipe)
    fixed = run.windows.sample(np.arange(0, 3200, 200), np.random.default_rng(0))
    run.windows.sample = lambda frames, rng: fixed
    step = run._step
    run._step = lambda epoch, within: losses.append(step(epoch, within)) or losses[-1]
    run.run()
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


SCRIPT = """
import dataclasses, sys
from pathlib import Path
from pstmo_edge.train import stages
from pstmo_edge.train.recipes import get_recipe
recipe = dataclasses.replace(get_recipe("smoke"), batch=4, epochs=1, steps_per_epoch=60, checkpoint_steps=5, threads=1)
stages.finetune(recipe, Path(sys.argv[1]), resume=True)
"""


def test_a_killed_run_goes_on(tmp_path):
    """SIGKILL in the middle: the next start goes on from a whole checkpoint and ends with weights that load."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    child = subprocess.Popen(command)
    while not checkpoints.found(tmp_path) and child.poll() is None:
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / stages.WEIGHTS).exists()
    subprocess.run(command, check=True)
    model = load_model("p-stmo-s", 9, tmp_path / stages.WEIGHTS)
    assert model.lifter.t_downsample == 1
    assert (tmp_path / stages.WEIGHTS).stat().st_size < 12_000_000
