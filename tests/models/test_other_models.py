"""The models that P-STMO is compared with: equal to the published code, over sequences, fused, exported, trained."""

import numpy as np
import pytest
import torch
from reference import largest_difference, load_golden

import pstmo_edge as pe
from pstmo_edge.errors import UsageError
from pstmo_edge.export import export_onnx, exportable
from pstmo_edge.graph import weighted_layers
from pstmo_edge.models.fused import fuse
from pstmo_edge.models.layers import LayerNorm
from pstmo_edge.models.zoo import MODELS
from pstmo_edge.train.objectives import Finetune

TOLERANCE = 1e-4
GOLDEN = {
    "poseformer": "poseformer_81",
    "strided-transformer": "strided_transformer_243",
    "videopose3d": "videopose3d_243",
    "anatomy3d": "anatomy3d_243",
}


@pytest.fixture(scope="module", params=GOLDEN)
def published(request, tmp_path_factory):
    """A model with the published code's parameters, loaded as a user would, and the published input and output."""
    state, arrays, meta = load_golden(GOLDEN[request.param])
    path = tmp_path_factory.mktemp("published") / "published.bin"
    torch.save({"model_pos": {f"module.{name}": torch.from_numpy(array) for name, array in state.items()}}, path)
    model = pe.load_model(request.param, meta.get("frames", meta.get("receptive_field")), path)
    return model, torch.from_numpy(arrays["keypoints"]), arrays["pose"]


def small(name, **options):
    """Nine frames and random statistics, so that no BatchNorm is the identity."""
    torch.manual_seed(1)
    model = pe.create_model(name, 9, **options)
    for key, buffer in model.named_buffers():
        if key.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return model.eval()


def keypoints_for(model, length):
    return torch.rand(2, length, 17, len(model.lifter.channels))


def test_a_window_gives_the_published_pose(published):
    model, keypoints, pose = published
    with torch.no_grad():
        if model.lifter.name == "anatomy3d":  # a sequence of five poses, whose bone lengths come from all five frames
            lengths = model.bone_lengths(keypoints[:, 121:-121])
            found = torch.stack([model(keypoints[:, start : start + 243], lengths) for start in range(5)], dim=1)
        else:
            found, pose = model(keypoints), pose.reshape(len(pose), 17, 3)
    assert largest_difference(found, pose) < TOLERANCE


def test_a_sequence_gives_the_published_poses(published):
    model, keypoints, pose = published
    if not hasattr(model, "forward_sequence"):
        pytest.skip("reads windows only")
    with torch.no_grad():
        assert largest_difference(model.forward_sequence(keypoints), pose) < TOLERANCE


def test_the_per_frame_head_gives_the_published_poses():
    state, arrays, _ = load_golden("strided_transformer_243")
    model = pe.create_model("strided-transformer", 243).eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    with torch.no_grad():
        found = model.forward_all(torch.from_numpy(arrays["keypoints"]))
    assert largest_difference(found, arrays["poses_all"]) < TOLERANCE


@pytest.mark.parametrize("options", [{}, {"target_index": 8}], ids=["centre", "causal"])
def test_a_sequence_equals_its_windows(options):
    model = small("videopose3d", **options)
    keypoints = keypoints_for(model, 14)
    with torch.no_grad():
        windows = torch.stack([model(keypoints[:, start : start + 9]) for start in range(6)], dim=1)
        assert largest_difference(model.forward_sequence(keypoints), windows.numpy()) < 1e-5


def test_the_causal_residual_is_the_newest_frame():
    """With the convolutions silent, what is left is the first layer's answer for the last three frames."""
    model = small("videopose3d", target_index=8)
    for layer in model.layers_conv:
        torch.nn.init.zeros_(layer.weight)
    for norm in model.layers_bn:
        norm.running_mean.zero_()
        torch.nn.init.zeros_(norm.bias)
    keypoints = keypoints_for(model, 9)
    older = keypoints.clone()
    older[:, :6] = 0
    with torch.no_grad():
        assert torch.equal(model(keypoints), model(older))
        older[:, 8] = 0
        assert not torch.equal(model(keypoints), model(older))


@pytest.mark.parametrize("name", GOLDEN)
def test_the_fused_form_computes_the_same(name):
    model = small(name)
    keypoints = keypoints_for(model, 9)
    fused = fuse(model)
    with torch.no_grad():
        assert largest_difference(fused(keypoints), model(keypoints).numpy()) < 1e-5
    assert not any(isinstance(module, torch.nn.BatchNorm1d | LayerNorm) for module in fused.modules())


@pytest.mark.parametrize("name", GOLDEN)
def test_the_graph_names_the_layers_that_stay_in_float(name):
    graph = export_onnx(exportable(small(name)))  # checked against the model at three batch sizes
    assert set(MODELS[name].ends) <= set(weighted_layers(graph))


@pytest.mark.parametrize("name", GOLDEN)
def test_every_parameter_learns(name):
    torch.manual_seed(0)
    model = pe.create_model(name, 9, dropout=0.0)
    objective = Finetune(model).train()
    keypoints, poses = keypoints_for(model, 9), torch.rand(2, 9, 17, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = objective(keypoints, poses)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    silent = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert silent == []


def test_dropped_paths_keep_the_mean():
    model = small("poseformer").train()
    block = model.blocks[3]
    torch.manual_seed(0)
    ones = torch.ones(4000, 1, 1)
    kept = block._kept(ones)
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.9])
    assert kept.mean().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("name", "target"), [("videopose3d", 6), ("anatomy3d", 8)])
def test_a_target_that_a_model_cannot_have_is_refused(name, target):
    with pytest.raises(UsageError, match="centre"):
        pe.create_model(name, 9, target_index=target)


def test_visibility_reaches_the_windows(short_sequences):
    from pstmo_edge.train.batches import SequenceWindows

    window = small("anatomy3d").lifter.window
    batch = SequenceWindows(short_sequences, window).sample(np.arange(6), np.random.default_rng(0))
    assert batch.keypoints.shape == (6, 9, 17, 3)
    assert (batch.keypoints[..., 2] == 1).all()  # exact keypoints are all visible
