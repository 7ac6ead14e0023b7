"""The error of the weights in the box, in every setting that a reader may ask for: benchmarks/results/accuracy.json.

Run as `python -m pstmo_edge.benchmarks.accuracy` from the root of the source tree after the weights have changed, and
`python -m pstmo_edge.benchmarks.readme` after that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pstmo_edge._version import __version__
from pstmo_edge.datasets import load_sequences
from pstmo_edge.evaluation import Evaluation, evaluate, score
from pstmo_edge.files import write_atomic
from pstmo_edge.models.zoo import load_model

RESULTS = Path("benchmarks/results/accuracy.json")
SETTINGS = [(keypoints, flip) for keypoints in ("gt", "detected") for flip in (False, True)]


def mean_pose() -> Evaluation:
    """The error of always answering the mean pose of the training split: what a model has to beat."""
    mean = np.concatenate([sequence.true_poses() for sequence in load_sequences(split="train")]).mean(0)
    sequences = load_sequences()
    targets = [sequence.true_poses() for sequence in sequences]
    poses = np.broadcast_to(mean, (sum(map(len, targets)), *mean.shape))
    return score(np.ascontiguousarray(poses), targets, [sequence.action for sequence in sequences])


def measure() -> dict[str, Any]:
    """Every setting of the bundled model, in torch, on the whole test split."""
    from pstmo_edge.backends.torch import TorchSession

    model = load_model()
    found = {
        f"{keypoints}, {'mirrored' if flip else 'plain'}": evaluate(
            TorchSession(model).run, load_sequences(keypoints=keypoints), model.lifter.window, flip=flip
        ).to_dict()
        for keypoints, flip in SETTINGS
    }
    return {
        "pstmo_edge_version": __version__,
        "model": f"{model.lifter.name}, {model.lifter.frames} frames",
        "t_downsample": model.lifter.t_downsample,
        "weights_sha256": model.lifter.weights_sha256,
        "data": "cmu-mocap, test split, 4 cameras a take",
        "settings": found,
        "mean_pose": mean_pose().to_dict(),
    }


def markdown(results: dict[str, Any]) -> str:
    """The table of the README: MPJPE / P-MPJPE by action and setting."""
    settings = results["settings"]
    columns = [*settings.values(), results["mean_pose"]]
    head = ["action", "exact", "exact, mirrored", "detected", "detected, mirrored", "mean pose"]
    rows = [
        [action, *(_pair(column["actions"][action]) for column in columns)]
        for action in results["mean_pose"]["actions"]
    ]
    rows.append(["**mean over actions**", *(f"**{_pair(column)}**" for column in columns)])
    rows.append(["mean over frames", *(f"{column['frame_mpjpe_mm']:.1f}" for column in columns)])
    lines = [head, ["---", *["---:"] * len(columns)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _pair(errors: dict[str, float]) -> str:
    return f"{errors['mpjpe_mm']:.1f} / {errors['p_mpjpe_mm']:.1f}"


def main() -> None:
    """Measure and write the results."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(RESULTS, (json.dumps(measure(), indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
