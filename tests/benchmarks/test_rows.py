"""Which row is recommended, and what is said about INT8."""

import json

import pytest

from pstmo_edge.benchmarks.rows import Row, recommend, summary


def best(*rows, limit=1.0):
    return next((row for row in recommend(rows, limit) if row.recommended), None)


def test_the_fastest_row_within_the_limit_wins(make_row):
    fast_and_wrong = make_row("openvino", "int8", 1.0, change_mm=1.4)
    found = best(make_row(p50=4.0), make_row("openvino", p50=3.0), fast_and_wrong)
    assert found.title == "openvino fp32"
    assert best(make_row(p50=4.0), fast_and_wrong, limit=2.0).title == "openvino int8"


def test_a_tie_goes_to_the_smaller_error(make_row):
    exact, lossy = make_row(p50=4.1), make_row(precision="int8", p50=4.0, mpjpe_mm=45.3, change_mm=0.3)
    assert best(exact, lossy).precision == "fp32"
    assert best(make_row(p50=4.2), lossy).precision == "int8"  # 5 % is no tie


def test_the_same_error_goes_to_the_smaller_file(make_row):
    large, small = make_row(p50=4.0), make_row(precision="int8", p50=4.1, mpjpe_mm=45.03, change_mm=0.03)
    assert best(large, small).precision == "int8"


@pytest.mark.parametrize("status", ["failed", "missing"])
def test_rows_without_times_are_never_recommended(status, make_row):
    assert best(Row("openvino", "int8", status, "no such runtime")) is None
    assert best(Row("openvino", "int8", status, "no such runtime"), make_row()).title == "onnxruntime fp32"


def test_a_row_whose_error_nobody_measured_is_not_recommended(make_row):
    assert best(make_row(p50=1.0, mpjpe_mm=None, change_mm=None), make_row(p50=9.0)).p50_ms == 9.0


def test_only_one_row_is_marked(make_row):
    rows = recommend([make_row(), make_row(), make_row()], 1.0)
    assert [row.recommended for row in rows] == [True, False, False]


def say(*rows, **options):
    return summary(recommend(rows, 1.0), 1.0, **options)


def test_it_says_what_int8_brings(make_row):
    text = say(make_row(p50=4.0), make_row(precision="int8", p50=2.5, mpjpe_mm=45.04, change_mm=0.04))
    assert text.startswith("Recommended: onnxruntime int8, 2.50 ms a pose (360 FPS): the fastest.")
    assert "INT8 is 1.60 times as fast as FP32 here (onnxruntime int8 2.50 ms, onnxruntime fp32 4.00 ms)" in text
    assert "its file is 0.28 of the size and the error changes by +0.04 mm." in text


def test_it_says_plainly_when_int8_does_not_pay(make_row):
    rows = make_row(p50=4.0), make_row(precision="int8", p50=5.0, mpjpe_mm=45.04, change_mm=0.04)
    assert "INT8 does not pay in speed on this machine: it is 25% slower than FP32" in say(*rows)
    assert "this machine, whose CPU has no VNNI instructions: it is 25% slower" in say(*rows, without_vnni=True)
    assert "it is no faster than FP32" in say(make_row(p50=4.0), make_row(precision="int8", p50=4.05))


def test_it_says_when_a_faster_row_was_too_inexact(make_row):
    text = say(make_row(p50=4.0), make_row(precision="int8", p50=2.0, change_mm=3.0))
    assert "Recommended: onnxruntime fp32, 4.00 ms a pose (225 FPS): the fastest that loses no more than 1 mm" in text


def test_it_says_when_there_is_nothing_to_recommend_or_compare(make_row):
    assert say(Row("torch", "fp32", "failed", "x")).startswith("No row can be recommended")
    assert say(make_row()).endswith("No INT8 row passed, so INT8 brings nothing here.")


def test_a_row_survives_json(make_row):
    row = make_row(left_in_float=("fcn.1", "encoder.fc_1"), int8_share=0.97, recommended=True)
    assert Row.from_dict(json.loads(json.dumps(row.to_dict()))) == row
