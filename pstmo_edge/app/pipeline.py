"""The loop of a camera app: source, detector, people and their poses, files and viewers.

The source, the detector and the viewers have a thread each; people are tracked and lifted in the caller's. Queues
between them are bounded: a live source never waits, so what nobody has taken in time is dropped, oldest first, and
counted; a file waits instead and loses nothing. In the end frames == lifted + dropped + failed, exactly.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pstmo_edge.app.detectors import Detector
from pstmo_edge.app.people import People
from pstmo_edge.app.sources import Source
from pstmo_edge.app.stages import BoundedQueue, Latency
from pstmo_edge.app.types import Detections, Frame, PersonPose, View
from pstmo_edge.app.writers import Writer

_TO_DETECT = 2  # frames that wait for a detector, which is slow: more would only be older
_TO_LIFT = 15  # those that wait to be lifted, which is quick: half a second that stood still is caught up with
_VIEWS = 8
_PATIENCE = 2.0  # seconds
_RATE_MEMORY = 0.95  # of the frame rate that is shown
_FLAGS = ("valid", "degraded", "stale", "gap")


class Viewer(Protocol):
    """Shows what became ready; called from a thread of its own."""

    def show(self, view: View) -> None:
        """Show one frame's."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class Refiner(Protocol):
    """Adds to poses what is known besides: doubt, smoothing, the root's place."""

    def refine(self, poses: Sequence[PersonPose]) -> tuple[PersonPose, ...]:
        """The same poses, with more told of them."""
        ...

    def forget(self, person: int) -> None:
        """A person has left."""
        ...


@dataclass(frozen=True)
class _Taken:
    """A frame on its way, with the moments (monotonic) at which it arrived and was detected in."""

    frame: Frame
    detections: Detections | None
    arrived: float
    timings: tuple[tuple[str, float], ...] = ()  # stage, seconds


@dataclass
class Report:
    """What an app did: exact counters, latencies by stage in milliseconds, and flags of the poses."""

    frames: int = 0  # that the source gave
    lifted: int = 0
    dropped_before_detection: int = 0
    dropped_before_lifting: int = 0
    failed: int = 0  # frames at which a stage gave up, and the app with it
    views_dropped: int = 0
    reopened: int = 0
    damaged: int = 0  # pictures that the source could not decode, and left out
    seconds: float = 0.0
    flags: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_FLAGS, 0))
    doubtful: int = 0
    people: int = 0
    poses: int = 0
    counters: dict[str, Any] = field(default_factory=dict)
    latency_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)  # poses that did not get into a file, by its name

    @property
    def dropped(self) -> int:
        """Frames that were never lifted."""
        return self.dropped_before_detection + self.dropped_before_lifting


class Pipeline:
    """One source's app. `run` returns when the source ends or `stop` is called."""

    def __init__(
        self,
        source: Source,
        people: People,
        detector: Detector | None = None,
        refiner: Refiner | None = None,
        writers: Sequence[Writer] = (),
        viewers: Sequence[Viewer] = (),
        paced: bool = False,
        after_frame: Callable[[Pipeline], None] = lambda _: None,
    ) -> None:
        self.source, self.people, self.detector, self.refiner = source, people, detector, refiner
        self.writers, self.viewers, self.paced, self.after_frame = writers, viewers, paced, after_frame
        self.report = Report()
        self.rate = 0.0  # frames a second lifted now
        self.latencies: dict[str, Latency] = {}
        self._live = source.live or paced
        waiting = _TO_LIFT if detector is None else _TO_DETECT
        self._arrivals: BoundedQueue[_Taken] = BoundedQueue(waiting, drops=self._live)
        self._detected: BoundedQueue[_Taken] = BoundedQueue(_TO_LIFT, drops=self._live)
        self._views: BoundedQueue[View] = BoundedQueue(_VIEWS, drops=self._live)
        self._stopping = threading.Event()
        self._errors: list[BaseException] = []
        self._last_lifted = 0.0
        self._newest: _Taken | None = None
        self._failed_detection = self._failed_lifting = 0  # one thread each

    def stop(self) -> None:
        """End the run from any thread or signal handler; what is under way is finished and written."""
        self._stopping.set()
        self.source.close()
        self._arrivals.close()  # a camera that hangs would not do it

    def run(self) -> Report:
        """Run until the source ends; raises what any stage raised, after files and viewers are closed."""
        started = time.monotonic()
        stages: list[tuple[str, Callable[[], None]]] = [("source", self._read)]
        if self.detector is not None:
            stages.append(("detector", self._detect))
        threads = [threading.Thread(target=self._guarded(stage), name=name, daemon=True) for name, stage in stages]
        viewing = threading.Thread(target=self._guarded(self._show), name="viewers", daemon=True)
        for thread in (*threads, viewing):
            thread.start()
        try:
            for taken in self._arrivals if self.detector is None else self._detected:
                self._lift(taken)
            self._deliver(self._newest, *self._finish())  # what waited for later frames, beside the last picture
        finally:
            self.stop()
            self._views.close()
            viewing.join()
            for queue in (self._arrivals, self._detected):
                queue.abandon()
            for thread in threads:
                thread.join(_PATIENCE)  # one that hangs in a driver is left behind
            self._close()
            self._sum_up(time.monotonic() - started)
        if self._errors:
            raise self._errors[0]
        return self.report

    def _close(self) -> None:
        """Close files, viewers and the detector; one that fails keeps none of the others from it."""
        closing: list[Writer | Viewer | Detector] = [*self.writers, *self.viewers]
        for each in (*closing, self.detector):
            try:
                if each is not None:
                    each.close()
            except Exception as error:
                self._errors.append(error)

    def _guarded(self, stage: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                stage()
            except BaseException as error:
                self._errors.append(error)
                self.stop()
                for queue in (self._detected, self._views):  # a stage that died takes nothing: nobody may wait for it
                    queue.abandon()

        return run

    def _read(self) -> None:
        first: float | None = None
        begun = time.monotonic()
        for frame, detections in self.source:
            if self.paced:
                first = frame.timestamp if first is None else first
                if self._stopping.wait(max(begun + frame.timestamp - first - time.monotonic(), 0.0)):
                    break
            if self._stopping.is_set():
                break
            self._arrivals.put(_Taken(frame, detections, time.monotonic()))
        self._arrivals.close()

    def _detect(self) -> None:
        assert self.detector is not None
        for taken in self._arrivals:
            begun = time.monotonic()
            try:
                detections = taken.detections or self.detector.detect(taken.frame)
            except BaseException:
                self._failed_detection += 1
                raise
            ended = time.monotonic()
            timings = (("wait", begun - taken.arrived), ("detect", ended - begun))
            self._detected.put(_Taken(taken.frame, detections, taken.arrived, timings))
        self._detected.close()

    def _lift(self, taken: _Taken) -> None:
        assert taken.detections is not None
        begun = time.monotonic()
        try:
            update = self.people.update(taken.frame, taken.detections)
            poses = self._refined(update.poses, update.left)
        except BaseException:
            self._failed_lifting += 1
            raise
        ended = time.monotonic()
        for stage, seconds in (*taken.timings, ("lift", ended - begun), ("total", ended - taken.arrived)):
            self.latencies.setdefault(stage, Latency()).add(seconds)
        self.report.lifted += 1
        self._newest = taken
        self.report.people += len(update.joined)
        self._keep_rate(ended)
        self._deliver(taken, poses, update.joined, update.left)
        self.after_frame(self)

    def _finish(self) -> tuple[tuple[PersonPose, ...], tuple[int, ...], tuple[int, ...]]:
        update = self.people.finish()
        return self._refined(update.poses, update.left), (), update.left

    def _refined(self, poses: tuple[PersonPose, ...], left: Sequence[int]) -> tuple[PersonPose, ...]:
        if self.refiner is not None:
            poses = self.refiner.refine(poses)
            for person in left:
                self.refiner.forget(person)
        return poses

    def _deliver(
        self, taken: _Taken | None, poses: tuple[PersonPose, ...], joined: tuple[int, ...], left: tuple[int, ...]
    ) -> None:
        """Poses to the files, here and now, so that none is lost to a slow screen, and to the viewers."""
        for pose in poses:
            self.report.flags[pose.flag] += 1
            self.report.doubtful += pose.doubtful
        self.report.poses += len(poses)
        if poses:
            for writer in self.writers:
                writer.write(poses)
        if self.viewers and taken is not None and taken.detections is not None:
            latest = {stage: latency.last_ms for stage, latency in self.latencies.items()}
            self._views.put(View(taken.frame, taken.detections, poses, joined, left, self.status(), latest))

    def _show(self) -> None:
        for view in self._views:
            for viewer in self.viewers:
                viewer.show(view)

    def _keep_rate(self, now: float) -> None:
        elapsed = now - self._last_lifted
        if self._last_lifted and elapsed > 0:
            memory = _RATE_MEMORY if self.rate else 0.0
            self.rate = 1 / (memory / self.rate + (1 - memory) * elapsed) if memory else 1 / elapsed
        self._last_lifted = now

    def status(self) -> str:
        """The line that the screen shows."""
        total = self.latencies.get("total", Latency())
        parts = [f"{self.rate:.1f} FPS", f"latency {total.last_ms:.1f} ms (p99 {total.percentile(0.99):.1f})"]
        if "detect" in self.latencies:
            parts.append(f"detector {self.latencies['detect'].last_ms:.1f}")
        if "lift" in self.latencies:
            parts.append(f"lift {self.latencies['lift'].last_ms:.1f}")
        dropped = self._arrivals.dropped + self._detected.dropped
        parts.append(f"look-ahead {self.lookahead_ms:.0f} ms")
        parts.append(f"dropped {dropped}")
        return ", ".join(parts)

    @property
    def lookahead_ms(self) -> float:
        """How long a pose waits for the frames after its own."""
        given = self.people.engine.manifest.input
        return 1000.0 * self.people.settings.lookahead_of(given) * given.t_downsample / given.frame_rate

    def _sum_up(self, seconds: float) -> None:
        report, people = self.report, self.people.counters
        report.seconds = seconds
        report.frames = self._arrivals.received
        report.dropped_before_detection = self._arrivals.dropped if self.detector else 0
        report.dropped_before_lifting = self._detected.dropped if self.detector else self._arrivals.dropped
        report.failed = self._failed_detection + self._failed_lifting
        report.views_dropped = self._views.dropped
        report.reopened, report.damaged = self.source.reopened, self.source.damaged
        report.counters = {"people": dict(vars(people)), "streams": _counted(self.people)}
        report.latency_ms = {stage: latency.summary() for stage, latency in self.latencies.items()}
        report.written = {str(writer.path): writer.lost for writer in self.writers if writer.lost}


def _counted(people: People) -> dict[str, int]:
    counters = people.streams
    return {**vars(counters), "dropped": counters.dropped}
