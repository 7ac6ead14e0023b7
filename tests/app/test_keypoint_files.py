import json

import numpy as np
import pytest

from pstmo_edge.app.keypoint_files import load
from pstmo_edge.errors import DataError, UsageError
from pstmo_edge.skeletons import COCO, get_skeleton

SIZE = (640, 480)


def person(joints=17, shift=0.0):
    """(J, 3): each joint at its own place, so that a wrong order shows."""
    numbers = np.arange(joints, dtype=float)
    return np.stack([10 * numbers + shift, 5 * numbers + shift, np.full(joints, 0.9)], axis=-1)


def write_openpose(folder, frames, joints=25):
    folder.mkdir()
    for number, people in frames.items():
        content = {
            "version": 1.3,
            "people": [{"person_id": [-1], "pose_keypoints_2d": p.ravel().tolist()} for p in people],
        }
        (folder / f"walk_{number:012d}_keypoints.json").write_text(json.dumps(content))
    return folder


def alphapose(frames, ids=None, joints=17):
    rows = []
    for number, people in frames.items():
        for place, points in enumerate(people):
            row = {"image_id": f"{number}.jpg", "category_id": 1, "keypoints": points.ravel().tolist(), "score": 2.5}
            rows.append(row | ({} if ids is None else {"idx": [ids[place]]}))
    return rows


def test_openpose_keeps_frame_numbers_and_empty_frames(tmp_path):
    folder = write_openpose(tmp_path / "op", {0: [person(25)], 1: [], 4: [person(25), person(25, 300)]})
    found = load(folder, SIZE, fps=10)
    assert (found.format, found.skeleton) == ("OpenPose", "openpose-25")
    assert np.allclose(found.times, [0, 0.1, 0.4])
    assert [len(each.keypoints) for each in found.detections] == [1, 0, 2]
    assert np.allclose(found.detections[2].keypoints[1], person(25, 300))
    assert found.detections[0].ids is None


@pytest.mark.parametrize(("joints", "skeleton"), [(17, "coco-17"), (26, "halpe-26")])
def test_alphapose_with_tracked_persons(tmp_path, joints, skeleton):
    path = tmp_path / "results.json"
    rows = alphapose({3: [person(joints), person(joints, 200)], 5: [person(joints)]}, ids=[7, 2])
    path.write_text(json.dumps(rows))
    found = load(path, SIZE, fps=30)
    assert (found.format, found.skeleton) == ("AlphaPose", skeleton)
    assert np.allclose(found.times, [0.1, 5 / 30])
    assert [each.ids for each in found.detections] == [(7, 2), (7,)]


def test_coco_results_and_annotations(tmp_path):
    results = [{"image_id": 2, "category_id": 1, "keypoints": person().ravel().tolist(), "score": 0.8}]
    (tmp_path / "r.json").write_text(json.dumps(results))
    found = load(tmp_path / "r.json", SIZE, fps=20)
    assert (found.format, found.skeleton, found.times.tolist()) == ("COCO results", "coco-17", [0.1])

    seen = person()
    seen[:, 2] = 2
    seen[3, 2] = 0
    content = {
        "images": [{"id": i, "width": 320, "height": 200, "file_name": f"{i}.jpg"} for i in (1, 2)],
        "annotations": [{"image_id": 2, "keypoints": seen.ravel().tolist(), "track_id": 4}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    found = load(tmp_path / "a.json")
    assert (found.format, found.image_size) == ("COCO annotations", (320, 200))
    assert [len(each.keypoints) for each in found.detections] == [0, 1]
    assert found.detections[1].ids == (4,)
    assert found.detections[1].keypoints[0, [2, 3], 2].tolist() == [1, 0]
    with pytest.raises(UsageError, match="320 x 200"):
        load(tmp_path / "a.json", image_size=SIZE)


def test_npz_of_one_and_of_many_with_absent_people(tmp_path):
    one = np.stack([person(), person(shift=3)])
    np.savez(tmp_path / "one.npz", keypoints=one, image_size=SIZE, skeleton="coco-17", fps=25.0)
    found = load(tmp_path / "one.npz")
    assert found.fps == pytest.approx(25)
    assert found.detections[1].ids == (0,)
    many = np.stack([one, one + 100], axis=1)
    many[0, 1] = np.nan
    np.savez(tmp_path / "many.npz", keypoints=many, image_size=SIZE, skeleton="coco-17", times=[0.0, 0.5])
    found = load(tmp_path / "many.npz")
    assert [each.ids for each in found.detections] == [(0,), (0, 1)]
    assert found.times.tolist() == [0.0, 0.5]
    np.savez(tmp_path / "back.npz", keypoints=many, image_size=SIZE, skeleton="coco-17", times=[0.5, 0.0])
    with pytest.raises(DataError, match="rising"):
        load(tmp_path / "back.npz")


def write_csv(path, rows, joints=COCO.joints, first=("frame", "person"), suffixes=("x", "y", "c")):
    header = [*first, *(f"{joint}_{suffix}" for joint in joints for suffix in suffixes)]
    path.write_text("\n".join(",".join(map(str, row)) for row in [header, *rows]) + "\n")
    return path


def test_csv_in_any_order_of_lines_with_empty_cells(tmp_path):
    cells = [["" if joint == 5 else value for value in person()[joint]] for joint in range(17)]
    holed = [cell for row in cells for cell in row]
    full = person(shift=50).ravel().tolist()
    path = write_csv(tmp_path / "k.csv", [[6, 1, *full], [3, 0, *holed], [6, 0, *holed]])
    found = load(path, SIZE, fps=30)
    assert np.allclose(found.times, [0.1, 0.2])
    assert [each.ids for each in found.detections] == [(0,), (1, 0)]
    assert found.detections[0].keypoints[0, 5].tolist() == [0, 0, 0]
    assert np.allclose(found.detections[1].keypoints[0], person(shift=50))


def test_csv_without_persons_or_confidences(tmp_path):
    row = person()[:, :2].ravel().tolist()
    path = write_csv(tmp_path / "k.csv", [[0.0, *row], [0.25, *row]], first=("time",), suffixes="xy")
    found = load(path, SIZE)
    assert found.fps == 4
    assert found.detections[0].ids is None
    assert (found.detections[0].keypoints[0, :, 2] == 1).all()


@pytest.mark.parametrize(
    ("name", "content", "error", "told"),
    [
        ("a.json", "{", DataError, "is no JSON"),
        ("a.json", "[]", DataError, "no list of AlphaPose"),
        ("a.json", '{"people": []}', DataError, "give the folder"),
        ("a.json", '[{"image_id": "1.jpg", "keypoints": [1, 2]}]', DataError, "not as expected"),
        ("a.json", '[{"image_id": "1.jpg", "keypoints": [1, 2, "x"]}]', DataError, "not as expected"),
        ("a.json", json.dumps(alphapose({1: [person(21)]})), DataError, "21 keypoints"),
        ("a.json", json.dumps(alphapose({1: [person(17), person(26)]})), DataError, "one joint set"),
        ("a.json", json.dumps(alphapose({1: [person(), person()]}, ids=[1, 1])), DataError, "there twice"),
        ("a.csv", "a,b\n1,2\n", DataError, "'frame' or 'time'"),
        ("a.csv", "frame,Nose_x,Nose_y\n1,2,3\n", DataError, "no known joint set"),
        ("a.csv", "", DataError, "'frame' or 'time'"),
        ("a.npz", "PK", DataError, "no .npz"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, name, content, error, told):
    (tmp_path / name).write_text(content)
    with pytest.raises(error, match=told) as raised:
        load(tmp_path / name, SIZE)
    assert "\n" not in str(raised.value)


def test_a_size_that_nobody_tells_is_asked_for(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(alphapose({1: [person()]})))
    with pytest.raises(UsageError, match="--image-size 1920x1080"):
        load(tmp_path / "a.json")
    with pytest.raises(DataError, match="17 keypoints"):
        load(tmp_path / "a.json", SIZE, skeleton="halpe-26")


def test_pickles_in_an_npz_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", keypoints=np.array([{}], object), image_size=SIZE, skeleton="coco-17")
    with pytest.raises(DataError, match="of plain arrays"):
        load(tmp_path / "a.npz")


def test_halpe_has_what_its_name_says():
    assert get_skeleton("halpe-26").joints[17:20] == ("HeadTop", "Neck", "Hip")
