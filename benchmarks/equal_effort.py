"""Every architecture trained alike on the bundled motion, and its error: benchmarks/results/equal_effort.json.

The recipe `equal-27` for all: the same windows in the same order, the same steps, optimiser and rates, one seed, fresh
weights. So the errors compare what the architectures learn from little data and effort, not what each reaches with a
recipe of its own. Run as `python -m pstmo_edge.benchmarks.equal_effort` from the root of the source tree: about 40
minutes on two cores. Runs that are there already (in --folder) are not repeated; `pstmo-edge bench --table equal-27
--weights FOLDER` measures their speed.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pstmo_edge.benchmarks.provenance import Settings, collect
from pstmo_edge.datasets import load_sequences, one_camera_a_take
from pstmo_edge.evaluation import evaluate
from pstmo_edge.files import write_atomic
from pstmo_edge.models.zoo import load_model
from pstmo_edge.train.recipes import get_recipe, to_dict

RESULTS = Path("benchmarks/results/equal_effort.json")
# The slowest first, so that two at a time end together.
MODELS = ("poseformer", "anatomy3d", "p-stmo", "p-stmo-s", "strided-transformer", "videopose3d")


def train(name: str, folder: Path) -> Path:
    """The run of one architecture, trained unless it is there; returns its folder."""
    out = folder / f"{name}-27"
    if not (out / "finetune" / "weights.safetensors").is_file():
        command = [sys.executable, "-m", "pstmo_edge", "train", "finetune", "--recipe", "equal-27", "--threads", "1"]
        command += ["--set", f"model={name}", "--out", str(out), "--resume"]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        print(f"{name}: {(out / 'finetune' / 'log.csv').read_text().splitlines()[-1]}", flush=True)
    return out


def measure(run: Path) -> dict[str, Any]:
    """Errors of a run's weights on the test split, with exact and detected keypoints, without mirroring."""
    from pstmo_edge.backends.torch import TorchSession

    model = load_model(checkpoint=run)
    session, window = TorchSession(model), model.lifter.window
    found: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        # Of a machine that trained two at a time and did other work: for orientation only.
        "training_s": max(float(row["seconds"]) for row in csv.DictReader((run / "finetune" / "log.csv").open())),
    }
    for keypoints in ("gt", "detected"):
        got = evaluate(session.run, one_camera_a_take(load_sequences(keypoints=keypoints)), window).to_dict()
        found[keypoints] = {name: got[name] for name in ("mpjpe_mm", "p_mpjpe_mm", "mpjve_mm")}
    return found


def main() -> None:
    """Train what is missing, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/equal-27"))
    folder = parser.parse_args().folder
    with ThreadPoolExecutor(2) as pool:
        runs = dict(zip(MODELS, pool.map(lambda name: train(name, folder), MODELS), strict=True))
    results: dict[str, Any] = {
        "data": "cmu-mocap, test split, one camera a take, errors in millimetres, mean over actions, without mirroring",
        "recipe": to_dict(get_recipe("equal-27")),
        "models": {name: measure(run) for name, run in runs.items()},
        "provenance": collect(Settings()),
    }
    for name, found in sorted(results["models"].items(), key=lambda item: item[1]["gt"]["mpjpe_mm"]):
        exact, detected = found["gt"]["mpjpe_mm"], found["detected"]["mpjpe_mm"]
        print(f"{name:20} {exact:6.1f} mm with exact keypoints, {detected:6.1f} mm with detected ones")
    write_atomic(RESULTS, (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
