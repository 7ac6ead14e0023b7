"""The repository for Triton, checked against the published protocol, and its graphs in ONNX Runtime."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from google.protobuf import text_format
from recordings import write_recording
from tritonclient.grpc.model_config_pb2 import ModelConfig

import pstmo_edge as pe
from pstmo_edge import serving
from pstmo_edge.bundle import open_bundle, write_bundle
from pstmo_edge.datasets import keypoint_file
from pstmo_edge.errors import BackendError, UsageError
from pstmo_edge.export import random_keypoints
from pstmo_edge.windows import extract_windows


def config(folder):
    return text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())


def session(folder):
    return ort.InferenceSession(folder / "1/model.onnx", providers=["CPUExecutionProvider"])


@pytest.fixture(scope="session")
def repository(small_engine, tmp_path_factory):
    out = tmp_path_factory.mktemp("triton") / "repository"
    assert serving.export_triton(small_engine, out) == ("lifter", "lifter-stream")
    return out


def test_configurations_are_of_the_published_protocol_and_fit_the_graphs(repository):
    for name in ("lifter", "lifter-stream"):
        found, graph = config(repository / name), session(repository / name)
        assert (found.name, found.backend, found.max_batch_size) == (name, "onnxruntime", 64)
        given = {each.name: list(each.dims) for each in found.input}
        answers = {each.name: list(each.dims) for each in found.output}
        for state in found.sequence_batching.state:
            given[state.input_name] = answers[state.output_name] = list(state.dims)
        for control in found.sequence_batching.control_input:
            given[control.name] = [1]
        assert given == {each.name: list(each.shape[1:]) for each in graph.get_inputs()}
        assert answers == {each.name: list(each.shape[1:]) for each in graph.get_outputs()}
    batched, stream = config(repository / "lifter"), config(repository / "lifter-stream")
    assert batched.HasField("dynamic_batching")
    assert batched.dynamic_batching.max_queue_delay_microseconds == 2000
    assert stream.HasField("sequence_batching")
    assert stream.sequence_batching.oldest.max_candidate_sequences == 64
    assert list(stream.sequence_batching.control_input[0].control[0].fp32_false_true) == [0, 1]
    assert json.loads((repository / serving.MARKER).read_text())["input"]["frames"] == 9


@pytest.mark.parametrize("step", [1, 3])
def test_the_stream_gives_the_poses_of_windows(small_engine, tmp_path, step):
    found = open_bundle(small_engine)
    changed = found.manifest.model_copy(
        update={"files": (), "input": found.manifest.input.model_copy(update={"t_downsample": step})}
    )
    write_bundle(tmp_path / "engine", changed, {"model.onnx": found.read("model.onnx")})
    serving.export_triton(tmp_path / "engine", tmp_path / "out")
    graph, engine = session(tmp_path / "out/lifter-stream"), pe.load_engine(small_engine)
    frames = random_keypoints(2, 40)  # two people at once; the second starts again at frame 20
    state = np.full((2, 8 * step + 1, 17, 2), 7, np.float32)  # whatever was there before
    starts = np.zeros((40, 2), int)
    starts[20:, 1] = 20
    for now in range(40):
        start = np.array([[float(now == starts[now, who])] for who in range(2)], np.float32)
        pose, state = graph.run(None, {"frame": frames[:, now], "START": start, "window_in": state})
        for who in range(2):
            indices = np.maximum(now - step * np.arange(8, -1, -1), starts[now, who])
            np.testing.assert_allclose(pose[who], engine.infer(frames[who : who + 1, indices])[0], atol=1e-5)


def test_options_reach_the_configuration(small_engine, tmp_path):
    serving.export_triton(small_engine, tmp_path / "out", serving.Serving("p_stmo", 8, 3, gpu=True))
    found = config(tmp_path / "out/p_stmo")
    assert (found.max_batch_size, found.instance_group[0].count) == (8, 3)
    assert found.instance_group[0].kind == found.instance_group[0].KIND_GPU


def test_an_openvino_bundle_is_served_by_its_own_backend(small_model, small_prepared, tmp_path):
    ov = pytest.importorskip("openvino")
    pe.build(small_model, "fp32", "openvino", out=tmp_path / "engine", prepared=small_prepared)
    assert serving.export_triton(tmp_path / "engine", tmp_path / "out") == ("lifter",)
    found = config(tmp_path / "out/lifter")
    assert (found.backend, found.max_batch_size) == ("openvino", 64)
    assert found.instance_group[0].kind == found.instance_group[0].KIND_CPU
    network = ov.Core().read_model(tmp_path / "out/lifter/1/model.xml")
    for described, port in ((found.input[0], network.inputs[0]), (found.output[0], network.outputs[0])):
        assert described.name in port.names
        assert list(described.dims) == [side.get_length() for side in list(port.partial_shape)[1:]]
    keypoints = random_keypoints(3, 9)
    served = ov.Core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(keypoints)[0]
    np.testing.assert_allclose(served, pe.load_engine(tmp_path / "engine").infer(keypoints), atol=1e-5)
    with pytest.raises(UsageError, match="leave --gpu out"):
        serving.export_triton(tmp_path / "engine", tmp_path / "gpu", serving.Serving(gpu=True))


def test_what_cannot_be_served_is_refused(small_engine, small_model, small_prepared, tmp_path):
    with pytest.raises(UsageError, match="letters, digits"):
        serving.Serving("a/b")
    with pytest.raises(UsageError, match="both must be 1"):
        serving.Serving(max_batch=0)
    pe.build(small_model, "fp32", "torch", out=tmp_path / "torch", prepared=small_prepared)
    with pytest.raises(UsageError, match="no backend for torch"):
        serving.export_triton(tmp_path / "torch", tmp_path / "out")
    pe.build(small_model, "fp32", "tensorrt", out=tmp_path / "trt", prepared=small_prepared)
    with pytest.raises(BackendError, match="not compiled yet"):
        serving.export_triton(tmp_path / "trt", tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("")
    with pytest.raises(UsageError, match=r"pstmo-edge\.json"):
        serving.export_triton(small_engine, tmp_path / "mine", force=True)
    assert not (tmp_path / "out").exists()


class Server:
    """What the example's client asks of a server, answered by ONNX Runtime with the server's own state handling."""

    def __init__(self, repository):
        self.models = {name: session(repository / name) for name in ("lifter", "lifter-stream")}
        self.state = {}

    def infer(self, model, inputs, sequence_id=0, sequence_start=False, sequence_end=False):
        sent = {each.name(): np.frombuffer(each._get_content(), np.float32).reshape(each.shape()) for each in inputs}
        if sequence_id:
            state = self.state.get(sequence_id, np.zeros((1, 9, 17, 2), np.float32))
            sent |= {"START": np.array([[float(sequence_start)]], np.float32), "window_in": state}
        pose, *left = self.models[model].run(None, sent)
        if sequence_id:
            self.state[sequence_id] = left[0]
            if sequence_end:
                del self.state[sequence_id]
        return type("Answer", (), {"as_numpy": lambda self, name: {"pose": pose}[name]})()


def test_the_example_client(repository, small_engine, tmp_path):
    place = Path(__file__).parents[1] / "examples/triton_client.py"
    spec = importlib.util.spec_from_file_location("triton_client", place)
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    path = write_recording(tmp_path / "a.npz", 70)
    frames = client.normalised(path)
    np.testing.assert_allclose(frames, keypoint_file.load(path).keypoints, atol=1e-6)
    given = json.loads((repository / serving.MARKER).read_text())["input"]
    server, engine = Server(repository), pe.load_engine(small_engine)
    windows = extract_windows(frames, np.arange(70), engine.spec)
    poses = client.by_windows(server, "lifter", frames, given)
    np.testing.assert_allclose(poses, engine.infer(windows), atol=1e-5)
    behind = client.by_frames(server, "lifter-stream", frames, sequence=1)
    np.testing.assert_allclose(behind[8:], poses[4:-4], atol=1e-5)  # the pose of four frames ago
    assert server.state == {}
