"""The columns of the page's table: what each shows of a row, and by what it is sorted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Literal, TypeAlias

from pstmo_edge.benchmarks import tables
from pstmo_edge.benchmarks.picture import model_name, several_models
from pstmo_edge.benchmarks.rows import Row

Kind: TypeAlias = Literal["text", "number"]
UNKNOWN = "–"


@dataclass(frozen=True)
class Column:
    """One column: `text` is what a cell shows, `value` the number it is sorted by (None: unknown, always last).

    `first` is the order of the first click: what is best comes first. `more` columns are shown on request only.
    `published` ones hold figures of others, which were not measured here.
    """

    heading: str
    text: Callable[[Row], str]
    value: Callable[[Row], float | None] | None = None  # None: sorted as text
    first: Literal["ascending", "descending"] = "ascending"
    more: bool = False
    published: bool = False
    css: str = ""

    @property
    def kind(self) -> Kind:
        """How it is sorted."""
        return "text" if self.value is None else "number"

    def known(self, rows: Sequence[Row]) -> bool:
        """Whether any row has something to show."""
        return any(self.text(row) not in ("", UNKNOWN) for row in rows)

    def head(self) -> str:
        """The heading as HTML."""
        return (
            f'<th scope="col" data-kind="{self.kind}" data-first="{self.first}"{self._classes()}>'
            f"{escape(self.heading)}</th>"
        )

    def cell(self, row: Row) -> str:
        """The cell of a row as HTML; without a `data-value` where the number is not known."""
        value = self.value(row) if self.value else None
        data = "" if value is None else f' data-value="{value:.9g}"'
        css = f"{self.css} {row.status}" if self.css == "status" else self.css
        return f"<td{data}{self._classes(css)}>{escape(self.text(row))}</td>"

    def _classes(self, css: str | None = None) -> str:
        kinds = [self.kind, "more" if self.more else "", "published" if self.published else ""]
        kinds.append(self.css if css is None else css)
        return f' class="{" ".join(filter(None, kinds))}"'


def columns(rows: Sequence[Row]) -> list[Column]:
    """The columns besides the backend's; of those shown on request, only such as any row has a figure for."""
    model = [Column("Model", _broken_name, css="model")] if several_models(rows) else []
    return [*model, *(column for column in _figures(rows) if not column.more or column.known(rows))]


def unknown(rows: Sequence[Row]) -> list[str]:
    """What no row of this report has a figure for, though one could have been measured: such columns are left out."""
    left_out = [column for column in _figures(rows) if column.more and not column.known(rows)]
    return [column.heading.split(",")[0] for column in left_out if not column.published]


def _figures(rows: Sequence[Row]) -> list[Column]:
    """All columns but the names; where batches go through a forward, poses a second count, else FPS."""
    batched = tables.batched(rows)
    fps, poses = _rate("FPS", lambda row: row.fps), _rate("Poses/s", lambda row: row.poses_per_s)
    forwards = replace(fps, heading="Forwards/s")
    first, second = (poses, forwards) if batched else (fps, poses)
    return [
        Column("Precision", lambda row: row.precision),
        Column("Status", lambda row: row.status, css="status"),
        Column("MPJPE, mm", lambda row: _shown(tables.error_cell(row, ".2f", "no weights")), lambda row: row.mpjpe_mm),
        _number("P-MPJPE, mm", lambda row: row.p_mpjpe_mm, ".2f", more=True),
        _number("Change, mm", lambda row: row.change_mm, "+.2f"),
        _number("Batch", lambda row: row.batch if row.status == "ok" else None, "d", more=not batched),
        *(_milliseconds(f"p{rank}, ms", f"p{rank}_ms") for rank in (50, 90, 99)),
        _milliseconds("Jitter, ms", "jitter_ms", more=True),
        first,
        replace(second, more=True),
        _number("Look-ahead, ms", lambda row: row.lookahead_ms, ".0f"),
        _number("Size, MB", lambda row: row.size_bytes and row.size_bytes / 1e6, ".1f"),
        _number("Parameters, M", lambda row: row.parameters and row.parameters / 1e6, ".2f", more=True),
        _number("MFLOP a window", lambda row: row.mflop, ".0f", more=True),
        _number("MFLOP a pose", lambda row: row.mflop_a_pose, ".1f", more=True),
        _percent("Share of the limit", lambda row: row.limit_share, first="descending", more=True),
        _percent("INT8 share", lambda row: row.int8_share, first="descending", more=True),
        _number("Power, W", lambda row: row.power_w, ".1f", more=True),
        _number("Energy a pose, mJ", lambda row: row.energy_mj, ".1f", more=True),
        _number("Forwards timed", lambda row: row.samples, "d", first="descending", more=True),
        _percent("Wobble of p50, ±", lambda row: row.noise, more=True),
        _number("Published MPJPE, mm", lambda row: _published(row, "mpjpe_mm"), ".1f", more=True, published=True),
        replace(_rate("Published FPS", lambda row: _published(row, "fps")), more=True, published=True),
        Column("Published on", lambda row: _published(row, "device") or UNKNOWN, more=True, published=True),
    ]


def _number(heading: str, value: Callable[[Row], float | None], form: str, **more: Any) -> Column:
    return Column(heading, lambda row: _shown(tables.number(value(row), form)), value, **more)


def _milliseconds(heading: str, name: str, **more: Any) -> Column:
    return Column(
        heading, lambda row: _shown(tables.milliseconds(getattr(row, name))), lambda row: getattr(row, name), **more
    )


def _rate(heading: str, value: Callable[[Row], float | None]) -> Column:
    """So many a second, the most first; with a decimal where one would be lost."""

    def text(row: Row) -> str:
        found = value(row)
        return _shown(tables.number(found, ".1f" if found is not None and found < 9.95 else ".0f"))

    return Column(heading, text, value, first="descending")


def _percent(heading: str, value: Callable[[Row], float | None], **more: Any) -> Column:
    return _number(heading, value, ".0%", **more)


def _shown(text: str) -> str:
    """With a minus as wide as the plus, and a dash for what is not known."""
    return UNKNOWN if text == "-" else text.replace("-", "−")


def _broken_name(row: Row) -> str:
    """The model's name with a line break that only narrow screens obey."""
    return model_name(row).replace(" ", "\n")


def _published(row: Row, name: str) -> Any:
    return (row.published or {}).get(name)
