"""The groups that a long benchmark has finished, kept in a file so that an interrupted run can go on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pstmo_edge.benchmarks.rows import Row
from pstmo_edge.files import write_atomic

# What must be the same for rows to stand in one report; the date, the load and the commit may differ.
_SAME = ("pstmo_edge", "cpu", "cores", "target", "board", "gpus", "os", "runtimes", "settings")


class Unfinished:
    """Rows by group, written after every group; rows of another run, machine or version are not used."""

    def __init__(self, path: Path | None, provenance: Mapping[str, Any], groups: Sequence[str]) -> None:
        self.path = path
        self.key = json.loads(json.dumps({name: provenance[name] for name in _SAME} | {"groups": list(groups)}))
        self.kept: dict[str, Any] = self._read()

    def rows(self, group: str) -> list[tuple[Row, str]] | None:
        """Each row of a finished group, with what its error was measured on; None for one that is not finished."""
        found = self.kept.get(group)
        return None if found is None else [(Row.from_dict(row), data) for row, data in found]

    def keep(self, group: str, rows: Sequence[tuple[Row, str]]) -> None:
        """Write a finished group down."""
        self.kept[group] = [(row.to_dict(), data) for row, data in rows]
        if self.path is not None:
            write_atomic(self.path, json.dumps({"run": self.key, "groups": self.kept}).encode())

    def _read(self) -> dict[str, Any]:
        if self.path is None or not self.path.is_file():
            return {}
        try:
            found = json.loads(self.path.read_text())
            kept: dict[str, Any] = found["groups"] if found["run"] == self.key else {}
        except (ValueError, KeyError, TypeError):  # half a file of another program: measured again
            return {}
        return kept
