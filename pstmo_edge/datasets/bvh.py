"""Motion capture in BVH files, above all the CMU database's, as takes of the 17 Human3.6M joints.

A BVH file is text: a tree of joints with offsets and channels, then one line of channel values a frame. Angles are
degrees, about the axes in the order in which the channels stand; y points up. The CMU database's files are those of
its conversion for MotionBuilder (cgspeed.com), which puts a T-pose before every take.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.datasets.cmu_mocap import FPS, Take, centred
from pstmo_edge.errors import DataError
from pstmo_edge.skeletons import HUMAN36M

MAX_BYTES = 64 << 20  # 12 minutes of a CMU skeleton at 120 frames a second
MAX_NODES = 500
MAX_PLACES = 4_000_000  # nodes times frames: 14 minutes of the same
TEST_EVERY = 10  # without train/ and test/ folders, every tenth file by name is for testing
# Which node of a file is which joint: the first that is there. MotionBuilder's names, which CMU's files have, come
# first, Biovision's second; "Head end" is the End Site of Head. These are the nodes that the bundled motion has.
_SIDE = {
    "Hip": ("UpLeg", "Hip"), "Knee": ("Leg", "LowLeg", "Knee"), "Foot": ("Foot", "Ankle"),
    "Shoulder": ("Arm", "UpArm", "Shoulder"), "Elbow": ("ForeArm", "LowArm", "Elbow"), "Wrist": ("Hand", "Wrist"),
}  # fmt: skip
NODES = {
    "Hip": ("Hips",), "Spine": ("Spine",), "Thorax": ("Neck",), "Neck/Nose": ("Head",),
    "Head": ("Head end", "HeadTop_End"),
} | {
    letter + joint: tuple(side + name for name in names)
    for letter, side in (("L", "Left"), ("R", "Right"))
    for joint, names in _SIDE.items()
}  # fmt: skip
# Metres in a file's unit of length: metres, the CMU database's unit (an inch over 0.45), inches, centimetres and
# millimetres. They lie further apart than the legs of grown people, so a leg fits one of them at most.
UNITS = (1.0, 0.0254 / 0.45, 0.0254, 0.01, 0.001)
LEG = (0.55, 1.15)  # metres from hip to ankle
_LARGEST = 1e7  # no length and no angle of a file is larger, so sums of them stay finite
_STAGE = 1000.0  # metres: whoever is further from the origin was not captured there
_CHANNEL = re.compile(r"[xyz](position|rotation)")
_FRAMES = re.compile(r"frames:\s*(\d{1,9})", re.IGNORECASE)
_FRAME_TIME = re.compile(r"frame time:\s*(\d*\.?\d+(?:e[+-]?\d+)?)", re.IGNORECASE)
_SECONDS = (1 / 1000, 1.0)  # what a frame may last


@dataclass
class _Node:
    name: str
    parent: int
    offset: FloatArray = field(default_factory=lambda: np.zeros(3))
    channels: tuple[str, ...] = ()


def holds_motion(folder: Path) -> bool:
    """Whether the folder is one with .bvh files, at any depth."""
    return folder.is_dir() and next(_files(folder), None) is not None


def takes(folder: Path, split: str) -> tuple[Take, ...]:
    """Every file of the split, 'train' or 'test', as a take; raises DataError for a file that cannot be used.

    The split is that of the subfolders `train` and `test` where both are there (files outside them are not read);
    otherwise every tenth file, in order of path, is for testing. A take is named as Human3.6M names its own, by action
    and number: the action is the file's folder, where it lies in one, as in Walking/35_01.bvh.
    """
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        folder /= split
        files = sorted(_files(folder))
    else:
        numbered = enumerate(sorted(_files(folder)))
        files = [path for number, path in numbered if (number % TEST_EVERY == 0) == (split == "test")]
    if not files:
        raise DataError(f"{folder} has no .bvh files for the {split} split")
    return tuple(Take(split, _action(path.relative_to(folder)), centred(read(path))) for path in files)


def read(path: Path, unit: float | None = None) -> FloatArray:
    """World positions (L, 17, 3) of a file's motion: metres, z up, 50 frames a second.

    `unit` is what the file's unit of length is in metres; without it, the one of UNITS that makes the legs a grown
    person's. A frame that a converter put before the take (see above) is left out. Raises DataError, which names the
    line where there is one, for a file that is damaged, too large, or not of a person with the joints of NODES.
    """
    lines = _lines(path)
    nodes, start = _tree(lines, path)
    chosen = _chosen(nodes, path)
    values, rate = _motion(lines, start, nodes, path)
    positions = _positions(nodes, values[_first(nodes, values) :])[:, chosen]
    positions = np.stack([positions[..., 0], -positions[..., 2], positions[..., 1]], axis=-1)  # y up to z up
    positions = positions * _unit(positions, unit, path)
    furthest = np.abs(positions).max()
    if furthest > _STAGE:
        raise DataError(f"{path}: a joint is {furthest:.3g} m from the origin, at most {_STAGE:.0f} m is believed")
    return _resampled(positions, rate)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix.lower() == ".bvh" and path.is_file())


def _action(path: Path) -> str:
    """The name of a take from its path in the dataset: 'Walking 35_01' of Walking/35_01.bvh."""
    folders = "/".join(path.parts[:-1]).replace(" ", "_")
    return f"{folders} {path.stem}".strip()


def _lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} has {path.stat().st_size} bytes, at most {MAX_BYTES} are read")
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None


def _tree(lines: list[str], path: Path) -> tuple[list[_Node], int]:
    """The nodes, parents before children, and the index of the line that says MOTION."""
    nodes: list[_Node] = []
    open_nodes: list[int] = []
    waiting = ""  # the name of a node whose brace has not come yet
    for index, line in enumerate(lines):
        for piece in re.findall(r"[{}]|[^{}]+", line):
            if piece.strip().upper() == "MOTION" and nodes and not open_nodes:
                return nodes, index
            try:
                waiting = _grow(nodes, open_nodes, waiting, piece.split())
            except (ValueError, IndexError):
                raise DataError(
                    f"{path}, line {index + 1}: {piece.strip()[:60]!r} has no place in a BVH hierarchy"
                ) from None
        if len(nodes) > MAX_NODES:
            raise DataError(f"{path}, line {index + 1}: more than {MAX_NODES} joints")
    raise DataError(f"{path} is no BVH file: it has no hierarchy that is followed by MOTION")


def _grow(nodes: list[_Node], open_nodes: list[int], waiting: str, words: list[str]) -> str:
    """Read one statement of the hierarchy; returns the name that waits for its brace, if any."""
    keyword = words[0].upper() if words else ""
    if keyword == "{" and waiting:
        nodes.append(_Node(waiting, open_nodes[-1] if open_nodes else -1))
        open_nodes.append(len(nodes) - 1)
        return ""
    if not words:
        return waiting
    if waiting:
        raise ValueError("a brace must come first")
    if keyword == "END":
        return f"{nodes[open_nodes[-1]].name} end"
    if keyword in ("ROOT", "JOINT") and (keyword == "ROOT") == (not open_nodes):
        return " ".join(words[1:]).split(":")[-1] or "unnamed"  # MotionBuilder writes "character:joint"
    if keyword == "}":
        open_nodes.pop()
    elif keyword == "OFFSET":
        nodes[open_nodes[-1]].offset = np.array([_number(word) for word in words[1:]]).reshape(3)
    elif keyword == "CHANNELS":
        nodes[open_nodes[-1]].channels = _channels(words)
    elif keyword != "HIERARCHY":
        raise ValueError(f"{keyword} is unknown here")
    return ""


def _channels(words: list[str]) -> tuple[str, ...]:
    channels = tuple(word.lower() for word in words[2:])
    if len(channels) != int(words[1]) or not all(_CHANNEL.fullmatch(channel) for channel in channels):
        raise ValueError(f"{len(channels)} channels")
    return channels


def _number(word: str) -> float:
    value = float(word)
    if not abs(value) <= _LARGEST:
        raise ValueError(f"{word} is too large or no number")
    return value


def _motion(lines: list[str], start: int, nodes: list[_Node], path: Path) -> tuple[FloatArray, float]:
    """The channel values (L, channels) and the frames a second, from the lines after `start`."""
    rows = ((number, line.strip()) for number, line in enumerate(lines[start + 1 :], start + 2) if line.strip())
    frames, seconds = (form.fullmatch(next(rows, (0, ""))[1]) for form in (_FRAMES, _FRAME_TIME))
    if frames is None or seconds is None or not _SECONDS[0] <= float(seconds[1]) <= _SECONDS[1]:
        raise DataError(f"{path}, line {start + 2}: expected 'Frames: N' and a 'Frame Time:' between 0.001 and 1 s")
    count, channels = int(frames[1]), sum(len(node.channels) for node in nodes)
    if not 1 <= count * len(nodes) <= MAX_PLACES:
        raise DataError(
            f"{path} announces {count} frames of {len(nodes)} joints, from 1 to {MAX_PLACES} places are read"
        )
    given = list(islice(rows, count + 1))
    if len(given) != count:
        raise DataError(f"{path} announces {count} frames and has {'more' if len(given) > count else len(given)}")
    values = np.empty((count, channels))
    for row, (number, line) in zip(values, given, strict=True):
        words = line.split()
        try:
            if len(words) != channels:  # NumPy would repeat a single number
                raise ValueError
            row[:] = np.array(words, dtype=np.float64)
        except ValueError:
            raise DataError(f"{path}, line {number}: expected {channels} numbers") from None
        if not (np.abs(row) <= _LARGEST).all():
            raise DataError(f"{path}, line {number}: not a finite number of at most {_LARGEST:.0e}")
    return values, 1 / float(seconds[1])


def _first(nodes: list[_Node], values: FloatArray) -> int:
    """The first frame that was captured, 0 or 1: nobody stands exactly upright, but the T-pose before a take does."""
    turns = [column for column, channel in enumerate(nodes[0].channels) if channel.endswith("rotation")]
    return int(len(values) > 1 and not values[0, turns].any() and bool(values[1, turns].any()))


def _positions(nodes: list[_Node], values: FloatArray) -> FloatArray:
    """Forward kinematics: where every node is in every frame, (L, nodes, 3), in the file's unit and axes."""
    count = len(values)
    positions = np.empty((count, len(nodes), 3))
    rotations = np.empty((len(nodes), count, 3, 3))
    column = 0
    for number, node in enumerate(nodes):
        turn = np.broadcast_to(np.eye(3), (count, 3, 3))
        shift = np.tile(node.offset, (count, 1))
        for channel in node.channels:
            axis = "xyz".index(channel[0])
            if channel.endswith("position"):
                shift[:, axis] = values[:, column]  # a whole place: the offset is only where the node rests
            else:
                turn = turn @ _turn(axis, np.radians(values[:, column]))
            column += 1
        if node.parent < 0:
            positions[:, number], rotations[number] = shift, turn
        else:
            parent = rotations[node.parent]
            positions[:, number] = positions[:, node.parent] + (parent @ shift[..., None])[..., 0]
            rotations[number] = parent @ turn
    return positions


def _turn(axis: int, angle: FloatArray) -> FloatArray:
    """Rotation matrices (L, 3, 3) about one axis by angles (L,) in radians."""
    out = np.zeros((len(angle), 3, 3))
    one, two = (axis + 1) % 3, (axis + 2) % 3
    out[:, axis, axis] = 1
    out[:, one, one] = out[:, two, two] = np.cos(angle)
    out[:, two, one] = np.sin(angle)
    out[:, one, two] = -out[:, two, one]
    return out


def _chosen(nodes: list[_Node], path: Path) -> list[int]:
    """The node of each Human3.6M joint; of nodes with one name the first."""
    names = {node.name: number for number, node in reversed(list(enumerate(nodes)))}
    found = {joint: next((names[name] for name in NODES[joint] if name in names), None) for joint in HUMAN36M.joints}
    missing = [f"{joint} ({' or '.join(NODES[joint])})" for joint, number in found.items() if number is None]
    if missing:
        raise DataError(f"{path} has no joint for {', '.join(missing)}")
    return [number for number in found.values() if number is not None]


def _unit(positions: FloatArray, unit: float | None, path: Path) -> float:
    """Metres in the file's unit, told by the legs of the first frame of positions (L, 17, 3)."""
    hip, knee, foot = (positions[0, HUMAN36M.joints.index(name)] for name in ("LHip", "LKnee", "LFoot"))
    leg = float(np.linalg.norm(hip - knee) + np.linalg.norm(knee - foot))
    for metres in UNITS if unit is None else (unit,):
        if LEG[0] <= leg * metres <= LEG[1]:
            return metres
    known = "metres, centimetres, millimetres, inches or CMU's unit" if unit is None else f"units of {unit:.4g} m"
    raise DataError(f"{path}: a leg of {leg:.3g} units is no person's in {known}")


def _resampled(positions: FloatArray, rate: float) -> FloatArray:
    """Positions at 50 frames a second, interpolated linearly between the frames of the file."""
    moments = np.arange(0, (len(positions) - 1) / rate + 1e-9, 1 / FPS) * rate
    before = np.minimum(moments.astype(np.int64), len(positions) - 1)
    after = np.minimum(before + 1, len(positions) - 1)
    part = (moments - before)[:, None, None]
    out: FloatArray = (1 - part) * positions[before] + part * positions[after]
    return out
