from importlib import resources

import numpy as np
import pytest

from pstmo_edge.cameras import denormalise_screen, human36m_cameras, project
from pstmo_edge.datasets import cmu_mocap, load_sequences, one_camera_a_take
from pstmo_edge.datasets.coco_points import coco_from_human36m
from pstmo_edge.errors import DataError, UsageError
from pstmo_edge.skeletons import HUMAN36M


def test_the_bundled_motion_is_whole_and_small():
    assert len(cmu_mocap.takes("train")) == 94
    assert len(cmu_mocap.takes("test")) == 22
    assert sum(len(take.positions) for split in ("train", "test") for take in cmu_mocap.takes(split)) == 40_828
    path = resources.files("pstmo_edge").joinpath("data/cmu_mocap.npz")
    assert len(path.read_bytes()) < 4_000_000


def test_the_acknowledgement_travels_with_it():
    assert "CMU Graphics Lab Motion Capture Database" in cmu_mocap.acknowledgement()
    assert "EIA-0196217" in cmu_mocap.acknowledgement()


def test_people_have_the_bones_of_people():
    for take in cmu_mocap.takes("test"):
        thigh = np.linalg.norm(take.positions[:, 2] - take.positions[:, 1], axis=-1)
        assert 0.35 < thigh.mean() < 0.6
        assert thigh.std() < 0.02
        assert 0.2 < np.median(take.positions[:, 10, 2]) < 2.2  # the head, metres above the floor


def test_packing_keeps_a_tenth_of_a_millimetre(tmp_path):
    rng = np.random.default_rng(0)
    motion = {"train/A 1": rng.normal(0, 2, (1, 17, 3)) + rng.normal(0, 0.02, (50, 17, 3)).cumsum(0)}
    packed = tmp_path / "packed.npz"
    packed.write_bytes(cmu_mocap.pack(motion, {"source": "here"}))
    with np.load(packed) as file:
        walked = file["first"][0] + np.concatenate([np.zeros((1, 17, 3)), file["steps"].transpose(2, 0, 1).cumsum(0)])
    assert np.abs(walked * 1e-4 - motion["train/A 1"]).max() < 0.6e-4


def test_every_take_is_seen_by_four_cameras_of_its_split():
    for split, subjects in cmu_mocap.STAGE_SUBJECTS.items():
        sequences = load_sequences(split=split)
        assert len(sequences) == 4 * len(cmu_mocap.takes(split))
        assert {sequence.subject for sequence in sequences} == set(subjects)
        assert {sequence.camera for sequence in sequences} == {camera.name for camera in human36m_cameras("S1")}
    chosen = one_camera_a_take(load_sequences())
    assert len(chosen) == 22
    assert len({sequence.camera for sequence in chosen}) == 4


def test_exact_keypoints_are_projections_of_the_poses():
    take = cmu_mocap.takes("test")[0]
    for sequence, camera in zip(load_sequences()[:4], human36m_cameras("S9"), strict=True):
        pixels, poses = cmu_mocap.view(take.positions, camera)
        np.testing.assert_allclose(denormalise_screen(sequence.keypoints, camera.image_size), pixels, atol=1e-3)
        np.testing.assert_allclose(sequence.poses, poses, atol=1e-6)
        assert (sequence.poses[:, 0] == 0).all()
        rebuilt = poses + ((take.positions[:, :1] - np.asarray(camera.position)) @ camera.rotation)
        np.testing.assert_allclose(project(rebuilt, camera), pixels, atol=1e-6)


@pytest.mark.parametrize("skeleton", ["human36m-17", "coco-17"])
def test_root_and_intrinsics_give_the_pixels_of_the_poses_back(skeleton):
    for sequence in load_sequences(skeleton=skeleton)[:4]:
        assert (sequence.skeleton, sequence.pose_skeleton) == (skeleton, HUMAN36M.name)
        points = sequence.poses + sequence.root[:, None]
        points = coco_from_human36m(points) if skeleton == "coco-17" else points
        pinhole = points[..., :2] / points[..., 2:] * sequence.intrinsics[:2] + sequence.intrinsics[2:]
        assert np.median(np.abs(pinhole - sequence.keypoints)) < 0.01  # what is left is the lens's distortion
        assert np.abs(pinhole - sequence.keypoints).max() < 0.1
        assert sequence.valid_frames().all()


def test_detected_keypoints_err_like_a_detector():
    exact, found = load_sequences(), load_sequences(keypoints="detected")
    error = np.concatenate(
        [
            np.linalg.norm(b.keypoints - a.keypoints, axis=-1) * a.image_size[0] / 2
            for a, b in zip(exact, found, strict=True)
        ]
    )
    confidence = np.concatenate([sequence.confidence for sequence in found])
    assert 4 < error.mean() < 6  # pixels of about 1000
    assert np.percentile(error, 99) > 3 * np.median(error)  # outliers
    assert error[:, HUMAN36M.joints.index("LWrist")].mean() > 2 * error[:, 0].mean()
    step = np.diff(found[0].keypoints - exact[0].keypoints, axis=0)
    still = found[0].keypoints - exact[0].keypoints
    assert np.median(np.abs(step)) < 0.8 * np.median(np.abs(still))  # correlated in time
    assert np.corrcoef(error.ravel(), confidence.ravel())[0, 1] < -0.5
    assert ((confidence > 0) & (confidence <= 1)).all()


def test_detected_keypoints_are_the_same_every_time():
    first = load_sequences(keypoints="detected")[3].keypoints
    cmu_mocap.load.cache_clear()
    np.testing.assert_array_equal(load_sequences(keypoints="detected")[3].keypoints, first)


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"data": "cmu-mocp"}, UsageError, "cmu-mocap"),
        ({"data": "missing/keypoints.npz"}, DataError, "no such file"),
        ({"split": "tset"}, UsageError, "did you mean 'test'"),
        ({"keypoints": "detectd"}, UsageError, "did you mean 'detected'"),
        ({"skeleton": "coco17"}, UsageError, "did you mean 'coco-17'"),
        ({"skeleton": "mpi-inf-3dhp-17"}, DataError, "world motion holds human36m-17"),
    ],
)
def test_unknown_data_says_what_is_known(arguments, kind, words):
    with pytest.raises(kind, match=words):
        load_sequences(**arguments)
