"""What quantization did to a model, for people: a table, plots, error by joint and action, jitter before and after."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.calib.plan import Plan, Quantized
from pstmo_edge.datasets.sequences import PoseSequence
from pstmo_edge.evaluation import Predict, jitter_mm, predict_all, score
from pstmo_edge.files import write_atomic, write_folder_atomic
from pstmo_edge.metrics import acceleration_error, joint_errors
from pstmo_edge.skeletons import get_skeleton
from pstmo_edge.windows import WindowSpec

_COLOURS = {"int8": "#4878a8", "w8a16": "#9fbfdc", "fp32": "#c8c8c8"}
JSON_NAME, HTML_NAME, PLOT_NAME = "quantization.json", "quantization.html", "layers.png"


@dataclass(frozen=True)
class Profile:
    """Errors of one engine, millimetres: the totals are means over frames, jitter is the acceleration error."""

    mpjpe_mm: float
    p_mpjpe_mm: float
    jitter_mm: float  # a frame squared
    joints: dict[str, float]
    actions: dict[str, float]


@dataclass(frozen=True)
class Row:
    """One layer of the table."""

    name: str
    precision: str
    saved: float  # share of the time of all weighted layers that INT8 saves here, as modelled for the target
    moved_mm: float
    cost_mm: float
    gain_mm: float
    jitter_mm: float


@dataclass(frozen=True)
class QuantizationReport:
    """Everything that is shown."""

    title: str
    settings: str
    data: str
    windows: int
    before: Profile
    after: Profile
    live_jitter_mm: tuple[float, float]  # before and after with a detector's keypoints, a frame squared
    expected_mm: float
    time: float
    layers: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def profile(predict: Predict, sequences: Sequence[PoseSequence], spec: WindowSpec) -> tuple[Profile, int]:
    """Errors by joint and action and the jitter of one engine, and over how many frames."""
    return profile_of(predict_all(predict, sequences, spec), sequences)


def profile_of(poses: FloatArray, sequences: Sequence[PoseSequence]) -> tuple[Profile, int]:
    """The same from poses (frames, 17, 3) of all sequences end to end."""
    targets = [sequence.true_poses() for sequence in sequences]
    found = score(poses, targets, [sequence.action for sequence in sequences])
    lengths = [len(target) for target in targets]
    pieces = np.split(poses, np.cumsum(lengths)[:-1])
    jitter = [acceleration_error(piece, target) for piece, target in zip(pieces, targets, strict=True)]
    by_joint = joint_errors(poses, np.concatenate(targets)).mean(0)
    names = get_skeleton(sequences[0].pose_skeleton).joints
    result = Profile(
        mpjpe_mm=found.frame_mpjpe_mm,
        p_mpjpe_mm=found.p_mpjpe_mm,
        jitter_mm=float(np.average(jitter, weights=lengths)),
        joints=dict(zip(names, by_joint.tolist(), strict=True)),
        actions={name: errors["mpjpe_mm"] for name, errors in found.actions.items()},
    )
    return result, len(poses)


def make_report(
    title: str,
    data: str,
    plan: Plan,
    chosen: Quantized,
    predict: tuple[Predict, Predict],
    sequences: Sequence[PoseSequence],
    live: Sequence[PoseSequence],
    spec: WindowSpec,
) -> QuantizationReport:
    """Measure the model and the engine (`predict`, in this order) where true poses are known, and collect the rest.

    `live` is motion with a detector's keypoints, on which the jitter is measured once more.
    """
    (before, windows), (after, _) = (profile(each, sequences, spec) for each in predict)
    total = sum(time.fp32 for time in plan.times.values())
    costs = {} if plan.found is None else {layer.name: layer for layer in plan.found.layers}
    rows = [
        Row(
            name,
            "fp32" if name in chosen.left_in_float else "w8a16" if name in chosen.mix.wide else "int8",
            plan.times[name].saved / total,
            cost.int8.moved_mm,
            cost.int8.cost_mm,
            cost.gain_mm,
            cost.int8.jitter_mm,
        )
        for name, cost in costs.items()
    ]
    return QuantizationReport(
        title, plan.settings.describe(), data, windows, before, after,
        (jitter_mm(predict[0], live, spec), jitter_mm(predict[1], live, spec)),
        chosen.mix.expected_mm, chosen.mix.time, tuple(rows),
    )  # fmt: skip


def write_report(report: QuantizationReport, folder: Path, *, force: bool = False) -> None:
    """JSON, HTML and a plot in a new folder; raises UsageError where it exists, without `force`."""
    with write_folder_atomic(folder, force=force, marker=JSON_NAME) as made:
        write_atomic(made / JSON_NAME, json.dumps(report.to_dict(), indent=1).encode())
        write_atomic(made / PLOT_NAME, _plot(report))
        write_atomic(made / HTML_NAME, _page(report).encode())


def _plot(report: QuantizationReport) -> bytes:
    """A PNG: what every layer alone costs, and the errors by joint and by action before and after."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3 + 0.22 * len(report.layers)), layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=(3, 2))
    left, right = halves
    axes = left.subplots()
    rows = list(reversed(report.layers))
    colours = [_COLOURS[row.precision] for row in rows]
    axes.barh([row.name for row in rows], [row.moved_mm for row in rows], color=colours)
    axes.set_xscale("log")
    axes.set_xlabel("poses move by, mm, this layer alone in INT8\n(light: 16-bit activations, grey: left in float)")
    axes.tick_params(axis="y", labelsize=7)
    for axes, kind in zip(right.subplots(2, 1), ("joints", "actions"), strict=True):
        before, after = getattr(report.before, kind), getattr(report.after, kind)
        axes.bar(list(before), [after[name] - before[name] for name in before], color="#4878a8")
        axes.axhline(0, color="black", linewidth=0.5)
        axes.set_title(f"change of the error by {kind[:-1]}, mm", fontsize=9)
        axes.tick_params(axis="x", labelrotation=90, labelsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def summary_rows(report: QuantizationReport) -> list[tuple[str, float, float, float]]:
    """Name, before, after and change of the totals."""
    before, after = report.before, report.after
    rows = [
        ("MPJPE, mm", before.mpjpe_mm, after.mpjpe_mm),
        ("P-MPJPE, mm", before.p_mpjpe_mm, after.p_mpjpe_mm),
        ("jitter (acceleration error), mm a frame squared", before.jitter_mm, after.jitter_mm),
        ("jitter with a detector's keypoints, mm a frame squared", *report.live_jitter_mm),
    ]
    return [(name, first, last, last - first) for name, first, last in rows]


def _page(report: QuantizationReport) -> str:
    def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
        cells = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_text(cell))}</td>" for cell in row) + "</tr>" for row in rows
        )
        return f"<table><tr>{''.join(f'<th>{html.escape(name)}</th>' for name in head)}</tr>{cells}</table>"

    def changes(kind: str) -> str:
        before, after = getattr(report.before, kind), getattr(report.after, kind)
        rows = [(name, before[name], after[name], after[name] - before[name]) for name in before]
        return table((kind[:-1], "fp32 mm", "int8 mm", "change mm"), rows)

    layers = table(
        (
            "layer",
            "precision",
            "time saved %",
            "alone: moves mm",
            "alone: costs mm",
            "freed: gains mm",
            "alone: jitter mm a frame squared",
        ),
        [(r.name, r.precision, 100 * r.saved, r.moved_mm, r.cost_mm, r.gain_mm, r.jitter_mm) for r in report.layers],
    )
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(report.title)}</title>
<style>body{{font:14px sans-serif;max-width:70em;margin:2em auto;padding:0 1em}}
table{{border-collapse:collapse;margin:1em 0}}
td,th{{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:right}}td:first-child,th:first-child{{text-align:left}}
img{{max-width:100%}}</style>
<h1>{html.escape(report.title)}</h1>
<p>{html.escape(report.settings)}. {html.escape(report.data)}, {report.windows} frames, without mirroring. The weighted
layers take {100 * report.time:.0f} % of their time in fp32, as modelled for the target. What a layer does alone is with
8-bit activations; in w8a16 its activations have 16 bits.</p>
{table(("", "fp32", "int8", "change"), summary_rows(report))}
<img src="{PLOT_NAME}" alt="What every layer costs, and the change of the error by joint and by action">
<h2>By joint</h2>{changes("joints")}<h2>By action</h2>{changes("actions")}<h2>By layer</h2>{layers}</html>
"""


def _text(cell: object) -> str:
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)
