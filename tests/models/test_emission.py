"""Many poses a window: every emit mode equals the published per-frame head, on every runtime, with nothing needless."""

import onnx
import pytest
import torch
from reference import largest_difference, load_golden

import pstmo_edge as pe
from pstmo_edge.backends.onnxruntime import OnnxRuntimeSession
from pstmo_edge.errors import UsageError
from pstmo_edge.export import export_onnx, exportable
from pstmo_edge.graph import layer_precisions, weighted_layers
from pstmo_edge.models.emission import emitted_frames, emitting
from pstmo_edge.models.fused import fuse

MODES = ["centre", "all", 1, 3, 9]


@pytest.fixture(scope="module")
def published():
    state, arrays, meta = load_golden("pstmo_s_27")
    model = pe.create_model("p-stmo-s", meta["frames"]).eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return model, arrays


@pytest.fixture(scope="module")
def graphs(published):
    return {mode: export_onnx(exportable(emitting(published[0], mode))) for mode in MODES}


def wanted(arrays, mode):
    """What the published code gives for these frames."""
    if mode == "centre":
        return arrays["pose"]
    count = 27 if mode == "all" else mode
    return arrays["poses_all"][:, 13 - count // 2 : 14 + count // 2]


@pytest.mark.parametrize("mode", MODES)
def test_model_and_fused_model_equal_the_published_heads(published, mode):
    model, arrays = published
    keypoints, expected = torch.from_numpy(arrays["keypoints"]), wanted(arrays, mode)
    other = emitting(model, mode)
    with torch.no_grad():
        found, fused = other(keypoints), fuse(other)(keypoints)
    assert found.shape == fused.shape == expected.shape
    assert largest_difference(found, expected) < 1e-4
    assert largest_difference(fused, expected) < 1e-4


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("mode", MODES)
def test_runtimes_equal_the_published_heads(published, graphs, mode, runtime, tmp_path):
    arrays, graph = published[1], graphs[mode]
    if runtime == "openvino":
        ov = pytest.importorskip("openvino")
        from pstmo_edge.backends.openvino import OpenVinoSession

        onnx.save(graph, tmp_path / "model.onnx")
        session = OpenVinoSession(ov.convert_model(tmp_path / "model.onnx"))
    else:
        session = OnnxRuntimeSession(graph.SerializeToString())
    poses, expected = session.run(arrays["keypoints"]), wanted(arrays, mode)
    assert poses.shape == expected.shape
    assert largest_difference(poses, expected) < 1e-4
    assert largest_difference(session.run(arrays["keypoints"][:1]), expected[:1]) < 1e-4


def test_the_graph_holds_only_what_its_poses_need(graphs):
    layers = {mode: weighted_layers(graph) for mode, graph in graphs.items()}
    cost = {mode: sum(layer.multiply_adds for layer in layer_precisions(graph)) for mode, graph in graphs.items()}
    assert not [name for name in layers["centre"] if name.startswith("fcn_1")]
    for mode in ("all", 1, 3, 9):
        assert not [name for name in layers[mode] if name.startswith(("Transformer_reduce", "fcn."))]
        assert layers[mode][-1] == "fcn_1.1"
    assert cost[1] < cost[3] < cost[9] < cost["all"] < cost["centre"]
    # Of the last layer, other frames than those that come out are keys and values alone: 2 of its 8 shares a token.
    layer = 8 * 256**2 + 2 * 27 * 256
    saved = 24 * (layer - 2 * 256**2) + 24 * 256 * 51
    assert cost["all"] - cost[3] == saved


@pytest.mark.parametrize("name", ["p-stmo", "strided-transformer"])
def test_the_other_models_with_that_head(name):
    torch.manual_seed(0)
    model = pe.create_model(name, 9).eval()
    keypoints = torch.randn(2, 9, 17, 2) * 0.3
    with torch.no_grad():
        poses = model.forward_all(keypoints)
        for mode, frames in (("all", slice(None)), (3, slice(3, 6))):
            other = emitting(model, mode)
            assert largest_difference(other(keypoints), poses[:, frames].numpy()) < 1e-5
            session = OnnxRuntimeSession(export_onnx(exportable(other)).SerializeToString())
            assert largest_difference(session.run(keypoints.numpy()), poses[:, frames].numpy()) < 1e-4


def test_strided_transformer_equals_the_published_head():
    state, arrays, _ = load_golden("strided_transformer_243")
    model = pe.create_model("strided-transformer", 243).eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    key = next(name for name in arrays if name.startswith("poses"))
    with torch.no_grad():
        found = emitting(model, "all")(torch.from_numpy(arrays["keypoints"]))
    assert largest_difference(found, arrays[key]) < 1e-4


def test_the_model_itself_is_left_alone(published):
    model, arrays = published
    before = model.lifter
    other = emitting(model, 3)
    assert other.lifter.window.target == 12
    assert other.lifter.window.emitted == 3
    assert other.lifter.weights_sha256 == before.weights_sha256
    assert other.lifter.ends == ("encoder.fc_1", "fcn_1.1")
    assert model.emitted is None
    assert model.lifter == before
    assert before.ends == ("encoder.fc_1", "fcn.1")
    assert emitting(model, "centre") is model
    assert emitting(other, 3) is other
    assert emitting(other, "centre").lifter == before
    with torch.no_grad():
        assert model(torch.from_numpy(arrays["keypoints"])).shape == (len(arrays["keypoints"]), 17, 3)


@pytest.mark.parametrize("emit", ["4", 0, -1, 29, "some", "3.0", ""])
def test_other_numbers_of_frames_are_refused(emit):
    with pytest.raises(UsageError, match=r"--emit is .*odd number of middle frames from 1 to 27"):
        emitted_frames("p-stmo-s", 27, emit)


@pytest.mark.parametrize("name", ["poseformer", "videopose3d", "anatomy3d", "p-stmo-s-pretrain"])
def test_models_without_that_head_are_refused(name):
    with pytest.raises(UsageError, match=rf"{name} has no per-frame head.*p-stmo-s, p-stmo, strided-transformer"):
        emitted_frames(name, 27, "all")
    assert emitted_frames(name, 27, "centre") is None
