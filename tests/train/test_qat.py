"""Quantization-aware fine-tuning: what training computes is what evaluation computes, and gradients pass."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from pstmo_edge.calib.calibrate import calibrate
from pstmo_edge.calib.emulation import EmulatedModel, IntegerLayer
from pstmo_edge.calib.rounding import nearest, weight_scales
from pstmo_edge.calib.settings import Activations, Granularity, Settings, Weights
from pstmo_edge.errors import UsageError
from pstmo_edge.export import random_keypoints, relative_difference
from pstmo_edge.models.checkpoints import load_weights, save_weights
from pstmo_edge.models.fused import fuse
from pstmo_edge.models.interception import layer_weights
from pstmo_edge.models.zoo import create_model, load_model, state_arrays
from pstmo_edge.train import stages
from pstmo_edge.train.qat import QuantizedFinetune, TrainedLayer, quantization_aware
from pstmo_edge.train.recipes import Quantized, from_dict, get_recipe, overridden, to_dict
from pstmo_edge.train.stages import train

COARSE = Quantized(weight_bits=4, per_channel=False)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model("p-stmo-s", 9, dropout=0.0).eval()


def integers(objective):
    """The layers of training as integer layers, by the definition of `calib.emulation`."""
    keypoints = torch.from_numpy(random_keypoints(1, 9))
    weights = layer_weights(objective.lifter, keypoints)
    found = {}
    for name, layer in objective.layers.items():
        scale = weight_scales(weights[name], layer.weights)
        whole = nearest(weights[name], scale, layer.weights.limit)
        bias = objective.lifter.get_submodule(name).bias.detach()
        activations = Activations(8, layer.grid.low < 0)
        found[name] = IntegerLayer(whole, scale, bias, activations, layer.grid)
    return EmulatedModel(objective.lifter, found)


@pytest.mark.parametrize("quantized", [Quantized(), COARSE, Quantized(symmetric=True), Quantized(7, ends=True)])
def test_training_computes_what_the_integer_layers_compute(model, quantized):
    windows = random_keypoints(8, 9)
    objective = QuantizedFinetune(model, windows, quantized).train()
    with torch.no_grad():
        for parameter in objective.lifter.parameters():  # as after some steps
            parameter.mul_(1 + 0.01 * torch.randn_like(parameter))
    keypoints = torch.from_numpy(windows[:4])
    with torch.inference_mode():
        trained = objective.emulated()(keypoints).numpy()
        exact = integers(objective)(keypoints).numpy()
        floating = objective.lifter(keypoints).numpy()
    own = relative_difference(exact, floating)
    assert np.median(np.abs(trained - exact)) < 0.05 * np.median(np.abs(exact - floating)), own
    assert own > 1e-4
    loss = objective(keypoints, torch.zeros(4, 9, 17, 3))
    both = torch.from_numpy(trained).norm(dim=-1).mean()
    assert float(loss.detach()) > float(both)  # the target's distance, in integers, and that of the per-frame head


def test_ends_are_quantized_where_asked_for(model):
    windows = random_keypoints(8, 9)
    plain = QuantizedFinetune(model, windows, Quantized())
    whole = QuantizedFinetune(model, windows, Quantized(ends=True))
    assert set(whole.layers) - set(plain.layers) == set(model.lifter.ends)


def test_gradients_reach_every_weight_and_no_batch_norm(model):
    objective = QuantizedFinetune(model, random_keypoints(8, 9), COARSE).train()
    batch = torch.from_numpy(random_keypoints(4, 9)), torch.randn(4, 9, 17, 3)
    objective(*batch).backward()
    frozen = {name for name, parameter in objective.named_parameters() if not parameter.requires_grad}
    assert {name.rsplit(".", 2)[1] for name in frozen} == {"norm"}  # the closing norms, which are never applied
    assert len(frozen) == 4
    for name, parameter in objective.named_parameters():
        if name in frozen:
            continue
        assert parameter.grad is not None, name
        if "qkv.bias" not in name:  # a key's bias moves all scores of a query alike
            assert float(parameter.grad.abs().sum()) > 0, name
    assert not any(isinstance(module, torch.nn.BatchNorm1d) for module in objective.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_gradient_is_straight_inside_the_grid():
    layer = TrainedLayer(Weights(8), None)
    x, weight = torch.randn(5, 16), torch.randn(3, 16, requires_grad=True)
    layer(x, weight, torch.zeros(3)).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum(0).expand(3, 16))


def test_a_few_steps_lower_the_loss_of_coarse_weights(model):
    torch.manual_seed(0)
    objective = QuantizedFinetune(model, random_keypoints(8, 9), COARSE).train()
    keypoints = torch.from_numpy(random_keypoints(8, 9))
    with torch.no_grad():
        wanted = model.forward_all(keypoints)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-4)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = objective(keypoints, wanted)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.8 * losses[0], losses


@pytest.fixture
def tiny(tmp_path, model, short_sequences, monkeypatch):
    """A recipe of four steps, which three short views validate, and weights to start from."""
    monkeypatch.setattr(stages, "one_camera_a_take", lambda sequences: short_sequences)
    save_weights(tmp_path / "start.safetensors", state_arrays(model), model.lifter.notes())
    recipe = quantization_aware(get_recipe("tiny"), COARSE)
    return dataclasses.replace(recipe, steps_per_epoch=2, checkpoint_steps=1, batch=4, threads=1), tmp_path


def test_a_run_leaves_ordinary_weights_that_build_better(tiny):
    recipe, folder = tiny
    weights = train("finetune", recipe, folder / "run", initial=str(folder / "start.safetensors"))
    arrays, notes = load_weights(weights)
    assert json.loads(notes["recipe"])["qat"] == dataclasses.asdict(COARSE)
    assert {array.dtype for array in arrays.values() if array.dtype.kind == "f"} == {np.dtype("float32")}
    found = load_model("p-stmo-s", 9, weights)
    windows = random_keypoints(8, 9)
    settings = Settings(Weights(4, Granularity.PER_TENSOR), keep_float=found.lifter.ends)
    emulated = calibrate(fuse(found), windows, settings)
    assert np.isfinite(emulated(torch.from_numpy(windows)).numpy()).all()
    assert (folder / "run/finetune/log.csv").read_text().count("\n") == 3


def test_a_resumed_run_is_the_uninterrupted_one(tiny):
    recipe, folder = tiny
    start = str(folder / "start.safetensors")
    whole, _ = load_weights(train("finetune", recipe, folder / "whole", initial=start))
    train("finetune", recipe, folder / "parts", initial=start)
    run = folder / "parts/finetune"
    for name in ("checkpoint-0000004.safetensors", "weights.safetensors"):  # as killed after the third step
        (run / name).unlink()
    resumed, _ = load_weights(train("finetune", recipe, folder / "parts", initial=start, resume=True))
    for name, array in whole.items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)


def test_it_starts_from_trained_weights_of_a_model_that_can_be_stored(tiny):
    recipe, folder = tiny
    with pytest.raises(UsageError, match="starts from trained weights: name them with --from"):
        train("finetune", recipe, folder / "run")
    other = create_model("videopose3d", 9)
    with pytest.raises(UsageError, match="only P-STMO's family"):
        QuantizedFinetune(other, random_keypoints(2, 9), Quantized())
    with pytest.raises(UsageError, match="precision=fp32"):
        dataclasses.replace(recipe, precision="bf16")


def test_its_settings_can_be_overridden_and_survive_a_checkpoint():
    recipe = overridden(quantization_aware(get_recipe("cmu-27")), ["qat.weight_bits=4", "qat.per_channel=false"])
    assert recipe.qat == COARSE
    assert from_dict(json.loads(json.dumps(to_dict(recipe)))) == recipe
    with pytest.raises(UsageError, match="weight_bits"):
        overridden(recipe, ["qat.weight_bit=4"])
    assert overridden(get_recipe("tiny"), ["qat.symmetric=true"]).qat == Quantized(symmetric=True)
