"""`pstmo-edge run`: from a camera, a video or keypoints to 3D poses."""

from __future__ import annotations

import dataclasses
import math
import re
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pstmo_edge import console
from pstmo_edge.cli_options import Json, print_json
from pstmo_edge.errors import DataError, PstmoEdgeError, UsageError
from pstmo_edge.naming import unknown

if TYPE_CHECKING:
    from pstmo_edge.app.detectors import Detector
    from pstmo_edge.app.pipeline import Pipeline, Report
    from pstmo_edge.app.refining import RefineSettings
    from pstmo_edge.app.sources import Source
    from pstmo_edge.app.viewers import ViewerSettings
    from pstmo_edge.engine import Engine

_SHOWN_EVERY = 0.5  # seconds
UNKNOWN_SIZE = (1, 1)  # of the picture: `People` takes it from the frames
_ENDING = (signal.SIGINT, signal.SIGTERM)
SMOOTHINGS = ("none", "one-euro", "savgol")


def add_commands(app: typer.Typer) -> None:
    """Register this module's command."""
    app.command()(run)


def run(
    source: Annotated[
        str,
        typer.Argument(
            help="A camera's number, an address (rtsp://...), a video, keypoints (.npz, .csv, .json of AlphaPose or "
            "COCO, OpenPose's folder), or cmu-mocap, which is in the box."
        ),
    ],
    engine: Annotated[
        list[Path] | None,
        typer.Option(help="A bundle; of several the best that reads the detector's joints at this look-ahead."),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(help="For pictures: mediapipe, rtmlib or onnx; options follow it: 'onnx,model=pose.onnx'."),
    ] = None,
    save: Annotated[
        list[Path] | None, typer.Option(help="Poses to a file: .npz, .jsonl, .csv, .bvh (more than one may be given).")
    ] = None,
    view: Annotated[
        list[str] | None,
        typer.Option(help="rerun, web or web:PORT, or a file: .rrd (rerun) or .mp4 (with the skeleton beside it)."),
    ] = None,
    lookahead: Annotated[
        int | None, typer.Option(min=0, help="Window frames a pose waits for; by default as many as the weights know.")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second, where the source does not say.")] = None,
    image_size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT, for keypoints that do not say.")] = None,
    skeleton: Annotated[str | None, typer.Option(help="The joint set of keypoints that do not say.")] = None,
    people: Annotated[int, typer.Option(min=1, max=64, help="At most so many people.")] = 4,
    min_confidence: Annotated[float, typer.Option(min=0, max=1, help="Below it a joint is missing.")] = 0.3,
    max_gap: Annotated[float, typer.Option(help="Seconds without a person that end its sequence.")] = 0.5,
    pace: Annotated[bool, typer.Option("--pace", help="Let a file pass as in life, dropping what comes late.")] = False,
    smooth: Annotated[
        str, typer.Option(help="one-euro (live), savgol (.npz and .bvh, afterwards: no lag) or none.")
    ] = "none",
    intrinsics: Annotated[
        str | None,
        typer.Option(help="fx,fy,cx,cy in pixels, then OpenCV's k1,k2,p1,p2,k3 if any; without them a guess."),
    ] = None,
    height: Annotated[float | None, typer.Option(help="The height of the people in metres, if it is known.")] = None,
    tilt: Annotated[
        float | None,
        typer.Option(min=-90, max=90, help="Degrees the camera looks down: poses in a world frame with z up."),
    ] = None,
    camera_height: Annotated[float, typer.Option(help="Metres of the camera above the floor, with --tilt.")] = 0.0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the engine's runtime.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    as_json: Json = False,
) -> None:
    """Lift a camera, a video or keypoints to 3D poses.

    Example: pstmo-edge run walk.mp4 --detector mediapipe --engine engine-coco --save walk.jsonl --view walk-3d.mp4
    """
    from pstmo_edge.app import viewers
    from pstmo_edge.app.people import People
    from pstmo_edge.app.pipeline import Pipeline
    from pstmo_edge.app.refining import PoseRefiner
    from pstmo_edge.app.sources import open_source
    from pstmo_edge.app.tracking import TrackerSettings
    from pstmo_edge.app.writers import WriterSettings, open_writer
    from pstmo_edge.skeletons import get_skeleton
    from pstmo_edge.streaming import StreamSettings

    refining = _refining(intrinsics, height, tilt, camera_height, smooth)
    opened = open_source(source, _size(image_size), fps, skeleton, _told)
    finder = _detector(opened, detector)
    lifter = _engine(engine or [Path("engine")], _joints(opened, finder), lookahead, threads)
    settings = StreamSettings(UNKNOWN_SIZE, max(opened.fps, 1.0), lookahead, max_gap, min_confidence)
    tracking = TrackerSettings(memory=max_gap, min_confidence=min_confidence, most_people=people)
    crowd = People(lifter, settings, tracking)
    files = WriterSettings(
        get_skeleton(lifter.manifest.output.skeleton), opened.fps, force, smooth == "savgol", tilt is not None
    )
    shown = _shown(lifter, _seconds(lifter, lookahead), opened.fps, force, tilt is not None)
    for each in view or []:
        viewers.check(each, shown)  # before a file is begun that the next try would find there
    status = _Status()
    pipeline = Pipeline(
        opened,
        crowd,
        finder,
        PoseRefiner(crowd, refining),
        writers=[open_writer(path, files) for path in save or []],
        viewers=[viewers.open_viewer(each, shown) for each in view or []],
        paced=pace,
        after_frame=status,
    )
    _told(_opening(opened, lifter, lookahead, intrinsics is None))
    _stop_on_signals(pipeline)
    report = pipeline.run()
    status.watchdog.stopping()
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        console.stdout.print(summary(report, opened, lifter), soft_wrap=True, markup=False)


def _stop_on_signals(pipeline: Pipeline) -> None:
    """The first Ctrl-C or SIGTERM lets what is under way be written; a second one ends the program at once."""

    def stop(*_: object) -> None:
        for number in _ENDING:
            signal.signal(number, signal.SIG_DFL)
        # In a thread: the main one may hold, where the signal stopped it, the very locks that `stop` takes.
        threading.Thread(target=pipeline.stop, name="stopping", daemon=True).start()

    for number in _ENDING:
        signal.signal(number, stop)


def summary(report: Report, source: Source, engine: Engine) -> str:
    """What a run did, for people."""
    lines = [
        f"{source.name}: {report.frames} frames in {report.seconds:.1f} s, {report.lifted} lifted, "
        f"{report.dropped} dropped; {report.people} people, {report.poses} poses"
    ]
    between = report.counters["streams"]["dropped_by_rate"]
    if between:
        rate = engine.manifest.input.frame_rate / engine.manifest.input.t_downsample
        lines.append(f"{between} frames have no pose of their own: the model's clock ticks {rate:g} times a second")
    flags = ", ".join(f"{count} {flag}" for flag, count in report.flags.items() if count)
    if flags:
        lines.append(f"poses: {flags}" + (f"; {report.doubtful} doubtful" if report.doubtful else ""))
    for stage, found in report.latency_ms.items():
        lines.append(f"{stage}: {found['p50']:.1f} ms, 99 of 100 under {found['p99']:.1f}, longest {found['max']:.1f}")
    if report.reopened:
        lines.append(f"the source was lost and came back {report.reopened} times")
    if report.damaged:
        lines.append(f"{report.damaged} pictures were damaged and left out")
    lines += [f"{lost} poses did not get into {name}" for name, lost in report.written.items()]
    return "\n".join(lines)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,5})\s*[x×,]\s*(\d{1,5})", text.strip())
    if found is None or not (1 <= int(found[1]) <= 65536 and 1 <= int(found[2]) <= 65536):
        raise UsageError(f"--image-size is {text}: give WIDTHxHEIGHT in pixels, such as 1920x1080")
    return int(found[1]), int(found[2])


def _numbers(option: str, text: str, counts: Sequence[int], wanted: str) -> list[float]:
    try:
        values = [float(each) for each in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in counts:
        raise UsageError(f"--{option} is {text}: give {wanted}")
    return values


def _refining(
    intrinsics: str | None, height: float | None, tilt: float | None, camera_height: float, smooth: str
) -> RefineSettings:
    from pstmo_edge.app.placing import BodyScale, Intrinsics, World
    from pstmo_edge.app.refining import RefineSettings

    if smooth not in SMOOTHINGS:
        raise unknown("smoothing", smooth, SMOOTHINGS)
    if not math.isfinite(camera_height):
        raise UsageError(f"--camera-height is {camera_height:g}: give metres")
    if tilt is None and camera_height:
        raise UsageError("--camera-height is for --tilt: without the camera's tilt there is no floor")
    lens = None
    if intrinsics is not None:
        fx, fy, cx, cy, *bent = _numbers(
            "intrinsics", intrinsics, (4, 8, 9), "fx,fy,cx,cy in pixels, perhaps with k1,k2,p1,p2 and k3"
        )
        lens = Intrinsics.opencv((fx, fy), (cx, cy), bent)
    if height is not None:
        BodyScale(height)  # refuses what is no height
    world = None if tilt is None else World.tilted(tilt, camera_height=camera_height)
    return RefineSettings(lens, world, height, smooth == "one-euro")


def _joints(source: Source, detector: Detector | None) -> str:
    """The joint set that is lifted from."""
    from pstmo_edge.app.sources import KeypointSource

    if detector is not None:
        return detector.skeleton
    assert isinstance(source, KeypointSource)
    return source.recording.skeleton


def _seconds(engine: Engine, lookahead: int | None) -> float:
    """How long a pose waits for later frames."""
    given = engine.manifest.input
    return (given.lookahead_frames if lookahead is None else lookahead) * given.t_downsample / given.frame_rate


def _opening(source: Source, engine: Engine, lookahead: int | None, assumed: bool) -> str:
    """What is about to run, and what its look-ahead costs in milliseconds and millimetres."""
    given, accuracy = engine.manifest.input, engine.manifest.accuracy
    asked = given.lookahead_frames if lookahead is None else lookahead
    step = 1000.0 * given.t_downsample / given.frame_rate
    text = (
        f"{source.name} at {source.fps:.4g} frames a second through {engine.path} ({engine.manifest.model.name}, "
        f"{given.frames} frames, {engine.backend}); poses wait {asked * step:.0f} ms (--lookahead {asked})"
    )
    prices = {} if accuracy is None else {each.frames: each.mpjpe_mm for each in accuracy.lookahead}
    if prices and given.lookahead_frames:
        nearest = min(prices, key=lambda frames: abs(frames - asked))
        more = prices[nearest] - prices[max(prices)]
        text += (
            f", which costs {more:.1f} mm against waiting {max(prices) * step:.0f} ms" if nearest < max(prices) else ""
        )
        if nearest == max(prices) and 0 in prices:
            text += f"; --lookahead 0 would cost {prices[0] - prices[nearest]:.1f} mm"
    return text + ("; distances assume a focal length of the longer side (--intrinsics)" if assumed else "")


def _detector(source: Source, wanted: str | None) -> Detector | None:
    from pstmo_edge.app.detectors import DETECTORS, open_detector
    from pstmo_edge.app.sources import KeypointSource

    if isinstance(source, KeypointSource):
        if wanted is not None:
            raise UsageError(f"{source.name} holds keypoints already: leave --detector out")
        return None
    if wanted is None:
        names = "; ".join(f"{name} ({entry.about})" for name, entry in DETECTORS.items())
        raise UsageError(f"{source.name} holds pictures: give --detector, one of {names}")
    name, *options = wanted.split(",")
    pairs = [option.partition("=") for option in options]
    unequal = [key for key, equals, _ in pairs if not equals]
    if unequal:
        raise UsageError(f"--detector {wanted}: {unequal[0]!r} is no NAME=VALUE")
    return open_detector(name, **{key.strip(): value.strip() for key, _, value in pairs})


def _engine(paths: Sequence[Path], skeleton: str, lookahead: int | None, threads: int | None) -> Engine:
    """The engine that reads these joints; of several the one with the smallest error."""
    from pstmo_edge.engine import load_engine
    from pstmo_edge.mappings import mapping

    engines: list[Engine] = []
    refused: list[PstmoEdgeError] = []
    for path in paths:
        if not path.exists() and path == Path("engine"):
            raise UsageError("there is no engine: build one with pstmo-edge build, or give --engine FOLDER")
        engine = load_engine(path, threads)
        try:
            mapping(skeleton, engine.manifest.input.skeleton)
            if lookahead is None or lookahead <= engine.manifest.input.lookahead_frames:
                engines.append(engine)
            else:
                most = engine.manifest.input.lookahead_frames
                refused.append(UsageError(f"--lookahead {lookahead}: {path} has 0 to {most} frames of look-ahead"))
        except DataError as error:
            refused.append(DataError(f"{path}: {error}"))
    if not engines:
        raise refused[0]
    return min(engines, key=lambda each: _error(each, lookahead))


def _error(engine: Engine, lookahead: int | None) -> float:
    """The error at a look-ahead as its build measured it, millimetres; infinite where nobody did."""
    accuracy = engine.manifest.accuracy
    known = {} if accuracy is None else {each.frames: each.mpjpe_mm for each in accuracy.lookahead}
    wanted = engine.manifest.input.lookahead_frames if lookahead is None else lookahead
    return known[min(known, key=lambda frames: abs(frames - wanted))] if known else math.inf


def _shown(engine: Engine, lookahead: float, fps: float, force: bool, z_up: bool) -> ViewerSettings:
    from pstmo_edge.app.viewers import ViewerSettings
    from pstmo_edge.skeletons import get_skeleton

    manifest = engine.manifest
    joints = get_skeleton(manifest.input.skeleton), get_skeleton(manifest.output.skeleton)
    return ViewerSettings(*joints, lookahead, fps, force, z_up)


def _told(line: str) -> None:
    console.stderr.print(f"pstmo-edge: {line}", soft_wrap=True, markup=False)


class _Status:
    """After every frame: signs of life for systemd, and twice a second the line of figures on a terminal."""

    def __init__(self) -> None:
        from pstmo_edge.app.watchdog import Watchdog

        self.watchdog = Watchdog()
        self._next = 0.0

    def __call__(self, pipeline: Pipeline) -> None:
        """Tell and show it, if it is time."""
        if pipeline.report.lifted == 1:
            self.watchdog.ready()
        self.watchdog.beat(pipeline.status())
        now = time.monotonic()
        if not console.stderr.is_terminal or now < self._next:
            return
        self._next = now + _SHOWN_EVERY
        console.stderr.print(f"\r{pipeline.status()}", end="", markup=False, soft_wrap=True)
