"""Fits the doubt of an engine's weights: pstmo_edge/data/doubt.json, or a file for weights of one's own.

Run as `python -m pstmo_edge.benchmarks.doubt ENGINE ... [--out FILE]`. The training split is seen by its cameras as
live cameras would: 25, 30 or 50 frames a second, a detector's errors, no look-ahead or some, and of the joints none,
10, 30 or 50 % lost, singly or in runs. The test split is not touched, so its figures are of other motion.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import pstmo_edge as pe
from pstmo_edge.app.doubt import FILE, DoubtModel, DoubtTracker
from pstmo_edge.app.doubt_signs import SIGNS, Motion, bone_lengths, usual_points
from pstmo_edge.arrays import FloatArray
from pstmo_edge.benchmarks.streams_motion import Losses, Recording, cameras, record, streamed
from pstmo_edge.datasets import cmu_mocap, load_sequences
from pstmo_edge.engine import Engine
from pstmo_edge.files import write_atomic
from pstmo_edge.metrics import joint_errors
from pstmo_edge.skeletons import get_skeleton, mirrored
from pstmo_edge.streaming import PoseResult, StreamSettings

OUT = Path("pstmo_edge") / FILE
DOUBTFUL = 2.0  # a pose is doubtful from so many times the error that is expected where all joints are measured
LOSSES = (
    Losses(), Losses(), Losses(0.1), Losses(0.1, "runs"), Losses(0.3), Losses(0.3, "runs"), Losses(0.5),
    Losses(0.5, "runs"),
)  # fmt: skip
RATES = (25.0, 30.0, 30.0, 50.0)
_ROUNDS = 25  # of Newton's; the fit stands still to five digits after ten
_RIDGE = 1e-3


@dataclass(frozen=True)
class Measured:
    """Poses of one recording: what the stream said, signs (N, 17, F + 2), errors (N, 17) in mm, and the losses."""

    recording: Recording
    results: list[PoseResult]
    signs: FloatArray
    errors: FloatArray
    losses: Losses


def measure(
    engine: Engine, recording: Recording, model: DoubtModel, fps: float, lookahead: int | None, losses: Losses
) -> Measured:
    """Stream a recording, its mirror image beside it, and measure every pose."""
    tracker = DoubtTracker(engine, StreamSettings(recording.camera.image_size, fps, lookahead), model)
    results = streamed(engine, recording, fps, lookahead)
    others = streamed(engine, recording.mirrored(), fps, lookahead)
    lifted = get_skeleton(model.pose_skeleton)
    signs = []
    for result, other in zip(results, others, strict=True):
        signs.append(tracker.signs(result, recording.keypoints[result.frame], mirrored(other.pose, lifted)))
    truth = recording.truth(np.array([result.timestamp for result in results]))
    errors = joint_errors(np.stack([result.pose for result in results]), truth - truth[:, :1])
    return Measured(recording, results, np.stack(signs), errors, losses)


def motion_of(skeleton: str) -> Motion:
    """What the training split's 2D poses and bones are like, every twentieth frame."""
    sequences = load_sequences(cmu_mocap.NAME, "train", skeleton=skeleton)
    points = np.concatenate([sequence.keypoints[::20] for sequence in sequences])
    poses = np.concatenate([sequence.true_poses()[::20] for sequence in sequences])
    return Motion.of(usual_points(points), bone_lengths(poses, get_skeleton(sequences[0].pose_skeleton)))


def blank(engine: Engine) -> DoubtModel:
    """A model that knows the motion and no coefficients."""
    manifest, nothing = engine.manifest, np.zeros(0)
    return DoubtModel(
        weights_sha256=manifest.model.weights_sha256,
        keypoint_skeleton=manifest.input.skeleton,
        pose_skeleton=manifest.output.skeleton,
        fitted_on="nothing",
        limit_mm=0.0,
        plain=nothing, joints=nothing, mirror=nothing, mirror_joints=nothing, low=nothing, high=nothing,
        motion=motion_of(manifest.input.skeleton),
    )  # fmt: skip


def collect(engine: Engine, model: DoubtModel, every: int) -> list[Measured]:
    """One in `every` views of the training split, each in a setting of its own (seeded)."""
    rng = np.random.default_rng(7)
    most = engine.manifest.input.lookahead_frames
    found = []
    for number, take in enumerate(cmu_mocap.takes("train")):
        for place, camera in enumerate(cameras(take, number)):
            if (number + place) % every:
                continue
            fps, losses = float(rng.choice(RATES)), LOSSES[rng.integers(len(LOSSES))]
            lookahead = int(rng.choice([0, 0, most // 3, most]))
            recording = record(take, camera, fps=fps, skeleton=model.keypoint_skeleton, losses=losses)
            found.append(measure(engine, recording, model, fps, lookahead, losses))
    return found


def fit(model: DoubtModel, measured: Sequence[Measured]) -> DoubtModel:
    """The model with the coefficients that fit best, with and without the mirror's signs."""
    signs, errors = (np.concatenate([getattr(each, name) for each in measured]) for name in ("signs", "errors"))
    plain, joints = _regressed(signs[..., : len(SIGNS)], errors)
    mirror, mirror_joints = _regressed(signs, errors)
    whole = replace(
        model,
        fitted_on=f"{cmu_mocap.NAME}, training split, {len(signs)} poses of {len(measured)} views",
        plain=plain, joints=joints, mirror=mirror, mirror_joints=mirror_joints,
        low=signs.min((0, 1)), high=signs.max((0, 1)),
    )  # fmt: skip
    usual = np.concatenate([each.signs[..., : len(SIGNS)] for each in measured if each.losses.share == 0])
    return replace(whole, limit_mm=DOUBTFUL * float(whole.expected(usual).mean()))


def _regressed(signs: FloatArray, errors: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Coefficients (F,) and one constant a joint (17,), by Newton's method on the quasi-likelihood, with a small ridge.

    The root's error is 0 by definition: it is left out, and has the mean constant.
    """
    count, features = signs.shape[-1], signs[:, 1:].reshape(-1, signs.shape[-1])
    middle, width = features.mean(0), features.std(0) + 1e-9
    joints = errors.shape[1] - 1
    design = np.concatenate([(features - middle) / width, np.tile(np.eye(joints), (len(errors), 1))], axis=1)
    target = errors[:, 1:].reshape(-1)
    found = np.concatenate([np.zeros(count), np.log(errors[:, 1:].mean(0))])
    penalty = np.diag([_RIDGE] * count + [0.0] * joints)
    for _ in range(_ROUNDS):
        mean = np.exp(np.clip(design @ found, -5, 8))
        weighted = design * mean[:, None]
        slope = weighted.T @ (design @ found + (target - mean) / mean)
        found = np.linalg.solve(weighted.T @ design + penalty * mean.sum(), slope)
    weights = found[:count] / width
    constants = found[count:] - middle @ weights
    return weights, np.concatenate([[constants.mean()], constants])


def fitted(engine: Engine, every: int = 4) -> DoubtModel:
    """The doubt of an engine's weights."""
    model = blank(engine)
    return fit(model, collect(engine, model, every))


def main() -> None:
    """Fit, and write beside what the file holds already."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="+", type=Path, metavar="ENGINE")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the file (default {OUT})")
    parser.add_argument("--every", type=int, default=4, help="one in so many views (default 4)")
    given = parser.parse_args()
    models: dict[str, Any] = json.loads(given.out.read_text())["models"] if given.out.is_file() else {}
    for path in given.engines:
        model = fitted(pe.load_engine(path, threads=1), given.every)
        models[model.weights_sha256] = model.to_dict()
        print(f"{path}: {model.fitted_on}; doubtful from {model.limit_mm:.0f} mm", flush=True)
    write_atomic(given.out, (json.dumps({"models": models}) + "\n").encode())


if __name__ == "__main__":
    main()
