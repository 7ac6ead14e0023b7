"""What all detectors share, and those that need no package of their own: a model in ONNX Runtime, and rtmlib's API."""

import sys
import types

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pstmo_edge.app import detectors
from pstmo_edge.app.detectors import base, rtmlib
from pstmo_edge.app.detectors.onnx import Crop, from_heatmaps, from_simcc
from pstmo_edge.app.types import Frame
from pstmo_edge.errors import BackendError, DataError, UsageError
from pstmo_edge.skeletons import get_skeleton

COCO = 17
WIDTH, HEIGHT = 48, 64  # of the tiny models' input


def frame_of(picture):
    return Frame(3, 0.1, (picture.shape[1], picture.shape[0]), picture)


def spot(width, height, x, y):
    """A black picture with one white square around (x, y)."""
    picture = np.zeros((height, width, 3), np.uint8)
    reach = max(width, height) // 12
    picture[y - reach : y + reach + 1, x - reach : x + reach + 1] = 255
    return picture


def save(tmp_path, nodes, outputs, inputs=None, initializers=()):
    inputs = inputs or [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs]
    graph = helper.make_graph(nodes, "keypoints", inputs, outputs, list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path / "keypoints.onnx"
    onnx.save(model, path)
    return str(path)


def brightness_model(tmp_path, joints=COCO):
    """Heat maps (1, J, H / 2, W / 2): every joint is where the picture is brightest."""
    weight = np.zeros((joints, 3, 2, 2), np.float32)
    weight[:] = 1 / 12
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2])]
    tensor = helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight.ravel())
    return save(tmp_path, nodes, [("y", [1, joints, HEIGHT // 2, WIDTH // 2])], initializers=[tensor])


def constant_model(tmp_path, *arrays):
    """A model that always gives these arrays."""
    nodes = []
    for index, array in enumerate(arrays):
        tensor = helper.make_tensor(f"c{index}", TensorProto.FLOAT, array.shape, array.astype(np.float32).ravel())
        nodes.append(helper.make_node("Constant", [], [f"y{index}"], value=tensor))
    return save(tmp_path, nodes, [(f"y{index}", array.shape) for index, array in enumerate(arrays)])


def open_bright(tmp_path, **options):
    plain = {"mean": (0, 0, 0), "std": (255, 255, 255)}
    return detectors.open_detector("onnx", model=brightness_model(tmp_path), skeleton="coco-17", **plain, **options)


def test_an_unknown_detector_is_told_the_nearest():
    with pytest.raises(UsageError, match=r"unknown detector 'mediapip': did you mean 'mediapipe'\? Known: mediapipe"):
        detectors.open_detector("mediapip")


def test_a_missing_package_is_named_with_the_command_that_brings_it(monkeypatch):
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"rtmlib, not installed here: pip install 'pstmo-edge\[rtmlib\]'"):
        detectors.open_detector("rtmlib")


def test_options_are_checked_by_name(tmp_path):
    with pytest.raises(UsageError, match=r"onnx has no option 'skelton': did you mean 'skeleton'\?"):
        detectors.open_detector("onnx", model="m.onnx", skelton="coco-17")
    with pytest.raises(UsageError, match="the onnx detector needs skeleton"):
        detectors.open_detector("onnx", model="m.onnx")
    with pytest.raises(UsageError, match=r"m\.onnx is no file"):
        detectors.open_detector("onnx", model=str(tmp_path / "m.onnx"), skeleton="coco-17")


def test_options_may_be_text_from_a_command_line(tmp_path):
    model = brightness_model(tmp_path)
    texts = {"mean": "0/0/0", "std": "255/255/255", "follow": "no", "threads": "1", "size": f"{WIDTH}x{HEIGHT}"}
    detector = detectors.open_detector("onnx", model=model, skeleton="coco-17", **texts)
    assert detector._settings.size == (WIDTH, HEIGHT)
    assert detector._settings.follow is False
    np.testing.assert_array_equal(detector._settings.std, [255, 255, 255])


@pytest.mark.parametrize(
    ("option", "text", "wanted"),
    [
        ("size", "48", "int x int"),
        ("size", "48xhigh", "int x int"),
        ("follow", "maybe", "bool"),
        ("threads", "two", "int"),
    ],
)
def test_text_that_is_no_value_is_refused(option, text, wanted):
    with pytest.raises(UsageError, match=f"{option} is '{text}': it must be {wanted}"):
        detectors.open_detector("onnx", model="m.onnx", skeleton="coco-17", **{option: text})


@pytest.mark.parametrize(
    "picture", [None, np.zeros((4, 5), np.uint8), np.zeros((4, 5, 3), np.float32), np.zeros((0, 5, 3), np.uint8)]
)
def test_what_is_no_picture_is_refused(tmp_path, picture):
    detector = open_bright(tmp_path)
    with pytest.raises(DataError, match="frame 7"):
        detector.detect(Frame(7, 0.0, (5, 4), picture))


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (200, 100), (100, 200), (321, 97)])
def test_a_heatmap_model_finds_a_spot_in_pictures_of_any_shape(tmp_path, size):
    detector = open_bright(tmp_path, follow=False)
    x, y = int(size[0] * 0.7), int(size[1] * 0.3)
    found = detector.detect(frame_of(spot(*size, x, y)))
    assert found.skeleton == detector.skeleton == "coco-17"
    assert found.keypoints.shape == (1, COCO, 3)
    np.testing.assert_allclose(found.keypoints[0, :, :2], [[x, y]] * COCO, atol=max(size) / 12 + 1)
    assert (found.keypoints[..., 2] > 0.9).all()


def test_a_dark_picture_holds_nobody(tmp_path):
    found = open_bright(tmp_path).detect(frame_of(np.zeros((100, 100, 3), np.uint8)))
    assert found.keypoints.shape == (0, COCO, 3)


def test_the_crop_follows_a_person_and_lets_go(tmp_path):
    """Constant joints in the middle half: the crop shrinks to the box around them, and a lost person resets it."""
    points = np.zeros((1, COCO, 3), np.float32)
    points[0, :, 0] = np.linspace(WIDTH / 4, 3 * WIDTH / 4, COCO)
    points[0, :, 1] = np.linspace(HEIGHT / 4, 3 * HEIGHT / 4, COCO)
    points[..., 2] = 0.9
    detector = detectors.open_detector("onnx", model=constant_model(tmp_path, points), skeleton="coco-17")
    picture = np.zeros((HEIGHT * 4, WIDTH * 4, 3), np.uint8)
    first, second = (detector.detect(frame_of(picture)).keypoints for _ in range(2))
    np.testing.assert_allclose(first[0, :, :2], points[0, :, :2] * 4, atol=1e-3)
    low, high = first[0, 0, :2], first[0, -1, :2]
    middle, reach = (low + high) / 2, (high - low) / 2 * 1.25
    np.testing.assert_allclose(second[0, 0, :2], middle - reach / 2, atol=1e-3)
    np.testing.assert_allclose(second[0, -1, :2], middle + reach / 2, atol=1e-3)


def test_points_may_be_of_many_people_and_normalised(tmp_path):
    points = np.random.default_rng(0).uniform(0.4, 0.6, (3, COCO, 3)).astype(np.float32)
    points[1, :, 2] = 0.1  # no person
    points[2, 5, 0] = np.nan
    model = constant_model(tmp_path, points)
    detector = detectors.open_detector("onnx", model=model, skeleton="coco-17", normalised=True, follow=False)
    found = detector.detect(frame_of(np.zeros((HEIGHT * 2, WIDTH * 2, 3), np.uint8))).keypoints
    assert found.shape == (2, COCO, 3)
    np.testing.assert_allclose(found[0, :, :2], points[0, :, :2] * [WIDTH * 2, HEIGHT * 2], rtol=1e-5)
    assert (found[1, 5] == 0).all(), "a joint that is not finite was not found"
    assert np.isfinite(found).all()


def test_simcc_is_read_at_its_own_resolution(tmp_path):
    across, down = np.zeros((1, COCO, WIDTH * 2)), np.zeros((1, COCO, HEIGHT * 2))
    for joint in range(COCO):
        across[0, joint, joint * 5], down[0, joint, joint * 7] = 0.8, 0.6
    model = constant_model(tmp_path, across, down)
    found = detectors.open_detector("onnx", model=model, skeleton="coco-17").detect(
        frame_of(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    )
    joints = np.arange(COCO)
    direct = from_simcc(across, down, (WIDTH, HEIGHT))
    np.testing.assert_allclose(direct[0], np.stack([joints * 2.5, joints * 3.5, np.full(COCO, 0.6)], -1), rtol=1e-6)
    assert found.keypoints.shape == (1, COCO, 3)


def test_heatmaps_lean_towards_the_larger_neighbour():
    maps = np.zeros((1, 2, 8, 6))
    maps[0, 0, 3, 2], maps[0, 0, 3, 3], maps[0, 0, 2, 2] = 1, 0.5, 0.4
    maps[0, 1, 0, 0] = 0.7  # in a corner, where a neighbour is missing
    points = from_heatmaps(maps, (24, 32))[0]
    np.testing.assert_allclose(points[0], [(2.5 + 0.25) * 4, (3.5 - 0.25) * 4, 1])
    np.testing.assert_allclose(points[1], [(0.5 - 0.25) * 4, (0.5 - 0.25) * 4, 0.7], rtol=1e-6)


def test_a_crop_and_its_way_back_agree():
    picture = spot(160, 90, 40, 50)
    crop = Crop.around(np.array([20.0, 30.0]), np.array([60.0, 70.0]), (WIDTH, HEIGHT))
    cut = crop.cut(picture, (WIDTH, HEIGHT), np.float32([7, 7, 7]))
    rows, columns = np.nonzero(cut[:, :, 0] > 128)
    np.testing.assert_allclose(
        crop.to_picture(np.array([columns.mean() + 0.5, rows.mean() + 0.5])), [40.5, 50.5], atol=0.5
    )
    beyond = Crop.around(np.array([-90.0, 0.0]), np.array([-10.0, 90.0]), (WIDTH, HEIGHT))
    assert (beyond.cut(picture, (WIDTH, HEIGHT), np.float32([7, 7, 7]))[:, : WIDTH // 2] == 7).all()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([np.ones((1, 16, 8, 8))], r"gives \(1, 16, 8, 8\): with coco-17 it must give heat maps \(1, 17, h, w\)"),
        ([np.ones((1, 17, 2))], r"gives \(1, 17, 2\)"),
        ([np.ones((1, 17, 9))] * 3, "SimCC"),
    ],
)
def test_outputs_outside_the_contract_are_refused_when_opened(tmp_path, arrays, message):
    with pytest.raises(BackendError, match=message):
        detectors.open_detector("onnx", model=constant_model(tmp_path, *arrays), skeleton="coco-17")


def test_inputs_outside_the_contract_are_refused(tmp_path):
    def model(kind, shape):
        nodes = [helper.make_node("Constant", [], ["y"], value_floats=[1.0])]
        return save(tmp_path, nodes, [("y", [1])], [helper.make_tensor_value_info("x", kind, shape)])

    def opened(kind, shape, **options):
        return detectors.open_detector("onnx", model=model(kind, shape), skeleton="coco-17", **options)

    with pytest.raises(UsageError, match="must read one float32"):
        opened(TensorProto.UINT8, [1, 3, 8, 8])
    with pytest.raises(UsageError, match="must read one float32"):
        opened(TensorProto.FLOAT, [1, 8, 8, 3])
    with pytest.raises(UsageError, match="any size: give size"):
        opened(TensorProto.FLOAT, [1, 3, "h", "w"])
    with pytest.raises(UsageError, match="reads 8 x 16 pictures, not 16 x 8"):
        opened(TensorProto.FLOAT, [1, 3, 16, 8], size=(16, 8))
    with pytest.raises(UsageError, match="unknown channel order 'rbg': did you mean 'rgb'"):
        opened(TensorProto.FLOAT, [1, 3, 8, 8], order="rbg")
    with pytest.raises(UsageError, match="each must be above 0"):
        opened(TensorProto.FLOAT, [1, 3, 8, 8], std=(1, 0, 1))


def test_a_file_that_is_no_model_is_refused(tmp_path):
    path = tmp_path / "keypoints.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(BackendError, match=r"onnxruntime .* refuses .*keypoints\.onnx"):
        detectors.open_detector("onnx", model=str(path), skeleton="coco-17")


class FakeModel:
    """A model of rtmlib's: takes a picture and boxes, gives what it was told, remembers what it saw."""

    def __init__(self, answer):
        self.answer, self.seen = answer, []

    def __call__(self, image, bboxes=None):
        self.seen.append((image, bboxes))
        return self.answer


@pytest.fixture
def fake_rtmlib(monkeypatch):
    """Stands in for the package: the classes and arguments are those of rtmlib 0.0.16."""
    module = types.ModuleType("rtmlib")
    module.opened = []

    def solution(name, joints):
        class Solution:
            def __init__(
                self, det=None, det_input_size=(640, 640), pose=None, pose_input_size=(288, 384), mode="balanced",
                to_openpose=False, backend="onnxruntime", device="cpu",
            ):  # fmt: skip
                print("load model with backend")
                module.opened.append((name, {k: v for k, v in locals().items() if k not in ("self", "name")}))
                self.one_stage = pose == "rtmo"
                points = np.arange(2 * joints * 2, dtype=float).reshape(2, joints, 2)
                self.pose_model = FakeModel((points, np.full((2, joints), 1.7)))
                self.det_model = FakeModel(np.array([[0, 0, 5, 5], [1, 1, 9, 9]]))
                module.solution = self

        return Solution

    for name, joints in (("Body", 17), ("BodyWithFeet", 26), ("Wholebody", 133)):
        setattr(module, name, solution(name, joints))
    monkeypatch.setitem(sys.modules, "rtmlib", module)
    monkeypatch.setattr(base, "find_spec", lambda name: True)
    return module


@pytest.mark.parametrize("kind", rtmlib.KINDS)
def test_rtmlib_gives_each_kind_in_its_joint_set(fake_rtmlib, kind, capsys):
    detector = detectors.open_detector("rtmlib", kind=kind, mode="lightweight")
    picture = np.zeros((6, 8, 3), np.uint8)
    picture[..., 0] = 200  # red
    found = detector.detect(frame_of(picture))
    joints = get_skeleton(detector.skeleton).num_joints
    assert found.skeleton == detector.skeleton
    assert found.keypoints.shape == (2, joints, 3)
    assert (found.keypoints[0, 3] == [6, 7, 1]).all(), "scores above 1 are cut"
    seen, boxes = fake_rtmlib.solution.pose_model.seen[0]
    assert (seen[0, 0] == [0, 0, 200]).all(), "it reads BGR"
    assert (boxes is None) == (kind == "rtmo")
    assert fake_rtmlib.opened[0][1]["mode"] == "lightweight"
    assert capsys.readouterr().out == "", "standard output is for poses"
    detector.close()
    detector.close()


def test_rtmlib_gives_nobody_where_it_finds_no_box(fake_rtmlib):
    """As a whole its solution would take the picture for a person."""
    detector = detectors.open_detector("rtmlib")
    fake_rtmlib.solution.det_model.answer = np.zeros((0, 4))
    assert detector.detect(frame_of(np.zeros((6, 8, 3), np.uint8))).keypoints.shape == (0, 17, 3)
    assert fake_rtmlib.solution.pose_model.seen == []


def test_rtmlib_takes_files_of_ones_own(fake_rtmlib, tmp_path):
    det, pose = tmp_path / "det.onnx", tmp_path / "pose.onnx"
    det.touch(), pose.touch()
    detectors.open_detector("rtmlib", mode="performance", det=str(det), pose=str(pose), det_size=(416, 416))
    given = fake_rtmlib.opened[0][1]
    assert (given["det"], given["pose"]) == (str(det), str(pose))
    assert (given["det_input_size"], given["pose_input_size"]) == ((416, 416), (288, 384))
    with pytest.raises(UsageError, match="is no file"):
        detectors.open_detector("rtmlib", det=str(tmp_path / "other.onnx"))
    with pytest.raises(UsageError, match="rtmo takes no files"):
        detectors.open_detector("rtmlib", kind="rtmo", det=str(det))
    (tmp_path / "rtmo-s.onnx").touch()
    with pytest.raises(UsageError, match="rename it"):
        detectors.open_detector("rtmlib", pose=str(tmp_path / "rtmo-s.onnx"))


def test_rtmlib_names_what_is_wrong(fake_rtmlib):
    with pytest.raises(UsageError, match="unknown rtmlib kind 'bodi': did you mean 'body'"):
        detectors.open_detector("rtmlib", kind="bodi")
    with pytest.raises(UsageError, match="unknown rtmlib mode 'light': did you mean 'lightweight'"):
        detectors.open_detector("rtmlib", mode="light")
    detector = detectors.open_detector("rtmlib")
    fake_rtmlib.solution.pose_model.answer = (np.zeros((2, 26, 2)), np.zeros((2, 26)))
    with pytest.raises(BackendError, match="Body has 17 joints"):
        detector.detect(frame_of(np.zeros((6, 8, 3), np.uint8)))


def test_rtmlib_without_a_network_says_the_way_out(fake_rtmlib, monkeypatch):
    def fails(**_):
        raise OSError("no route to host")

    monkeypatch.setattr(fake_rtmlib, "Body", fails)
    with pytest.raises(BackendError, match=r"no route to host\); without a network, give files that are here: det="):
        detectors.open_detector("rtmlib")


@pytest.mark.parametrize("options", [{"complexity": 3}, {"confidence": 1.5}, {"tracking": -0.1}])
def test_mediapipe_refuses_values_out_of_range(monkeypatch, options):
    monkeypatch.setattr(base, "find_spec", lambda name: True)
    with pytest.raises(UsageError, match=f"{next(iter(options))} is "):
        detectors.open_detector("mediapipe", **options)
