"""What is told besides a stream's answer: doubt where it was fitted, size, place and smoothness."""

import numpy as np
import pytest
from native_build import native_bundle

import pstmo_edge as pe
from pstmo_edge.app.people import People
from pstmo_edge.app.placing import Intrinsics, World
from pstmo_edge.app.refining import PoseRefiner, RefineSettings
from pstmo_edge.app.types import Detections, Frame
from pstmo_edge.cameras import denormalise_screen
from pstmo_edge.streaming import StreamSettings

SIZE, FPS = (1000, 1002), 50.0


@pytest.fixture(scope="module")
def lifted():
    """People over a tiny engine after 40 frames of real motion, and all poses, unrefined."""
    sequence = min(pe.load_sequences("cmu-mocap", "test"), key=len)
    pixels = denormalise_screen(sequence.keypoints[:40], SIZE)
    people = People(pe.load_engine(native_bundle("tiny"), threads=1), StreamSettings(SIZE, FPS, 0))
    poses = []
    for index, frame in enumerate(pixels):
        keypoints = np.concatenate([frame, np.full((17, 1), 0.9)], axis=-1)
        poses += people.update(Frame(index, index / FPS, SIZE), Detections(keypoints[None], "human36m-17")).poses
    # Random weights give no body: stand-ins of a real one, with the keypoints of its own frame.
    truth = sequence.true_poses()
    from dataclasses import replace

    return people, [replace(pose, pose=truth[pose.result.frame].astype(np.float32)) for pose in poses]


def test_weights_without_a_fitted_doubt_have_none(lifted):
    people, poses = lifted
    refined = PoseRefiner(people).refine(poses)
    assert len(refined) == len(poses) == 40
    assert all(pose.doubt_mm is None and not pose.doubtful for pose in refined)


def test_the_root_is_where_the_keypoints_say_and_the_guess_says_less(lifted):
    people, poses = lifted
    lens = Intrinsics((1145.0, 1144.0), (512.5, 515.5))
    placed = PoseRefiner(people, RefineSettings(lens)).refine(poses)
    guessed = PoseRefiner(people).refine(poses)
    for pose, other in zip(placed, guessed, strict=True):
        points = pose.pose + pose.root
        pixels = points[:, :2] / points[:, 2:] * lens.focal + lens.centre
        assert np.median(np.linalg.norm(pixels - pose.keypoints[:, :2], axis=-1)) < 12  # of 1000; lens distortion
        assert pose.root[2] / other.root[2] == pytest.approx(1.145 / 1.002, rel=0.05)


def test_a_known_height_scales_pose_and_distance_alike(lifted):
    people, poses = lifted
    plain = PoseRefiner(people).refine(poses)
    tall = PoseRefiner(people, RefineSettings(height=2.2)).refine(poses)
    for pose, other in zip(plain, tall, strict=True):
        scale = np.linalg.norm(other.pose) / np.linalg.norm(pose.pose)
        assert 1.15 < scale < 1.6
        assert other.root[2] / pose.root[2] == pytest.approx(scale, rel=0.02)


def test_a_world_frame_has_z_up_and_its_origin_on_the_floor(lifted):
    people, poses = lifted
    world = World.tilted(0.0, camera_height=1.5)
    plain = PoseRefiner(people).refine(poses)
    turned = PoseRefiner(people, RefineSettings(world=world)).refine(poses)
    for pose, other in zip(plain, turned, strict=True):
        np.testing.assert_allclose(other.pose, pose.pose[:, [0, 2, 1]] * [1, 1, -1], atol=1e-5)
        np.testing.assert_allclose(other.root, pose.root[[0, 2, 1]] * [1, 1, -1] + [0, 0, 1.5], atol=1e-5)


def test_smooth_poses_tremble_less_and_each_person_has_filters_of_its_own(lifted):
    people, poses = lifted
    from dataclasses import replace

    rng = np.random.default_rng(0)
    noisy = [replace(pose, pose=pose.pose + rng.normal(0, 0.02, (17, 3)).astype(np.float32)) for pose in poses]
    refiner = PoseRefiner(people, RefineSettings(smooth=True))
    smooth = refiner.refine(noisy)

    def jitter(found):
        return np.abs(np.diff([pose.pose for pose in found], 2, axis=0)).mean()

    assert jitter(smooth) < 0.5 * jitter(noisy)
    both = PoseRefiner(people, RefineSettings(smooth=True))
    mixed = [each for pose in noisy for each in (pose, replace(pose, person=5, pose=-pose.pose))]
    again = [pose for pose in both.refine(mixed) if pose.person == 0]
    for pose, other in zip(smooth, again, strict=True):
        np.testing.assert_array_equal(pose.pose, other.pose)


def test_who_left_is_forgotten(lifted):
    people, poses = lifted
    refiner = PoseRefiner(people, RefineSettings(smooth=True))
    first = refiner.refine(poses[:3])
    refiner.refine(poses[3:])
    refiner.forget(0)
    refiner.forget(7)
    for pose, other in zip(first, refiner.refine(poses[:3]), strict=True):
        np.testing.assert_array_equal(pose.pose, other.pose)
