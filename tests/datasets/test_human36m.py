"""The reader, on files of VideoPose3D's exact layout made from the bundled motion."""

import os

import numpy as np
import pytest

from pstmo_edge.cameras import human36m_cameras
from pstmo_edge.datasets import cmu_mocap, human36m, load_sequences
from pstmo_edge.errors import DataError

TAKES = {("S1", "Walking 1"): 30, ("S9", "Sitting"): 20, ("S11", "Sitting 1"): 25}


def write_dataset(folder, layout="h36m", extra_frames=3, drop=None):
    """data_3d_h36m.npz with 32 joints and data_2d_h36m_gt.npz with four cameras, as object arrays."""
    world, image = {}, {}
    source = cmu_mocap.takes("test")[1].positions
    for (subject, action), length in TAKES.items():
        joints = np.zeros((length, 32, 3), np.float32)
        joints[:, human36m._MOVING] = source[:length]
        world.setdefault(subject, {})[action] = joints
        views = [
            cmu_mocap.view(source[: length + extra_frames], camera)[0].astype(np.float32)
            for camera in human36m_cameras(subject)
        ]
        image.setdefault(subject, {})[action] = views
    if drop:
        del image[drop[0]][drop[1]]
    symmetry = [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]]
    metadata = {"layout_name": layout, "num_joints": 17, "keypoints_symmetry": symmetry}
    np.savez_compressed(folder / "data_3d_h36m.npz", positions_3d=world)
    np.savez_compressed(folder / "data_2d_h36m_gt.npz", positions_2d=image, metadata=metadata)
    return source


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


def test_another_joint_set_is_refused(tmp_path):
    write_dataset(tmp_path, layout="coco")
    with pytest.raises(DataError, match="coco-17"):
        load_sequences(tmp_path)


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
