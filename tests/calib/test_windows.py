from dataclasses import replace

import numpy as np
import pytest

from pstmo_edge.calib.windows import (
    CalibrationWarning,
    _features,
    _heading,
    calibration_windows,
    check_handedness,
    unseen_windows,
    windows_key,
)
from pstmo_edge.datasets import load_sequences
from pstmo_edge.errors import DataError
from pstmo_edge.metrics import action_of
from pstmo_edge.skeletons import HUMAN36M, mirrored
from pstmo_edge.windows import WindowSpec, extract_windows

SPEC = WindowSpec(9, 2)


def test_every_action_is_seen_equally_often():
    sequences = load_sequences(split="train")
    windows = calibration_windows(sequences, SPEC, 110)
    assert windows.shape == (110, 9, 17, 2)
    assert len(np.unique(windows.reshape(110, -1), axis=0)) == 110
    actions = {}
    for sequence in sequences:
        centres = sequence.keypoints[:, 0]
        for number, window in enumerate(windows):
            if (centres == window[4, 0]).all(-1).any():
                actions[number] = action_of(sequence.action)
    counts = np.unique(list(actions.values()), return_counts=True)[1]
    assert len(actions) == 110
    assert counts.max() - counts.min() <= 1


def test_windows_are_those_of_inference():
    (sequence,) = load_sequences(split="train")[:1]
    windows = calibration_windows([sequence], SPEC, 24)
    every = {window.tobytes() for window in extract_windows(sequence.keypoints, np.arange(len(sequence)), SPEC)}
    assert all(window.tobytes() in every for window in windows)


def test_no_view_is_far_from_all_chosen_ones():
    """Of one action, against windows at even distances: the largest gap in speed, heading, place and size shrinks."""
    takes = [take for take in load_sequences(split="train") if action_of(take.action) == "Dance"]
    features = np.concatenate([_features(take, SPEC) for take in takes])
    rows = {row.tobytes(): number for number, row in enumerate(np.concatenate([take.keypoints for take in takes]))}

    def gap(frames):
        distances = [np.linalg.norm(features[::7] - features[frame], axis=-1) for frame in frames]
        return np.min(distances, axis=0).max()

    chosen = [rows[window[4].tobytes()] for window in calibration_windows(takes, SPEC, 48)]
    even = np.linspace(0, len(features) - 1, 48).astype(int)
    assert gap(chosen) < 0.6 * gap(even), (gap(chosen), gap(even))
    assert gap(chosen) < 0.4 * gap(range(48)), (gap(chosen), gap(range(48)))  # the first n


def test_headings_agree_whether_poses_are_known_or_not():
    takes = load_sequences(split="train")[::11]
    for take in takes:
        known, guessed = np.cos(_heading(take)), np.cos(_heading(replace(take, poses=None)))
        assert np.mean(np.sign(known) == np.sign(guessed)) > 0.8  # front or back; nearly sideways may be either


def still(sequence):
    return replace(sequence, keypoints=np.repeat(sequence.keypoints[:1], 60, axis=0), poses=None)


def test_what_cannot_be_calibrated_on_is_refused_with_what_to_give_instead():
    (sequence,) = load_sequences(split="train")[:1]
    short = replace(sequence, keypoints=sequence.keypoints[:15], poses=sequence.poses[:15])
    with pytest.raises(DataError, match=r"15 calibration windows are too few .* at least 16 .*--calib"):
        calibration_windows([short], SPEC)
    with pytest.raises(DataError, match="12 calibration windows are too few"):
        calibration_windows([sequence], SPEC, 12)
    with pytest.raises(DataError, match=r"none of the 1 calibration sequences moves.*give real motion with --calib"):
        calibration_windows([still(sequence)], SPEC)
    broken = replace(sequence, keypoints=sequence.keypoints.copy())
    broken.keypoints[3, 5] = np.nan
    with pytest.raises(DataError, match=r"frame 3, joint LKnee is not a finite number .*fill or drop"):
        calibration_windows([broken], SPEC)
    with pytest.warns(CalibrationWarning, match="1 of 2 calibration sequences do not move and are left out"):
        calibration_windows([sequence, still(sequence)], SPEC, 32)


def test_a_mirrored_video_is_noticed_by_its_knees(recwarn):
    sequences = load_sequences(split="train")[::9]
    poses = np.concatenate([sequence.poses[::5] for sequence in sequences])
    check_handedness(poses, "human36m-17")
    check_handedness(mirrored(poses, HUMAN36M), "human36m-17")  # mirrored with left and right exchanged: a person
    assert not recwarn
    with pytest.warns(CalibrationWarning, match="left and right look swapped.*exchange the left and right joints"):
        check_handedness(poses * np.array([-1, 1, 1]), "human36m-17")


def test_windows_to_measure_on_are_not_those_calibrated_on():
    sequences = load_sequences(split="train")[:8]
    seen = calibration_windows(sequences, SPEC, 64)
    unseen, poses = unseen_windows(sequences, SPEC, 40, seen)
    assert unseen.shape == (39, 9, 17, 2)
    assert poses.shape == (39, 17, 3)
    np.testing.assert_array_equal(unseen[:-1:3, 6], unseen[2::3, 5])  # threes of neighbours, two frames a step
    assert not {window.tobytes() for window in unseen} & {window.tobytes() for window in seen}
    emitted, many = unseen_windows(sequences, WindowSpec(9, 2, 2, emitted=5), 10, seen)
    assert many.shape == (len(emitted), 5, 17, 3)


def test_the_key_tells_data_apart():
    sequences = load_sequences(split="train")
    windows = calibration_windows(sequences, SPEC, 16)
    assert windows_key(windows) == windows_key(calibration_windows(sequences, SPEC, 16))
    assert windows_key(windows) != windows_key(calibration_windows(sequences[1:], SPEC, 16))


def test_nothing_to_calibrate_on_is_an_error():
    with pytest.raises(DataError, match="no sequences"):
        calibration_windows([], SPEC)
