import pytest
import torch
from torch.nn import functional as F

from pstmo_edge.export import random_keypoints
from pstmo_edge.models.fused import fuse
from pstmo_edge.models.interception import intercepted, layer_weights, normalised_layers
from pstmo_edge.models.zoo import create_model


def test_a_convolution_is_the_product_over_its_taps():
    torch.manual_seed(0)
    for taps, stride, padding, dilation in [(3, 1, 1, 1), (3, 9, 1, 1), (1, 1, 0, 1), (3, 2, 0, 3)]:
        conv = torch.nn.Conv1d(4, 5, taps, stride, padding, dilation)
        x = torch.randn(2, 4, 27)
        exact = conv(x)
        with intercepted(conv, lambda name, rows, weight, bias: F.linear(rows, weight, bias)):
            found = conv(x)
        torch.testing.assert_close(found, exact)


@pytest.mark.parametrize(("name", "frames", "pairs"), [("p-stmo-s", 27, 12), ("p-stmo", 9, 14), ("poseformer", 9, 17)])
def test_norms_and_the_matrices_behind_them(name, frames, pairs):
    model = fuse(create_model(name, frames))
    keypoints = torch.from_numpy(random_keypoints(1, frames))
    found = normalised_layers(model, keypoints)
    assert len(found) == pairs
    weights = layer_weights(model, keypoints)
    for layer, norm in found.items():
        assert weights[layer].shape[1] == len(model.get_submodule(norm).weight)
    if name == "p-stmo-s":
        prefix = "Transformer_reduce.model.layers.1"
        assert found[f"{prefix}.self_attn.qkv"] == f"{prefix}.sublayer.0.norm"
        assert found[f"{prefix}.feed_forward.w_1"] == f"{prefix}.sublayer.1.norm"


def test_a_norm_that_two_read_is_no_pair():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.linear = torch.nn.LayerNorm(4), torch.nn.Linear(4, 4)

        def forward(self, x):
            y = self.norm(x)
            return self.linear(y) + y

    assert normalised_layers(Twice(), torch.randn(2, 4)) == {}
