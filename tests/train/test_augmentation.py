import dataclasses

import numpy as np
import pytest

from pstmo_edge.cameras import human36m_cameras, normalise_screen, project
from pstmo_edge.datasets import cmu_mocap
from pstmo_edge.datasets.coco_points import coco_from_human36m
from pstmo_edge.skeletons import HUMAN36M
from pstmo_edge.train.augmentation import MotionWindows, other_bodies, rotation_vectors, turned
from pstmo_edge.train.recipes import Augmentation
from pstmo_edge.windows import WindowSpec, window_indices

NONE = Augmentation(mirror=0, turned=0, shift=0, camera_tilt=0, camera_shift=0, focal=0, bodies=0, detector=0)


def make(settings, frames=9, step=1, skeleton="human36m-17"):
    return MotionWindows(cmu_mocap.takes("train"), WindowSpec(frames, step), settings, skeleton)


def windows_of(windows, frames):
    return windows._played(np.asarray(frames), np.random.default_rng(0))


def bone_lengths(points):
    return np.stack([np.linalg.norm(points[..., j, :] - points[..., p, :], axis=-1) for j, p in HUMAN36M.bones], -1)


def test_without_augmentation_a_window_is_what_a_real_camera_sees():
    windows = make(NONE, 9, 2)
    frames = np.array([50, 5000, 20000])
    batch = windows.sample(frames, np.random.default_rng(0))
    keypoints, poses = batch.keypoints, batch.poses
    world = windows_of(windows, frames)
    for number in range(3):
        errors = []
        for subject in ("S1", "S5", "S6", "S7", "S8"):
            for camera in human36m_cameras(subject):
                seen = (world[number] - np.asarray(camera.position)) @ camera.rotation
                expected = normalise_screen(project(seen, camera), camera.image_size)
                pose = np.abs(seen - seen[:, :1] - poses[number]).max()
                error = max(np.abs(expected - keypoints[number]).max(), pose)
                errors.append(error)
                if error < 1e-4:
                    assert batch.depth[number] == pytest.approx(seen[4, 0, 2], rel=1e-5)
                    width = camera.image_size[0]
                    centre = normalise_screen(np.array(camera.centre), camera.image_size)
                    focal = np.array(camera.focal) / width * 2
                    np.testing.assert_allclose(batch.intrinsics[number], [*focal, *centre], rtol=1e-5)
        assert min(errors) < 1e-4


EVERYTHING = Augmentation(free_camera=0.5, speed=0.2, missing=0.5, detector=0.7)


@pytest.mark.parametrize(("settings", "skeleton"), [(Augmentation(), "human36m-17"), (EVERYTHING, "coco-17")])
def test_windows_depend_on_nothing_but_the_generator(settings, skeleton):
    windows = make(settings, 27, 2, skeleton)
    first = windows.sample(np.arange(32), np.random.default_rng([1, 2, 3]))
    again = windows.sample(np.arange(32), np.random.default_rng([1, 2, 3]))
    other = windows.sample(np.arange(32), np.random.default_rng([1, 2, 4]))
    first, again, other = (list(vars(batch).values()) for batch in (first, again, other))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert all(np.isfinite(array).all() and array.dtype == np.float32 for array in first)
    assert np.percentile(np.abs(first[0]), 99) < 3  # nobody is far outside the picture


def test_mirrored_windows_keep_right_on_the_right():
    """The walker's left ankle is on the left of the pelvis as the camera sees it, mirrored or not."""
    plain = make(NONE).sample(np.arange(400, 600), np.random.default_rng(0))
    windows = make(dataclasses.replace(NONE, mirror=1.0))
    flipped = windows.sample(np.arange(400, 600), np.random.default_rng(0))
    np.testing.assert_allclose(flipped.poses[:, :, 4, 0], -plain.poses[:, :, 1, 0], atol=1e-6)
    np.testing.assert_allclose(flipped.keypoints[:, :, 4, 1], plain.keypoints[:, :, 1, 1], atol=1e-6)


def test_other_bodies_are_symmetric_and_rigid():
    world = windows_of(make(NONE), [100, 9000])
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


def test_speed_changes_how_far_apart_the_frames_are():
    """At twice the speed the window holds every second frame; in between, positions are interpolated."""
    windows = make(dataclasses.replace(NONE, speed=1e-9))
    np.testing.assert_allclose(windows_of(windows, [300]), windows_of(make(NONE), [300]), atol=1e-6)
    rng = np.random.default_rng(0)
    windows = make(dataclasses.replace(NONE, speed=0.5))
    played = windows._played(np.full(50, 300), rng)
    speeds = np.exp(np.random.default_rng(0).normal(0, 0.5, (50, 1)))[:, 0]
    take = cmu_mocap.takes("train")[0].positions
    for number in np.flatnonzero(speeds < 1)[:5]:
        moments = 300 + (np.arange(9) - 4) * speeds[number]
        expected = np.interp(moments, np.arange(len(take)), take[:, 16, 0])
        np.testing.assert_allclose(played[number, :, 16, 0], expected, atol=1e-9)


def test_free_cameras_see_the_person_upright_before_them():
    settings = dataclasses.replace(NONE, free_camera=1.0)
    batch = make(settings, 27, 2).sample(np.arange(0, 20000, 100), np.random.default_rng(0))
    up = batch.poses[:, 13, 0, 1] - batch.poses[:, 13, 10, 1]  # y points down: the head is above the hip
    assert (up > 0).mean() > 0.9
    assert (batch.depth > 0.5).all()
    middle = batch.keypoints[:, 13].mean(1)
    assert np.abs(np.median(middle, axis=0)).max() < 0.1
    assert (np.abs(middle) < 1).mean() > 0.95
    assert np.ptp(batch.intrinsics[:, 0]) > 2


def test_lost_joints_stay_where_they_were():
    settings = dataclasses.replace(NONE, missing=1.0)
    frames = np.arange(1000, 1040)
    plain = make(NONE, 27, 2).sample(frames, np.random.default_rng(0)).keypoints
    lossy = make(settings, 27, 2).sample(frames, np.random.default_rng(0)).keypoints
    changed = (lossy != plain).any(-1)  # [B, T, J]
    assert 0.01 < changed.mean() < 0.15
    for window, frame, joint in np.argwhere(changed[:, 1:]):
        np.testing.assert_array_equal(lossy[window, frame + 1, joint], lossy[window, frame, joint])


def test_coco_keypoints_are_those_of_the_same_body():
    frames = np.array([500, 7000])
    coco = make(NONE, skeleton="coco-17").sample(frames, np.random.default_rng(3))
    plain = make(NONE).sample(frames, np.random.default_rng(3))
    np.testing.assert_array_equal(coco.poses, plain.poses)
    np.testing.assert_allclose(coco.keypoints[:, :, 15], plain.keypoints[:, :, 6], atol=1e-6)  # the left ankle
    np.testing.assert_allclose(coco.keypoints[:, :, 10], plain.keypoints[:, :, 16], atol=1e-6)  # the right wrist
    assert coco_from_human36m(plain.poses).shape == plain.poses.shape


def test_windows_at_a_takes_end_repeat_its_edge():
    take = cmu_mocap.takes("train")[0].positions
    expected = take[window_indices(len(take), np.array([len(take) - 1]), WindowSpec(9, 1))]
    np.testing.assert_array_equal(windows_of(make(NONE), [len(take) - 1]), expected)
