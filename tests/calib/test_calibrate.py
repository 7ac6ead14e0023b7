"""Observers, equalization and bias correction: each against what it claims."""

import numpy as np
import pytest
import torch

from pstmo_edge.benchmarks.quantization import hardened
from pstmo_edge.calib.calibrate import calibrate, corrected
from pstmo_edge.calib.emulation import boundaries, copied, grid_of_range
from pstmo_edge.calib.equalization import equalize, places
from pstmo_edge.calib.observers import Histogram, clipped_range, observe
from pstmo_edge.calib.rounding import gptq, nearest, weight_scales
from pstmo_edge.calib.settings import (
    NAIVE,
    Activations,
    Entropy,
    Granularity,
    MeanSquaredError,
    Percentile,
    Settings,
    Weights,
    settings_for,
)
from pstmo_edge.calib.windows import calibration_windows, unseen_windows
from pstmo_edge.datasets import load_sequences
from pstmo_edge.export import random_keypoints
from pstmo_edge.metrics import mpjpe
from pstmo_edge.models.fused import fuse
from pstmo_edge.models.zoo import create_model, load_model
from pstmo_edge.targets import TARGETS


def run(model, windows):
    with torch.no_grad():
        return model(torch.from_numpy(windows)).numpy()


@pytest.fixture(scope="module")
def published():
    """The weights in the box, windows to calibrate on, and others with their true poses."""
    model, sequences = load_model(), load_sequences(split="train")
    windows = calibration_windows(sequences, model.lifter.window, 96)
    return fuse(model), windows, *unseen_windows(sequences, model.lifter.window, 96, windows)


def test_a_histogram_grows_and_loses_nothing():
    histogram, rng = Histogram(), np.random.default_rng(0)
    parts = [rng.normal(0, size, 4000).astype(np.float32) for size in (0.001, 0.1, 7.0, 0.01)]
    for part in parts:
        histogram.add(torch.from_numpy(part))
    values = np.concatenate(parts)
    assert histogram.counts.sum() == len(values)
    assert histogram.reach >= np.abs(values).max() > histogram.reach / 4
    below = float(histogram.counts[histogram.centres < 1.0].sum())
    assert abs(below - (values < 1.0).sum()) < 20


def test_what_is_seen_of_a_layer_is_what_it_reads(small_model):
    model = fuse(small_model)
    windows = random_keypoints(40, 9)
    seen = observe(model, windows, products=True, histograms=True)
    inputs = boundaries(calibrate(model, windows, Settings()).with_layers([]), torch.from_numpy(windows))
    for name, statistics in seen.items():
        x = inputs[name][0].flatten(0, -2)
        torch.testing.assert_close(statistics.low, x.amin(0))
        torch.testing.assert_close(statistics.high, x.amax(0))
        torch.testing.assert_close(statistics.products, x.T @ x / len(x), rtol=1e-3, atol=1e-4)
        assert statistics.rows == len(x)
        assert statistics.histogram.counts.sum() == x.numel()


@pytest.mark.parametrize(
    ("observer", "largest"), [(MeanSquaredError(), 13.0), (Entropy(), 36.0), (Percentile(99.9), 4.0)]
)
def test_lone_outliers_are_clipped(observer, largest):
    """Two of two million values are 40: where the squared errors of clipping and rounding balance is at 11."""
    histogram = Histogram()
    values = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0))
    values[:2] = torch.tensor([40.0, -40.0])
    histogram.add(values)
    low, high = clipped_range(histogram, -40.0, 40.0, observer, Activations())
    assert 2.5 < high <= largest, high
    assert low == pytest.approx(-high, rel=0.05)
    errors = []
    for end in (high, 40.0):
        grid = grid_of_range(-end, end, Activations())
        errors.append(float((grid.dequantize(grid.quantize(values[2:])) - values[2:]).square().mean()))
    assert errors[0] < errors[1]


def test_the_least_squared_error_is_the_least():
    histogram = Histogram()
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(1)) ** 3
    histogram.add(values)
    ends = float(values.min()), float(values.max())

    def error(low, high):
        grid = grid_of_range(low, high, Activations())
        return float((grid.dequantize(grid.quantize(values)) - values).square().mean())

    found = error(*clipped_range(histogram, *ends, MeanSquaredError(), Activations()))
    assert found <= 1.02 * min(error(ends[0] * share, ends[1] * share) for share in np.linspace(0.3, 1, 30))


def test_scales_hold_the_largest_weight_and_gptq_moves_outputs_less():
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(12, 48, generator=generator), torch.randn(400, 48, generator=generator)
    x = x @ torch.randn(48, 48, generator=generator) / 7  # correlated inputs, as those of a network
    for settings in (Weights(4), Weights(4, Granularity.PER_TENSOR)):
        scale = weight_scales(weight, settings)
        assert (weight.abs() <= scale[:, None] * (settings.limit + 1e-3)).all()
    scale = weight_scales(weight, Weights(4))
    errors = [
        float((x @ (integers.float() * scale[:, None] - weight).T).square().mean())
        for integers in (nearest(weight, scale, 7), gptq(weight, scale, 7, x.T @ x / len(x)))
    ]
    assert errors[1] < 0.7 * errors[0], errors


@pytest.mark.parametrize(("name", "frames", "count"), [("p-stmo-s", 27, 26), ("p-stmo", 9, 30), ("poseformer", 9, 25)])
def test_equalization_changes_weights_and_not_the_function(name, frames, count):
    torch.manual_seed(0)
    model = fuse(create_model(name, frames))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    windows = random_keypoints(16, frames)
    example = torch.from_numpy(windows[:1])
    assert len(list(places(model, example))) == count
    changed = copied(model)
    chosen = equalize(changed, observe(model, windows), Settings(smoothing=(0.7,)), example)
    assert len(chosen) >= count
    exact = run(model, windows)
    np.testing.assert_allclose(run(changed, windows), exact, atol=2e-4 * np.abs(exact).max())
    for layer in chosen:
        assert not torch.equal(changed.get_submodule(layer).weight, model.get_submodule(layer).weight)


def test_a_model_made_hard_on_purpose(published):
    """Outliers that are planted before a matrix and taken back in it: naive ranges lose the poses, ours do not."""
    fused, windows, probes, poses = published
    hard, ends = hardened(fused), fused.lifter.ends
    exact = run(fused, probes)
    np.testing.assert_allclose(run(hard, probes), exact, atol=1e-4)
    base = mpjpe(exact, poses).mean()
    naive = run(calibrate(hard, windows, Settings(NAIVE.weights, NAIVE.activations, keep_float=ends)), probes)
    assert mpjpe(naive, poses).mean() - base > 20
    for target in ("x86-vnni", "x86-avx2", "tensorrt"):
        ours = run(calibrate(hard, windows, settings_for(TARGETS[target], ends)), probes)
        assert mpjpe(ours, poses).mean() - base < 1, target


def test_bias_correction_takes_out_the_mean_error(published):
    fused, windows, probes, _ = published
    plain = calibrate(fused, windows, Settings(Weights(4, Granularity.PER_CHANNEL), keep_float=fused.lifter.ends))
    exact = run(fused, probes)
    errors = [np.abs((run(model, probes) - exact).mean(0)).mean() for model in (plain, corrected(plain, windows))]
    assert errors[1] < 0.5 * errors[0], errors
