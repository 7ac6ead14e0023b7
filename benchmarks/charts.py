"""The page's two charts as inline SVG: speed against error, and how the latencies of each row spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from pstmo_edge.benchmarks import labels, looks, svg, tables
from pstmo_edge.benchmarks.picture import (
    Mark,
    Picture,
    Published,
    log_ticks,
    model_name,
    nice_ticks,
    several_models,
)
from pstmo_edge.benchmarks.rows import Row

WIDE, NARROW = 940.0, 380.0  # pixels; a page shows the one that fits
_LETTER, _LINE = 7.3, 15.0  # mean width of a 13-pixel letter and height of its line, in pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 14.0, 14.0, 46.0
_LONGEST = 40  # letters of a name beside its bar
_LANE = 38.0  # height of the lane of a model without weights, its name above its marks


@dataclass(frozen=True)
class _Frame:
    """The part of a chart that data stand in, in pixels, and what its edges mean."""

    left: float
    top: float
    right: float
    bottom: float
    x_range: tuple[float, float]
    y_range: tuple[float, float] = (0.0, 1.0)

    def x(self, value: float) -> float:
        low, high = (math.log(edge) for edge in self.x_range)
        return self.left + (math.log(value) - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    @property
    def box(self) -> labels.Box:
        return self.left, self.top, self.right, self.bottom


def scatter(shown: Picture, width: float) -> str:
    """Speed against error as an SVG of that many pixels; marks carry their row's number in `data-row`.

    Rows without an error stand in lanes below the plot, one a model; published figures are crosses.
    """
    room = (386.0 if width > NARROW else 330.0) if shown.has_errors else 0.0
    lanes = _LANE * len(shown.lanes) + (30.0 if shown.lanes else 0.0)
    bottom = _TOP + max(room + lanes, 80.0)
    frame = _Frame(_LEFT, _TOP, width - _RIGHT, _TOP + room, shown.x_range, shown.y_range)
    parts = [*_speed_axis(shown, frame, bottom, width)]
    if shown.has_errors:
        parts += [*_error_axis(frame), *_front(shown, frame), *_marks(shown, frame, width <= NARROW)]
    parts += _lanes(shown, frame, bottom)
    if not shown.has_errors and not shown.lanes:
        parts.append(svg.text("axis", width / 2, _TOP + 44, "no row passed its check", "middle"))
    what = f"{shown.unit} against MPJPE; the table below holds the same figures"
    return _chart("scatter", width, bottom + _BOTTOM, what, parts)


def latencies(rows: Sequence[Row], width: float) -> str:
    """For each row with a distribution a bar of its latencies, on one logarithmic axis; grouped by model."""
    timed = [(number, row) for number, row in enumerate(rows) if row.status == "ok" and row.percentiles_ms]
    several = several_models(rows)
    narrow = width <= NARROW
    low, high = min(row.percentiles_ms[0] for _, row in timed), max(row.percentiles_ms[-1] for _, row in timed)
    names = 28 + _LETTER * min(max(len(row.title) for _, row in timed), _LONGEST)
    frame = _Frame(14.0 if narrow else names, 0, width - (14.0 if narrow else 24.0), 0, (low / 1.12, high * 1.12))
    parts: list[str] = []
    y = 6.0
    for name, group in groupby(timed, key=lambda item: model_name(item[1])):
        if several:
            parts.append(svg.text("lane-name", 14, y + 18, name, "start"))
            y += 26
        for number, row in group:
            parts.append(_latency(number, row, frame, y, narrow))
            y += 46 if narrow else 30
        y += 8 if several else 0
    ticks = log_ticks(*frame.x_range, most=6 if narrow else 10)
    rules = [svg.line("rule", frame.x(tick), 6, frame.x(tick), y) for tick in ticks]
    numbers = [svg.text("tick", frame.x(tick), y + 18, f"{tick:g}", "middle") for tick in ticks]
    axis = svg.text("axis", (frame.left + frame.right) / 2, y + 40, "← ms a forward, less is better", "middle")
    return _chart("latency", width, y + _BOTTOM, "Latencies of each row", [*rules, *parts, *numbers, axis])


def _chart(kind: str, width: float, height: float, what: str, parts: Sequence[str]) -> str:
    size = "wide" if width > NARROW else "narrow"
    return (
        f'<svg class="chart {kind} {size}" viewBox="0 0 {width:g} {height:g}" role="group" '
        f'aria-label="{escape(what)}">{"".join(parts)}</svg>'
    )


def _speed_axis(shown: Picture, frame: _Frame, bottom: float, width: float) -> list[str]:
    parts = []
    for tick in log_ticks(*shown.x_range, most=6 if width <= NARROW else 10):
        parts.append(svg.line("rule", frame.x(tick), frame.top, frame.x(tick), bottom))
        parts.append(svg.text("tick", frame.x(tick), bottom + 18, f"{tick:g}", "middle"))
    name = f"{shown.unit}, logarithmic → more is better"
    return [*parts, svg.text("axis", (frame.left + frame.right) / 2, bottom + 40, name, "middle")]


def _error_axis(frame: _Frame) -> list[str]:
    parts = []
    for tick in nice_ticks(*frame.y_range, count=5):
        parts.append(svg.line("rule", frame.left, frame.y(tick), frame.right, frame.y(tick)))
        parts.append(svg.text("tick", frame.left - 8, frame.y(tick) + 4, f"{tick:g}", "end"))
    middle = (frame.top + frame.bottom) / 2
    turned = f'transform="rotate(-90 12 {middle:g})"'
    return [*parts, svg.text("axis", 12, middle, "← MPJPE in mm, less is better", "middle", turned)]


def _front(shown: Picture, frame: _Frame) -> list[str]:
    """The Pareto front: to its upper left is what some row beats in speed and error."""
    corners = [(frame.x(speed), frame.y(error)) for speed, error in shown.staircase]
    if not corners:
        return []
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    area = f"{line} {frame.left:.1f},{frame.top:.1f}"
    return [f'<polygon class="beaten" points="{area}"/>', f'<polyline class="front" points="{line}"/>']


def _marks(shown: Picture, frame: _Frame, narrow: bool) -> list[str]:
    named: list[Mark | Published] = [mark for mark in shown.marks if mark.label]
    named += shown.published
    rest = [mark for mark in shown.marks if not mark.label]
    places = labels.place(
        [_point(mark, frame) for mark in named],
        [(_LETTER * len(mark.label) * (1.06 if _recommended(mark) else 1) + 4, _LINE) for mark in named],
        frame.box,
        gap=18,
        others=[
            *labels.around_points([_point(mark, frame) for mark in rest], 12),
            *labels.along([(frame.x(speed), frame.y(error)) for speed, error in shown.staircase], 1),
        ],
    )
    drawn = [_mark(mark, _point(mark, frame)) for mark in rest]
    for mark, place in zip(named, places, strict=True):
        point = _point(mark, frame)
        if isinstance(mark, Published):
            crowded = narrow and _far(point, place)  # a tip names it too
            drawn.append(_cross(mark, point, None if crowded else place))
        else:
            drawn.append(_mark(mark, point, place))
    return drawn


def _point(mark: Mark | Published, frame: _Frame) -> labels.Point:
    return frame.x(mark.fps if isinstance(mark, Published) else mark.speed), frame.y(mark.mpjpe_mm or 0.0)


def _recommended(mark: Mark | Published) -> bool:
    return isinstance(mark, Mark) and mark.row.recommended


def _mark(mark: Mark, point: labels.Point, place: labels.Point | None = None) -> str:
    x, y = point
    ring = f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="13"/>' if mark.row.recommended else ""
    error = "timed only" if mark.mpjpe_mm is None else f"{mark.mpjpe_mm:.2f} mm"
    name = f"{model_name(mark.row)}, {mark.row.title}: {mark.speed:.0f} a second, {error}"
    more = f'data-row="{mark.number}" data-x="{x:.1f}" data-y="{y:.1f}"'
    label, css = _label(mark.label, point, place, "label best" if mark.row.recommended else "label"), "mark"
    return _group(css, name, more, f"{ring}{label}{svg.marker(mark.row, x, y, 1.0 if mark.mpjpe_mm else 0.8)}")


def _cross(each: Published, point: labels.Point, place: labels.Point | None) -> str:
    """A mark like no other: what it says was not measured here."""
    x, y = point
    lines = (
        f"{each.label}, published",
        f"MPJPE, mm\t{each.mpjpe_mm:g}",
        f"FPS\t{each.fps:g}",
        f"On\t{each.device}",
        "Not measured here\t",
    )
    arms = "".join(svg.line("cross", x - 6, y + side * 6, x + 6, y - side * 6) for side in (1, -1))
    hidden = f'<circle class="dot hit" cx="{x:.1f}" cy="{y:.1f}" r="8"/>'
    name = f"{each.label}, published: {each.fps:g} FPS, {each.mpjpe_mm:g} mm on {each.device}; not measured here"
    more = f'data-tip="{escape(chr(10).join(lines))}"'
    return _group("mark cited", name, more, f"{_label(each.label, point, place, 'label')}{arms}{hidden}")


def _label(words: str, point: labels.Point, place: labels.Point | None, css: str) -> str:
    if place is None:
        return ""
    end = labels.nearest(point, place, (_LETTER * len(words), _LINE))
    leader = svg.line("leader", *point, *end) if _far(point, place) else ""
    return leader + svg.text(css, place[0], place[1] + 4.5, words, "middle")


def _far(point: labels.Point, place: labels.Point) -> bool:
    """Whether a label is too far away to be seen as belonging to its marker."""
    return abs(place[1] - point[1]) > 36


def _group(css: str, name: str, more: str, body: str) -> str:
    return f'<g class="{css}" role="img" tabindex="0" aria-label="{escape(name)}" {more}>{body}</g>'


def _lanes(shown: Picture, frame: _Frame, bottom: float) -> list[str]:
    """One line a model without weights: its rows have a speed, and no place on the error axis."""
    if not shown.lanes:
        return []
    top = bottom - _LANE * len(shown.lanes) - 26
    parts = [svg.line("edge", frame.left, top, frame.right, top)] if shown.has_errors else []
    parts.append(svg.text("lane-name", frame.left + 6, top + 17, shown.lanes_note, "start"))
    for number, (name, marks) in enumerate(shown.lanes):
        y = top + 26 + _LANE * (number + 1) - 11
        spots = [frame.x(mark.speed) for mark in marks]
        parts.append(svg.text("label", frame.left + 6, y - 12, name, "start"))
        parts.append(svg.line("lane", min(spots), y, max(spots), y))
        parts += [_mark(mark, (x, y)) for mark, x in zip(marks, spots, strict=True)]
    return parts


def _latency(number: int, row: Row, frame: _Frame, y: float, narrow: bool) -> str:
    """A line over all of them, a pale bar over 90 %, a full one over the middle half; the notch is the median."""
    at = {rank: frame.x(row.percentiles_ms[rank // 5]) for rank in range(0, 101, 5)}
    middle = y + (32 if narrow else 15)
    fill = f'fill="{looks.colour(row)}"'

    def bar(css: str, low: int, high: int, thick: float) -> str:
        width = max(at[high] - at[low], 1.0)
        return (
            f'<rect class="{css}" x="{at[low]:.1f}" y="{middle - thick / 2:.1f}" width="{width:.1f}" '
            f'height="{thick:g}" rx="2" {fill}/>'
        )

    label = svg.text("label", 14, y + 18, row.title, "start") if narrow else ""
    label = label or svg.text("label", frame.left - 14, middle + 4.5, _shortened(row.title), "end")
    tail = "" if row.p99_ms is None else _tail(frame.x(row.p99_ms), middle)
    median = f'<line class="median dot" x1="{at[50]:.1f}" y1="{middle - 9:g}" x2="{at[50]:.1f}" y2="{middle + 9:g}"/>'
    body = label + bar("all", 0, 100, 2) + bar("most", 5, 95, 12) + bar("half", 25, 75, 12) + tail + median
    hit = f'<rect class="hit" x="0" y="{y:.1f}" width="{frame.right:.1f}" height="{46 if narrow else 30}"/>'
    name = f"{model_name(row)}, {row.title}: half within {_span(row, 25, 75)}, 90 % within {_span(row, 5, 95)}"
    return _group("mark", name, f'data-row="{number}" data-tip="{escape(_spread(row))}"', hit + body)


def _tail(x: float, y: float) -> str:
    return svg.line("tail", x, y - 6, x, y + 6)


def _spread(row: Row) -> str:
    of = row.percentiles_ms
    shown = (
        ("least", of[0]), ("p5", of[1]), ("p25", of[5]), ("median", of[10]), ("p75", of[15]), ("p95", of[19]),
        ("p99", row.p99_ms), ("largest", of[20]), ("jitter", row.jitter_ms),
    )  # fmt: skip
    lines = [f"{name}, ms\t{tables.milliseconds(value)}" for name, value in shown]
    return "\n".join([f"{model_name(row)}, {row.title}", *lines])


def _span(row: Row, low: int, high: int) -> str:
    return " to ".join(tables.milliseconds(row.percentiles_ms[rank // 5]) for rank in (low, high)) + " ms"


def _shortened(title: str) -> str:
    return title if len(title) <= _LONGEST else title[: _LONGEST - 1] + "…"
