import numpy as np
import pytest
from reference import load_golden

from pstmo_edge.skeletons import mirrored
from pstmo_edge.windows import WindowSource, WindowSpec, extract_windows, window_indices


@pytest.mark.parametrize("name", ["windows_243_tds2", "windows_27_tds1"])
def test_windows_equal_the_published_extraction(name):
    _, arrays, meta = load_golden(name)
    windows = extract_windows(arrays["sequence"], arrays["centre"], WindowSpec(meta["frames"], meta["t_downsample"]))
    np.testing.assert_array_equal(windows, arrays["window"])
    np.testing.assert_array_equal(mirrored(windows), arrays["window_flipped"])


@pytest.mark.parametrize("length", [1, 9, 80, 81, 242, 244])
def test_both_sides_of_a_short_sequence_are_padded(length):
    indices = window_indices(length, np.arange(length), WindowSpec(81, 3))
    assert indices.min() == 0
    assert indices.max() == length - 1
    np.testing.assert_array_equal(indices[:, 40], np.arange(length))
    assert (np.diff(indices, axis=1) >= 0).all()


def test_a_target_at_the_end_needs_no_look_ahead():
    assert window_indices(100, np.array([50]), WindowSpec(9, 2, target_index=8)).max() == 50


def test_windows_never_reach_into_the_next_sequence():
    sequences = [np.full((length, 1, 1), number, np.float32) for number, length in enumerate([3, 40, 1])]
    source = WindowSource(sequences, WindowSpec(27, 2))
    for frames, windows in source.batches(7):
        owner = np.searchsorted([3, 43], frames, side="right")
        assert (windows[..., 0, 0] == owner[:, None]).all()


@pytest.mark.parametrize("values", [(0, 1, None), (9, 0, None), (9, 1, 9)])
def test_windows_that_hold_nothing_are_refused(values):
    with pytest.raises(ValueError, match="no such window"):
        WindowSpec(*values)
