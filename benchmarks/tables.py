"""The table of a benchmark on a terminal, in a pipe, or in a log."""

from __future__ import annotations

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
    console.print(table(report, console.width, console.options.ascii_only))
    for row in report.rows:
        if row.status != "ok":
            console.print(Text.assemble((show(f"{row.title} {row.status}: "), _COLOURS[row.status]), show(row.reason)))
    for row in report.rows:
        if row.left_in_float:
            console.print(Text(show(f"{row.title} leaves in float: {', '.join(row.left_in_float)}"), "dim"))
    console.print()
    console.print(Text(show(report.summary), "bold"))
    if (doubt := noise_note(report)) is not None:
        console.print(Text(show(doubt), "yellow"))
    console.print(Text(show(report.setting), "dim"))


def table(report: Report, width: int = 100, ascii_only: bool = False) -> Table:
    """The rows as a rich table for that many characters; a star marks the recommended one (">" in plain ASCII)."""
    from rich import box
    from rich.table import Table

    # Without rules between the columns eleven of them fit 80 characters.
    made = Table(box=None if ascii_only else box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    headings = [name if width >= _WIDE else _NARROW.get(name, name) for name in COLUMNS]
    lines = max(name.count("\n") for name in headings)
    for place, name in enumerate(headings):
        lowered = "\n" * (lines - name.count("\n")) + name  # headings stand on the rule, cells hang from the top
        made.add_column(lowered, justify="left" if place < _TEXT_COLUMNS else "right", no_wrap=True)
    star, space = ">" if ascii_only else "★", " " if width >= _WIDE else ""
    for row in report.rows:
        mark = (star if row.recommended else " ") + space
        shown = _cells(row, mark)
        made.add_row(*(map(_plain, shown) if ascii_only else shown), style="bold" if row.recommended else None)
    return made


def cells(row: Row) -> tuple[str, ...]:
    """What a row says in each of COLUMNS, without colours; "-" for what is not known."""
    return (
        backend_cell(row),
        row.precision,
        row.status,
        _megabytes(row.size_bytes),
        number(row.mpjpe_mm, ".2f"),
        number(row.change_mm, "+.2f"),
        _milliseconds(row.p50_ms),
        _milliseconds(row.p90_ms),
        _milliseconds(row.p99_ms),
        number(row.fps, ".0f"),
        number(row.lookahead_ms, ".0f"),
    )


def backend_cell(row: Row) -> str:
    """The backend, and on a second line the bundle's name where two rows could be confused without it."""
    return f"{row.backend}\n{_shortened(row.name)}" if row.name else row.backend


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


def _cells(row: Row, mark: str) -> list[str]:
    from rich.markup import escape

    backend, precision, status, *numbers = map(escape, cells(row))
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


def _milliseconds(value: float | None) -> str:
    """Three digits: more are noise, and fewer hide differences."""
    decimals = 0 if value is None or value >= 99.95 else 1 if value >= 9.995 else 2
    return number(value, f".{decimals}f")
