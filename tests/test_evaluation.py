"""Whole sequences: the poses of all frames, whether a window emits one or many."""

import dataclasses

import numpy as np
import pytest
import torch

import pstmo_edge as pe
from pstmo_edge.backends.torch import TorchSession
from pstmo_edge.evaluation import lookahead_errors, predict_all
from pstmo_edge.models.emission import emitting
from pstmo_edge.skeletons import mirrored
from pstmo_edge.windows import WindowSpec, extract_windows


def cut(sequences, lengths):
    return tuple(
        dataclasses.replace(sequence, keypoints=sequence.keypoints[:length], poses=sequence.poses[:length])
        for sequence, length in zip(sequences, lengths, strict=True)
    )


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("emit", ["all", 5, 1])
def test_every_frame_has_the_pose_of_its_place_in_its_window(small_model, short_sequences, emit, flip):
    """Shorter than a window, and not divisible by what a window emits; each pose computed again on its own."""
    sequences = cut(short_sequences, (4, 31, 9))
    model = emitting(small_model, emit)
    spec = model.lifter.window
    steps = []
    poses = predict_all(TorchSession(model).run, sequences, spec, flip=flip, batch=3, advance=steps.append)
    assert sum(steps) == len(poses) == 44

    def every(windows):
        with torch.no_grad():
            return small_model.forward_all(torch.from_numpy(windows)).numpy()

    row = 0
    for sequence in sequences:
        for frame in range(len(sequence)):
            start = frame - frame % spec.emitted
            window = extract_windows(sequence.keypoints, np.array([start]), spec)
            expected = every(window)
            if flip:
                expected = (expected + mirrored(every(mirrored(window)))) / 2
            pose = expected[0, spec.target + frame % spec.emitted].copy()
            pose[0] = 0
            np.testing.assert_allclose(poses[row], pose, atol=1e-5)
            row += 1


@pytest.mark.parametrize(("emit", "windows"), [("centre", 44), ("all", 1 + 4 + 1), (5, 1 + 7 + 2), (1, 44)])
def test_windows_and_frames_are_counted(small_model, short_sequences, emit, windows):
    model = emitting(small_model, emit)
    found = pe.evaluate(TorchSession(model).run, cut(short_sequences, (4, 31, 9)), model.lifter.window)
    assert (found.windows, found.frames) == (windows, 44)
    assert found.to_dict()["frames"] == 44


def test_one_frame_a_window_by_the_per_frame_head_is_the_middle_of_all(small_model, short_sequences):
    one, every = emitting(small_model, 1), emitting(small_model, "all")
    poses = predict_all(TorchSession(one).run, short_sequences[:1], one.lifter.window)
    windows = extract_windows(
        short_sequences[0].keypoints, np.arange(len(short_sequences[0])), small_model.lifter.window
    )
    middle = TorchSession(every).run(windows)[:, 4]
    middle[:, 0] = 0
    np.testing.assert_allclose(poses, middle, atol=1e-5)


def test_a_session_of_another_shape_is_no_evaluation(small_model, short_sequences):
    with pytest.raises(ValueError, match="reshape"):
        predict_all(TorchSession(small_model).run, short_sequences, emitting(small_model, "all").lifter.window)


def test_errors_by_lookahead_are_those_of_windows_that_end_with_the_newest_frame(short_sequences):
    """A lifter that answers with a frame's keypoints: what it sees of the future is what the look-ahead lets it see."""
    spec = WindowSpec(9, target_index=4)
    seen = []

    def predict(windows):
        seen.append(windows)
        return np.concatenate([windows[:, 8], windows[:, 8, :, :1]], axis=-1)

    found = lookahead_errors(predict, short_sequences, spec, (0, 2, 4), most_windows=50)
    assert list(found) == [0, 2, 4]
    full = np.concatenate(seen[2 * len(seen) // 3 :])
    assert 50 <= len(full) < 100
    for start, lookahead in enumerate((0, 2)):
        held = np.concatenate(seen[start * len(seen) // 3 : (start + 1) * len(seen) // 3])
        np.testing.assert_array_equal(held[:, : 5 + lookahead], full[:, : 5 + lookahead])
        assert (held[:, 4 + lookahead :] == full[:, 4 + lookahead, None]).all()
    assert len({round(error, 6) for error in found.values()}) == 3
