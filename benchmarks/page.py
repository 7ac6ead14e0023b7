"""The report as one HTML page that needs nothing else: no network, no library, light or dark, wide or narrow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from pstmo_edge.benchmarks import looks, provenance, svg, tables
from pstmo_edge.benchmarks.report import JSON_NAME, PLOT_NAME, POSES_NAME, Report
from pstmo_edge.benchmarks.rows import Row

_HERE = Path(__file__).parent
_HEADINGS = (
    "Backend", "Precision", "Status", "Size, MB", "MPJPE, mm", "Change, mm",
    "p50, ms", "p90, ms", "p99, ms", "FPS", "Look-ahead, ms",
)  # fmt: skip


def render(report: Report) -> str:
    """The whole page; every text of the report is escaped."""
    template = Template((_HERE / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        script=(_HERE / "page.js").read_text(encoding="utf-8"),
        title=escape(_title(report)),
        kicker=escape(_kicker(report)),
        headline=escape(_headline(report)),
        summary=escape(report.summary),
        figures=_figures(report.recommended),
        doubt=_paragraph("doubt", tables.noise_note(report)),
        wide_chart=svg.scatter(report.rows, 940, 400, "wide"),
        narrow_chart=svg.scatter(report.rows, 380, 360, "narrow"),
        table=_table(report),
        setting=escape(report.setting),
        troubles=_troubles(report),
        checks=_checks(report),
        poses=_poses(report),
        actions=_actions(report),
        provenance=_provenance(report),
        links=_links(report),
    )


def _title(report: Report) -> str:
    models = dict.fromkeys(f"{row.model}, {row.frames} frames" for row in report.rows if row.model)
    return " and ".join(models) or "Benchmark"


def _kicker(report: Report) -> str:
    return f"pstmo-edge benchmark · {str(report.provenance['date'])[:10]} · {report.provenance['cpu']}"


def _headline(report: Report) -> str:
    best = report.recommended
    return f"{best.title} is the engine to use here" if best else "No engine can be recommended here"


def _figures(best: Row | None) -> str:
    if best is None:
        return ""
    shown = (
        (tables.number(best.p50_ms, ".2f"), "ms", "a pose, median"),
        (tables.number(best.fps, ".0f"), "FPS", "one stream, batch 1"),
        (tables.number(best.mpjpe_mm, ".1f"), "mm", "MPJPE, no mirroring"),
        (tables.number(best.size_bytes and best.size_bytes / 1e6, ".1f"), "MB", "on disk"),
        (tables.number(best.lookahead_ms, ".0f"), "ms", "look-ahead"),
    )
    return "".join(
        f'<div class="figure"><b>{escape(value)}</b><i>{unit}</i><span>{escape(what)}</span></div>'
        for value, unit, what in shown
    )


def _table(report: Report) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in _HEADINGS)
    body = "".join(_table_row(number, row) for number, row in enumerate(report.rows))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _table_row(number: int, row: Row) -> str:
    backend, precision, status, *numbers = map(escape, tables.cells(row))
    badge = ' <span class="badge">recommended</span>' if row.recommended else ""
    cells = "".join(f"<td>{value.replace('-', '–') if value == '-' else _minus(value)}</td>" for value in numbers)
    return (
        f'<tr data-row="{number}"{" class=best" if row.recommended else ""}><th scope="row">{backend}{badge}</th>'
        f'<td>{precision}</td><td class="status {row.status}">{status}</td>{cells}</tr>'
    )


def _minus(value: str) -> str:
    return value.replace("-", "−")  # as wide as the plus


def _troubles(report: Report) -> str:
    return "".join(
        f'<p class="trouble"><b class="{row.status}">{escape(row.title)} {row.status}</b> {escape(row.reason)}</p>'
        for row in report.rows
        if row.status != "ok"
    )


def _checks(report: Report) -> str:
    return f"<dl>{''.join(_entries((row.title, _notes(row)) for row in report.rows))}</dl>"


def _notes(row: Row) -> str:
    notes = [row.checked]
    if row.int8_share:
        notes.append(f"{row.int8_share:.0%} of the multiply-adds in INT8")
    if row.left_in_float:
        notes.append("left in float: " + ", ".join(row.left_in_float))
    return "; ".join(note for note in notes if note)


def _poses(report: Report) -> str:
    if not report.moments:
        return ""
    radius = looks.pose_radius(report.moments)
    cards = "".join(
        f"<figure>{svg.moment(moment, radius)}<figcaption><b>{escape(moment.action)}</b> "
        f"<strong>{moment.error_mm:.1f} mm</strong><span>{escape(moment.rank)}</span></figcaption></figure>"
        for moment in report.moments
    )
    return Template((_HERE / "poses.html").read_text(encoding="utf-8")).substitute(
        shown=escape(report.shown or "the engine"), windows=report.checked_windows, cards=cards
    )


def _actions(report: Report) -> str:
    if not report.actions:
        return ""
    most = max(values["mpjpe_mm"] for values in report.actions.values()) or 1.0
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="bar"><i style="width:{_share(values, most)}"></i></td>'
        f"<td>{values['mpjpe_mm']:.1f} mm</td><td>{values['windows']:.0f}</td></tr>"
        for name, values in sorted(report.actions.items(), key=lambda item: item[1]["mpjpe_mm"])
    )
    return (
        f'<section><h2>Error by action</h2><p class="note">{escape(report.shown)}, on the '
        f"{report.checked_windows} held-out windows it was checked on: a sample, so the mean differs a little from the "
        f'table\'s.</p><table class="actions"><thead><tr><th>Action</th><th></th><th>MPJPE</th><th>Windows</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></section>"
    )


def _share(values: Mapping[str, float], most: float) -> str:
    return f"{100 * values['mpjpe_mm'] / most:.1f}%"


def _provenance(report: Report) -> str:
    found = report.provenance
    versions = ", ".join(f"{name} {version}" for name, version in found["runtimes"].items())
    shown: dict[str, Any] = {
        "CPU": f"{found['cpu']}, {found['cores']} cores",
        "CPU features": " ".join(found["cpu_features"]),
        "INT8 target": found["target"],
        "Board": found["board"],
        "GPU": ", ".join(found["gpus"]),
        "System": found["os"],
        "Python": found["python"],
        "pstmo-edge": found["pstmo_edge"],
        "Commit": found["commit"],
        "Versions": versions,
        "Threads": provenance.describe_threads(found["threads"]),
        "Load before": found["load_average_before"],
        "Date": found["date"],
    }
    return f"<dl>{''.join(_entries(shown.items()))}</dl>"


def _entries(items: Iterable[tuple[str, Any]]) -> Iterable[str]:
    return (f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in items if value not in (None, ""))


def _links(report: Report) -> str:
    names = [JSON_NAME, PLOT_NAME] + ([POSES_NAME] if report.moments else [])
    return " · ".join(f'<a href="{name}">{name}</a>' for name in names)


def _paragraph(css_class: str, text: str | None) -> str:
    return f'<p class="{css_class}">{escape(text)}</p>' if text else ""
