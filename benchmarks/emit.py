"""Error, cost and speed against the number of poses that one pass gives: benchmarks/results/emit.json, docs/emit.png.

P-STMO's many-to-one head beside its per-frame head, with which a window gives the poses of its middle K frames
(`pstmo-edge build --emit`). Run as `python -m pstmo_edge.benchmarks.emit` from the root of the source tree: about a
quarter of an hour on two cores. What was measured is kept (in --folder), so that an interrupted run goes on; `--step
speed` measures the speed alone, on an idle machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pstmo_edge import metrics
from pstmo_edge._version import __version__
from pstmo_edge.arrays import FloatArray
from pstmo_edge.benchmarks import cost
from pstmo_edge.benchmarks.provenance import Settings
from pstmo_edge.benchmarks.timing import TimingPlan
from pstmo_edge.datasets import load_sequences, one_camera_a_take
from pstmo_edge.datasets.sequences import PoseSequence
from pstmo_edge.evaluation import Evaluation, Predict, predict_all, score, window_count
from pstmo_edge.files import write_atomic
from pstmo_edge.models.emission import emitting
from pstmo_edge.models.zoo import load_model
from pstmo_edge.skeletons import mirrored
from pstmo_edge.windows import WindowSource

RESULTS, PICTURE = Path("benchmarks/results/emit.json"), Path("docs/emit.png")
WEIGHTS = "p-stmo-s-27"
MODES: tuple[str | int, ...] = ("centre", 1, 3, 5, 9, 15, 27)
SETTINGS = tuple(f"{keypoints}, {how}" for keypoints in ("gt", "detected") for how in ("plain", "mirrored"))
INT8_MODES: tuple[str | int, ...] = ("centre", 9, 27)  # each costs minutes: calibrated, and measured as every build
ENGINES = [(emit, "fp32") for emit in MODES] + [(emit, "int8") for emit in INT8_MODES]
SAME_MM = 0.01  # two roads to one error: over windows of one pose, and over the middle of windows of all
_BATCH = 256
STEPS = ("errors", "engines", "speed")

Keep = Callable[[str, Callable[[], Any]], Any]


def kept(path: Path, digest: str) -> Keep:
    """A function that computes what has a name, or knows it from the file if that is of the same weights."""
    found = json.loads(path.read_text()) if path.is_file() else {}
    known = found if found.get("weights_sha256") == digest else {"weights_sha256": digest}

    def keep(name: str, compute: Callable[[], Any]) -> Any:
        if name not in known:
            known[name] = compute()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, json.dumps(known).encode())
        return known[name]

    return keep


def measure_errors(model: Any, keep: Keep) -> dict[str, Any]:
    """The error of every mode in every setting, and that of every position of the window."""
    modes: list[dict[str, Any]] = [_described(model, emit) for emit in MODES]
    positions: dict[str, list[float]] = {}
    for keypoints in ("gt", "detected"):
        sequences = one_camera_a_take(load_sequences(keypoints=keypoints))
        for mode in modes:
            found = keep(f"{keypoints}, {mode['emit']}", partial(_both, emitting(model, mode["emit"]), sequences))
            mode["errors"] |= {f"{keypoints}, {how}": values for how, values in found.items()}
            shown = ", ".join(f"{how} {values['mpjpe_mm']:.2f} mm" for how, values in found.items())
            print(f"{keypoints} keypoints, --emit {mode['emit']}: {shown}", flush=True)
        found = keep(f"{keypoints}, positions", partial(by_position, model, sequences))
        positions |= {f"{keypoints}, {how}": values for how, values in found.items()}
    _check_middle(modes, positions)
    return {"modes": modes, "positions": positions}


def _described(model: Any, emit: str | int) -> dict[str, Any]:
    """What is known of a mode before it is measured; frames wait from `lookahead_ms`'s first value to its second."""
    about = emitting(model, emit).lifter
    window, sequences = about.window, one_camera_a_take(load_sequences())
    waits = [about.frames - 1 - window.target - (window.emitted or 1) + 1, about.frames - 1 - window.target]
    each = cost.mflop(about.name, about.frames, window.target, about.emitted)
    return {
        "emit": emit,
        "windows": window_count(sequences, window),
        "frames": sum(map(len, sequences)),
        "mflop": each,
        "mflop_a_pose": None if each is None else each / (window.emitted or 1),
        "lookahead_ms": [1000 * wait * about.t_downsample / about.frame_rate for wait in waits],
        "errors": {},
    }


def _predictors(model: Any) -> dict[str, Predict]:
    """The model, and the model behind a mirror: their mean is the mirrored prediction."""
    from pstmo_edge.backends.torch import TorchSession

    run = TorchSession(model).run
    return {"plain": run, "image": lambda windows: mirrored(run(mirrored(windows)))}


def _both(model: Any, sequences: Sequence[PoseSequence]) -> dict[str, dict[str, float]]:
    """The errors over whole sequences, plain and mirrored."""
    spec = model.lifter.window
    poses = {name: predict_all(predict, sequences, spec) for name, predict in _predictors(model).items()}
    targets, actions = [each.true_poses() for each in sequences], [each.action for each in sequences]

    def errors(found: Evaluation) -> dict[str, float]:
        values = found.to_dict()
        return {name: values[name] for name in ("mpjpe_mm", "p_mpjpe_mm", "mpjve_mm")}

    return {
        "plain": errors(score(poses["plain"], targets, actions)),
        "mirrored": errors(score((poses["plain"] + poses["image"]) / 2, targets, actions, flip=True)),
    }


def by_position(model: Any, sequences: Sequence[PoseSequence]) -> dict[str, list[float]]:
    """The MPJPE of every position of the windows around every frame, mean over actions, millimetres."""
    predictors = _predictors(emitting(model, "all"))
    source = WindowSource([each.inputs() for each in sequences], model.lifter.window)
    true = np.concatenate([each.true_poses() for each in sequences])
    actions = np.repeat([metrics.action_of(each.action) for each in sequences], [len(each) for each in sequences])
    errors = {how: np.empty((len(source), model.lifter.frames)) for how in ("plain", "mirrored")}
    inside = np.empty((len(source), model.lifter.frames), bool)
    for targets, windows in source.batches(_BATCH):
        indices = source.indices(targets)
        inside[targets] = indices == targets[:, None] + source.spec.offsets
        poses = {name: _rooted(predict(windows)) for name, predict in predictors.items()}
        errors["plain"][targets] = metrics.mpjpe(poses["plain"], true[indices])
        errors["mirrored"][targets] = metrics.mpjpe((poses["plain"] + poses["image"]) / 2, true[indices])
    return {how: [_over_actions(e, i, actions) for e, i in zip(found.T, inside.T, strict=True)]
            for how, found in errors.items()}  # fmt: skip


def _rooted(poses: FloatArray) -> FloatArray:
    poses[..., 0, :] = 0
    return poses


def _over_actions(errors: FloatArray, inside: FloatArray, actions: FloatArray) -> float:
    return float(np.mean(list(metrics.per_action(errors[inside], list(actions[inside])).values())))


def _check_middle(modes: Sequence[dict[str, Any]], positions: dict[str, list[float]]) -> None:
    one = next(mode for mode in modes if mode["emit"] == 1)
    for setting, by_place in positions.items():
        difference = abs(one["errors"][setting]["mpjpe_mm"] - by_place[len(by_place) // 2])
        if not difference <= SAME_MM:
            raise SystemExit(f"{setting}: two roads to the error of the middle frame differ by {difference:.3f} mm")


def build_engines(model: Any, folder: Path) -> list[Path]:
    """The engines that are timed, built unless they are there; the error of fp32 is that of the model itself."""
    from pstmo_edge.building import build
    from pstmo_edge.preparing import prepare, prepare_unmeasured

    paths = []
    for emit, precision in ENGINES:
        path = folder / f"onnxruntime-{precision}-{emit}-{model.lifter.weights_sha256[:8]}"
        paths.append(path)
        if not path.is_dir():
            other = emitting(model, emit)
            prepared = prepare_unmeasured(other) if precision == "fp32" else prepare(other)
            build(other, precision, "onnxruntime", out=path, prepared=prepared)
            print(f"built {path.name}", flush=True)
    return paths


def measure_speed(paths: Sequence[Path]) -> dict[str, Any]:
    """Poses a second of recordings, each engine at its best batch, all in turns, by the harness of `bench`."""
    from pstmo_edge.benchmarks import harness, tables
    from pstmo_edge.benchmarks.cases import BundleCase

    settings = Settings(scenario="offline", check_windows=128, timing=TimingPlan(rounds=5))
    report = harness.run([BundleCase(path) for path in paths], settings=settings)
    names: tuple[str, ...] = (
        "backend",
        "precision",
        "status",
        "reason",
        "checked",
        "batch",
        "poses_per_s",
        "p50_ms",
        "noise",
    )
    names += ("change_mm", "size_bytes", "limit_share", "int8_share")
    rows = [{name: getattr(row, name) for name in names} for row in report.rows]
    return {
        "rows": [{"emit": emit} | row for (emit, _), row in zip(ENGINES, rows, strict=True)],
        "setting": report.setting,
        "doubt": tables.noise_note(report),
        "provenance": dict(report.provenance),
    }


def table(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the curve."""
    head = ["poses a window", *(name.replace("gt", "exact") for name in SETTINGS), "MPJVE, exact, plain"]
    head += ["look-ahead ms", "MFLOP a window", "a pose", "fp32 poses/s", "int8 poses/s", "int8 mm"]
    speeds = {
        (row["emit"], row["precision"]): row for row in results.get("speed", {}).get("rows", []) if row["poses_per_s"]
    }
    rows = []
    for mode in results["modes"]:
        emit, (least, most) = mode["emit"], mode["lookahead_ms"]
        fast = [speeds.get((emit, precision)) for precision in ("fp32", "int8")]
        rows.append(
            [
                "1, many-to-one" if emit == "centre" else f"{emit}, per-frame",
                *(f"{mode['errors'][name]['mpjpe_mm']:.2f}" for name in SETTINGS),
                f"{mode['errors']['gt, plain']['mpjve_mm']:.2f}",
                f"{most:.0f}" if least == most else f"{least:.0f} to {most:.0f}",
                f"{mode['mflop']:.1f}",
                f"{mode['mflop_a_pose']:.1f}",
                *("-" if row is None else f"{row['poses_per_s']:.0f}" for row in fast),
                "-" if fast[1] is None else f"{fast[1]['change_mm']:+.2f}",
            ]
        )
    return head, rows


def markdown(results: dict[str, Any]) -> str:
    """The curve as a table, and the machine and setting that its speeds hold for."""
    head, rows = table(results)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    made = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    if "speed" not in results:
        return made
    machine = "{cpu}, {cores} cores, {target}".format(**results["speed"]["provenance"])
    notes = [
        f"Plain is without mirroring, mirrored the mean of two forwards; {results['data']}. MPJVE in mm a frame: "
        "neighbours come from other windows or positions, so many poses a pass move less smoothly.",
        f"Speeds: onnxruntime, each engine at its best batch, one forward a window. Machine: {machine}.",
    ]
    doubt = results["speed"]["doubt"]
    return "\n\n".join([made, *notes, *([doubt] if doubt else [])])


def show(results: dict[str, Any]) -> None:
    """Print the curve, and the error by position in the window."""
    head, rows = table(results)
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for line in (head, *rows):
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    if doubt := results.get("speed", {}).get("doubt"):
        print(doubt)
    print("\nMPJPE by position in the window, mm")
    for setting, errors in results["positions"].items():
        print(f"{setting.replace('gt', 'exact'):20}", " ".join(f"{error:.1f}" for error in errors))


def main() -> None:
    """Measure, print and write."""
    from pstmo_edge.benchmarks import emit_picture

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", choices=STEPS, action="append", help="only this part (the default is all)")
    parser.add_argument("--folder", type=Path, default=Path("build/emit"), help="where engines and errors are kept")
    given = parser.parse_args()
    steps, model = given.step or STEPS, load_model(checkpoint=WEIGHTS)
    digest = model.lifter.weights_sha256
    results: dict[str, Any] = {
        "pstmo_edge_version": __version__,
        "weights": WEIGHTS,
        "weights_sha256": digest,
        "data": "cmu-mocap, test split, one camera a take; MPJPE in millimetres, mean over actions; torch, fp32",
    }
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    if known.get("weights_sha256") == digest:
        results |= {name: known[name] for name in ("modes", "positions", "speed") if name in known}
    if "errors" in steps:
        results |= measure_errors(model, kept(given.folder / "errors.json", digest))
    if "engines" in steps or "speed" in steps:
        paths = build_engines(model, given.folder)
    if "speed" in steps:
        results["speed"] = measure_speed(paths)
    if "modes" not in results:
        raise SystemExit("no errors measured yet: run it without --step, or with --step errors")
    show(results)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(RESULTS, (json.dumps(results, indent=1) + "\n").encode())
    write_atomic(PICTURE, emit_picture.curve(results))


if __name__ == "__main__":
    main()
