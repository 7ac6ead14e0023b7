"""Archives: folders of keypoint files to folders of poses, resumable, each file exactly once.

A recording becomes one file of poses with the same path below the output folder, written whole or not at all. It
carries its recording's time of change, so that a later run knows without reading what is done and what has changed
since. A run that was killed goes on where it stopped; files that cannot be used are told and do not stop the others.
"""

from __future__ import annotations

import dataclasses
import fcntl
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from pstmo_edge._version import __version__
from pstmo_edge.arrays import BoolArray, FloatArray
from pstmo_edge.datasets import keypoint_file
from pstmo_edge.datasets.sequences import PoseSequence
from pstmo_edge.errors import BundleError, DataError, UsageError
from pstmo_edge.evaluation import predict_all
from pstmo_edge.files import PART, clear_leftovers, write_atomic
from pstmo_edge.filling import fill_recording
from pstmo_edge.streaming import StreamSettings
from pstmo_edge.windows import WindowSpec

if TYPE_CHECKING:
    from pstmo_edge.bundle import Bundle
    from pstmo_edge.engine import Engine
    from pstmo_edge.manifest import InputSpec

RECORD = "lift.json"
SUFFIX = ".npz"
CHUNK_FRAMES, CHUNK_FILES = 8192, 256  # lifted together, so that short files share their forwards
BATCH = 256  # windows a forward
_RATE_TOLERANCE = 0.02  # of the model's rate, as a stream's clock has it
_MIN_CONFIDENCE = StreamSettings.min_confidence  # below it a joint is missing, as in a stream


@dataclass(frozen=True)
class Job:
    """One recording and where its poses go."""

    source: Path
    target: Path

    def is_done(self) -> bool:
        """Whether the poses are there and the recording has not changed since."""
        try:
            return _changed(self.source) == _changed(self.target)
        except OSError:
            return False


@dataclass(frozen=True)
class Outcome:
    """What became of one recording: how many poses, or why there are none; `skipped` were there before."""

    source: str
    poses: int = 0
    error: str = ""
    skipped: bool = False


@dataclass
class Summary:
    """What a run did. `failed` are the recordings without poses, with their reasons."""

    lifted: int = 0
    skipped: int = 0
    poses: int = 0
    failed: list[Outcome] = dataclasses.field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count one recording."""
        if outcome.error:
            self.failed.append(outcome)
        elif outcome.skipped:
            self.skipped += 1
        else:
            self.lifted += 1
            self.poses += outcome.poses

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        failed = [{"file": each.source, "error": each.error} for each in self.failed]
        return {"lifted": self.lifted, "skipped": self.skipped, "poses": self.poses, "failed": failed}


def find_jobs(pattern: str, out: Path) -> list[Job]:
    """The recordings that `pattern` names (a folder, a file, or a glob with `**`), each with its place below `out`.

    Their paths below the last folder without a wildcard are kept. Raises UsageError where there are none, where some
    lie in `out`, or where two would have the same place.
    """
    root, rest = _split(pattern)
    sources = sorted(path for path in ([root / rest] if not _is_magic(rest) else root.glob(rest)) if path.is_file())
    if not sources:
        raise UsageError(f"no file matches {pattern}: give a folder with {SUFFIX} files, or a quoted pattern")
    inside = Path(os.path.abspath(out))
    jobs: dict[Path, Job] = {}
    for source in sources:
        if inside in Path(os.path.abspath(source)).parents:
            raise UsageError(f"{source} lies in --out {out}: give an --out that the pattern does not reach")
        below = source.relative_to(root)
        target = out / (below if below.suffix == SUFFIX else below.with_name(below.name + SUFFIX))
        if target in jobs:
            raise UsageError(f"{source} and {jobs[target].source} would both be {target}: lift them one by one")
        jobs[target] = Job(source, target)
    return list(jobs.values())


@contextmanager
def output_folder(out: Path, bundle: Bundle) -> Iterator[None]:
    """`out`, made if need be, held by this run alone, and known to hold poses of this engine only.

    Raises UsageError where it holds something else, poses of another engine, or another run is at it.
    """
    out.mkdir(parents=True, exist_ok=True)
    folder = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another lift writes to {out}: wait for it, or give another --out") from None
        _check_record(out, bundle)
        clear_leftovers(out)
        yield
    finally:
        os.close(folder)


class Lifter:
    """An engine that lifts recordings, many of them together."""

    def __init__(self, engine: Engine, batch: int = BATCH) -> None:
        self.engine, self.batch = engine, batch
        self.given = engine.manifest.input

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Lift recordings in order, as many at a time as fill a chunk; what is done is left alone."""
        waiting: list[_Loaded] = []
        for job in jobs:
            if job.is_done():
                yield Outcome(str(job.source), skipped=True)
                continue
            try:
                waiting.append(self._load(job))
            except (DataError, UsageError) as error:
                yield Outcome(str(job.source), error=str(error))
            if len(waiting) >= CHUNK_FILES or sum(each.frames for each in waiting) >= CHUNK_FRAMES:
                yield from self._lift(waiting)
                waiting = []
        yield from self._lift(waiting)

    def _load(self, job: Job) -> _Loaded:
        try:
            changed = _changed(job.source)  # before it is read: a change while it is read shows in the next run
            sequence, missing = _filled(job, keypoint_file.load(job.source, self.given.skeleton))
        except OSError as error:
            raise DataError(f"{job.source}: {(error.strerror or 'cannot be read').lower()}") from None
        except MemoryError:
            raise DataError(f"{job.source} does not fit into memory: split the recording") from None
        return _at_model_rate(job, changed, sequence, missing, self.given, self.engine.spec)

    def _lift(self, loaded: Sequence[_Loaded]) -> Iterator[Outcome]:
        for spec in dict.fromkeys(each.spec for each in loaded):
            alike = [each for each in loaded if each.spec == spec]
            poses = predict_all(self.engine.infer, [each.sequence for each in alike], spec, batch=self.batch)
            ends = np.cumsum([each.frames for each in alike])[:-1]
            for each, piece in zip(alike, np.split(poses, ends), strict=True):
                yield self._store(each, each.at_own_rate(piece))

    def _store(self, loaded: _Loaded, poses: FloatArray) -> Outcome:
        source = str(loaded.job.source)
        if not np.isfinite(poses).all():
            return Outcome(source, error=f"{source}: the engine's poses are not finite; its keypoints lie too far out")
        output = self.engine.manifest.output
        content = io.BytesIO()
        np.savez(
            content, poses=poses, fps=np.array(loaded.fps), skeleton=np.array(output.skeleton),
            units=np.array(output.units), frame=np.array(output.frame), missing=loaded.missing,
        )  # fmt: skip
        loaded.job.target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(loaded.job.target, _dated(content.getvalue(), loaded.changed), sweep=False)
        return Outcome(source, len(poses))


@dataclass(frozen=True)
class _Loaded:
    """One recording at a rate that the model knows, and how its poses get back to its own."""

    job: Job
    changed: int
    sequence: PoseSequence
    missing: BoolArray  # (L, J) joints of its own frames
    spec: WindowSpec
    fps: float
    length: int  # its own frames
    period: float | None  # of its frames here, in frames of its own; None where they are the same

    @property
    def frames(self) -> int:
        return len(self.sequence)

    def at_own_rate(self, poses: FloatArray) -> FloatArray:
        """One pose a frame of the recording."""
        return poses if self.period is None else _sampled(poses, np.arange(self.length) / self.period)


def _filled(job: Job, sequence: PoseSequence) -> tuple[PoseSequence, BoolArray]:
    """The recording with its missing joints filled, and which they are (L, J); raises DataError where all are."""
    if sequence.confidence is None:
        return sequence, np.zeros(sequence.keypoints.shape[:2], bool)
    measured = sequence.confidence >= _MIN_CONFIDENCE
    if not measured.any():
        raise DataError(f"{job.source}: no joint of any frame has a confidence of {_MIN_CONFIDENCE} or more")
    keypoints = fill_recording(sequence.keypoints, measured)
    confidence = np.where(measured, sequence.confidence, np.float32(0))
    return dataclasses.replace(sequence, keypoints=keypoints, confidence=confidence), ~measured


def _at_model_rate(
    job: Job, changed: int, sequence: PoseSequence, missing: BoolArray, given: InputSpec, spec: WindowSpec
) -> _Loaded:
    """Keypoints as far apart in time as the model was trained with.

    A window's slot is t_downsample / frame_rate seconds. Where it is a whole number of the recording's frames (within
    2 %) windows take every so many of them; else keypoints are interpolated, and the poses interpolated back.
    """
    fps, length = sequence.fps, len(sequence)
    slot = fps * given.t_downsample / given.frame_rate  # in frames of the recording
    step = round(slot)
    if step >= 1 and abs(slot / step - 1) <= _RATE_TOLERANCE:
        spec = dataclasses.replace(spec, t_downsample=step)
        return _Loaded(job, changed, sequence, missing, spec, fps, length, None)
    period = slot / given.t_downsample
    times = np.arange(int((length - 1) / period + 1e-9) + 1) * period
    confidence = None if sequence.confidence is None else _sampled(sequence.confidence, times)
    moved = dataclasses.replace(
        sequence, keypoints=_sampled(sequence.keypoints, times), confidence=confidence, poses=None
    )
    return _Loaded(job, changed, moved, missing, spec, fps, length, period)


def _sampled(values: FloatArray, times: FloatArray) -> FloatArray:
    """Values (L, ...) at fractional positions, linearly between neighbours, held beyond the ends."""
    times = np.clip(times, 0, len(values) - 1)
    below = np.minimum(times.astype(int), max(len(values) - 2, 0))
    above = np.minimum(below + 1, len(values) - 1)
    share = (times - below).reshape(-1, *[1] * (values.ndim - 1))
    sampled: FloatArray = (values[below] * (1 - share) + values[above] * share).astype(np.float32)
    return sampled


def lift(
    engine: Engine,
    jobs: Sequence[Job],
    out: Path,
    batch: int = BATCH,
    told: Callable[[Outcome], None] = lambda outcome: None,
) -> Summary:
    """Lift all recordings into `out`; `told` hears of each. Raises UsageError, WriteError and BackendError."""
    summary = Summary()
    with output_folder(out, engine.bundle):
        for outcome in Lifter(engine, batch).run(jobs):
            summary.add(outcome)
            told(outcome)
    return summary


def _check_record(out: Path, bundle: Bundle) -> None:
    """Write which engine's poses `out` holds, or compare."""
    path = out / RECORD
    engine = {"files": {entry.path: entry.sha256 for entry in bundle.manifest.files}}
    if path.exists():
        try:
            known = json.loads(path.read_text())["engine"]
        except (OSError, ValueError, KeyError, TypeError):
            raise BundleError(f"{path} is damaged: give another --out") from None
        if known != engine:
            raise UsageError(f"{out} holds poses of another engine than {bundle.path}: give another --out")
        return
    if any(not entry.name.endswith(PART) for entry in out.iterdir()):
        raise UsageError(f"{out} holds other files and no {RECORD}: give a new or empty --out")
    record = {"engine": engine, "pstmo_edge_version": __version__}
    write_atomic(path, json.dumps(record, indent=2).encode() + b"\n")


def _dated(content: bytes, changed: int) -> Callable[[BinaryIO], None]:
    def write(file: BinaryIO) -> None:
        file.write(content)
        file.flush()
        os.utime(file.fileno(), ns=(changed * 1000, changed * 1000))

    return write


def _changed(path: Path) -> int:
    """When a file was changed, microseconds: finer times are cut off by some file systems."""
    return path.stat().st_mtime_ns // 1000


def _split(pattern: str) -> tuple[Path, str]:
    """The folder that paths are kept below, and the pattern in it."""
    path = Path(pattern)
    if path.is_dir():
        return path, f"**/*{SUFFIX}"
    if path.is_file() or not _is_magic(pattern):
        return path.parent, path.name
    plain = next(index for index, part in enumerate(path.parts) if _is_magic(part))
    return Path(*path.parts[:plain]), str(Path(*path.parts[plain:]))


def _is_magic(text: str) -> bool:
    return any(sign in text for sign in "*?[")
