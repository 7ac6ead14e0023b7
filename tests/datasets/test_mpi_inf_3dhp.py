"""The reader and the converter, on files of the exact layouts made from the bundled motion."""

import numpy as np
import pytest
from mpi_inf_3dhp_files import (
    TEST_FRAMES,
    TRAIN_FRAMES,
    activity,
    published_test,
    published_train,
    seen,
    validity,
    write_published,
    write_release,
    write_test_mat,
    write_train_mat,
)

from pstmo_edge.datasets import mpi_inf_3dhp
from pstmo_edge.errors import DataError, UsageError
from pstmo_edge.skeletons import MPI_INF_3DHP


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    write_published(folder)
    return folder


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    write_release(folder)
    return folder


@pytest.fixture(scope="module")
def converted(release, tmp_path_factory):
    told = []
    out = tmp_path_factory.mktemp("converted") / "new" / "folder"
    paths = mpi_inf_3dhp.convert(release, out, lambda *step: told.append(step))
    assert paths == (out / "data_train_3dhp.npz", out / "data_test_3dhp.npz")
    assert told[0] == ("reading S1 Seq1", 0, 16)
    assert told[-1] == ("writing data_test_3dhp.npz", 6, 6)
    return out


@pytest.mark.parametrize("made", ["published", "converted"])
def test_every_training_view_becomes_a_sequence(made, request):
    sequences = mpi_inf_3dhp.load(request.getfixturevalue(made), "train")
    assert len(sequences) == 16 * 8
    assert [s.camera for s in sequences[:8]] == ["0", "1", "2", "4", "5", "6", "7", "8"]
    rates = {(s.subject, s.action): s.fps for s in sequences}
    assert {take for take, fps in rates.items() if fps == 50} == {
        ("S1", "Seq2"), ("S3", "Seq1"), ("S3", "Seq2"), ("S5", "Seq1"), ("S5", "Seq2")
    }  # fmt: skip
    sequence = sequences[8 + 3]  # the second take's fourth camera
    pixels, points = seen(1 + 4, TRAIN_FRAMES)
    assert (sequence.name, sequence.valid, sequence.image_size) == ("S1/Seq2/4", None, (2048, 2048))
    assert sequence.skeleton == sequence.pose_skeleton == MPI_INF_3DHP.name
    np.testing.assert_allclose(sequence.keypoints, pixels / 1024 - 1, atol=1e-6)
    np.testing.assert_allclose(sequence.poses, (points - points[:, 14:15]) / 1000, atol=1e-6)
    np.testing.assert_allclose(sequence.root, points[:, 14] / 1000, rtol=1e-6)


@pytest.mark.parametrize("made", ["published", "converted"])
def test_test_sequences_keep_the_frames_that_do_not_count(made, request):
    sequences = mpi_inf_3dhp.load(request.getfixturevalue(made), "test")
    assert [s.subject for s in sequences] == ["TS1", "TS2", "TS3", "TS4", "TS5", "TS6"]
    for number, sequence in enumerate(sequences):
        width, height = (1920, 1080) if number > 3 else (2048, 2048)
        pixels, points = seen(number, TEST_FRAMES, (width, height))
        assert len(sequence) == TEST_FRAMES
        np.testing.assert_array_equal(sequence.valid, validity(number))
        np.testing.assert_allclose(sequence.keypoints, pixels * 2 / width - [1, height / width], atol=1e-6)
        np.testing.assert_allclose(sequence.poses, (points - points[:, 14:15]) / 1000, atol=1e-6)


def test_activities_are_in_converted_files_only(published, converted):
    assert mpi_inf_3dhp.activities(published) == {}
    found = mpi_inf_3dhp.activities(converted)
    assert list(found) == list(mpi_inf_3dhp.TEST_SUBJECTS)
    for number, numbers in enumerate(found.values()):
        np.testing.assert_array_equal(numbers, activity(number))


def test_the_published_code_can_read_what_is_written(converted):
    """Its own way of opening: unpickled, by the same keys, lengths and kinds."""
    train = np.load(converted / "data_train_3dhp.npz", allow_pickle=True)["data"].item()
    expected = published_train()
    assert list(train) == list(expected)
    for name, (views, fps) in expected.items():
        assert train[name][1] == fps
        assert list(train[name][0]) == list(views)
        for camera, view in views.items():
            for key, array in view.items():
                np.testing.assert_array_equal(train[name][0][camera][key], array)
    test = np.load(converted / "data_test_3dhp.npz", allow_pickle=True)["data"].item()
    for subject, arrays in published_test().items():
        for key, array in arrays.items():
            np.testing.assert_array_equal(test[subject][key], array)


def test_only_the_frames_of_the_release_table_are_used(tmp_path, monkeypatch):
    path = tmp_path / "S1" / "Seq1" / "annot.mat"
    write_train_mat(path, 0)
    monkeypatch.setitem(mpi_inf_3dhp.TRAIN_TAKES, ("S1", "Seq1"), (5, 25))
    views, fps = mpi_inf_3dhp._train_take("S1 Seq1", path)
    assert fps == 25
    assert {len(view[key]) for view in views.values() for key in view} == {5}


def test_a_split_that_is_not_there_is_left_out(tmp_path):
    for number, subject in enumerate(mpi_inf_3dhp.TEST_SUBJECTS):
        write_test_mat(tmp_path / subject / "annot_data.mat", number)
    assert mpi_inf_3dhp.convert(tmp_path, tmp_path) == (tmp_path / "data_test_3dhp.npz",)
    assert len(mpi_inf_3dhp.load(tmp_path, "test")) == 6
    with pytest.raises(DataError, match=r"no such file: .*data_train_3dhp\.npz"):
        mpi_inf_3dhp.load(tmp_path, "train")


def one_line(error):
    return "\n" not in str(error.value)


def test_a_missing_take_is_named_before_anything_is_read(tmp_path):
    write_train_mat(tmp_path / "S1" / "Seq1" / "annot.mat", 0)
    with pytest.raises(DataError, match=r"lacks .*S1/Seq2/annot\.mat.* and 12 more") as error:
        mpi_inf_3dhp.convert(tmp_path, tmp_path / "out")
    assert one_line(error)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_the_release_is_refused(tmp_path):
    with pytest.raises(DataError, match="give the release's folder"):
        mpi_inf_3dhp.convert(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lost_2d": 2}, "10 frames of 2D for 12 of 3D"),
        ({"univ_annot3": np.zeros((12, 84))}, r"univ_annot3/0/0 is missing, expected \(frames, 84\)"),
        ({"annot2": np.full((14, 1), "words", object)}, "annot2/0/0 holds no numbers"),
        ({"cameras": np.arange(14)[::-1]}, "cameras are"),
    ],
)
def test_a_training_file_of_another_layout_is_refused(tmp_path, changes, message):
    path = tmp_path / "annot.mat"
    write_train_mat(path, 0, **changes)
    with pytest.raises(DataError, match=message) as error:
        mpi_inf_3dhp._train_take("S1 Seq1", path)
    assert one_line(error)


def test_a_test_file_without_validity_is_refused(tmp_path):
    path = tmp_path / "TS1" / "annot_data.mat"
    write_test_mat(path, 0, drop=["valid_frame"])
    with pytest.raises(DataError, match="no variable valid_frame"):
        mpi_inf_3dhp._test_take("TS1", path)


def damaged(change):
    data = published_test()
    change(data)
    return data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("TS3"), "lacks data/TS3: the split would be incomplete"),
        (lambda data: data["TS2"].update(data_2d=data["TS2"]["data_2d"][1:]), "39 frames of 2D for 40 of 3D"),
        (
            lambda data: data["TS2"].update(data_3d=data["TS2"]["data_3d"][:, :16]),
            r"3D joints have shape \(40, 16, 3\)",
        ),
        (lambda data: data["TS2"].pop("data_3d"), r"3D joints have shape \(0,\)"),
        (lambda data: data["TS2"].update(valid=np.ones(39)), "39 frames are said to be valid or not, of 40"),
        (lambda data: data["TS2"]["data_2d"].__setitem__((3, 2), np.nan), "frame 3, joint RShoulder is not a finite"),
        (lambda data: data["TS2"]["data_3d"].__setitem__((4, 2), np.nan), "a 3D pose that counts is not finite"),
        (lambda data: data.update(TS2=print), "no usable dataset file .*builtins.print, which is no array"),
    ],
)
def test_a_published_file_that_is_damaged_is_refused_in_one_line(tmp_path, change, message):
    np.savez(tmp_path / "data_test_3dhp.npz", data=damaged(change))
    with pytest.raises(DataError, match=message) as error:
        mpi_inf_3dhp.load(tmp_path, "test")
    assert one_line(error)


def test_a_pose_that_does_not_count_may_be_anything(tmp_path):
    data = published_test()
    data["TS1"]["data_3d"][np.flatnonzero(~validity(0))[0]] = np.nan
    np.savez(tmp_path / "data_test_3dhp.npz", data=data)
    assert len(mpi_inf_3dhp.load(tmp_path, "test")) == 6


def test_a_missing_view_of_the_training_split_is_named(tmp_path):
    data = published_train()
    del data["S4 Seq2"][0]["7"]
    np.savez(tmp_path / "data_train_3dhp.npz", data=data)
    with pytest.raises(DataError, match="lacks data/S4 Seq2/0/7"):
        mpi_inf_3dhp.load(tmp_path, "train")


def test_what_the_dataset_does_not_have_is_refused(published):
    with pytest.raises(UsageError, match="Known: gt"):
        mpi_inf_3dhp.load(published, "test", "detected")
    with pytest.raises(DataError, match="human36m-17"):
        mpi_inf_3dhp.load(published, "test", skeleton="human36m-17")
