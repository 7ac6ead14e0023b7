"""The Q/DQ graph against the emulation, in ONNX Runtime and OpenVINO, and against TensorRT's published rules."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from pstmo_edge.backends.onnxruntime import DISABLED, OnnxRuntimeSession
from pstmo_edge.calib.calibrate import calibrate, corrected
from pstmo_edge.calib.emulation import IntegerLayer, boundaries
from pstmo_edge.calib.qdq import boundary_names, quantized_graph
from pstmo_edge.calib.settings import Activations, Granularity, Rounding, Settings, Weights, settings_for
from pstmo_edge.calib.windows import calibration_windows
from pstmo_edge.datasets import load_sequences
from pstmo_edge.errors import UsageError
from pstmo_edge.export import export_onnx, exportable
from pstmo_edge.graph import layer_nodes, layer_precisions, weight_magnitudes, weighted_layers
from pstmo_edge.metrics import mpjpe
from pstmo_edge.models.zoo import MODELS, create_model, load_model
from pstmo_edge.targets import TARGETS, runs_here

OTHERS = [("p-stmo", 27), ("p-stmo-s", 351), ("poseformer", 9), ("anatomy3d", 9), ("videopose3d", 27),
          ("strided-transformer", 9)]  # fmt: skip


@pytest.fixture(scope="module")
def published():
    """The weights in the box, their fused form, their graph, and windows to calibrate on."""
    model = load_model()
    fused = exportable(model)
    return fused, export_onnx(fused), calibration_windows(load_sequences(split="train"), model.lifter.window, 32)


@pytest.fixture(scope="module")
def emulated(published):
    """One emulation a target, ends in float."""
    fused, _, windows = published
    ends = MODELS["p-stmo-s"].ends
    found = {name: calibrate(fused, windows, settings_for(TARGETS[name], ends)) for name in ("x86-avx2", "tensorrt")}
    return {**found, "16-bit in some": found["x86-avx2"].widened(list(found["x86-avx2"].layers)[::3])}


def exposed(graph):
    """The graph with the tensors on both sides of every integer layer among its outputs."""
    names = list(boundary_names(graph))
    shown = onnx.ModelProto()
    shown.CopyFrom(graph)
    there = {value.name for value in shown.graph.output}
    for name in {tensor for _, before, after in names for tensor in (before, after)} - there:
        shown.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return shown, names


def boundary_steps(graph, model, windows):
    """By integer layer, how many steps of its grid its input in ONNX Runtime is from the emulation's."""
    shown, names = exposed(graph)
    session = OnnxRuntimeSession(shown.SerializeToString()).session
    outputs = [value.name for value in session.get_outputs()]
    found = dict(zip(outputs, session.run(None, {session.get_inputs()[0].name: windows}), strict=True))
    expected = boundaries(model, torch.from_numpy(windows))
    steps, outs = {}, {}
    for name, before, after in names:
        grid, (x, y) = model.layers[name].grid, expected[name]
        given = torch.from_numpy(found[before]).reshape(x.shape)
        steps[name] = float((grid.quantize(given) - grid.quantize(x)).abs().max())
        outs[name] = float((torch.from_numpy(found[after]).reshape(y.shape) - y).abs().max() / y.abs().max())
    return steps, outs


def layer_differences(graph, model, windows):
    """By integer layer, how far ONNX Runtime's outputs are from the emulation's of the very same inputs.

    In units of what one step of one input can change in an output, and a little for the rounding of floats.
    """
    shown, names = exposed(graph)
    session = OnnxRuntimeSession(shown.SerializeToString()).session
    outputs = [value.name for value in session.get_outputs()]
    found = dict(zip(outputs, session.run(None, {session.get_inputs()[0].name: windows}), strict=True))
    nodes = {node.name: node for node in layer_nodes(graph)}
    differences = {}
    for name, before, after in names:
        layer, given, made = model.layers[name], torch.from_numpy(found[before]), torch.from_numpy(found[after])
        if nodes[name].op_type == "Conv":
            given, made = taps_side_by_side(nodes[name], given), made.transpose(1, 2)
        expected = layer(given)
        step = layer.grid.scale * layer.dequantized().abs().max()
        differences[name] = float(
            (made.reshape(expected.shape) - expected).abs().max() / (step + 1e-5 * made.abs().max())
        )
    return differences


def taps_side_by_side(node, x):
    """What a convolution over time reads for each output: (B, C, T) to (B, T', taps x C)."""
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert given.get("group", 1) == 1
    taps, stride, dilation = (given.get(name, [1])[0] for name in ("kernel_shape", "strides", "dilations"))
    padded = torch.nn.functional.pad(x, tuple(given.get("pads", (0, 0))))
    return padded.unfold(2, (taps - 1) * dilation + 1, stride)[..., ::dilation].permute(0, 2, 3, 1).flatten(2)


@pytest.mark.parametrize("target", ["x86-avx2", "tensorrt", "16-bit in some"])
def test_onnxruntime_is_within_one_step_of_the_emulation_at_every_boundary(target, published, emulated):
    _, graph, windows = published
    if target in TARGETS and not runs_here(TARGETS[target]):
        pytest.skip(f"weights for {target} overflow on this CPU")
    model = emulated[target]
    quantized = quantized_graph(graph, model)
    steps, outs = boundary_steps(quantized, model, windows[:8])
    assert set(steps) == {name for name, layer in model.layers.items() if isinstance(layer, IntegerLayer)}
    assert len(steps) == 27
    # A step of 16 bits is finer than what layers before it, of 8 bits, may differ by.
    assert max(step for name, step in steps.items() if model.layers[name].activations.bits == 8) <= 1, steps
    assert max(steps.values()) <= (1 if target in TARGETS else 256), steps
    assert max(outs.values()) < 0.02, outs
    poses = OnnxRuntimeSession(quantized.SerializeToString()).run(windows)
    with torch.inference_mode():
        exact = model(torch.from_numpy(windows)).numpy()
    assert mpjpe(poses, exact).mean() < 0.2, mpjpe(poses, exact).mean()


def test_onnxruntime_computes_every_integer_layer_in_integers(published, emulated, tmp_path):
    """With the optimizers that the backend leaves out: another one dequantizes weights at every call instead."""
    import onnxruntime as ort

    quantized = quantized_graph(published[1], emulated["x86-avx2"])
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(quantized.SerializeToString(), options, disabled_optimizers=list(DISABLED))
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("MatMulIntegerToFloat") == 27
    assert "DequantizeLinear" not in kinds


def test_the_comparison_of_boundaries_can_fail(published, emulated):
    """A scale that is a little off, and sums that saturate, are both seen."""
    from dataclasses import replace

    _, graph, windows = published
    model = emulated["x86-avx2"]
    name = "Transformer.model.layers.1.feed_forward.w_2"
    layer = model.layers[name]
    spoiled = model.with_layers(model.layers)
    spoiled.layers[name] = replace(layer, weight_scale=layer.weight_scale * 1.1)
    steps, _ = boundary_steps(quantized_graph(graph, spoiled), model, windows[:4])
    assert max(steps.values()) > 1


def test_no_pair_sum_saturates_for_a_7_bit_target_and_some_do_with_8_bits(published, emulated):
    fused, _, windows = published
    few = torch.from_numpy(windows[:1])
    assert sum(emulated["x86-avx2"].saturated_pairs(few).values()) == 0
    eight = calibrate(fused, windows[:16], settings_for(TARGETS["x86-vnni"], MODELS["p-stmo-s"].ends))
    assert sum(eight.saturated_pairs(few).values()) > 0


def test_weights_of_a_7_bit_target_leave_no_room_for_overflow(published, emulated):
    quantized = quantized_graph(published[1], emulated["x86-avx2"])
    magnitudes = weight_magnitudes(quantized)
    assert len(magnitudes) == 27
    assert max(magnitudes.values()) == 64


@pytest.mark.parametrize("target", ["x86-avx2", "tensorrt"])
def test_what_tensorrt_asks_of_a_graph(target, published, emulated):
    """Rules of TensorRT 10's explicit quantization; the zero points are the tensorrt target's own."""
    graph = quantized_graph(published[1], emulated[target])
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    writers = {output: node for node in graph.graph.node for output in node.output}
    quantizers = [node for node in graph.graph.node if node.op_type == "QuantizeLinear"]
    products = [node for node in graph.graph.node if node.op_type == "MatMul" and node.input[1] in writers
                and writers[node.input[1]].op_type == "DequantizeLinear"]  # fmt: skip
    assert len(quantizers) == len(products) == 27
    for node in quantizers:
        scale, zero = (constants[name] for name in node.input[1:])
        assert scale.shape == zero.shape == ()
        assert scale > 0
        if target == "tensorrt":
            assert zero.dtype == np.int8
            assert zero == 0
        readers = [each for each in graph.graph.node if node.output[0] in each.input]
        assert [each.op_type for each in readers] == ["DequantizeLinear"]
    for node in products:
        assert writers[node.input[0]].op_type == "DequantizeLinear"
        dequantize = writers[node.input[1]]
        weight, scale, zero = (constants[name] for name in dequantize.input)
        axis = next(attribute.i for attribute in dequantize.attribute if attribute.name == "axis")
        assert axis == 1
        assert weight.dtype == np.int8
        assert scale.shape == zero.shape == (weight.shape[1],)
        assert (scale > 0).all()
        assert not zero.any()


def test_a_mix_keeps_its_float_layers_exact(published, emulated):
    """Equalization has moved scales into the weights of layers that a mix leaves in float."""
    _, graph, windows = published
    alone = "encoder.layers.0.w2"
    model = corrected(emulated["x86-avx2"], windows, [alone])
    quantized = quantized_graph(graph, model)
    assert [layer.name for layer in layer_precisions(quantized) if layer.precision == "int8"] == [alone]
    with torch.inference_mode():
        exact = model(torch.from_numpy(windows)).numpy()
    np.testing.assert_allclose(OnnxRuntimeSession(quantized.SerializeToString()).run(windows), exact, atol=2e-4)
    nothing = quantized_graph(graph, model.with_layers([]))
    original = OnnxRuntimeSession(graph.SerializeToString()).run(windows)
    np.testing.assert_allclose(OnnxRuntimeSession(nothing.SerializeToString()).run(windows), original, atol=1e-5)


@pytest.mark.parametrize(("name", "frames"), OTHERS)
def test_every_architecture_has_its_graph(name, frames):
    torch.manual_seed(0)
    model = create_model(name, frames).eval()
    fused = exportable(model)
    graph = export_onnx(fused)
    windows = calibration_windows(load_sequences(split="train"), model.lifter.window, 16)
    ends = MODELS[name].ends
    quantized = calibrate(fused, windows, Settings(Weights(7), bias_correction=True, keep_float=ends))
    result = quantized_graph(graph, quantized)
    precisions = {layer.name: layer.precision for layer in layer_precisions(result)}
    for layer in weighted_layers(graph):
        assert precisions[layer] == ("fp32" if layer in ends else "int8"), layer
    differences = layer_differences(result, quantized, windows[:4])
    assert set(differences) == set(quantized.layers) - set(ends)
    assert max(differences.values()) <= 1, differences
    with torch.inference_mode():
        expected = quantized(torch.from_numpy(windows)).numpy()
        exact = fused(torch.from_numpy(windows)).numpy()
    found = OnnxRuntimeSession(result.SerializeToString()).run(windows)
    # Random weights amplify one step in all later layers: the whole is compared loosely, the layers closely.
    moved = mpjpe(found, expected).mean()
    assert moved < mpjpe(expected, exact).mean(), moved


def test_formats_without_a_static_graph_are_refused(published):
    fused, graph, windows = published
    for activations in (Activations(granularity=Granularity.PER_TOKEN), Activations(7)):
        model = calibrate(fused, windows[:16], Settings(activations=activations))
        with pytest.raises(UsageError, match=r"use 8 or 16 bits and Granularity\.PER_TENSOR"):
            quantized_graph(graph, model)


def test_openvino_executes_the_same_graph_in_integers(published, emulated):
    pytest.importorskip("openvino")
    from pstmo_edge.builders import OpenVinoBuilder, Source

    _, graph, windows = published
    model = emulated["x86-avx2"]
    built = OpenVinoBuilder().build_int8(Source(model.model, graph), quantized_graph(graph, model))
    integers = {layer.name for layer in built.layers if layer.precision == "int8"}
    assert integers == {name for name, layer in model.layers.items() if isinstance(layer, IntegerLayer)}
    with torch.inference_mode():
        exact = model(torch.from_numpy(windows)).numpy()
    assert mpjpe(built.session.run(windows), exact).mean() < 0.2


def test_gptq_moves_outputs_less_than_rounding_to_the_nearest(published):
    fused, _, windows = published
    name = "Transformer.model.layers.2.feed_forward.w_1"
    inputs = boundaries(calibrate(fused, windows, Settings()).with_layers([]), torch.from_numpy(windows))
    errors = {}
    for rounding in Rounding:
        layer = calibrate(fused, windows, Settings(Weights(4, rounding=rounding))).layers[name]
        x, y = inputs[name]
        errors[rounding] = float((x @ layer.dequantized().T + layer.bias - y).square().mean())
    assert errors[Rounding.GPTQ] < 0.6 * errors[Rounding.NEAREST], errors
