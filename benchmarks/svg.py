"""Pieces of the page's inline SVG, and its skeletons: sharp at any size, coloured by the page's light or dark style."""

from __future__ import annotations

import json
from html import escape

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.benchmarks import looks
from pstmo_edge.benchmarks.moments import PITCH_DEGREES, YAW_DEGREES, Moment
from pstmo_edge.benchmarks.rows import Row
from pstmo_edge.skeletons import HUMAN36M

# Corners of the markers that are no circle, by matplotlib's names.
_OUTLINES = {
    "D": ((0, -8), (8, 0), (0, 8), (-8, 0)),
    "s": ((-6, -6), (6, -6), (6, 6), (-6, 6)),
    "^": ((0, -8), (7, 6), (-7, 6)),
    "p": ((0, -7.5), (7.1, -2.3), (4.4, 6.1), (-4.4, 6.1), (-7.1, -2.3)),
    "h": ((0, -8), (7, -4), (7, 4), (0, 8), (-7, 4), (-7, -4)),
    "v": ((0, 8), (7, -6), (-7, -6)),
}


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
            f"{body}{text('panel-name', 2, -9, name, 'start')}</g>"
        )
    return "".join(parts) + "</svg>"


def marker(row: Row, x: float, y: float, size: float = 1.0) -> str:
    """The marker of a row's backend and precision, about 13 pixels across."""
    colour = f'fill="{looks.colour(row)}"'
    if looks.shape(row) == "o":
        return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{6.5 * size:g}" {colour}/>'
    corners = _OUTLINES[looks.shape(row)]
    points = " ".join(f"{x + size * across:.1f},{y + size * down:.1f}" for across, down in corners)
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


def line(css_class: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """A line whose look is that of its class."""
    return f'<line class="{css_class}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(css_class: str, x: float, y: float, words: str, anchor: str, more: str = "") -> str:
    """A line of text; `more` are further attributes."""
    return f'<text class="{css_class}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(words)}</text>'
