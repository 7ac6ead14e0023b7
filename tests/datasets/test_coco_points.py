import numpy as np

from pstmo_edge.cameras import quaternion_matrix
from pstmo_edge.datasets import cmu_mocap, load_sequences
from pstmo_edge.datasets.coco_points import coco_from_human36m
from pstmo_edge.skeletons import COCO, HUMAN36M

BODY = np.concatenate([take.positions[::50] for take in cmu_mocap.takes("test")])
POINTS = coco_from_human36m(BODY)


def point(name, points=POINTS):
    return points[..., COCO.joints.index(name), :]


def test_shared_joints_are_the_same():
    for theirs, ours in (("LAnkle", "LFoot"), ("RHip", "RHip"), ("LWrist", "LWrist"), ("RShoulder", "RShoulder")):
        np.testing.assert_array_equal(point(theirs), BODY[:, HUMAN36M.joints.index(ours)])


def test_faces_have_human_sizes_and_sides():
    assert 0.05 < np.linalg.norm(point("LEye") - point("REye"), axis=-1).mean() < 0.08
    assert 0.12 < np.linalg.norm(point("LEar") - point("REar"), axis=-1).mean() < 0.18
    across = point("LShoulder") - point("RShoulder")
    for side in ("Eye", "Ear"):
        assert (((point("L" + side) - point("R" + side)) * across).sum(-1) > 0).all()
    thorax = BODY[:, HUMAN36M.joints.index("Thorax")]
    assert 0.1 < np.linalg.norm(point("Nose") - thorax, axis=-1).mean() < 0.25


def test_the_nose_leads_when_people_walk():
    (walk,) = (take.positions for take in cmu_mocap.takes("test") if take.action == "Walking 1001")
    forward = walk[10:, 0] - walk[:-10, 0]
    points = coco_from_human36m(walk)[5:-5]
    ears = (point("LEar", points) + point("REar", points)) / 2
    assert (((point("Nose", points) - ears) * forward).sum(-1) > 0).mean() > 0.9


def test_turning_the_body_turns_the_points():
    turn = quaternion_matrix(np.array([0.3, -0.5, 0.7, 0.2]))
    np.testing.assert_allclose(coco_from_human36m(BODY @ turn + 2), POINTS @ turn + 2, atol=1e-9)


def test_a_body_in_one_point_has_a_face_there():
    assert np.array_equal(coco_from_human36m(np.ones((2, 17, 3))), np.ones((2, 17, 3)))


def test_sequences_come_with_coco_keypoints():
    plain, coco = load_sequences()[0], load_sequences(skeleton="coco-17")[0]
    assert (coco.skeleton, coco.pose_skeleton) == ("coco-17", "human36m-17")
    np.testing.assert_allclose(coco.keypoints[:, 15], plain.keypoints[:, 6], atol=1e-6)
    np.testing.assert_array_equal(coco.poses, plain.poses)
    noisy = load_sequences(keypoints="detected", skeleton="coco-17")[0]
    assert 0.001 < np.abs(noisy.keypoints - coco.keypoints).mean() < 0.02
