"""The whole road to a TensorRT engine against a stand-in that enforces the documented rules; see standin.py."""

import hashlib
import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import standin
from typer.testing import CliRunner

import pstmo_edge as pe
from pstmo_edge import cli
from pstmo_edge.backends.onnxruntime import OnnxRuntimeSession
from pstmo_edge.bundle import open_bundle, write_bundle
from pstmo_edge.errors import BackendError, UsageError
from pstmo_edge.export import random_keypoints
from pstmo_edge.manifest import LayerPrecision
from pstmo_edge.trt import api, buffers, inspection, plans
from pstmo_edge.trt.compiling import compile_bundle

FACTS = json.loads(Path(__file__).with_name("bindings.json").read_text())


def rewritten(path, changed):
    """A bundle whose digests are right again after some files were changed, as an attacker would have it."""
    found = open_bundle(path)
    artifacts = {entry.path: found.read(entry.path) for entry in found.manifest.files}
    write_bundle(path, found.manifest.model_copy(update={"files": ()}), {**artifacts, **changed}, force=True)


@pytest.mark.parametrize("name", sorted(FACTS))
def test_every_name_is_in_the_published_packages(name):
    facts = FACTS[name]
    assert set(api.NAMES) <= set(facts["names"])
    removed = set(api.REMOVED_IN_11) & set(facts["names"])
    assert removed == (set() if name.split()[1].startswith("11") else set(api.REMOVED_IN_11))


def test_arguments_are_the_same_in_all_published_packages_and_as_many_as_are_given():
    given = {
        "add_optimization_profile": 1, "build_serialized_network": 2, "create_network": 1, "create_timing_cache": 1,
        "deserialize_cuda_engine": 1, "execute_async_v3": 1, "get_engine_information": 1, "get_tensor_mode": 1,
        "get_tensor_name": 1, "get_tensor_profile_shape": 2, "set_input_shape": 2, "set_memory_pool_limit": 2,
        "set_tensor_address": 2, "set_timing_cache": 2,
    }  # fmt: skip
    found = {name: set() for name in given}
    for facts in FACTS.values():
        for name, signatures in facts["arguments"].items():
            found[name] |= {tuple(each) for each in signatures}
    assert {name: {len(each) for each in signatures} for name, signatures in found.items()} == {
        name: {count} for name, count in given.items()
    }
    assert all(len(signatures) == 1 for signatures in found.values()), "names differ between versions"


def test_a_portable_bundle_holds_the_graph_and_its_plan(portable):
    manifest = open_bundle(portable / "int8").manifest
    assert {entry.path for entry in manifest.files} == {"model.onnx", "build_plan.json"}
    assert manifest.backend.versions == {"tensorrt": ">=10.3"}
    assert manifest.target.name == "tensorrt"
    assert "in onnxruntime" in open_bundle(portable / "fp32").manifest.accuracy.data
    assert manifest.precision.int8_share > 0


@pytest.mark.parametrize(
    ("version", "cuda", "precision"),
    [
        ("10.3.0", "cuda-python", "int8"),
        ("10.16.1.11", "pycuda", "fp32"),
        ("11.0.0.114", "cuda-python", "fp32"),
        ("11.4.0.106", "pycuda", "int8"),
    ],
)
def test_compile_and_run(bundle, device, version, cuda, precision):
    path = bundle(precision)
    memory, _ = device(version, cuda)
    compiled = compile_bundle(path)
    assert compiled.manifest.backend.version == version
    if precision == "int8":
        assert compiled.manifest.precision.int8_share == open_bundle(path).manifest.precision.int8_share > 0
    assert memory.blocks == {}
    assert memory.streams == set()
    engine = pe.load_engine(path)
    graph = OnnxRuntimeSession(compiled.read("model.onnx"))
    for batch in (1, 1, 1, 7, 65, 130):  # a graph, then other sizes, then more than the engine takes
        keypoints = random_keypoints(batch, 9)
        pieces = [graph.run(keypoints[start : start + 64]) for start in range(0, batch, 64)]
        np.testing.assert_allclose(engine.infer(keypoints), np.concatenate(pieces), atol=1e-5)
    assert engine.infer(np.empty((0, 9, 17, 2), np.float32)).shape == (0, 17, 3)
    if cuda == "cuda-python":
        assert memory.calls.count("cudaStreamBeginCapture") == 1
        assert memory.calls.count("cudaGraphLaunch") == 3
    engine._session.close()
    engine._session.close()
    assert memory.blocks == {}
    assert memory.streams == set()
    assert memory.stack() == []


def test_a_dla_core_takes_what_it_can(bundle, device, portable):
    path = bundle("int8")
    device("10.7.0", dla_cores=2)
    told = []
    compiled = compile_bundle(
        path,
        changes={"dla_core": 1, "batch_min": 2, "batch_opt": 2, "batch_max": 2},
        tell=lambda text, *_: told.append(text),
    )
    graph = onnx.load_from_string(compiled.read("model.onnx"))
    taken = sum(node.op_type in ("Conv", "Relu", "Add") for node in graph.graph.node)
    assert f"DLA core 1 takes {taken} of {len(graph.graph.node)} layers, the GPU the others" in told
    assert json.loads(compiled.read("engine.json"))["dla_core"] == 1
    assert plans.BuildPlan.model_validate_json(compiled.read("build_plan.json")).batch_max == 2
    engine, keypoints = pe.load_engine(path), random_keypoints(3, 9)  # 2 windows, and 1 in a batch of 2
    alone = OnnxRuntimeSession(compiled.read("model.onnx")).run(keypoints)
    np.testing.assert_allclose(engine.infer(keypoints), alone, atol=1e-5)


DLA = {"dla_core": 0, "batch_max": 1}


@pytest.mark.parametrize(
    ("version", "precision", "cores", "changes", "error", "words"),
    [
        ("10.7.0", "fp32", 2, DLA, BackendError, "a DLA computes fp16 and int8, this bundle is fp32"),
        ("10.8.0", "int8", 2, DLA, BackendError, "TensorRT 10.8.0 supports no DLA"),
        ("11.4.0", "int8", 2, DLA, BackendError, "TensorRT 11.4.0 supports no DLA"),
        ("10.3.0", "int8", 0, DLA, BackendError, "--dla is 0: this device has 0 DLA cores"),
        ("11.4.1", "int8", 1, {**DLA, "dla_core": 1}, BackendError, "--dla is 1: this device has 1 DLA cores"),
        ("10.3.0", "int8", 2, {"dla_core": 0}, UsageError, "one size of batch, not 1 to 64"),
        (
            "10.3.0",
            "int8",
            2,
            {"dla_core": 0, "batch_min": 5000, "batch_opt": 5000, "batch_max": 5000},
            UsageError,
            "4096",
        ),
        ("10.3.0", "int8", 2, {"dla_core": -1}, UsageError, "dla_core: Input should be greater"),
        ("10.3.0", "int8", 2, {**DLA, "version_compatible": True}, UsageError, "one device and one version"),
    ],
)
def test_a_dla_that_is_not_there_is_one_line(bundle, device, version, precision, cores, changes, error, words):
    path = bundle(precision)
    _, trt = device(version, dla_cores=cores)
    with pytest.raises(error, match=words):
        compile_bundle(path, changes=changes)
    assert trt.handed == []


def test_a_dla_that_takes_no_layer_is_told(bundle, device):
    path = bundle("int8")
    device("10.7.0", dla_cores=2, on_dla=())
    with pytest.raises(BackendError, match=r"a DLA takes none of the \d+ layers: compile without --dla"):
        compile_bundle(path, changes=DLA)


def test_commands_compile_at_once_where_a_device_is(bundle, device, tmp_path, monkeypatch, portable):
    def build(out):
        shutil.copytree(portable / "fp32", out)
        return open_bundle(out)

    monkeypatch.setattr(pe, "load_model", lambda *a, **k: None)
    monkeypatch.setattr(pe, "emitting", lambda lifter, emit: SimpleNamespace(lifter=None))
    monkeypatch.setattr("pstmo_edge.backends.check_lifter", lambda *a: None)
    monkeypatch.setattr("pstmo_edge.preparing.prepare", lambda *a, **k: None)
    monkeypatch.setattr(pe, "build", lambda *a, out, **k: build(out))
    order = ["build", "--backend", "tensorrt", "--precision", "fp32", "--out"]
    done = CliRunner().invoke(cli.app, [*order, str(tmp_path / "none")])
    assert done.exit_code == 0, done.output
    assert f"run `pstmo-edge compile {tmp_path / 'none'}` on the device" in done.output
    device()
    done = CliRunner().invoke(cli.app, [*order, str(tmp_path / "here")])
    assert done.exit_code == 0, done.output
    assert "pstmo-edge compile" not in done.output
    assert (tmp_path / "here/model.plan").exists()
    done = CliRunner().invoke(cli.app, ["compile", str(tmp_path / "none"), "--batch", "1,2,8", "--workspace-mib", "64"])
    assert done.exit_code == 0, done.output
    plan = plans.BuildPlan.model_validate_json(open_bundle(tmp_path / "none").read("build_plan.json"))
    assert (plan.batch_opt, plan.batch_max, plan.workspace_mib) == (2, 8, 64)
    for wrong in ("2,1", "a", ""):
        done = CliRunner().invoke(cli.app, ["compile", str(tmp_path / "none"), "--batch", wrong])
        assert isinstance(done.exception, UsageError)


@pytest.mark.parametrize("cuda", ["cuda-python", "pycuda"])
def test_eight_threads(bundle, device, cuda):
    path = bundle()
    memory, _ = device(cuda=cuda)
    compile_bundle(path)
    engine = pe.load_engine(path)
    windows = [random_keypoints(1, 9) + n / 100 for n in range(8)]
    expected, failures, left = [engine.infer(each) for each in windows], [], []

    def work(number):
        for _ in range(10):
            if not np.array_equal(engine.infer(windows[number]), expected[number]):
                failures.append(number)
        left.extend(memory.stack())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert left == []  # no thread keeps a context


def test_int8_that_is_not_int8_is_refused(bundle, device):
    path = bundle("int8")
    wanted = open_bundle(path).manifest.precision
    layer = next(each for each in wanted.layers if each.precision == "int8")
    device(float_layers=(layer.name,))
    share = layer.multiply_adds / sum(each.multiply_adds for each in wanted.layers if each.precision == "int8")
    with pytest.raises(BackendError, match=rf"{share:.1%} of the multiply-adds.*{layer.name} \(fp32\)"):
        compile_bundle(path)
    assert open_bundle(path).manifest.precision == wanted
    got = compile_bundle(path, allow_float=True).manifest.precision
    assert next(each for each in got.layers if each.name == layer.name).precision == "fp32"
    assert got.int8_share < wanted.int8_share


@pytest.mark.parametrize("text", ["", "[]", '{"Layers": ["a", "b"]}', '{"Layers": []}'])
def test_an_engine_without_details_has_no_known_precision(text):
    with pytest.raises(BackendError, match="precision is unknown"):
        inspection.executed([LayerPrecision(name="a", kind="MatMul", precision="int8", multiply_adds=1)], text)


def test_names_that_contain_others_are_told_apart():
    layers = [LayerPrecision(name=n, kind="MatMul", precision="int8", multiply_adds=1) for n in ("a.1", "a.11")]
    inputs = {"a.1": "Int8", "a.11": "FP16"}
    found = [{"Name": f"__myl_{n}_0", "Metadata": f"[ONNX Layer: {n}]", "LayerType": "gemm",
              "Inputs": [{"Format/Datatype": kind}]} for n, kind in inputs.items()]  # fmt: skip
    got = inspection.executed(layers, json.dumps({"Layers": found}))
    assert [each.precision for each in got] == ["int8", "fp16"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [("memory", "ran out of memory.*workspace-mib"), ("build", "could not make an engine: Could not find"),
     ("parse", "does not read the graph: In node 3"), ("open", "could not make the engine opened")],
)  # fmt: skip
def test_a_failed_build_says_why_and_changes_nothing(bundle, device, fault, words):
    path = bundle()
    before = open_bundle(path)
    memory, _ = device(fail=fault)
    with pytest.raises(BackendError, match=words):
        compile_bundle(path)
    assert open_bundle(path) == before
    assert memory.blocks == {}


@pytest.mark.parametrize("version", ["8.6.2", "10.2.0", "12.0.0"])
def test_other_versions_are_refused(bundle, device, version):
    path = bundle()
    device(version)
    with pytest.raises(BackendError, match=f"TensorRT {version} is installed: 10.3 to 11.x"):
        compile_bundle(path)


def test_without_tensorrt_the_way_out_is_told(bundle):
    path = bundle()
    for call in (compile_bundle, pe.load_engine):
        with pytest.raises(BackendError, match="python3-libnvinfer"):
            call(path)


def test_wrong_bundles(bundle, device, small_engine, tmp_path):
    path = bundle()
    device()
    with pytest.raises(UsageError, match="is for onnxruntime"):
        compile_bundle(small_engine)
    with pytest.raises(BackendError, match="not compiled yet: `pstmo-edge compile"):
        pe.load_engine(path)
    with pytest.raises(UsageError, match="exists already"):
        compile_bundle(path, tmp_path)
    assert compile_bundle(path, tmp_path / "new").path == tmp_path / "new"
    assert "model.plan" not in {entry.path for entry in open_bundle(path).manifest.files}


@pytest.mark.parametrize(
    ("change", "words"),
    [({"version": "10.16.1.11"}, "tensorrt 10.16.1.11 here, 10.3.0 in the engine"), ({}, "driver 12080 here")],
)
def test_another_device_is_refused_before_tensorrt_sees_a_byte(bundle, device, monkeypatch, change, words):
    path = bundle()
    device()
    compile_bundle(path)
    _, trt = device(**change)
    if not change:
        monkeypatch.setattr(buffers.CudaPython, "gpu", lambda self: buffers.Gpu("Fake Orin", "8.7", "12080"))
    with pytest.raises(BackendError, match=f"{words}.*pstmo-edge compile"):
        pe.load_engine(path)
    assert trt.handed == []


def test_unsigned_bytes_never_reach_tensorrt(bundle, device, tmp_path):
    one, other = bundle("fp32", "one"), bundle("int8", "other")
    device()
    compile_bundle(one)
    compile_bundle(other)
    engine, record = (open_bundle(one).read(name) for name in ("model.plan", "engine.json"))
    foreign = {name: open_bundle(other).read(name) for name in ("model.plan", "engine.json")}
    _, trt = device()
    changed = bytearray(engine)
    changed[len(changed) // 2] ^= 1
    fields = json.loads(record)
    forged = {**fields, "engine_sha256": hashlib.sha256(changed).hexdigest()}
    for files, words in (
        ({"model.plan": bytes(changed)}, "not the engine that was signed"),
        ({"model.plan": bytes(changed), "engine.json": json.dumps(forged).encode()}, "not signed by this device"),
        ({"model.plan": foreign["model.plan"]}, "not the engine that was signed"),
        (foreign, "compiled for something else: graph"),  # swapped whole between two valid bundles
        ({"engine.json": b"{}"}, "engine.json is damaged"),
        ({"engine.json": json.dumps({**fields, "tag": "é"}).encode()}, "not signed by this device"),
    ):
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        rewritten(Path(shutil.copytree(one, tmp_path / "bad")), files)
        with pytest.raises(BackendError, match=words):
            pe.load_engine(tmp_path / "bad")
    key = plans.key_path()
    key.write_bytes(bytes(32))
    with pytest.raises(BackendError, match="not signed by this device"):
        pe.load_engine(one)
    key.unlink()
    with pytest.raises(BackendError, match="compiled elsewhere"):
        pe.load_engine(one)
    assert trt.handed == []


KEY = plans.EngineKey(
    graph_sha256="a", weights_sha256="b", precision="int8", tensorrt="10.3.0", device="d", capability="8.7", driver="1"
)


@pytest.mark.parametrize("mode", [0o666, 0o620, 0o640, 0o604])
def test_a_key_that_others_may_read_or_write_is_not_trusted(mode, tmp_path, monkeypatch):
    monkeypatch.setenv(plans.KEY_VARIABLE, str(tmp_path / "plan.key"))
    record = plans.signed(plans.EngineRecord(key=KEY, engine_sha256="c"))
    assert plans.key_path().stat().st_mode & 0o077 == 0
    plans.key_path().chmod(mode)
    with pytest.raises(BackendError, match=r"others may read .*plan\.key.*chmod 600"):
        plans.signed(record)
    with pytest.raises(BackendError, match=r"others may read .*plan\.key.*chmod 600"):
        plans.verified(record.model_dump_json().encode(), b"", tmp_path)


@pytest.mark.parametrize("cuda", ["cuda-python", "pycuda"])
def test_no_memory_on_the_device_is_one_line_and_leaves_nothing(bundle, device, cuda):
    path = bundle()
    device(cuda=cuda)
    compile_bundle(path)
    memory, _ = device(cuda=cuda)
    memory.fail = {"cudaMalloc": True, "mem_alloc": True}
    with pytest.raises(BackendError, match=r"CUDA: .*(MemoryAllocation|out of memory)"):
        pe.load_engine(path)
    assert memory.blocks == {}
    assert memory.stack() == []


def test_without_cuda_packages_the_way_out_is_told(bundle, device):
    path = bundle()
    device(cuda="none")
    with pytest.raises(BackendError, match="pip install cuda-python"):
        compile_bundle(path)


def test_options_of_the_plan_reach_the_builder(device):
    device("11.4.0.106")
    plan = plans.BuildPlan(version_compatible=True, hardware_compatible=True, workspace_mib=64, optimization_level=2)
    found = api.Api()
    config = found.trt.Builder(found.logger).create_builder_config()
    found._configure(config, plan, b"of another device")
    assert config.limits == {"WORKSPACE": 64 << 20}
    assert config.flags == {found.trt.BuilderFlag.VERSION_COMPATIBLE}
    assert (config.hardware_compatibility_level, config.builder_optimization_level) == ("AMPERE_PLUS", 2)
    assert config.profiling_verbosity == "DETAILED"
    with pytest.raises(ValueError, match="not in order"):
        plans.BuildPlan(batch_min=4, batch_opt=2)


def test_a_version_compatible_engine_opens_with_a_later_minor_version_alone():
    record = plans.EngineRecord(key=KEY, engine_sha256="c", version_compatible=True)
    plans.check_key(record, KEY.model_copy(update={"tensorrt": "10.16.1"}), Path("x"))
    for version in ("10.2.9", "11.0.0"):
        with pytest.raises(BackendError, match="tensorrt"):
            plans.check_key(record, KEY.model_copy(update={"tensorrt": version}), Path("x"))


def test_the_stand_in_enforces_its_rules():
    memory = standin.FakeMemory()
    eleven = standin.tensorrt("11.0.0.114", memory)
    assert not hasattr(eleven.BuilderFlag, "INT8")
    found = api.ILOGGER if hasattr(api, "ILOGGER") else type("Log", (eleven.ILogger,), {"log": lambda *a: None})()
    builder = eleven.Builder(found)
    with pytest.raises(ValueError, match="no such flag"):
        builder.create_network(1)
    assert builder.build_serialized_network(builder.create_network(0), builder.create_builder_config()) is None


def test_the_graph_is_explicit_and_symmetric(portable):
    graph = onnx.load_from_string(open_bundle(portable / "int8").read("model.onnx"))
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    pairs = [node for node in graph.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        assert not constants[node.input[2]].any()
        assert constants[node.input[2]].dtype == np.int8
