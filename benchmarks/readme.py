"""The tables of the README and of docs/weights.md, made from benchmarks/results.

Run as `python -m pstmo_edge.benchmarks.readme` from the root of the source tree.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pstmo_edge.benchmarks import accuracy, tables
from pstmo_edge.benchmarks.report import Report
from pstmo_edge.files import write_atomic

README, CARDS = Path("README.md"), Path("docs/weights.md")
BOXED = "p-stmo-s-27"
SPEED = Path("benchmarks/results/bench.json")


def rendered(readme: str, root: Path = Path()) -> str:
    """The README with its two tables renewed from the results below `root`."""
    report = Report.from_dict(json.loads((root / SPEED).read_text()))
    readme = _with(readme, "bench", speed_table(report))
    results = _accuracy(root)
    return _with(readme, "accuracy", accuracy.markdown(results["weights"][BOXED], results["mean_pose"]))


def cards(text: str, root: Path = Path()) -> str:
    """The cards of the weights in the box with their figures renewed."""
    results = _accuracy(root)
    for name, found in results["weights"].items():
        text = _with(text, name, accuracy.card(found, results["mean_pose"]))
    return text


def _accuracy(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / accuracy.RESULTS).read_text())
    return found


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
    """Renew both."""
    write_atomic(README, rendered(README.read_text()).encode())
    write_atomic(CARDS, cards(CARDS.read_text()).encode())


if __name__ == "__main__":
    main()
