"""The result of a benchmark, and the folder that shows it to people and to programs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pstmo_edge.benchmarks import provenance
from pstmo_edge.benchmarks.moments import Moment
from pstmo_edge.benchmarks.rows import Row
from pstmo_edge.errors import UsageError
from pstmo_edge.files import write_atomic, write_folder_atomic

SCHEMA_VERSION = 1
_BATCHES = {
    "single-stream": "Batch 1",
    "multi-stream": "{} streams, whose windows share a forward",
    "offline": "Offline, each row at its best batch",
}
JSON_NAME, PAGE_NAME, PLOT_NAME, POSES_NAME = "report.json", "index.html", "fps_vs_mpjpe.png", "poses.png"


@dataclass(frozen=True)
class Report:
    """All rows of one benchmark, what follows from them, and where they were measured.

    `data` names what the errors were measured on, `checked_windows` how many windows each output was checked on.
    `moments` and `actions`, {"Walking": {"mpjpe_mm": …, "windows": …}}, are of the engine called `shown`, on these
    windows: the recommended one, or where there is none the first that passed its check.
    """

    rows: tuple[Row, ...]
    summary: str
    data: str
    checked_windows: int
    provenance: Mapping[str, Any]
    shown: str = ""
    moments: tuple[Moment, ...] = ()
    actions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def recommended(self) -> Row | None:
        """The row to use on this machine, None where none passed."""
        return next((row for row in self.rows if row.recommended), None)

    @property
    def setting(self) -> str:
        """The exact setting in one line: no FPS means anything without it."""
        rounds = self.provenance["settings"]["timing"]["rounds"]
        timed = [row.samples for row in self.rows if row.samples]
        count = f"{min(timed)} or more" if timed else "no"
        threads = provenance.describe_threads(self.provenance["threads"])
        settings = self.provenance["settings"]
        mirroring = "with mirroring: two forwards a pose" if settings.get("flip") else "without mirroring"
        errors = "No weights, so no errors." if self.data == "nothing" else f"Errors on {self.data}."
        return (
            f"{_BATCHES[settings.get('scenario', 'single-stream')].format(settings.get('streams'))}, {threads}, "
            f"{mirroring}. {errors} Outputs checked on {self.checked_windows} held-out windows, then "
            f"{count} forwards a row timed in {rounds} interleaved rounds; FPS is 1 / mean latency."
        )

    @property
    def models(self) -> tuple[tuple[str, int | None], ...]:
        """Names and frames of the models that the rows are of, in order."""
        return tuple(dict.fromkeys((row.model, row.frames) for row in self.rows if row.model))

    @property
    def noise(self) -> float:
        """The largest wobble of a row's median from round to round, as a share."""
        return max((row.noise for row in self.rows if row.noise is not None), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            "summary": self.summary,
            "setting": self.setting,
            "recommended": self.recommended.to_dict() if self.recommended else None,
            "rows": [row.to_dict() for row in self.rows],
            "data": self.data,
            "checked_windows": self.checked_windows,
            "shown": self.shown,
            "actions": {name: dict(values) for name, values in self.actions.items()},
            "provenance": dict(self.provenance),
            "moments": [moment.to_dict() for moment in self.moments],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """The report that `to_dict` wrote; what follows from the rest is not read. Raises UsageError."""
        if values.get("schema_version") != SCHEMA_VERSION:
            raise UsageError(
                f"this report has schema {values.get('schema_version')}, this version reads {SCHEMA_VERSION}: "
                f"run pstmo-edge bench again"
            )
        if missing := {"rows", "summary", "data", "checked_windows", "provenance"} - values.keys():
            raise UsageError(f"this is no report of a benchmark: it lacks {', '.join(sorted(missing))}")
        return cls(
            rows=tuple(Row.from_dict(row) for row in values["rows"]),
            summary=values["summary"],
            data=values["data"],
            checked_windows=values["checked_windows"],
            provenance=values["provenance"],
            shown=values["shown"],
            moments=tuple(Moment.from_dict(moment) for moment in values["moments"]),
            actions=values["actions"],
        )


def refuse_existing(out: str | os.PathLike[str], force: bool) -> None:
    """Raise UsageError where `write_report` would: worth asking before minutes of measuring."""
    path = Path(out)
    if not path.exists():
        return
    if not force:
        raise UsageError(f"{out} exists already; add --force to replace it, or choose another --out")
    if not path.is_dir() or (any(path.iterdir()) and not (path / JSON_NAME).is_file()):
        raise UsageError(f"{out} is no folder with a {JSON_NAME}, so --force does not replace it; choose another --out")


def write_report(report: Report, out: str | os.PathLike[str], force: bool = False) -> Path:
    """Write report.json, fps_vs_mpjpe.png, poses.png and index.html as the folder `out`, whole or not at all.

    Raises UsageError when `out` exists and `force` is not set or it holds no report, WriteError, and BackendError
    where matplotlib is not installed. poses.png is left out where the report has no moments.
    """
    from pstmo_edge.benchmarks import page, plots

    files = {
        JSON_NAME: json.dumps(report.to_dict(), indent=2, allow_nan=False).encode() + b"\n",
        PLOT_NAME: plots.fps_vs_mpjpe(report),
        PAGE_NAME: page.render(report).encode(),
    }
    if report.moments:
        files[POSES_NAME] = plots.poses(report)
    with write_folder_atomic(out, force=force, marker=JSON_NAME) as folder:
        for name, content in files.items():
            write_atomic(folder / name, content)
    return Path(out)
