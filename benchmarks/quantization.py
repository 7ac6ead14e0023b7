"""What every method of quantization costs on the weights in the box, beside the naive one at the same coverage.

    python -m pstmo_edge.benchmarks.quantization --out benchmarks/results/quantization.json

All by emulation (`calib.emulation`), which is what the engines compute: the same layers in INT8, the two ends in float.
`benchmarks.quantized_bundles` measures whole builds, which also choose the layers and their activations' bits.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from pstmo_edge.arrays import FloatArray, IntArray
from pstmo_edge.calib.calibrate import calibrate
from pstmo_edge.calib.emulation import copied
from pstmo_edge.calib.observers import batches
from pstmo_edge.calib.report import Profile, profile_of
from pstmo_edge.calib.settings import (
    Activations,
    Entropy,
    Granularity,
    MeanSquaredError,
    Percentile,
    Rounding,
    Settings,
    Weights,
    settings_for,
)
from pstmo_edge.calib.windows import calibration_windows
from pstmo_edge.datasets import load_sequences, one_camera_a_take
from pstmo_edge.files import write_atomic
from pstmo_edge.metrics import mpjpe
from pstmo_edge.models.fused import fuse
from pstmo_edge.models.interception import normalised_layers
from pstmo_edge.models.zoo import bundled_weights, load_model
from pstmo_edge.targets import TARGETS
from pstmo_edge.windows import WindowSource

FRAMES_A_TAKE = 40  # neighbours in the middle of every take, so that jitter can be measured
CALIBRATION = 256
_OUTLIERS, _FACTOR = 4, 300.0  # channels of every norm, and how much larger they become


@dataclass(frozen=True)
class Result:
    """One method on one model: changes against the float model, millimetres, and the jitter's in per cent."""

    model: str
    method: str
    bits: int
    mpjpe_mm: float
    change_mm: float
    worst_joint_mm: float
    jitter_percent: float
    moved_mm: float
    integer_layers: int


def methods(bits: int) -> Iterator[tuple[str, Settings]]:
    """The naive method, one thing changed at a time, and how a build calibrates, all with 8-bit activations."""
    target = TARGETS["x86-avx2" if bits == 7 else "x86-vnni"]
    plain, gptq = Weights(bits), Weights(bits, rounding=Rounding.GPTQ)
    yield "naive: per tensor, min-max", Settings(Weights(bits, Granularity.PER_TENSOR))
    yield "weights per channel", Settings(plain)
    yield "  weights of least squared error", Settings(Weights(bits, observer=MeanSquaredError()))
    for observer, name in ((Percentile(99.99), "99.99th percentile"), (Entropy(), "entropy"),
                           (MeanSquaredError(), "least squared error")):  # fmt: skip
        yield f"  activations: {name}", Settings(plain, Activations(observer=observer))
    yield "  activations per token", Settings(plain, Activations(granularity=Granularity.PER_TOKEN))
    yield "  activations symmetric", Settings(plain, Activations(symmetric=True))
    yield "  activations of 16 bits", Settings(plain, Activations(16))
    yield "  equalized 0.5", Settings(plain, smoothing=(0.5,))
    yield "  bias correction", Settings(plain, bias_correction=True)
    yield "  GPTQ", Settings(gptq)
    yield "as a build calibrates", settings_for(target)


def hardened(fused: nn.Module) -> nn.Module:
    """A copy of a fused model that computes the same and is hard to quantize: outliers in four channels of every norm.

    They are planted in the norm's gain and bias, 300 times, and taken back in the columns of the matrix behind it.
    """
    hard = copied(fused)
    example = torch.zeros(1, hard.config.frames, hard.config.joints, len(hard.lifter.channels))
    with torch.no_grad():
        for number, (layer, norm) in enumerate(normalised_layers(hard, example).items()):
            module, columns = hard.get_submodule(norm), hard.get_submodule(layer).weight
            picked = torch.randperm(len(module.weight), generator=torch.Generator().manual_seed(number))[:_OUTLIERS]
            module.weight[picked] *= _FACTOR
            module.bias[picked] *= _FACTOR
            columns[:, picked] /= _FACTOR
    return hard


class Bench:
    """One model, its calibration windows, and the frames on which it is judged."""

    def __init__(self, name: str, model: nn.Module, fused: nn.Module) -> None:
        self.name, self.fused, self.ends = name, fused, model.lifter.ends
        spec, skeleton = model.lifter.window, model.lifter.skeleton
        self.windows = calibration_windows(load_sequences(split="train", skeleton=skeleton), spec, CALIBRATION)
        views = one_camera_a_take(load_sequences(split="test", skeleton=skeleton))
        source = WindowSource([view.inputs(spec.channels) for view in views], spec)
        starts = np.cumsum([0, *(len(view) for view in views[:-1])])
        middles = [_middle(len(view)) for view in views]
        self.inputs = source.gather(np.concatenate([s + m for s, m in zip(starts, middles, strict=True)]))
        self.views = [
            replace(view, keypoints=view.keypoints[m], poses=view.true_poses()[m])
            for view, m in zip(views, middles, strict=True)
        ]
        self.exact = self.poses(fused)
        self.before: Profile = profile_of(self.exact, self.views)[0]

    def poses(self, model: nn.Module) -> FloatArray:
        """All poses, their root at the origin."""
        with torch.inference_mode():
            found = np.concatenate([model(batch).numpy() for _, batch in batches(self.inputs)])
        found[:, 0] = 0
        return found

    def result(self, method: str, settings: Settings) -> Result:
        """One row."""
        model = calibrate(self.fused, self.windows, replace(settings, keep_float=self.ends))
        poses = self.poses(model)
        after, before = profile_of(poses, self.views)[0], self.before
        return Result(
            self.name,
            method,
            settings.weights.bits,
            after.mpjpe_mm,
            after.mpjpe_mm - before.mpjpe_mm,
            max(after.joints[name] - before.joints[name] for name in before.joints),
            100 * (after.jitter_mm / before.jitter_mm - 1),
            float(mpjpe(poses, self.exact).mean()),
            sum(type(layer).__name__ == "IntegerLayer" for layer in model.layers.values()),
        )


def _middle(length: int) -> IntArray:
    start = max(0, (length - FRAMES_A_TAKE) // 2)
    return np.arange(start, min(start + FRAMES_A_TAKE, length))


def run(names: Sequence[str], every: bool, tell: Callable[[str], None]) -> list[Result]:
    """All rows: every method on the first model, the naive one and a build's on the others and on the hard model."""
    rows = []
    for number, name in enumerate(names):
        model = load_model(checkpoint=name)
        fused = fuse(model)
        bench = Bench(name, model, fused)
        for bits in (8, 7):
            table = list(methods(bits))
            for method, settings in table if every and number == 0 else (table[0], table[-1]):
                rows.append(bench.result(method, settings))
                tell(f"{name}, {bits} bits, {method.strip()}: {rows[-1].change_mm:+.3f} mm")
        if number == 0:
            hard = Bench(f"{name}, made hard", model, hardened(fused))
            assert abs(hard.before.mpjpe_mm - bench.before.mpjpe_mm) < 0.01
            for method, settings in (table[0], ("weights per channel", Settings()), list(methods(8))[-1], table[-1]):
                rows.append(hard.result(method, settings))
                tell(f"{hard.name}, {method.strip()}: {rows[-1].change_mm:+.3f} mm")
    return rows


def table(rows: Sequence[Result]) -> Table:
    """The rows for a terminal."""
    made = Table()
    for head in (
        "model",
        "bits",
        "method",
        "MPJPE mm",
        "change mm",
        "worst joint mm",
        "jitter %",
        "moved mm",
        "layers",
    ):
        made.add_column(head, justify="left" if head in ("model", "method") else "right")
    for row in rows:
        numbers = f"{row.mpjpe_mm:.2f}", f"{row.change_mm:+.3f}", f"{row.worst_joint_mm:+.2f}"
        rest = f"{row.jitter_percent:+.1f}", f"{row.moved_mm:.2f}", str(row.integer_layers)
        made.add_row(row.model, str(row.bits), row.method, *numbers, *rest)
    return made


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, help="a JSON file for the rows")
    parser.add_argument("--short", action="store_true", help="the naive method and a build's only")
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    console = Console(highlight=False)
    rows = run(bundled_weights(), not given.short, lambda text: console.print(text, soft_wrap=True))
    console.print(table(rows))
    about = {
        "data": f"cmu-mocap, test split, {FRAMES_A_TAKE} neighbouring frames of every take, one camera, gt keypoints",
        "calibration": f"{CALIBRATION} windows of the training split",
        "rows": [asdict(row) for row in rows],
    }
    if given.out:
        write_atomic(given.out, json.dumps(about, indent=1).encode())


if __name__ == "__main__":
    main()
