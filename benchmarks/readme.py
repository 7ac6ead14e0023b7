"""The README's tables, made from benchmarks/results: `python -m pstmo_edge.benchmarks.readme` from the source tree."""

from __future__ import annotations

import json
from pathlib import Path

from pstmo_edge.benchmarks import accuracy, tables
from pstmo_edge.benchmarks.report import Report
from pstmo_edge.files import write_atomic

README = Path("README.md")
SPEED = Path("benchmarks/results/bench.json")


def rendered(readme: str, root: Path = Path()) -> str:
    """The README with its two tables renewed from the results below `root`."""
    report = Report.from_dict(json.loads((root / SPEED).read_text()))
    readme = _with(readme, "bench", speed_table(report))
    return _with(readme, "accuracy", accuracy.markdown(json.loads((root / accuracy.RESULTS).read_text())))


def speed_table(report: Report) -> str:
    """A benchmark's rows, its recommendation, and the machine and setting that it holds for."""
    head = [name.replace("\n", " ") for name in tables.COLUMNS]
    rows = [[cell.replace("\n", " ") for cell in tables.cells(row)] for row in report.rows]
    best = [f"**{row[0]}**" if found.recommended else row[0] for row, found in zip(rows, report.rows, strict=True)]
    lines = [head, ["---"] * 3 + ["---:"] * (len(head) - 3)]
    lines += [[name, *row[1:]] for name, row in zip(best, rows, strict=True)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    machine = "{cpu}, {cores} cores, {target}".format(**report.provenance)
    doubt = tables.noise_note(report)
    notes = [report.summary, *([doubt] if doubt else []), f"{report.setting} Machine: {machine}."]
    return "\n\n".join([table, *notes])


def _with(readme: str, name: str, text: str) -> str:
    begin, end = f"<!-- {name}: made by benchmarks/readme.py -->", f"<!-- end of {name} -->"
    before, rest = readme.split(begin)
    return f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}"


def main() -> None:
    """Renew the README."""
    write_atomic(README, rendered(README.read_text()).encode())


if __name__ == "__main__":
    main()
