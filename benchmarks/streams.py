"""What live streams give: benchmarks/results/streams.json and docs/streams.png.

Run as `python -m pstmo_edge.benchmarks.streams` from the root of the source tree, and `python -m
pstmo_edge.benchmarks.readme` after that. The test split's takes, one camera each in turn, are pushed at 30 frames a
second through the streams of native INT8 engines as `build` makes them, with a detector's errors and lost joints
(seeded): error by look-ahead and by missing joints, what doubt tells, where people stand, what smoothing does, and what
a BVH file changes. Engines are kept in --folder and built where they are not there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import pstmo_edge as pe
from pstmo_edge import metrics
from pstmo_edge._version import __version__
from pstmo_edge.app.bvh import fixed_bones
from pstmo_edge.app.doubt import DoubtModel
from pstmo_edge.app.doubt_signs import SIGNS
from pstmo_edge.app.placing import BodyScale, Intrinsics, Placement, Placer, standing_height
from pstmo_edge.app.smoothing import POSE, ROOT, OneEuro, OneEuroSettings, smoothed
from pstmo_edge.arrays import FloatArray
from pstmo_edge.benchmarks import provenance, streams_picture
from pstmo_edge.benchmarks.doubt import Measured, measure
from pstmo_edge.benchmarks.streams_motion import Losses, Recording, cameras, record, streamed
from pstmo_edge.datasets import cmu_mocap
from pstmo_edge.engine import Engine
from pstmo_edge.files import write_atomic
from pstmo_edge.streaming import PoseResult

RESULTS, PICTURE = Path("benchmarks/results/streams.json"), Path("docs/streams.png")
FPS = 30.0
CENTRED, CAUSAL = "p-stmo-s-27", "p-stmo-s-27-causal"
LOOKAHEADS = (0, 1, 2, 4, 7, 10, 13)  # frames of the window, of the centred weights
LOSSES = tuple(Losses(share, kind) for share in (0.1, 0.3, 0.5) for kind in ("single", "runs"))
WORST = 0.1
PLACINGS = (
    ("true intrinsics", True, False),
    ("true intrinsics and height", True, True),
    ("assumed focal length", False, False),
)


def build_engine(weights: str, folder: Path) -> Engine:
    """The native INT8 engine of weights in the box, as `build` makes it, built unless it is there."""
    from pstmo_edge.models.zoo import load_model

    model = load_model(checkpoint=weights)
    path = folder / f"{weights}-{model.lifter.weights_sha256[:8]}"
    if not path.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        pe.build(model, "int8", "native", out=path)
        print(f"built {path.name}", flush=True)
    return pe.load_engine(path, threads=1)


def recordings(losses: Losses | None = None, detected: bool = True) -> list[Recording]:
    """The test split at 30 frames a second, each take by one of its cameras in turn."""
    takes = enumerate(cmu_mocap.takes("test"))
    return [
        record(take, cameras(take, number)[number % 4], fps=FPS, detected=detected, losses=losses)
        for number, take in takes
    ]


def errors(found: Iterable[tuple[Recording, Sequence[PoseResult]]]) -> dict[str, float]:
    """MPJPE as a mean over actions, MPJVE and acceleration error as means over frames."""
    tracks = []
    for recording, results in found:
        poses, target = _poses(results), _relative(recording.truth(_times(results)))
        tracks.append((recording.action, poses, target))
    frames = np.concatenate([metrics.mpjpe(poses, target) for _, poses, target in tracks])
    actions = [action for action, poses, _ in tracks for _ in poses]
    weights = [len(poses) for _, poses, _ in tracks]
    return {
        "mpjpe_mm": float(np.mean(list(metrics.per_action(frames, actions).values()))),
        "mpjve_mm": float(np.average([metrics.mpjve(p, t) for _, p, t in tracks], weights=weights)),
        "acceleration_mm": float(np.average([metrics.acceleration_error(p, t) for _, p, t in tracks], weights=weights)),
        "poses": len(frames),
    }


def by_lookahead(centred: Engine, causal: Engine) -> list[dict[str, Any]]:
    """The error of every look-ahead, with exact keypoints and a detector's; the causal weights have one."""
    rows = []
    given = centred.manifest.input
    every = [(CENTRED, centred, lookahead) for lookahead in LOOKAHEADS] + [(CAUSAL, causal, 0)]
    sets = {"exact": recordings(detected=False), "detected": recordings()}
    for weights, engine, lookahead in every:
        found = {
            name: errors((each, streamed(engine, each, FPS, lookahead)) for each in motion)
            for name, motion in sets.items()
        }
        wait = 1000 * lookahead * given.t_downsample / given.frame_rate
        rows.append({"weights": weights, "lookahead": lookahead, "lookahead_ms": wait, **found})
        print(f"{weights}, look-ahead {lookahead}: {found['detected']['mpjpe_mm']:.1f} mm", flush=True)
    return rows


def by_losses(centred: Engine, causal: Engine) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The error where joints are missing, and what doubt tells of the same poses."""
    rows, pools = [], {}
    for weights, engine, lookahead in ((CAUSAL, causal, 0), (CENTRED, centred, 0), (CENTRED, centred, None)):
        model = DoubtModel.for_engine(engine)
        if model is None:
            raise SystemExit(f"{weights}: no doubt is fitted for these weights: python -m pstmo_edge.benchmarks.doubt")
        pool: list[Measured] = []
        for losses in (Losses(), *LOSSES):
            found = [measure(engine, each, model, FPS, lookahead, losses) for each in recordings(losses)]
            pool += found
            missing = np.concatenate([_missing(each) for each in found])
            joints = np.concatenate([each.errors for each in found])
            row = {
                "weights": weights,
                "lookahead": engine.manifest.input.lookahead_frames if lookahead is None else lookahead,
                "share": losses.share,
                "kind": losses.kind,
                **errors((each.recording, each.results) for each in found),
                "missing_joints_mm": float(joints[missing].mean()) if missing.any() else None,
                "degraded": float(np.mean([result.degraded for each in found for result in each.results])),
            }
            rows.append(row)
            print(f"{weights}, look-ahead {lookahead}, {losses}: {row['mpjpe_mm']:.1f} mm", flush=True)
        pools[f"{weights}, {rows[-1]['lookahead']}"] = doubt(model, pool)
    return rows, pools


def doubt(model: DoubtModel, pool: Sequence[Measured]) -> dict[str, Any]:
    """How often the worst tenth and the rest are doubtful, and what was expected and measured by tenths of doubt."""
    real = np.concatenate([each.errors.mean(-1) for each in pool])
    share = np.concatenate([np.full(len(each.results), each.losses.share) for each in pool])
    signs = np.concatenate([each.signs for each in pool])
    kinds = {}
    for name, count in (("plain", len(SIGNS)), ("mirrored", signs.shape[-1])):
        expected = model.expected(signs[..., :count]).mean(-1)
        order = np.argsort(expected)
        joint = np.concatenate([each.errors[:, 1:] for each in pool])
        kinds[name] = {
            "all": flagged(expected, real, model.limit_mm),
            **{
                f"{part:g}": flagged(expected[share == part], real[share == part], model.limit_mm)
                for part in (0, 0.1, 0.3, 0.5)
            },
            "deciles": [[float(expected[part].mean()), float(real[part].mean())] for part in np.array_split(order, 10)],
            "correlation": float(np.corrcoef(expected, real)[0, 1]),
            "joint_correlation": float(
                np.corrcoef(model.expected(signs[..., :count])[:, 1:].ravel(), joint.ravel())[0, 1]
            ),
        }
    return {"limit_mm": model.limit_mm, "fitted_on": model.fitted_on, **kinds}


def flagged(expected: FloatArray, real: FloatArray, limit: float) -> dict[str, float]:
    """Of poses with expected and real errors (N,): how often the worst tenth by error and the rest are doubtful."""
    worst = real >= np.quantile(real, 1 - WORST)
    doubtful = expected > limit
    return {
        "poses": len(real),
        "expected_mm": float(expected.mean()),
        "measured_mm": float(real.mean()),
        "worst": float(doubtful[worst].mean()),
        "rest": float(doubtful[~worst].mean()),
    }


def roots(centred: Engine, causal: Engine) -> list[dict[str, Any]]:
    """How far off the root is in per cent of its distance, with true intrinsics, a known height, and none."""
    rows = []
    for weights, engine, lookahead in ((CAUSAL, causal, 0), (CENTRED, centred, None)):
        found = [(each, streamed(engine, each, FPS, lookahead)) for each in recordings()]
        for name, known, tall in PLACINGS:
            away, total = [], 0
            for recording, results in found:
                camera = recording.camera
                placer = Placer(Intrinsics.of(camera) if known else Intrinsics.assumed(camera.image_size))
                true = recording.truth(_times(results))
                scale = BodyScale(standing_height(true[0])) if tall else None
                placed = [_placed(placer, scale, recording, result) for result in results]
                total += len(placed)
                away += [
                    np.linalg.norm(place.root - body[0]) / np.linalg.norm(body[0])
                    for place, body in zip(placed, true, strict=True)
                    if place is not None
                ]
            rows.append(
                {
                    "weights": weights,
                    "setting": name,
                    "median_percent": 100 * float(np.median(away)),
                    "p90_percent": 100 * float(np.quantile(away, 0.9)),
                    "not_placed_percent": 100 * (1 - len(away) / total),
                }
            )
            print(f"{weights}, {name}: root off by {rows[-1]['median_percent']:.2f} %", flush=True)
    return rows


def smoothing(centred: Engine, causal: Engine) -> list[dict[str, Any]]:
    """What filters do to jitter and error, of poses and of the root."""
    filters: dict[str, Callable[[FloatArray, FloatArray, OneEuroSettings], FloatArray]] = {
        "none": lambda values, times, settings: values,
        "One-Euro": _one_euro,
        "Savitzky-Golay": lambda values, times, settings: smoothed(values, times),
    }
    rows = []
    for weights, engine, lookahead in ((CAUSAL, causal, 0), (CENTRED, centred, None)):
        found = [(each, streamed(engine, each, FPS, lookahead)) for each in recordings()]
        placed = [_root_track(recording, results) for recording, results in found]
        for name, apply in filters.items():
            poses = [
                (_poses(results), recording.truth(_times(results)), _times(results)) for recording, results in found
            ]
            pose = _jitter([(apply(given, times, POSE), _relative(true)) for given, true, times in poses])
            root = _jitter([(apply(given, times, ROOT)[:, None], true[:, None]) for given, true, times in placed])
            rows.append({"weights": weights, "filter": name, "pose": pose, "root": root})
            print(f"{weights}, {name}: {pose['error_mm']:.1f} mm, {pose['acceleration_mm']:.1f}", flush=True)
    return rows


def bones(centred: Engine) -> dict[str, float]:
    """By how much a BVH file's constant bones move the joints of poses, and what that does to the error, mm."""
    moved, before, after = [], [], []
    for recording in recordings():
        results = streamed(centred, recording, FPS, None)
        poses, target = _poses(results), _relative(recording.truth(_times(results)))
        fixed = fixed_bones(poses)
        moved.append(metrics.mpjpe(fixed, poses))
        before.append(metrics.mpjpe(poses, target))
        after.append(metrics.mpjpe(fixed, target))
    means = [float(np.concatenate(each).mean()) for each in (moved, before, after)]
    return dict(zip(("moved_mm", "before_mm", "after_mm"), means, strict=True))


def _missing(measured: Measured) -> FloatArray:
    return np.stack([result.missing for result in measured.results])


def _poses(results: Sequence[PoseResult]) -> FloatArray:
    """(L, 17, 3), with the root at the origin, as everywhere where errors are measured."""
    return _relative(np.stack([result.pose for result in results]))


def _relative(joints: FloatArray) -> FloatArray:
    return joints - joints[:, :1]


def _times(results: Sequence[PoseResult]) -> FloatArray:
    return np.array([result.timestamp for result in results])


def _placed(placer: Placer, scale: BodyScale | None, recording: Recording, result: PoseResult) -> Placement | None:
    factor = 1.0 if scale is None else scale.update(result.pose)
    return placer.place(result.pose, recording.keypoints[result.frame], factor)


def _root_track(recording: Recording, results: Sequence[PoseResult]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Roots, true roots (N, 3) and times (N,) of the poses that can be placed."""
    placer = Placer(Intrinsics.of(recording.camera))
    placed = [(result.timestamp, _placed(placer, None, recording, result)) for result in results]
    known = [(time, place.root) for time, place in placed if place is not None]
    times = np.array([time for time, _ in known])
    return np.stack([root for _, root in known]), recording.truth(times)[:, 0], times


def _one_euro(values: FloatArray, times: FloatArray, settings: OneEuroSettings) -> FloatArray:
    live = OneEuro(settings)
    return np.stack([live.update(value, float(time)) for value, time in zip(values, times, strict=True)])


def _jitter(tracks: Sequence[tuple[FloatArray, FloatArray]]) -> dict[str, float]:
    weights = [len(given) for given, _ in tracks]
    means = {
        "error_mm": [float(metrics.mpjpe(given, true).mean()) for given, true in tracks],
        "mpjve_mm": [metrics.mpjve(given, true) for given, true in tracks],
        "acceleration_mm": [metrics.acceleration_error(given, true) for given, true in tracks],
    }
    return {name: float(np.average(each, weights=weights)) for name, each in means.items()}


def measure_all(centred: Engine, causal: Engine) -> dict[str, Any]:
    """Every part, as plain values."""
    losses, told = by_losses(centred, causal)
    return {
        "pstmo_edge_version": __version__,
        "weights_sha256": {
            name: engine.manifest.model.weights_sha256 for name, engine in ((CENTRED, centred), (CAUSAL, causal))
        },
        "fps": FPS,
        "data": f"{cmu_mocap.NAME}, test split, {len(recordings())} takes, one camera each in turn",
        "lookahead": by_lookahead(centred, causal),
        "losses": losses,
        "doubt": told,
        "root": roots(centred, causal),
        "smoothing": smoothing(centred, causal),
        "bvh": bones(centred),
        "provenance": provenance.collect(provenance.Settings(threads=1, keypoints="detected")),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/streams"), help="where engines are kept")
    given = parser.parse_args()
    results = measure_all(*(build_engine(weights, given.folder) for weights in (CENTRED, CAUSAL)))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(RESULTS, (json.dumps(results, indent=1) + "\n").encode())
    write_atomic(PICTURE, streams_picture.draw(results))


if __name__ == "__main__":
    main()
