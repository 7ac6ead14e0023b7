"""The tables of the README, of docs/weights.md and of other pages, made from benchmarks/results.

Run as `python -m pstmo_edge.benchmarks.readme` from the root of the source tree.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pstmo_edge.benchmarks import accuracy, app, archive, emit, equal_effort, sequences, streams, streams_tables, tables
from pstmo_edge.benchmarks.report import Report
from pstmo_edge.files import write_atomic

README, CARDS = Path("README.md"), Path("docs/weights.md")
BOXED = "p-stmo-s-27"


def rendered(readme: str, root: Path = Path()) -> str:
    """The README with its blocks renewed from the results below `root`; a block without results stays as it is."""
    for name, make in BLOCKS.items():
        text = make(root)
        if text is not None:
            readme = _with(readme, name, text)
    return readme


def cards(text: str, root: Path = Path()) -> str:
    """The cards of the weights in the box with their figures renewed."""
    results = _accuracy(root)
    for name, found in results["weights"].items():
        text = _with(text, name, accuracy.card(found, results["mean_pose"]))
    return text


def _accuracy(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / accuracy.RESULTS).read_text())
    return found


def _found(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def _report(root: Path, name: str) -> Report | None:
    """The newest result of `pstmo-edge bench` of that name."""
    path = archive.newest(name, root / archive.RESULTS)
    return None if path is None else Report.from_dict(json.loads(path.read_text()))


def _speed_block(root: Path) -> str | None:
    report = _report(root, "bench")
    return None if report is None else speed_table(report)


def _accuracy_block(root: Path) -> str:
    results = _accuracy(root)
    return accuracy.markdown(results["weights"][BOXED], results["mean_pose"])


def _seed_block(root: Path) -> str | None:
    report = _report(root, "seed")
    return None if report is None else overview_table(report)


def _effort_block(root: Path) -> str | None:
    found = _found(root / equal_effort.RESULTS)
    return None if found is None else effort_table(found, _report(root, "equal-27"))


def _sequences_block(root: Path) -> str | None:
    found = _found(root / sequences.RESULTS)
    return None if found is None else sequences_table(found)


def _emit_block(root: Path) -> str | None:
    found = _found(root / emit.RESULTS)
    if found is None:
        return None
    intro = (
        "One pass can give many poses: `build --emit all` deploys P-STMO's per-frame head alone, `--emit 9` for the "
        "middle 9 frames of the window (`python -m pstmo_edge.benchmarks.emit`). MPJPE in mm:"
    )
    picture = f"![Error against the number of poses a window, and by position in it]({emit.PICTURE})"
    return "\n\n".join([intro, picture, emit.markdown(found)])


# What stands between the marks of each name, made from the results below a root.
BLOCKS: dict[str, Callable[[Path], str | None]] = {
    "bench": _speed_block,
    "accuracy": _accuracy_block,
    "seed": _seed_block,
    "equal-effort": _effort_block,
    "sequences": _sequences_block,
    "emit": _emit_block,
}


def _app_block(root: Path) -> str | None:
    found = _found(root / app.RESULTS)
    return None if found is None else app.markdown(found)


def _streams_block(name: str, root: Path) -> str | None:
    found = _found(root / streams.RESULTS)
    return None if found is None else streams_tables.BLOCKS[name](found)


# The same of other pages.
PAGES: dict[Path, dict[str, Callable[[Path], str | None]]] = {
    Path("docs/run.md"): {"app": _app_block},
    Path("docs/streams.md"): {name: partial(_streams_block, name) for name in streams_tables.BLOCKS},
}


def page(path: Path, text: str, root: Path = Path()) -> str:
    """A page of PAGES with its blocks renewed; a block without results stays as it is."""
    for name, make in PAGES[path].items():
        block = make(root)
        if block is not None:
            text = _with(text, name, block)
    return text


def speed_table(report: Report) -> str:
    """A benchmark's rows, its recommendation, and the machine and setting that it holds for."""
    head = [name.replace("\n", " ") for name in tables.COLUMNS]
    rows = [[cell.replace("\n", " ") for cell in tables.cells(row)] for row in report.rows]
    best = [f"**{row[0]}**" if found.recommended else row[0] for row, found in zip(rows, report.rows, strict=True)]
    table = _table(head, [[name, *row[1:]] for name, row in zip(best, rows, strict=True)], texts=3)
    return "\n\n".join([table, report.summary, *_setting(report)])


def overview_table(report: Report) -> str:
    """One line a model, published figures beside measured ones."""
    head = [name.replace("\n", " ") for name in tables.OVERVIEW]
    table = _table(head, tables.overview_cells(report))
    intro = "The published table, measured here by `pstmo-edge bench --table seed`:"
    return "\n\n".join([intro, table, tables.PUBLISHED_NOTE, *_setting(report)])


def effort_table(found: dict[str, Any], speeds: Report | None) -> str:
    """Every architecture after the same training, best first, and how fast it is where that was measured."""
    lines = {} if speeds is None else {cells[0]: cells for cells in tables.overview_cells(speeds)}
    frames = found["recipe"]["frames"]
    rows = []
    for name, errors in sorted(found["models"].items(), key=lambda item: item[1]["gt"]["mpjpe_mm"]):
        *_, fp32, fastest, engine = lines.get(f"{name} {frames}", ("-", "-", "-"))
        pairs = [f"{errors[keys]['mpjpe_mm']:.1f} / {errors[keys]['p_mpjpe_mm']:.1f}" for keys in ("gt", "detected")]
        rows.append([name, f"{errors['parameters'] / 1e6:.2f}", *pairs, fp32, fastest, engine])
    head = ["model", "parameters, M", "exact", "detected", "fp32 poses/s", "fastest poses/s", "fastest engine"]
    intro = (
        "What the architectures learn from the same little effort, recipe `equal-27` for all "
        "(`python -m pstmo_edge.benchmarks.equal_effort`), not what each reaches with a recipe of its own:"
    )
    note = f"MPJPE / P-MPJPE in mm with exact and detected keypoints; {found['data']}."
    return "\n\n".join([intro, _table(head, rows), note, *([] if speeds is None else _setting(speeds))])


def sequences_table(found: dict[str, Any]) -> str:
    """Seconds for one sequence, window by window and whole."""
    ways = list(found["rows"][0]["seconds"])
    rows = []
    for row in found["rows"]:
        middle = [f"{statistics.median(row['seconds'][way]):.2f}" for way in ways]
        faster = [f"{row['times_faster_than'][way]:.1f}" for way in ways if way != "whole"]
        rows.append([f"{row['model']} {row['frames']}", *middle, *faster, f"{row['difference']:.1g}"])
    head = ["model", *(f"{way}, s" for way in ways)]
    head += [f"times faster than {way}" for way in ways if way != "whole"]
    machine = "{cpu}, {cores} cores, {target}".format(**found["provenance"])
    note = (
        f"{found['rows'][0]['sequence_frames']} frames of one sequence in torch, batches of {found['batch']}; medians "
        f"of {found['rounds']} rounds; the poses differ by the last column at most, as a share of the largest output. "
        f"Machine: {machine}."
    )
    intro = (
        "Anatomy3D and VideoPose3D lift a recording as a whole (`forward_sequence`), each layer once a frame "
        "(`python -m pstmo_edge.benchmarks.sequences`):"
    )
    return "\n\n".join([intro, _table([*head, "difference"], rows), note])


def _setting(report: Report) -> list[str]:
    """What a reader must know of a report's figures: doubts, the setting and the machine."""
    machine = "{cpu}, {cores} cores, {target}".format(**report.provenance)
    doubt = tables.noise_note(report)
    return [*([doubt] if doubt else []), f"{report.setting} Machine: {machine}."]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A table in Markdown; all but the first `texts` columns are numbers, to the right."""
    lines = [head, ["---"] * texts + ["---:"] * (len(head) - texts), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _with(readme: str, name: str, text: str) -> str:
    begin, end = f"<!-- {name}: made by benchmarks/readme.py -->", f"<!-- end of {name} -->"
    before, rest = readme.split(begin)
    return f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}"


def main() -> None:
    """Renew README, cards and pages."""
    write_atomic(README, rendered(README.read_text()).encode())
    write_atomic(CARDS, cards(CARDS.read_text()).encode())
    for path in PAGES:
        write_atomic(path, page(path, path.read_text()).encode())


if __name__ == "__main__":
    main()
