import pytest

import pstmo_edge as pe
from pstmo_edge.errors import CheckpointError, UsageError
from pstmo_edge.models.zoo import bundled_weights, state_arrays


def test_the_bundled_model_is_the_default():
    model = pe.load_model()
    assert "p-stmo-s-27" in bundled_weights()
    assert (model.lifter.name, model.lifter.frames, model.lifter.weights) == ("p-stmo-s", 27, "bundled")
    assert model.lifter.t_downsample == 2
    assert not model.training


def test_equal_weights_have_equal_digests():
    assert pe.load_model().lifter.weights_sha256 == pe.load_model().lifter.weights_sha256
    assert pe.create_model("p-stmo-s", 9).lifter.weights_sha256 != pe.create_model("p-stmo-s", 9).lifter.weights_sha256


def test_the_published_step_is_the_default():
    assert pe.create_model("p-stmo", 243).lifter.t_downsample == 2
    assert pe.create_model("p-stmo", 81).lifter.t_downsample == 1
    assert pe.create_model("p-stmo", 81, t_downsample=3).lifter.window.t_downsample == 3


@pytest.mark.parametrize(
    ("name", "frames", "words"),
    [
        ("p-stmo-x", 27, ["p-stmo-x", "did you mean"]),
        ("p-stmo-s", 28, ["28", "9, 27, 81, 243, 351"]),
        ("p-stmo", 243, ["--checkpoint", "p-stmo-s-27"]),
    ],
)
def test_what_cannot_be_loaded_says_what_can(name, frames, words):
    with pytest.raises(UsageError) as caught:
        pe.load_model(name, frames)
    assert all(word in str(caught.value) for word in words)


def test_a_checkpoint_of_another_frame_count_is_named(tmp_path):
    from pstmo_edge.models.checkpoints import save_weights

    path = tmp_path / "nine.safetensors"
    save_weights(path, state_arrays(pe.create_model("p-stmo-s", 9)), {})
    with pytest.raises(CheckpointError, match="--frames 9"):
        pe.load_model("p-stmo-s", 27, path)
