"""Look-ahead, missing joints and doubt of live streams, as one picture."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from pstmo_edge.benchmarks.plots import plain_axes
from pstmo_edge.errors import BackendError

_DPI = 120
_INK, _QUIET = "#1c2026", "#667080"
_BLUE, _ORANGE, _GREEN = "#2f6fde", "#d9713c", "#2b8a5b"


def draw(results: Mapping[str, Any]) -> bytes:
    """PNG bytes; raises BackendError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise BackendError("pictures need matplotlib, not installed here: pip install 'pstmo-edge[build]'") from None
    figure = Figure(figsize=(12.6, 4.2), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    first, second, third = figure.subplots(1, 3)
    figure.subplots_adjust(left=0.055, right=0.985, top=0.83, bottom=0.14, wspace=0.2)
    _lookahead(first, results["lookahead"])
    _losses(second, results["losses"])
    _doubt(third, results["doubt"])
    title = "Live streams: what look-ahead buys, what missing joints cost, and whether doubt is right"
    figure.text(0.055, 0.93, title, size=13, weight="bold", color=_INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "pstmo-edge"})
    return buffer.getvalue()


def _lookahead(axes: Any, rows: list[dict[str, Any]]) -> None:
    centred = [row for row in rows if "causal" not in row["weights"]]
    causal = next(row for row in rows if "causal" in row["weights"])
    for keypoints, colour in (("detected", _ORANGE), ("exact", _BLUE)):
        waits = [row["lookahead_ms"] for row in centred]
        errors = [row[keypoints]["mpjpe_mm"] for row in centred]
        axes.plot(waits, errors, "-o", color=colour, markersize=4, label=f"{keypoints} keypoints")
        axes.plot(
            0, causal[keypoints]["mpjpe_mm"], "x", color=colour, markersize=8, markeredgewidth=1.8,
            label="causal weights" if keypoints == "exact" else None,
        )  # fmt: skip
    axes.set(xlabel="look-ahead, ms", ylabel="MPJPE, mm")
    _plain(axes)


def _losses(axes: Any, rows: list[dict[str, Any]]) -> None:
    ways = {
        ("p-stmo-s-27-causal", 0): ("live, causal weights", _ORANGE),
        ("p-stmo-s-27", 13): ("520 ms of look-ahead", _BLUE),
    }
    for (weights, lookahead), (label, colour) in ways.items():
        own = [row for row in rows if (row["weights"], row["lookahead"]) == (weights, lookahead)]
        for kind, style in (("single", "-"), ("runs", "--")):
            line = [row for row in own if row["share"] == 0 or row["kind"] == kind]
            axes.plot(
                [100 * row["share"] for row in line], [row["mpjpe_mm"] for row in line], style, color=colour,
                marker="o", markersize=4, label=f"{label}, {'singly' if kind == 'single' else 'in runs'}",
            )  # fmt: skip
    axes.set(xlabel="joints missing, %")
    _plain(axes)


def _doubt(axes: Any, pools: Mapping[str, Any]) -> None:
    most = 0.0
    for (name, pool), colour in zip(pools.items(), (_ORANGE, _GREEN, _BLUE), strict=True):
        expected, real = zip(*pool["plain"]["deciles"], strict=True)
        axes.plot(expected, real, "-o", color=colour, markersize=4, label=f"{name} frames ahead")
        most = max(most, *expected, *real)
    axes.plot([0, most], [0, most], ":", color=_QUIET, label="right")
    axes.set(xlabel="expected error, mm (tenths of the poses)", ylabel="measured, mm")
    _plain(axes)


def _plain(axes: Any) -> None:
    plain_axes(axes, 8.5, 9)
    axes.legend(frameon=False, fontsize=8)
