"""The formats beside INT8: each emulation against its definition, each graph against its emulation."""

import dataclasses

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from pstmo_edge.backends.onnxruntime import OnnxRuntimeSession
from pstmo_edge.calib.emulation import EmulatedModel, Grid, IntegerLayer
from pstmo_edge.calib.format_graph import format_graph
from pstmo_edge.calib.formats import (
    E4M3_MAX,
    Fp8Layer,
    HalfLayer,
    Int4Layer,
    emulated,
    group_scales,
    round_e4m3,
)
from pstmo_edge.calib.observers import Statistics
from pstmo_edge.calib.settings import Activations, Rounding
from pstmo_edge.errors import UsageError
from pstmo_edge.export import export_onnx, random_keypoints, relative_difference
from pstmo_edge.graph import layer_precisions, weighted_layers
from pstmo_edge.models.fused import fuse
from pstmo_edge.models.zoo import create_model

FORMATS = ("fp16", "bf16", "fp8", "w8a16", "w4")


def e4m3_values():
    """All finite values of the OCP format, from its bits: 1 sign, 4 exponent (bias 7) and 3 mantissa bits."""
    found = []
    for code in range(127):  # 127 is NaN
        exponent, mantissa = code >> 3, code & 7
        found.append((1 + mantissa / 8) * 2.0 ** (exponent - 7) if exponent else mantissa / 8 * 2.0**-6)
    return np.array(found)


def test_e4m3_rounds_to_the_nearest_value_ties_to_even():
    values = e4m3_values()
    assert values.max() == E4M3_MAX
    assert len(set(values)) == 127
    middles = (values[1:] + values[:-1]) / 2
    x = np.concatenate([values, middles, np.nextafter(middles, 0), np.nextafter(middles, 1e9), [449, 464, 465, 1e6]])
    x = x.astype(np.float32)
    distance = np.abs(x[:, None].astype(np.float64) - values)
    nearest = distance.min(1, keepdims=True)
    # Of two at the same distance the one with an even code, whose last mantissa bit is 0.
    closest = [np.flatnonzero(row == least) for row, least in zip(distance, nearest, strict=True)]
    codes = [min(each, key=lambda code: code % 2) for each in closest]
    for sign in (1, -1):
        np.testing.assert_array_equal(round_e4m3(torch.from_numpy(sign * x)).numpy(), sign * values[codes])
    assert bool(round_e4m3(torch.tensor([float("nan")])).isnan().all())


def test_e4m3_is_onnx_quantize_linear():
    x = torch.cat([torch.randn(2000) * 100, torch.tensor([448.0, 470.0, 1e9, -1e9, 2.0**-10, 0.0])])
    make = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])], "g",
        [make("x", onnx.TensorProto.FLOAT, [None]), make("s", onnx.TensorProto.FLOAT, [])],
        [make("y", onnx.TensorProto.FLOAT8E4M3FN, [None])],
        [onnx.numpy_helper.from_array(np.zeros((), ml_dtypes.float8_e4m3fn), "z")],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)])
    (found,) = ReferenceEvaluator(model).run(None, {"x": x.numpy(), "s": np.float32(0.37)})
    np.testing.assert_array_equal(round_e4m3(x / torch.tensor(0.37)).numpy(), np.asarray(found).astype(np.float32))


def seen(outputs=12, depth=80, rows=400, seed=0):
    """Statistics of a layer whose inputs are correlated."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, depth, generator=generator)
    x = torch.randn(rows, depth, generator=generator) @ torch.randn(depth, depth, generator=generator) / depth**0.5
    statistics = Statistics.of(weight, torch.randn(outputs, generator=generator), products=True, histogram=False)
    statistics.add(x)
    return statistics.finish(), x


def test_fp8_layers_hold_values_of_the_format_and_use_its_range():
    statistics, x = seen()
    layer = Fp8Layer.of(statistics)
    assert set(layer.weight.abs().unique().tolist()) <= set(e4m3_values().tolist())
    assert float(x.abs().max()) / layer.input_scale == pytest.approx(E4M3_MAX, rel=1e-6)
    exact = x @ statistics.weight.T + statistics.bias
    error = (layer(x) - exact).square().mean().sqrt() / exact.std()
    assert 0.001 < float(error) < 0.06  # half a step is 2^-4 of a value; over many products errors cancel


def test_fp8_is_its_definition():
    statistics, x = seen()
    layer = Fp8Layer.of(statistics)
    q = (x / torch.tensor(layer.input_scale)).numpy().astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
    expected = q @ layer.weight.double().numpy().T * (layer.input_scale * layer.weight_scale.numpy())
    np.testing.assert_allclose(layer(x).numpy(), expected + layer.bias.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("depth", [32, 40, 80, 31])
def test_four_bit_weights_have_a_scale_for_every_group(depth):
    statistics, _ = seen(depth=depth)
    layer = Int4Layer.of(statistics, Rounding.NEAREST)
    groups = -(-depth // 32)
    assert layer.weight_scale.shape == (12, groups)
    assert int(layer.weight.abs().max()) == 7
    for group in range(groups):
        part = slice(group * 32, (group + 1) * 32)
        largest = statistics.weight[:, part].abs().amax(1)
        torch.testing.assert_close(layer.weight_scale[:, group], largest / 7)
        step = layer.weight_scale[:, group : group + 1]
        assert bool(((layer.dequantized() - statistics.weight)[:, part].abs() <= 0.501 * step).all())


def test_a_group_of_zeros_has_a_scale():
    assert group_scales(torch.zeros(2, 64), 32).tolist() == [[1, 1], [1, 1]]


def test_gptq_beats_the_nearest_rounding_on_correlated_inputs():
    statistics, x = seen()
    exact = x @ statistics.weight.T + statistics.bias
    errors = {how: float((Int4Layer.of(statistics, how)(x) - exact).square().mean()) for how in Rounding}
    assert errors[Rounding.GPTQ] < 0.7 * errors[Rounding.NEAREST], errors


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float16, 10), (torch.bfloat16, 7)])
@pytest.mark.parametrize("compute", [False, True])
def test_half_precision_rounds_weights_and_where_it_computes_operands_too(dtype, bits, compute):
    statistics, x = seen()
    weight, bias = statistics.weight, statistics.bias
    found = HalfLayer(dtype, compute)(x, weight, bias)
    rounded = weight.to(dtype).float()
    assert float(((rounded - weight) / weight).abs().max()) <= 2.0 ** -(bits + 1)
    plain = x @ rounded.T + bias
    assert torch.allclose(found, plain, rtol=1e-4, atol=1e-4) is not compute
    torch.testing.assert_close(found, plain, rtol=0, atol=2.0**-bits * 60)


def test_weights_beyond_fp16_are_refused(small_model):
    model = fuse(small_model)
    with torch.no_grad():
        model.get_submodule("Transformer.model.layers.0.self_attn.qkv").weight[0, 0] = 70000.0
    with pytest.raises(UsageError, match=r"self_attn\.qkv has a weight of 7e\+04, beyond fp16's 65504: choose bf16"):
        emulated(model, "fp16", random_keypoints(1, 9))


@pytest.fixture(scope="module")
def source():
    """Of every kind of layer in a graph: products, a Gemm, convolutions."""
    torch.manual_seed(0)
    found = {}
    for name in ("p-stmo-s", "videopose3d"):
        model = fuse(create_model(name, 9))
        found[name] = model, export_onnx(model)
    return found


def made(source, name, precision, compute=False):
    model, graph = source[name]
    layers = emulated(model, precision, random_keypoints(8, 9), model.lifter.ends, compute=compute)
    return layers, format_graph(graph, layers.layers)


@pytest.mark.parametrize("name", ["p-stmo-s", "videopose3d"])
@pytest.mark.parametrize("precision", ["fp16", "bf16", "w8a16", "w4"])
def test_a_graph_computes_what_its_emulation_does(source, name, precision):
    emulation, graph = made(source, name, precision)
    keypoints = random_keypoints(3, 9)
    with torch.inference_mode():
        expected = emulation(torch.from_numpy(keypoints)).numpy()
        exact = source[name][0](torch.from_numpy(keypoints)).numpy()
    found = OnnxRuntimeSession(graph.SerializeToString(), 1).run(keypoints)
    assert relative_difference(found, expected) < max(0.2 * relative_difference(expected, exact), 2e-6)
    assert relative_difference(expected, exact) > 1e-7


@pytest.mark.parametrize("name", ["p-stmo-s", "videopose3d"])
def test_every_layer_in_fp8_computes_what_its_emulation_does(source, name):
    """One layer at a time. A few operands lie on a rounding edge and may fall to either side, so the median decides."""
    model, graph = source[name]
    emulation, _ = made(source, name, "fp8")
    keypoints = random_keypoints(2, 9)
    for layer in emulation.layers:
        alone = emulation.with_layers([layer])
        with torch.inference_mode():
            expected = alone(torch.from_numpy(keypoints)).numpy()
            exact = model(torch.from_numpy(keypoints)).numpy()
        content = format_graph(graph, alone.layers).SerializeToString()
        found = OnnxRuntimeSession(content, 1, keep_relu=True).run(keypoints)
        apart, own = np.abs(found - expected), np.abs(expected - exact)
        assert np.median(apart) < max(0.1 * np.median(own), 3e-7 * np.abs(exact).max()), layer
        assert np.median(own) > 0, layer


@pytest.mark.parametrize("precision", FORMATS)
def test_the_graph_says_what_every_layer_is(source, precision):
    model, graph = source["p-stmo-s"]
    _, formatted = made(source, "p-stmo-s", precision)
    weighted = set(weighted_layers(graph))
    for layer in layer_precisions(formatted):
        other = layer.name in weighted - set(model.lifter.ends)
        wanted = ("fp32", precision) if precision in ("fp16", "bf16") else (precision, None)
        assert (layer.precision, layer.weights) == (wanted if other else ("fp32", None)), layer
    _, computed = made(source, "p-stmo-s", "fp16", compute=True)
    assert {layer.precision for layer in layer_precisions(computed)} == {"fp16", "fp32"}


def test_onnx_runtime_keeps_the_activations_of_weight_only_layers(source):
    """Unasked it would round them to 8 bits: see `OnnxRuntimeSession`."""
    import onnxruntime as ort

    emulation, graph = made(source, "p-stmo-s", "w4")
    keypoints = random_keypoints(3, 9)
    with torch.inference_mode():
        expected = emulation(torch.from_numpy(keypoints)).numpy()
    plain = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    ours = OnnxRuntimeSession(graph.SerializeToString(), 1)
    silent = relative_difference(plain.run(None, {"keypoints": keypoints})[0], expected)
    assert relative_difference(ours.run(keypoints), expected) < 1e-5
    assert silent > 1e-4


@pytest.mark.parametrize("precision", ["fp8", "w8a16", "w4"])
def test_onnx_reference_agrees(source, precision):
    emulation, graph = made(source, "p-stmo-s", precision)
    keypoints = random_keypoints(1, 9)
    with torch.inference_mode():
        expected = emulation(torch.from_numpy(keypoints)).numpy()
        exact = source["p-stmo-s"][0](torch.from_numpy(keypoints)).numpy()
    (found,) = ReferenceEvaluator(graph).run(None, {"keypoints": keypoints})
    assert relative_difference(found, expected) < max(0.3 * relative_difference(expected, exact), 1e-5)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_products_in_half_precision_agree_with_onnx_reference(source, precision):
    """The form for GPUs, layer by layer: ONNX Runtime's CPU would leave out the rounding of the inputs."""
    graph = source["p-stmo-s"][1]
    emulation, _ = made(source, "p-stmo-s", precision, compute=True)
    keypoints = random_keypoints(1, 9)
    bits = {"fp16": 10, "bf16": 7}[precision]
    for layer in ("encoder.fc_2", "Transformer_reduce.model.layers.0.feed_forward.w_2"):
        alone = emulation.with_layers([layer])
        written = format_graph(graph, alone.layers)
        node = next(node for node in written.graph.node if node.name == layer)
        assert "half" in node.input[0]
        with torch.inference_mode():
            expected = alone(torch.from_numpy(keypoints)).numpy()
        (found,) = ReferenceEvaluator(written).run(None, {"keypoints": keypoints})
        assert relative_difference(found, expected) < 8 * 2.0**-bits  # it may add in half precision too


def test_onnx_runtime_would_drop_a_relu_before_fp8(source):
    """Why `keep_relu` is there; should this fail, ONNX Runtime has been mended and the option can go."""
    emulation, _ = made(source, "p-stmo-s", "fp8")
    alone = emulation.with_layers(["Transformer.model.layers.0.feed_forward.w_2"])
    content = format_graph(source["p-stmo-s"][1], alone.layers).SerializeToString()
    keypoints = random_keypoints(2, 9)
    ours, plain = (OnnxRuntimeSession(content, 1, keep_relu=keep).run(keypoints) for keep in (True, False))
    assert relative_difference(plain, ours) > 0.01


def test_fp8_stands_as_tensorrt_reads_it(source):
    """Explicit pairs, zero points of 0 in FLOAT8E4M3FN, activations by tensor, weights by output channel."""
    _, graph = made(source, "p-stmo-s", "fp8")
    types = {tensor.name: tensor for tensor in graph.graph.initializer}
    quantizers = [node for node in graph.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantizers) == len(weighted_layers(source["p-stmo-s"][1])) - 2
    for node in graph.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = types[node.input[2]]
            assert zero.data_type == onnx.TensorProto.FLOAT8E4M3FN
            assert not onnx.numpy_helper.to_array(zero).astype(np.float32).any()
            assert onnx.numpy_helper.to_array(types[node.input[1]]).min() > 0
    assert next(entry.version for entry in graph.opset_import if entry.domain == "") >= 19


def test_only_layers_of_the_graph_and_known_kinds_are_written(source):
    _, graph = source["p-stmo-s"]
    with pytest.raises(AssertionError, match="no layers nonsense"):
        format_graph(graph, {"nonsense": HalfLayer(torch.float16)})
    layer = weighted_layers(graph)[1]
    with pytest.raises(UsageError, match="has no form in a static graph"):
        format_graph(graph, {layer: lambda x, weight, bias: x})


def test_an_emulated_format_leaves_the_model_alone(source):
    model, _ = source["p-stmo-s"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = emulated(model, "w4", random_keypoints(8, 9), model.lifter.ends)
    assert isinstance(found, EmulatedModel)
    assert not set(found.layers) & set(model.lifter.ends)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert dataclasses.is_dataclass(next(iter(found.layers.values())))


def test_16_bit_activations_never_leave_32_bits():
    generator = torch.Generator().manual_seed(3)
    weight = torch.randint(-127, 128, (6, 1536), generator=generator).to(
        torch.int8
    )  # 97,000 a row, unlike trained ones
    weight[0, 516:] = 0
    weight[0, :516] = -127  # 65532, the most that needs no change
    grid = Grid(0.1, 128, 0, 255)
    layer = IntegerLayer(weight, torch.full((6,), 0.01), torch.zeros(6), Activations(), grid, reach=4.0)
    wide = layer.widened()
    sums = wide.weight.abs().sum(1, dtype=torch.int64)
    assert int(sums.max()) <= 65535
    assert torch.equal(wide.weight[0], weight[0])
    assert wide.weight_scale[0] == layer.weight_scale[0]
    assert wide.accumulator_bits == 32
    assert (wide.grid.zero_point, wide.grid.scale * 32767) == (0, pytest.approx(8.0))
    x = torch.rand(5, 1536, generator=generator) * 8 - 4
    exact = x @ layer.dequantized().T
    assert (wide(x) - exact).abs().max() < 0.02 * exact.abs().max()
    worst = torch.full((1, 1536), -1e9) * wide.weight.sign()  # every code saturates
    assert float(wide(worst).abs().max()) < 2**31 * wide.grid.scale * 0.02
