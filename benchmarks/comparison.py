"""Two results of `pstmo-edge bench` side by side: the rows that both have, and how they differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pstmo_edge.benchmarks.report import JSON_NAME, Report
from pstmo_edge.benchmarks.rows import Row
from pstmo_edge.errors import DataError

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Pair:
    """One engine in two results; a figure that either lacks is None. `speed_ratio` is the second over the first."""

    title: str
    poses_per_s: tuple[float | None, float | None]
    speed_ratio: float | None
    mpjpe_mm: tuple[float | None, float | None]
    difference_mm: float | None


@dataclass(frozen=True)
class Comparison:
    """The pairs, the rows that only one result has, and where the two were measured."""

    pairs: tuple[Pair, ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]
    where: tuple[str, str]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def read_report(path: Path) -> Report:
    """A result, by its JSON file or the folder of its report; raises DataError and UsageError."""
    file = path / JSON_NAME if path.is_dir() else path
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"no such result: {file}") from None
    except ValueError:
        raise DataError(f"{file} is no JSON") from None
    if not isinstance(values, dict):
        raise DataError(f"{file} is no report of a benchmark")
    return Report.from_dict(values)


def compare(first: Report, second: Report) -> Comparison:
    """Pair the rows of two results by model, backend, precision and, where there are several, name."""
    one, two = _by_title(first.rows), _by_title(second.rows)
    both = [title for title in one if title in two]
    only = tuple(title for title in one if title not in two), tuple(title for title in two if title not in one)
    return Comparison(
        tuple(_pair(title, one[title], two[title]) for title in both),
        only,
        (_where(first), _where(second)),
        tuple(_notes(first, second)),
    )


def table(found: Comparison) -> Table:
    """The pairs as a rich table."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    made.add_column("engine")
    for name in ("A\nposes/s", "B\nposes/s", "B / A", "A\nmm", "B\nmm", "B - A\nmm"):
        made.add_column(name, justify="right")
    for pair in found.pairs:
        speeds = (_number(value, ".0f") for value in pair.poses_per_s)
        errors = (_number(value, ".2f") for value in pair.mpjpe_mm)
        made.add_row(
            pair.title, *speeds, _number(pair.speed_ratio, ".2f"), *errors, _number(pair.difference_mm, "+.2f")
        )
    return made


def _by_title(rows: Sequence[Row]) -> dict[str, Row]:
    return {f"{row.model} {row.frames} {row.title}".strip(): row for row in rows}


def _pair(title: str, one: Row, two: Row) -> Pair:
    speeds, errors = (_speed(one), _speed(two)), (one.mpjpe_mm, two.mpjpe_mm)
    ratio = None if speeds[0] is None or speeds[1] is None else speeds[1] / speeds[0]
    difference = None if errors[0] is None or errors[1] is None else errors[1] - errors[0]
    return Pair(title, speeds, ratio, errors, difference)


def _speed(row: Row) -> float | None:
    """Poses a second; results from before that column have it as FPS at batch 1."""
    return row.poses_per_s if row.poses_per_s is not None else row.fps


def _where(report: Report) -> str:
    found = report.provenance
    device = found["board"] or "; ".join(found["gpus"]) or found["cpu"]
    return f"{device}, {found['cores']} cores, pstmo-edge {found['pstmo_edge']}, {found['date'][:10]}"


def _notes(first: Report, second: Report) -> list[str]:
    """What makes the two hard to compare."""
    notes = []
    if first.data != second.data:
        notes.append(f"errors are on other data: A {first.data}; B {second.data}")
    for name in ("scenario", "flip", "threads", "streams"):
        one, two = (report.provenance["settings"].get(name) for report in (first, second))
        if one != two:
            notes.append(f"{name}: A {one}, B {two}")
    noise = max(first.noise, second.noise)
    if noise > 0.1:
        notes.append(f"medians moved by up to ±{noise:.0%} between rounds: smaller differences in speed mean nothing")
    return notes


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
