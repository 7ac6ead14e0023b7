"""The two pictures of a report as PNG bytes."""

from __future__ import annotations

import io
import textwrap
from typing import Any

from pstmo_edge.arrays import FloatArray
from pstmo_edge.benchmarks import labels, looks
from pstmo_edge.benchmarks.moments import PITCH_DEGREES, YAW_DEGREES, Moment
from pstmo_edge.benchmarks.report import Report
from pstmo_edge.errors import BackendError
from pstmo_edge.skeletons import HUMAN36M

_DPI = 160
_INK, _QUIET, _RULE = "#1c2026", "#667080", "#e4e7ec"


def fps_vs_mpjpe(report: Report) -> bytes:
    """FPS against MPJPE, one marker a row, the recommended one ringed; raises BackendError without matplotlib."""
    figure = _figure(8.0, 5.2)
    axes = figure.add_axes((0.1, 0.2, 0.87, 0.64))
    shown = looks.marks(report.rows)
    x_range, y_range = looks.plot_ranges(shown)
    axes.set(xlim=x_range, ylim=y_range, xlabel="FPS at batch 1 (more is better)")
    axes.set_ylabel("MPJPE in mm (less is better)")
    _plain_axes(axes)
    for mark in shown:
        axes.scatter(mark.fps, mark.mpjpe_mm, s=90, c=mark.colour, marker=mark.shape, edgecolors="white", zorder=3)
        if mark.row.recommended:
            axes.scatter(mark.fps, mark.mpjpe_mm, s=330, facecolors="none", edgecolors=_INK, linewidths=1.6, zorder=2)
    _label_marks(figure, axes, shown)
    if not shown:
        axes.text(0.5, 0.5, "no row passed its check", transform=axes.transAxes, ha="center", color=_QUIET)
    figure.text(0.1, 0.93, "Speed against error", fontsize=15, fontweight="bold", color=_INK)
    figure.text(0.1, 0.885, str(report.provenance["cpu"]), fontsize=9, color=_QUIET, parse_math=False)
    setting = "\n".join(textwrap.wrap(report.setting, 130))
    figure.text(0.1, 0.015, setting, fontsize=7.2, color=_QUIET, va="bottom", parse_math=False)
    return _png(figure)


def poses(report: Report) -> bytes:
    """For every moment its 2D input, the predicted pose and the true one, at one scale and from one side."""
    count = len(report.moments)
    columns, rows = min(count, 2), (count + 1) // 2
    width, height = 6.6 * columns, 2.75 * rows + 0.75  # inches: square panels, a title above each row, a head
    figure = _figure(width, height)
    head = 0.75 / height
    top = 1 - head - 0.35 / height
    grid = figure.add_gridspec(rows, columns, left=0.02, right=0.98, top=top, bottom=0.02, hspace=0.2, wspace=0.05)
    radius = looks.pose_radius(report.moments)
    for number, moment in enumerate(report.moments):
        inner = grid[number // columns, number % columns].subgridspec(1, 3, wspace=0.03)
        _draw_moment([figure.add_subplot(inner[place]) for place in range(3)], moment, radius)
    title = f"What {report.shown} predicts on held-out motion" if report.shown else "Predictions on held-out motion"
    figure.text(0.02, 1 - 0.45 * head, title, fontsize=14, fontweight="bold", color=_INK, parse_math=False)
    key = (
        ("left", looks.LEFT, 0.0),
        ("right", looks.RIGHT, 0.5),
        ("true pose behind the predicted one", looks.GHOST, 1.1),
    )
    for text, colour, inches in key:
        figure.text(0.02 + inches / width, 1 - 0.85 * head, text, fontsize=9, color=colour, fontweight="bold")
    return _png(figure)


def _draw_moment(panels: list[Any], moment: Moment, radius: float) -> None:
    predicted, true = looks.centred_projections(moment, YAW_DEGREES, PITCH_DEGREES)
    for axes, name, limit in zip(panels, ("2D input", "predicted", "true"), (1.15, radius, radius), strict=True):
        axes.set(xlim=(-limit, limit), ylim=(limit, -limit), aspect="equal", xticks=[], yticks=[])
        axes.set_facecolor("#f6f7f9")
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.text(0.03, 0.97, name, transform=axes.transAxes, va="top", fontsize=8.5, color=_QUIET)
    _draw_skeleton(panels[0], looks.fit_keypoints(moment))
    _draw_skeleton(panels[1], true, ghost=True)
    _draw_skeleton(panels[1], predicted)
    _draw_skeleton(panels[2], true)
    text = f"{moment.action}: {moment.error_mm:.1f} mm"
    panels[0].set_title(text, loc="left", fontsize=11, fontweight="bold", color=_INK, parse_math=False)
    panels[2].set_title(moment.rank, loc="right", fontsize=8.5, color=_QUIET)


def _draw_skeleton(axes: Any, points: FloatArray, ghost: bool = False) -> None:
    for joint, parent in HUMAN36M.bones:
        colour = looks.GHOST if ghost else looks.BONE_COLOURS[looks.bone_side(joint)]
        ends = points[[joint, parent]]
        axes.plot(ends[:, 0], ends[:, 1], color=colour, linewidth=1.2 if ghost else 2.4, solid_capstyle="round")
    if not ghost:
        axes.scatter(points[:, 0], points[:, 1], s=7, color=_INK, zorder=3)


def _label_marks(figure: Any, axes: Any, shown: list[looks.Mark]) -> None:
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    texts = [
        axes.text(
            mark.fps,
            mark.mpjpe_mm,
            mark.label,
            fontsize=9.5,
            color=_INK,
            ha="center",
            va="center",
            fontweight="bold" if mark.row.recommended else "normal",
            parse_math=False,
        )
        for mark in shown
    ]
    boxes = [text.get_window_extent(renderer) for text in texts]
    points = [tuple(axes.transData.transform((mark.fps, mark.mpjpe_mm))) for mark in shown]
    bounds = tuple(axes.get_window_extent(renderer).extents)
    gap = 0.155 * _DPI  # inches to pixels: the ring's radius and a little air
    places = labels.place(points, [(box.width + 4, box.height) for box in boxes], bounds, gap)
    back = axes.transData.inverted()
    for text, place, point in zip(texts, places, points, strict=True):
        text.set_position(back.transform(place))
        if abs(place[1] - point[1]) > 2 * gap:  # too far away to be seen as belonging to its marker
            axes.plot(*zip(back.transform(point), back.transform(place), strict=True), color=_RULE, zorder=1)


def _plain_axes(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_RULE)
    axes.grid(color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_QUIET, length=0, labelsize=9)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=_QUIET, fontsize=10)


def _figure(width: float, height: float) -> Any:
    """A figure in inches that belongs to no window system and no global state."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise BackendError(
            "the report's pictures need matplotlib, not installed here: pip install 'pstmo-edge[build]'"
        ) from None
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "pstmo-edge"})
    return buffer.getvalue()
