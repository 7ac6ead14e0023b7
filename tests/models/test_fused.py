import pytest
import torch
from reference import largest_difference, load_golden

import pstmo_edge as pe
from pstmo_edge.models.fused import fuse
from pstmo_edge.models.layers import LayerNorm


@pytest.mark.parametrize("name", ["pstmo_s_27", "pstmo_s_81"])
def test_fused_equals_the_published_code(name):
    state, arrays, meta = load_golden(name)
    model = pe.create_model("p-stmo-s", meta["frames"])
    model.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()})
    with torch.no_grad():
        fused = fuse(model)
        assert largest_difference(fused(torch.from_numpy(arrays["keypoints"])), arrays["pose"]) < 1e-4
        assert largest_difference(fused.forward_all(torch.from_numpy(arrays["keypoints"])), arrays["poses_all"]) < 1e-4
    assert not any(isinstance(module, torch.nn.BatchNorm1d | LayerNorm) for module in fused.modules())


@pytest.mark.parametrize("frames", [9, 351])  # strides other than 3 keep their convolution
def test_fused_equals_the_model(frames):
    torch.manual_seed(1)
    model = pe.create_model("p-stmo-s", frames).eval()
    keypoints = torch.randn(2, frames, 17, 2) * 0.3
    with torch.no_grad():
        assert largest_difference(fuse(model)(keypoints), model(keypoints).numpy()) < 1e-5


def test_fusing_leaves_the_model_alone(small_model):
    before = {name: tensor.clone() for name, tensor in small_model.state_dict().items()}
    fuse(small_model)
    after = small_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
