"""Missing joints: held on the body, on both sightings once there are two, and never elsewhere than told."""

import math

import numpy as np
import pytest

from pstmo_edge.benchmarks.streams_motion import Losses, cameras, record
from pstmo_edge.cameras import normalise_screen
from pstmo_edge.datasets import cmu_mocap
from pstmo_edge.filling import BODY, JOINTS, Holder, fill_recording

SIZE = (1000, 1000)


def walk(length: int) -> np.ndarray:
    """Pixels (L, 17, 2) of joints that all move alike."""
    shape = np.random.default_rng(0).uniform(300, 700, (JOINTS, 2))
    return (shape + np.arange(length)[:, None, None] * [4.0, -1.0]).astype(np.float32)


def fed(pixels, missing, times=None, ahead=1000):
    """Frames through a holder, each corrected by what the next `ahead` tell: values (L, 17, 2) and who was regained."""
    holder, values, regained = Holder(SIZE, 0.3, 2), [], np.zeros(missing.shape, bool)
    times = np.arange(len(pixels)) / 30 if times is None else times
    for frame, (points, gone) in enumerate(zip(pixels, missing, strict=True)):
        filled, told, returned = holder.fill(np.concatenate([points, ~gone[:, None]], axis=1), times[frame])
        np.testing.assert_array_equal(told, gone)
        values.append(filled)
        for before in range(max(frame - ahead, 0), frame if returned else 0):
            values[before], joints = returned.correct(values[before], times[before])
            regained[before] |= joints
            assert not (joints & ~missing[before]).any(), "what was measured stays"
    return np.stack(values), regained


def test_who_moves_with_the_body_is_found_where_it_was_held():
    pixels, missing = walk(12), np.zeros((12, JOINTS), bool)
    missing[3:9, 5] = missing[10:, 6] = True
    values, regained = fed(pixels, missing)
    np.testing.assert_allclose(values, normalise_screen(pixels, SIZE), atol=1e-6)
    assert regained[3:9, 5].all()
    assert regained.sum() == 6


def test_two_sightings_are_joined_at_even_pace_by_time():
    """Of a joint that moves beside the body, in frames that come as they like."""
    pixels, missing = walk(6), np.zeros((6, JOINTS), bool)
    times = np.array([0.0, 0.03, 0.04, 0.1, 0.11, 0.15])
    pixels[:, 5] += np.array([100, 50], np.float32) * times[:, None].astype(np.float32)
    missing[2:5, 5] = True
    values, _ = fed(pixels, missing, times)
    np.testing.assert_allclose(values, normalise_screen(pixels, SIZE), atol=1e-6)


def test_look_ahead_finds_what_is_hidden_for_a_while():
    """Of a real walk without joints in runs: the longer a frame waits, the nearer is what was filled."""
    take = cmu_mocap.takes("test")[2]
    recording = record(take, cameras(take, 2)[2], detected=False, losses=Losses(0.3, "runs"))
    pixels, missing = recording.keypoints[..., :2], recording.keypoints[..., 2] == 0
    true = normalise_screen(pixels, SIZE)
    off = [np.linalg.norm(fed(pixels, missing, ahead=ahead)[0] - true, axis=-1)[missing].mean() for ahead in (0, 6, 16)]
    assert off[0] > 1.2 * off[1] > 1.4 * off[2]


def test_who_comes_in_late_is_moved_back_from_its_first_sighting():
    pixels, missing = walk(8), np.zeros((8, JOINTS), bool)
    missing[:5, 7] = True
    holder = Holder(SIZE, 0.3, 2)
    told = [holder.fill(np.c_[pixels[i], ~missing[i]], i / 30)[2] for i in range(8)]
    assert [each is not None for each in told] == [False] * 5 + [True] + [False] * 2
    assert told[5].earliest == -math.inf
    values, regained = fed(pixels, missing)
    middle = normalise_screen(np.delete(pixels, 7, axis=1), SIZE).mean(1)
    off = normalise_screen(pixels, SIZE)[5, 7] - (middle[4] + middle[5] - middle[4])
    np.testing.assert_allclose(values[:5, 7], middle[:5] + off, atol=1e-6)
    assert regained[:5, 7].all()


def test_a_new_sequence_knows_no_sighting_of_the_last():
    pixels, holder = walk(3), Holder(SIZE, 0.3, 2)
    gone = np.arange(JOINTS) == 5
    holder.fill(np.c_[pixels[0], np.ones(JOINTS)], 0.0)
    holder.forget()
    assert holder.fill(np.c_[pixels[1], ~gone], 1.0)[2] is None
    assert holder.fill(np.c_[pixels[2], np.ones(JOINTS)], 1.1)[2].earliest == -math.inf


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_a_recording_is_filled_as_a_stream_that_waits_for_all_of_it(share):
    rng = np.random.default_rng(1)
    pixels = (walk(60) + rng.normal(0, 2, (60, JOINTS, 2)).cumsum(0)).astype(np.float32)
    missing = rng.random((60, JOINTS)) < share
    missing[20:24], missing[30:33, BODY - 1 :] = True, True
    missing[0] = False  # where a stream must guess: the body before a joint's first sighting
    values, _ = fed(pixels, missing)
    points = normalise_screen(pixels, SIZE)
    filled = fill_recording(points, ~missing)
    np.testing.assert_allclose(filled, values, atol=2e-6)
    np.testing.assert_array_equal(filled[~missing], points[~missing])


def test_joints_that_no_frame_of_a_recording_has_are_amid_the_others():
    points, measured = normalise_screen(walk(10), SIZE), np.ones((10, JOINTS), bool)
    measured[:, 4] = measured[3:5] = False
    filled = fill_recording(points, measured)
    middle = np.delete(points, 4, axis=1).mean(1)
    np.testing.assert_allclose(filled[:3, 4], middle[:3], atol=1e-6)
    assert np.isfinite(filled).all()
