import numpy as np
import pytest

from pstmo_edge.calib.windows import calibration_windows, windows_key
from pstmo_edge.datasets import load_sequences
from pstmo_edge.errors import DataError
from pstmo_edge.metrics import action_of
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
    windows = calibration_windows([sequence], SPEC, 3)
    centres = ((np.arange(3) + 0.5) * len(sequence) / 3).astype(int)
    np.testing.assert_array_equal(windows, extract_windows(sequence.keypoints, centres, SPEC))


def test_the_key_tells_data_apart():
    sequences = load_sequences(split="train")
    windows = calibration_windows(sequences, SPEC, 16)
    assert windows_key(windows) == windows_key(calibration_windows(sequences, SPEC, 16))
    assert windows_key(windows) != windows_key(calibration_windows(sequences[1:], SPEC, 16))


def test_nothing_to_calibrate_on_is_an_error():
    with pytest.raises(DataError, match="no sequences"):
        calibration_windows([], SPEC)
