"""What a graph says of its layers: names, cost, precision."""

import numpy as np
import onnx
import pytest

from pstmo_edge.export import export_onnx, exportable
from pstmo_edge.graph import layer_nodes, layer_precisions, oriented, weighted_layers
from pstmo_edge.models.interception import layer_weights
from pstmo_edge.models.zoo import create_model


def test_multiply_adds_are_those_of_the_architecture(small_prepared):
    layers = {layer.name: layer.multiply_adds for layer in layer_precisions(small_prepared.source.graph)}
    assert layers["encoder.fc_1"] == 9 * 34 * 512
    assert layers["encoder.layers.0.w1"] == 9 * 512 * 512
    assert layers["Transformer.model.layers.2.self_attn.qkv"] == 9 * 256 * 768
    assert layers["Transformer_reduce.model.layers.0.feed_forward.w_2"] == 9 * 512 * 256 * 3  # stride 1
    assert layers["Transformer_reduce.model.layers.1.feed_forward.w_2"] == 3 * 512 * 256 * 3
    assert layers["fcn.1"] == 256 * 51


@pytest.mark.parametrize(("name", "frames"), [("videopose3d", 9), ("anatomy3d", 9)])
def test_layers_whose_biases_are_all_alike_are_known_by_their_weights(name, frames):
    """Fresh models have zero biases, which exporters drop or merge."""
    import torch

    torch.manual_seed(0)
    model = exportable(create_model(name, frames).eval())
    graph = export_onnx(model)
    matrices = layer_weights(model, torch.zeros(1, frames, 17, len(model.lifter.channels)))
    assert set(weighted_layers(graph)) == set(matrices)
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    for node in layer_nodes(graph):
        if node.input[1] in arrays:
            np.testing.assert_array_equal(oriented(node, arrays[node.input[1]]), matrices[node.name])
