import numpy as np
import pytest

from pstmo_edge.datasets import load_sequences
from pstmo_edge.errors import DataError


@pytest.fixture
def arrays():
    pixels = np.random.default_rng(0).uniform(100, 900, (40, 17, 3))
    return {"keypoints": pixels, "image_size": np.array([1920, 1080]), "skeleton": "human36m-17", "fps": 30.0}


def write(tmp_path, arrays):
    path = tmp_path / "clip.npz"
    np.savez(path, **arrays)
    return path


def test_keypoints_are_normalised_and_confidences_kept(tmp_path, arrays):
    (sequence,) = load_sequences(write(tmp_path, arrays))
    expected = arrays["keypoints"][..., :2] / 1920 * 2 - [1, 1080 / 1920]
    np.testing.assert_allclose(sequence.keypoints, expected, atol=1e-6)
    np.testing.assert_allclose(sequence.confidence, arrays["keypoints"][..., 2], rtol=1e-6)
    assert (sequence.fps, sequence.image_size, sequence.poses) == (30.0, (1920, 1080), None)
    with pytest.raises(DataError, match="no 3D poses"):
        sequence.true_poses()


@pytest.mark.parametrize(
    ("skeleton", "answer", "root"),
    [("human36m-17", "human36m-17", 0), ("coco-17", "human36m-17", 0), ("mpi-inf-3dhp-17", "mpi-inf-3dhp-17", 14)],
)
def test_each_joint_set_has_its_poses(tmp_path, arrays, skeleton, answer, root):
    arrays |= {"skeleton": skeleton, "poses": np.random.default_rng(1).normal(size=(40, 17, 3))}
    (sequence,) = load_sequences(write(tmp_path, arrays), skeleton=skeleton)
    assert (sequence.skeleton, sequence.pose_skeleton) == (skeleton, answer)
    assert (sequence.poses[:, root] == 0).all()
    np.testing.assert_allclose(np.diff(sequence.poses, axis=1), np.diff(arrays["poses"], axis=1), atol=1e-6)
    other = "coco-17" if skeleton != "coco-17" else "human36m-17"
    with pytest.raises(DataError, match=f"{skeleton} keypoints and the model reads {other}"):
        load_sequences(tmp_path / "clip.npz", skeleton=other)


def test_fifty_frames_a_second_are_the_default(tmp_path, arrays):
    del arrays["fps"]
    assert load_sequences(write(tmp_path, arrays))[0].fps == 50.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keypoints": np.zeros((40, 16, 2))}, r"\(40, 16, 2\), expected \(frames, 17, 2 or 3\)"),
        ({"keypoints": np.zeros((0, 17, 2))}, "no frames"),
        ({"keypoints": np.where(np.arange(40)[:, None, None] == 7, np.nan, np.ones((40, 17, 2)))}, "frame 7"),
        ({"skeleton": "coco-17"}, "coco-17"),
        ({"image_size": np.array([0, 10])}, "image_size"),
        ({"image_size": np.array([np.nan, 10])}, "image_size"),
        ({"image_size": "large"}, "'image_size' holds no numbers"),
        ({"poses": np.zeros((39, 17, 3))}, r"\(39, 17, 3\)"),
        ({"poses": np.full((40, 17, 3), np.inf)}, "a 3D pose is not finite"),
        ({"poses": np.full((40, 17, 3), "x")}, "'poses' holds no numbers"),
        ({"skeleton": np.array(["human36m-17"] * 30)}, r"skeleton has shape \(30,\)"),
        ({"fps": np.array([30, 30])}, "fps is"),
        ({"fps": 0}, "fps is 0"),
        ({"fps": np.nan}, "fps is nan"),
        ({"keypoints": None}, "no array 'keypoints'"),
        ({"keypoints": np.array([{"a": 1}], dtype=object)}, "no .npz of plain arrays"),
    ],
)
def test_bad_keypoints_are_named(tmp_path, arrays, change, words):
    arrays.update(change)
    path = write(tmp_path, {name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(DataError, match=words) as error:
        load_sequences(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated", b"not an archive"])
def test_a_damaged_file_is_an_error(tmp_path, content):
    path = tmp_path / "clip.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"no \.npz of plain arrays"):
        load_sequences(path)
