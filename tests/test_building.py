import json

import numpy as np
import pytest

import pstmo_edge as pe
from pstmo_edge import building, preparing
from pstmo_edge.backends.torch import TorchSession
from pstmo_edge.bundle import open_bundle
from pstmo_edge.calib import plan
from pstmo_edge.calib.mixing import Bounds
from pstmo_edge.calib.windows import calibration_windows
from pstmo_edge.errors import AccuracyError, BackendError, DataError, UsageError
from pstmo_edge.evaluation import Evaluation
from pstmo_edge.models.zoo import MODELS
from pstmo_edge.windows import extract_windows

UNBOUND = {"max_drop_mm": 1000.0, "max_jitter_percent": None}  # INT8 of random weights costs metres


@pytest.mark.parametrize(
    ("backend", "precision"),
    [("torch", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("openvino", "fp32"), ("openvino", "int8")],
)
def test_every_backend_builds_and_opens(backend, precision, small_model, small_prepared, short_sequences, tmp_path):
    if backend == "openvino":
        pytest.importorskip("openvino")
    out = tmp_path / "engine"
    bundle = pe.build(small_model, precision, backend, short_sequences, out, prepared=small_prepared, **UNBOUND)
    engine = pe.load_engine(out, threads=1)
    windows = extract_windows(short_sequences[0].keypoints, np.arange(7), engine.spec)
    exact = pe.load_engine(out).infer(windows)
    poses = engine.infer(windows)
    assert poses.shape == (7, 17, 3)
    assert poses.dtype == np.float32
    np.testing.assert_allclose(poses, exact, atol=1e-4)
    manifest = bundle.manifest
    assert manifest == open_bundle(out).manifest
    assert manifest.model.weights_sha256 == small_model.lifter.weights_sha256
    assert manifest.precision.requested == precision
    assert manifest.input.lookahead_ms == pytest.approx(1000 * 4 / 50)
    assert manifest.accuracy.before.mpjpe_mm == pytest.approx(small_prepared.before.mpjpe_mm)
    if precision == "int8":
        assert manifest.precision.int8_share >= 0.8
        assert set(manifest.precision.left_in_float) <= set(MODELS["p-stmo-s"].ends)  # so wide a bound holds them too
        assert manifest.calibration.windows == 256
    else:
        assert manifest.precision.int8_share == 0
        assert abs(manifest.accuracy.drop_mm) < 0.01
        assert manifest.calibration is None


@pytest.fixture(scope="module", params=["all", 3])
def emitting_prepared(request, small_model, short_sequences):
    """The model with the poses of many frames a window, its graph and its error."""
    model = pe.emitting(small_model, request.param)
    return model, preparing.prepare(model, held_out=short_sequences)


@pytest.mark.parametrize(
    ("backend", "precision"),
    [("torch", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("openvino", "fp32"), ("openvino", "int8")],
)
def test_every_backend_builds_and_opens_engines_that_emit_many_poses(
    backend, precision, emitting_prepared, short_sequences, tmp_path
):
    if backend == "openvino":
        pytest.importorskip("openvino")
    model, prepared = emitting_prepared
    first, count = model.lifter.emitted
    options = {"prepared": prepared, **UNBOUND}
    manifest = pe.build(model, precision, backend, short_sequences, tmp_path / "engine", **options).manifest
    engine = pe.load_engine(tmp_path / "engine", threads=1)
    assert (manifest.output.frames.first, manifest.output.frames.count) == (first, count)
    assert engine.spec == model.lifter.window
    windows = extract_windows(short_sequences[0].keypoints, np.arange(7), engine.spec)
    poses = engine.infer(windows)
    assert poses.shape == (7, count, 17, 3)
    assert manifest.input.lookahead_ms == pytest.approx(1000 * (8 - first) / 50)
    assert manifest.least_lookahead_ms == pytest.approx(1000 * (9 - first - count) / 50)
    frames = sum(map(len, short_sequences))
    assert f"windows for {frames} frames" in manifest.accuracy.data
    found = pe.evaluate(engine.infer, short_sequences, engine.spec)
    assert found.frames == frames
    assert found.windows == sum(-(-len(sequence) // count) for sequence in short_sequences)
    assert found.mpjpe_mm == pytest.approx(manifest.accuracy.after.mpjpe_mm, abs=0.01)
    if precision == "int8":
        names = {layer.name for layer in manifest.precision.layers}
        assert "fcn_1.1" in names
        assert not any(name.startswith("Transformer_reduce") for name in names)
        assert manifest.precision.int8_share >= 0.8
        assert abs(manifest.accuracy.drop_mm) > 0, "the gate measured something else than the float model"
    else:
        exact = pe.evaluate(TorchSession(model).run, short_sequences, engine.spec)
        assert found.mpjpe_mm == pytest.approx(exact.mpjpe_mm, abs=0.01)


def test_the_limit_on_the_error_holds_for_emitted_frames(emitting_prepared, short_sequences, tmp_path, monkeypatch):
    """An engine whose last emitted frame alone is wrong: the gate sees every frame that comes out."""
    from pstmo_edge.backends.onnxruntime import OnnxRuntimeSession

    model, prepared = emitting_prepared
    run = OnnxRuntimeSession.run

    def last_wrong(self, keypoints):
        poses = run(self, keypoints)
        poses[:, -1, 1:, 2] += 100.0  # far more than the random model is off by
        return poses

    monkeypatch.setattr(OnnxRuntimeSession, "run", last_wrong)
    with pytest.raises(AccuracyError, match="above the limit of 1"):
        pe.build(model, "fp32", out=tmp_path / "engine", prepared=prepared)
    assert list(tmp_path.iterdir()) == []


def above(small_prepared, drop):
    """An evaluation whose error is `drop` above the float model's."""
    return Evaluation(**{**small_prepared.before.to_dict(), "mpjpe_mm": small_prepared.before.mpjpe_mm + drop})


@pytest.fixture
def tried(monkeypatch):
    """The bounds that mixes are chosen within, each with its mix, as builds try them."""
    found, choose = [], plan.choose_mix

    def watched(costs, times, bounds, *rest):
        found.append((bounds, choose(costs, times, bounds, *rest)))
        return found[-1][1]

    monkeypatch.setattr(plan, "choose_mix", watched)
    return found


def test_too_large_a_drop_is_mended_by_leaving_more_layers_in_float(
    small_model, small_prepared, short_sequences, tmp_path, monkeypatch, tried
):
    drops = iter([2000.0, 1500.0, 500.0])  # random weights cost metres
    monkeypatch.setattr(building, "measured", lambda *_: above(small_prepared, next(drops)))
    bundle = pe.build(
        small_model, "int8", calibration=short_sequences, out=tmp_path / "e", prepared=small_prepared,
        **UNBOUND,
    )  # fmt: skip
    bounds, mixes = [each.max_drop_mm for each, _ in tried], [mix for _, mix in tried]
    assert len(mixes) == 3
    assert bounds[0] == 1000.0
    assert all(later <= mix.expected_mm / 2 for later, mix in zip(bounds[1:], mixes, strict=False))
    assert mixes[0].time < mixes[1].time < mixes[2].time < 1
    precisions = {layer.name: layer.precision for layer in bundle.manifest.precision.layers}
    assert {name for name, precision in precisions.items() if precision == "int8"} == set(mixes[2].integers)
    assert bundle.manifest.accuracy.drop_mm == pytest.approx(500.0)


def test_a_drop_that_cannot_be_mended_is_refused(small_model, small_prepared, short_sequences, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "measured", lambda *_: above(small_prepared, 3.0))
    choose = plan.choose_mix
    wider = preparing.DEFAULT_MAX_DROP_MM * 1000
    monkeypatch.setattr(plan, "choose_mix", lambda found, times, _, *rest: choose(found, times, Bounds(wider), *rest))
    with pytest.raises(AccuracyError, match=r"by 3\.00 mm .* above the limit of 1: .*--precision fp32"):
        pe.build(small_model, "int8", calibration=short_sequences, out=tmp_path / "e", prepared=small_prepared)
    assert list(tmp_path.iterdir()) == []


def trembling(small_prepared, *percents):
    """Jitters that are so much above the float model's."""
    found = iter(percents)
    return lambda *_: small_prepared.jitter_mm * (1 + next(found) / 100)


def test_an_engine_that_trembles_is_mended_with_more_bits_or_float_layers(
    small_model, small_prepared, short_sequences, tmp_path, monkeypatch, tried
):
    monkeypatch.setattr(building, "measured", lambda *_: above(small_prepared, 0.0))
    monkeypatch.setattr(building, "jitter_mm", trembling(small_prepared, 9.0, 8.0, 1.9))
    bundle = pe.build(
        small_model, "int8", "native", short_sequences, tmp_path / "e", prepared=small_prepared, max_drop_mm=1000.0
    )
    assert [bounds.max_jitter_percent for bounds, _ in tried] == [2.0, 1.0, 0.5]
    mix = tried[-1][1]
    precisions = {layer.name: layer.precision for layer in bundle.manifest.precision.layers}
    assert {name for name, precision in precisions.items() if precision == "w8a16"} == set(mix.wide)
    assert {name for name, precision in precisions.items() if precision == "int8"} == set(mix.integers) - set(mix.wide)
    assert mix.wide


def test_trembling_that_cannot_be_mended_is_refused(
    small_model, small_prepared, short_sequences, tmp_path, monkeypatch
):
    monkeypatch.setattr(building, "measured", lambda *_: above(small_prepared, 0.0))
    monkeypatch.setattr(building, "jitter_mm", trembling(small_prepared, *[9.0] * 5))
    with pytest.raises(AccuracyError, match=r"raises the jitter by 9\.0 %, above the limit of 2: choose --precision"):
        pe.build(
            small_model, "int8", "native", short_sequences, tmp_path / "e", prepared=small_prepared, max_drop_mm=1000.0
        )
    assert list(tmp_path.iterdir()) == []


def test_a_limit_within_which_no_layer_fits_is_refused(small_model, small_prepared, short_sequences, tmp_path):
    with pytest.raises(
        AccuracyError, match=r"no layer can run in INT8 .* more than 0 mm or the jitter by more than 2 %: choose"
    ):
        pe.build(
            small_model, "int8", calibration=short_sequences, out=tmp_path / "e", prepared=small_prepared,
            max_drop_mm=0.0,
        )  # fmt: skip


def test_a_report_is_of_int8(small_model, tmp_path):
    with pytest.raises(UsageError, match="--report is of INT8"):
        pe.build(small_model, "fp32", out=tmp_path / "e", report=tmp_path / "report")


def test_a_report_shows_layers_joints_actions_and_jitter(small_model, small_prepared, short_sequences, tmp_path):
    folder = tmp_path / "report"
    bundle = pe.build(
        small_model, "int8", calibration=short_sequences, out=tmp_path / "e", prepared=small_prepared,
        **UNBOUND, report=folder,
    )  # fmt: skip
    found = json.loads((folder / "quantization.json").read_text())
    assert {row["name"] for row in found["layers"]} == {
        layer.name for layer in bundle.manifest.precision.layers if not layer.name.startswith("product")
    }
    assert len(found["after"]["joints"]) == 17
    change = found["after"]["mpjpe_mm"] - found["before"]["mpjpe_mm"]
    assert change == pytest.approx(np.mean([found["after"]["joints"][name] - error
                                            for name, error in found["before"]["joints"].items()]))  # fmt: skip
    assert found["before"]["jitter_mm"] > 0
    page = (folder / "quantization.html").read_text()
    assert all(name in page for name in ("RWrist", "encoder.fc_2", "jitter"))
    assert (folder / "layers.png").read_bytes().startswith(b"\x89PNG")


def test_an_existing_folder_is_refused_before_any_work(small_model, tmp_path):
    (tmp_path / "engine").mkdir()
    with pytest.raises(UsageError, match="--force"):
        pe.build(small_model, out=tmp_path / "engine")


def test_a_missing_runtime_says_how_to_install_it(small_model, tmp_path, monkeypatch):
    monkeypatch.setattr("pstmo_edge.backends.installed_version", lambda package: None)
    with pytest.raises(BackendError, match=r"pip install 'pstmo-edge\[openvino\]'"):
        pe.build(small_model, "int8", "openvino", out=tmp_path / "engine")


def test_too_few_frames_to_calibrate_on(small_model, small_prepared, short_sequences, tmp_path):
    from dataclasses import replace

    one = short_sequences[0]
    short = replace(one, keypoints=one.keypoints[:5], poses=one.poses[:5])
    with pytest.raises(DataError, match="has 5 frames, fewer than one window of 9"):
        pe.build(small_model, "int8", calibration=[short], out=tmp_path / "engine", prepared=small_prepared)
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_says_what_an_app_must_know(small_engine):
    manifest = json.loads((small_engine / "manifest.json").read_text())
    assert manifest["input"]["joints"][4] == "LHip"
    assert manifest["input"]["normalisation"].startswith("screen")
    assert manifest["output"]["units"] == "metres"
    assert manifest["accuracy"]["flip"] is False
    assert len(manifest["files"]) == 1


def test_calibration_is_reproducible(small_model, short_sequences, small_prepared, tmp_path):
    keys = set()
    for name in "ab":
        bundle = pe.build(
            small_model, "int8", calibration=short_sequences, out=tmp_path / name, prepared=small_prepared,
            max_drop_mm=1000.0,
        )  # fmt: skip
        keys.add((bundle.manifest.calibration.key, bundle.manifest.files[0].sha256))
    assert len(keys) == 1
    assert len(calibration_windows(short_sequences, small_model.lifter.window)) == 256


def test_a_target_that_would_overflow_here_is_not_measured_here(small_model, tmp_path, monkeypatch):
    monkeypatch.setattr("pstmo_edge.targets.machine_features", lambda: frozenset({"avx2"}))
    with pytest.raises(BackendError, match=r"x86-vnni cannot be measured on this CPU.*--target auto"):
        pe.build(small_model, "int8", target="x86-vnni", out=tmp_path / "engine")
