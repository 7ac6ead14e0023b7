"""Filters: less jitter for little error, nothing across a gap, and the same at any frame rate."""

import numpy as np
import pytest

from pstmo_edge import metrics
from pstmo_edge.app.smoothing import POSE, LiveSmoother, OneEuro, OneEuroSettings, smoothed
from pstmo_edge.datasets import cmu_mocap
from pstmo_edge.errors import DataError, UsageError


@pytest.fixture(scope="module")
def walk():
    """A real walk at 25 poses a second: times (L,), true poses and poses that tremble (L, 17, 3)."""
    positions = next(take for take in cmu_mocap.takes("test") if take.action == "Walking 1001").positions[::2]
    true = positions - positions[:, :1]
    return np.arange(len(true)) / 25, true, true + np.random.default_rng(0).normal(0, 0.015, true.shape)


def live(values, times, settings=POSE):
    one_euro = OneEuro(settings)
    return np.stack([one_euro.update(value, time) for value, time in zip(values, times, strict=True)])


@pytest.mark.parametrize("smooth", [live, smoothed])
def test_jitter_falls_and_the_error_does_not_rise(walk, smooth):
    times, true, trembling = walk
    found = smooth(trembling, times)
    before, after = (metrics.acceleration_error(poses, true) for poses in (trembling, found))
    assert after < 0.6 * before
    assert metrics.mpjpe(found, true).mean() < metrics.mpjpe(trembling, true).mean()


def test_what_stands_still_stays_where_it_is():
    pose = np.random.default_rng(0).normal(size=(17, 3))
    assert np.array_equal(live([pose] * 5, np.arange(5) / 30)[-1], pose)


def test_time_counts_and_not_frames():
    """A step has gone the same way after the same time, at 30 and at 240 poses a second, and at uneven ones."""
    rng = np.random.default_rng(0)
    settings = OneEuroSettings(min_cutoff=1.0, beta=0.0)
    times = [np.arange(0, 0.5, 1 / rate) for rate in (120, 240)] + [np.sort(rng.uniform(0, 0.5, 100))]
    ends = [live(np.ones((len(t), 1, 3)) * (t > 0.1)[:, None, None], t, settings)[-1, 0, 0] for t in times]
    expected = 1 - np.exp(-2 * np.pi * 0.4)
    assert ends == pytest.approx([expected] * 3, abs=0.03)


def test_a_fast_joint_is_followed_and_a_slow_one_is_smoothed():
    times = np.arange(100) / 30
    trembling = np.random.default_rng(0).normal(0, 0.01, (100, 2, 3))
    trembling[:, 1, 0] += 2.0 * times  # two metres a second
    found = live(trembling, times)
    lag = (2.0 * times - found[:, 1, 0])[50:].mean()
    assert lag < 2.0 * 0.02  # as much as half a frame
    assert found[50:, 0].std() < 0.5 * trembling[50:, 0].std()


@pytest.mark.parametrize("time", [1.0, 0.0, -3.0])
def test_a_gap_or_a_clock_set_back_starts_anew(time):
    one_euro, far = OneEuro(), np.full((17, 3), 5.0)
    one_euro.update(np.zeros((17, 3)), 0.0)
    one_euro.update(np.zeros((17, 3)), 0.04)
    assert np.array_equal(one_euro.update(far, time), far)


def test_what_is_not_finite_spoils_nothing():
    one_euro = OneEuro()
    one_euro.update(np.zeros((17, 3)), 0.0)
    assert np.isnan(one_euro.update(np.full((17, 3), np.nan), 0.04)).all()
    assert np.array_equal(one_euro.update(np.ones((17, 3)), 0.08), np.ones((17, 3)))


def test_a_root_that_comes_back_is_not_drawn_from_where_it_was():
    smoother, pose = LiveSmoother(), np.zeros((17, 3), np.float32)
    assert smoother(pose, np.zeros(3), 0.0)[1] is not None
    assert smoother(pose, None, 0.04)[1] is None
    found, root = smoother(pose, np.full(3, 4.0), 0.08)
    assert np.array_equal(root, np.full(3, 4.0))
    assert found.dtype == np.float32


def test_cubic_motion_is_left_as_it_is():
    times = np.arange(40) / 25
    motion = np.stack([times**3, 1 - times**2, times], axis=-1)[:, None]
    np.testing.assert_allclose(smoothed(motion, times), motion, atol=1e-9)


def test_no_polynomial_crosses_a_gap(walk):
    times, _, trembling = walk
    cut = times.copy()
    cut[30:] += 1.0
    found = smoothed(trembling, cut)
    np.testing.assert_array_equal(found[:30], smoothed(trembling[:30], times[:30]))
    np.testing.assert_array_equal(found[30:], smoothed(trembling[30:], times[30:]))
    assert not np.array_equal(found, smoothed(trembling, times))


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4])
def test_stretches_that_are_too_short_stay(walk, length):
    times, _, trembling = walk
    np.testing.assert_array_equal(smoothed(trembling[:length], times[:length]), trembling[:length])


def test_five_poses_are_enough(walk):
    times, _, trembling = walk
    found = smoothed(trembling[:5], times[:5])
    assert found.shape == (5, 17, 3)
    assert not np.array_equal(found, trembling[:5])


def test_what_is_no_recording_or_no_filter_is_refused(walk):
    times, _, trembling = walk
    with pytest.raises(DataError, match="do not rise"):
        smoothed(trembling, times[::-1])
    with pytest.raises(DataError, match="give one each"):
        smoothed(trembling, times[1:])
    for values in ({"min_cutoff": 0.0}, {"beta": -1.0}, {"max_gap": np.nan}):
        with pytest.raises(UsageError, match="no such filter"):
            OneEuroSettings(**values)
