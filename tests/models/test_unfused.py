"""From the fused form back: the same function, for any weights the fused form may have got."""

import pytest
import torch

from pstmo_edge.errors import UsageError
from pstmo_edge.export import random_keypoints
from pstmo_edge.models.emission import emitting
from pstmo_edge.models.fused import fuse
from pstmo_edge.models.unfused import unfuse
from pstmo_edge.models.zoo import create_model


def trained(name, frames):
    """A model whose BatchNorms and LayerNorms have seen something."""
    torch.manual_seed(1)
    model = create_model(name, frames).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
                module.bias.normal_(0, 0.3)
    return model


@pytest.mark.parametrize(("name", "frames"), [("p-stmo-s", 9), ("p-stmo", 27), ("strided-transformer", 9)])
def test_fusing_again_gives_the_fused_weights_back(name, frames):
    model = trained(name, frames)
    fused = fuse(model)
    with torch.no_grad():
        for parameter in fused.parameters():  # as training moves them, every one
            parameter.add_(0.05 * parameter.abs().mean() * torch.randn_like(parameter))
    back = unfuse(fused, model)
    again = fuse(back).state_dict()
    assert back.state_dict().keys() == model.state_dict().keys()
    for name, value in fused.state_dict().items():
        torch.testing.assert_close(again[name], value, rtol=1e-4, atol=1e-5, msg=name)
    keypoints = torch.from_numpy(random_keypoints(2, frames))
    with torch.inference_mode():
        torch.testing.assert_close(back(keypoints), fused(keypoints), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(back(keypoints), model(keypoints), rtol=1e-4, atol=1e-4)


def test_a_channel_that_a_batch_norm_stops_keeps_its_weights():
    model = trained("p-stmo-s", 9)
    with torch.no_grad():
        model.encoder.bn_1.weight[3] = 0
    back = unfuse(fuse(model), model)
    assert torch.equal(back.encoder.fc_1.weight[3], model.encoder.fc_1.weight[3])
    assert all(bool(value.isfinite().all()) for value in back.state_dict().values())


def test_other_models_have_no_way_back():
    for model in (trained("videopose3d", 9), emitting(trained("p-stmo-s", 9), "all")):
        with pytest.raises(UsageError, match="only P-STMO's family"):
            unfuse(fuse(model), model)
