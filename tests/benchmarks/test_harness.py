"""From cases to rows: what fails is a row, and what was not checked is not timed."""

import dataclasses
import json

import numpy as np
import pytest
from jetson_trees import write_board

from pstmo_edge.benchmarks import cases as cases_module
from pstmo_edge.benchmarks import devices, harness, provenance, tables
from pstmo_edge.benchmarks.cases import DEFAULT_ROWS, BuildCase, BundleCase, default_cases
from pstmo_edge.benchmarks.harness import run, run_report
from pstmo_edge.bundle import open_bundle, write_bundle
from pstmo_edge.errors import AccuracyError, BackendError, UsageError


@pytest.fixture
def bench(shop, fakes, settings, tmp_path):
    """Run cases of (backend, precision) with what the shop has in stock."""
    model = fakes.model()

    def measure(*kinds, **options):
        wanted = [BuildCase(model, *kind) for kind in kinds or shop.stock]
        return run(wanted, settings=settings, sequences=fakes.sequences(), work=tmp_path, **options)

    return measure


def stock_all(shop, fakes):
    for backend, precision in DEFAULT_ROWS:
        drop = 0.1 if precision == "int8" else 0.0
        shop.stock[backend, precision] = fakes.Engine(fakes.manifest(backend, precision, drop))


def test_every_case_becomes_a_row_in_order(bench, shop, fakes):
    stock_all(shop, fakes)
    report = bench()
    assert [(row.backend, row.precision, row.status) for row in report.rows] == [(*row, "ok") for row in DEFAULT_ROWS]
    row = report.rows[2]
    assert row.mpjpe_mm == pytest.approx(fakes.ERROR_MM + 0.1)
    assert row.change_mm == pytest.approx(0.1)
    assert row.lookahead_ms == 80.0
    assert 0 < row.p50_ms <= row.p90_ms <= row.p99_ms
    assert row.fps > 0
    assert row.checked.startswith("0.00 mm from torch on average")
    assert report.rows[0].checked == "equal to torch within 0 of the largest output"
    assert report.checked_windows == 40
    assert report.data == "toy motion, gt keypoints"
    assert "without mirroring" in report.setting
    assert shop.prepared == 1, "the graph is exported once, not once an engine"


def test_engines_are_timed_one_window_at_a_time(bench, shop, fakes):
    engine = fakes.Engine(fakes.manifest())
    shop.stock["onnxruntime", "fp32"] = engine
    (row,) = bench().rows
    checked, timed = engine.batches[0], engine.batches[1:]
    assert checked == 40
    assert set(timed) == {1}
    assert 2 <= row.samples < len(timed), "the warm-up must not count"


def wrong_outputs(fakes):
    def elsewhere(windows):
        return fakes.lift(windows) + np.float32(0.3)

    def not_finite(windows):
        poses = fakes.lift(windows)
        poses[0, 3] = np.nan
        return poses

    return {
        "a little off": (lambda windows: fakes.lift(windows) * np.float32(1.001), "fp32", "of the largest output"),
        "elsewhere": (elsewhere, "int8", "mm from the torch model's on average"),
        "not finite": (not_finite, "int8", "not finite"),
        "another shape": (lambda windows: fakes.lift(windows)[:, :16], "fp32", "poses have shape (40, 16, 3)"),
    }


@pytest.mark.parametrize("kind", ["a little off", "elsewhere", "not finite", "another shape"])
def test_wrong_output_is_not_timed(bench, shop, fakes, kind):
    infer, precision, reason = wrong_outputs(fakes)[kind]
    engine = fakes.Engine(fakes.manifest(precision=precision), infer)
    shop.stock["onnxruntime", precision] = engine
    report = bench()
    (row,) = report.rows
    assert (row.status, row.p50_ms, row.fps) == ("failed", None, None)
    assert "wrong output" in row.reason
    assert reason in row.reason
    assert 1 not in engine.batches, "it was timed"
    assert report.recommended is None


def test_int8_that_loses_too_much_on_a_second_look_is_not_timed(bench, shop, fakes):
    def worse(windows):
        poses = fakes.lift(windows)
        poses[..., 2] += 0.004  # in the direction of its error: 4 mm
        return poses

    shop.stock["onnxruntime", "int8"] = fakes.Engine(fakes.manifest(precision="int8"), worse)
    (row,) = bench().rows
    assert row.status == "failed"
    assert "it loses 3.76 mm on 40 held-out windows, the limit is 1 mm" in row.reason


def test_a_manifest_above_the_limit_is_not_timed(bench, shop, fakes):
    shop.stock["onnxruntime", "int8"] = fakes.Engine(fakes.manifest(precision="int8", drop=1.5))
    assert bench().rows[0].reason == "its manifest says it loses 1.50 mm, the limit is 1 mm"


def test_what_cannot_be_built_is_a_row_with_its_reason(bench, shop, fakes):
    stock_all(shop, fakes)
    shop.stock["onnxruntime", "int8"] = AccuracyError("int8 raises the error by 3.00 mm")
    shop.stock["openvino", "fp32"] = RuntimeError("first line\nsecond line " + "x" * 1000)
    report = bench()
    ok, int8, fp32 = report.rows[1], report.rows[2], report.rows[3]
    assert ok.status == "ok"
    assert (int8.status, int8.reason) == ("failed", "int8 raises the error by 3.00 mm")
    assert fp32.status == "failed"
    assert fp32.reason.startswith("RuntimeError: first line second line xxx")
    assert len(fp32.reason) == 400
    assert report.recommended is not None


def test_an_absent_runtime_is_missing(bench, shop, fakes, monkeypatch):
    stock_all(shop, fakes)
    command = "the openvino backend needs openvino, not installed here: pip install 'pstmo-edge[openvino]'"
    shop.stock["openvino", "fp32"] = shop.stock["openvino", "int8"] = BackendError(command)
    monkeypatch.setattr(cases_module, "installed_version", lambda name: None if name == "openvino" else "1.0")
    rows = bench().rows
    absent = [row for row in rows if row.backend == "openvino"]
    assert [(row.status, row.reason) for row in absent] == [("missing", command)] * 2
    assert all(row.status == "ok" for row in rows if row.backend != "openvino")


def test_an_engine_that_breaks_while_it_is_timed_is_a_failed_row(bench, shop, fakes):
    def breaks(windows):
        if len(windows) == 1:
            raise MemoryError
        return fakes.lift(windows)

    stock_all(shop, fakes)
    shop.stock["onnxruntime", "fp32"] = fakes.Engine(fakes.manifest(), breaks)
    rows = bench().rows
    assert (rows[1].status, rows[1].reason) == ("failed", "failed while it was timed: MemoryError")
    assert [row.status for row in rows].count("ok") == len(DEFAULT_ROWS) - 1


def test_an_interrupt_is_no_row(bench, shop, fakes):
    def interrupted(windows):
        raise KeyboardInterrupt

    shop.stock["torch", "fp32"] = fakes.Engine(fakes.manifest("torch"), interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench()


def test_build_gets_the_limit_and_the_callers_options(bench, shop, fakes):
    stock_all(shop, fakes)
    told = []
    bench(("onnxruntime", "int8"), build_options={"target": "generic"}, progress=lambda *step: told.append(step))
    ((_, options),) = shop.built.values()
    assert options["max_drop_mm"] == 1.0
    assert options["target"] == "generic"
    assert options["prepared"] == "graph"
    assert told[0][0] == "onnxruntime int8: building"
    assert told[-1] == ("timing 1 engines in turns", 100, 100)


def bundle(fakes, folder, **changes):
    write_bundle(folder, fakes.manifest(**changes), {"model.onnx": b"x" * 1000, "notes.txt": b"y" * 24})
    return folder


def test_existing_bundles_stand_in_for_builds(fakes, tmp_path):
    engine = bundle(fakes, tmp_path / "engine", precision="int8")
    other = bundle(fakes, tmp_path / "other", precision="int8", digest="b" * 64)
    model = fakes.model()
    cases = default_cases(model, [engine, other, tmp_path / "absent"])
    assert [(case.backend, case.precision) for case in cases if isinstance(case, BuildCase)] == [
        row for row in DEFAULT_ROWS if row != ("onnxruntime", "int8")
    ]
    assert cases[2] == BundleCase(engine)
    assert cases[len(DEFAULT_ROWS) :] == [BundleCase(other), BundleCase(tmp_path / "absent")]


def test_bundles_of_other_weights_are_checked_against_their_manifest(shop, fakes, settings, tmp_path, monkeypatch):
    monkeypatch.setattr("pstmo_edge.models.zoo.bundled_weights", lambda: ())
    good = bundle(fakes, tmp_path / "good", digest="b" * 64)
    bad = bundle(fakes, tmp_path / "bad", digest="b" * 64)
    shop.built[good] = fakes.Engine(open_bundle(good).manifest), {}
    shop.built[bad] = fakes.Engine(open_bundle(bad).manifest, lambda windows: 3 * fakes.lift(windows)), {}
    report = run([BundleCase(good), BundleCase(bad)], settings=settings, sequences=fakes.sequences())
    assert [row.name for row in report.rows] == ["good", "bad"], "two rows of one kind are told apart by name"
    assert report.rows[0].checked == "18.8 mm on held-out windows (manifest: 18.8); its torch model is not at hand"
    assert report.rows[0].size_bytes == 1024
    assert report.rows[1].status == "failed"
    assert "its manifest promises 18.8 mm" in report.rows[1].reason


def test_a_bundle_that_does_not_open_is_a_failed_row(settings, fakes, tmp_path):
    report = run([BundleCase(tmp_path / "absent")], settings=settings, sequences=fakes.sequences())
    (row,) = report.rows
    assert (row.backend, row.name, row.status) == ("?", "absent", "failed")
    assert row.reason.startswith("no such bundle: ")
    assert report.data == "nothing"
    json.dumps(report.to_dict(), allow_nan=False)


def test_run_report_writes_its_report(shop, fakes, settings, tmp_path, monkeypatch):
    stock_all(shop, fakes)
    monkeypatch.setattr("pstmo_edge.datasets.load_sequences", lambda *_: fakes.sequences())
    report = run_report(default_cases(fakes.model()), tmp_path / "report", settings=settings)
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [row["backend"] for row in written["rows"]] == [row[0] for row in DEFAULT_ROWS]
    assert written["recommended"] == report.recommended.to_dict()
    windows = {action: values["windows"] for action, values in written["actions"].items()}
    assert sorted(windows) == ["<b>Waving</b>", "Sitting", "Walking"], "takes of one action are one"
    assert sum(windows.values()) == 40
    assert not list(tmp_path.glob("*.part"))


def test_an_existing_report_is_refused_before_anything_is_measured(shop, fakes, tmp_path):
    (tmp_path / "report").mkdir()
    with pytest.raises(UsageError, match="exists already; add --force"):
        run_report(default_cases(fakes.model()), tmp_path / "report")
    (tmp_path / "report" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="is no folder with a report"):
        run_report(default_cases(fakes.model()), tmp_path / "report", force=True)
    assert shop.prepared == 0
    assert (tmp_path / "report" / "thesis.txt").read_text() == "mine"


def test_errors_become_one_line():
    assert harness.one_line(ValueError("a\n  b")) == "ValueError: a b"
    assert harness.one_line(KeyError()) == "KeyError"
    assert harness.one_line(BackendError("two\nlines")) == "two lines"


def test_settings_are_plain_values(settings):
    assert settings.to_dict()["timing"]["rounds"] == 2
    assert dataclasses.replace(settings, threads=1).to_dict()["threads"] == 1


def test_power_and_throttling_of_a_board_are_reported(bench, shop, fakes, tmp_path, monkeypatch):
    """A board that draws 6.21 W and starts to throttle while it is measured."""
    root, reads = tmp_path / "board", []
    write_board(root, "orin-nano")

    def read(given=root):
        reads.append(given)
        if len(reads) == 3:
            write_board(root, "orin-nano", throttled=True)
        return devices.read_device(given)

    shop.stock["onnxruntime", "fp32"] = fakes.Engine(fakes.manifest())
    monkeypatch.setattr(provenance, "read_device", read)
    monkeypatch.setattr(harness, "read_device", read)
    monkeypatch.setattr(harness, "PowerMeter", lambda: devices.PowerMeter(root))
    report = bench()
    (row,) = report.rows
    assert row.power_w == pytest.approx(6.21, abs=0.01)
    assert 0 < row.energy_mj < 1e3 * row.power_w
    assert report.provenance["device"]["module"] == "Orin Nano 8GB (developer kit)"
    assert tables.throttling_note(report).startswith(
        "The device throttled while it was measured: cpu-throttle-alert was active; 2 over-current events"
    )
