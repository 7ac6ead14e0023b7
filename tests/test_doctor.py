"""The doctor: what it finds, what it prints, and that it imports no runtime."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pstmo_edge import doctor
from pstmo_edge._version import __version__


@pytest.fixture(scope="module")
def here() -> doctor.Diagnosis:
    return doctor.diagnose()


def printed(diagnosis: doctor.Diagnosis) -> str:
    console = Console(file=io.StringIO(), width=200)
    doctor.render(diagnosis, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def without_runtimes(diagnosis: doctor.Diagnosis) -> doctor.Diagnosis:
    return replace(diagnosis, runtimes=tuple(replace(runtime, version=None) for runtime in diagnosis.runtimes))


def test_a_diagnosis_is_plain_json(here: doctor.Diagnosis) -> None:
    plain = json.loads(json.dumps(here.as_dict()))
    assert plain["package"] == __version__
    assert plain["cores"] >= 1
    assert plain["disk_free"] > 0
    assert plain["target"] in doctor.TARGETS
    assert {runtime["name"] for runtime in plain["runtimes"]} == {
        *("torch", "onnx", "onnxruntime", "openvino", "scipy", "h5py", "tensorrt", "triton", "cuda-python", "ray"),
        *("av", "rerun", "rtmlib", "mediapipe"),
    }


def test_each_missing_runtime_comes_with_its_command_once(here: doctor.Diagnosis) -> None:
    text = printed(without_runtimes(replace(here, gpus=())))
    assert text.count("pip install 'pstmo-edge[openvino]'") == 1
    assert text.count("pip install 'pstmo-edge[onnxruntime]'") == 1
    assert "pip install 'tensorrt" not in text


def test_what_needs_a_gpu_is_only_missed_where_there_is_one(here: doctor.Diagnosis) -> None:
    bare = without_runtimes(replace(here, gpus=("NVIDIA H200, 570.1, 143771 MiB",)))
    assert {"tensorrt", "triton"} <= {runtime.name for runtime in bare.missing()}
    assert "pip install 'tensorrt>=10.3,<12'" in printed(bare)


def test_a_missing_native_library_is_said_with_its_reason(here: doctor.Diagnosis) -> None:
    reason = "it was not built [here]: install a C++ compiler"
    text = printed(replace(here, native=doctor.Native(None, None, reason)))
    assert f"No native library: {reason}" in text


def test_a_jetson_is_recognised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"NVIDIA Jetson Orin Nano\0")
    (tmp_path / "nvhost-gpu").touch()
    monkeypatch.setattr(doctor, "_DEVICE_TREE", tmp_path / "model")
    monkeypatch.setattr(doctor, "_DEVICES", tmp_path)
    monkeypatch.setattr(doctor, "_PROC", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = doctor.diagnose()
    assert found.board == "NVIDIA Jetson Orin Nano"
    assert len(found.gpus) == 1
    assert found.memory_total is None
    assert "unknown" in printed(found)


def test_no_runtime_is_imported() -> None:
    program = (
        "import sys; from pstmo_edge import doctor; doctor.diagnose(); "
        "sys.exit(', '.join({'torch', 'onnxruntime', 'openvino', 'onnx'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_jetson_gets_tensorrt_from_jetpack(here: doctor.Diagnosis, monkeypatch, tmp_path) -> None:
    model = tmp_path / "model"
    model.write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    monkeypatch.setattr(doctor, "_DEVICE_TREE", model)
    runtime = next(each for each in doctor.diagnose().runtimes if each.name == "tensorrt")
    assert "apt install python3-libnvinfer" in runtime.install
    assert "pip install 'tensorrt" not in runtime.install
    assert next(each for each in here.runtimes if each.name == "tensorrt").install == "pip install 'tensorrt>=10.3,<12'"
