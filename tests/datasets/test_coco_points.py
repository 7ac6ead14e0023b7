import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pstmo_edge.cameras import quaternion_matrix
from pstmo_edge.datasets import cmu_mocap, load_sequences
from pstmo_edge.datasets.coco_points import FACE, coco_from_human36m
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


def test_the_face_is_as_high_as_faces_are():
    """Above the shoulder joints: ears 0.21 m, as grown people's are; eyes above them, nose tip below the eyes."""
    rest = cmu_mocap.takes("test")[1].positions
    points = coco_from_human36m(rest)
    shoulders = (point("LShoulder", points) + point("RShoulder", points)) / 2
    height = {name: np.median((point(name, points) - shoulders)[:, 2]) for name in ("Nose", "LEye", "LEar")}
    assert 0.17 < height["LEar"] < 0.25
    assert height["LEye"] > height["Nose"]
    assert 0.10 < np.linalg.norm(point("Nose") - (point("LEar") + point("REar")) / 2, axis=-1).mean() < 0.15


def test_the_head_nods_and_tilts_with_the_bone_from_the_neck():
    """Joints on axes: left is x, forward is -y, up is z; then the head bone leans forward by 90 degrees."""
    body = np.zeros((2, 17, 3))
    at = HUMAN36M.joints.index
    body[:, at("LShoulder"), 0], body[:, at("RShoulder"), 0] = 0.2, -0.2
    body[:, at("Neck/Nose")] = [0, 0, 0.17]
    body[0, at("Head")], body[1, at("Head")] = [0, 0, 0.26], [0, -0.09, 0.17]
    points = coco_from_human36m(body) - body[:, None, at("Head")]
    np.testing.assert_allclose(point("LEar", points), [[0.285 * 0.26, 0, 0]] * 2, atol=1e-9)
    nose = point("Nose", points)
    np.testing.assert_allclose(nose[0], [0, -0.46 * 0.26, -0.07 * 0.26], atol=1e-9)
    np.testing.assert_allclose(nose[1], [0, 0.07 * 0.26, -0.46 * 0.26], atol=1e-9)  # the face looks at the floor


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


@given(
    joints=arrays(np.float32, (3, 17, 3), elements=st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e-12, 1e4])),
)
def test_no_body_makes_anything_but_numbers(joints):
    points = coco_from_human36m(joints)
    assert points.dtype == np.float32
    assert np.isfinite(points).all()


def test_faces_keep_the_shape_of_batches():
    batch = BODY[:6].reshape(2, 3, 17, 3)
    np.testing.assert_array_equal(coco_from_human36m(batch), POINTS[:6].reshape(2, 3, 17, 3))


def test_every_window_may_have_its_own_face():
    batch = BODY[:6].reshape(2, 3, 17, 3)
    faces = np.stack([FACE, FACE * [1, 1, 1.5]])[:, None]  # the second face is deeper
    points = coco_from_human36m(batch, faces)
    np.testing.assert_array_equal(points[0], POINTS[:3])
    head = batch[1, :, None, HUMAN36M.joints.index("Head")]
    np.testing.assert_array_equal(points[1, :, 3:], POINTS[3:6, 3:])  # ears are at depth 0, the body is the body
    longer = np.linalg.norm(points[1, :, :1] - head, axis=-1) / np.linalg.norm(POINTS[3:6, :1] - head, axis=-1)
    np.testing.assert_allclose(longer, np.hypot(0.46 * 1.5, 0.07) / np.hypot(0.46, 0.07))


def test_sequences_come_with_coco_keypoints():
    plain, coco = load_sequences()[0], load_sequences(skeleton="coco-17")[0]
    assert (coco.skeleton, coco.pose_skeleton) == ("coco-17", "human36m-17")
    np.testing.assert_allclose(coco.keypoints[:, 15], plain.keypoints[:, 6], atol=1e-6)
    np.testing.assert_array_equal(coco.poses, plain.poses)
    noisy = load_sequences(keypoints="detected", skeleton="coco-17")[0]
    assert 0.001 < np.abs(noisy.keypoints - coco.keypoints).mean() < 0.02
