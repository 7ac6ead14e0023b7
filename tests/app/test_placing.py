"""The root: exact where keypoints are, robust where they are not, and None where nobody can say."""

import numpy as np
import pytest

from pstmo_edge.app.placing import BodyScale, Intrinsics, Placer, World, shared_joints, standing_height
from pstmo_edge.cameras import human36m_cameras, project, world_to_camera
from pstmo_edge.datasets import cmu_mocap
from pstmo_edge.datasets.coco_points import coco_from_human36m
from pstmo_edge.errors import DataError, UsageError
from pstmo_edge.skeletons import COCO, HUMAN36M, get_skeleton

CAMERA = human36m_cameras("S9")[0]


@pytest.fixture(scope="module")
def bodies():
    """Real people seen by a camera with distortion: joints (N, 17, 3) in the camera frame."""
    takes = [take.positions[::40] for take in cmu_mocap.takes("test")]
    return world_to_camera(np.concatenate(takes), CAMERA)


def off(placement, body):
    return np.linalg.norm(placement.root - body[0]) / np.linalg.norm(body[0])


def test_exact_keypoints_give_the_exact_place_through_distortion(bodies):
    placer = Placer(Intrinsics.of(CAMERA))
    for body in bodies:
        placed = placer.place(body - body[0], project(body, CAMERA))
        assert off(placed, body) < 1e-6
        assert placed.residual_px < 1e-3


def test_opencv_s_distortion_is_undone():
    k1, k2, p1, p2, k3 = distortion = (-0.2, 0.1, 0.002, -0.003, -0.01)
    rng = np.random.default_rng(0)
    x, y = plane = rng.uniform(-0.5, 0.5, (2, 100))
    r2 = x**2 + y**2
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3  # as OpenCV's documentation of calib3d has it
    seen = np.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2),
            y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y,
        ]
    )
    pixels = (seen * [[900.0], [910.0]] + [[640.0], [360.0]]).T
    found = Intrinsics.opencv((900.0, 910.0), (640.0, 360.0), distortion).undistorted(pixels)
    np.testing.assert_allclose(found, plane.T, atol=1e-6)


def test_wrong_joints_do_not_pull_a_person_away(bodies):
    placer, rng = Placer(Intrinsics.of(CAMERA)), np.random.default_rng(1)
    errors = []
    for body in bodies:
        pixels = project(body, CAMERA)
        pixels[rng.choice(17, 4, replace=False)] += rng.choice([-1, 1], (4, 2)) * 150.0  # more than bodies measure
        errors.append(off(placer.place(body - body[0], pixels), body))
    assert max(errors) < 1e-6


def test_missing_joints_are_not_used(bodies):
    body = bodies[0]
    keypoints = np.concatenate([project(body, CAMERA), np.ones((17, 1))], axis=1)
    keypoints[3] = (0, 0, 0)
    keypoints[5] = (np.nan, np.nan, 0.9)
    keypoints[6] = (5000, -5000, 0.29)
    assert off(Placer(Intrinsics.of(CAMERA)).place(body - body[0], keypoints), body) < 1e-6


def test_who_cannot_be_placed_is_not(bodies):
    placer, body = Placer(Intrinsics.of(CAMERA)), bodies[0]
    pose, pixels = body - body[0], project(body, CAMERA)
    few = np.concatenate([pixels, (np.arange(17) < 5)[:, None]], axis=1)
    assert placer.place(pose, few) is None
    assert placer.place(pose, 500 + (pixels - 500) * 0.002) is None  # of a pixel
    assert placer.place(pose, 2 * pixels.mean(0) - pixels) is None  # on the head: only from behind the camera
    assert placer.place(pose * np.nan, pixels) is None
    other = np.random.default_rng(0).uniform(300, 700, (17, 2))
    assert placer.place(pose, other) is None  # nobody's
    with pytest.raises(DataError, match=r"\(K, 2\) or \(K, 3\)"):
        placer.place(pose, pixels[:, :1])


def test_the_distance_is_as_wrong_as_an_assumed_focal_length(bodies):
    for body in bodies[:20]:
        pixels = project(body, CAMERA)
        assumed = Placer(Intrinsics.assumed(CAMERA.image_size)).place(body - body[0], pixels)
        wrong = max(CAMERA.image_size) / np.mean(CAMERA.focal)
        assert assumed.root[2] / body[0, 2] == pytest.approx(wrong, rel=0.03)
    assert not Intrinsics.assumed((640, 480)).known
    assert Intrinsics.assumed((480, 640)).focal == (640, 640)


def test_coco_keypoints_place_a_pose_of_other_joints(bodies):
    placer = Placer(Intrinsics.of(CAMERA), keypoint_skeleton=COCO.name)
    for body in bodies[:20]:
        assert off(placer.place(body - body[0], project(coco_from_human36m(body), CAMERA)), body) < 0.005


def test_joint_sets_share_limbs_by_name():
    seen, lifted = shared_joints(COCO, HUMAN36M)
    names = {(COCO.joints[one], HUMAN36M.joints[other]) for one, other in zip(seen, lifted, strict=True)}
    assert len(names) == 12
    assert ("LAnkle", "LFoot") in names
    assert ("RWrist", "RWrist") in names
    seen, lifted = shared_joints(get_skeleton("mpi-inf-3dhp-17"), HUMAN36M)
    assert len(seen) == 13  # the pelvis too
    assert "Head" not in {HUMAN36M.joints[joint] for joint in lifted}


def test_a_known_height_gives_size_and_distance(bodies):
    body = bodies[0]
    tall = standing_height(body)
    scale = BodyScale(tall).update((body - body[0]) * 0.8)
    assert scale == pytest.approx(1.25)
    assert off(Placer(Intrinsics.of(CAMERA)).place((body - body[0]) * 0.8, project(body, CAMERA), scale), body) < 1e-6


def test_the_size_of_a_body_is_its_median():
    scale, pose = BodyScale(1.8), np.random.default_rng(0).normal(0, 0.3, (17, 3))
    sizes = [scale.update(pose * factor) for factor in (1, 1, 1, 5, 1)]
    assert np.ptp(sizes) < 1e-9
    assert BodyScale(1.8).update(pose * np.nan) == 1.0
    for height in (0.3, 3.0, np.nan):
        with pytest.raises(UsageError, match="give metres"):
            BodyScale(height)


def test_standing_height_is_near_the_upright_body_s():
    """Of walkers in the test split: from floor to crown, ankles being 0.039 of it above the floor."""
    ratios = []
    for take in cmu_mocap.takes("test"):
        if take.action.startswith("Walking"):
            body = take.positions[::10]
            upright = (body[:, 10, 2] - np.minimum(body[:, 3, 2], body[:, 6, 2])) / (1 - 0.039)
            ratios += [tall / standing_height(pose) for tall, pose in zip(upright, body, strict=True)]
    assert np.median(ratios) == pytest.approx(1, abs=0.02)


def test_a_level_camera_s_world():
    world = World(camera_height=1.5)
    np.testing.assert_allclose(world.position(np.array([1.0, 1.5, 4.0])), [1, 4, 0], atol=1e-12)  # on the floor
    np.testing.assert_allclose(world.turned(np.array([[0.0, -1.0, 0.0]])), [[0, 0, 1]], atol=1e-12)


@pytest.mark.parametrize(("pitch", "roll"), [(0, 0), (20, 0), (-15, 5), (0, 90), (70, -30), (90, 0), (-90, 0)])
def test_any_tilt_gives_a_frame_with_gravity_down(pitch, roll):
    world = World.tilted(pitch, roll, 2.0)
    turn = world.rotation
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)
    np.testing.assert_allclose(turn @ world.down, [0, 0, -1], atol=1e-12)
    if abs(pitch) < 90:
        assert (turn @ [0, 0, 1])[2] == pytest.approx(-np.sin(np.radians(pitch)))  # where it looks


def test_real_cameras_are_turned_as_their_calibration_says(bodies):
    """Gravity from a camera's own orientation: heights over the floor come out as in the motion itself."""
    down = CAMERA.rotation.T @ [0, 0, -1]
    world = World(tuple(down), camera_height=CAMERA.position[2])
    heights = world.position(bodies)[..., 2]
    true = bodies @ CAMERA.rotation.T + np.asarray(CAMERA.position)
    np.testing.assert_allclose(heights, true[..., 2], atol=1e-9)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Intrinsics((0.0, 900.0), (1.0, 1.0)), "no camera has"),
        (lambda: Intrinsics((900.0, np.nan), (1.0, 1.0)), "no camera has"),
        (lambda: Intrinsics.opencv((9.0, 9.0), (1.0, 1.0), (0.1,) * 8), "8 coefficients"),
        (lambda: World((0.0, 0.0, 0.0)), "give a direction"),
        (lambda: Placer(Intrinsics.assumed((9, 9)), keypoint_skeleton="coco-16"), "coco-17"),
    ],
)
def test_what_is_no_camera_is_refused(make, says):
    with pytest.raises(UsageError, match=says):
        make()
