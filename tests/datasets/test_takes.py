import numpy as np
import pytest
from bvh_files import random_values, write

from pstmo_edge.datasets import cmu_mocap
from pstmo_edge.datasets.takes import load_takes
from pstmo_edge.errors import DataError, UsageError


def test_the_bundled_motion_goes_by_its_name():
    assert load_takes("cmu-mocap", "test") == cmu_mocap.takes("test")


def test_every_tenth_file_is_for_testing(tmp_path):
    for number in range(12):
        write(tmp_path / f"{number % 2}" / f"{number:02}.bvh", random_values(4, number))
    train, test = (load_takes(str(tmp_path), split) for split in ("train", "test"))
    assert [take.action for take in test] == ["0 00", "1 09"]  # the first and the eleventh in order of path
    assert len(train) == 10
    assert not {take.action for take in train} & {take.action for take in test}
    assert {take.split for take in train} == {"train"}


def test_folders_named_for_the_splits_are_the_splits(tmp_path):
    write(tmp_path / "train" / "Slow walk" / "1.bvh", random_values(4))
    write(tmp_path / "train" / "Jump 2.BVH", random_values(4))
    write(tmp_path / "test" / "1.bvh", random_values(4))
    write(tmp_path / "left out" / "1.bvh", random_values(4))
    assert [take.action for take in load_takes(str(tmp_path), "train")] == ["Jump 2", "Slow_walk 1"]
    assert [take.action for take in load_takes(str(tmp_path), "test")] == ["1"]


def test_takes_are_over_the_middle_of_the_stage(tmp_path):
    write(tmp_path / "a.bvh", random_values(600))
    (take,) = load_takes(str(tmp_path), "test")
    assert take.positions.shape == (250, 17, 3)
    root = take.positions[:, 0, :2]
    np.testing.assert_allclose(root.min(0) + root.max(0), 0, atol=1e-9)
    assert 0.5 < take.positions[:, 0, 2].mean() < 1.5


def test_data_without_world_motion_is_refused(tmp_path):
    for data, words in (("cmu-mocp", "did you mean 'cmu-mocap'"), (str(tmp_path), "without augmentation")):
        with pytest.raises(UsageError, match=words) as error:
            load_takes(data, "train")
        assert "\n" not in str(error.value)


def test_a_split_without_files_is_refused(tmp_path):
    write(tmp_path / "a.bvh", random_values(4))
    with pytest.raises(DataError, match=r"no \.bvh files for the train split"):
        load_takes(str(tmp_path), "train")
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match=r"no \.bvh files for the test split"):
        load_takes(str(tmp_path), "test")


def test_one_damaged_file_is_named(tmp_path):
    write(tmp_path / "a.bvh", random_values(4))
    (tmp_path / "b.bvh").write_text("nothing")
    with pytest.raises(DataError, match=r"b\.bvh, line 1"):
        load_takes(str(tmp_path), "train")
