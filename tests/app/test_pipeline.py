"""The loop with real streams and stand-ins for cameras, detectors and screens that are slow, fail or hang."""

import threading
import time

import numpy as np
import pytest
from native_build import native_bundle

import pstmo_edge as pe
from pstmo_edge.app.people import People
from pstmo_edge.app.pipeline import Pipeline
from pstmo_edge.app.types import Detections, Frame
from pstmo_edge.errors import DataError
from pstmo_edge.streaming import StreamSettings

SIZE, FPS = (1000, 1002), 50.0


@pytest.fixture(scope="module")
def engine():
    return pe.load_engine(native_bundle("tiny"), threads=1)


class Source:
    """A stand-in: `length` frames of one person, at once or as they would come."""

    name, fps, reopened, damaged = "test", FPS, 0, 0

    def __init__(self, length, live=False, with_keypoints=True, fails_at=None, step=0.0):
        self.length, self.live, self.with_keypoints = length, live, with_keypoints
        self.fails_at, self.step, self.closed = fails_at, step, False
        rng = np.random.default_rng(0)
        self.path = rng.normal(0, 2, (length, 1, 17, 2)).cumsum(0) + rng.uniform(300, 700, (17, 2))

    def detections(self, index):
        keypoints = np.concatenate([self.path[index], np.full((1, 17, 1), 0.9)], axis=-1)
        return Detections(keypoints, "human36m-17")

    def __iter__(self):
        for index in range(self.length):
            if self.closed:
                return
            if index == self.fails_at:
                raise DataError("damaged after frame 7")
            time.sleep(self.step)
            yield Frame(index, index / FPS, SIZE), self.detections(index) if self.with_keypoints else None

    def close(self):
        self.closed = True


class Detector:
    name, skeleton = "test", "human36m-17"

    def __init__(self, source, seconds=0.0, fails_at=None):
        self.source, self.seconds, self.fails_at, self.closed = source, seconds, fails_at, 0

    def detect(self, frame):
        if frame.index == self.fails_at:
            raise DataError("a picture it cannot read")
        time.sleep(self.seconds)
        return self.source.detections(frame.index)

    def close(self):
        self.closed += 1


class Kept:
    """A writer and a viewer that keep what they get."""

    path, lost = "kept", 0

    def __init__(self, seconds=0.0):
        self.poses, self.views, self.closed, self.seconds = [], [], 0, seconds

    def write(self, poses):
        self.poses += poses

    def show(self, view):
        time.sleep(self.seconds)
        self.views.append(view)

    def close(self):
        self.closed += 1


def pipeline(engine, source, lookahead=None, **parts):
    return Pipeline(source, People(engine, StreamSettings(SIZE, FPS, lookahead)), **parts)


def accounted(report):
    assert report.frames == report.lifted + report.dropped + report.failed
    assert report.poses == sum(report.flags.values())
    streams = report.counters["streams"]
    assert streams["received"] == streams["delivered"] + streams["dropped"] + streams["rejected"]
    assert streams["pending"] == 0


@pytest.mark.parametrize("detecting", [False, True])
def test_a_file_loses_nothing_however_slow_its_detector_and_screen(engine, detecting):
    source = Source(60, with_keypoints=not detecting)
    detector = Detector(source, 0.002) if detecting else None
    written, screen = Kept(), Kept(0.003)
    report = pipeline(engine, source, detector=detector, writers=[written], viewers=[screen]).run()
    accounted(report)
    assert (report.frames, report.lifted, report.dropped, report.poses) == (60, 60, 0, 60)
    assert [pose.result.frame for pose in written.poses] == list(range(60))
    assert [view.frame.index for view in screen.views] == [*range(60), 59]  # and then what waited for later frames
    assert [pose.result.frame for view in screen.views for pose in view.poses] == list(range(60))
    assert report.views_dropped == 0
    assert written.closed == screen.closed == 1
    assert not detecting or detector.closed == 1
    stream = engine.stream(SIZE, FPS, None)
    alone = [stream.push(source.detections(i).keypoints[0], i / FPS) for i in range(60)]
    alone = [each for each in alone if each is not None] + stream.finish()
    for pose, expected in zip(written.poses, alone, strict=True):
        np.testing.assert_array_equal(pose.pose, expected.pose)


def test_a_live_source_never_waits_and_what_is_late_is_counted(engine):
    source = Source(100, live=True, with_keypoints=False, step=0.001)
    written = Kept()
    report = pipeline(engine, source, detector=Detector(source, 0.01), writers=[written]).run()
    accounted(report)
    assert report.frames == 100
    assert report.dropped_before_detection > 40
    frames = [pose.result.frame for pose in written.poses]
    assert frames == sorted(set(frames))
    assert frames[-1] == 99  # the newest is kept, the oldest go


def test_a_slow_screen_does_not_hold_up_a_live_source(engine):
    source = Source(100, live=True, step=0.001)
    screen, written = Kept(0.05), Kept()
    begun = time.monotonic()
    report = pipeline(engine, source, viewers=[screen], writers=[written]).run()
    accounted(report)
    assert report.lifted + report.dropped == 100
    assert report.views_dropped > 50
    assert len(written.poses) == report.poses == report.lifted
    assert time.monotonic() - begun < 100 * 0.05


def test_pace_lets_a_file_pass_as_in_life(engine):
    begun = time.monotonic()
    report = pipeline(engine, Source(25), paced=True).run()
    assert time.monotonic() - begun >= 24 / FPS
    accounted(report)


@pytest.mark.parametrize("where", ["source", "detector", "viewer"])
def test_what_a_stage_raises_reaches_the_caller_and_files_are_closed(engine, where):
    source = Source(200, with_keypoints=where != "detector", fails_at=7 if where == "source" else None)
    detector = Detector(source, fails_at=7) if where == "detector" else None
    written, screen = Kept(), Kept()
    if where == "viewer":
        screen.show = lambda view: [][view.frame.index]
    app = pipeline(engine, source, detector=detector, writers=[written], viewers=[screen])
    with pytest.raises(IndexError if where == "viewer" else DataError):
        app.run()
    assert written.closed == screen.closed == 1
    assert len(written.poses) == app.report.poses
    assert app.report.failed == (where == "detector")
    accounted(app.report)


def test_nobody_waits_for_a_screen_that_failed(engine):
    """With more frames under way than its queue takes, which were lifted and waited for it for ever."""
    screen = Kept()
    app = pipeline(engine, Source(200), viewers=[screen])

    def fails_when_all_is_full(view):
        while len(app._views._items) < app._views.size or len(app._arrivals._items) < app._arrivals.size:
            time.sleep(0.001)
        raise OSError("the screen is gone")

    def run():
        with pytest.raises(OSError, match="the screen is gone"):
            app.run()

    screen.show = fails_when_all_is_full
    ended = threading.Thread(target=run, daemon=True)
    ended.start()
    ended.join(30)
    assert not ended.is_alive()
    accounted(app.report)


def test_stop_ends_a_live_run_and_keeps_what_was_under_way(engine):
    source = Source(10_000, live=True, step=0.001)
    written = Kept()
    app = pipeline(engine, source, writers=[written])
    threading.Timer(0.3, app.stop).start()
    report = app.run()
    accounted(report)
    assert 10 < report.lifted < 9_000
    assert len(written.poses) == report.lifted
    assert written.closed == 1


def test_stop_ends_a_run_whose_camera_hangs(engine):
    class Hanging(Source):
        def __iter__(self):
            yield from super().__iter__()
            time.sleep(30)

    app = pipeline(engine, Hanging(5, live=True))
    threading.Timer(0.2, app.stop).start()
    begun = time.monotonic()
    report = app.run()
    assert time.monotonic() - begun < 10
    assert report.lifted + report.dropped == 5


def test_refined_poses_are_written_and_who_left_is_forgotten(engine):
    class Doubled:
        forgotten = ()

        def refine(self, poses):
            from dataclasses import replace

            return tuple(replace(pose, pose=pose.pose * 2, doubtful=True) for pose in poses)

        def forget(self, person):
            self.forgotten = (*self.forgotten, person)

    plain, written, refiner = Kept(), Kept(), Doubled()
    pipeline(engine, Source(20), writers=[plain]).run()
    report = pipeline(engine, Source(20), writers=[written], refiner=refiner).run()
    assert report.doubtful == 20
    assert refiner.forgotten == (0,)
    for one, two in zip(plain.poses, written.poses, strict=True):
        np.testing.assert_array_equal(two.pose, 2 * one.pose)


def test_the_screen_is_told_rate_latency_lookahead_and_drops(engine):
    screen = Kept()
    pipeline(engine, Source(30, step=0.002), viewers=[screen]).run()
    last = screen.views[-1]
    assert "look-ahead 80 ms" in last.status  # 4 frames of 50 a second
    assert "dropped 0" in last.status
    assert {"lift", "total"} <= set(last.latency_ms)
    rate = float(last.status.split(" FPS")[0])
    assert 20 < rate < 550


def test_a_file_that_cannot_be_closed_does_not_keep_the_others_from_it(engine):
    class Full(Kept):
        def close(self):
            raise OSError("no space left")

    full, written, screen = Full(), Kept(), Kept()
    app = pipeline(engine, Source(10), writers=[full, written], viewers=[screen])
    with pytest.raises(OSError, match="no space"):
        app.run()
    assert written.closed == screen.closed == 1
    assert app.report.poses == 10
