import numpy as np
import onnx
import pytest

from pstmo_edge.backends.onnxruntime import OnnxRuntimeSession
from pstmo_edge.calib.onnx_qdq import quantize_onnx
from pstmo_edge.calib.sensitivity import layer_costs
from pstmo_edge.calib.windows import calibration_windows
from pstmo_edge.datasets import load_sequences
from pstmo_edge.graph import layer_precisions, weight_magnitudes, weighted_layers
from pstmo_edge.metrics import mpjpe
from pstmo_edge.models.zoo import MODELS
from pstmo_edge.targets import TARGETS, runs_here


@pytest.fixture(scope="module")
def graph(small_prepared):
    return small_prepared.source.graph


@pytest.fixture(scope="module")
def windows(small_model):
    return calibration_windows(load_sequences(split="train"), small_model.lifter.window, 48)


@pytest.fixture(scope="module", params=["x86-avx2", "x86-vnni"])
def quantized(request, graph, windows):
    return TARGETS[request.param], quantize_onnx(graph, windows, TARGETS[request.param], MODELS["p-stmo-s"].ends)


def integer_weights(graph):
    return {
        tensor.name: onnx.numpy_helper.to_array(tensor).astype(int)
        for tensor in graph.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    }


def worst_pair_sum(weights):
    """The largest 16-bit sum that VPMADDUBSW can meet: two neighbours along the reduction, times 255."""
    rows = weights if weights.shape[0] % 2 == 0 else np.vstack([weights, 0 * weights[:1]])
    pairs = rows.reshape(len(rows) // 2, 2, -1)
    positive, negative = np.maximum(pairs, 0).sum(1), np.minimum(pairs, 0).sum(1)
    return 255 * max(positive.max(), -negative.min())


def test_without_vnni_no_sum_of_two_products_can_overflow(graph, windows):
    seven = quantize_onnx(graph, windows, TARGETS["x86-avx2"], MODELS["p-stmo-s"].ends)
    assert all(worst_pair_sum(weights) <= 32_767 for weights in integer_weights(seven).values())
    eight = quantize_onnx(graph, windows, TARGETS["x86-vnni"], MODELS["p-stmo-s"].ends)
    assert any(worst_pair_sum(weights) > 32_767 for weights in integer_weights(eight).values())  # the check can fail


def test_all_layers_but_the_ends_are_integers(graph, quantized):
    target, result = quantized
    layers = {layer.name: layer for layer in layer_precisions(result)}
    for name in weighted_layers(graph):
        assert layers[name].precision == ("fp32" if name in MODELS["p-stmo-s"].ends else "int8"), name
    share = sum(x.multiply_adds for x in layers.values() if x.precision == "int8")
    assert share / sum(x.multiply_adds for x in layers.values()) > 0.8
    assert max(weight_magnitudes(result).values()) <= 2 ** (target.weight_bits - 1)


def test_the_file_is_a_third_of_the_size(graph, quantized):
    assert len(quantized[1].SerializeToString()) < 0.35 * len(graph.SerializeToString())


def test_poses_move_little_and_twice_as_far_for_each_bit_less(graph, windows):
    exact = OnnxRuntimeSession(graph.SerializeToString()).run(windows)
    spread = mpjpe(exact, np.broadcast_to(exact.mean(0), exact.shape)).mean()
    if not runs_here(TARGETS["x86-vnni"]):
        pytest.skip("8-bit weights overflow on this CPU")
    moved = {}
    for target in ("x86-vnni", "x86-avx2"):
        found = OnnxRuntimeSession(
            quantize_onnx(graph, windows, TARGETS[target], MODELS["p-stmo-s"].ends).SerializeToString()
        ).run(windows)
        moved[target] = mpjpe(found, exact).mean()
    # Random weights are the worst case: nothing in them is larger than the rest.
    assert moved["x86-vnni"] < 0.2 * spread
    assert moved["x86-vnni"] < moved["x86-avx2"] < 2.5 * moved["x86-vnni"]


def test_multiply_adds_are_those_of_the_architecture(graph):
    layers = {layer.name: layer.multiply_adds for layer in layer_precisions(graph)}
    assert layers["encoder.fc_1"] == 9 * 34 * 512
    assert layers["encoder.layers.0.w1"] == 9 * 512 * 512
    assert layers["Transformer.model.layers.2.self_attn.qkv"] == 9 * 256 * 768
    assert layers["Transformer_reduce.model.layers.0.feed_forward.w_2"] == 9 * 512 * 256 * 3  # stride 1
    assert layers["Transformer_reduce.model.layers.1.feed_forward.w_2"] == 3 * 512 * 256 * 3
    assert layers["fcn.1"] == 256 * 51


def test_a_spoiled_layer_is_found_to_be_the_dearest(graph, windows):
    """One column a thousand times larger than its neighbours: integers cannot hold both in an activation's range."""
    spoiled = onnx.ModelProto()
    spoiled.CopyFrom(graph)
    name = "Transformer.model.layers.1.feed_forward.w_1"
    for tensor in spoiled.graph.initializer:
        if tensor.name == f"{name}.bias":
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[3] += 300.0
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    candidates = ["Transformer.model.layers.0.self_attn.qkv", "Transformer.model.layers.1.feed_forward.w_2", "fcn.1"]
    costs = layer_costs(spoiled, windows, TARGETS["x86-avx2"], candidates)
    assert next(iter(costs)) == "Transformer.model.layers.1.feed_forward.w_2"
    assert list(costs.values()) == sorted(costs.values(), reverse=True)
