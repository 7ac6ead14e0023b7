"""The reader, on files of VideoPose3D's exact layout made from the bundled motion."""

import os

import numpy as np
import pytest
from human36m_files import TAKES, write_dataset

from pstmo_edge.cameras import human36m_cameras, normalise_screen, project, world_to_camera
from pstmo_edge.datasets import cmu_mocap, human36m, load_sequences
from pstmo_edge.datasets.coco_points import coco_from_human36m
from pstmo_edge.errors import DataError
from pstmo_edge.skeletons import HUMAN36M


def test_the_real_layout_becomes_the_same_sequences(tmp_path):
    source = write_dataset(tmp_path)
    train, test = load_sequences(tmp_path, "train"), load_sequences(tmp_path, "test")
    assert [(s.subject, s.action) for s in train] == [("S1", "Walking 1")] * 4
    assert [(s.subject, s.action) for s in test] == [("S9", "Sitting")] * 4 + [("S11", "Sitting 1")] * 4
    for number, sequence in enumerate(test[4:]):
        camera = human36m_cameras("S11")[number]
        _, poses = cmu_mocap.view(source[:25], camera)
        assert sequence.camera == camera.name
        assert sequence.keypoints.shape == (25, 17, 2)  # frames beyond the motion capture are dropped
        np.testing.assert_allclose(sequence.poses, poses, atol=1e-5)


def test_root_and_intrinsics_give_the_pixels_of_the_poses_back(tmp_path):
    write_dataset(tmp_path)
    for sequence in load_sequences(tmp_path, "test"):
        assert (sequence.skeleton, sequence.pose_skeleton) == (HUMAN36M.name, HUMAN36M.name)
        points = sequence.poses + sequence.root[:, None]
        pinhole = points[..., :2] / points[..., 2:] * sequence.intrinsics[:2] + sequence.intrinsics[2:]
        assert np.abs(pinhole - sequence.keypoints).max() < 0.03  # what is left is the lens's distortion


def test_another_joint_set_is_refused(tmp_path):
    write_dataset(tmp_path, layout="coco")
    for layout, asked in (("coco", "human36m-17"), ("h36m", "coco-17")):
        write_dataset(tmp_path, layout=layout)
        with pytest.raises(DataError, match=r"coco-17.*or use a model") as error:
            load_sequences(tmp_path, skeleton=asked)
        assert "human36m-17" in str(error.value)
        assert "\n" not in str(error.value)
    write_dataset(tmp_path, layout="humaneva15")
    with pytest.raises(DataError, match="holds humaneva15 keypoints and human36m-17"):
        load_sequences(tmp_path)


def test_coco_keypoints_come_with_human36m_poses(tmp_path):
    """What P-STMO trains on for videos from the wild: data_2d_h36m_detectron_pt_coco.npz beside the usual 3D file."""
    source = write_dataset(tmp_path)
    (tmp_path / "data_2d_h36m_gt.npz").unlink()
    image = {}
    for (subject, action), length in TAKES.items():
        views = [
            project(coco_from_human36m(world_to_camera(source[:length], camera)), camera).astype(np.float32)
            for camera in human36m_cameras(subject)
        ]
        image.setdefault(subject, {})[action] = views
    symmetry = [[1, 3, 5, 7, 9, 11, 13, 15], [2, 4, 6, 8, 10, 12, 14, 16]]
    metadata = {"layout_name": "coco", "num_joints": 17, "keypoints_symmetry": symmetry}
    np.savez_compressed(tmp_path / "data_2d_h36m_detectron_pt_coco.npz", positions_2d=image, metadata=metadata)
    train = load_sequences(tmp_path, "train", "detectron_pt_coco", "coco-17")
    assert [(s.skeleton, s.pose_skeleton) for s in train] == [("coco-17", "human36m-17")] * 4
    camera = human36m_cameras("S1")[2]
    expected = normalise_screen(image["S1"]["Walking 1"][2], camera.image_size)
    np.testing.assert_array_equal(train[2].keypoints, expected)
    np.testing.assert_allclose(train[2].poses, cmu_mocap.view(source[:30], camera)[1], atol=1e-5)
    with pytest.raises(DataError, match=r"no such file.*data_2d_h36m_gt\.npz"):
        load_sequences(tmp_path, "train", "gt", "coco-17")


def test_a_subject_without_cameras_is_one_line(tmp_path, monkeypatch):
    """The published cameras are those of the published splits; others would have to be added to both."""
    write_dataset(tmp_path, takes={("S2", "Walking"): 10}, cameras_of="S1")
    monkeypatch.setitem(human36m.SUBJECTS, "test", ("S2",))
    with pytest.raises(DataError, match="S2 has no published cameras") as error:
        load_sequences(tmp_path)
    assert "\n" not in str(error.value)


def test_what_the_2d_file_lacks_is_named(tmp_path):
    write_dataset(tmp_path, drop=("S9", "Sitting"))
    with pytest.raises(DataError, match="S9/Sitting"):
        load_sequences(tmp_path)


def test_too_few_2d_frames_are_an_error(tmp_path):
    write_dataset(tmp_path, extra_frames=-2)
    with pytest.raises(DataError, match="18 frames of 2D for 20 of 3D"):
        load_sequences(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"data_3d_h36m\.npz"):
        load_sequences(tmp_path)
    write_dataset(tmp_path)
    (tmp_path / "data_3d_h36m.npz").unlink()
    with pytest.raises(DataError, match=r"no such file: .*data_3d_h36m\.npz"):
        load_sequences(tmp_path)


def test_a_folder_without_a_dataset_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").touch()
    looked_for = r"data_3d_h36m\.npz .*data_2d_h36m_\*\.npz.*data_train_3dhp\.npz or data_test_3dhp\.npz.*\.bvh"
    with pytest.raises(DataError, match=looked_for) as error:
        load_sequences(tmp_path)
    assert "\n" not in str(error.value)


def test_where_two_datasets_share_a_folder_the_skeleton_says_which(tmp_path):
    write_dataset(tmp_path)
    np.savez(tmp_path / "data_test_3dhp.npz", data=np.array({}, dtype=object))
    assert len(load_sequences(tmp_path)) == 8
    with pytest.raises(DataError, match=r"data_test_3dhp\.npz lacks"):
        load_sequences(tmp_path, skeleton="mpi-inf-3dhp-17")


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("3d", {"positions_3d": {"S9": {"Sitting": np.zeros((20, 31, 3))}}}, r"shape \(20, 31, 3\), expected"),
        ("3d", {"positions_3d": {"S9": {"Sitting": [np.zeros((20, 32, 3))]}}}, r"shape \(0,\), expected"),
        ("3d", {"positions_3d": {"S9": {"Sitting": np.full((20, 32, 3), np.inf)}}}, "a 3D pose is not finite"),
        ("3d", {"positions_3d": {"S9": {}}}, "the test split is empty"),
        ("3d", {"positions_3d": {"S9": 5}}, "the test split is empty"),
        ("2d", {"positions_2d": {"S9": {"Sitting": [np.zeros((20, 17))] * 4}}, "metadata": {}}, r"shape \(20, 17\)"),
        ("2d", {"positions_2d": {}, "metadata": "coco"}, "metadata are no dict"),
        ("2d", {"positions_2d": {}}, "has no metadata"),
        ("2d", {"positions_2d": {"S9": {"Sitting": [np.full((20, 17, 2), np.nan)] * 4}}, "metadata": {}}, "finite"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, name, contents, message):
    write_dataset(tmp_path)
    path = tmp_path / {"3d": "data_3d_h36m.npz", "2d": "data_2d_h36m_gt.npz"}[name]
    np.savez(path, **{key: np.array(value, dtype=object) for key, value in contents.items()})
    with pytest.raises(DataError, match=message) as error:
        load_sequences(tmp_path)
    assert "\n" not in str(error.value)


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def test_a_payload_does_not_run(tmp_path):
    write_dataset(tmp_path)
    marker = tmp_path / "ran"
    np.savez(tmp_path / "data_3d_h36m.npz", positions_3d=np.array({"S9": Payload(str(marker))}, dtype=object))
    with pytest.raises(DataError, match="mkdir, which is no array"):
        load_sequences(tmp_path)
    assert not marker.exists()
    np.load(tmp_path / "data_3d_h36m.npz", allow_pickle=True)["positions_3d"]  # the payload is a real one
    assert marker.exists()


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_a_damaged_file_is_an_error_and_no_crash(tmp_path, damage):
    write_dataset(tmp_path)
    path = tmp_path / "data_3d_h36m.npz"
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "text": b"hello", "empty": b""}[damage])
    with pytest.raises(DataError, match="no usable dataset file"):
        load_sequences(tmp_path)
