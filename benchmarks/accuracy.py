"""The error of the weights in the box, in every setting that a reader may ask for: benchmarks/results/accuracy.json.

Run as `python -m pstmo_edge.benchmarks.accuracy` from the root of the source tree after the weights have changed, and
`python -m pstmo_edge.benchmarks.readme` after that.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from pstmo_edge._version import __version__
from pstmo_edge.datasets import load_sequences, one_camera_a_take
from pstmo_edge.evaluation import Evaluation, evaluate, score
from pstmo_edge.files import write_atomic
from pstmo_edge.models.zoo import bundled_weights, load_model

RESULTS = Path("benchmarks/results/accuracy.json")
LOGS = {
    "p-stmo-s-27": "train_cmu_27.csv",
    "p-stmo-s-27-causal": "train_cmu_27_causal.csv",
    "p-stmo-s-27-coco": "train_cmu_27_coco.csv",
}
SETTINGS = [(keypoints, flip) for keypoints in ("gt", "detected") for flip in (False, True)]


def mean_pose() -> Evaluation:
    """The error of always answering the mean pose of the training split: what a model has to beat."""
    mean = np.concatenate([sequence.true_poses() for sequence in load_sequences(split="train")]).mean(0)
    sequences = load_sequences()
    targets = [sequence.true_poses() for sequence in sequences]
    poses = np.broadcast_to(mean, (sum(map(len, targets)), *mean.shape))
    return score(np.ascontiguousarray(poses), targets, [sequence.action for sequence in sequences])


def measure(name: str) -> dict[str, Any]:
    """Every setting of one of the box's weights, in torch, on the whole test split; and what half precision costs."""
    from pstmo_edge.backends.torch import TorchSession

    model = load_model(checkpoint=name)
    about, session = model.lifter, TorchSession(model)
    found = {
        f"{keypoints}, {'mirrored' if flip else 'plain'}": evaluate(
            session.run, load_sequences("cmu-mocap", "test", keypoints, about.skeleton), about.window, flip=flip
        ).to_dict()
        for keypoints, flip in SETTINGS
    }
    # The log's last error is that of the same weights before they were rounded.
    *_, last = csv.DictReader((RESULTS.parent / LOGS[name]).open())
    before = last.get("val_mm") or last["val_mpjpe_mm"]
    rounded = evaluate(session.run, one_camera_a_take(load_sequences(skeleton=about.skeleton)), about.window)
    return {
        "model": f"{about.name}, {about.frames} frames",
        "t_downsample": about.t_downsample,
        "lookahead_frames": (about.frames - 1 - about.window.target) * about.t_downsample,
        "frame_rate": about.frame_rate,
        "skeleton": about.skeleton,
        "weights_sha256": about.weights_sha256,
        "half_precision": {"before_mm": float(before), "after_mm": rounded.mpjpe_mm},
        "settings": found,
    }


def markdown(found: dict[str, Any], mean_pose: dict[str, Any]) -> str:
    """The table of one of the box's weights: MPJPE / P-MPJPE by action and setting."""
    settings = found["settings"]
    columns = [*settings.values(), mean_pose]
    head = ["action", "exact", "exact, mirrored", "detected", "detected, mirrored", "mean pose"]
    rows = [[action, *(_pair(column["actions"][action]) for column in columns)] for action in mean_pose["actions"]]
    rows.append(["**mean over actions**", *(f"**{_pair(column)}**" for column in columns)])
    rows.append(["mean over frames", *(f"{column['frame_mpjpe_mm']:.1f}" for column in columns)])
    lines = [head, ["---", *["---:"] * len(columns)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def card(found: dict[str, Any], mean_pose: dict[str, Any]) -> str:
    """What a card says in figures: input, look-ahead, what half precision costs, and the table."""
    frames, milliseconds = found["lookahead_frames"], 1000 * found["lookahead_frames"] / found["frame_rate"]
    ahead = f"{frames} frames, {milliseconds:.0f} ms" if frames else "none: the pose is the newest frame's"
    half = found["half_precision"]
    return "\n".join(
        [
            f"- {found['model']}; of {found['frame_rate']:g} frames a second, 1 in {found['t_downsample']}.",
            f"- Keypoints: {found['skeleton']}. Poses: human36m-17. Look-ahead: {ahead}.",
            f"- Half precision: {half['before_mm']:.2f} mm before rounding, {half['after_mm']:.2f} mm after (one "
            "camera a take).",
            "",
            markdown(found, mean_pose),
        ]
    )


def _pair(errors: dict[str, float]) -> str:
    return f"{errors['mpjpe_mm']:.1f} / {errors['p_mpjpe_mm']:.1f}"


def main() -> None:
    """Measure and write the results."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    results = {
        "pstmo_edge_version": __version__,
        "data": "cmu-mocap, test split, 4 cameras a take",
        "weights": {name: measure(name) for name in bundled_weights()},
        "mean_pose": mean_pose().to_dict(),
    }
    write_atomic(RESULTS, (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
