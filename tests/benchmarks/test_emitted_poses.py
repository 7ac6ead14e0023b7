"""Engines that give many poses a window: all of them are checked, and they count where they are of use."""

import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console

import pstmo_edge as pe
from pstmo_edge.benchmarks import cost, harness, tables
from pstmo_edge.benchmarks.cases import BuildCase, BundleCase, default_cases
from pstmo_edge.benchmarks.checks import CheckError, check_output, held_out
from pstmo_edge.bundle import open_bundle
from pstmo_edge.engine import Engine
from pstmo_edge.preparing import prepare


@pytest.fixture(scope="module")
def emitting(small_model):
    return pe.emitting(small_model, "all")


@pytest.fixture(scope="module")
def bundle(emitting, short_sequences, tmp_path_factory):
    out = tmp_path_factory.mktemp("engines") / "all"
    pe.build(emitting, "fp32", out=out, prepared=prepare(emitting, held_out=short_sequences))
    return out


@pytest.fixture
def measure(settings, small_model, short_sequences):
    """Run cases beside the torch row of the model itself."""

    def run(*cases, **changes):
        quick = dataclasses.replace(settings, check_windows=16, **changes)
        options = {"held_out": short_sequences}
        every = [BuildCase(small_model, "torch", "fp32"), *cases]
        return harness.run(every, settings=quick, sequences=short_sequences, build_options=options)

    return run


def test_a_bundle_is_checked_and_counted_pose_by_pose(measure, bundle):
    report = measure(BundleCase(bundle), scenario="offline")
    one, many = report.rows
    assert (one.status, many.status) == ("ok", "ok"), many.reason
    assert many.checked.startswith("equal to torch within ")
    assert (one.emitted, many.emitted) == (1, 9)
    assert many.poses_per_s == pytest.approx(9 * many.fps * many.batch)
    assert one.poses_per_s == pytest.approx(one.fps * one.batch)
    assert many.poses_a_forward == 9 * many.batch
    assert many.mflop < one.mflop
    assert many.mflop_a_pose == pytest.approx(many.mflop / 9)
    assert many.lookahead_ms == 160
    assert many.title == "onnxruntime fp32, 9 poses a window"
    buffer = io.StringIO()
    tables.render(report, Console(file=buffer, width=120))
    assert "9 poses" in buffer.getvalue()
    assert "poses" in buffer.getvalue().splitlines()[1]


def test_a_live_camera_uses_one_pose_a_forward(measure, bundle):
    _, row = measure(BundleCase(bundle)).rows
    assert row.emitted == 9
    assert row.poses_per_s == pytest.approx(row.fps)
    assert row.mflop_a_pose == row.mflop


def test_mirroring_averages_every_pose(measure, bundle):
    _, row = measure(BundleCase(bundle), flip=True).rows
    assert row.status == "ok", row.reason
    assert row.change_mm == pytest.approx(0, abs=0.01)
    assert row.mpjpe_mm != pytest.approx(open_bundle(bundle).manifest.accuracy.after.mpjpe_mm, abs=1e-6)


def test_models_that_emit_differently_are_built_apart(measure, emitting):
    one, many = measure(BuildCase(emitting, "torch", "fp32")).rows
    for row, emitted in ((one, 1), (many, 9)):
        assert (row.status, row.emitted, row.backend) == ("ok", emitted, "torch"), row.reason
    assert many.mflop < one.mflop


@pytest.mark.parametrize("frame", [0, 4, 8])
def test_a_wrong_pose_anywhere_in_the_window_is_not_timed(measure, bundle, monkeypatch, frame):
    infer = Engine.infer

    def wrong(self, keypoints):
        poses = infer(self, keypoints)
        if poses.ndim == 4:
            poses[:, frame] += 0.01 * np.abs(poses).max()
        return poses

    monkeypatch.setattr(Engine, "infer", wrong)
    one, many = measure(BundleCase(bundle)).rows
    assert one.status == "ok"
    assert (many.status, many.p50_ms) == ("failed", None)
    assert "differs from the torch model" in many.reason


def test_poses_of_another_shape_are_refused(bundle, short_sequences):
    engine = pe.load_engine(bundle)
    data = held_out(short_sequences, engine.spec, 5)
    poses = engine.infer(data.windows)
    assert data.shape == (5, 9, 17, 3)
    for wrong in (poses[:, 4], poses[:, :8], data.by_frame(poses)):
        with pytest.raises(CheckError, match=r"not \(5, 9, 17, 3\)"):
            check_output(wrong, None, data, engine.manifest, 1.0)


def test_what_is_true_of_emitted_frames(short_sequences, emitting):
    """The keypoints and poses beside a window are those of its frames; past the end, of the last frame."""
    spec = emitting.lifter.window
    short = tuple(
        dataclasses.replace(sequence, keypoints=sequence.keypoints[:13], poses=sequence.poses[:13])
        for sequence in short_sequences[:2]
    )
    data = held_out(short, spec, 99)
    assert len(data.windows) == 4
    np.testing.assert_array_equal(data.keypoints.reshape(4, 9, 17, 2), data.windows[..., :2])
    expected = np.minimum(np.arange(18), 12)
    np.testing.assert_array_equal(data.poses[:18], short[0].poses[expected])
    np.testing.assert_array_equal(data.poses[18:], short[1].poses[expected])
    assert data.names == (short[0].name,) * 18 + (short[1].name,) * 18


def test_such_a_bundle_does_not_stand_in_for_the_model(small_model, emitting, bundle):
    assert BundleCase(bundle) not in default_cases(small_model, [bundle])[:5]
    assert BundleCase(bundle) in default_cases(emitting, [bundle])[:5]


@pytest.mark.parametrize("emitted", [None, (0, 27), (12, 3)])
def test_mflop_are_those_of_the_exported_graph(emitted):
    from pstmo_edge.export import export_onnx, exportable
    from pstmo_edge.graph import layer_precisions
    from pstmo_edge.models.emission import with_emitted

    graph = export_onnx(exportable(with_emitted(pe.create_model("p-stmo-s", 27).eval(), emitted)))
    inside = 2 * sum(layer.multiply_adds for layer in layer_precisions(graph)) / 1e6
    assert cost.mflop("p-stmo-s", 27, 13, emitted) == pytest.approx(inside, rel=0.001)


def test_the_recommendation_compares_like_with_like(make_row):
    from pstmo_edge.benchmarks.rows import recommend, summary

    rows = [
        make_row("onnxruntime", "fp32", 4.0, fps=250.0, poses_per_s=250.0),
        make_row("onnxruntime", "int8", 2.0, fps=500.0, poses_per_s=500.0),
        make_row("onnxruntime", "fp32", 3.0, fps=300.0, poses_per_s=2700.0, emitted=9),
    ]
    marked = recommend(rows, 1.0)
    assert marked[2].recommended
    text = summary(marked, 1.0)
    assert "onnxruntime fp32, 9 poses a window, 0.33 ms a pose (2700 poses/s)" in text
    assert "INT8 is 2.00 times as fast as FP32" in text
