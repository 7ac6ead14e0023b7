"""One row of a benchmark, and which row to recommend."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Status: TypeAlias = Literal["ok", "failed", "missing"]

TIE = 0.03  # a difference in the median below this share is noise
SAME_ERROR_MM = 0.05  # published errors have one decimal: what is below half of it does not decide


@dataclass(frozen=True)
class Row:
    """What one engine costs on this machine; what is not known is None.

    Times are of one window at batch 1 in milliseconds, `fps` is one over their mean, errors are without mirroring,
    `change_mm` is against the fp32 torch model on the same windows, `size_bytes` counts the model's artifacts and
    not the manifest. `noise` is half the range of the medians over the rounds, relative to `p50_ms`.

    A window gives `emitted` poses. They all count in `poses_per_s` of recordings (scenario offline), where one window
    follows another; a live camera has a use for one a forward, whatever else comes out.

    `jitter_ms` is the mean difference of one latency and the next, `percentiles_ms` are the 0th, 5th, ... 100th of the
    latencies. `batch` windows went through a forward, and `poses_per_s` counts all of them. `mflop` is what one window
    costs (2 per multiply-add), `limit_share` the share of this machine's measured matrix product speed that was
    reached. `published` are figures of others, never measured here: {"mpjpe_mm": ..., "fps": ..., "device": ...}.
    """

    backend: str
    precision: str
    status: Status
    reason: str = ""  # why it is not "ok", in one line
    checked: str = ""  # what its output was compared with before it was timed
    name: str = ""  # the bundle's folder, where backend and precision would not tell two rows apart
    model: str = ""
    frames: int | None = None
    size_bytes: int | None = None
    mpjpe_mm: float | None = None
    change_mm: float | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    fps: float | None = None
    samples: int | None = None
    noise: float | None = None
    lookahead_ms: float | None = None
    int8_share: float | None = None
    left_in_float: tuple[str, ...] = ()
    recommended: bool = False
    weights: str = ""  # "random" where there are none: such a row has times and no errors
    p_mpjpe_mm: float | None = None
    parameters: int | None = None
    mflop: float | None = None
    batch: int = 1
    poses_per_s: float | None = None
    jitter_ms: float | None = None
    percentiles_ms: tuple[float, ...] = ()
    limit_share: float | None = None
    power_w: float | None = None  # of the whole device while the row ran, where the device tells
    energy_mj: float | None = None  # a pose
    published: Mapping[str, Any] | None = None
    emitted: int = 1

    @property
    def title(self) -> str:
        """What to call it in a sentence."""
        several = f", {self.emitted} poses a window" if self.emitted > 1 else ""
        return f"{self.backend} {self.precision}{several}" + (f" ({self.name})" if self.name else "")

    @property
    def poses_a_forward(self) -> int:
        """How many poses of use a forward gave, see `emitted`."""
        return round(self.poses_per_s / self.fps) if self.poses_per_s and self.fps else self.batch

    @property
    def mflop_a_pose(self) -> float | None:
        """What a pose costs: a window's `mflop`, shared by the poses that count."""
        return None if self.mflop is None else self.mflop * self.batch / self.poses_a_forward

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        lists = {"left_in_float": list(self.left_in_float), "percentiles_ms": list(self.percentiles_ms)}
        return {**dataclasses.asdict(self), **lists}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Row:
        """The row that `to_dict` wrote."""
        lists = {name: tuple(values.get(name, ())) for name in ("left_in_float", "percentiles_ms")}
        return cls(**{**values, **lists})


def recommend(rows: Sequence[Row], max_drop_mm: float) -> tuple[Row, ...]:
    """The same rows, the best one marked: the fastest whose error is known and rose by at most `max_drop_mm`.

    Medians within 3 % of the fastest count as equal; then the smaller error wins, then the smaller file.
    """
    best = _best(rows, max_drop_mm)
    return tuple(dataclasses.replace(row, recommended=row is best) for row in rows)


def _best(rows: Sequence[Row], max_drop_mm: float) -> Row | None:
    fit = [row for row in rows if _within(row, max_drop_mm)]
    if not fit:
        return None
    fastest = min(_pose_ms(row) for row in fit)
    fast = [row for row in fit if _pose_ms(row) <= fastest * (1 + TIE)]
    smallest = min(_error(row) for row in fast)
    exact = [row for row in fast if _error(row) <= smallest + SAME_ERROR_MM]
    return min(exact, key=lambda row: (row.size_bytes or 0, _pose_ms(row)))


def summary(rows: Sequence[Row], max_drop_mm: float, without_vnni: bool = False) -> str:
    """A sentence that names the recommended row and why, and one on what INT8 brought or cost on this machine.

    `without_vnni` says that the CPU is an x86 that lacks the instructions INT8 is fast with.
    """
    if len({(row.model, row.frames) for row in rows if row.model}) > 1:
        return _by_model(rows)
    best = next((row for row in rows if row.recommended), None)
    if best is None and (fastest := min(filter(_timed, rows), key=_pose_ms, default=None)) and fastest.weights:
        return f"Random weights have no error, so no row can be recommended. The fastest is {_speed(fastest)}."
    if best is None:
        return f"No row can be recommended: none passed its check and stays within {max_drop_mm:g} mm."
    alike = [row for row in rows if row.emitted == best.emitted]
    if not any(row.precision == "int8" for row in alike):  # what INT8 brings is known of other engines alone
        alike = [row for row in rows if row.emitted == 1]
    return f"Recommended: {best.title}, {_why(best, rows, max_drop_mm)}. {_int8(alike, without_vnni)}"


def _by_model(rows: Sequence[Row]) -> str:
    """What the fastest engine of each of several models is; which model to use is for the errors to say."""
    models = dict.fromkeys((row.model, row.frames) for row in rows if row.model)
    parts = []
    for model, frames in models:
        timed = [row for row in rows if (row.model, row.frames) == (model, frames) and _timed(row)]
        parts.append(f"{model} with {frames} frames {_speed(min(timed, key=_pose_ms)) if timed else 'none'}")
    return f"The fastest engine of each: {'; '.join(parts)}."


def _speed(row: Row) -> str:
    return f"{row.title} ({row.poses_per_s or row.fps or 0:.0f} {'FPS' if row.poses_a_forward == 1 else 'poses/s'})"


def _why(best: Row, rows: Sequence[Row], max_drop_mm: float) -> str:
    rivals = [row for row in rows if _timed(row) and row is not best]
    within = [row for row in rivals if _within(row, max_drop_mm)]
    rate = f"{best.fps or 0:.0f} FPS" if best.poses_a_forward == 1 else f"{best.poses_per_s or 0:.0f} poses/s"
    speed = f"{_pose_ms(best):.2f} ms a pose ({rate})"
    if any(_pose_ms(row) <= _pose_ms(best) * (1 + TIE) for row in within):
        return f"{speed}: as fast as any (differences under {TIE:.0%} are noise), {_tie_breaker(best, within)}"
    if any(_pose_ms(row) < _pose_ms(best) for row in rivals):
        return f"{speed}: the fastest that loses no more than {max_drop_mm:g} mm"
    return f"{speed}: the fastest" if rivals else speed


def _tie_breaker(best: Row, rivals: Sequence[Row]) -> str:
    tied = [row for row in rivals if _pose_ms(row) <= _pose_ms(best) * (1 + TIE)]
    if all(_error(row) > _error(best) + SAME_ERROR_MM for row in tied):
        return "and the smallest error"
    if all((row.size_bytes or 0) > (best.size_bytes or 0) for row in tied):
        return "and the smallest file"
    return "and among the smallest in error and file"


def _int8(rows: Sequence[Row], without_vnni: bool) -> str:
    int8, fp32 = _fastest(rows, "int8"), _fastest(rows, "fp32")
    if int8 is None:
        return "No INT8 row passed, so INT8 brings nothing here."
    if fp32 is None:
        return "No FP32 row passed, so what INT8 brings is not known."
    gain, cost = _pose_ms(fp32) / _pose_ms(int8), _cost(int8, fp32)
    pair = f"{int8.backend} int8 {_pose_ms(int8):.2f} ms, {fp32.backend} fp32 {_pose_ms(fp32):.2f} ms"
    if gain > 1 + TIE:
        return f"INT8 is {gain:.2f} times as fast as FP32 here ({pair}); {cost}."
    reason = ", whose CPU has no VNNI instructions" if without_vnni else ""
    verdict = f"{1 / gain - 1:.0%} slower than" if gain < 1 / (1 + TIE) else "no faster than"
    return f"INT8 does not pay in speed on this machine{reason}: it is {verdict} FP32 ({pair}); {cost}."


def _cost(int8: Row, fp32: Row) -> str:
    """What INT8 changes in size and error, as the end of a sentence."""
    parts = []
    if int8.size_bytes and fp32.size_bytes:
        parts.append(f"its file is {int8.size_bytes / fp32.size_bytes:.2f} of the size")
    if int8.change_mm is not None:
        parts.append(f"the error changes by {int8.change_mm:+.2f} mm")
    return " and ".join(parts) or "its error was not measured"


def _fastest(rows: Sequence[Row], precision: str) -> Row | None:
    return min((row for row in rows if _timed(row) and row.precision == precision), key=_pose_ms, default=None)


def _timed(row: Row) -> bool:
    return row.status == "ok" and row.p50_ms is not None


def _within(row: Row, max_drop_mm: float) -> bool:
    return _timed(row) and row.mpjpe_mm is not None and row.change_mm is not None and row.change_mm <= max_drop_mm


def _pose_ms(row: Row) -> float:
    """The median time of a forward, shared by the poses that came out of it."""
    return float("inf") if row.p50_ms is None else row.p50_ms / row.poses_a_forward


def _error(row: Row) -> float:
    return float("inf") if row.mpjpe_mm is None else row.mpjpe_mm
