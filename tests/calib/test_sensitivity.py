import numpy as np
import pytest
import torch

from pstmo_edge.calib import cache
from pstmo_edge.calib.calibrate import calibrate
from pstmo_edge.calib.sensitivity import Probes, sensitivity
from pstmo_edge.calib.settings import Settings, Weights
from pstmo_edge.calib.windows import calibration_windows, unseen_windows
from pstmo_edge.datasets import load_sequences
from pstmo_edge.metrics import mpjpe
from pstmo_edge.models.fused import fuse

SPOILED = "Transformer.model.layers.1.feed_forward.w_2"


@pytest.fixture(scope="module")
def measured(small_model):
    """A model with one bad layer: a column of its input is a thousand times larger than its neighbours."""
    sequences, spec = load_sequences(split="train"), small_model.lifter.window
    windows = calibration_windows(sequences, spec, 32)
    probes, poses = unseen_windows(sequences, spec, 24, windows)
    model = fuse(small_model)
    with torch.no_grad():
        model.get_submodule(SPOILED.replace("w_2", "w_1")).bias[3] += 300.0
    emulated = calibrate(model, windows, Settings(Weights(7)))
    told = []
    found = sensitivity(emulated, Probes(probes, poses), None, lambda *step: told.append(step), wide=True)
    return emulated, windows, probes, poses, found, told


def run(model, windows):
    with torch.no_grad():
        return model(torch.from_numpy(windows)).numpy()


def test_costs_are_those_of_engines_with_one_layer_flipped(measured):
    """What is computed from kept outputs equals whole forwards of models that differ in one layer."""
    emulated, _, probes, poses, found, _ = measured
    exact, every = run(emulated.with_layers([]), probes), run(emulated, probes)
    assert found.error_mm == pytest.approx(mpjpe(exact, poses).mean())
    assert found.moved_mm == pytest.approx(mpjpe(every, exact).mean(), rel=1e-4)
    by_name = {layer.name: layer for layer in found.layers}
    assert set(by_name) == set(emulated.layers)
    for name in ("encoder.fc_1", "Transformer.model.layers.2.self_attn.qkv", "fcn.1"):
        alone = run(emulated.with_layers([name]), probes)
        freed = run(emulated.with_layers(set(emulated.layers) - {name}), probes)
        assert by_name[name].int8.moved_mm == pytest.approx(mpjpe(alone, exact).mean(), rel=1e-4)
        assert by_name[name].int8.cost_mm == pytest.approx(mpjpe(alone, poses).mean() - found.error_mm, abs=1e-3)
        assert by_name[name].gain_mm == pytest.approx(found.moved_mm - mpjpe(freed, exact).mean(), abs=2e-2)
        wide = run(emulated.with_layers([name]).widened(), probes)
        assert by_name[name].wide.moved_mm == pytest.approx(mpjpe(wide, exact).mean(), rel=1e-3)


def test_jitter_is_judged_by_the_models_own_with_a_detectors_keypoints(measured, small_model):
    emulated, windows, probes, poses, found, _ = measured
    sequences = load_sequences(split="train", keypoints="detected")
    live = Probes(*unseen_windows(sequences, small_model.lifter.window, 24, windows))
    one = emulated.with_layers(["fcn.1"])
    seen = sensitivity(one, Probes(probes, poses), live)
    errors = (run(one.model, live.windows) - live.poses).reshape(-1, 3, 17, 3)
    exact = 1000 * np.linalg.norm(np.diff(errors, 2, axis=1), axis=-1)
    assert np.median(seen.accelerations_mm) == pytest.approx(np.median(exact), rel=0.02)
    assert seen.accelerations_mm != found.accelerations_mm
    assert {layer.name: layer.int8 for layer in found.layers}["fcn.1"] == seen.layers[0].int8


def test_a_spoiled_layer_is_the_dearest_and_gains_most(measured):
    found = measured[4]
    assert found.layers[0].name == SPOILED
    assert max(found.layers, key=lambda layer: layer.gain_mm).name == SPOILED


def test_progress_is_told_to_the_end(measured):
    steps = measured[5]
    assert [step[1] for step in steps] == list(range(1, steps[-1][2] + 1))


def test_results_are_cached_by_weights_data_and_settings(measured, small_model, tmp_path, monkeypatch):
    monkeypatch.setenv("PSTMO_EDGE_CACHE", str(tmp_path / "cache"))
    _, windows, probes, poses, _, _ = measured
    model = fuse(small_model)
    calls = []

    def counted(*args):
        calls.append(args)
        return calibrate(*args)

    monkeypatch.setattr(cache, "calibrate", counted)
    settings = Settings(Weights(7), smoothing=(0.5,))
    first = cache.cached_calibration(model, windows, settings)
    again = cache.cached_calibration(model, windows, settings)
    assert len(calls) == 1
    np.testing.assert_array_equal(run(first, probes), run(again, probes))
    assert list(first.layers) == list(again.layers)
    cache.cached_calibration(model, windows, Settings(Weights(8), smoothing=(0.5,)))
    cache.cached_calibration(model, windows[:20], settings)
    assert len(calls) == 3
    key = cache.calibration_key(model, windows, settings)
    found = cache.cached_sensitivity(first.with_layers(["fcn.1"]), key, Probes(probes, poses))
    assert found == cache.cached_sensitivity(first.with_layers(["fcn.1"]), key, Probes(probes, poses))
    assert len(list((tmp_path / "cache").glob("sensitivity-*"))) == 1


def test_a_damaged_entry_is_made_again(measured, small_model, tmp_path, monkeypatch):
    monkeypatch.setenv("PSTMO_EDGE_CACHE", str(tmp_path))
    model, windows = fuse(small_model), measured[1]
    first = cache.cached_calibration(model, windows, Settings(Weights(7)))
    (entry,) = tmp_path.iterdir()
    for damage in (b"", b"nonsense", entry.read_bytes()[:1000]):
        entry.write_bytes(damage)
        again = cache.cached_calibration(model, windows, Settings(Weights(7)))
        np.testing.assert_array_equal(run(first, windows[:4]), run(again, windows[:4]))
        assert entry.stat().st_size > 10_000


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(measured, small_model, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PSTMO_EDGE_CACHE", str(tmp_path / "file"))
    assert cache.cached_calibration(fuse(small_model), measured[1], Settings()).layers
