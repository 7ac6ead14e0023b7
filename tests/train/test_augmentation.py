import numpy as np
import pytest

from pstmo_edge.cameras import human36m_cameras, normalise_screen, project
from pstmo_edge.skeletons import HUMAN36M
from pstmo_edge.train.augmentation import MotionWindows, other_bodies, rotation_vectors, turned
from pstmo_edge.train.recipes import Augmentation
from pstmo_edge.windows import WindowSpec

NONE = Augmentation(mirror=0, turned=0, shift=0, camera_tilt=0, camera_shift=0, focal=0, bodies=0, detector=0)


def bone_lengths(points):
    return np.stack([np.linalg.norm(points[..., j, :] - points[..., p, :], axis=-1) for j, p in HUMAN36M.bones], -1)


def test_without_augmentation_a_window_is_what_a_real_camera_sees():
    windows = MotionWindows(WindowSpec(9, 2), NONE)
    frames = np.array([50, 5000, 20000])
    keypoints, poses = windows.sample(frames, np.random.default_rng(0))
    world = windows.source.gather(frames).astype(np.float64)
    for number in range(3):
        errors = []
        for subject in ("S1", "S5", "S6", "S7", "S8"):
            for camera in human36m_cameras(subject):
                seen = (world[number] - np.asarray(camera.position)) @ camera.rotation
                expected = normalise_screen(project(seen, camera), camera.image_size)
                pose = np.abs(seen - seen[:, :1] - poses[number]).max()
                errors.append(max(np.abs(expected - keypoints[number]).max(), pose))
        assert min(errors) < 1e-4


def test_windows_depend_on_nothing_but_the_generator():
    windows = MotionWindows(WindowSpec(27, 2), Augmentation())
    first = windows.sample(np.arange(32), np.random.default_rng([1, 2, 3]))
    again = windows.sample(np.arange(32), np.random.default_rng([1, 2, 3]))
    other = windows.sample(np.arange(32), np.random.default_rng([1, 2, 4]))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert all(np.isfinite(array).all() and array.dtype == np.float32 for array in first)


def test_mirrored_windows_keep_right_on_the_right():
    """The walker's left ankle is on the left of the pelvis as the camera sees it, mirrored or not."""
    plain = MotionWindows(WindowSpec(9, 1), NONE).sample(np.arange(400, 600), np.random.default_rng(0))
    windows = MotionWindows(WindowSpec(9, 1), Augmentation(**{**vars(NONE), "mirror": 1.0}))
    flipped = windows.sample(np.arange(400, 600), np.random.default_rng(0))
    np.testing.assert_allclose(flipped[1][:, :, 4, 0], -plain[1][:, :, 1, 0], atol=1e-6)
    np.testing.assert_allclose(flipped[0][:, :, 4, 1], plain[0][:, :, 1, 1], atol=1e-6)


def test_other_bodies_are_symmetric_and_rigid():
    world = MotionWindows(WindowSpec(9, 1), NONE).source.gather(np.array([100, 9000])).astype(np.float64)
    changed = other_bodies(world, Augmentation(bodies=1.0), np.random.default_rng(0))
    ratio = bone_lengths(changed) / bone_lengths(world)
    assert np.ptp(ratio, axis=1).max() < 1e-9  # the same in every frame
    assert (np.abs(ratio - 1) > 0.005).mean() > 0.5
    joints = [joint for joint, _ in HUMAN36M.bones]
    for left, right in zip(HUMAN36M.left, HUMAN36M.right, strict=True):
        np.testing.assert_allclose(ratio[..., joints.index(left)], ratio[..., joints.index(right)])


def test_turning_keeps_heights_and_distances():
    world = np.random.default_rng(0).normal(size=(4, 5, 17, 3))
    moved = turned(world, Augmentation(turned=1.0, shift=0.0), np.random.default_rng(1))
    np.testing.assert_allclose(moved[..., 2], world[..., 2])
    np.testing.assert_allclose(bone_lengths(moved), bone_lengths(world))
    assert np.abs(moved - world).max() > 0.1


def test_small_rotations_turn_by_their_length():
    (matrix,) = rotation_vectors(np.array([[0.0, 0.0, 0.02]]))
    assert np.arctan2(matrix[1, 0], matrix[0, 0]) == pytest.approx(0.02, rel=1e-3)
