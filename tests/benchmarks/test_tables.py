"""The table on terminals and elsewhere."""

import dataclasses
import io

import pytest
from rich.console import Console

from pstmo_edge.benchmarks import tables


def shown(report, width, encoding="utf-8"):
    buffer = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    tables.render(report, Console(file=buffer, width=width))
    buffer.seek(0)
    return buffer.read()


def cells_of(text, start):
    return next(line for line in text.splitlines() if line.strip("★> ").startswith(start)).strip("★> ").split()


@pytest.mark.parametrize("width", [80, 100, 160])
def test_every_figure_is_readable(report, width):
    text = shown(report, width)
    numbers = ["5.0", "45.10", "+0.10", "3.00", "3.60", "6.00", "300", "80"]
    assert cells_of(text, "onnxruntime") == ["onnxruntime", "int8", "ok", *numbers]
    assert cells_of(text, "openvino") == ["openvino", "int8", "failed", *"--------"]
    assert "…" not in text.split("\n\n")[0].replace("<i>my</i> …", "")
    assert max(map(len, text.splitlines())) <= width


def test_the_columns_are_those_that_were_promised(report):
    head = " ".join(shown(report, 100).split("─")[0].split())
    for name in ("backend", "precision", "status", "size", "MPJPE", "change", "p50", "p90", "p99", "FPS", "look-ahead"):
        assert name in head


def test_the_recommended_row_is_marked_and_the_rest_is_said(report):
    text = shown(report, 160)
    assert [line.split()[1] for line in text.splitlines() if line.startswith("★")] == ["onnxruntime"]
    said = " ".join(text.split())  # lines are broken where the terminal ends
    assert report.summary in said
    assert report.setting in said
    assert "openvino int8 (<i>my</i> engine) failed: refused: <script>alert('x')</script> & more" in said


def test_plain_ascii_is_enough(report):
    text = shown(report, 100, encoding="ascii")
    assert text.isascii()
    assert "> onnxruntime" in text


def test_a_busy_machine_is_mentioned(report):
    assert "busy" not in shown(report, 100)
    rows = tuple(dataclasses.replace(row, noise=0.3) if row.noise else row for row in report.rows)
    assert "medians moved by up to ±30% between rounds" in shown(dataclasses.replace(report, rows=rows), 200)


def test_numbers_keep_three_digits(make_row):
    row = make_row(p50=0.1234, p90_ms=12.345, p99_ms=123.45, change_mm=-0.0004)
    assert tables.cells(row)[5:9] == ("0.00", "0.12", "12.3", "123")
