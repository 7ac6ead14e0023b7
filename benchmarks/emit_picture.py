"""The curve of error against poses a pass, and the error by position in the window, as one picture."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from pstmo_edge.benchmarks.plots import plain_axes
from pstmo_edge.errors import BackendError

_DPI = 120
_INK, _QUIET = "#1c2026", "#667080"
# Keypoints by colour, mirroring by line: both can be told apart without colours.
_LINES = {
    "gt, plain": ("exact keypoints", "#2f6fde", "-"),
    "gt, mirrored": ("exact, mirrored (two forwards)", "#2f6fde", "--"),
    "detected, plain": ("detected keypoints", "#d9713c", "-"),
    "detected, mirrored": ("detected, mirrored", "#d9713c", "--"),
}


def curve(results: Mapping[str, Any]) -> bytes:
    """PNG bytes; raises BackendError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise BackendError("pictures need matplotlib, not installed here: pip install 'pstmo-edge[build]'") from None
    figure = Figure(figsize=(9.6, 4.4), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(left=0.07, right=0.98, top=0.84, bottom=0.24, wspace=0.06)
    _against_count(left, results["modes"])
    _against_position(right, results["positions"])
    figure.text(0.07, 0.93, "Many poses a pass: what they cost in accuracy", size=14, weight="bold", color=_INK)
    figure.legend(*left.get_legend_handles_labels(), loc="lower center", ncols=5, frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "pstmo-edge"})
    return buffer.getvalue()


def _against_count(axes: Any, modes: list[dict[str, Any]]) -> None:
    per_frame = [mode for mode in modes if mode["emit"] != "centre"]
    counts = [mode["emit"] for mode in per_frame]
    reference = next(mode for mode in modes if mode["emit"] == "centre")
    for setting, (label, colour, style) in _LINES.items():
        errors = [mode["errors"][setting]["mpjpe_mm"] for mode in per_frame]
        axes.plot(counts, errors, style, color=colour, marker="o", markersize=4, label=label)
        axes.plot(
            1, reference["errors"][setting]["mpjpe_mm"], "x", color=colour, markersize=8, markeredgewidth=1.8,
            label="many-to-one head" if setting == "detected, mirrored" else None,
        )  # fmt: skip
    axes.set(xscale="log", xlabel="poses a window (the middle K frames), logarithmic", ylabel="MPJPE, mm")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    plain_axes(axes, 8.5, 9)


def _against_position(axes: Any, positions: Mapping[str, list[float]]) -> None:
    for setting, (_, colour, style) in _LINES.items():
        axes.plot(range(len(positions[setting])), positions[setting], style, color=colour, marker=".", markersize=4)
    axes.set(xlabel="position in the window (0: the oldest frame)")
    plain_axes(axes, 8.5, 9)
