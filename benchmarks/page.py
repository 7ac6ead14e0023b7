"""The report as one HTML page that needs nothing else: no network, no library, light or dark, wide or narrow."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from pstmo_edge.benchmarks import charts, columns, looks, provenance, svg, tables
from pstmo_edge.benchmarks.moments import PITCH_DEGREES, YAW_DEGREES
from pstmo_edge.benchmarks.picture import Picture, full_title, model_name, picture, several_models
from pstmo_edge.benchmarks.report import JSON_NAME, PLOT_NAME, POSES_NAME, Report
from pstmo_edge.benchmarks.rows import Row

_HERE = Path(__file__).parent
# Headings and kinds of what `tables.overview_cells` says of each model.
_OVERVIEW = (
    ("Model", "text"), ("MFLOP a window", ""), ("Published MPJPE, mm", "published"), ("Published FPS", "published"),
    ("MPJPE here, mm", ""), ("FP32 here, poses/s", ""), ("Fastest here, poses/s", ""), ("Fastest engine here", "text"),
)  # fmt: skip
_MEANINGS = {
    "Jitter": "Jitter is the mean difference of one latency and the next.",
    "Share of the limit": "The limit is the fp32 matrix product that this machine reached just before.",
}
_SHAPES = {"o": "circle", "D": "diamond", "s": "square", "^": "up", "v": "down", "p": "pentagon", "h": "hexagon"}


def render(report: Report) -> str:
    """The whole page; every text of the report is escaped, and a browser runs no script but the page's own."""
    shown = picture(report.rows)
    throttled = tables.throttling_note(report)
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    template = Template((_HERE / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        script=script,
        digest=f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}",
        title=escape(_title(report)),
        kicker=escape(_kicker(report)),
        headline=escape(_headline(report, shown)),
        summary="" if several_models(report.rows) else _paragraph("summary", report.summary),
        figures=_figures(report.recommended),
        doubts="".join(_paragraph("doubt", doubt) for doubt in (tables.noise_note(report), throttled)),
        overview=_overview(report),
        scatter=_both(lambda width: charts.scatter(shown, width)),
        legend=_legend(report, shown),
        latencies=_latencies(report),
        table=_table(report),
        table_note=escape(_table_note(report)),
        setting=escape(report.setting),
        troubles=_troubles(report),
        checks=_checks(report),
        poses=_poses(report),
        actions=_actions(report),
        provenance=_provenance(report),
        links=_links(report),
    )


def _title(report: Report) -> str:
    if several_models(report.rows):
        return f"{len(report.models)} models on one machine"
    return next((f"{model}, {frames} frames" for model, frames in report.models), "Benchmark")


def _kicker(report: Report) -> str:
    return f"pstmo-edge benchmark · {str(report.provenance['date'])[:10]} · {report.provenance['cpu']}"


def _headline(report: Report, shown: Picture) -> str:
    if best := report.recommended:
        return f"{best.title} is the engine to use here"
    if shown.front and several_models(report.rows):
        return _extremes(shown)
    if shown.lanes and not shown.marks:
        return "Timed only: without weights there is no error to show"
    return "No engine can be recommended here"


def _extremes(shown: Picture) -> str:
    """Both ends of the front; models whose errors are not known have no part in it."""
    fast, exact = shown.front[-1], shown.front[0]
    names = model_name(fast.row), model_name(exact.row)
    among = "Of those whose error is known, " if shown.lanes else ""
    if names[0] == names[1]:
        return f"{among}{names[0]} is both the fastest and the most exact"
    speed, error = f"{fast.speed:.0f} {shown.unit}", f"{exact.mpjpe_mm:.1f} mm"
    return f"{among}{names[0]} is the fastest ({speed}), {names[1]} the most exact ({error})"


def _figures(best: Row | None) -> str:
    if best is None:
        return ""
    given, setting, rate, unit = "a pose", "one stream, batch 1", best.fps, "FPS"
    if best.poses_a_forward > 1:
        given, setting = f"{best.poses_a_forward} poses", f"at batch {best.batch}"
        rate, unit = best.poses_per_s, "poses/s"
    cells = (
        (tables.number(best.p50_ms, ".2f"), "ms", f"{given}, median"),
        (tables.number(rate, ".0f"), unit, setting),
        (tables.number(best.mpjpe_mm, ".1f"), "mm", "MPJPE"),
        (tables.number(best.size_bytes and best.size_bytes / 1e6, ".1f"), "MB", "on disk"),
        (tables.number(best.lookahead_ms, ".0f"), "ms", "look-ahead"),
    )
    figures = "".join(
        f'<div class="figure"><b>{escape(value)}</b><i>{unit}</i><span>{escape(what)}</span></div>'
        for value, unit, what in cells
    )
    return f'<div class="figures">{figures}</div>'


def _overview(report: Report) -> str:
    """One line a model, published figures beside measured ones; nothing for a report of one model."""
    if not several_models(report.rows):
        return ""
    lines = tables.overview_cells(report)
    known = [place for place, cells in enumerate(zip(*lines, strict=True)) if any(cell != "-" for cell in cells)]
    named = (_OVERVIEW[place] for place in known)
    head = "".join(f'<th scope="col" class="{kind}">{escape(name)}</th>' for name, kind in named)
    body = "".join(f"<tr>{_overview_cells(line, known)}</tr>" for line in lines)
    note = _paragraph("note", tables.PUBLISHED_NOTE if any(row.published for row in report.rows) else None)
    return (
        f'<section><h2>Model by model</h2><div class="scroll" tabindex="0"><table class="overview">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}</section>"
    )


def _overview_cells(line: Sequence[str], known: Sequence[int]) -> str:
    cells = (
        f'<td class="{_OVERVIEW[place][1]}">{"–" if line[place] == "-" else escape(line[place])}</td>'
        for place in known[1:]
    )
    name = escape(line[0].replace(" ", "\n"))  # a narrow screen breaks it there and nowhere else
    return f'<th scope="row" class="model">{name}</th>{"".join(cells)}'


def _both(draw: Callable[[float], str]) -> str:
    """A chart for wide screens and one for narrow ones; the style sheet shows one of them."""
    return draw(charts.WIDE) + draw(charts.NARROW)


def _legend(report: Report, shown: Picture) -> str:
    backends = [
        f'<span><i class="swatch" style="background:{colour}"></i>{escape(name)}</span>'
        for name, colour in looks.backends(report.rows).items()
    ]
    shapes = [
        f'<span><i class="{_SHAPES[shape]}"></i>{escape(name)}</span>'
        for name, shape in looks.shapes(report.rows).items()
    ]
    others = [
        ('<span><i class="ring"></i>recommended</span>', report.recommended is not None),
        ('<span><i class="dash"></i>Pareto front of what was measured here</span>', bool(shown.front)),
        (
            '<span><i class="times">×</i>published by others, on their device and data; not measured here</span>',
            bool(shown.published),
        ),
    ]
    return "".join([*backends, *shapes, *(text for text, there in others if there)])


def _latencies(report: Report) -> str:
    if not any(row.percentiles_ms for row in report.rows if row.status == "ok"):
        return ""
    chart = _both(lambda width: charts.latencies(report.rows, width))
    return Template((_HERE / "latencies.html").read_text(encoding="utf-8")).substitute(chart=chart)


def _table(report: Report) -> str:
    shown = columns.columns(report.rows)
    several = several_models(report.rows)
    place = 1 if several else 0  # the backend comes after the model
    heads = [column.head() for column in shown]
    heads.insert(place, '<th scope="col" data-kind="text" data-first="ascending" class="text">Backend</th>')
    body, before = [], ""
    for number, row in enumerate(report.rows):
        body.append(_table_row(number, row, shown, place, several and number > 0 and model_name(row) != before))
        before = model_name(row)
    return f'<table class="rows"><thead><tr>{"".join(heads)}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _table_row(number: int, row: Row, shown: Sequence[columns.Column], place: int, new_model: bool) -> str:
    badge = ' <span class="badge">recommended</span>' if row.recommended else ""
    css = " ".join(filter(None, ["best" if row.recommended else "", "new" if new_model else ""]))
    cells = [column.cell(row) for column in shown]
    cells.insert(place, f'<th scope="row" class="text">{escape(tables.backend_cell(row))}{badge}</th>')
    return f'<tr data-row="{number}"{f" class={chr(34)}{css}{chr(34)}" if css else ""}>{"".join(cells)}</tr>'


def _table_note(report: Report) -> str:
    left_out = columns.unknown(report.rows)
    notes = [note for name, note in _MEANINGS.items() if name not in left_out]
    notes += [f"Left out, for no row has them here: {', '.join(left_out)}."] if left_out else []
    return " ".join(notes)


def _troubles(report: Report) -> str:
    troubled = ((f"{full_title(row, report.rows)} {row.status}", row) for row in report.rows if row.status != "ok")
    return "".join(
        f'<p class="trouble"><b class="{row.status}">{escape(what)}</b> {escape(row.reason)}</p>'
        for what, row in troubled
    )


def _checks(report: Report) -> str:
    return f"<dl>{''.join(_entries((full_title(row, report.rows), _notes(row)) for row in report.rows))}</dl>"


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
        shown=escape(report.shown or "the engine"),
        windows=report.checked_windows,
        yaw=f"{YAW_DEGREES:g}",
        pitch=f"{PITCH_DEGREES:g}",
        cards=cards,
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
