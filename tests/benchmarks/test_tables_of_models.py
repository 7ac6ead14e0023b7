"""Tables of many models: published figures beside measured ones, models without weights, interrupted runs."""

import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console

from pstmo_edge.benchmarks import cases, cost, harness, tables
from pstmo_edge.benchmarks.published import PUBLISHED, TABLES
from pstmo_edge.benchmarks.report import Report
from pstmo_edge.errors import DataError, UsageError
from pstmo_edge.models.zoo import create_model
from pstmo_edge.train.recipes import get_recipe
from pstmo_edge.train.stages import write_weights


@pytest.fixture
def tiny_table(monkeypatch):
    """A table of two small models instead of six large ones."""
    monkeypatch.setitem(TABLES, "tiny", (("p-stmo-s", 9), ("videopose3d", 9)))
    monkeypatch.setattr(cases, "DEFAULT_ROWS", (("torch", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8")))
    monkeypatch.setitem(PUBLISHED, ("p-stmo-s", 9), {"mpjpe_mm": 11.5, "fps": 1234, "device": "a GPU of theirs"})


@pytest.fixture
def quick(settings):
    return dataclasses.replace(settings, check_windows=16)


def shown(report, width=120):
    buffer = io.StringIO()
    tables.render(report, Console(file=buffer, width=width))
    return buffer.getvalue()


def test_models_without_weights_are_timed_and_have_no_error(tiny_table, quick, short_sequences):
    report = harness.run(cases.table_cases("tiny"), settings=quick, sequences=short_sequences)
    assert [(row.model, row.backend, row.precision, row.status) for row in report.rows] == [
        (model, *kind, "ok") for model in ("p-stmo-s", "videopose3d") for kind in cases.DEFAULT_ROWS
    ]
    for row in report.rows:
        assert row.weights == "random"
        assert (row.mpjpe_mm, row.p_mpjpe_mm, row.change_mm) == (None, None, None)
        assert row.fps > 0
        assert row.mflop > 0
        assert 0 < row.limit_share < 2
        assert len(row.percentiles_ms) == 21
    assert report.rows[0].published["fps"] == 1234
    assert report.rows[3].published is None
    assert report.moments == ()
    text = shown(report)
    assert "no weights" in text
    first = next(line for line in text.splitlines() if line.strip().startswith("p-stmo-s 9"))
    assert first.split()[3:5] == ["11.5", "1234"]
    assert "Neither was measured here" in " ".join(text.split())
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_weights_come_from_a_folder(tiny_table, tmp_path):
    model = create_model("videopose3d", 9)
    write_weights(tmp_path / "videopose3d-9.safetensors", model, get_recipe("tiny"))
    found = cases.table_cases("tiny", tmp_path)
    assert [case.model.lifter.weights for case in found[::3]] == ["random", "videopose3d-9.safetensors"]
    (tmp_path / "videopose3d-9.pth").write_bytes(b"")
    with pytest.raises(UsageError, match="holds more than one videopose3d-9: "):
        cases.table_cases("tiny", tmp_path)
    with pytest.raises(DataError, match="no such folder of weights"):
        cases.table_cases("tiny", tmp_path / "absent")
    with pytest.raises(UsageError, match="unknown table 'tini': did you mean 'tiny'"):
        cases.table_cases("tini")


def test_random_weights_are_the_same_at_every_call(tiny_table):
    one, two = (cases.table_cases("tiny") for _ in range(2))
    assert one[0].model.lifter.weights_sha256 == two[0].model.lifter.weights_sha256


def test_models_are_named_on_the_command_line():
    assert {case.model.lifter.weights for case in cases.model_cases("p-stmo-s-27")} == {"bundled"}
    (case, *_) = cases.model_cases("poseformer-9")
    assert (case.model.lifter.name, case.model.lifter.frames, case.model.lifter.weights) == ("poseformer", 9, "random")
    with pytest.raises(UsageError, match="neither an engine nor weights in the box"):
        cases.model_cases("nothing")
    with pytest.raises(UsageError, match="unknown model 'p-stmo-x'"):
        cases.model_cases("p-stmo-x-27")


def test_an_interrupted_run_goes_on(tiny_table, quick, short_sequences, tmp_path, monkeypatch):
    wanted, kept = cases.table_cases("tiny"), tmp_path / "kept.json"
    measure, told = harness._Bench.measure, []

    def stopped(bench, group):
        if group[0].model.lifter.name == "videopose3d":
            raise KeyboardInterrupt
        return measure(bench, group)

    monkeypatch.setattr(harness._Bench, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        harness.run(wanted, settings=quick, sequences=short_sequences, unfinished=kept)
    first = json.loads(kept.read_text())["groups"]
    assert len(first) == 1

    monkeypatch.setattr(harness._Bench, "measure", measure)
    report = harness.run(
        wanted,
        settings=quick,
        sequences=short_sequences,
        unfinished=kept,
        progress=lambda text, done, total: told.append(text),
    )
    assert [row.to_dict() for row in report.rows[:3]] == [
        {**row, "name": ""} for row, _ in next(iter(first.values()))
    ], "finished rows are kept as they were"
    assert all(row.status == "ok" for row in report.rows)
    assert any("measured before the interruption" in text for text in told)
    # Rows of other settings are of another run.
    told.clear()
    changed = dataclasses.replace(quick, check_windows=17)
    harness.run(
        wanted,
        settings=changed,
        sequences=short_sequences,
        unfinished=kept,
        progress=lambda text, done, total: told.append(text),
    )
    assert not any("measured before the interruption" in text for text in told)


@pytest.mark.parametrize(("name", "frames", "wanted"), [("p-stmo-s", 243, 1727.8), ("p-stmo-s", 27, 166.0)])
def test_the_arithmetic_of_a_window_is_known(name, frames, wanted):
    """Figures counted on the published code, of which the per-frame head is left out where the centre is asked for."""
    per_frame_head = 2 * 256 * 51 * frames / 1e6
    assert cost.mflop(name, frames) + per_frame_head == pytest.approx(wanted, rel=0.002)


def test_offline_finds_its_batch_and_streams_share_one(quick, short_sequences, tiny_table):
    (torch_case, ort_case, _, *_) = cases.table_cases("tiny")
    offline = dataclasses.replace(quick, scenario="offline", timing_windows=64)
    (row,) = harness.run([ort_case], settings=offline, sequences=short_sequences).rows
    assert row.batch in {2**power for power in range(9)}
    assert row.poses_per_s == pytest.approx(row.fps * row.batch)
    many = dataclasses.replace(quick, scenario="multi-stream", streams=3)
    report = harness.run([torch_case], settings=many, sequences=short_sequences)
    assert report.rows[0].batch == 3
    assert "3 streams, whose windows share a forward" in report.setting
    with pytest.raises(UsageError, match="unknown scenario 'ofline': did you mean 'offline'"):
        dataclasses.replace(quick, scenario="ofline")


def test_mirroring_counts_both_forwards(quick, short_sequences):
    (_, case, *_) = cases.model_cases("p-stmo-s-27")
    plain, flipped = (
        harness.run(
            [case],
            settings=dataclasses.replace(quick, flip=flip),
            sequences=short_sequences,
            build_options={"held_out": short_sequences},
        ).rows[0]
        for flip in (False, True)
    )
    assert flipped.mpjpe_mm != plain.mpjpe_mm
    assert flipped.change_mm == pytest.approx(0, abs=0.01)
    assert np.isfinite(flipped.p_mpjpe_mm)
