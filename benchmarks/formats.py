"""What every format does to the error, the jitter and the file of the weights in the box.

Run as `python -m pstmo_edge.benchmarks.formats` from the root of the source tree: some minutes on two cores, and
benchmarks/results/formats.json is written. Errors are those of the emulations, which the graphs equal (tests/calib), on
a stretch of consecutive frames from the middle of every take of the test split, one camera a take, exact keypoints,
without mirroring.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from pstmo_edge import metrics
from pstmo_edge._version import __version__
from pstmo_edge.arrays import FloatArray
from pstmo_edge.backends.torch import TorchSession
from pstmo_edge.calib.calibrate import calibrate
from pstmo_edge.calib.emulation import EmulatedModel
from pstmo_edge.calib.format_graph import format_graph
from pstmo_edge.calib.formats import emulated
from pstmo_edge.calib.qdq import quantized_graph
from pstmo_edge.calib.settings import settings_for
from pstmo_edge.calib.windows import calibration_windows
from pstmo_edge.datasets import load_sequences, one_camera_a_take
from pstmo_edge.datasets.sequences import PoseSequence
from pstmo_edge.evaluation import Predict
from pstmo_edge.export import export_onnx
from pstmo_edge.files import write_atomic
from pstmo_edge.format_builders import left_in_float
from pstmo_edge.models.fused import fuse
from pstmo_edge.models.zoo import load_model
from pstmo_edge.targets import TARGETS
from pstmo_edge.windows import WindowSource, WindowSpec

RESULTS = Path("benchmarks/results/formats.json")
WEIGHTS = ("p-stmo-s-27", "p-stmo-s-27-causal", "p-stmo-s-27-coco")
FORMATS = ("fp32", "fp16", "bf16", "int8", "w8a16", "fp8", "w4")
_SHARE = 8  # of every take's frames one part in so many is measured


def stretches(sequences: Sequence[PoseSequence], spec: WindowSpec) -> tuple[list[FloatArray], FloatArray, list[str]]:
    """The windows of each take's middle stretch, its true poses laid end to end, and its actions by frame."""
    windows, poses, actions = [], [], []
    for sequence in sequences:
        count = max(3, len(sequence) // _SHARE)
        first = (len(sequence) - count) // 2
        source = WindowSource([sequence.inputs(spec.channels)], spec)
        every = np.concatenate([batch for _, batch in source.batches(256)])
        windows.append(every[first : first + count])
        poses.append(sequence.true_poses()[first : first + count])
        actions += [sequence.action] * count
    return windows, np.concatenate(poses), actions


def errors(predict: Predict, windows: list[FloatArray], true: FloatArray, actions: list[str]) -> dict[str, Any]:
    """MPJPE (mean over actions), the error by joint, and the acceleration error, in millimetres."""
    found = [np.concatenate([predict(part) for part in np.array_split(each, -(-len(each) // 256))]) for each in windows]
    ends = np.cumsum([len(each) for each in found])[:-1]
    poses = np.concatenate(found)
    poses[:, 0] = 0
    joints = metrics.joint_errors(poses, true)
    pieces = zip(np.split(poses, ends), np.split(true, ends), strict=True)
    jitter = [metrics.acceleration_error(piece, target) for piece, target in pieces]
    return {
        "mpjpe_mm": float(np.mean(list(metrics.per_action(joints.mean(-1), actions).values()))),
        "joints_mm": [round(float(value), 4) for value in joints.mean(0)],
        "acceleration_mm": float(np.average(jitter, weights=[len(each) for each in found])),
    }


def made(
    precision: str, fused: nn.Module, graph: onnx.ModelProto, windows: FloatArray, ends: tuple[str, ...]
) -> tuple[nn.Module, onnx.ModelProto]:
    """The model in a format, to be measured, and its graph."""
    if precision == "fp32":
        return fused, graph
    if precision == "int8":
        found = calibrate(fused, windows, settings_for(TARGETS["x86-vnni"], ends))
        return found, quantized_graph(graph, found)
    kept = left_in_float("onnxruntime", precision, ends)  # type: ignore[arg-type]
    other: EmulatedModel = emulated(fused, precision, windows, kept)  # type: ignore[arg-type]
    return other, format_graph(graph, other.layers)


def measure(name: str, known: dict[str, Any], keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """All formats of one of the weights in the box, but those `known`; `keep` gets the figures after every format."""
    rows: dict[str, Any] = dict(known.get("formats", {}))
    if set(rows) == set(FORMATS):
        return known
    model = load_model(checkpoint=name)
    about, fused = model.lifter, fuse(model)
    graph = export_onnx(fused)
    sequences = one_camera_a_take(load_sequences(skeleton=about.skeleton))
    windows, true, actions = stretches(sequences, about.window)
    calibration = calibration_windows(load_sequences(split="train", skeleton=about.skeleton), about.window)
    found = {"windows": len(true), "calibration_windows": len(calibration), "formats": rows}
    for precision in [each for each in FORMATS if each not in rows]:
        form, written = made(precision, fused, graph, calibration, about.ends)
        row = errors(TorchSession(form).run, windows, true, actions)
        joints = row.pop("joints_mm")
        rows[precision] = {**row, "size_bytes": len(written.SerializeToString()), "joints_mm": joints}
        rows[precision] |= compared(rows[precision], rows["fp32"])
        print(f"{name} {precision}: {rows[precision]['change_mm']:+.3f} mm", flush=True)
        keep(found)
    return found


def compared(row: dict[str, Any], exact: dict[str, Any]) -> dict[str, float]:
    """What a format changes against fp32: the MPJPE, the joint that suffers most, and the jitter."""
    return {
        "change_mm": row["mpjpe_mm"] - exact["mpjpe_mm"],
        "worst_joint_mm": float(np.max(np.subtract(row["joints_mm"], exact["joints_mm"]))),
        "jitter_percent": 100 * (row["acceleration_mm"] / exact["acceleration_mm"] - 1),
    }


def table(found: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| format | MPJPE change mm | worst joint mm | jitter % | file MB |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for precision, row in found["formats"].items():
        lines.append(
            f"| {precision} | {row['change_mm']:+.3f} | {row['worst_joint_mm']:+.3f} | {row['jitter_percent']:+.2f} | "
            f"{row['size_bytes'] / 1e6:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure the weights named (all by default); what the file has already is kept, so an interrupted run goes on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", nargs="*", default=list(WEIGHTS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    known = json.loads(given.out.read_text())["weights"] if given.out.is_file() else {}

    for name in given.weights:

        def keep(found: dict[str, Any], name: str = name) -> None:
            known[name] = found
            result = {
                "pstmo_edge": __version__, "torch": torch.__version__, "data": "cmu-mocap, test split",
                "keypoints": "gt", "frames": f"the middle 1/{_SHARE} of every take, one camera a take, not mirrored",
                "weights": known,
            }  # fmt: skip
            write_atomic(given.out, (json.dumps(result, indent=1) + "\n").encode())

        found = measure(name, known.get(name, {}), keep)
        print(f"{name}: {found['windows']} windows\n{table(found)}", flush=True)


if __name__ == "__main__":
    main()
