"""What quantization-aware fine-tuning wins where post-training quantization loses.

Run as `python -m pstmo_edge.benchmarks.qat` from the root of the source tree: some minutes on two cores; an interrupted
run goes on (--folder), and benchmarks/results/qat.json is written. The case is made hard on purpose: 4-bit weights with
one scale a layer, 8-bit activations, the ends of the network in float, P-STMO-S with 27 frames. Errors are measured as
in `benchmarks.formats`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from pstmo_edge._version import __version__
from pstmo_edge.backends.torch import TorchSession
from pstmo_edge.benchmarks.formats import errors, stretches
from pstmo_edge.calib.calibrate import calibrate
from pstmo_edge.calib.settings import Activations, Granularity, Rounding, Settings, Weights, settings_for
from pstmo_edge.calib.windows import calibration_windows
from pstmo_edge.datasets import load_sequences, one_camera_a_take
from pstmo_edge.files import write_atomic
from pstmo_edge.models.fused import fuse
from pstmo_edge.models.zoo import load_model
from pstmo_edge.targets import TARGETS
from pstmo_edge.train.qat import quantization_aware
from pstmo_edge.train.recipes import Quantized, Recipe, get_recipe
from pstmo_edge.train.stages import train

RESULTS = Path("benchmarks/results/qat.json")
WEIGHTS = "p-stmo-s-27"
_COARSE = Weights(4, Granularity.PER_TENSOR)


def methods(ends: tuple[str, ...]) -> dict[str, Settings]:
    """What a build could use; the first two for the hard case, the last for plain INT8."""
    compensated = dataclasses.replace(_COARSE, rounding=Rounding.GPTQ)
    return {
        "4-bit by layer, nearest": Settings(_COARSE, Activations(), keep_float=ends),
        "4-bit by layer, GPTQ": Settings(compensated, Activations(), bias_correction=True, keep_float=ends),
        "INT8 as built": settings_for(TARGETS["x86-vnni"], ends),
    }


def recipe(steps: int) -> Recipe:
    """A few hundred steps of the recipe that made the weights."""
    start = quantization_aware(get_recipe("cmu-27"), Quantized(4, 8, per_channel=False))
    return dataclasses.replace(start, lr=1e-4, epochs=1, steps_per_epoch=steps, batch=32, checkpoint_steps=20)


def measured(weights: str) -> dict[str, float]:
    """The MPJPE of some weights in float and by every method, millimetres."""
    model = load_model("p-stmo-s", 27, weights)
    about, fused = model.lifter, fuse(model)
    sequences = one_camera_a_take(load_sequences())
    held_out = stretches(sequences, about.window)
    calibration = calibration_windows(load_sequences(split="train"), about.window)
    found = {"float": errors(TorchSession(fused).run, *held_out)["mpjpe_mm"]}
    for name, settings in methods(about.ends).items():
        emulated = calibrate(fused, calibration, settings)
        found[name] = errors(TorchSession(emulated).run, *held_out)["mpjpe_mm"]
        print(f"{Path(weights).name}, {name}: {found[name]:.2f} mm (float {found['float']:.2f})", flush=True)
    return found


def main() -> None:
    """Measure, train, measure again, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("qat-run"), help="of the training run")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    chosen = recipe(given.steps)
    known = given.folder / "before.json"
    if not known.is_file():
        given.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(known, json.dumps(measured(WEIGHTS)).encode())
    trained = train("finetune", chosen, given.folder, initial=WEIGHTS, resume=True)
    result: dict[str, Any] = {
        "pstmo_edge": __version__, "torch": torch.__version__, "weights": WEIGHTS, "steps": given.steps,
        "batch": chosen.batch, "rate": chosen.lr, "data": "cmu-mocap; frames as in formats.json, gt keypoints",
        "before_mm": json.loads(known.read_text()), "after_mm": measured(str(trained)),
    }  # fmt: skip
    write_atomic(given.out, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
