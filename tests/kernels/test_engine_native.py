"""The native engine: equal to the published code, to the emulation of INT8, and to itself however it is asked."""

import dataclasses

import numpy as np
import pytest
import torch
from reference import largest_difference, load_golden
from safetensors.numpy import save

import pstmo_edge as pe
from pstmo_edge.benchmarks.cases import with_weights
from pstmo_edge.bundle import write_bundle
from pstmo_edge.errors import BackendError, UsageError
from pstmo_edge.export import export_onnx, exportable, random_keypoints
from pstmo_edge.kernels import native
from pstmo_edge.models.fused import fuse
from pstmo_edge.models.zoo import FRAMES, MODELS, state_arrays
from pstmo_edge.native_weights import native_tensors, quantized_layers
from pstmo_edge.preparing import check_request

pytestmark = pytest.mark.skipif(not native.available(), reason=f"no native library: {native.why_unavailable()}")

FP32 = 1e-4  # of the largest output


def probe(tensors, model, threads=1, isa="auto"):
    from pstmo_edge.backends.native import ProbeSession

    return ProbeSession(save(tensors), model.config.frames, model.config.layers, threads, isa)


def instruction_sets():
    """Those of this CPU, by the names of the C ABI."""
    have = native.cpu_features()
    needs = {
        "portable": set(),
        "avx2": {"avx2", "fma"},
        "avx512-vnni": {"avx512f", "avx512bw", "avx512vl", "avx512_vnni"},
        "neon": {"neon"},
        "neon-dotprod": {"neon", "dotprod"},
    }
    return [name for name, features in needs.items() if features <= have]


def float_tensors(model):
    return native_tensors(state_arrays(fuse(model)))


@pytest.fixture(scope="module")
def float_graph():
    """That of the model below."""
    return export_onnx(exportable(with_weights("p-stmo-s", 27, None)))


@pytest.fixture(scope="module")
def quantized(float_graph):
    """A small model, calibration windows, the emulation of its INT8 with 8-bit weights, and the graph of that."""
    from pstmo_edge.calib.calibrate import calibrate
    from pstmo_edge.calib.qdq import quantized_graph
    from pstmo_edge.calib.settings import Settings, Weights

    model, windows = with_weights("p-stmo-s", 27, None), random_keypoints(16, 27)
    fused = exportable(model)
    emulated = calibrate(fused, windows, Settings(Weights(8), keep_float=MODELS["p-stmo-s"].ends))
    return model, windows, emulated, quantized_graph(float_graph, emulated)


@pytest.fixture(scope="module")
def mixed(quantized, float_graph):
    """The same with 16-bit activations in every other layer and in the two ends, which were in float."""
    from pstmo_edge.calib.calibrate import calibrate
    from pstmo_edge.calib.emulation import EmulatedModel
    from pstmo_edge.calib.format_graph import format_graph
    from pstmo_edge.calib.settings import Settings, Weights

    model, windows, _, _ = quantized
    fused, ends = exportable(model), MODELS["p-stmo-s"].ends
    whole = calibrate(fused, windows, Settings(Weights(8)))
    wide = [*list(whole.layers)[::2], *ends]
    layers = {name: layer.widened() if name in wide else layer for name, layer in whole.layers.items()}
    return model, windows, EmulatedModel(whole.model, layers), format_graph(float_graph, layers)


@pytest.mark.parametrize("name", ["pstmo_s_27", "pstmo_s_81", "pstmo_s_243", "pstmo_243"])
def test_poses_equal_those_of_the_published_code(name):
    state, arrays, meta = load_golden(name)
    model = pe.create_model("p-stmo-s" if meta["layers"] == 3 else "p-stmo", meta["frames"])
    model.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()})
    found = probe(float_tensors(model), model).run(arrays["keypoints"].astype(np.float32))
    assert largest_difference(found, arrays["pose"]) < FP32


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("name", ["p-stmo-s", "p-stmo"])
def test_every_window_in_every_instruction_set(name, frames):
    model = with_weights(name, frames, None)
    windows, tensors = random_keypoints(3, frames), float_tensors(model)
    with torch.inference_mode():
        expected = model(torch.from_numpy(windows)).numpy()
    for isa in instruction_sets():
        assert largest_difference(probe(tensors, model, isa=isa).run(windows), expected) < FP32


@pytest.mark.parametrize("precision", ["fp32", "int8", "mixed"])
def test_bits_do_not_depend_on_threads_batch_or_streaming(quantized, mixed, precision):
    model, windows, _, _ = quantized
    graph = {"fp32": None, "int8": quantized[3], "mixed": mixed[3]}[precision]
    tensors = native_tensors(state_arrays(fuse(model)), graph)
    expected = probe(tensors, model).run(windows)
    for isa in instruction_sets():
        alike = probe(tensors, model, isa=isa).run(windows) if isa != probe(tensors, model).isa else expected
        for threads in (1, 2, 3):
            session = probe(tensors, model, threads, isa)
            assert np.array_equal(session.run(windows), alike)
            assert np.array_equal(session.run(windows[4:5]), alike[4:5])
            tokens = np.zeros((27, 256), np.float32)
            for frame, token in zip(windows[5], tokens, strict=True):
                session.encode(np.ascontiguousarray(frame), token)
            assert np.array_equal(session.run_tokens(tokens), alike[5])
            assert np.array_equal(session.run_tokens(np.roll(tokens, 7, axis=0), 7), alike[5])


def test_int8_equals_its_emulation(quantized):
    model, windows, emulated, graph = quantized
    with torch.inference_mode():
        expected = emulated(torch.from_numpy(windows)).numpy()
        exact = model(torch.from_numpy(windows)).numpy()
    rounding = largest_difference(expected, exact)  # what INT8 costs, for scale
    for isa in instruction_sets():
        found = probe(native_tensors(state_arrays(fuse(model)), graph), model, isa=isa).run(windows)
        # A float summed in another order can move a code by one, on to the end of the network.
        assert largest_difference(found, expected) < 0.5 * rounding, (isa, rounding)
        assert np.median(np.abs(found - expected)) < 0.1 * np.median(np.abs(expected - exact)), isa


def test_a_mix_of_8_and_16_bit_activations_equals_its_emulation(quantized, mixed):
    model, windows, emulated, graph = mixed
    with torch.inference_mode():
        expected = emulated(torch.from_numpy(windows)).numpy()
        exact = model(torch.from_numpy(windows)).numpy()
    for isa in instruction_sets():
        found = probe(native_tensors(state_arrays(fuse(model)), graph), model, isa=isa).run(windows)
        assert np.median(np.abs(found - expected)) < 0.1 * np.median(np.abs(expected - exact)), isa


def test_16_bit_activations_everywhere_equal_their_emulation_closely(quantized, float_graph):
    from pstmo_edge.calib.format_graph import format_graph
    from pstmo_edge.calib.formats import emulated as in_format

    model, windows, _, _ = quantized
    emulated = in_format(exportable(model), "w8a16", windows)
    graph = format_graph(float_graph, emulated.layers)
    with torch.inference_mode():
        expected = emulated(torch.from_numpy(windows)).numpy()
    for isa in instruction_sets():  # a code that is off by one is 256 times finer than with 8 bits
        found = probe(native_tensors(state_arrays(fuse(model)), graph), model, isa=isa).run(windows)
        assert largest_difference(found, expected) < 1e-3, isa
    assert {layer.input_zero_point.dtype for layer in quantized_layers(graph).values()} == {np.dtype(np.int16)}
    assert len(quantized_layers(graph)) == 29


@pytest.mark.parametrize("kind", ["quantized", "mixed"])
def test_layers_of_a_graph_are_those_of_its_emulation(kind, request):
    _, _, emulated, graph = request.getfixturevalue(kind)
    found = quantized_layers(graph)
    assert len(found) == (27 if kind == "quantized" else 29)  # 3 of the encoder, 4 of each of 6 layers, and the ends
    for name, layer in found.items():
        wanted = emulated.layers[name]
        assert np.array_equal(layer.weight, wanted.weight.numpy())
        assert np.array_equal(layer.weight_scale, wanted.weight_scale.numpy())
        assert (layer.input_scale, layer.input_zero_point) == (wanted.grid.scale, wanted.grid.zero_point)
        assert layer.input_zero_point.dtype == (np.int16 if wanted.activations.bits == 16 else np.uint8)


def test_layers_left_in_float_stay_so(quantized, float_graph):
    from pstmo_edge.calib.qdq import quantized_graph

    model, windows, emulated, _ = quantized
    none = quantized_graph(float_graph, emulated.with_layers([]))
    assert not quantized_layers(none)
    tensors = native_tensors(state_arrays(fuse(model)), none)
    with torch.inference_mode():
        expected = emulated.with_layers([])(torch.from_numpy(windows)).numpy()
    assert not any(array.dtype == np.int8 for array in tensors.values())
    assert largest_difference(probe(tensors, model).run(windows), expected) < FP32


def test_half_precision_weights_open(small_model):
    full = float_tensors(small_model)
    tensors = {name: array.astype(np.float16) if array.ndim > 1 else array for name, array in full.items()}
    windows = random_keypoints(2, 9)
    expected = probe(float_tensors(small_model), small_model).run(windows)
    assert 0 < largest_difference(probe(tensors, small_model).run(windows), expected) < 0.02


def test_a_bundle_is_built_and_opened(small_model, small_prepared, tmp_path):
    out = tmp_path / "engine"
    bundle = pe.build(small_model, "fp32", "native", out=out, prepared=small_prepared)
    assert bundle.manifest.backend.version == native.version()
    windows = random_keypoints(300, 9)  # more than one call of the library
    poses = pe.load_engine(out, threads=2).infer(windows)
    with torch.inference_mode():
        expected = small_model(torch.from_numpy(windows)).numpy()
    assert poses.shape == (300, 17, 3)
    assert largest_difference(poses, expected) < FP32


def test_an_int8_build_says_what_each_layer_is(quantized, float_graph):
    from pstmo_edge.builders import NativeBuilder, Source

    model, windows, _, graph = quantized
    built = NativeBuilder().build_int8(Source(model, float_graph), graph)
    precisions = {layer.name: layer.precision for layer in built.layers}
    assert {precisions[name] for name in MODELS["p-stmo-s"].ends} == {"fp32"}
    assert sum(precision == "int8" for precision in precisions.values()) == 27
    with torch.inference_mode():
        exact = model(torch.from_numpy(windows)).numpy()
    assert 0 < largest_difference(built.session.run(windows), exact) < 0.1


def test_a_mixed_build_says_what_each_layer_is(mixed, float_graph):
    from pstmo_edge.builders import NativeBuilder, Source

    model, _, emulated, graph = mixed
    built = NativeBuilder().build_int8(Source(model, float_graph), graph)
    precisions = {layer.name: layer.precision for layer in built.layers if layer.name in emulated.layers}
    assert precisions == {
        name: "w8a16" if layer.activations.bits == 16 else "int8" for name, layer in emulated.layers.items()
    }


@pytest.mark.parametrize("backend", ["native", "onnxruntime"])
def test_w8a16_is_built_measured_and_opened(small_model, small_prepared, short_sequences, tmp_path, backend):
    out = tmp_path / "engine"
    bundle = pe.build(small_model, "w8a16", backend, short_sequences, out, prepared=small_prepared)
    spec = bundle.manifest.precision
    assert spec.requested_share > 0.9
    assert spec.left_in_float == ()
    assert abs(bundle.manifest.accuracy.after.mpjpe_mm - bundle.manifest.accuracy.before.mpjpe_mm) < 1
    windows = random_keypoints(5, 9)
    with torch.inference_mode():
        expected = small_model(torch.from_numpy(windows)).numpy()
    assert 0 < largest_difference(pe.load_engine(out).infer(windows), expected) < 0.02


def test_8_bit_weights_are_built_for_and_run_on_every_cpu(small_model, small_prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("pstmo_edge.targets.machine_features", lambda: frozenset({"avx2"}))
    assert check_request("int8", "native", tmp_path / "engine", target="x86-vnni").target.weight_bits == 8
    with pytest.raises(BackendError, match="x86-vnni cannot be measured on this CPU"):
        check_request("int8", "onnxruntime", tmp_path / "engine", target="x86-vnni")
    made = pe.build(small_model, "fp32", "native", out=tmp_path / "fp32", prepared=small_prepared)
    target = made.manifest.target.model_copy(update={"name": "arm64-dotprod", "weight_bits": 8, "requires": ("neon",)})
    precision = made.manifest.precision.model_copy(update={"requested": "int8"})
    manifest = made.manifest.model_copy(update={"target": target, "precision": precision})
    weights = {"weights.safetensors": (made.path / "weights.safetensors").read_bytes()}
    write_bundle(tmp_path / "int8", manifest, weights)
    windows = random_keypoints(1, 9)
    assert np.array_equal(pe.load_engine(tmp_path / "int8").infer(windows), pe.load_engine(made.path).infer(windows))


def test_other_architectures_are_refused_in_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"^native runs p-stmo and p-stmo-s, not poseformer: choose --backend"):
        pe.build(pe.create_model("poseformer", 9), "fp32", "native", out=tmp_path / "engine")
    from pstmo_edge.models.emission import emitting

    with pytest.raises(UsageError, match=r"^native gives one pose a window, not 9"):
        pe.build(emitting(pe.create_model("p-stmo-s", 9), "all"), "fp32", "native", out=tmp_path / "engine")


_INTEGER_END = {
    "fcn.1.weight": np.full((51, 256), 127, np.int8),
    "fcn.1.weight_scale": np.ones(51, np.float32),
    "fcn.1.input_scale": np.ones(1, np.float32),
    "fcn.1.input_zero_point": np.zeros(1, np.int16),
}


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        ({"fcn.1.weight": None, "fcn.1.bias": None}, "fcn.1.weight is missing, fcn.1.bias is missing"),
        ({"fcn.1.weight": np.zeros((51, 128), np.float32)}, "fcn.1.weight must be 51 x 256"),
        ({"fcn.1.bias": np.zeros(51, np.int32)}, "fcn.1.bias must be 51 floats"),
        ({"fcn.1.weight": np.zeros((51, 256), np.int8)}, "fcn.1.weight_scale is missing"),
        ({"fcn.1.weight": np.full((51, 256), -128, np.int8)}, "-128"),
        (
            _INTEGER_END | {"fcn.1.input_zero_point": np.array([1], np.int16)},
            "zero_point must be one U8, or one I16 of 0",
        ),
        (_INTEGER_END | {"fcn.1.input_zero_point": np.array([0, 0], np.int16)}, "zero_point must be one U8"),
        (_INTEGER_END | {"fcn.1.input_zero_point": np.array([0], np.int8)}, "zero_point must be one U8"),
        (_INTEGER_END | {"fcn.1.input_zero_point": np.zeros(1, np.int32)}, "zero_point must be one U8"),
        (_INTEGER_END | {"fcn.1.input_scale": np.zeros(1, np.float32)}, "input_scale must be above 0"),
    ],
)
def test_weights_that_do_not_fit_are_named(small_model, damage, text):
    tensors = {name: array for name, array in (float_tensors(small_model) | damage).items() if array is not None}
    with pytest.raises(BackendError, match=text):
        probe(tensors, small_model)


def test_sums_that_could_leave_32_bits_are_refused(small_model):
    probe(float_tensors(small_model) | _INTEGER_END, small_model)  # 256 x 127 is far from it
    name = "Transformer_reduce.model.layers.0.feed_forward.w_2"
    weight = np.zeros((256, 1536), np.int8)
    weight[7, :516] = 127
    layer = {
        f"{name}.weight": weight,
        f"{name}.weight_scale": np.ones(256, np.float32),
        f"{name}.input_scale": np.ones(1, np.float32),
        f"{name}.input_zero_point": np.zeros(1, np.int16),
    }
    probe(float_tensors(small_model) | layer, small_model)
    weight[7, -1] = -4
    with pytest.raises(
        BackendError, match="output 7 add up to 65536, and with 16-bit inputs a sum is safe up to 65535"
    ):
        probe(float_tensors(small_model) | layer, small_model)
    layer[f"{name}.input_zero_point"] = np.zeros(1, np.uint8)
    probe(float_tensors(small_model) | layer, small_model)  # 8 bits have room


def test_an_instruction_set_that_is_not_here_is_refused(small_model):
    missing = {"avx2", "avx512-vnni", "neon", "neon-dotprod"} - set(instruction_sets())
    for isa in missing:
        with pytest.raises(BackendError, match="instruction set"):
            probe(float_tensors(small_model), small_model, isa=isa)
    assert missing  # no CPU has both families


def test_a_graph_in_another_form_is_refused(quantized):
    import onnx
    from onnx import numpy_helper

    graph = onnx.ModelProto()
    graph.CopyFrom(quantized[3])
    zeros = next(tensor for tensor in graph.graph.initializer if tensor.name.endswith("weight_zero_point"))
    zeros.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(zeros) + np.int8(1), zeros.name))
    with pytest.raises(BackendError, match="asymmetric weights"):
        quantized_layers(graph)


def test_16_bit_activations_with_a_zero_point_are_refused(mixed):
    import onnx
    from onnx import numpy_helper

    graph = onnx.ModelProto()
    graph.CopyFrom(mixed[3])
    zeros = {tensor.name: tensor for tensor in graph.graph.initializer if tensor.name.endswith("input_zero_point")}
    wide = next(tensor for tensor in zeros.values() if tensor.data_type == onnx.TensorProto.INT16)
    good = numpy_helper.to_array(wide)
    for changed, text in ((good + np.int16(1), "with a zero point"), (good.astype(np.uint16), "uint16 activations")):
        wide.CopyFrom(numpy_helper.from_array(changed, wide.name))
        with pytest.raises(BackendError, match=text):
            quantized_layers(graph)


def test_profile_counts_every_multiply_add_of_the_centre_pose(quantized):
    from pstmo_edge.graph import layer_precisions

    model, windows, _, graph = quantized
    session = probe(native_tensors(state_arrays(fuse(model)), graph), model)
    session.profile()
    session.run(windows[:1])
    found = {part.name: part for part in session.profile()}
    for layer in layer_precisions(graph):
        if layer.name in found and not layer.name.startswith("Transformer_reduce"):  # those skip what nobody reads
            assert found[layer.name].multiply_adds == layer.multiply_adds
            assert found[layer.name].precision == layer.precision
    reduced = [layer for layer in layer_precisions(graph) if layer.name.startswith("Transformer_reduce")]
    assert all(found[layer.name].multiply_adds <= layer.multiply_adds for layer in reduced if layer.name in found)
    assert dataclasses.asdict(found["norms"])["seconds"] > 0
