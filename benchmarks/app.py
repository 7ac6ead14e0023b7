"""Whether `run` keeps up: real motion of several people at a camera's rate, in real time, and hours of it without.

`python -m pstmo_edge.benchmarks.app sustain` holds 30 frames a second for ten minutes with four people and 27 frames,
then with one person and 243 frames, and writes latencies beside the look-ahead; `soak --hours 10` pushes as many frames
as fast as they go, with people who come, go, are hidden and jump and times that repeat or stop, and watches memory and
counters. Both write into benchmarks/results/app.json. The 243-frame weights are random: as slow as trained ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pstmo_edge.app.people import People
from pstmo_edge.app.pipeline import Pipeline, Report
from pstmo_edge.app.refining import PoseRefiner
from pstmo_edge.app.sources import Item
from pstmo_edge.app.tracking import TrackerSettings
from pstmo_edge.app.types import Detections, Frame, PersonPose
from pstmo_edge.arrays import FloatArray
from pstmo_edge.benchmarks.provenance import Settings, collect
from pstmo_edge.cameras import denormalise_screen
from pstmo_edge.datasets import load_sequences
from pstmo_edge.engine import Engine, load_engine
from pstmo_edge.files import write_atomic
from pstmo_edge.streaming import StreamSettings

RESULTS = Path("benchmarks/results/app.json")
FPS = 30.0
SIZE = (1000, 1002)
_SETTLED = 0.05  # of a soak's frames, after which memory is compared


def recordings(people: int) -> list[FloatArray]:
    """Detected keypoints (L, 17, 3) in pixels of the longest views, at 50 a second, to be walked back and forth."""
    views = sorted(load_sequences("cmu-mocap", "test", keypoints="detected"), key=len, reverse=True)
    every = []
    for view in views[:: max(len(views) // (2 * people), 1)][:people]:
        assert view.confidence is not None
        pixels = denormalise_screen(view.keypoints, SIZE)
        every.append(np.concatenate([pixels, view.confidence[..., None]], axis=-1))
    return every


class Crowd:
    """A source of people who walk their recordings back and forth, side by side, at FPS.

    With `trouble` (a random generator) they also come, go, are hidden and jump, joints are lost, and times repeat.
    """

    name, live, fps, reopened, damaged = "people of real motion", False, FPS, 0, 0

    def __init__(self, people: int, seconds: float, trouble: np.random.Generator | None = None) -> None:
        self.walks = recordings(people)
        self.frames = round(seconds * FPS)
        self.trouble = trouble
        self._closed = False

    def __iter__(self) -> Iterator[Item]:
        hidden = np.zeros(len(self.walks), int)  # frames that each person is away for
        offsets = np.zeros((len(self.walks), 2))
        moment = 0.0
        for index in range(self.frames):
            if self._closed:
                return
            moment += 1 / FPS
            points = np.stack([self._at(walk, index) for walk in self.walks])
            rng = self.trouble
            if rng is not None:
                moment += float(rng.choice([0.0, -1 / FPS, 0.4, 2.0], p=[0.997, 0.001, 0.001, 0.001]))
                hidden = np.maximum(hidden - 1, 0)
                struck = rng.random(len(hidden)) < 0.003
                hidden[struck] = rng.choice([2, 8, 40, 300], struck.sum())
                jumped = rng.random(len(hidden)) < 0.001
                offsets[jumped] = rng.uniform(-400, 400, (jumped.sum(), 2))
                points[..., :2] += offsets[:, None]
                points[rng.random(points.shape[:2]) < 0.05, 2] = 0.0
                if rng.random() < 0.002:
                    points[0, 3] = np.nan
                points = points[hidden == 0]
            yield Frame(index, moment, SIZE), Detections(points, "human36m-17")

    def _at(self, walk: FloatArray, index: int) -> FloatArray:
        """The frame of a walk at 50 a second that is seen at FPS, there and back again."""
        place = round(index * 50 / FPS) % (2 * len(walk) - 2)
        return walk[min(place, 2 * len(walk) - 2 - place)].copy()

    def close(self) -> None:
        """End it."""
        self._closed = True


class Checked:
    """A writer that holds every pose to its promises, and keeps none."""

    path, lost = Path("checked"), 0

    def __init__(self) -> None:
        self.poses = self.not_finite = self.silent = self.out_of_order = 0
        self._last: dict[int, int] = {}

    def write(self, poses: Sequence[PersonPose]) -> None:
        """Count what breaks a promise."""
        for pose in poses:
            self.poses += 1
            self.not_finite += not np.isfinite(pose.pose).all()
            self.silent += bool(pose.result.missing.any()) and pose.flag == "valid"
            self.out_of_order += pose.result.frame <= self._last.get(pose.person, -1)
            self._last[pose.person] = pose.result.frame
        if len(self._last) > 1000:  # people who have left
            self._last = dict(sorted(self._last.items())[-100:])

    def close(self) -> None:
        """Nothing to do."""


def app(engine: Engine, source: Crowd, paced: bool, writer: Checked, **more: Any) -> Pipeline:
    """The loop of `run` with keypoints given."""
    settings = StreamSettings(SIZE, FPS, None)
    people = People(engine, settings, TrackerSettings(most_people=max(len(source.walks), 1)))
    return Pipeline(source, people, None, PoseRefiner(people), writers=[writer], paced=paced, **more)


def sustained(engine: Engine, people: int, seconds: float) -> dict[str, Any]:
    """Hold FPS in real time; what was dropped and how late poses were beside their look-ahead."""
    writer = Checked()
    pipeline = app(engine, Crowd(people, seconds), True, writer)
    report = pipeline.run()
    return {
        "people": people,
        "frames_of_window": engine.manifest.input.frames,
        "precision": engine.manifest.precision.requested,
        "lookahead_ms": pipeline.lookahead_ms,
        "fps": report.lifted / report.seconds,
        **_told(report, writer),
    }


def soaked(engine: Engine, people: int, hours: float) -> dict[str, Any]:
    """Push hours of frames as fast as they go and watch memory."""
    writer, samples = Checked(), []
    source = Crowd(people, hours * 3600, np.random.default_rng(0))
    every = max(source.frames // 200, 1)

    def watch(pipeline: Pipeline) -> None:
        if pipeline.report.lifted % every == 0:
            samples.append(_resident())

    gc.collect()
    report = app(engine, source, False, writer, after_frame=watch).run()
    settled = samples[max(round(len(samples) * _SETTLED), 1) :]
    half = len(settled) // 2
    return {
        "hours_of_stream": hours,
        "people": people,
        "frames_of_window": engine.manifest.input.frames,
        "seconds": report.seconds,
        "resident_bytes_first": settled[0],
        "resident_bytes_last": settled[-1],
        "resident_bytes_most": max(settled),
        "growth_bytes_second_half": max(settled[half:]) - max(settled[:half]),
        **_told(report, writer),
    }


def _told(report: Report, writer: Checked) -> dict[str, Any]:
    plain = dataclasses.asdict(report)
    names = ("frames", "lifted", "failed", "poses", "flags", "doubtful", "latency_ms", "counters")
    streams, people = report.counters["streams"], report.counters["people"]
    exact = (
        report.frames == report.lifted + report.dropped + report.failed
        and people["detected"] == people["tracked"] + people["twins"] + people["unsure"] + people["crowded"]
        and streams["received"] == people["tracked"] + people["held"]
        and streams["received"] == streams["delivered"] + streams["dropped"] + streams["rejected"] + streams["pending"]
        and streams["delivered"] == report.poses == writer.poses
    )
    return {
        **{name: plain[name] for name in names},
        "dropped": report.dropped,
        "counters_exact": exact,
        "poses_not_finite": writer.not_finite,
        "poses_with_missing_joints_called_valid": writer.silent,
        "poses_out_of_order": writer.out_of_order,
    }


def markdown(found: dict[str, Any]) -> str:
    """What was held in real time, and what hours of stream took, in words and a table."""
    head = "| people | window | look-ahead ms | frames | dropped | p50 ms | p90 ms | p99 ms | longest ms |"
    lines = [head, "| " + " | ".join(["---:"] * 9) + " |"]
    for row in found.get("sustain", []):
        total = row["latency_ms"]["total"]
        cells = [row["people"], row["frames_of_window"], f"{row['lookahead_ms']:.0f}", f"{row['frames']:,}"]
        cells += [row["dropped"], *(f"{total[name]:.1f}" for name in ("p50", "p90", "p99", "max"))]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    parts = []
    if "sustain" in found:
        parts += ["\n".join(lines), _sustain_note(found)]
    if "soak" in found:
        parts.append(_soak_note(found["soak"], found["soak_provenance"]))
    return "\n\n".join(parts)


def _machine(provenance: dict[str, Any]) -> str:
    load = provenance["load_average_before"]
    return "{cpu}, {cores} cores, {target}".format(**provenance) + f", load before {load:.1f}"


def _sustain_note(found: dict[str, Any]) -> str:
    every = found["sustain"]
    minutes = every[0]["frames"] / FPS / 60
    exact = "every counter exact" if all(row["counters_exact"] for row in every) else "COUNTERS NOT EXACT"
    return (
        f"{minutes:.0f} minutes each at {FPS:.0f} frames a second in real time, keypoints given, INT8 in the native "
        "library, with tracking, doubt and place; latency from a frame's arrival to its people's poses, beside the "
        f"look-ahead; {exact}. The 243-frame weights are random. {found.get('sustain_remark', '')}"
        f"Machine: {_machine(found['sustain_provenance'])}."
    )


def _soak_note(found: dict[str, Any], provenance: dict[str, Any]) -> str:
    streams, people = found["counters"]["streams"], found["counters"]["people"]
    promises = ("poses_not_finite", "poses_with_missing_joints_called_valid", "poses_out_of_order")
    first, last, most = (found[f"resident_bytes_{name}"] / 1e6 for name in ("first", "last", "most"))
    exact = "exact" if found["counters_exact"] else "NOT EXACT"
    return (
        f"Soak: {found['hours_of_stream']:g} hours of {found['people']} people at {FPS:.0f} frames a second "
        f"({found['frames']:,} frames) as fast as they go, who come, go, are hidden and jump, with lost joints, NaN "
        f"and times that repeat or stop: {found['poses']:,} poses, {streams['rejected']:,} frames rejected, "
        f"{people['held']:,} held, {sum(found[name] for name in promises)} promises broken, counters {exact}. Resident "
        f"memory {first:.1f} MB after the first twentieth, {last:.1f} at the end, at most {most:.1f}; commit "
        f"{provenance['commit'] or 'unknown'}."
    )


def _resident() -> int:
    """Resident memory of this process in bytes, from Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def long_engine(folder: Path) -> Engine:
    """An INT8 engine of 243 frames with random weights."""
    from pstmo_edge.benchmarks.cases import with_weights
    from pstmo_edge.building import build
    from pstmo_edge.preparing import prepare_unmeasured

    lifter = with_weights("p-stmo-s", 243, None)
    build(lifter, "int8", "native", out=folder / "long", prepared=prepare_unmeasured(lifter))
    return load_engine(folder / "long")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sustain", "soak"))
    parser.add_argument("--engine", type=Path, default=Path("engine"), help="a bundle of 27 frames")
    parser.add_argument("--long", type=Path, help="a bundle of 243 frames; built with random weights if left out")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--hours", type=float, default=10.0)
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    provenance = collect(Settings())
    engine = load_engine(given.engine)
    if given.what == "soak":
        found: dict[str, Any] = {"soak": soaked(engine, given.people, given.hours)}
    else:
        rows = [sustained(engine, given.people, given.minutes * 60)]
        with tempfile.TemporaryDirectory() as folder:
            other = long_engine(Path(folder)) if given.long is None else load_engine(given.long)
            rows.append(sustained(other, 1, given.minutes * 60))
        found = {"sustain": rows}
    before = json.loads(given.out.read_text()) if given.out.is_file() else {}
    result = {**before, **found, f"{given.what}_provenance": provenance}
    write_atomic(given.out, (json.dumps(result, indent=1) + "\n").encode())
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
