"""Poses to files: one line a pose as they come (.jsonl, .csv), or all at the end (.npz, .bvh).

Files that grow are readable up to the last whole line whenever the app ends; the others are written as a whole or not
at all, and hold what fits into memory: `MOST_POSES`, beyond which the app says so and goes on without them.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np

from pstmo_edge.app.types import PersonPose
from pstmo_edge.arrays import FloatArray, IntArray
from pstmo_edge.errors import UsageError
from pstmo_edge.files import WriteError, write_atomic
from pstmo_edge.skeletons import HUMAN36M, Skeleton

MOST_POSES = 2_000_000  # 1.3 GB: 18 hours of one person at 30 a second
_DIGITS = 5  # of a metre
_LATE = 1.5  # usual spacings: a longer one ends a stretch, as in `smoothing`
FLAGS = ("valid", "degraded", "stale", "gap")


class Writer(Protocol):
    """Takes poses as they come."""

    path: Path
    lost: int  # poses that did not get into it

    def write(self, poses: Sequence[PersonPose]) -> None:
        """Take poses."""
        ...

    def close(self) -> None:
        """No more come: the file is on the disk when this returns."""
        ...


@dataclass(frozen=True)
class WriterSettings:
    """What every writer is told.

    `skeleton` is the joint set of the poses and `fps` the source's frames a second. `force` replaces files. With
    `smooth` files that are written at the end hold poses after a Savitzky-Golay filter, which has no lag. In `world`
    poses have z up, else they are in the camera frame.
    """

    skeleton: Skeleton = HUMAN36M
    fps: float = 30.0
    force: bool = False
    smooth: bool = False
    world: bool = False


def open_writer(path: Path, settings: WriterSettings) -> Writer:
    """The writer for a file's suffix; raises UsageError for another suffix and for a file that is there."""
    if path.suffix not in _WRITERS:
        raise UsageError(f"--save {path}: poses are written to {', '.join(_WRITERS)} files")
    there = sorted(path.parent.glob(f"{path.stem}-*.bvh")) if path.suffix == ".bvh" else [path] * path.exists()
    if there and not settings.force:
        raise UsageError(f"{there[0]} exists already: give --force to replace it, or another name")
    if not path.parent.is_dir():
        raise UsageError(f"--save {path}: there is no folder {path.parent}")
    return _WRITERS[path.suffix](path, settings)


class _Lines:
    """A text file that grows by whole lines."""

    def __init__(self, path: Path, settings: WriterSettings) -> None:
        self.path, self.skeleton, self.lost = path, settings.skeleton, 0
        self._file: IO[str] = path.open("w", encoding="utf-8", newline="")

    def write(self, poses: Sequence[PersonPose]) -> None:
        """See `Writer`. Raises WriteError where the disk is full or gone; the lines before it can be read."""
        with self._told():
            self._file.write("".join(map(self._line, poses)))
            self._file.flush()

    def close(self) -> None:
        """See `Writer`."""
        with self._told():
            if self._file.closed:
                return
            try:
                self._file.flush()
                os.fsync(self._file.fileno())
            finally:
                self._file.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise WriteError(f"cannot write {self.path}: {why}; its last line may be cut") from None

    def _line(self, pose: PersonPose) -> str:
        raise NotImplementedError


class JsonLines(_Lines):
    """An object a line: frame, time, person, flag, look-ahead, pose by joint in metres, and what is known besides."""

    def _line(self, pose: PersonPose) -> str:
        result = pose.result
        told: dict[str, Any] = {
            "frame": result.frame,
            "time": round(result.timestamp, 6),
            "person": pose.person,
            "flag": pose.flag,
            "doubtful": pose.doubtful,
            "lookahead_ms": round(result.lookahead_ms, 3),
            "missing": [self.skeleton.joints[joint] for joint in np.flatnonzero(result.missing)],
            "pose": _rounded(pose.pose),
            "doubt_mm": None if pose.doubt_mm is None else _rounded(pose.doubt_mm, 1),
            "root": None if pose.root is None else _rounded(pose.root),
        }
        return json.dumps(told, separators=(",", ":"), allow_nan=False) + "\n"


class Csv(_Lines):
    """A row a pose, with columns named by joint and axis: Hip_x, Hip_y, Hip_z ..., in metres."""

    def __init__(self, path: Path, settings: WriterSettings) -> None:
        super().__init__(path, settings)
        joints = [f"{joint}_{axis}" for joint in self.skeleton.joints for axis in "xyz"]
        doubt = [f"{joint}_doubt_mm" for joint in self.skeleton.joints]
        head = ["frame", "time", "person", "flag", "doubtful", "lookahead_ms", "root_x", "root_y", "root_z"]
        self._file.write(_csv_line([*head, *joints, *doubt]))

    def _line(self, pose: PersonPose) -> str:
        result = pose.result
        head = [result.frame, f"{result.timestamp:.6f}", pose.person, pose.flag, int(pose.doubtful)]
        root = [""] * 3 if pose.root is None else _rounded(pose.root)
        doubt = [""] * len(self.skeleton.joints) if pose.doubt_mm is None else _rounded(pose.doubt_mm, 1)
        return _csv_line([*head, f"{result.lookahead_ms:.3f}", *root, *np.ravel(_rounded(pose.pose)).tolist(), *doubt])


class _Whole:
    """A file that is written when all poses are known."""

    def __init__(self, path: Path, settings: WriterSettings) -> None:
        self.path, self.settings, self.skeleton, self.lost = path, settings, settings.skeleton, 0
        self.poses: list[PersonPose] = []

    def write(self, poses: Sequence[PersonPose]) -> None:
        """See `Writer`."""
        room = max(MOST_POSES - len(self.poses), 0)
        self.poses += poses[:room]
        self.lost += len(poses[room:])

    def close(self) -> None:
        """See `Writer`."""
        raise NotImplementedError

    def by_person(self) -> dict[int, _Track]:
        """Each person's recording in order of time, smoothed where that was asked for."""
        places: dict[int, list[int]] = {}
        for place in sorted(range(len(self.poses)), key=lambda i: self.poses[i].result.timestamp):
            places.setdefault(self.poses[place].person, []).append(place)
        return {person: self._track(np.array(own)) for person, own in places.items()}

    def _track(self, places: IntArray) -> _Track:
        from pstmo_edge.app.smoothing import smoothed

        own = [self.poses[place] for place in places]
        times = np.array([each.result.timestamp for each in own])
        poses = _stacked([each.pose for each in own], (len(self.skeleton.joints), 3))
        roots = _stacked([_or(each.root, np.full(3, np.nan)) for each in own], (3,))
        if self.settings.smooth:
            poses = smoothed(poses, times)
            known = np.isfinite(roots).all(-1)
            roots[known] = smoothed(roots[known], times[known])
        return _Track(places, times, poses, roots)


@dataclass(frozen=True)
class _Track:
    """One person's poses: which they are of all, their times (L,), poses (L, J, 3) and roots (L, 3), NaN: not known."""

    places: IntArray
    times: FloatArray
    poses: FloatArray
    roots: FloatArray


class Npz(_Whole):
    """Plain arrays by pose (P,): frame, time, person, flag (`flags` names them), pose (P, 17, 3) metres and so on."""

    def close(self) -> None:
        """See `Writer`."""
        joints = len(self.skeleton.joints)
        results = [pose.result for pose in self.poses]
        no_doubt, no_keypoints = np.full(joints, np.nan), np.full((joints, 3), np.nan)
        poses, roots = np.zeros((len(results), joints, 3), np.float32), np.zeros((len(results), 3), np.float32)
        for track in self.by_person().values():
            poses[track.places], roots[track.places] = track.poses, track.roots
        arrays: dict[str, Any] = {
            "frame": np.array([result.frame for result in results], np.int64),
            "time": np.array([result.timestamp for result in results], np.float64),
            "person": np.array([pose.person for pose in self.poses], np.int64),
            "flag": np.array([FLAGS.index(pose.flag) for pose in self.poses], np.uint8),
            "doubtful": np.array([pose.doubtful for pose in self.poses], bool),
            "lookahead_ms": np.array([result.lookahead_ms for result in results], np.float32),
            "missing": np.array([result.missing for result in results], bool).reshape(-1, joints),
            "pose": poses,
            "keypoints": _stacked([_or(pose.keypoints, no_keypoints) for pose in self.poses], (joints, 3)),
            "doubt_mm": _stacked([_or(pose.doubt_mm, no_doubt) for pose in self.poses], (joints,)),
            "root": roots,
            "flags": np.array(FLAGS),
            "skeleton": np.array(self.skeleton.name),
            "fps": np.array(self.settings.fps),
        }
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)
        write_atomic(self.path, content.getvalue())


class Bvh(_Whole):
    """A file a person and stretch without a gap: NAME-PERSON.bvh, then NAME-PERSON-2.bvh and so on."""

    def close(self) -> None:
        """See `Writer`."""
        from pstmo_edge.app.bvh import write_bvh

        for person, track in self.by_person().items():
            steps = np.diff(track.times)
            usual = float(np.median(steps)) if len(steps) else 1 / self.settings.fps
            stretches = np.split(np.arange(len(track.times)), np.flatnonzero(steps > _LATE * usual) + 1)
            for number, own in enumerate(stretches, 1):
                name = f"{self.path.stem}-{person}{f'-{number}' if number > 1 else ''}.bvh"
                roots = track.roots[own] if np.isfinite(track.roots[own]).all(-1).any() else None
                axes: Literal["world", "camera"] = "world" if self.settings.world else "camera"
                write_bvh(self.path.with_name(name), track.poses[own], roots, 1 / usual, axes, self.skeleton.name)


_WRITERS: dict[str, Callable[[Path, WriterSettings], Writer]] = {
    ".npz": Npz,
    ".jsonl": JsonLines,
    ".csv": Csv,
    ".bvh": Bvh,
}


def _stacked(rows: Sequence[FloatArray], shape: tuple[int, ...]) -> FloatArray:
    return np.array(rows, np.float32).reshape(-1, *shape)


def _or(value: FloatArray | None, otherwise: FloatArray) -> FloatArray:
    return otherwise if value is None else value


def _rounded(values: FloatArray, digits: int = _DIGITS) -> list[Any]:
    rounded: list[Any] = np.round(np.asarray(values, np.float64), digits).tolist()
    return rounded


def _csv_line(cells: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
