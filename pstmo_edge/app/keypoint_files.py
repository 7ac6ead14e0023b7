"""Files of 2D keypoints that other programs wrote, as frames of detections.

| what | recognised by | where the picture's size and the rate come from |
|---|---|---|
| OpenPose | a folder of `*_keypoints.json`, one a frame, numbered in its name | given by the caller |
| AlphaPose | `.json`: a list whose `image_id` are file names; `idx` are tracked persons | given by the caller |
| COCO results | `.json`: a list whose `image_id` are numbers | given by the caller |
| COCO annotations | `.json` with `images` and `annotations`; `track_id` are tracked persons | size: its images |
| npz | `keypoints` (L, J, 2 or 3) or (L, N, J, 2 or 3), `skeleton`, `image_size`; `fps` or `times` (L,) | the file |
| CSV | `frame` or `time`, perhaps `person`, then `<joint>_x`, `<joint>_y`, perhaps `<joint>_c` | given by the caller |

Frames that are numbered keep their numbers, so that a lost one is a lost one. A file that is none of these, or whose
joints are those of no known joint set, is refused with what was expected.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pstmo_edge.app.types import Detections
from pstmo_edge.arrays import FloatArray
from pstmo_edge.datasets.keypoint_file import read_arrays
from pstmo_edge.errors import DataError, UsageError
from pstmo_edge.skeletons import SKELETONS, get_skeleton

_MOST_BYTES = 1 << 30  # of a file: a day of one person at 30 fps is 0.5 GB of JSON
_MOST_FRAMES = 1 << 24
_DEFAULT_FPS = 30.0
# Joint sets by the keypoints a person has in files that do not name them.
_OPENPOSE = {25: "openpose-25", 18: "openpose-18"}
_COCO = {17: "coco-17", 26: "halpe-26"}


@dataclass(frozen=True)
class KeypointRecording:
    """Detections by frame: `times` (L,) in seconds, strictly rising, and of each the people found in it."""

    times: FloatArray
    detections: tuple[Detections, ...]
    image_size: tuple[int, int]
    skeleton: str
    format: str

    @property
    def fps(self) -> float:
        """Frames a second: of the median step, since frames may be missing."""
        return float(1 / np.median(np.diff(self.times))) if len(self.times) > 1 else _DEFAULT_FPS


@dataclass(frozen=True)
class _Person:
    """One row of a file: whose keypoints (J, 3) in which frame."""

    frame: int
    keypoints: FloatArray
    person: int | None


def load(
    path: Path, image_size: tuple[int, int] | None = None, fps: float | None = None, skeleton: str | None = None
) -> KeypointRecording:
    """The recording in the file or folder at `path`.

    `image_size` (width, height) in pixels, `fps` and `skeleton` are for files that do not tell them; what a file tells
    must not be contradicted. Raises DataError for a file that cannot be used and UsageError for what is not given.
    """
    if skeleton is not None:
        get_skeleton(skeleton)
    if path.is_dir():
        return _numbered(path, "OpenPose", *_openpose(path), image_size, fps, skeleton)
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    if path.stat().st_size > _MOST_BYTES:
        raise DataError(f"{path} has {path.stat().st_size >> 20} MB: at most {_MOST_BYTES >> 20} MB are read at once")
    if path.suffix == ".npz":
        return _npz(path, skeleton)
    if path.suffix == ".csv":
        return _csv(path, image_size, fps, skeleton)
    return _json(path, image_size, fps, skeleton)


def _json(path: Path, image_size: tuple[int, int] | None, fps: float | None, skeleton: str | None) -> KeypointRecording:
    content = _parsed(path)
    try:
        if isinstance(content, dict) and "annotations" in content:
            rows, found_size, names = _coco_annotations(content)
            format_, counts = "COCO annotations", _COCO
            if found_size is not None and image_size not in (None, found_size):
                raise UsageError(
                    f"{path} is of pictures of {found_size[0]} x {found_size[1]} pixels: leave the size out"
                )
            image_size = found_size or image_size
            skeleton = skeleton or names
        elif isinstance(content, dict) and "people" in content:
            raise DataError(f"{path} is one frame of OpenPose: give the folder of all its frames")
        elif isinstance(content, list) and content and isinstance(content[0], dict) and "keypoints" in content[0]:
            rows, format_ = _results(content)
            counts = _COCO
        else:
            raise DataError(f"{path} is no list of AlphaPose or COCO results and holds no COCO annotations")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(f"{path}: a person's record is not as expected ({type(error).__name__}: {error})") from None
    return _numbered(path, format_, rows, counts, image_size, fps, skeleton)


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is no JSON ({reason}); expected .json, .csv, .npz or OpenPose's folder") from None


def _triples(flat: Any) -> FloatArray:
    """(J, 3) of a flat list x, y, c, x, y, c ..."""
    values = np.asarray(flat, np.float64)
    if values.ndim != 1 or not len(values) or len(values) % 3:
        raise ValueError(f"{values.size} numbers are not x, y, confidence of joints")
    return values.reshape(-1, 3)


def _openpose(folder: Path) -> tuple[list[_Person], dict[int, str]]:
    files = sorted(folder.glob("*_keypoints.json"))
    if not files:
        raise DataError(f"{folder} holds no *_keypoints.json of OpenPose")
    rows = []
    for path in files:
        number = re.search(r"(\d+)_keypoints$", path.stem)
        if number is None:
            raise DataError(f"{path} has no frame number before _keypoints.json")
        content = _parsed(path)
        try:
            people = [(_triples(each["pose_keypoints_2d"]), each.get("person_id", [-1])) for each in content["people"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path} is no frame of OpenPose ({type(error).__name__}: {error})") from None
        frame = int(number[1])
        known = [int(person[0]) if person and int(person[0]) >= 0 else None for _, person in people]
        rows += [_Person(frame, keypoints, person) for (keypoints, _), person in zip(people, known, strict=True)]
        rows += [] if people else [_Person(frame, np.zeros((0, 3)), None)]
    return rows, _OPENPOSE


def _results(content: Sequence[Mapping[str, Any]]) -> tuple[list[_Person], str]:
    """AlphaPose's results, whose image_id are file names, or COCO's, whose are numbers."""
    named = isinstance(content[0]["image_id"], str)
    frames = _frame_numbers([each["image_id"] for each in content])
    rows = [
        _Person(frame, _triples(each["keypoints"]), _person_of(each.get("idx", each.get("track_id"))))
        for frame, each in zip(frames, content, strict=True)
    ]
    return rows, "AlphaPose" if named else "COCO results"


def _frame_numbers(images: Sequence[Any]) -> list[int]:
    """Numbers of frames, taken from names such as "12.jpg"; names without numbers are counted as they come."""
    if all(isinstance(image, int) for image in images):
        return list(images)
    digits = [re.search(r"(\d+)\D*$", str(image)) for image in images]
    if all(digits):
        return [int(each[1]) for each in digits if each]
    order = {name: number for number, name in enumerate(dict.fromkeys(map(str, images)))}
    return [order[str(image)] for image in images]


def _person_of(value: Any) -> int | None:
    """A tracked person's number; AlphaPose writes lists of lists around it."""
    while isinstance(value, list) and value:
        value = value[0]
    return int(value) if isinstance(value, int | float) and value >= 0 else None


def _coco_annotations(content: Mapping[str, Any]) -> tuple[list[_Person], tuple[int, int] | None, str | None]:
    images = {image["id"]: image for image in content["images"]}
    numbers = _frame_numbers([image.get("frame_id", image["id"]) for image in images.values()])
    frame_of = dict(zip(images, numbers, strict=True))
    sizes = {(int(image["width"]), int(image["height"])) for image in images.values() if "width" in image}
    if len(sizes) > 1:
        raise DataError(f"its pictures have {len(sizes)} sizes: a recording has one")
    rows = []
    for each in content["annotations"]:
        keypoints = _triples(each["keypoints"])
        keypoints[:, 2] = np.minimum(keypoints[:, 2], 2) / 2  # 0 not labelled, 1 hidden, 2 visible
        rows.append(_Person(frame_of[each["image_id"]], keypoints, _person_of(each.get("track_id"))))
    seen = {row.frame for row in rows}
    rows += [_Person(frame, np.zeros((0, 3)), None) for frame in numbers if frame not in seen]
    return rows, next(iter(sizes), None), None


def _numbered(
    path: Path,
    format_: str,
    rows: Sequence[_Person],
    counts: Mapping[int, str],
    image_size: tuple[int, int] | None,
    fps: float | None,
    skeleton: str | None,
) -> KeypointRecording:
    """Rows by frame number, with the time that number has at the given rate."""
    joints = {len(row.keypoints) for row in rows} - {0}
    if len(joints) != 1:
        raise DataError(f"{path} ({format_}) has people of {sorted(joints)} keypoints: a recording has one joint set")
    count = joints.pop()
    found = skeleton or counts.get(count)
    if found is None:
        raise DataError(
            f"{path} ({format_}) has {count} keypoints a person: known without a name are "
            f"{', '.join(f'{n} ({name})' for n, name in counts.items())}; name another with --skeleton"
        )
    if get_skeleton(found).num_joints != count:
        raise DataError(f"{path} has {count} keypoints a person and {found} has {get_skeleton(found).num_joints}")
    if image_size is None:
        raise UsageError(f"{path} ({format_}) does not tell the size of the picture: give --image-size 1920x1080")
    frames = sorted({row.frame for row in rows})
    if frames[0] < 0 or len(frames) > _MOST_FRAMES:
        raise DataError(f"{path}: frame numbers from {frames[0]}, {len(frames)} of them, are no recording")
    by_frame: dict[int, list[_Person]] = {frame: [] for frame in frames}
    for row in rows:
        if len(row.keypoints):
            by_frame[row.frame].append(row)
    times = np.array(frames, np.float64) / (fps or _DEFAULT_FPS)
    detections = tuple(_detections(by_frame[frame], count, found, f"{path}, frame {frame}") for frame in frames)
    return KeypointRecording(times, detections, image_size, found, format_)


def _detections(people: Sequence[_Person], joints: int, skeleton: str, where: str) -> Detections:
    """People of one frame; their numbers only where all have one and no two the same."""
    keypoints = np.array([each.keypoints for each in people], np.float64).reshape(-1, joints, 3)
    ids = [each.person for each in people if each.person is not None]
    if len(ids) == len(people) and len(set(ids)) < len(ids):
        raise DataError(f"{where}: the same person is there twice")
    return Detections(keypoints, skeleton, tuple(ids) if ids and len(ids) == len(people) else None)


def _npz(path: Path, skeleton: str | None) -> KeypointRecording:
    arrays = read_arrays(path)
    for name in ("keypoints", "image_size", "skeleton"):
        if name not in arrays:
            raise DataError(f"{path} has no array '{name}': it needs keypoints, image_size and skeleton")
    found = str(arrays["skeleton"])
    if skeleton not in (None, found):
        raise UsageError(f"{path} holds {found} keypoints: leave --skeleton out")
    joints = get_skeleton(found).num_joints
    keypoints, size = np.asarray(arrays["keypoints"]), np.asarray(arrays["image_size"])
    if keypoints.ndim == 3:
        keypoints = keypoints[:, None]
    if (
        keypoints.dtype.kind not in "fiu"
        or keypoints.ndim != 4
        or keypoints.shape[2:] not in ((joints, 2), (joints, 3))
    ):
        raise DataError(
            f"{path}: keypoints have shape {arrays['keypoints'].shape}, expected (frames, {joints}, 2 or 3) or "
            f"(frames, people, {joints}, 2 or 3) numbers"
        )
    if size.shape != (2,) or size.dtype.kind not in "fiu" or not ((size >= 1) & (size <= 65536)).all():
        raise DataError(f"{path}: image_size is {size.tolist()}, expected a width and a height of 1 to 65536 pixels")
    keypoints = keypoints.astype(np.float64)
    if keypoints.shape[-1] == 2:
        keypoints = np.concatenate([keypoints, np.ones((*keypoints.shape[:-1], 1))], axis=-1)
    lost = ~np.isfinite(keypoints).all(-1)
    keypoints[lost] = 0  # confidence and all
    present = np.asarray((keypoints[..., 2] > 0).any(-1))  # [L, N]
    detections = tuple(
        Detections(frame[here], found, tuple(np.flatnonzero(here).tolist()))
        for frame, here in zip(keypoints, present, strict=True)
    )
    return KeypointRecording(
        _times(arrays, len(keypoints), path), detections, (int(size[0]), int(size[1])), found, "npz"
    )


def _times(arrays: Mapping[str, FloatArray], frames: int, path: Path) -> FloatArray:
    if "times" in arrays:
        times = np.asarray(arrays["times"])
        if times.shape != (frames,) or times.dtype.kind not in "fiu":
            raise DataError(f"{path}: times have shape {times.shape}, expected ({frames},) seconds")
        return _rising(times.astype(np.float64), path)
    fps = np.asarray(arrays.get("fps", _DEFAULT_FPS))
    if fps.size != 1 or fps.dtype.kind not in "fiu" or not 0 < fps.item() < 1e6:
        raise DataError(f"{path}: fps is {fps.tolist()}, expected the frames a second")
    return np.arange(frames, dtype=np.float64) / float(fps.item())


def _rising(times: FloatArray, path: Path) -> FloatArray:
    if not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        raise DataError(f"{path}: its times are not all finite and rising")
    return times


def _csv(path: Path, image_size: tuple[int, int] | None, fps: float | None, skeleton: str | None) -> KeypointRecording:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            header, *lines = list(csv.reader(stream)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV text ({error})") from None
    columns = {name.strip(): position for position, name in enumerate(header)}
    found = _csv_skeleton(columns, skeleton, path)
    if image_size is None:
        raise UsageError(f"{path} (CSV) does not tell the size of the picture: give --image-size 1920x1080")
    try:
        table = np.array([[float(cell) if cell.strip() else np.nan for cell in line] for line in lines if line])
    except ValueError as error:
        raise DataError(f"{path}: a cell is no number, or a line has another length ({error})") from None
    if table.ndim != 2 or table.shape[1] != len(header):
        raise DataError(f"{path} has no lines of {len(header)} numbers under its header")
    by_time = "time" in columns
    moments = table[:, columns["time" if by_time else "frame"]]
    if not np.isfinite(moments).all():
        raise DataError(f"{path}: a line has no {'time' if by_time else 'frame'}")
    keypoints = _csv_keypoints(table, columns, found)
    persons = table[:, columns["person"]] if "person" in columns else np.full(len(table), np.nan)
    times, starts = np.unique(np.sort(moments), return_index=True)
    groups = np.split(np.argsort(moments, kind="stable"), starts[1:])  # the lines of each moment
    detections = tuple(
        _detections(
            [
                _Person(0, keypoints[line], int(persons[line]) if np.isfinite(persons[line]) else None)
                for line in lines_of
                if (keypoints[line, :, 2] > 0).any()
            ],
            keypoints.shape[1], found, f"{path}, {'time' if by_time else 'frame'} {time:g}",
        )
        for time, lines_of in zip(times, groups, strict=True)
    )  # fmt: skip
    return KeypointRecording(times if by_time else times / (fps or _DEFAULT_FPS), detections, image_size, found, "CSV")


def _csv_skeleton(columns: Mapping[str, int], asked: str | None, path: Path) -> str:
    if "time" not in columns and "frame" not in columns:
        raise DataError(f"{path} has no column 'frame' or 'time'; expected frame, person, Nose_x, Nose_y, Nose_c ...")
    joints = {name[:-2] for name in columns if name.endswith("_x")}
    fitting = [each for each in SKELETONS.values() if set(each.joints) == joints and asked in (None, each.name)]
    if not fitting:
        raise DataError(
            f"{path} has columns of {len(joints)} joints, which are those of {asked or 'no known joint set'}; "
            f"known: {', '.join(SKELETONS)}, with columns as {'RKnee_x, RKnee_y, RKnee_c'}"
        )
    missing = [f"{joint}_y" for joint in joints if f"{joint}_y" not in columns]
    if missing:
        raise DataError(f"{path} has no column {missing[0]}")
    return fitting[0].name


def _csv_keypoints(table: FloatArray, columns: Mapping[str, int], skeleton: str) -> FloatArray:
    """(rows, J, 3); a joint without numbers is missing, and one without a confidence is sure."""
    parts = []
    for joint in get_skeleton(skeleton).joints:
        x, y = table[:, columns[f"{joint}_x"]], table[:, columns[f"{joint}_y"]]
        sure = table[:, columns[f"{joint}_c"]] if f"{joint}_c" in columns else np.ones(len(table))
        known = np.isfinite(x) & np.isfinite(y) & np.isfinite(sure)
        parts.append(np.where(known[:, None], np.stack([x, y, sure], axis=-1), 0.0))
    return np.stack(parts, axis=1)
