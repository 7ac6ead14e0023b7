"""What parts of training buy on the bundled motion, three seeds each: benchmarks/results/experiments.json.

- Stage I (short and long) before Stage II, against Stage II alone with as many steps or with the steps of both.
- Other bodies in training, against the two of the bundled motion alone: on those two, and on bodies unlike them.
- Two processes under torchrun against one.

Run as `python -m pstmo_edge.benchmarks.experiments` from the root of the source tree: about 70 minutes on two cores.
Runs that are there already (in --folder) are not repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pstmo_edge.benchmarks.provenance import Settings, collect
from pstmo_edge.datasets import cmu_mocap, one_camera_a_take
from pstmo_edge.datasets.sequences import PoseSequence
from pstmo_edge.evaluation import evaluate
from pstmo_edge.files import write_atomic
from pstmo_edge.models.zoo import load_model
from pstmo_edge.train.augmentation import other_bodies
from pstmo_edge.train.recipes import Augmentation

RESULTS = Path("benchmarks/results/experiments.json")
SEEDS = (1, 2, 3)
STEPS = 200  # of an epoch
_COMMON = ["--recipe", "cmu-27", "--batch", "32", "--threads", "1", "--set", f"steps_per_epoch={STEPS}"]
_SHORT = ["--epochs", "3", "--set", "lr_decay=0.4", "--set", "restart_epoch=0"]
_LONG = ["--epochs", "6", "--set", "lr_decay=0.63", "--set", "restart_epoch=0"]
_FEW = ["--epochs", "1", "--set", "restart_epoch=0"]
_PRETRAIN = ["--epochs", "3", "--set", "pretrain_lr_decay=0.4"]
_LONG_PRETRAIN = ["--epochs", "15", "--set", "pretrain_lr_decay=0.83"]
# Bodies far from those that training makes: a child's to a giant's size, limbs of other proportions.
UNSEEN = Augmentation(bodies=1.0, body_size=0.12, bone_length=0.08)


@dataclass(frozen=True)
class Arm:
    """One way to train: its stages with their arguments, and over how many processes."""

    name: str
    stages: tuple[tuple[str, Sequence[str]], ...]
    processes: int = 1
    seeds: tuple[int, ...] = SEEDS


ARMS = (
    Arm("Stage I, 600 steps, then Stage II, 600 steps", (("pretrain", _PRETRAIN), ("finetune", _SHORT))),
    Arm("Stage II alone, 600 steps", (("finetune", _SHORT),)),
    Arm("Stage II alone, 1200 steps", (("finetune", _LONG),)),
    Arm("Stage II alone, 1200 steps, no other bodies", (("finetune", [*_LONG, "--set", "augmentation.bodies=0.0"]),)),
    Arm("one process, 200 steps", (("finetune", _FEW),)),
    Arm("two processes, 200 steps", (("finetune", _FEW),), processes=2),
    Arm(
        "Stage I, 3000 steps, then Stage II, 600 steps",
        (("pretrain", _LONG_PRETRAIN), ("finetune", _SHORT)),
        seeds=(1, 2),
    ),
)


def train(arm: Arm, seed: int, folder: Path) -> Path:
    """The run of an arm, trained unless it is there; returns its folder."""
    out = folder / f"{ARMS.index(arm)}-{seed}"
    for stage, arguments in arm.stages:
        if (out / stage / "weights.safetensors").is_file():
            continue
        command = ["-m", "pstmo_edge", "train", stage, *_COMMON, *arguments]
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(arm.processes)]
        command = [sys.executable, *(launch if arm.processes > 1 else []), *command]
        command += ["--seed", str(seed), "--out", str(out), "--resume"]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        print(f"{arm.name}, seed {seed}, {stage}: {(out / stage / 'log.csv').read_text().splitlines()[-1]}", flush=True)
    return out


def sequences_of(bodies: Augmentation | None) -> tuple[PoseSequence, ...]:
    """The test motion, one camera a take, with the bodies it has or with others."""
    takes, rng = cmu_mocap.takes("test"), np.random.default_rng(0)
    if bodies is not None:
        takes = tuple(
            dataclasses.replace(take, positions=other_bodies(take.positions[None], bodies, rng)[0]) for take in takes
        )
    return one_camera_a_take(cmu_mocap.seen(takes, "test"))


def errors(run: Path, sequences: Sequence[PoseSequence]) -> float:
    """MPJPE of a run's weights in millimetres, mean over actions, without mirroring."""
    from pstmo_edge.backends.torch import TorchSession

    model = load_model(checkpoint=run)
    return evaluate(TorchSession(model).run, sequences, model.lifter.window).mpjpe_mm


def measure(folder: Path) -> dict[str, Any]:
    """Train what is missing, two runs at a time, and evaluate everything."""
    jobs = [(arm, seed) for arm in ARMS for seed in arm.seeds]
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda job: train(job[0], job[1], folder), jobs))
    sets = {"the sample's bodies": sequences_of(None), "unseen bodies": sequences_of(UNSEEN)}
    rows: dict[str, Any] = {arm.name: {name: [] for name in sets} for arm in ARMS}
    for (arm, _), run in zip(jobs, runs, strict=True):
        for name, sequences in sets.items():
            rows[arm.name][name].append(errors(run, sequences))
    return {
        "data": "cmu-mocap, test split, one camera a take, exact keypoints, MPJPE in millimetres, mean over actions",
        "unseen_bodies": dataclasses.asdict(UNSEEN),
        "seeds": SEEDS,
        "arms": rows,
        "provenance": collect(Settings()),
    }


def text(results: dict[str, Any]) -> str:
    """The arms as a person reads them: mean and standard deviation over the seeds."""
    lines = [results["data"]]
    for arm, sets in results["arms"].items():
        for name, values in sets.items():
            spread = statistics.stdev(values)
            each = ", ".join(f"{value:.1f}" for value in values)
            lines.append(f"  {arm}; {name}: {statistics.mean(values):.1f} ± {spread:.1f} ({each})")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/experiments"))
    results = measure(parser.parse_args().folder)
    print(text(results))
    write_atomic(RESULTS, (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
