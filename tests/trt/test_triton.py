"""Model repositories of compiled engines, against the published protocol and the stand-in."""

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from pstmo_edge import serving
from pstmo_edge.bundle import open_bundle
from pstmo_edge.errors import BackendError, UsageError
from pstmo_edge.trt import api, plans
from pstmo_edge.trt.compiling import compile_bundle


def config(folder):
    return text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())


def test_a_compiled_engine_is_served_as_it_was_compiled(bundle, device, tmp_path):
    path = bundle("fp16")
    _, trt = device("10.3.0")
    compile_bundle(path, changes={"batch_max": 16})
    assert serving.export_triton(path, tmp_path / "out", serving.Serving(instances=2)) == ("lifter",)
    found = config(tmp_path / "out/lifter")
    assert (found.backend, found.max_batch_size, found.instance_group[0].count) == ("tensorrt", 16, 2)
    assert found.instance_group[0].kind == found.instance_group[0].KIND_GPU
    assert not found.instance_group[0].secondary_devices
    assert found.HasField("dynamic_batching")
    opened = api.Api().deserialize((tmp_path / "out/lifter/1/model.plan").read_bytes())
    names = [opened.get_tensor_name(index) for index in range(opened.num_io_tensors)]
    assert names == [found.input[0].name, found.output[0].name]
    assert list(found.input[0].dims) == list(opened.get_tensor_profile_shape(names[0], 0)[2])[1:]
    assert list(found.output[0].dims) == [17, 3]
    assert [each.name for each in (tmp_path / "out/lifter/1").iterdir()] == ["model.plan"]
    assert trt.handed[-1] == open_bundle(path).read("model.plan")


def test_a_dla_core_is_named(bundle, device, tmp_path):
    path = bundle("fp16")
    device("10.7.0", dla_cores=2)
    compile_bundle(path, changes={"dla_core": 1, "batch_max": 1})
    serving.export_triton(path, tmp_path / "out")
    (second,) = config(tmp_path / "out/lifter").instance_group[0].secondary_devices
    assert (second.kind, second.device_id) == (second.KIND_NVDLA, 1)


def test_engines_that_cannot_be_served_are_refused(bundle, device, tmp_path):
    path = bundle("fp32")
    device("10.3.0")
    compile_bundle(path, changes={"batch_min": 2, "batch_opt": 2})
    with pytest.raises(UsageError, match="takes 2 windows or more"):
        serving.export_triton(path, tmp_path / "out")
    plans.key_path().write_bytes(bytes(32))
    with pytest.raises(BackendError, match="not signed by this device"):
        serving.export_triton(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
