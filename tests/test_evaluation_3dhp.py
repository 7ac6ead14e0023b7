"""MPI-INF-3DHP's evaluation, against values worked out by hand and a second, slow implementation."""

import importlib.util
import json

import numpy as np
import pytest
from mpi_inf_3dhp_files import activity, seen, validity
from scipy.io import loadmat

from pstmo_edge.cameras import normalise_screen
from pstmo_edge.datasets import mpi_inf_3dhp
from pstmo_edge.datasets.sequences import PoseSequence
from pstmo_edge.errors import DataError
from pstmo_edge.evaluation_3dhp import evaluate_3dhp, score_3dhp, write_predictions
from pstmo_edge.skeletons import HUMAN36M, MPI_INF_3DHP
from pstmo_edge.windows import WindowSpec

LENGTHS = {"TS1": 20, "TS2": 33, "TS5": 9}


def sequence(subject, number, **changes):
    size = mpi_inf_3dhp.image_size(subject)
    pixels, points = seen(number, LENGTHS[subject], size)
    fields = {
        "subject": subject,
        "action": subject,
        "camera": "0",
        "keypoints": normalise_screen(pixels, size).astype(np.float32),
        "poses": ((points - points[:, 14:15]) / 1000).astype(np.float32),
        "fps": 25.0,
        "image_size": size,
        "skeleton": MPI_INF_3DHP.name,
        "pose_skeleton": MPI_INF_3DHP.name,
        "valid": validity(number, LENGTHS[subject]),
    }
    return PoseSequence(**(fields | changes))


@pytest.fixture
def sequences():
    return tuple(sequence(subject, number) for number, subject in enumerate(LENGTHS))


def still(subject, **changes):
    """A sequence whose joints are all at the pelvis, so that sums can be done in the head."""
    return sequence(subject, 0, poses=np.zeros((LENGTHS[subject], 17, 3), np.float32), valid=None, **changes)


def official(errors):
    """MPJPE, PCK and AUC from errors (frames, 17) in millimetres, in plain loops over joint groups."""
    groups = [[0], [1], [2, 5], [3, 6], [4, 7], [8, 11], [9, 12], [10, 13]]
    right, curve, joints = 0.0, np.zeros(31), 0
    for group in groups:
        part = errors[:, group]
        right += sum(1.0 for error in part.flat if error < 150) / part.size * len(group)
        curve += [sum(1.0 for error in part.flat if error < 5 * k) / part.size * len(group) for k in range(31)]
        joints += len(group)
    return np.mean(errors), 100 * right / joints, 100 * np.sum(curve / joints) / 31


def test_perfect_poses_have_no_error(sequences):
    found = score_3dhp(np.concatenate([each.poses for each in sequences]), sequences)
    assert (found.mpjpe_mm, found.pck) == (0, 100)
    assert found.auc == pytest.approx(100 * 30 / 31)  # no error is less than the first threshold, 0 mm


def test_values_worked_out_by_hand():
    """TS1: every joint but the pelvis off by 125 mm; TS5: by 250 mm. Both are exact in binary."""
    pair = (still("TS1"), still("TS5"))
    poses = np.zeros((29, 17, 3))
    poses[:20, :, 0], poses[20:, :, 1] = 0.125, 0.25
    poses[:, 14] = 0
    found = score_3dhp(poses, pair)
    one, other = found.sequences["TS1"], found.sequences["TS5"]
    assert one == {"mpjpe_mm": pytest.approx(125 * 16 / 17), "pck": 100, "auc": pytest.approx(500 / 31), "frames": 20}
    assert other == {"mpjpe_mm": pytest.approx(250 * 16 / 17), "pck": 0, "auc": 0, "frames": 9}
    # 130, 135, 140, 145 and 150 mm are above 125; 125 itself is not below it. Totals are weighted by frames.
    assert found.pck == pytest.approx(100 * 20 / 29)
    assert found.auc == pytest.approx(500 / 31 * 20 / 29)
    assert found.mpjpe_mm == pytest.approx((125 * 20 + 250 * 9) / 29 * 16 / 17)


def test_pelvis_spine_and_head_do_not_count_for_pck():
    poses = np.zeros((20, 17, 3))
    poses[:, 15:] = 9
    found = score_3dhp(poses, (still("TS1"),))
    assert found.pck == 100
    assert found.mpjpe_mm > 1000


def test_where_the_pelvis_is_does_not_matter(sequences):
    poses = np.concatenate([each.poses for each in sequences]) + np.array([0.3, -0.2, 4])
    assert score_3dhp(poses, sequences).mpjpe_mm == pytest.approx(0, abs=1e-3)


def test_it_equals_a_slow_second_implementation(sequences):
    true = np.concatenate([each.poses for each in sequences]).astype(np.float64)
    poses = true + np.random.default_rng(0).normal(0, 0.06, true.shape)
    poses[:, 14] = 0
    numbers = {each.subject: activity(number, len(each)) for number, each in enumerate(sequences)}
    found = score_3dhp(poses, sequences, activities=numbers)
    valid = np.concatenate([each.valid for each in sequences])
    errors = 1000 * np.sqrt(((poses - true) ** 2).sum(-1))
    assert (found.mpjpe_mm, found.pck, found.auc) == pytest.approx(official(errors[valid]))
    assert 20 < found.auc < found.pck < 95
    ends = np.cumsum([0, *LENGTHS.values()])
    for index, subject in enumerate(LENGTHS):
        rows = slice(ends[index], ends[index + 1])
        expected = official(errors[rows][valid[rows]])
        assert tuple(found.sequences[subject].values())[:3] == pytest.approx(expected)
    done = np.concatenate(list(numbers.values()))
    for number, name in enumerate(mpi_inf_3dhp.ACTIVITIES, 1):
        rows = valid & (done == number)
        assert (name in found.activities) == rows.any()
        if rows.any():
            assert tuple(found.activities[name].values()) == pytest.approx((*official(errors[rows]), rows.sum()))
    assert sum(each["frames"] for each in found.activities.values()) == found.windows == valid.sum()


def test_every_frame_fills_windows_and_only_valid_ones_count(sequences):
    told, given = [], []

    def predict(windows):
        given.append(windows)
        return np.zeros((len(windows), 17, 3), np.float32)

    found = evaluate_3dhp(predict, sequences, WindowSpec(9), batch=16, advance=told.append)
    assert sum(told) == sum(LENGTHS.values())
    np.testing.assert_array_equal(np.concatenate(given)[5], sequences[0].keypoints[1:10])
    assert found.windows == sum(int(each.valid.sum()) for each in sequences)
    kept = np.concatenate([each.poses[each.valid] for each in sequences])
    assert found.mpjpe_mm == pytest.approx(1000 * np.linalg.norm(kept, axis=-1).mean(), rel=1e-5)
    assert found.activities == {}
    assert json.loads(json.dumps(found.to_dict()))["sequences"]["TS5"]["frames"] == int(sequences[2].valid.sum())


def test_mirroring_swaps_this_skeletons_joints(sequences):
    def predict(windows):
        centre = windows[:, 4]
        return np.concatenate([centre - centre[:, 14:15], centre[..., :1] * 0], axis=-1)

    plain = evaluate_3dhp(predict, sequences, WindowSpec(9))
    flipped = evaluate_3dhp(predict, sequences, WindowSpec(9), flip=True)
    assert flipped.flip
    assert flipped.mpjpe_mm == pytest.approx(plain.mpjpe_mm, rel=1e-5)  # this predictor cannot tell left from right


def test_the_prediction_file_is_what_the_matlab_code_reads(sequences, tmp_path):
    poses = np.random.default_rng(0).normal(0, 0.3, (sum(LENGTHS.values()), 17, 3)).astype(np.float32)
    poses[:, 14] = 0
    write_predictions(tmp_path / "inference_data.mat", sequences, poses)
    found = loadmat(tmp_path / "inference_data.mat")
    assert {name for name in found if not name.startswith("__")} == set(LENGTHS)
    pieces = np.split(poses, np.cumsum(list(LENGTHS.values()))[:-1])
    for each, piece in zip(sequences, pieces, strict=True):
        kept = piece[each.valid]
        assert found[each.subject].shape == (3, 17, 1, len(kept))
        np.testing.assert_allclose(found[each.subject][:, 3, 0, 2], kept[2, 3] * 1000, rtol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["inference_data.mat"]


def test_evaluation_writes_the_predictions_it_scored(sequences, tmp_path):
    path = tmp_path / "inference_data.mat"
    evaluate_3dhp(lambda windows: windows[:, 4][..., [0, 1, 0]], sequences, WindowSpec(9), predictions=path)
    kept = sequences[0].keypoints[sequences[0].valid]
    np.testing.assert_allclose(loadmat(path)["TS1"][0, 3, 0], 1000 * kept[:, 3, 0], rtol=1e-5)


def test_a_missing_library_is_said_before_the_work(sequences, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"cannot write it\.mat: it needs scipy"):
        evaluate_3dhp(pytest.fail, sequences, WindowSpec(9), predictions="it.mat")


def test_what_cannot_be_evaluated_is_refused(sequences):
    poses = np.zeros((sum(LENGTHS.values()), 17, 3))
    with pytest.raises(DataError, match="no sequences"):
        score_3dhp(poses, ())
    with pytest.raises(DataError, match="61 poses for 62 frames"):
        score_3dhp(poses[1:], sequences)
    with pytest.raises(DataError, match="no 3D poses"):
        score_3dhp(poses[:20], (sequence("TS1", 0, poses=None),))
    with pytest.raises(DataError, match="human36m-17"):
        score_3dhp(poses[:20], (sequence("TS1", 0, pose_skeleton=HUMAN36M.name),))
    with pytest.raises(DataError, match="none of the frames"):
        score_3dhp(poses[:20], (sequence("TS1", 0, valid=np.zeros(20, bool)),))
    with pytest.raises(DataError, match="3 activities for 20 frames"):
        score_3dhp(poses[:20], sequences[:1], activities={"TS1": np.ones(3, int)})
