"""The bundle: what it says, how it is written, and that no damaged one is ever opened."""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from pstmo_edge import bundle as module
from pstmo_edge.bundle import (
    MANIFEST_NAME,
    Accuracy,
    BackendSpec,
    Calibration,
    EmittedFrames,
    Errors,
    FileEntry,
    InputSpec,
    LayerPrecision,
    Manifest,
    ModelSpec,
    OutputSpec,
    PrecisionSpec,
    TargetSpec,
    open_bundle,
    write_bundle,
)
from pstmo_edge.errors import BundleError, UsageError

ZEROS = "0" * 64
ARTIFACTS = {"model.onnx": bytes(range(48)), "weights.safetensors": b"weights"}


def make_manifest(**changes) -> Manifest:
    values = {
        "pstmo_edge_version": "0.1.0",
        "input": InputSpec(
            skeleton="human36m-17",
            joints=("hip", "knee"),
            frames=27,
            t_downsample=2,
            frame_rate=50.0,
            target_index=13,
            lookahead_frames=13,
        ),
        "output": OutputSpec(skeleton="human36m-17", joints=("hip", "knee")),
        "model": ModelSpec(
            name="p-stmo-s", config={"frames": 27, "strides": (3, 3, 3), "x": 1e-05}, parameters=9, weights_sha256=ZEROS
        ),
        "precision": PrecisionSpec(
            requested="int8",
            layers=(
                LayerPrecision(name="encoder.fc_1", kind="Conv", precision="int8", multiply_adds=900),
                LayerPrecision(name="fcn.1", kind="Conv", precision="fp32", multiply_adds=100),
            ),
            left_in_float=("fcn.1",),
        ),
        "target": TargetSpec(name="x86-avx2", weight_bits=7, requires=("avx2",)),
        "backend": BackendSpec(name="onnxruntime", version="1.32.0", versions={"onnxruntime": ">=1.20"}),
        "calibration": Calibration(method="minmax", windows=64, key=ZEROS, source="bundled motion, training split"),
        "accuracy": Accuracy(
            data="bundled motion, test split",
            keypoints="gt",
            before=Errors(mpjpe_mm=45.0, p_mpjpe_mm=35.0, mpjve_mm=4.0),
            after=Errors(mpjpe_mm=45.25, p_mpjpe_mm=35.1, mpjve_mm=4.0),
            max_drop_mm=1.0,
        ),
    }
    return Manifest(**{**values, **changes})


@pytest.fixture
def folder(tmp_path) -> Path:
    write_bundle(tmp_path / "engine", make_manifest(), ARTIFACTS)
    return tmp_path / "engine"


def edit(folder: Path, change) -> None:
    """Change the manifest and give it the digest that fits, as a careful attacker or another program would."""
    document = json.loads((folder / MANIFEST_NAME).read_bytes())
    document.pop(module.DIGEST)
    change(document)
    document[module.DIGEST] = module._digest(document)
    (folder / MANIFEST_NAME).write_bytes(module._text(document))


def accepted(folder: Path, name: str, variants) -> list[bytes]:
    """The contents of the file `name` with which the bundle still opens."""
    opened = []
    with open(folder / name, "r+b") as file:
        for data in variants:
            file.seek(0)
            file.write(data)
            file.flush()
            file.truncate()  # last: cutting to nothing first costs 2 ms of some file systems' time
            with contextlib.suppress(BundleError):
                open_bundle(folder)
                opened.append(data)
    return opened


def flips(data: bytes):
    for index in range(len(data)):
        for bit in range(8):
            yield data[:index] + bytes([data[index] ^ 1 << bit]) + data[index + 1 :]


def test_it_comes_back_as_it_was_written(folder):
    bundle = open_bundle(folder)
    assert bundle.manifest.model_copy(update={"files": ()}) == make_manifest(created=bundle.manifest.created)
    assert [entry.path for entry in bundle.manifest.files] == list(ARTIFACTS)
    for name, content in ARTIFACTS.items():
        assert bundle.read(name) == content == bundle.file(name).read_bytes()
    assert sorted(os.listdir(folder)) == sorted([MANIFEST_NAME, *ARTIFACTS])
    assert os.listdir(folder.parent) == ["engine"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        bundle.path = Path()
    with pytest.raises(BundleError, match=r"has no file x; its files: model.onnx, weights.safetensors"):
        bundle.read("x")


def emitting(**frames) -> Manifest:
    output = OutputSpec(skeleton="human36m-17", joints=("hip", "knee"), frames=EmittedFrames(**frames))
    return make_manifest(output=output)


def test_frames_that_come_out_are_written_and_read(tmp_path):
    write_bundle(tmp_path / "engine", emitting(first=13, count=14), ARTIFACTS)
    manifest = open_bundle(tmp_path / "engine").manifest
    assert manifest.output.frames == EmittedFrames(first=13, count=14)
    assert manifest.poses_a_window == 14
    assert manifest.input.lookahead_ms == pytest.approx(13 * 2 / 50 * 1000), "the first waits longest"
    assert manifest.least_lookahead_ms == pytest.approx(0), "the last is the newest frame"


def test_bundles_from_before_say_nothing_of_frames(folder):
    edit(folder, lambda document: document["output"].pop("frames"))
    manifest = open_bundle(folder).manifest
    assert manifest.output.frames is None
    assert manifest.poses_a_window == 1
    assert manifest.least_lookahead_ms == manifest.input.lookahead_ms


def test_derived_values():
    manifest = make_manifest()
    assert manifest.input.lookahead_ms == pytest.approx(13 * 2 / 50 * 1000)
    assert manifest.precision.int8_share == pytest.approx(0.9)
    assert PrecisionSpec(requested="fp32").int8_share == 0
    assert manifest.accuracy.drop_mm == pytest.approx(0.25)
    assert manifest.schema_version == 1
    assert manifest.created.tzinfo is not None


@pytest.mark.parametrize(
    ("wanted", "have", "fits"),
    [
        (">=1.20", "1.32.0", True),
        (">=1.20", "1.9.2", False),
        ("==1.32.0", "1.32.0+cpu", True),
        ("1.32", "1.32.1", True),
        ("1.32", "1.3", False),
        (">=10.3", "10.3.0.26", True),
        ("2026.4", None, False),
    ],
)
def test_versions_that_must_match(wanted, have, fits):
    backend = BackendSpec(name="r", version="1", versions={"runtime": wanted})
    found = backend.mismatches({} if have is None else {"runtime": have})
    assert (found == ()) is fits, found


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_manifest(surprise=1),
        lambda: make_manifest(schema_version=2),
        lambda: make_manifest(files=(FileEntry(path="a", size=1, sha256=ZEROS),) * 2),
        lambda: make_manifest(files=tuple(FileEntry(path=name, size=1, sha256=ZEROS) for name in "aA")),
        lambda: make_manifest(files=(FileEntry(path=MANIFEST_NAME, size=1, sha256=ZEROS),)),
        lambda: FileEntry(path="../x", size=1, sha256=ZEROS),
        lambda: FileEntry(path="x", size=-1, sha256=ZEROS),
        lambda: FileEntry(path="x", size=1, sha256=ZEROS.replace("0", "G")),
        lambda: Errors(mpjpe_mm=float("nan"), p_mpjpe_mm=0, mpjve_mm=0),
        lambda: PrecisionSpec(requested="int3"),
        lambda: PrecisionSpec(requested="int8", left_in_float=("nowhere",)),
        lambda: InputSpec.model_validate({**make_manifest().input.model_dump(), "target_index": 27}),
        lambda: InputSpec.model_validate({**make_manifest().input.model_dump(), "lookahead_frames": 14}),
        lambda: EmittedFrames(first=0, count=0),
        lambda: emitting(first=12, count=3),
        lambda: emitting(first=13, count=15),
    ],
)
def test_wrong_combinations_fail_when_made(make):
    with pytest.raises(ValidationError):
        make()


def test_records_are_frozen():
    with pytest.raises(ValidationError):
        make_manifest().input.frames = 9


def test_every_flipped_bit_and_every_truncation_of_the_manifest_is_rejected(folder):
    good = (folder / MANIFEST_NAME).read_bytes()
    assert accepted(folder, MANIFEST_NAME, flips(good)) == []
    assert accepted(folder, MANIFEST_NAME, (good[:end] for end in reversed(range(len(good))))) == []
    assert accepted(folder, MANIFEST_NAME, [good + b"\n", b" " + good, good + good, good]) == [good]


@pytest.mark.parametrize("name", list(ARTIFACTS))
def test_every_flipped_bit_and_every_truncation_of_an_artifact_is_rejected(folder, name):
    good = ARTIFACTS[name]
    assert accepted(folder, name, flips(good)) == []
    assert accepted(folder, name, (good[:end] for end in reversed(range(len(good))))) == []
    assert accepted(folder, name, [good + b"\0", good]) == [good]


def test_the_campaign_finds_planted_bugs(folder, monkeypatch):
    good = (folder / MANIFEST_NAME).read_bytes()
    exact = module._text
    with monkeypatch.context() as planted:  # a reader that compares values and not bytes lets 1e-05 become 1E-05
        planted.setattr(module, "_text", lambda document: (folder / MANIFEST_NAME).read_bytes())
        assert accepted(folder, MANIFEST_NAME, flips(good)) != []
    assert exact(json.loads(good)) == good
    (folder / MANIFEST_NAME).write_bytes(good)
    monkeypatch.setattr(module, "_verify_file", lambda *args: None)
    assert accepted(folder, "model.onnx", [b""]) == [b""]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f), "no such bundle"),
        (lambda f: (f / MANIFEST_NAME).unlink(), "is no bundle: it holds no manifest.json"),
        (lambda f: (f / MANIFEST_NAME).write_bytes(b""), "is not JSON"),
        (lambda f: (f / MANIFEST_NAME).write_bytes(b"\xff\xfe"), "is not JSON"),
        (lambda f: (f / MANIFEST_NAME).write_bytes(b"[" * 1_000_000), "is not JSON"),
        (lambda f: (f / MANIFEST_NAME).write_bytes(b"[]"), "is not a JSON object"),
        (lambda f: (f / MANIFEST_NAME).write_bytes(b"{}"), "no schema_version"),
        (lambda f: (f / MANIFEST_NAME).write_bytes(b" " * (5 << 20)), "at most 4194304 are allowed"),
        (lambda f: edit(f, lambda d: d.update(schema_version=True)), "no schema_version"),
        (
            lambda f: edit(f, lambda d: d.update(schema_version=2, news=1)),
            r"made by a newer pstmo-edge \(schema 2, this one reads up to 1\): upgrade with pip install -U pstmo-edge",
        ),
        (lambda f: edit(f, lambda d: d.update(news=1)), "news: extra inputs are not permitted"),
        (lambda f: edit(f, lambda d: d["input"].update(frames=0)), "input.frames: input should be greater"),
        (lambda f: edit(f, lambda d: d.pop("output")), "output: field required"),
        (lambda f: edit(f, lambda d: d["files"].append(d["files"][0])), "names one file twice"),
        (lambda f: edit(f, lambda d: d["files"][0].update(path="../engine/model.onnx")), "files.0.path"),
        (lambda f: edit(f, lambda d: d["files"][0].update(path="/etc/passwd")), "files.0.path"),
        (lambda f: edit(f, lambda d: d["files"][0].update(path="a\\b")), "files.0.path"),
        (lambda f: edit(f, lambda d: d["files"][0].update(size=47)), "has 48 bytes and the manifest says 47"),
        (lambda f: edit(f, lambda d: d["files"][0].update(sha256=ZEROS)), "SHA-256 differs"),
        (lambda f: (f / "model.onnx").unlink(), "model.onnx is missing"),
        (lambda f: (f / "model.onnx").write_bytes(b"x" * 48), "SHA-256 differs"),
        (lambda f: ((f / "model.onnx").rename(f.parent / "m"), (f / "model.onnx").symlink_to("../m")), "no regular"),
        (lambda f: ((f / "model.onnx").unlink(), os.mkfifo(f / "model.onnx")), "no regular file"),
        (lambda f: ((f / "model.onnx").unlink(), (f / "model.onnx").mkdir()), "no regular file"),
        (lambda f: ((f / MANIFEST_NAME).rename(f / "m"), (f / MANIFEST_NAME).symlink_to("m")), "no regular file"),
    ],
)
def test_damage_is_one_clear_sentence(folder, damage, message):
    damage(folder)
    with pytest.raises(BundleError, match=message) as caught:
        open_bundle(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_file_that_changes_after_opening_is_not_read(folder):
    bundle = open_bundle(folder)
    (folder / "model.onnx").write_bytes(b"x" * 48)
    with pytest.raises(BundleError, match="was changed"):
        bundle.read("model.onnx")


def test_a_file_is_not_a_bundle(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="no such bundle"):
        open_bundle(tmp_path / "file")


def test_artifacts_may_be_files(tmp_path):
    (tmp_path / "big").write_bytes(bytes(3_000_000))
    bundle = write_bundle(tmp_path / "out", make_manifest(), {"model.bin": tmp_path / "big"})
    assert bundle == open_bundle(tmp_path / "out")
    assert bundle.manifest.files[0].size == 3_000_000


@pytest.mark.parametrize("name", ["../x", "/x", "", ".hidden", "a/b", "x" * 200, MANIFEST_NAME, "Manifest.json"])
def test_names_that_leave_the_folder_are_not_written(tmp_path, name):
    with pytest.raises(BundleError):
        write_bundle(tmp_path / "out", make_manifest(), {name: b""})
    assert os.listdir(tmp_path) == []


def test_a_missing_artifact_leaves_nothing(tmp_path):
    with pytest.raises(BundleError, match=r"cannot read the artifact .*none: no such file or directory"):
        write_bundle(tmp_path / "out", make_manifest(), {"a": b"a", "b": tmp_path / "none"})
    assert os.listdir(tmp_path) == []


def test_an_existing_bundle_needs_force(folder):
    with pytest.raises(UsageError, match="add --force"):
        write_bundle(folder, make_manifest(), {})
    assert open_bundle(folder).read("model.onnx") == ARTIFACTS["model.onnx"]
    write_bundle(folder, make_manifest(), {"only": b"1"}, force=True)
    assert sorted(os.listdir(folder)) == [MANIFEST_NAME, "only"]


def test_force_spares_a_folder_that_is_no_bundle(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one").write_text("x")
    with pytest.raises(UsageError, match=r"holds no manifest.json, so --force does not replace it"):
        write_bundle(tmp_path / "photos", make_manifest(), {}, force=True)
    assert (tmp_path / "photos" / "one").exists()


def test_the_module_is_light():
    code = "import sys, pstmo_edge.bundle; print([m for m in ('torch', 'onnxruntime', 'openvino') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"
