"""The table of a benchmark on a terminal, in a pipe, or in a log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pstmo_edge.benchmarks.report import Report
from pstmo_edge.benchmarks.rows import Row

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

NOISY = 0.10  # rounds that differ by more than this share make small differences meaningless
COLUMNS = (
    "backend",
    "precision",
    "status",
    "size\nMB",
    "MPJPE\nmm",
    "change\nmm",
    "p50\nms",
    "p90\nms",
    "p99\nms",
    "FPS",
    "look-ahead\nms",
)
# The published columns are others' figures, on their device; all others were measured here.
OVERVIEW = (
    "model",
    "MFLOP",
    "published\nmm",
    "published\nFPS",
    "mm\nhere",
    "fp32\nposes/s",
    "fastest\nposes/s",
    "fastest engine",
)
PUBLISHED_NOTE = (
    "Published: errors on Human3.6M with CPN keypoints, averaged with the mirrored input; speeds on a GeForce GTX "
    "3080 Ti, batch size not stated. Neither was measured here."
)
_STYLES = {"published\nmm": "dim", "published\nFPS": "dim"}
_NARROW = {"precision": "preci-\nsion", "look-ahead\nms": "look-\nahead\nms"}
_WIDE = 92  # characters, from which on no heading need be broken
_TEXT_COLUMNS = 3  # the rest are numbers, to the right
_COLOURS = {"ok": "green", "failed": "red", "missing": "yellow"}


def render(report: Report, console: Console | None = None) -> None:
    """Print the table, the reasons of rows without times, the recommendation and the setting."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console()
    show = _plain if console.options.ascii_only else str
    if len(report.models) > 1:
        console.print(overview(report, console.options.ascii_only))
        console.print(Text(show(PUBLISHED_NOTE if any(row.published for row in report.rows) else ""), "dim"))
    for heading, rows in sections(report):
        if heading:
            console.print(Text(show(heading), "bold"))
        console.print(table(rows, console.width, console.options.ascii_only))
    for row in report.rows:
        if row.status != "ok":
            console.print(Text.assemble((show(f"{row.title} {row.status}: "), _COLOURS[row.status]), show(row.reason)))
    for row in report.rows:
        if row.left_in_float:
            console.print(Text(show(f"{row.title} leaves in float: {', '.join(row.left_in_float)}"), "dim"))
    console.print()
    console.print(Text(show(report.summary), "bold"))
    for doubt in (noise_note(report), throttling_note(report)):
        if doubt is not None:
            console.print(Text(show(doubt), "yellow"))
    console.print(Text(show(report.setting), "dim"))


def overview_cells(report: Report) -> list[tuple[str, ...]]:
    """One line a model, under OVERVIEW: what was published of it, and what was measured here."""
    lines: list[tuple[str, ...]] = []
    for model, frames in report.models:
        rows = [row for row in report.rows if (row.model, row.frames) == (model, frames)]
        published = next((row.published for row in rows if row.published), None) or {}
        timed = [row for row in rows if row.status == "ok" and row.fps is not None]
        fastest = max(timed, key=lambda row: row.poses_per_s or 0.0, default=None)
        float_row = next((row for row in timed if row.precision == "fp32"), None)
        lines.append(
            (
                f"{model} {frames}",
                number(rows[0].mflop or next((row.mflop for row in rows if row.mflop), None), ".0f"),
                number(published.get("mpjpe_mm"), ".1f"),
                number(published.get("fps"), ".0f"),
                error_cell(float_row, ".1f", "no weights") if float_row else "-",
                number(float_row.poses_per_s if float_row else None, ".0f"),
                number(fastest.poses_per_s if fastest else None, ".0f"),
                fastest.title if fastest else "none",
            )
        )
    return lines


def overview(report: Report, ascii_only: bool = False) -> Table:
    """The models of a report as a rich table, published figures beside measured ones."""
    from rich import box
    from rich.table import Table

    made = Table(box=None if ascii_only else box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for place, name in enumerate(OVERVIEW):
        made.add_column(name, justify="left" if place in (0, len(OVERVIEW) - 1) else "right", style=_STYLES.get(name))
    for line in overview_cells(report):
        made.add_row(*line)
    return made


def sections(report: Report) -> list[tuple[str, list[Row]]]:
    """The rows under a heading for each model; all under none where they are of one model."""
    if len(report.models) < 2:
        return [(weights_note(report.rows).removeprefix(": ").capitalize(), list(report.rows))]
    by_model = [(model, [row for row in report.rows if (row.model, row.frames) == model]) for model in report.models]
    found = [(f"{model}, {frames} frames{weights_note(rows)}", rows) for (model, frames), rows in by_model]
    unknown = [row for row in report.rows if not row.model]
    return [*found, ("engines that do not open", unknown)] if unknown else found


def weights_note(rows: Sequence[Row]) -> str:
    """What a heading adds for a model without weights."""
    return ": random weights, timed only" if any(row.weights == "random" for row in rows) else ""


def error_cell(row: Row, form: str, without: str) -> str:
    """The MPJPE, or that there are no weights whose error could be measured."""
    return without if row.weights == "random" else number(row.mpjpe_mm, form)


def table(rows: Sequence[Row], width: int = 100, ascii_only: bool = False) -> Table:
    """The rows as a rich table for that many characters; a star marks the recommended one (">" in plain ASCII)."""
    from rich import box
    from rich.table import Table

    # Without rules between the columns eleven of them fit 80 characters.
    made = Table(box=None if ascii_only else box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    headings = [name if width >= _WIDE else _NARROW.get(name, name) for name in columns(rows)]
    lines = max(name.count("\n") for name in headings)
    for place, name in enumerate(headings):
        lowered = "\n" * (lines - name.count("\n")) + name  # headings stand on the rule, cells hang from the top
        made.add_column(lowered, justify="left" if place < _TEXT_COLUMNS else "right", no_wrap=True)
    star, space = ">" if ascii_only else "★", " " if width >= _WIDE else ""
    for row in rows:
        mark = (star if row.recommended else " ") + space
        shown = _cells(row, mark, batched(rows))
        made.add_row(*(map(_plain, shown) if ascii_only else shown), style="bold" if row.recommended else None)
    return made


def batched(rows: Sequence[Row]) -> bool:
    """Whether a forward of any of the rows gave more than one pose."""
    return any(row.poses_a_forward > 1 for row in rows)


def columns(rows: Sequence[Row]) -> tuple[str, ...]:
    """The headings over `cells`: batches are shown where there are any, and then all poses of a second count."""
    named = {"size\nMB": "batch", "FPS": "poses\n/s"} if batched(rows) else {}
    return tuple(named.get(name, name) for name in COLUMNS)


def cells(row: Row, batches: bool = False) -> tuple[str, ...]:
    """What a row says in each of `columns`, without colours; "-" for what is not known."""
    return (
        backend_cell(row),
        row.precision,
        row.status,
        (str(row.batch) if row.status == "ok" else "-") if batches else _megabytes(row.size_bytes),
        error_cell(row, ".2f", "none"),  # the heading over the rows says why
        number(row.change_mm, "+.2f"),
        milliseconds(row.p50_ms),
        milliseconds(row.p90_ms),
        milliseconds(row.p99_ms),
        number(row.poses_per_s if batches else row.fps, ".0f"),
        number(row.lookahead_ms, ".0f"),
    )


def backend_cell(row: Row) -> str:
    """The backend, and on a second line what tells rows apart: poses a window, or the bundle's name where needed."""
    more = [_shortened(row.name)] if row.name else [f"{row.emitted} poses"] if row.emitted > 1 else []
    return "\n".join([row.backend, *more])


def _shortened(name: str, longest: int = 11) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


def noise_note(report: Report) -> str | None:
    """A warning where the rounds differed so much that close rows cannot be told apart."""
    if report.noise <= NOISY:
        return None
    return (
        f"The machine was busy: medians moved by up to ±{report.noise:.0%} between rounds. The rows shared that "
        f"noise, so their order holds better than their times; measure again on an idle machine."
    )


def throttling_note(report: Report) -> str | None:
    """A warning where the device slowed itself down while it was measured."""
    found = report.provenance.get("throttled")
    return f"The device throttled while it was measured: {'; '.join(found)}." if found else None


def _cells(row: Row, mark: str, batches: bool) -> list[str]:
    from rich.markup import escape

    backend, precision, status, *numbers = map(escape, cells(row, batches))
    backend = backend.replace("\n", "\n" + " " * len(mark))
    return [mark + backend, precision, f"[{_COLOURS[row.status]}]{status}[/]", *numbers]


def number(value: float | None, form: str) -> str:
    """A figure in that format, or "-" where it is not known."""
    if value is None:
        return "-"
    text = format(value, form)
    return "0.00" if text in ("-0.00", "+0.00") else text


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.1f}"


def _plain(text: str) -> str:
    """ASCII only, for terminals and logs that know nothing else."""
    return text.replace("…", "~").replace("±", "+/-").encode("ascii", "replace").decode()


def milliseconds(value: float | None) -> str:
    """Three digits: more are noise, and fewer hide differences."""
    decimals = 0 if value is None or value >= 99.95 else 1 if value >= 9.995 else 2
    return number(value, f".{decimals}f")
