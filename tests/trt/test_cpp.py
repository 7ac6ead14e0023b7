"""The C++ side, against a stand-in for TensorRT and CUDA (tests/trt/cpp): it takes what Python signed alone."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from native_build import ROOT, native_build, run

from pstmo_edge.bundle import open_bundle, write_bundle
from pstmo_edge.trt import plans
from pstmo_edge.trt.compiling import compile_bundle

HANDED = "TensorRT was handed"


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """The header compiled as a user compiles it, but with the stand-in's headers."""
    build, out = native_build("pstmo_edge"), tmp_path_factory.mktemp("cpp") / "run_plan"
    library = next(build.rglob("libpstmo_edge.so")).parent
    sources = [ROOT / "tests/trt/cpp" / name for name in ("run_plan.cc", "standin.cc")]
    run(
        "c++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'kernels/include'}",
        f"-I{ROOT / 'tests/trt/cpp'}", *sources, f"-L{library}", "-lpstmo_edge", "-pthread", f"-Wl,-rpath,{library}",
        "-o", out,
    )  # fmt: skip
    return out


@pytest.fixture
def compiled(bundle, device):
    """A bundle that Python compiled and signed, against its own stand-in."""
    path = bundle("fp32", "signed")
    device("10.3.0")
    compile_bundle(path)
    return path


def told(program, path, **environment):
    """The exit status and both outputs of the program."""
    done = subprocess.run(
        [program, path, plans.key_path()], capture_output=True, text=True, env=os.environ | environment
    )
    return done.returncode, done.stdout, done.stderr


def refused(program, path, words, **environment):
    """Told in one line, and TensorRT never saw a byte."""
    status, said, log = told(program, path, **environment)
    assert status == 1
    assert words in said
    assert said.count("\n") == 1
    assert HANDED not in log


def rewritten(path, changed):
    found = open_bundle(path)
    artifacts = {entry.path: found.read(entry.path) for entry in found.manifest.files}
    write_bundle(path, found.manifest.model_copy(update={"files": ()}), {**artifacts, **changed}, force=True)


def expected(batch):
    values = 9 * 17 * 2
    windows = (np.arange(batch * values) % 7 + np.arange(batch * values) // values).reshape(batch, values)
    return windows.sum(1)[:, None] + np.arange(51)


def test_what_python_signed_runs(program, compiled):
    status, said, log = told(program, compiled)
    assert status == 0, said + log
    lines = [line.split() for line in said.splitlines()]
    batches = [np.array(line[1:], float).reshape(-1, 51) for line in lines if line[0] == "batch"]
    assert [len(each) for each in batches] == [1, 1, 1, 3, 70, 1]
    for poses in batches:
        np.testing.assert_allclose(poses, expected(len(poses)))
    threads = [np.array(line[1:], float) for line in lines if line[0] == "thread"]
    for number, poses in enumerate(threads):
        np.testing.assert_allclose(poses, number * 9 * 17 * 2 + np.arange(51))
    assert "3 graph launches" in log  # the first size alone, until another came
    assert log.count(HANDED) == 1


@pytest.mark.parametrize(("compatible", "version", "fits"), [
    (False, "10.3.0.30", True), (False, "10.3.1.0", False), (False, "11.3.0.26", False),
    (True, "10.16.1.11", True), (True, "10.2.9.9", False), (True, "11.3.0.26", False),
])  # fmt: skip
def test_versions(program, bundle, device, compatible, version, fits):
    path = bundle("fp32")
    device("10.3.0")
    compile_bundle(path, changes={"version_compatible": compatible})
    if fits:
        assert told(program, path, STANDIN_TENSORRT=version)[0] == 0
    else:
        refused(program, path, f"tensorrt {version} here, 10.3.0 in the engine", STANDIN_TENSORRT=version)


def test_a_dla_core_reaches_the_runtime(program, bundle, device):
    path = bundle("fp16")
    device("10.7.0", dla_cores=2)
    compile_bundle(path, changes={"dla_core": 1, "batch_max": 1})
    status, said, log = told(program, path, STANDIN_TENSORRT="10.7.0.23")
    assert status == 0, said + log


def test_another_device_is_refused(program, compiled):
    refused(program, compiled, "device Fake Thor here, Fake Orin in the engine", STANDIN_DEVICE="Fake Thor")


def test_a_changed_bundle_is_refused(program, compiled, bundle, device, tmp_path):
    other = bundle("fp16", "other")
    device("10.3.0")
    compile_bundle(other)
    found, foreign = open_bundle(compiled), open_bundle(other)
    engine, record = found.read("model.plan"), json.loads(found.read("engine.json"))
    changed = bytearray(engine)
    changed[len(changed) // 2] ^= 1
    moved = {**record, "key": {**record["key"], "device": "Fake Thor"}}
    for files, words in (
        ({"model.plan": bytes(changed)}, "is not the engine that was signed"),
        ({"model.plan": foreign.read("model.plan")}, "is not the engine that was signed"),
        ({name: foreign.read(name) for name in ("model.plan", "engine.json")}, "compiled for something else: graph"),
        ({"engine.json": json.dumps(moved).encode()}, "was not signed by this device's key"),
        ({"engine.json": json.dumps({**record, "tag": "0" * 64}).encode()}, "was not signed by this device's key"),
        ({"engine.json": json.dumps({**record, "more": 1}).encode()}, "engine.json is damaged"),
        ({"engine.json": b"{}"}, "engine.json is damaged"),
        ({"engine.json": b"{"}, "engine.json is damaged"),
        ({"build_plan.json": b"{}"}, "cannot be used"),
    ):
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        rewritten(Path(shutil.copytree(compiled, tmp_path / "bad")), files)
        refused(program, tmp_path / "bad", words)
    plan = compiled / "model.plan"
    for content, words in ((bytes(changed), "was changed since it was written"), (engine[:-1], "was changed since")):
        plan.write_bytes(content)  # and the manifest's digest is the old one
        refused(program, compiled, words)
    plan.unlink()
    refused(program, compiled, "model.plan")


def test_bundles_that_are_none(program, bundle, small_engine, tmp_path):
    refused(program, bundle("fp32"), "not compiled yet: run `pstmo-edge compile`")
    refused(program, small_engine, "built for 'onnxruntime'")
    refused(program, tmp_path / "nowhere", "no such folder")


def test_keys(program, compiled):
    key, content = plans.key_path(), plans.key_path().read_bytes()
    key.chmod(0o640)
    refused(program, compiled, f"others may read {key}")
    key.chmod(0o600)
    key.write_bytes(content[:-1])
    refused(program, compiled, "is no key of 32 bytes")
    key.write_bytes(bytes(32))
    refused(program, compiled, "was not signed by this device's key")
    key.unlink()
    refused(program, compiled, "compiled elsewhere: there is no key at")


@pytest.mark.parametrize(("fault", "words"), [
    ("memory", "CUDA: cudaHostAlloc failed with cudaErrorMemoryAllocation"), ("shape", "refuses this batch"),
    ("open", "could not make the engine opened: Serialization"), ("context", "could not make an execution context"),
])  # fmt: skip
def test_failures_are_one_line_and_give_everything_back(program, compiled, fault, words):
    status, said, log = told(program, compiled, STANDIN_FAIL=fault)
    assert status == 1, log
    assert words in said
    assert said.count("\n") == 1


def test_a_signature_has_one_form(tmp_path, monkeypatch):
    """Names that JSON escapes are signed as they are written."""
    monkeypatch.setenv(plans.KEY_VARIABLE, str(tmp_path / "plan.key"))
    key = plans.EngineKey(
        graph_sha256="a", weights_sha256="b", precision="int8", tensorrt="10.3.0", device='é "x"\\', capability="8.7",
        driver="1",
    )  # fmt: skip
    record = plans.signed(plans.EngineRecord(key=key, engine_sha256="c"))
    assert b"\\u00e9" in plans.written(record)
    assert plans.EngineRecord.model_validate_json(plans.written(record)) == record
