import numpy as np
import pytest
import torch
from reference import largest_difference, load_golden

import pstmo_edge as pe

TOLERANCE = 1e-4
LIFTERS = ["pstmo_s_27", "pstmo_s_81", "pstmo_s_243", "pstmo_243"]


def published_file(path, state, form):
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    if form == "data parallel":
        tensors = {f"module.{name}": tensor for name, tensor in tensors.items()}
    torch.save({"model_pos": tensors, "epoch": 3} if form == "model_pos" else tensors, path)
    return path


@pytest.mark.parametrize("name", LIFTERS)
def test_lifters_equal_the_published_code(name, tmp_path):
    state, arrays, meta = load_golden(name)
    form = {"pstmo_s_81": "model_pos", "pstmo_243": "data parallel"}.get(name, "plain")
    path = published_file(tmp_path / "published.pth", state, form)
    model = pe.load_model("p-stmo-s" if meta["layers"] == 3 else "p-stmo", meta["frames"], path)
    keypoints = torch.from_numpy(arrays["keypoints"])
    with torch.no_grad():
        assert largest_difference(model(keypoints), arrays["pose"]) < TOLERANCE
        assert largest_difference(model.forward_all(keypoints), arrays["poses_all"]) < TOLERANCE
        centre, every = model.forward_both(keypoints)
    assert largest_difference(centre, arrays["pose"]) < TOLERANCE
    assert largest_difference(every, arrays["poses_all"]) < TOLERANCE


def test_masked_pose_modelling_equals_the_published_code(tmp_path):
    state, arrays, meta = load_golden("pstmo_s_243_pretrain")
    path = published_file(tmp_path / "pretrain.pth", state, "data parallel")
    model = pe.load_model("p-stmo-s-pretrain", meta["frames"], path)
    inputs = (torch.from_numpy(arrays[name]) for name in ("keypoints", "temporal_mask", "spatial_mask"))
    with torch.no_grad():
        assert largest_difference(model(*inputs), arrays["reconstructed"]) < TOLERANCE


def test_the_comparison_notices_a_wrong_layer_norm(monkeypatch):
    from pstmo_edge.models import layers

    state, arrays, _ = load_golden("pstmo_s_27")
    model = pe.create_model("p-stmo-s", 27).eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})

    def biased(self, x):
        deviation, mean = torch.std_mean(x, dim=-1, keepdim=True, correction=0)
        return self.a_2 * (x - mean) / (deviation + self.eps) + self.b_2

    monkeypatch.setattr(layers.LayerNorm, "forward", biased)
    with torch.no_grad():
        assert largest_difference(model(torch.from_numpy(arrays["keypoints"])), arrays["pose"]) > TOLERANCE


@pytest.mark.parametrize("frames", [9, 351])
def test_window_sizes_without_a_golden_file_reduce_to_one_pose(frames):
    model = pe.create_model("p-stmo", frames).eval()
    with torch.no_grad():
        pose = model(torch.zeros(2, frames, 17, 2))
    assert pose.shape == (2, 17, 3)
    assert np.isfinite(pose.numpy()).all()


def test_refinement_equals_the_published_code(tmp_path):
    state, arrays, _ = load_golden("refine")
    model = pe.load_model("refine", checkpoint=published_file(tmp_path / "refine.pth", state, "data parallel"))
    with torch.no_grad():
        refined = model(torch.from_numpy(arrays["pose"]).float(), torch.from_numpy(arrays["pose_uvd"]).float())
    assert largest_difference(refined, arrays["refined"]) < TOLERANCE
