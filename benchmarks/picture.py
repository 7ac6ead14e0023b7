"""What stands where on the plot of speed against error, for the PNG and for the page alike.

Three kinds of marks that must never be mixed up: rows measured here, speed and error; rows without weights, which were
timed only and have no place on the error axis; and published figures, of other people's devices and data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pstmo_edge.benchmarks import tables
from pstmo_edge.benchmarks.rows import Row

LEAST_SPAN_MM = 2.0  # a plot that zooms into hundredths of a millimetre would show noise as if it mattered
LEAST_SPAN_FPS = 4.0  # as a factor: a plot that zooms into a few per cent would do the same
_MOST_LABELS = 10  # rows of one model that can all have a name beside them; of more, those that matter have
_DIGITS_MM = 2  # errors that print as the same number are the same


@dataclass(frozen=True)
class Mark:
    """One measured row. `mpjpe_mm` is None where the row was timed only; `label` is empty where there is no room."""

    number: int  # of the row in the report
    row: Row
    speed: float
    mpjpe_mm: float | None
    label: str = ""


@dataclass(frozen=True)
class Published:
    """What others published of a model: on their device and their data, never measured here."""

    label: str
    fps: float
    mpjpe_mm: float
    device: str


@dataclass(frozen=True)
class Picture:
    """The whole plot: `marks` have an error, `lanes` are the rows without one by model, `front` is a part of `marks`.

    `x_range` is that of the speed axis, which is logarithmic, `y_range` of the error axis, which is not.
    """

    marks: tuple[Mark, ...]
    lanes: tuple[tuple[str, tuple[Mark, ...]], ...]
    published: tuple[Published, ...]
    front: tuple[Mark, ...]
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    unit: str

    @property
    def has_errors(self) -> bool:
        """Whether anything has a place on the error axis."""
        return bool(self.marks or self.published)

    @property
    def lanes_note(self) -> str:
        """Why the rows in lanes have no place on the error axis."""
        random = all(mark.row.weights == "random" for _, marks in self.lanes for mark in marks)
        return "no weights: timed only" if random else "error not known: timed only"

    @property
    def staircase(self) -> list[tuple[float, float]]:
        """Corners (speed, error) of the front's line, from the plot's left edge to its upper one."""
        corners, left = [], self.x_range[0]
        for mark in self.front:
            corners += [(left, mark.mpjpe_mm or 0.0), (mark.speed, mark.mpjpe_mm or 0.0)]
            left = mark.speed
        return [*corners, (left, self.y_range[1])] if corners else []


def picture(rows: Sequence[Row]) -> Picture:
    """The plot of a report's rows; those that failed are not on it."""
    several = several_models(rows)
    timed = [
        Mark(number, row, speed, row.mpjpe_mm)
        for number, row in enumerate(rows)
        if row.status == "ok" and (speed := pose_rate(row))
    ]
    shown = [mark for mark in timed if mark.mpjpe_mm is not None]
    front = pareto_front(shown)
    published = _published(rows)
    speeds = [mark.speed for mark in timed] + [each.fps for each in published]
    errors = [mark.mpjpe_mm for mark in shown if mark.mpjpe_mm is not None] + [each.mpjpe_mm for each in published]
    return Picture(
        marks=tuple(_labelled(shown, front, several)),
        lanes=_lanes([mark for mark in timed if mark.mpjpe_mm is None]),
        published=tuple(published),
        front=tuple(front),
        x_range=_speed_range(speeds),
        y_range=_error_range(errors),
        unit="poses/s" if tables.batched(rows) else "FPS",
    )


def pose_rate(row: Row) -> float | None:
    """Poses a second; the same as FPS where each forward gives one."""
    return row.poses_per_s if row.poses_per_s is not None else row.fps


def several_models(rows: Sequence[Row]) -> bool:
    """Whether a row must say which model it is of; one that did not even open has none."""
    return len({(row.model, row.frames) for row in rows if row.model}) > 1


def model_name(row: Row) -> str:
    """The model and its window length, as in a table's first column."""
    return f"{row.model} {row.frames}" if row.model and row.frames else row.model or "unknown model"


def full_title(row: Row, rows: Sequence[Row]) -> str:
    """What to call a row among those: with its model where they are of several."""
    return f"{model_name(row)}, {row.title}" if row.model and several_models(rows) else row.title


def pareto_front(shown: Sequence[Mark]) -> list[Mark]:
    """The marks that no other beats in both speed and error, slowest first; errors count as they are printed."""
    best, front = math.inf, []
    for mark in sorted(shown, key=lambda mark: (-mark.speed, _error(mark))):
        if _error(mark) < best:
            best = _error(mark)
            front.append(mark)
    return front[::-1]


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers within [low, high]."""
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int = 9) -> list[float]:
    """Round numbers within [low, high] for a logarithmic axis: 1, 2, 5, 10, ..., or fewer of each decade."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [factor * 10.0**power for power in powers for factor in factors]
        ticks = [float(f"{tick:.6g}") for tick in found if low * 0.999 <= tick <= high * 1.001]
        if len(ticks) <= most:
            break
    return ticks


def _error(mark: Mark) -> float:
    return math.inf if mark.mpjpe_mm is None else round(mark.mpjpe_mm, _DIGITS_MM)


def _speed_range(speeds: Sequence[float]) -> tuple[float, float]:
    slowest, fastest = min(speeds, default=1.0), max(speeds, default=1.0)
    middle = math.sqrt(slowest * fastest)
    factor = max(1.25 * math.sqrt(fastest / slowest), math.sqrt(LEAST_SPAN_FPS))
    return middle / factor, middle * factor


def _error_range(errors: Sequence[float]) -> tuple[float, float]:
    low, high = min(errors, default=0.0), max(errors, default=0.0)
    middle, span = (low + high) / 2, max(1.4 * (high - low), LEAST_SPAN_MM)
    start = max(0.0, middle - span / 2)
    return start, start + span


def _labelled(shown: Sequence[Mark], front: Sequence[Mark], several: bool) -> list[Mark]:
    """The marks with their labels, the recommended one first, for its label is placed first.

    Of several models each is named once, at its fastest row: its rows differ little in error, and colour and shape tell
    them apart.
    """
    if several:
        fastest = {model_name(mark.row): mark.number for mark in sorted(shown, key=lambda mark: mark.speed)}
        names = {number: name for name, number in fastest.items()}
    else:
        few = len(shown) <= _MOST_LABELS
        names = {mark.number: mark.row.title for mark in shown if few or mark.row.recommended or mark in front}
    labelled = [replace(mark, label=names.get(mark.number, "")) for mark in shown]
    return sorted(labelled, key=lambda mark: not mark.row.recommended)


def _lanes(timed_only: Sequence[Mark]) -> tuple[tuple[str, tuple[Mark, ...]], ...]:
    names = dict.fromkeys(model_name(mark.row) for mark in timed_only)
    return tuple((name, tuple(mark for mark in timed_only if model_name(mark.row) == name)) for name in names)


def _published(rows: Sequence[Row]) -> list[Published]:
    """One a model, where both figures were published."""
    found = {}
    for row in rows:
        known = row.published or {}
        if known.get("fps") and known.get("mpjpe_mm"):
            found[model_name(row)] = Published(
                model_name(row), known["fps"], known["mpjpe_mm"], known.get("device") or "a device not named"
            )
    return list(found.values())
