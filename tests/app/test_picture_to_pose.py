"""From a picture to a 3D pose without any download: rendered motion and a photograph through mediapipe and a lifter.

mediapipe needs NumPy 1: `make mediapipe` runs this file in an environment of its own, see mediapipe_environment.sh.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from app import figures

from pstmo_edge.app.detectors import open_detector
from pstmo_edge.app.types import Frame
from pstmo_edge.datasets import load_sequences
from pstmo_edge.engine import load_engine
from pstmo_edge.errors import BackendError
from pstmo_edge.mappings import mapping
from pstmo_edge.metrics import mpjpe, p_mpjpe
from pstmo_edge.skeletons import BLAZEPOSE, COCO, HUMAN36M

pytest.importorskip("mediapipe.python", reason="mediapipe is not installed here: make mediapipe")
pytestmark = [pytest.mark.mediapipe, pytest.mark.filterwarnings("default::ResourceWarning")]

SIZE = (640, 480)
# Joints that both sets have, by side, as (COCO, Human3.6M).
SIDES = {
    side: [
        (COCO.joints.index(f"{side}{coco}"), HUMAN36M.joints.index(f"{side}{ours}"))
        for coco, ours in (("Shoulder", "Shoulder"), ("Elbow", "Elbow"), ("Hip", "Hip"), ("Knee", "Knee"))
    ]
    for side in "LR"
}


@pytest.fixture(scope="module")
def material():
    return Path(os.environ["PSTMO_EDGE_TEST_MATERIAL"])


@pytest.fixture(scope="module")
def to_coco():
    return mapping(BLAZEPOSE.name, COCO.name)


@pytest.fixture(scope="module")
def moments():
    """{"facing": ..., "away": ...}: joints of the test takes' people who most face the camera, and least."""
    found = {"facing": [], "away": []}
    for action in ("Walking 1001", "Washwindow 1001", "Jumping 1001", "Dance 12", "Running 1001"):
        views = [figures.joints_of(sequence) for sequence in load_sequences() if sequence.action == action]
        joints = np.concatenate(views)
        towards = np.array([-figures.facing(each)[2] for each in joints])
        for name, index in (("facing", towards.argmax()), ("away", towards.argmin())):
            assert abs(towards[index]) > 0.9
            found[name].append(joints[index] - joints[index].mean(0) + [0, 0, 3.2])
    return found


def still(picture):
    return Frame(0, 0.0, (picture.shape[1], picture.shape[0]), picture)


def detect(picture):
    detector = open_detector("mediapipe", pictures=True)
    try:
        return detector.detect(still(picture))
    finally:
        detector.close()


def swapped(found, true):
    """(how many, of how many) paired joints lie nearer to the other side's true place, of those 30 pixels apart."""
    wrong = total = 0
    for (left, own_left), (right, own_right) in zip(SIDES["L"], SIDES["R"], strict=True):
        if np.linalg.norm(true[own_left] - true[own_right]) < 30:
            continue
        for joint, own, other in ((left, own_left, own_right), (right, own_right, own_left)):
            total += 1
            wrong += np.linalg.norm(found[joint] - true[own]) > np.linalg.norm(found[joint] - true[other])
    return wrong, total


@pytest.mark.parametrize("way", ["facing", "away"])
def test_left_is_left_facing_and_turned_away(moments, to_coco, way):
    wrong = total = 0
    for joints in moments[way]:
        found = to_coco(detect(figures.picture([joints], figures.FOCAL * SIZE[0], SIZE)).keypoints)
        assert len(found) == 1
        true = figures.pixels_of(joints, SIZE)
        left, right = COCO.joints.index("LShoulder"), COCO.joints.index("RShoulder")
        assert (found[0, left, 0] > found[0, right, 0]) == (way == "facing"), "left is to the right of who faces us"
        here = swapped(found[0, :, :2], true)
        wrong, total = wrong + here[0], total + here[1]
    assert total >= 20
    assert wrong == 0, f"{wrong} of {total} joints are nearer to the other side"


def test_a_mirrored_picture_is_told_apart(moments, to_coco):
    """The check above can fail: who is mirrored has left and right swapped."""
    joints = moments["facing"][0] * [-1, 1, 1]
    found = to_coco(detect(figures.picture([moments["facing"][0]], figures.FOCAL * SIZE[0], SIZE)[:, ::-1]).keypoints)
    wrong, total = swapped(found[0, :, :2], figures.pixels_of(joints, SIZE))
    assert wrong == total > 0


def test_a_rendered_video_becomes_poses(material, to_coco, tmp_path, capsys):
    """Seconds of real motion, filmed, found and lifted; the error is against the motion that was filmed."""
    import av

    take = next(sequence for sequence in load_sequences() if sequence.action == "Washwindow 1001")
    joints = figures.joints_of(take)[:75]
    path = figures.film(tmp_path / "motion.mp4", joints, SIZE)
    detector = open_detector("mediapipe")
    stream = load_engine(material / "engine-coco", threads=1).stream(SIZE, fps=30, lookahead=13, skeleton=COCO.name)
    results = []
    with av.open(str(path)) as video:
        for index, shown in enumerate(video.decode(video=0)):
            found = detector.detect(Frame(index, shown.time, SIZE, shown.to_ndarray(format="rgb24")))
            assert len(found.keypoints) == 1
            results += [stream.push(to_coco(found.keypoints)[0], shown.time), *iter(stream.read, None)]
    poses = [each for each in [*results, *stream.finish()] if each is not None]
    detector.close()
    assert len(poses) == stream.counters.delivered == 75 - stream.counters.dropped_by_rate >= 60  # 25 a second
    true = (joints - joints[:, :1])[[each.frame for each in poses]]
    found = np.array([each.pose for each in poses])
    error, aligned = mpjpe(found, true).mean(), p_mpjpe(found, true).mean()
    with capsys.disabled():
        print(
            f"\nrendered motion through mediapipe: MPJPE {error:.0f} mm, P-MPJPE {aligned:.0f} mm, {len(poses)} poses"
        )
    # A crude figure and a detector trained on people: exact keypoints have 84 and 53 mm here, swapped sides over 250.
    assert error < 170
    assert aligned < 100
    assert mpjpe(found[:, HUMAN36M.mirror], true).mean() > 250


def photograph():
    """Rear Admiral Grace Hopper, official portrait of the US Navy (public domain), which matplotlib ships."""
    matplotlib = pytest.importorskip("matplotlib")
    pillow = pytest.importorskip("PIL.Image")
    with pillow.open(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")) as image:
        return np.asarray(image.convert("RGB"))


def test_a_photograph_becomes_a_pose_that_says_what_it_did_not_see(material, to_coco):
    """She faces the camera, her legs are outside the picture: left is left, and the pose is flagged degraded."""
    picture = photograph()
    found = to_coco(detect(picture).keypoints)[0]
    at = {name: found[index] for index, name in enumerate(COCO.joints)}
    for name in ("Shoulder", "Eye", "Ear"):
        assert at[f"L{name}"][0] > at[f"R{name}"][0] + 40
        assert min(at[f"L{name}"][2], at[f"R{name}"][2]) > 0.9
    assert at["Nose"][1] < at["LShoulder"][1]
    for name in ("LHip", "RHip", "LKnee", "RKnee", "LAnkle", "RAnkle"):
        assert at[name][2] < 0.3, "what lies outside the picture was not found"
    stream = load_engine(material / "engine-coco", threads=1).stream(
        (picture.shape[1], picture.shape[0]), fps=30, skeleton=COCO.name
    )
    result = [stream.push(found, index / 30) for index in range(30)][-1]
    assert result.degraded
    assert result.missing[[COCO.joints.index(name) for name in ("LKnee", "RAnkle")]].all()
    pose = result.pose
    left, right, thorax = (HUMAN36M.joints.index(name) for name in ("LShoulder", "RShoulder", "Thorax"))
    assert np.isfinite(pose).all()
    # How tall she is cannot be known without her legs, so only directions are held to.
    assert pose[left, 0] - pose[right, 0] > 0.2, "her left is to the right of the picture"
    assert pose[thorax, 1] < -0.25, "y points down: the chest is above the hip"


def test_an_empty_scene_holds_nobody():
    empty = figures.picture([], figures.FOCAL * SIZE[0], SIZE)
    assert detect(empty).keypoints.shape == (0, 33, 3)


def test_a_person_who_leaves_is_gone_and_found_again(moments):
    detector = open_detector("mediapipe")
    joints = moments["facing"][0]
    counts = []
    for step in range(18):
        people = [] if 6 <= step < 12 else [joints]
        counts.append(len(detector.detect(still(figures.picture(people, figures.FOCAL * SIZE[0], SIZE))).keypoints))
    detector.close()
    assert counts[:6] == [1] * 6
    assert counts[7:12] == [0] * 5
    assert counts[-1] == 1


@pytest.mark.parametrize("size", [(480, 640), (317, 241), (641, 481)])
def test_portrait_and_odd_sizes(moments, to_coco, size):
    joints = moments["facing"][1] - [0, 0, 0] if size[0] > size[1] else moments["facing"][1] + [0, 0, 1.5]
    found = to_coco(detect(figures.picture([joints], figures.FOCAL * size[0], size)).keypoints)
    assert len(found) == 1
    true = figures.pixels_of(joints, size)
    pairs = [pair for side in SIDES.values() for pair in side]
    errors = [np.linalg.norm(found[0, coco, :2] - true[ours]) for coco, ours in pairs]
    assert np.median(errors) < 0.12 * np.ptp(true[:, 1])


def test_a_model_that_the_wheel_lacks_is_not_downloaded():
    with pytest.raises(BackendError, match=r"does not carry pose_landmark_heavy\.tflite"):
        open_detector("mediapipe", complexity=2)


def test_rtmlib_itself_runs_files_of_ones_own(material):
    """The package, not a stand-in: one box, seventeen joints on the diagonal of the padded box, and nobody."""
    pytest.importorskip("rtmlib")
    files = {"det": str(material / "det.onnx"), "pose": str(material / "pose.onnx"), "pose_size": (192, 256)}
    detector = open_detector("rtmlib", **files)
    picture = np.zeros((640, 640, 3), np.uint8)
    found = detector.detect(still(picture)).keypoints
    assert found.shape == (1, 17, 3)
    steps = np.diff(found[0, :, :2], axis=0)
    np.testing.assert_allclose(steps, np.broadcast_to(steps[0], steps.shape), atol=1e-3)
    np.testing.assert_allclose(found[0, :, 2], 0.8, rtol=1e-6)
    np.testing.assert_allclose(found[0, 0, :2], [200 - 375 / 2, 0], atol=1e-3)  # 200 x 400, padded by a quarter, 3 : 4
    nobody = open_detector("rtmlib", **files | {"det": str(material / "nobody.onnx")})
    assert nobody.detect(still(picture)).keypoints.shape == (0, 17, 3)
