import numpy as np
import onnx
import pytest
import torch
from reference import largest_difference, load_golden

import pstmo_edge as pe
from pstmo_edge.backends.onnxruntime import OnnxRuntimeSession
from pstmo_edge.errors import UsageError
from pstmo_edge.export import PARITY_BATCHES, ParityError, check_parity, export_onnx, exportable, random_keypoints


@pytest.fixture(scope="module", params=["pstmo_s_27", "pstmo_s_81"])
def published(request):
    """A model with the published code's parameters, its graph, and the published outputs."""
    state, arrays, meta = load_golden(request.param)
    model = pe.create_model("p-stmo-s", meta["frames"]).eval()
    model.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()})
    return model, export_onnx(exportable(model)), arrays


def openvino_session(graph, tmp_path):
    ov = pytest.importorskip("openvino")
    from pstmo_edge.backends.openvino import OpenVinoSession

    onnx.save(graph, tmp_path / "model.onnx")
    return OpenVinoSession(ov.convert_model(tmp_path / "model.onnx"))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_runtimes_equal_torch_and_the_published_code(published, runtime, tmp_path):
    model, graph, arrays = published
    session = (
        OnnxRuntimeSession(graph.SerializeToString()) if runtime == "onnxruntime" else openvino_session(graph, tmp_path)
    )
    assert largest_difference(session.run(arrays["keypoints"]), arrays["pose"]) < 1e-4
    for batch in PARITY_BATCHES:
        keypoints = random_keypoints(batch, model.config.frames)
        with torch.no_grad():
            expected = model(torch.from_numpy(keypoints)).numpy()
        assert largest_difference(session.run(keypoints), expected) < 1e-4


def test_names_and_shapes_of_the_graph(published):
    model, graph, _ = published
    (given,), (result,) = graph.graph.input, graph.graph.output
    shape = [dim.dim_param or dim.dim_value for dim in given.type.tensor_type.shape.dim]
    assert (given.name, result.name) == ("keypoints", "pose")
    assert shape == ["batch", model.config.frames, 17, 2]
    assert not [tensor.name for tensor in graph.graph.initializer if tensor.external_data]
    assert graph.opset_import[0].version == 20


def test_a_graph_that_computes_something_else_is_refused(published):
    model, graph, _ = published
    wrong = onnx.ModelProto()
    wrong.CopyFrom(graph)
    tensor = next(tensor for tensor in wrong.graph.initializer if tensor.name == "Transformer.pos_embedding")
    tensor.CopyFrom(onnx.numpy_helper.from_array(1.01 * onnx.numpy_helper.to_array(tensor), tensor.name))
    assert check_parity(model, graph) < 1e-5
    with pytest.raises(ParityError, match="differs from the model"):
        check_parity(model, wrong)


def test_the_pretraining_model_is_not_for_export():
    with pytest.raises(UsageError, match="lifts no poses"):
        exportable(pe.create_model("p-stmo-s-pretrain", 27))


def test_one_nan_spoils_only_its_own_window(published):
    """Why an engine must refuse such windows: inside, nothing stops it."""
    model, graph, _ = published
    keypoints = random_keypoints(2, model.config.frames)
    keypoints[0, 3, 5, 0] = np.nan
    poses = OnnxRuntimeSession(graph.SerializeToString()).run(keypoints)
    assert np.isnan(poses[0]).all()
    assert np.isfinite(poses[1]).all()
