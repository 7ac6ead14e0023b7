"""What INT8 bundles of the weights in the box cost on the whole test split, as they are built by default.

    python -m pstmo_edge.benchmarks.quantized_bundles

builds every bundle of `CASES` for the native engine and lifts all test windows (four cameras) with it and with the
fp32 engine, once with exact and once with a detector's keypoints: about 15 minutes on two cores. An interrupted run
goes on; benchmarks/results/quantized_bundles.json is written after every case. `--speed` measures how long calibration
and sensitivity take instead.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pstmo_edge as pe
from pstmo_edge.benchmarks.archive import RESULTS as RESULTS_FOLDER
from pstmo_edge.calib.report import Profile, profile
from pstmo_edge.datasets import load_sequences
from pstmo_edge.datasets.sequences import PoseSequence
from pstmo_edge.evaluation import Predict
from pstmo_edge.files import write_atomic
from pstmo_edge.models.zoo import bundled_weights
from pstmo_edge.preparing import DEFAULT_MAX_DROP_MM, prepare
from pstmo_edge.windows import WindowSpec

RESULTS = RESULTS_FOLDER / "quantized_bundles.json"
KEYPOINTS = ("gt", "detected")
_SPEED_FRAMES, _SPEED_WINDOWS, _SPEED_PROBES = 243, 512, 48


@dataclass(frozen=True)
class Case:
    """One build: weights, and what the command would be told."""

    weights: str
    precision: str
    target: str = "x86-vnni"
    max_drop_mm: float = DEFAULT_MAX_DROP_MM

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return f"{self.weights}, {self.precision}, {self.target}, {self.max_drop_mm:g} mm"


def cases() -> list[Case]:
    """INT8 for CPUs with and without VNNI, 16-bit activations throughout, and a narrow and a wide bound."""
    found = []
    for name in bundled_weights():
        found += [Case(name, "int8"), Case(name, "int8", "x86-avx2"), Case(name, "w8a16")]
    return [*found, Case(bundled_weights()[0], "int8", max_drop_mm=0.05),
            Case(bundled_weights()[0], "int8", max_drop_mm=5.0)]  # fmt: skip


def changes(before: Profile, after: Profile) -> dict[str, float]:
    """Of the MPJPE (mean over frames) and the worst joint, millimetres, and of the jitter, per cent."""
    return {
        "before_mm": before.mpjpe_mm,
        "change_mm": after.mpjpe_mm - before.mpjpe_mm,
        "worst_joint_mm": max(after.joints[name] - before.joints[name] for name in before.joints),
        "before_jitter_mm": before.jitter_mm,
        "jitter_percent": 100 * (after.jitter_mm / before.jitter_mm - 1),
    }


def _profiles(predict: Predict, spec: WindowSpec, views: Mapping[str, Sequence[PoseSequence]]) -> dict[str, Profile]:
    return {name: profile(predict, sequences, spec)[0] for name, sequences in views.items()}


def run(wanted: Sequence[Case], done: dict[str, Any], write: Any) -> None:
    """Build and measure every case that is not done."""
    for weights in dict.fromkeys(case.weights for case in wanted):
        todo = [case for case in wanted if case.weights == weights and case.name not in done]
        if not todo:
            continue
        model = pe.load_model(checkpoint=weights)
        skeleton, spec = model.lifter.skeleton, model.lifter.window
        views = {name: load_sequences(keypoints=name, skeleton=skeleton) for name in KEYPOINTS}
        prepared = prepare(model)
        with tempfile.TemporaryDirectory() as folder:
            pe.build(model, "fp32", "native", out=Path(folder) / "fp32", prepared=prepared)
            before = _profiles(pe.load_engine(Path(folder) / "fp32").infer, spec, views)
            for number, case in enumerate(todo):
                out = Path(folder) / str(number)
                bundle = pe.build(
                    model, case.precision, "native", out=out, target=case.target, max_drop_mm=case.max_drop_mm,
                    prepared=prepared,
                )  # fmt: skip
                after = _profiles(pe.load_engine(out).infer, spec, views)
                kinds = Counter(layer.precision for layer in bundle.manifest.precision.layers if layer.multiply_adds)
                done[case.name] = {
                    **asdict(case),
                    "weights_sha256": model.lifter.weights_sha256,
                    "windows": sum(map(len, views["gt"])),
                    "layers": dict(kinds),
                    "wide": [each.name for each in bundle.manifest.precision.layers if each.precision == "w8a16"],
                    "left_in_float": list(bundle.manifest.precision.left_in_float),
                    **{name: changes(before[name], after[name]) for name in KEYPOINTS},
                }
                write()
                print(_line(case.name, done[case.name]), flush=True)


def _line(name: str, row: dict[str, Any]) -> str:
    parts = [
        f"{kind} {row[kind]['change_mm']:+.3f} mm, joint {row[kind]['worst_joint_mm']:+.2f} mm, jitter "
        f"{row[kind]['jitter_percent']:+.1f} %"
        for kind in KEYPOINTS
    ]
    return f"{name}: {'; '.join(parts)}; {row['layers']}"


def table(rows: Iterable[dict[str, Any]]) -> str:
    """The rows in Markdown, as docs/quantization.md shows them."""
    lines = [
        "| weights | build | 8 / 16 | exact: mm | joint mm | jitter | detected: mm | joint mm | jitter |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: (row["weights"], row["precision"], -row["max_drop_mm"], row["target"])):
        build = row["precision"] if row["precision"] != "int8" else f"int8, {row['target']}"
        if row["max_drop_mm"] != DEFAULT_MAX_DROP_MM:
            build += f", --max-drop-mm {row['max_drop_mm']:g}"
        layers = f"{row['layers'].get('int8', 0)} / {row['layers'].get('w8a16', 0)}"
        cells = [
            f"{row[kind]['change_mm']:+.3f} | {row[kind]['worst_joint_mm']:+.2f} | {row[kind]['jitter_percent']:+.1f} %"
            for kind in KEYPOINTS
        ]
        lines.append(f"| {row['weights']} | {build} | {layers} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def speed() -> dict[str, Any]:
    """Seconds to calibrate P-STMO-S with 243 frames on 512 windows, and to measure all of its layers."""
    import torch

    from pstmo_edge.calib.calibrate import calibrate
    from pstmo_edge.calib.sensitivity import Probes, sensitivity
    from pstmo_edge.calib.settings import settings_for
    from pstmo_edge.calib.windows import calibration_windows, unseen_windows
    from pstmo_edge.models.fused import fuse
    from pstmo_edge.models.zoo import create_model
    from pstmo_edge.targets import TARGETS

    torch.manual_seed(0)
    model = create_model("p-stmo-s", _SPEED_FRAMES).eval()
    sequences, spec = load_sequences(split="train"), model.lifter.window
    windows = calibration_windows(sequences, spec, _SPEED_WINDOWS)
    start = time.perf_counter()
    emulated = calibrate(fuse(model), windows, settings_for(TARGETS["x86-vnni"]))
    calibrated = time.perf_counter()
    probes = Probes(*unseen_windows(sequences, spec, _SPEED_PROBES, windows))
    found = sensitivity(emulated, probes, wide=True)
    return {
        "model": f"p-stmo-s, {_SPEED_FRAMES} frames, random weights",
        "windows": len(windows),
        "calibration_s": calibrated - start,
        "layers": len(found.layers),
        "probes": found.windows,
        "sensitivity_s": time.perf_counter() - calibrated,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--speed", action="store_true", help="measure how long calibration takes")
    parser.add_argument("--weights", action="append", help="only these weights in the box")
    given = parser.parse_args()
    found: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}

    def write() -> None:
        write_atomic(given.out, json.dumps(found, indent=1).encode())

    if given.speed:
        found["speed"] = speed()
        print(found["speed"])
        write()
        return
    wanted = [case for case in cases() if not given.weights or case.weights in given.weights]
    run(wanted, found.setdefault("bundles", {}), write)


if __name__ == "__main__":
    main()
