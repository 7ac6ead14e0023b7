"""What stands where on the plot of speed against error: the front, the lanes, the published, and both axes."""

import dataclasses
import re

import pytest

from pstmo_edge.benchmarks import charts, looks, page, plots
from pstmo_edge.benchmarks.picture import log_ticks, nice_ticks, picture
from pstmo_edge.benchmarks.rows import Row


def front_of(make_row, *points):
    shown = picture([make_row(fps=fps, mpjpe_mm=error) for fps, error in points])
    return [(mark.speed, mark.mpjpe_mm) for mark in shown.front]


def test_the_front_holds_what_nothing_beats_in_both(make_row):
    assert front_of(make_row, (100, 45), (50, 44), (200, 47), (60, 46), (199, 47.5)) == [(50, 44), (100, 45), (200, 47)]
    assert front_of(make_row, (100, 45)) == [(100, 45)]
    assert front_of(make_row, (100, 45), (200, 44)) == [(200, 44)], "one that is better in both stands alone"
    assert front_of(make_row, (100, 45), (100, 44)) == [(100, 44)]


def test_errors_that_print_as_equal_are_equal(make_row):
    """Runtimes differ in the fifth decimal of a millimetre: that must not put a slower one on the front."""
    assert front_of(make_row, (100, 45.25001), (50, 45.25000), (20, 45.24)) == [(20, 45.24), (100, 45.25001)]


def test_the_front_is_a_staircase_from_the_left_edge_to_the_upper_one(make_row):
    shown = picture([make_row(fps=100, mpjpe_mm=45.0), make_row(fps=400, mpjpe_mm=48.0)])
    left, top = shown.x_range[0], shown.y_range[1]
    assert shown.staircase == [(left, 45.0), (100, 45.0), (100, 48.0), (400, 48.0), (400, top)]


def test_rows_without_an_error_are_in_lanes_and_never_on_the_error_axis(many):
    shown = picture(many.rows)
    assert [mark.number for mark in sorted(shown.marks, key=lambda mark: mark.number)] == [0, 1, 2, 6, 7]
    assert [(name, [mark.number for mark in marks]) for name, marks in shown.lanes] == [("anatomy3d 27", [3, 4, 5])]
    assert shown.lanes_note == "no weights: timed only"
    assert [mark.number for mark in shown.front] == [1, 2, 7]
    unknown = [dataclasses.replace(row, weights="") for row in many.rows]
    assert picture(unknown).lanes_note == "error not known: timed only"


def test_published_figures_are_no_marks_and_never_on_the_front(many):
    shown = picture(many.rows)
    (each,) = shown.published
    assert (each.label, each.fps, each.mpjpe_mm, each.device) == ("p-stmo-s 27", 3504, 43.0, "a GPU of theirs")
    assert all(mark.speed < 3504 for mark in (*shown.marks, *shown.front))
    without_speed = [dataclasses.replace(row, published={"mpjpe_mm": 46.8, "fps": None}) for row in many.rows]
    assert picture(without_speed).published == ()


def test_both_axes_hold_all_that_is_drawn(many):
    shown = picture(many.rows)
    speeds = [mark.speed for _, marks in shown.lanes for mark in marks] + [mark.speed for mark in shown.marks] + [3504]
    errors = [mark.mpjpe_mm for mark in shown.marks] + [43.0]
    assert shown.x_range[0] < min(speeds) < max(speeds) < shown.x_range[1]
    assert shown.y_range[0] < min(errors) < max(errors) < shown.y_range[1]


def test_no_axis_magnifies_noise(make_row):
    shown = picture([make_row(mpjpe_mm=45.000, fps=100.0), make_row(mpjpe_mm=45.004, fps=100.1)])
    assert shown.y_range[1] - shown.y_range[0] == pytest.approx(2.0)
    assert shown.x_range[1] / shown.x_range[0] == pytest.approx(4.0, rel=0.01)


def test_batches_count_all_their_poses(make_row):
    shown = picture([make_row(fps=10.0, batch=8, poses_per_s=80.0)])
    assert (shown.marks[0].speed, shown.unit) == (80.0, "poses/s")
    assert picture([make_row(fps=10.0)]).unit == "FPS"


def test_a_few_rows_are_all_named_and_models_once_each(many, make_row):
    assert {mark.label for mark in picture(many.rows).marks} == {"p-stmo-s 27", "videopose3d 27", ""}
    crowd = [make_row(fps=10.0 * number, mpjpe_mm=40.0 + number, name=str(number)) for number in range(1, 15)]
    crowd += [make_row(fps=5.0, mpjpe_mm=60.0, name="beaten")]
    named = [mark.label for mark in picture(crowd).marks if mark.label]
    assert len(named) == 14, "all of the front, and no other"
    assert not any("beaten" in label for label in named)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (9.0, 120.0, [10, 20, 50, 100]),
        (60.0, 240.0, [100, 200]),
        (1.0, 4000.0, [1, 3, 10, 30, 100, 300, 1000, 3000]),
        (0.5, 300_000.0, [1, 10, 100, 1000, 10_000, 100_000]),
        (0.004, 0.03, [0.005, 0.01, 0.02]),
    ],
)
def test_ticks_of_the_logarithmic_axis_are_round(low, high, ticks):
    assert log_ticks(low, high) == pytest.approx(ticks)


def test_ticks_of_the_error_axis_are_round():
    assert nice_ticks(44.0, 46.0, 5) == [44.0, 44.5, 45.0, 45.5, 46.0]


def test_the_chart_is_logarithmic(make_row):
    """Equal factors of speed are equal ways across."""
    rows = [make_row(fps=fps, mpjpe_mm=45.0 + fps / 1000, name=str(fps)) for fps in (10.0, 100.0, 1000.0)]
    places = [float(x) for x in re.findall(r'class="mark"[^>]* data-x="([\d.]+)"', charts.scatter(picture(rows), 940))]
    first, second, third = sorted(places)
    assert second - first == pytest.approx(third - second, abs=0.11)
    assert second - first > 200


def test_every_precision_has_a_marker_of_its_own(report, make_row):
    kinds = ("fp32", "int8", "fp16", "bf16", "fp8", "w8a16", "w4")
    rows = tuple(make_row("torch", kind, 5.0 + at, name=kind) for at, kind in enumerate(kinds))
    drawn = re.findall(r'<(?:circle|polygon) class="dot" [^>]*>', charts.scatter(picture(rows), 940))
    sides = {tag.count(",") if "points" in tag else 0 for tag in drawn}
    assert len(set(looks.shapes(rows).values())) == len(kinds)
    assert sides == {0, 3, 4, 5, 6}
    for marker in ("circle", "diamond", "square", "down", "up", "pentagon", "hexagon"):
        assert f'<i class="{marker}"></i>' in page.render(dataclasses.replace(report, rows=rows))


def test_bars_of_latencies_stand_where_the_percentiles_are(make_row):
    spread = tuple(2.0 ** (step / 5) for step in range(21))  # doubles every 25 percentiles
    row = make_row(percentiles_ms=spread, p99_ms=15.0, jitter_ms=0.4)
    drawn = charts.latencies([row], 940)
    bars = {
        css: (float(x), float(width))
        for css, x, width in re.findall(
            r'<rect class="(all|most|half)" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', drawn
        )
    }
    assert bars["half"][1] == pytest.approx(bars["all"][1] / 2, abs=0.2)
    assert bars["half"][0] == pytest.approx(bars["all"][0] + bars["all"][1] / 4, abs=0.2)
    assert bars["most"][1] == pytest.approx(bars["all"][1] * 0.9, abs=0.2)
    assert "half within 2.00 to 8.00 ms, 90 % within 1.15 to 13.9 ms" in drawn
    assert "largest, ms\t16.0" in drawn


def test_no_picture_needs_any_row_that_passed(no_moments):
    failed = (Row("torch", "fp32", "failed", "no"),)
    assert "no row passed its check" in charts.scatter(picture(failed), 940)
    assert plots.fps_vs_mpjpe(dataclasses.replace(no_moments, rows=failed)).startswith(b"\x89PNG")


def test_only_timed_rows_make_a_picture_too(many):
    timed = tuple(row for row in many.rows if row.weights)
    drawn = charts.scatter(picture(timed), 940)
    assert "MPJPE in mm" not in drawn, "an error axis without errors"
    assert drawn.count('class="mark"') == 3
    assert plots.fps_vs_mpjpe(dataclasses.replace(many, rows=timed)).startswith(b"\x89PNG")
