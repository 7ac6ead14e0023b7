"""The two pictures of a report as PNG bytes."""

from __future__ import annotations

import io
import textwrap
from typing import Any

from pstmo_edge.arrays import FloatArray
from pstmo_edge.benchmarks import labels, looks
from pstmo_edge.benchmarks.moments import PITCH_DEGREES, YAW_DEGREES, Moment
from pstmo_edge.benchmarks.picture import Mark, Picture, log_ticks, nice_ticks, picture
from pstmo_edge.benchmarks.report import Report
from pstmo_edge.errors import BackendError
from pstmo_edge.skeletons import HUMAN36M

_DPI = 160
_INK, _QUIET, _RULE = "#1c2026", "#667080", "#e4e7ec"


def fps_vs_mpjpe(report: Report) -> bytes:
    """FPS against MPJPE, one marker a row, the recommended one ringed; raises BackendError without matplotlib.

    The dashed line is the Pareto front of what was measured. Rows without an error stand in lanes below, published
    figures are crosses.
    """
    shown = picture(report.rows)
    lanes = (0.42 * len(shown.lanes) + 0.3) if shown.lanes else 0.0  # inches
    plot = 3.4 if shown.has_errors or not shown.lanes else 0.0
    low, high = 1.35, 0.8
    figure = _figure(8.6, low + lanes + plot + high)
    height = low + lanes + plot + high
    place = (0.09, low / height, 0.88)
    if plot:
        axes = figure.add_axes((place[0], (low + lanes) / height, place[2], plot / height))
        axes.set(xscale="log", xlim=shown.x_range, ylim=shown.y_range, ylabel="MPJPE in mm (less is better)")
        axes.set_yticks(nice_ticks(*shown.y_range))
        plain_axes(axes)
        _draw_marks(figure, axes, shown)
    if lanes:
        below = figure.add_axes((place[0], low / height, place[2], lanes / height))
        below.set(xscale="log", xlim=shown.x_range, ylim=(len(shown.lanes), -0.7), yticks=[])
        plain_axes(below)
        _draw_lanes(below, shown)
    if plot and lanes:
        axes.tick_params(labelbottom=False)
    lowest = below if lanes else axes
    for each in figure.axes:
        _speed_ticks(each, shown)
    lowest.set_xlabel(f"{shown.unit}, logarithmic (more is better)")
    _legend(figure, report, shown, 0.52 / height)
    figure.text(place[0], 1 - 0.35 / height, "Speed against error", fontsize=15, fontweight="bold", color=_INK)
    machine = str(report.provenance["cpu"])
    figure.text(place[0], 1 - 0.58 / height, machine, fontsize=9, color=_QUIET, parse_math=False)
    setting = "\n".join(textwrap.wrap(report.setting, 140))
    figure.text(place[0], 0.08 / height, setting, fontsize=7.2, color=_QUIET, va="bottom", parse_math=False)
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


def _draw_marks(figure: Any, axes: Any, shown: Picture) -> None:
    if shown.front:
        x, y = zip(*shown.staircase, strict=True)
        axes.plot(x, y, color=_QUIET, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
        axes.fill_between(x, y, shown.y_range[1], color="#f3f4f6", linewidth=0, zorder=0)
    for mark in shown.marks:
        _draw_mark(axes, mark, mark.mpjpe_mm, 90)
    for each in shown.published:
        axes.scatter(each.fps, each.mpjpe_mm, s=60, c=_INK, marker="x", linewidths=1.6, zorder=3)
    if not shown.has_errors:
        axes.text(0.5, 0.5, "no row passed its check", transform=axes.transAxes, ha="center", color=_QUIET)
    _label_marks(figure, axes, shown)


def _draw_mark(axes: Any, mark: Mark, y: float | None, size: float) -> None:
    colour, shape = looks.colour(mark.row), looks.shape(mark.row)
    axes.scatter(mark.speed, y, s=size, c=colour, marker=shape, edgecolors="white", zorder=3)
    if mark.row.recommended:
        axes.scatter(mark.speed, y, s=330, facecolors="none", edgecolors=_INK, linewidths=1.6, zorder=2)


def _draw_lanes(axes: Any, shown: Picture) -> None:
    """One line a model without weights: its rows have a speed, and no place on the error axis."""
    left = axes.get_yaxis_transform()
    note = shown.lanes_note
    axes.text(0.01, -0.3, note, transform=left, va="center", fontsize=8.5, fontweight="bold", color=_QUIET)
    for number, (name, marks) in enumerate(shown.lanes):
        y, speeds = number + 0.68, [mark.speed for mark in marks]
        axes.text(0.01, number + 0.25, name, transform=left, va="center", fontsize=9, color=_INK, parse_math=False)
        axes.plot([min(speeds), max(speeds)], [y] * 2, color=_RULE, linewidth=3, zorder=1)
        for mark in marks:
            _draw_mark(axes, mark, y, 55)


def _label_marks(figure: Any, axes: Any, shown: Picture) -> None:
    named = [
        (_label(axes, mark.label, mark.row.recommended), mark.speed, mark.mpjpe_mm or 0.0)
        for mark in shown.marks
        if mark.label
    ]
    named += [(_label(axes, each.label, cited=True), each.fps, each.mpjpe_mm) for each in shown.published]
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text, *_ in named]
    points = [tuple(axes.transData.transform((x, y))) for _, x, y in named]
    nameless = [tuple(axes.transData.transform((mark.speed, mark.mpjpe_mm))) for mark in shown.marks if not mark.label]
    front = [tuple(axes.transData.transform(corner)) for corner in shown.staircase]
    bounds = tuple(axes.get_window_extent(renderer).extents)
    gap = 0.155 * _DPI  # inches to pixels: the ring's radius and a little air
    others = [*labels.around_points(nameless, 0.08 * _DPI), *labels.along(front, 1)]
    places = labels.place(points, [(box.width + 4, box.height) for box in boxes], bounds, gap, others)
    back = axes.transData.inverted()
    for (text, *_), place, point, box in zip(named, places, points, boxes, strict=True):
        text.set_position(back.transform(place))
        if abs(place[1] - point[1]) > 2 * gap:  # too far away to be seen as belonging to its marker
            end = labels.nearest(point, place, (box.width, box.height))
            ends = zip(back.transform(point), back.transform(end), strict=True)
            axes.plot(*ends, color="#b9c0ca", linewidth=0.8, zorder=1)


def _label(axes: Any, words: str, recommended: bool = False, cited: bool = False) -> Any:
    return axes.text(
        1.0,
        0.0,
        words,
        fontsize=9.5,
        color=_QUIET if cited else _INK,
        ha="center",
        va="center",
        fontweight="bold" if recommended else "normal",
        fontstyle="italic" if cited else "normal",
        parse_math=False,
    )


def _legend(figure: Any, report: Report, shown: Picture, y: float) -> None:
    """Colours, markers and lines, of what is drawn only; above the setting."""
    from matplotlib.lines import Line2D

    def entry(name: str, marker: str, colour: str, line: str = "", size: float = 7) -> Any:
        return Line2D([], [], marker=marker, color=colour, linestyle=line, markersize=size, linewidth=1.1, label=name)

    entries = [entry(name, "s", colour) for name, colour in looks.backends(report.rows).items()]
    entries += [entry(name, shape, _QUIET) for name, shape in looks.shapes(report.rows).items()]
    if shown.front:
        entries.append(entry("Pareto front", "", _QUIET, "--"))
    if shown.published:
        entries.append(entry("published, on others' devices and data", "x", _INK, size=6))
    figure.legend(
        handles=entries, loc="lower left", bbox_to_anchor=(0.08, y), ncols=len(entries), frameon=False, fontsize=8,
        labelcolor=_QUIET, handletextpad=0.4, columnspacing=1.3, borderpad=0, borderaxespad=0,
    )  # fmt: skip


def _speed_ticks(axes: Any, shown: Picture) -> None:
    ticks = log_ticks(*shown.x_range)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)


def plain_axes(axes: Any, ticks: float = 9, label: float = 10) -> None:
    """A quiet frame and grid, with the sizes of tick and axis labels in points."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_RULE)
    axes.grid(color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_QUIET, length=0, labelsize=ticks)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=_QUIET, fontsize=label)


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
