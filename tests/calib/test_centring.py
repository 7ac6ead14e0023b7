"""Centred models compute the same, from inputs whose means are 0."""

import pytest
import torch

from pstmo_edge.calib.centring import centre
from pstmo_edge.calib.observers import observe
from pstmo_edge.export import random_keypoints
from pstmo_edge.models.fused import fuse
from pstmo_edge.models.zoo import create_model


@pytest.mark.parametrize(
    ("name", "frames", "centred"),
    [("p-stmo-s", 9, 6 * 3), ("p-stmo", 27, 7 * 3), ("poseformer", 9, 8 * 3 + 1)],  # its head reads a LayerNorm too
)
def test_it_is_the_same_function_of_centred_inputs(name, frames, centred):
    """In every transformer layer three: queries with keys and values, attention's output, the first of the MLP."""
    torch.manual_seed(0)
    model = fuse(create_model(name, frames).eval())
    windows = random_keypoints(4, frames)
    keypoints = torch.from_numpy(windows)
    before = observe(model, windows)
    with torch.inference_mode():
        expected = model(keypoints)
    centre(model, before, keypoints[:1])
    with torch.inference_mode():
        assert (model(keypoints) - expected).abs().max() < 1e-5 * expected.abs().max()
    means = {layer: float(seen.total.abs().max()) for layer, seen in observe(model, windows).items()}
    moved = [layer for layer, mean in means.items() if mean < 1e-5 < float(before[layer].total.abs().max())]
    assert len(moved) == centred, moved
