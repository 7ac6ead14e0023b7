import json
import shutil

import numpy as np
import pytest

import pstmo_edge as pe
from pstmo_edge.bundle import open_bundle, write_bundle
from pstmo_edge.errors import BackendError, BundleError, DataError


@pytest.fixture
def copy(small_engine, tmp_path):
    shutil.copytree(small_engine, tmp_path / "engine")
    return tmp_path / "engine"


def rewritten(folder, **changes):
    """The bundle with other manifest values, written properly."""
    bundle = open_bundle(folder)
    artifacts = {entry.path: bundle.read(entry.path) for entry in bundle.manifest.files}
    write_bundle(folder, bundle.manifest.model_copy(update=changes), artifacts, force=True)


@pytest.mark.parametrize(
    ("shape", "words"),
    [((1, 5, 17, 2), "windows of 9 frames"), ((1, 9, 16, 2), r"\(B, 9, 17, 2\)"), ((9, 17, 2), r"\(9, 17, 2\)")],
)
def test_wrong_shapes_are_refused(small_engine, shape, words):
    with pytest.raises(DataError, match=words):
        pe.load_engine(small_engine).infer(np.zeros(shape, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(small_engine, value):
    keypoints = np.zeros((2, 9, 17, 2), np.float32)
    keypoints[1, 8, 16, 1] = value
    with pytest.raises(DataError, match="NaN or infinite"):
        pe.load_engine(small_engine).infer(keypoints)


def test_any_memory_layout_gives_the_same_poses(small_engine):
    engine = pe.load_engine(small_engine)
    keypoints = np.random.default_rng(0).normal(0, 0.3, (3, 9, 17, 2)).astype(np.float32)
    plain = engine.infer(keypoints)
    np.testing.assert_array_equal(engine.infer(np.asfortranarray(keypoints)), plain)
    np.testing.assert_array_equal(engine.infer(keypoints.astype(np.float64)), plain)
    np.testing.assert_allclose(engine.infer(keypoints[1:2])[0], plain[1], atol=1e-5)


def test_a_changed_byte_is_refused(copy):
    path = copy / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.onnx"):
        pe.load_engine(copy)


def test_a_missing_file_is_named(copy):
    (copy / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx"):
        pe.load_engine(copy)


def test_a_newer_schema_says_to_upgrade(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["schema_version"] = 99
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="pip install"):
        pe.load_engine(copy)


def test_another_runtime_version_is_refused(copy):
    backend = open_bundle(copy).manifest.backend
    rewritten(copy, backend=backend.model_copy(update={"versions": {"onnxruntime": ">=999.0"}}))
    with pytest.raises(BackendError, match=r"onnxruntime >=999\.0 is needed"):
        pe.load_engine(copy)


def test_weights_that_would_overflow_here_are_refused(copy, monkeypatch):
    manifest = open_bundle(copy).manifest
    rewritten(
        copy,
        target=manifest.target.model_copy(update={"name": "x86-vnni", "weight_bits": 8, "requires": ("avx2", "vnni")}),
        precision=manifest.precision.model_copy(update={"requested": "int8"}),
    )
    monkeypatch.setattr("pstmo_edge.targets.machine_features", lambda: frozenset({"avx2"}))
    with pytest.raises(BackendError, match="--target x86-avx2"):
        pe.load_engine(copy)
    monkeypatch.setattr("pstmo_edge.targets.machine_features", lambda: frozenset({"avx2", "vnni"}))
    assert pe.load_engine(copy).manifest.target.weight_bits == 8


def test_a_foreign_artifact_with_the_right_digest_is_a_clear_error(copy):
    write_bundle(copy, open_bundle(copy).manifest, {"model.onnx": b"no graph at all"}, force=True)
    with pytest.raises(BackendError, match="refuses"):
        pe.load_engine(copy)
