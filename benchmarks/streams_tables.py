"""The tables of docs/streams.md, made from benchmarks/results/streams.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lookahead(results: Mapping[str, Any]) -> str:
    """The error of every look-ahead."""
    rows = []
    for row in results["lookahead"]:
        camera = row["lookahead_ms"] * results["fps"] / 1000
        cells = [row["weights"], str(row["lookahead"]), f"{row['lookahead_ms']:.0f}", f"{camera:.1f}"]
        for keypoints in ("exact", "detected"):
            found = row[keypoints]
            cells += [f"{found['mpjpe_mm']:.1f}", f"{found['acceleration_mm']:.1f}"]
        rows.append(cells)
    head = [
        "weights",
        "window frames",
        "ms",
        f"frames at {results['fps']:.0f}/s",
        "exact, mm",
        "jitter",
        "detected, mm",
    ]
    return _table([*head, "jitter"], rows)


def losses(results: Mapping[str, Any]) -> str:
    """The error by the share of joints that is missing."""
    rows = []
    for row in results["losses"]:
        kind = "-" if row["share"] == 0 else {"single": "singly", "runs": "in runs"}[row["kind"]]
        missing = "-" if row["missing_joints_mm"] is None else f"{row['missing_joints_mm']:.0f}"
        rows.append(
            [
                row["weights"],
                f"{row['lookahead']}",
                f"{100 * row['share']:.0f}",
                kind,
                f"{row['mpjpe_mm']:.1f}",
                missing,
                f"{row['acceleration_mm']:.1f}",
                f"{100 * row['degraded']:.0f}",
            ]
        )
    head = ["weights", "look-ahead", "missing, %", "lost", "MPJPE, mm", "missing joints, mm", "jitter", "degraded, %"]
    return _table(head, rows)


def doubt(results: Mapping[str, Any]) -> str:
    """How often the worst tenth and the rest are flagged, and what was expected and measured."""
    rows = []
    for name, pool in results["doubt"].items():
        for kind in ("plain", "mirrored"):
            for part in ("all", "0", "0.1", "0.3", "0.5") if kind == "plain" else ("all",):
                found = pool[kind][part]
                rest = found["rest"]
                rows.append(
                    [
                        f"{name} frames{', mirrored' if kind == 'mirrored' else ''}",
                        part if part == "all" else f"{100 * float(part):.0f} %",
                        f"{found['poses']}",
                        f"{found['expected_mm']:.0f}",
                        f"{found['measured_mm']:.0f}",
                        f"{100 * found['worst']:.0f} %",
                        f"{100 * rest:.1f} %",
                        f"{found['worst'] / rest:.1f}" if rest else "-",
                    ]
                )
    head = ["weights, look-ahead", "missing", "poses", "expected, mm", "measured, mm", "worst tenth", "rest", "times"]
    return _table(head, rows, texts=2)


def deciles(results: Mapping[str, Any]) -> str:
    """Expected and measured error by tenths of the poses, in the order of the expected one."""
    rows = [
        [f"{name} frames", *(f"{expected:.0f} / {real:.0f}" for expected, real in pool["plain"]["deciles"])]
        for name, pool in results["doubt"].items()
    ]
    return _table(["weights, look-ahead", *(f"{number}." for number in range(1, 11))], rows)


def root(results: Mapping[str, Any]) -> str:
    """How far off the root is."""
    rows = [
        [
            row["setting"],
            row["weights"],
            f"{row['median_percent']:.2f} %",
            f"{row['p90_percent']:.1f} %",
            f"{row['not_placed_percent']:.2f} %",
        ]
        for row in results["root"]
    ]
    return _table(["setting", "weights", "median", "90th percentile", "not placed"], rows, texts=2)


def smoothing(results: Mapping[str, Any]) -> str:
    """What filters do to jitter and error."""
    rows = []
    for row in results["smoothing"]:
        figures = [
            f"{row[what][name]:.1f}"
            for what in ("pose", "root")
            for name in ("error_mm", "mpjve_mm", "acceleration_mm")
        ]
        rows.append([row["weights"], row["filter"], *figures])
    head = ["weights", "filter", "MPJPE, mm", "MPJVE", "jitter", "root, mm", "its velocity error", "its jitter"]
    return _table(head, rows, texts=2)


def bvh(results: Mapping[str, Any]) -> str:
    """What constant bones change."""
    found = results["bvh"]
    return (
        f"Constant bones move a joint by {found['moved_mm']:.1f} mm on the mean, and change the error from "
        f"{found['before_mm']:.2f} to {found['after_mm']:.2f} mm (mean over frames, centred weights, all look-ahead)."
    )


# What stands between the marks of each name in docs/streams.md.
BLOCKS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "look-ahead": lookahead,
    "losses": losses,
    "doubt": doubt,
    "deciles": deciles,
    "root": root,
    "smoothing": smoothing,
    "bvh": bvh,
}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    lines = [head, ["---"] * texts + ["---:"] * (len(head) - texts), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
