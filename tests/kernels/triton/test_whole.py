"""The network made of the ops: as torch sees it, against the fused model, and through the kernels themselves."""

import numpy as np
import pytest
import torch
from gpu_samples import CHANNELS, HEADS, HIDDEN, INPUTS, Samples, error
from reference import largest_difference, load_golden

import pstmo_edge as pe
from pstmo_edge.calib.calibrate import calibrate
from pstmo_edge.calib.emulation import EmulatedModel
from pstmo_edge.calib.formats import E4M3_MAX, Fp8Layer, round_e4m3
from pstmo_edge.calib.settings import Activations, Settings
from pstmo_edge.errors import UsageError
from pstmo_edge.kernels.triton import launch, ops, reference
from pstmo_edge.kernels.triton.lifter import ENDS, lifter_of
from pstmo_edge.models.emission import emitting
from pstmo_edge.models.fused import fuse
from pstmo_edge.models.interception import layer_weights


def keypoints(windows, frames, seed=3):
    return torch.randn(windows, frames, 17, 2, generator=torch.Generator().manual_seed(seed)) * 0.3


@pytest.fixture(scope="module")
def int8(fused):
    return calibrate(fused, keypoints(8, 9, 1).numpy(), Settings(keep_float=ENDS))


@pytest.fixture(scope="module")
def fp8(fused):
    layers = {}
    for name, weight in layer_weights(fused, keypoints(1, 9)).items():
        scale = weight.abs().amax(1) / E4M3_MAX
        bias = fused.get_submodule(name).bias.detach()
        layers[name] = Fp8Layer(round_e4m3(weight / scale[:, None]), scale, 10 / E4M3_MAX, bias)
    return EmulatedModel(fused, {name: layer for name, layer in layers.items() if name not in ENDS})


def test_the_ops_equal_the_published_code():
    state, arrays, meta = load_golden("pstmo_s_27")
    model = pe.create_model("p-stmo-s" if meta["layers"] == 3 else "p-stmo", meta["frames"]).eval()
    model.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()})
    with torch.inference_mode():
        assert largest_difference(lifter_of(model)(torch.from_numpy(arrays["keypoints"])), arrays["pose"]) < 1e-4


@pytest.mark.parametrize("frames", [9, 351])  # strides 1, 9 and 13
def test_the_ops_equal_the_fused_model(frames):
    torch.manual_seed(1)
    model = fuse(pe.create_model("p-stmo-s", frames).eval())
    with torch.inference_mode():
        expected = model(keypoints(1, frames)).numpy()
        assert largest_difference(lifter_of(model)(keypoints(1, frames)), expected) < 1e-6


def test_per_frame_poses(small_model):
    model = emitting(small_model, "3")
    with torch.inference_mode():
        expected = fuse(model)(keypoints(2, 9)).numpy()
        assert largest_difference(lifter_of(model)(keypoints(2, 9)), expected) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernels_equal_the_ops(fused, dtype):
    """The whole network through triton's interpreter, every kernel with tiles of the table."""
    lifter = lifter_of(fused, dtype)
    with torch.inference_mode():
        truth = fused(keypoints(2, 9)).double()
        plain = error(lifter(keypoints(2, 9)), truth)
        with ops.interpreted():
            found = error(lifter(keypoints(2, 9)), truth)
    assert found <= max(2 * plain, 1e-6), f"{found:.3e}, plain torch {plain:.3e}"


@pytest.mark.parametrize("form", ["int8", "fp8"])
def test_quantized_networks_are_the_emulation(form, request, monkeypatch):
    """float32 between the layers, as the emulation has.

    Where sums are added in another order a code may differ by one, which random weights amplify: so every kernel is
    compared with its reference on that one's inputs, and the network of references with the emulation.
    """
    emulated = request.getfixturevalue(form)
    lifter = lifter_of(emulated)
    assert {lifter.precisions[name] for name in ENDS} == {"fp32"}
    assert set(lifter.precisions.values()) == {"fp32", form}
    with torch.inference_mode():
        expected = emulated(keypoints(2, 9)).double()
        moved = error(emulated.model(keypoints(2, 9)), expected)
        assert error(lifter(keypoints(2, 9)), expected) < moved / 4
        errors = []
        for name in ("spatial_encoder", "norm_linear", "attention", "feed_forward"):
            monkeypatch.setattr(reference, name, beside(getattr(launch, name), getattr(reference, name), errors))
        lifter(keypoints(2, 9))
    assert len(errors) == 1 + 3 + 3 * 3 + 1
    assert max(errors) < moved / 10


def beside(kernel, plain, errors):
    """The plain function, which notes how far the kernel is from it on the same operands."""

    def both(*operands):
        out = plain(*operands)
        errors.append(error(kernel(*operands), out.double()))
        return out

    return both


def test_torch_export_and_compile(fused):
    lifter, windows = lifter_of(fused, torch.bfloat16), keypoints(3, 9)
    with torch.inference_mode():
        expected = lifter(windows)
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(lifter, (windows,), dynamic_shapes=({0: batch},))
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert sum("pstmo_edge" in name for name in called) == 1 + 3 + 3 * 3 + 1
    with torch.inference_mode():
        assert torch.equal(program.module()(windows[:2]), lifter(windows[:2]))
        compiled = torch.compile(lifter, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(windows), expected)


def test_the_schemas_and_shape_functions_hold():
    some = Samples()
    x, norm = some.normal(2, 9, CHANNELS), some.norm()

    def products(*sizes, dtype):
        found = [some.product(*size, dtype) for size in sizes]
        return [p.weight for p in found], [p.bias for p in found], [p.grid for p in found]

    encoder = products((HIDDEN, INPUTS), (HIDDEN, HIDDEN), (HIDDEN, HIDDEN), (CHANNELS, HIDDEN), dtype=torch.float32)
    strided = products((CHANNELS, CHANNELS), (HIDDEN, CHANNELS), (CHANNELS, 3 * HIDDEN), dtype=torch.int8)
    (weight,), (bias,), (grid,) = products((192, CHANNELS), dtype=torch.int8)
    for op, operands in (
        (ops.spatial_encoder, (some.normal(2, 9, INPUTS), *encoder, some.normal(9, CHANNELS), torch.bfloat16)),
        (ops.norm_linear, (x, norm, weight, bias, grid, torch.float16)),
        (ops.attention, (some.normal(2, 9, 3 * CHANNELS), HEADS)),
        (ops.feed_forward, (x, x + 1, norm, *strided, None, 9)),
    ):
        torch.library.opcheck(op, operands, test_utils=("test_schema", "test_faketensor"))


def test_what_the_kernels_do_not_run_is_refused(fused, small_model):
    with pytest.raises(UsageError, match="run p-stmo and p-stmo-s, not PoseFormer"):
        lifter_of(pe.create_model("poseformer", 9))
    symmetric = calibrate(fused, keypoints(4, 9).numpy(), Settings(activations=Activations(8, True), keep_float=ENDS))
    with pytest.raises(UsageError, match="unsigned, from 0 to 255"):
        lifter_of(symmetric)
    with pytest.raises(UsageError, match="before fuse"):
        lifter_of(fuse(emitting(small_model, "3")))


def test_the_pose_does_not_depend_on_the_batch(fused):
    lifter = lifter_of(fused, torch.bfloat16)
    with torch.inference_mode(), ops.interpreted():
        alone = lifter(keypoints(3, 9)[1:2]).numpy()
        together = lifter(keypoints(3, 9))[1:2].numpy()
    assert np.array_equal(alone, together)
