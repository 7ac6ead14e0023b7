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


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("emitted", [1, 3, 9, 27])
def test_windows_that_emit_many_frames_cover_every_frame_once(emitted, step):
    """Sequences shorter than a window, of one frame, and of lengths that no hop divides."""
    lengths = [1, 2, 26, 27, 28, 80, 81, 242]
    sequences = [np.arange(length, dtype=np.float32)[:, None, None] for length in lengths]
    source = WindowSource(sequences, WindowSpec(27, step, (27 - emitted) // 2, emitted=emitted))
    starts = np.cumsum([0, *lengths])
    seen = np.zeros(len(source), int)
    for targets, windows in source.batches(7):
        frames, inside = source.emitted(targets)
        assert frames.shape == (len(targets), emitted)
        given = windows[:, (27 - emitted) // 2 :][:, :emitted, 0, 0]  # each frame holds its own number
        owners = np.searchsorted(starts, frames[inside], side="right") - 1
        np.testing.assert_array_equal(given[inside], frames[inside] - starts[owners])
        np.testing.assert_array_equal(owners, np.repeat(np.searchsorted(starts, targets, "right") - 1, inside.sum(1)))
        np.add.at(seen, frames[inside], 1)
    assert (seen == 1).all()
    hops = [-(-length // (emitted * step)) for length in lengths]
    assert len(source.targets()) <= step * sum(hops)


def test_frames_outside_the_window_are_not_emitted():
    with pytest.raises(ValueError, match="no such frames"):
        WindowSpec(9, target_index=4, emitted=6)
    with pytest.raises(ValueError, match="no such frames"):
        WindowSpec(9, target_index=0, emitted=0)
