"""The page's pictures as inline SVG: sharp at any size, and coloured by the page's own light or dark style."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.benchmarks import labels, looks
from pstmo_edge.benchmarks.moments import PITCH_DEGREES, YAW_DEGREES, Moment
from pstmo_edge.benchmarks.rows import Row
from pstmo_edge.skeletons import HUMAN36M

_LETTER, _LINE = 7.3, 15.0  # mean width of a 13-pixel letter and height of its line, in pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 14.0, 14.0, 46.0


def scatter(rows: Sequence[Row], width: float, height: float, css_class: str) -> str:
    """FPS against MPJPE as an SVG of that many pixels; markers carry their row's number in `data-row`."""
    shown = looks.marks(rows)
    x_range, y_range = looks.plot_ranges(shown)
    box = (_LEFT, _TOP, width - _RIGHT, height - _BOTTOM)

    def x(value: float) -> float:
        return box[0] + (value - x_range[0]) / (x_range[1] - x_range[0]) * (box[2] - box[0])

    def y(value: float) -> float:
        return box[3] - (value - y_range[0]) / (y_range[1] - y_range[0]) * (box[3] - box[1])

    parts = [
        f'<svg class="chart {css_class}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="Plot of FPS against MPJPE; the table below holds the same figures">'
    ]
    for tick in looks.nice_ticks(*x_range, count=5 if width < 600 else 8):
        parts.append(_line("rule", x(tick), box[1], x(tick), box[3]))
        parts.append(_text("tick", x(tick), box[3] + 18, f"{tick:g}", "middle"))
    for tick in looks.nice_ticks(*y_range, count=5):
        parts.append(_line("rule", box[0], y(tick), box[2], y(tick)))
        parts.append(_text("tick", box[0] - 8, y(tick) + 4, f"{tick:g}", "end"))
    parts.append(_text("axis", (box[0] + box[2]) / 2, height - 6, "FPS at batch 1 →  more is better", "middle"))
    middle = (box[1] + box[3]) / 2
    turned = f'transform="rotate(-90 12 {middle:g})"'
    parts.append(_text("axis", 12, middle, "← MPJPE in mm, less is better", "middle", turned))
    points = [(x(mark.fps), y(mark.mpjpe_mm)) for mark in shown]
    sizes = [(_LETTER * len(mark.label) * (1.06 if mark.row.recommended else 1) + 4, _LINE) for mark in shown]
    places = labels.place(points, sizes, box, gap=18)
    parts += [_mark(mark, *spots) for mark, *spots in zip(shown, points, places, strict=True)]
    if not shown:
        parts.append(_text("axis", width / 2, height / 2, "no row passed its check", "middle"))
    return "".join(parts) + "</svg>"


def moment(shown: Moment, radius: float) -> str:
    """The 2D input, the predicted and the true pose side by side; `data-poses` lets a script turn the last two.

    `radius` is half the width of a 3D panel in metres, one for all moments.
    """
    size, space, head = 200.0, 10.0, 26.0
    predicted, true = (
        _panel_points(points, radius, size) for points in looks.centred_projections(shown, YAW_DEGREES, PITCH_DEGREES)
    )
    flat = _panel_points(looks.fit_keypoints(shown), 1.15, size)
    panels = (
        ("2D input", _skeleton(flat, "flat")),
        ("predicted", _skeleton(true, "true", ghost=True) + _skeleton(predicted, "predicted")),
        ("true", _skeleton(true, "true")),
    )
    centre = looks.pose_centre(np.asarray(shown.true))
    data = {
        name: np.round(np.asarray(points) - centre, 4).tolist()
        for name, points in (("predicted", shown.predicted), ("true", shown.true))
    }
    whole = 3 * size + 2 * space
    parts = [
        f'<svg class="moment" viewBox="0 0 {whole:g} {size + head:g}" role="img" data-radius="{radius:.4f}" '
        f'data-size="{size:g}" data-poses="{escape(json.dumps(data, separators=(",", ":")))}" '
        f'aria-label="{escape(shown.action)}: 2D input, predicted and true pose">'
    ]
    for number, (name, body) in enumerate(panels):
        parts.append(
            f'<g transform="translate({number * (size + space):g} {head:g})">'
            f'<rect class="panel" width="{size:g}" height="{size:g}" rx="10"/>'
            f"{body}{_text('panel-name', 2, -9, name, 'start')}</g>"
        )
    return "".join(parts) + "</svg>"


def _mark(mark: looks.Mark, point: labels.Point, place: labels.Point) -> str:
    ring = f'<circle class="ring" cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="13"/>' if mark.row.recommended else ""
    far = abs(place[1] - point[1]) > 36  # too far away to be seen as belonging to its marker
    leader = _line("leader", *point, *place) if far else ""
    name = _text("label best" if mark.row.recommended else "label", place[0], place[1] + 4.5, mark.label, "middle")
    return (
        f'<g class="mark" tabindex="0" data-row="{mark.number}" data-x="{point[0]:.1f}" data-y="{point[1]:.1f}">'
        f"<title>{escape(mark.label)}: {mark.fps:.0f} FPS, {mark.mpjpe_mm:.2f} mm</title>"
        f"{leader}{ring}{_shape(mark, *point)}{name}</g>"
    )


def _shape(mark: looks.Mark, x: float, y: float) -> str:
    colour = f'fill="{mark.colour}"'
    if mark.shape == "o":
        return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="6.5" {colour}/>'
    outlines = {"D": ((0, -8), (8, 0), (0, 8), (-8, 0)), "s": ((-6, -6), (6, -6), (6, 6), (-6, 6))}
    corners = outlines.get(mark.shape, ((0, -8), (7, 6), (-7, 6)))
    points = " ".join(f"{x + across:.1f},{y + down:.1f}" for across, down in corners)
    return f'<polygon class="dot" points="{points}" {colour}/>'


def _skeleton(points: FloatArray, pose: str, ghost: bool = False) -> str:
    parts = [f'<g class="skeleton{" ghost" if ghost else ""}" data-pose="{pose}">']
    for joint, parent in HUMAN36M.bones:
        (x1, y1), (x2, y2) = points[joint], points[parent]
        parts.append(
            f'<line class="{looks.bone_side(joint)}" data-a="{joint}" data-b="{parent}" '
            f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
        )
    return "".join(parts) + "</g>"


def _panel_points(points: FloatArray, radius: float, size: float) -> FloatArray:
    """Points about the origin to pixels of a square panel."""
    scaled: FloatArray = points / radius * (size / 2) + size / 2
    return scaled


def _line(css_class: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{css_class}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(css_class: str, x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text class="{css_class}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'
