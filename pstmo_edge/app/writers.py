"""Poses to files: one line a pose as they come (.jsonl, .csv), or all at the end (.npz, .bvh).

Files that grow are readable up to the last whole line whenever the app ends; the others are written as a whole or not
at all, and hold what fits into memory: `MOST_POSES`, beyond which the app says so and goes on without them.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from pstmo_edge.app.types import PersonPose
from pstmo_edge.arrays import FloatArray
from pstmo_edge.errors import UsageError
from pstmo_edge.files import write_atomic
from pstmo_edge.skeletons import Skeleton

MOST_POSES = 2_000_000  # 1.3 GB: 18 hours of one person at 30 a second
_DIGITS = 5  # of a metre
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


def open_writer(path: Path, skeleton: Skeleton, fps: float, force: bool = False) -> Writer:
    """The writer for a file's suffix; raises UsageError for another suffix and for a file that is there."""
    if path.suffix not in _WRITERS:
        raise UsageError(f"--save {path}: poses are written to {', '.join(_WRITERS)} files")
    if path.exists() and not force:
        raise UsageError(f"{path} exists already: give --force to replace it, or another name")
    if not path.parent.is_dir():
        raise UsageError(f"--save {path}: there is no folder {path.parent}")
    return _WRITERS[path.suffix](path, skeleton, fps)


class _Lines:
    """A text file that grows by whole lines."""

    def __init__(self, path: Path, skeleton: Skeleton, fps: float) -> None:
        self.path, self.skeleton, self.lost = path, skeleton, 0
        self._file: IO[str] = path.open("w", encoding="utf-8", newline="")

    def write(self, poses: Sequence[PersonPose]) -> None:
        """See `Writer`."""
        self._file.write("".join(map(self._line, poses)))
        self._file.flush()

    def close(self) -> None:
        """See `Writer`."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

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

    def __init__(self, path: Path, skeleton: Skeleton, fps: float) -> None:
        super().__init__(path, skeleton, fps)
        joints = [f"{joint}_{axis}" for joint in skeleton.joints for axis in "xyz"]
        doubt = [f"{joint}_doubt_mm" for joint in skeleton.joints]
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

    def __init__(self, path: Path, skeleton: Skeleton, fps: float) -> None:
        self.path, self.skeleton, self.fps, self.lost = path, skeleton, fps, 0
        self.poses: list[PersonPose] = []

    def write(self, poses: Sequence[PersonPose]) -> None:
        """See `Writer`."""
        room = max(MOST_POSES - len(self.poses), 0)
        self.poses += poses[:room]
        self.lost += len(poses[room:])

    def close(self) -> None:
        """See `Writer`."""
        raise NotImplementedError


class Npz(_Whole):
    """Plain arrays by pose (P,): frame, time, person, flag (`flags` names them), pose (P, 17, 3) metres and so on."""

    def close(self) -> None:
        """See `Writer`."""
        joints = len(self.skeleton.joints)
        results = [pose.result for pose in self.poses]
        missing = np.full(3, np.nan), np.full(joints, np.nan), np.full((joints, 3), np.nan)
        no_root, no_doubt, no_keypoints = missing
        arrays = {
            "frame": np.array([result.frame for result in results], np.int64),
            "time": np.array([result.timestamp for result in results], np.float64),
            "person": np.array([pose.person for pose in self.poses], np.int64),
            "flag": np.array([FLAGS.index(pose.flag) for pose in self.poses], np.uint8),
            "doubtful": np.array([pose.doubtful for pose in self.poses], bool),
            "lookahead_ms": np.array([result.lookahead_ms for result in results], np.float32),
            "missing": np.array([result.missing for result in results], bool).reshape(-1, joints),
            "pose": _stacked([pose.pose for pose in self.poses], (joints, 3)),
            "keypoints": _stacked([_or(pose.keypoints, no_keypoints) for pose in self.poses], (joints, 3)),
            "doubt_mm": _stacked([_or(pose.doubt_mm, no_doubt) for pose in self.poses], (joints,)),
            "root": _stacked([_or(pose.root, no_root) for pose in self.poses], (3,)),
            "flags": np.array(FLAGS),
            "skeleton": np.array(self.skeleton.name),
            "fps": np.array(self.fps),
        }
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)
        write_atomic(self.path, content.getvalue())


_WRITERS: dict[str, Callable[[Path, Skeleton, float], Writer]] = {".npz": Npz, ".jsonl": JsonLines, ".csv": Csv}


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
