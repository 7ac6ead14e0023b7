"""Doubt: on motion it was not fitted on, with a detector's errors and lost joints, the worst poses are known."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from pstmo_edge.app.doubt import DoubtModel, DoubtTracker
from pstmo_edge.app.doubt_signs import JOINT_SIGNS, SIGNS, bone_lengths, sources, usual_points
from pstmo_edge.benchmarks import doubt as fitting
from pstmo_edge.benchmarks.streams import flagged
from pstmo_edge.benchmarks.streams_motion import Losses, cameras, record
from pstmo_edge.datasets import cmu_mocap
from pstmo_edge.errors import DataError
from pstmo_edge.manifest import InputSpec
from pstmo_edge.models.zoo import bundled_weights, load_model
from pstmo_edge.reference_stream import ReferenceStream
from pstmo_edge.skeletons import COCO, HUMAN36M
from pstmo_edge.streaming import StreamSettings

SIZE = (1000, 1002)


class TorchEngine:
    """The box's weights in torch, as far as streams and doubt look at an engine: building one takes longer."""

    path, backend = "torch", "torch"

    def __init__(self, name):
        from pstmo_edge.backends.torch import TorchSession

        self.session = TorchSession(model := load_model(checkpoint=name))
        about = model.lifter
        given = InputSpec(
            skeleton=about.skeleton, joints=HUMAN36M.joints, frames=about.frames, t_downsample=about.t_downsample,
            frame_rate=about.frame_rate, target_index=about.window.target,
            lookahead_frames=about.frames - 1 - about.window.target,
        )  # fmt: skip
        self.manifest = SimpleNamespace(
            input=given, output=SimpleNamespace(skeleton=HUMAN36M.name), emitted=None,
            model=SimpleNamespace(weights_sha256=about.weights_sha256),
        )  # fmt: skip

    def infer(self, windows):
        return self.session.run(windows)

    def stream(self, image_size, fps, lookahead, skeleton):
        return ReferenceStream(self, StreamSettings(image_size, fps, lookahead))


@pytest.fixture(scope="module")
def engine():
    return TorchEngine("p-stmo-s-27")


@pytest.fixture(scope="module")
def model(engine):
    return DoubtModel.for_engine(engine)


@pytest.fixture(scope="module")
def measured(engine, model):
    """Six test takes, with none to half of the joints missing."""
    takes = cmu_mocap.takes("test")
    losses = [Losses(), Losses(0.1), Losses(0.3, "runs"), Losses(0.5), Losses(0.1, "runs"), Losses(0.3)]
    found = []
    for number, lost in zip((2, 17, 21, 19, 9, 3), losses, strict=True):
        recording = record(takes[number], cameras(takes[number], number)[number % 4], losses=lost)
        found.append(fitting.measure(engine, recording, model, 30.0, 4, lost))
    return found


@pytest.mark.parametrize("count", [len(SIGNS), len(SIGNS) + 2], ids=["plain", "mirrored"])
def test_the_worst_tenth_is_flagged_three_times_as_often_as_the_rest(model, measured, count):
    signs = np.concatenate([each.signs for each in measured])[..., :count]
    real = np.concatenate([each.errors.mean(-1) for each in measured])
    expected = model.expected(signs).mean(-1)
    found = flagged(expected, real, model.limit_mm)
    assert found["poses"] > 500
    assert found["worst"] > 3 * found["rest"], found
    assert found["worst"] > 0.3
    assert 0.7 < found["expected_mm"] / found["measured_mm"] < 1.3
    assert np.corrcoef(expected, real)[0, 1] > 0.6


def test_every_weights_of_the_box_have_a_doubt():
    for name in bundled_weights():
        lifter = load_model(checkpoint=name).lifter
        manifest = SimpleNamespace(model=SimpleNamespace(weights_sha256=lifter.weights_sha256))
        model = DoubtModel.for_engine(SimpleNamespace(manifest=manifest))
        assert model.keypoint_skeleton == lifter.skeleton
        assert "training split" in model.fitted_on


def test_other_weights_have_none_and_a_file_of_another_kind_is_refused(engine, model, tmp_path):
    other = SimpleNamespace(manifest=SimpleNamespace(model=SimpleNamespace(weights_sha256="0" * 64)))
    assert DoubtModel.for_engine(other) is None
    path, key = tmp_path / "doubt.json", engine.manifest.model.weights_sha256
    path.write_text(json.dumps({"models": {key: model.to_dict()}}))
    assert DoubtModel.for_engine(engine, path).limit_mm == model.limit_mm
    for text in ("[]", "no", json.dumps({"models": {key: {"signs": []}}}), json.dumps({"models": {key: {}}})):
        path.write_text(text)
        with pytest.raises(DataError):
            DoubtModel.for_engine(engine, path)


def test_an_estimate_is_finite_whatever_comes(engine, model, measured):
    settings = StreamSettings(SIZE)
    tracker, result = DoubtTracker(engine, settings, model), measured[0].results[0]
    rng = np.random.default_rng(0)
    for number, keypoints in enumerate(
        (None, np.zeros((17, 3)), np.full((17, 2), np.nan), rng.normal(size=(17, 2)) * 1e30)
    ):
        seen = SimpleNamespace(**{**vars(result), "timestamp": 5.0 + 0.04 * number})
        found = tracker.estimate(seen, keypoints)
        assert np.isfinite(found.per_joint_mm).all()
        assert found.per_joint_mm[0] == 0
        assert found.doubtful


def test_a_missing_joint_and_a_jumping_one_raise_doubt(engine, model, measured):
    """Of the same pose: held joints for a second, and a wrist that is elsewhere."""
    recording, results = measured[0].recording, measured[0].results
    told = {}
    for name in ("clean", "missing", "jumping"):
        tracker = DoubtTracker(engine, StreamSettings(recording.camera.image_size), model)
        for number, result in enumerate(results):
            keypoints = recording.keypoints[result.frame].copy()
            keypoints[:, 2] = 0.9
            if name == "missing" and number > 10:
                keypoints[[4, 5, 6, 11, 12, 13], 2] = 0
            if name == "jumping":
                keypoints[13, :2] += 300 * (number % 2)
            found = tracker.estimate(result, keypoints)
        told[name] = found
    assert told["missing"].pose_mm > 1.1 * told["clean"].pose_mm
    assert told["jumping"].per_joint_mm[13] > 1.2 * told["clean"].per_joint_mm[13]


def test_a_gap_forgets_what_was_held(engine, model, measured):
    recording, result = measured[0].recording, measured[0].results[0]
    tracker = DoubtTracker(engine, StreamSettings(recording.camera.image_size), model)
    fresh = tracker.signs(result, recording.keypoints[0])
    later = SimpleNamespace(**{**vars(result), "timestamp": result.timestamp + 0.04})
    tracker.signs(later, None)
    after = SimpleNamespace(**{**vars(result), "timestamp": result.timestamp + 9.0})
    np.testing.assert_array_equal(tracker.signs(after, recording.keypoints[0]), fresh)


def test_nothing_is_extrapolated(model):
    signs = np.full((17, len(SIGNS)), 1e6)
    held = np.broadcast_to(model.high[: len(SIGNS)], (17, len(SIGNS)))
    np.testing.assert_array_equal(model.expected(signs), model.expected(held))


def test_the_fit_finds_what_made_the_errors():
    """Errors drawn from known coefficients: they come back, and expectations equal the means."""
    rng = np.random.default_rng(0)
    signs = rng.normal(size=(4000, 17, 3))
    weights, joints = np.array([0.3, 0.0, -0.2]), np.linspace(3, 4, 17)
    mean = np.exp(signs @ weights + joints)
    errors = mean * rng.gamma(4.0, 0.25, mean.shape)
    found, constants = fitting._regressed(signs, errors)
    np.testing.assert_allclose(found, weights, atol=0.01)
    np.testing.assert_allclose(constants[1:], joints[1:], atol=0.05)
    expected = np.exp(signs @ found + constants)[:, 1:]
    assert expected.mean() == pytest.approx(errors[:, 1:].mean(), rel=0.01)


def test_poses_that_were_never_trained_on_are_strange(model):
    usual = cmu_mocap.load("test")[0].keypoints[::50]
    rng = np.random.default_rng(0)
    strange = [model.motion.strangeness(points) for points in usual_points(rng.normal(size=(20, 17, 2)))]
    known = [model.motion.strangeness(points) for points in usual_points(usual)]
    assert np.median([outside for _, outside in strange]) > 3 * np.median([outside for _, outside in known])


def test_every_joint_has_keypoints_behind_it():
    shares = sources(COCO, HUMAN36M)
    np.testing.assert_allclose(shares.sum(1), 1)
    assert shares[HUMAN36M.joints.index("LFoot"), COCO.joints.index("LAnkle")] == 1
    np.testing.assert_array_equal(sources(HUMAN36M, HUMAN36M), np.eye(17))
    with pytest.raises(DataError, match="no doubt is defined"):
        sources(HUMAN36M, COCO)
    assert len(SIGNS) == 2 * len(JOINT_SIGNS) + 8
    assert bone_lengths(np.ones((3, 17, 3)), HUMAN36M).shape == (3, 16)
