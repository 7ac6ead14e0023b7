"""Every mistake a user can make gets one line, a status of 1 or 2, and leaves nothing behind."""

import errno
import json
import os
import pickle
import shutil
import sys

import numpy as np
import pytest
import torch

import pstmo_edge as pe
from pstmo_edge import cli, preparing
from pstmo_edge.models.checkpoints import save_weights
from pstmo_edge.models.zoo import state_arrays


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs the command line in an empty folder: (status, standard output, standard error)."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["pstmo-edge", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        found = capsys.readouterr()
        return stopped.value.code or 0, found.out, found.err

    return call


@pytest.fixture
def fails(run, tmp_path):
    """Runs a command that must fail with one line holding all the words, and leave no file behind."""

    def call(*arguments, status, words):
        before = sorted(tmp_path.rglob("*"))
        code, out, err = run(*arguments)
        assert code == status, err
        assert out == ""
        lines = err.splitlines()
        assert len(lines) == 1, err
        assert lines[0].startswith("pstmo-edge: error: ")
        assert "Traceback" not in err
        for word in words:
            assert word in lines[0]
        assert sorted(tmp_path.rglob("*")) == before

    return call


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def nine_frames(path):
    save_weights(path, state_arrays(pe.create_model("p-stmo-s", 9)), {})


def bad_checkpoint(kind, path):
    if kind == "truncated":
        torch.save({"a": torch.zeros(10_000)}, path)
        path.write_bytes(path.read_bytes()[:3000])
    elif kind == "foreign":
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    elif kind == "payload":
        path.write_bytes(pickle.dumps(Payload(str(path.with_name("ran")))))
    elif kind == "architecture":
        torch.save({"expand_conv.weight": torch.zeros(3, 3), "layers_conv.0.weight": torch.zeros(3)}, path)
    elif kind == "frames":
        state = state_arrays(pe.create_model("p-stmo-s", 9))
        torch.save({name: torch.from_numpy(array) for name, array in state.items()}, path)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", ["no such file"]),
        ("truncated", ["weights.pth"]),
        ("foreign", ["no torch weights file"]),
        ("payload", ["asks to run code"]),
        ("architecture", ["does not fit p-stmo-s with 27 frames", "missing", "unknown", "expand_conv.weight"]),
        ("frames", ["--frames 9"]),
    ],
)
def test_bad_checkpoints(fails, tmp_path, kind, words):
    path = tmp_path / "weights.pth"
    bad_checkpoint(kind, path)
    fails("build", "--checkpoint", path, status=1, words=words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keypoints": np.where(np.arange(60)[:, None, None] == 7, np.nan, np.ones((60, 17, 2)))}, ["frame 7", "Hip"]),
        ({"keypoints": np.zeros((60, 16, 2))}, ["(60, 16, 2)", "17"]),
        ({"keypoints": np.zeros((5, 17, 2))}, ["5 frames", "27", "--calib"]),
        ({"skeleton": "coco-17"}, ["coco-17", "human36m-17"]),
    ],
    ids=["nan", "joints", "frames", "skeleton"],
)
def test_bad_keypoints(fails, tmp_path, change, words):
    arrays = {"keypoints": np.zeros((60, 17, 2)), "image_size": np.array([1000, 1000]), "skeleton": "human36m-17"}
    np.savez(tmp_path / "clip.npz", **{**arrays, **change})
    fails("build", "--calib", tmp_path / "clip.npz", status=1, words=words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["build", "--model", "p-stmo-z"], ["p-stmo-z", "did you mean 'p-stmo-s'"]),
        (["build", "--frames", "28"], ["28", "243"]),
        (["build", "--backend", "onnx-runtime"], ["onnx-runtime", "did you mean 'onnxruntime'"]),
        (["build", "--precision", "int9"], ["int9", "did you mean 'int8'"]),
        (["build", "--precision", "fp8", "--backend", "openvino"], ["fp8", "fp32, fp16, bf16, int8", "onnxruntime"]),
        (["build", "--precision", "auto", "--no-measure"], ["auto", "--no-measure"]),
        (["train", "pretrain", "--qat"], ["--qat", "train finetune"]),
        (["train", "finetune", "--qat", "--recipe", "tiny", "--out", "new"], ["trained weights", "--from"]),
        (["build", "--target", "x86-avx"], ["x86-avx", "did you mean 'x86-avx2'"]),
        (["build", "--calib", "cmu-mocp"], ["cmu-mocp", "cmu-mocap"]),
        (["build", "--max-drop-mm", "-1"], ["--max-drop-mm", "-1"]),
        (["build", "--precison", "int8"], ["--precison", "--precision"]),
        (["build", "--frames", "many"], ["--frames", "integer"]),
        (["biuld"], ["biuld"]),
        (["build", "--emit", "4"], ["--emit is 4", "odd", "from 1 to 27"]),
        (["build", "--emit", "al"], ["--emit is al", "centre, all"]),
        (["build", "--emit", "29"], ["--emit is 29", "27"]),
        (["eval", "engine", "--emit", "all"], ["--emit is for --model"]),
        (["eval"], ["no engine in engine/", "pstmo-edge build"]),
        (["eval", "engine", "--model", "p-stmo-s"], ["not both"]),
        (["eval", "--model", "p-stmo-s", "--protocol", "h37m"], ["h37m", "h36m"]),
        (["train", "finetune", "--recipe", "cmu28"], ["cmu28", "did you mean 'cmu-27'"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use(fails, arguments, words):
    fails(*arguments, status=2, words=words)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
def test_a_runtime_that_is_not_installed(fails, monkeypatch, backend):
    monkeypatch.setattr("pstmo_edge.backends.installed_version", lambda package: None)
    precision = "fp32" if backend == "torch" else "int8"
    fails("build", "--backend", backend, "--precision", precision, status=1, words=[backend, "pip install"])


def change_byte(folder):
    path = folder / "model.onnx"
    content = bytearray(path.read_bytes())
    content[1000] ^= 16
    path.write_bytes(content)


def newer_schema(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 2}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (change_byte, ["model.onnx"]),
        (lambda folder: (folder / "model.onnx").unlink(), ["model.onnx"]),
        (lambda folder: (folder / "manifest.json").unlink(), ["manifest.json"]),
        (newer_schema, ["schema 2", "pip install -U pstmo-edge"]),
        (shutil.rmtree, ["engine"]),
    ],
    ids=["changed byte", "missing file", "no manifest", "newer schema", "no folder"],
)
@pytest.mark.parametrize("command", ["eval", "info"])
def test_damaged_bundles(fails, small_engine, tmp_path, command, damage, words):
    shutil.copytree(small_engine, tmp_path / "engine")
    damage(tmp_path / "engine")
    fails(command, tmp_path / "engine", status=1, words=words)


@pytest.mark.parametrize("command", [["build"], ["bench", "--out", "engine"]])
def test_an_output_folder_that_exists(fails, tmp_path, command):
    (tmp_path / "here" / "engine").mkdir()
    (tmp_path / "here" / "engine" / "notes.txt").write_text("mine")
    fails(*command, status=2, words=["engine", "--force"])
    assert (tmp_path / "here" / "engine" / "notes.txt").read_text() == "mine"


def test_force_does_not_replace_what_is_no_bundle(run, tmp_path, small_build):
    (tmp_path / "here" / "engine").mkdir()
    (tmp_path / "here" / "engine" / "notes.txt").write_text("mine")
    code, _, err = run("build", *small_build(tmp_path), "--force")
    assert code == 2
    assert "engine" in err
    assert (tmp_path / "here" / "engine" / "notes.txt").read_text() == "mine"


@pytest.fixture
def small_build(small_model, small_prepared, monkeypatch):
    """Arguments of a quick build: nine frames, three short takes."""

    def arguments(folder):
        save_weights(folder / "nine.safetensors", state_arrays(small_model), {"t_downsample": "1", "frame_rate": "50"})
        monkeypatch.setattr("pstmo_edge.preparing.prepare", lambda *_, **__: small_prepared)
        return "--frames", "9", "--checkpoint", folder / "nine.safetensors", "--precision", "fp32"

    return arguments


def test_build_says_what_pays_and_auto_takes_it(run, tmp_path, small_build, monkeypatch):
    from pstmo_edge.benchmarks import payoff

    choices = (payoff.Choice("fp32", 1.0, 0.0, 0.0, 10), payoff.Choice("fp16", 0.5, 0.0, 0.0, 5))
    found = payoff.Payoff("onnxruntime", choices, {}, 1.0)
    seen = []
    monkeypatch.setattr(payoff, "measure", lambda *given, **_: seen.append(given[1:4:2]) or found)
    arguments = [*small_build(tmp_path)[:-1], "auto", "--backend", "onnxruntime"]
    code, out, err = run("build", *arguments)
    assert (code, err) == (0, "")
    assert "fp16 engine for onnxruntime" in out
    assert "Use fp16 here: 0.50 ms a forward, +0.00 mm." in out
    assert seen == [("onnxruntime", None)]
    code, out, _ = run("build", *arguments, "--force", "--json")
    assert code == 0
    assert json.loads(out)["measured"]["recommended"] == json.loads(out)["precision"]["requested"] == "fp16"


def test_a_full_disk(fails, tmp_path, small_build, monkeypatch):
    arguments = small_build(tmp_path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pstmo_edge.files.os.fsync", full)
    fails("build", *arguments, status=1, words=["cannot write", "engine", "no space left on device", "--out"])


def test_build_then_info_then_eval(run, tmp_path, small_build):
    code, out, err = run("build", *small_build(tmp_path))
    assert (code, err) == (0, "")
    assert "MPJPE" in out
    assert sorted(path.name for path in (tmp_path / "here" / "engine").iterdir()) == [
        "manifest.json",
        "weights.safetensors",
    ]

    code, out, _ = run("info", "--json")
    assert code == 0
    assert json.loads(out)["input"]["frames"] == 9
    code, out, _ = run("info")
    assert "every frame of 50 a second" in out.replace("\n", " ").replace("  ", " ") or "p-stmo-s, 9 frames" in out

    pixels = np.random.default_rng(0).uniform(200, 800, (30, 17, 2))
    poses = np.random.default_rng(1).normal(0, 0.3, (30, 17, 3))
    size = np.array([1000, 1000])
    np.savez(tmp_path / "clip.npz", keypoints=pixels, poses=poses, image_size=size, skeleton="human36m-17")
    code, out, err = run("eval", "--data", tmp_path / "clip.npz", "--flip", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["flip"] is True
    assert found["mpjpe_mm"] == pytest.approx(np.mean([a["mpjpe_mm"] for a in found["actions"].values()]))


def test_build_eval_and_info_of_many_poses_a_window(run, tmp_path, small_build, monkeypatch):
    prepare = preparing.prepare
    arguments = small_build(tmp_path)
    monkeypatch.setattr("pstmo_edge.preparing.prepare", prepare)
    rng = np.random.default_rng(0)
    arrays = {"keypoints": rng.uniform(200, 800, (30, 17, 2)), "poses": rng.normal(0, 0.3, (30, 17, 3))}
    np.savez(tmp_path / "clip.npz", **arrays, image_size=np.array([1000, 1000]), skeleton="human36m-17")
    data = tmp_path / "clip.npz"
    code, out, err = run("build", *arguments, "--emit", "all", "--calib", data, "--max-drop-mm", "1000")
    assert (code, err) == (0, "")
    code, out, _ = run("info")
    shown = " ".join(out.split())
    assert "(B, 9, 17, 3) metres" in shown
    assert "the poses are those of the 9 frames from 0 on, which wait 0 (the last) to 160 ms (the first)" in shown
    code, out, err = run("eval", "--data", data, "--json")
    assert (code, err) == (0, "")
    engine = json.loads(out)
    assert (engine["windows"], engine["frames"]) == (4, 30)
    code, out, _ = run("eval", "--data", data)
    assert "4 windows of 9 poses each" in " ".join(out.split())
    weights = tmp_path / "nine.safetensors"
    code, out, _ = run("eval", "--checkpoint", weights, "--frames", "9", "--emit", "all", "--data", data, "--json")
    assert json.loads(out)["mpjpe_mm"] == pytest.approx(engine["mpjpe_mm"], abs=0.01)


def test_a_model_with_one_pose_a_window_cannot_emit_more(fails, tmp_path):
    save_weights(tmp_path / "w.safetensors", state_arrays(pe.create_model("videopose3d", 9)), {})
    fails(
        "build", "--model", "videopose3d", "--frames", "9", "--checkpoint", tmp_path / "w.safetensors", "--emit", "all",
        status=2, words=["videopose3d has no per-frame head", "--emit all", "p-stmo-s"],
    )  # fmt: skip


def test_version_doctor_and_help(run):
    assert run("--version")[:2] == (0, f"pstmo-edge {pe.__version__}\n")
    code, out, _ = run("doctor", "--json")
    assert code == 0
    assert json.loads(out)
    for command in (["build"], ["eval"], ["bench"], ["train", "finetune"], ["info"], ["doctor"]):
        code, out, _ = run(*command, "--help")
        assert code == 0
        assert "Example: pstmo-edge " + " ".join(command) in " ".join(out.split())
