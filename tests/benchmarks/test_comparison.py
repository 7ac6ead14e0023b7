"""Two results side by side, as `pstmo-edge bench --compare` shows them."""

import dataclasses
import json
import sys

import pytest

from pstmo_edge import cli
from pstmo_edge.benchmarks import comparison
from pstmo_edge.benchmarks.report import write_report
from pstmo_edge.errors import DataError, UsageError


@pytest.fixture
def faster(report, make_row):
    """The same benchmark on another machine: torch twice as fast, no OpenVINO."""
    rows = (make_row("torch", "fp32", 4.0, mpjpe_mm=44.5), report.rows[1], make_row("native", "fp32", 1.0))
    provenance = {**report.provenance, "cpu": "Faster CPU"}
    return dataclasses.replace(report, rows=rows, provenance=provenance)


def test_pairs_and_what_only_one_has(report, faster):
    found = comparison.compare(report, faster)
    torch, ort = found.pairs
    assert torch.title == "p-stmo-s 9 torch fp32"
    assert torch.speed_ratio == pytest.approx(2.0)
    assert torch.difference_mm == pytest.approx(-0.5)
    assert (ort.speed_ratio, ort.difference_mm) == (1.0, 0.0)
    assert found.only[1] == ("p-stmo-s 9 native fp32",)
    assert found.where[0].startswith("Fast & <Cheap> CPU")
    assert found.where[1].startswith("Faster CPU")
    assert found.notes == ()


def test_what_makes_them_hard_to_compare_is_said(report, faster):
    settings = {**faster.provenance["settings"], "scenario": "offline"}
    other = dataclasses.replace(faster, data="other motion", provenance={**faster.provenance, "settings": settings})
    notes = comparison.compare(report, other).notes
    assert notes == (
        "errors are on other data: A toy <motion>; B other motion",
        "scenario: A single-stream, B offline",
    )


def test_the_command_prints_both(report, faster, tmp_path, monkeypatch, capsys):
    write_report(report, tmp_path / "a")
    write_report(faster, tmp_path / "b")
    paths = [str(tmp_path / "a"), str(tmp_path / "b" / "report.json")]
    monkeypatch.setattr(sys, "argv", ["pstmo-edge", "bench", "--compare", *paths])
    with pytest.raises(SystemExit):
        cli.main()
    text = capsys.readouterr().out
    assert "B: Faster CPU" in text
    assert "p-stmo-s 9 torch fp32" in text
    assert "2.00" in text
    assert "-0.50" in text
    assert "only in B: p-stmo-s 9 native fp32" in text
    monkeypatch.setattr(sys, "argv", ["pstmo-edge", "bench", "--compare", "--json", *paths])
    with pytest.raises(SystemExit):
        cli.main()
    assert json.loads(capsys.readouterr().out)["pairs"][0]["speed_ratio"] == pytest.approx(2.0)


def test_what_is_no_result_is_one_clear_line(report, tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(DataError, match="no such result"):
        comparison.read_report(path)
    path.write_text("half a fi")
    with pytest.raises(DataError, match="is no JSON"):
        comparison.read_report(path)
    path.write_text("[1]")
    with pytest.raises(DataError, match="is no report of a benchmark"):
        comparison.read_report(path)
    path.write_text(json.dumps({**report.to_dict(), "schema_version": 99}))
    with pytest.raises(UsageError, match="has schema 99, this version reads 1"):
        comparison.read_report(path)
    path.write_text(json.dumps({"schema_version": 1}))
    with pytest.raises(UsageError, match="it lacks checked_windows, data, provenance, rows, summary"):
        comparison.read_report(path)
