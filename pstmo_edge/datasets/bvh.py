"""Motion capture in BVH files, above all the CMU database's, as takes of the 17 Human3.6M joints.

A BVH file is text: a tree of joints with offsets and channels, then one line of channel values a frame. Angles are
degrees, about the axes in the order in which the channels stand; y points up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.datasets.cmu_mocap import FPS, Take, centred
from pstmo_edge.errors import DataError
from pstmo_edge.skeletons import HUMAN36M

MAX_BYTES = 256 << 20
MAX_JOINTS = 500
TEST_EVERY = 10  # without train/ and test/ folders, every tenth file by name is for testing
# Which node of the file is which joint: the first that is there. The nodes are those that the bundled motion has.
_SIDE = {
    "Hip": ("UpLeg", "Thigh"), "Knee": ("Leg", "Shin"), "Foot": ("Foot",),
    "Shoulder": ("Arm",), "Elbow": ("ForeArm",), "Wrist": ("Hand",),
}  # fmt: skip
NODES = {
    "Hip": ("Hips",), "Spine": ("Spine",), "Thorax": ("Spine1", "Chest"), "Neck/Nose": ("Neck1", "Neck"),
    "Head": ("Head",),
} | {
    letter + joint: tuple(side + name for name in names)
    for letter, side in (("L", "Left"), ("R", "Right"))
    for joint, names in _SIDE.items()
}  # fmt: skip
# Metres in a file's unit of length: metres, centimetres, inches, and the unit of the CMU database (an inch over 0.45).
UNITS = (1.0, 0.01, 0.0254, 0.0254 / 0.45)
_LEG = (0.55, 1.15)  # metres from hip to ankle of a grown person: what tells one unit from another


@dataclass
class _Node:
    name: str
    parent: int
    offset: FloatArray = field(default_factory=lambda: np.zeros(3))
    channels: tuple[str, ...] = ()


def holds_motion(folder: Path) -> bool:
    """Whether the folder is one with .bvh files, at any depth."""
    return folder.is_dir() and next(folder.rglob("*.bvh"), None) is not None


def takes(folder: Path, split: str) -> tuple[Take, ...]:
    """Every file of the split, 'train' or 'test', as a take; raises DataError for a file that cannot be used.

    The split is that of subfolders `train` and `test` where both are there; otherwise every tenth file, in order of
    name, is for testing.
    """
    files = sorted(folder.rglob("*.bvh"))
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        files = [path for path in files if path.relative_to(folder).parts[0] == split]
    else:
        files = [path for number, path in enumerate(files) if (number % TEST_EVERY == 0) == (split == "test")]
    if not files:
        raise DataError(f"{folder} has no .bvh files for the {split} split")
    return tuple(Take(split, path.stem, centred(read(path))) for path in files)


def read(path: Path) -> FloatArray:
    """World positions (L, 17, 3) of a file's motion: metres, z up, 50 frames a second. Raises DataError."""
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path} has {path.stat().st_size} bytes, at most {MAX_BYTES} are read")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    nodes, start = _tree(lines, path)
    values, rate = _motion(lines, start, sum(len(node.channels) for node in nodes), path)
    positions = _positions(nodes, values)[:, _chosen(nodes, path)]
    positions = np.stack([positions[..., 0], -positions[..., 2], positions[..., 1]], axis=-1)  # y up to z up
    return _resampled(positions * _unit(positions, path), rate)


def _tree(lines: list[str], path: Path) -> tuple[list[_Node], int]:
    """The nodes, parents before children, and the number of the line that says MOTION."""
    nodes: list[_Node] = []
    open_nodes: list[int] = []
    waiting = ""  # the name of a joint whose brace has not come yet
    for number, line in enumerate(lines):
        words = line.split()
        keyword = words[0].upper() if words else ""
        try:
            if keyword in ("ROOT", "JOINT", "END"):
                waiting = " ".join(words[1:]).split(":")[-1]
                if keyword == "END":
                    waiting = f"{nodes[open_nodes[-1]].name} end"
            elif keyword == "{":
                nodes.append(_Node(waiting, open_nodes[-1] if open_nodes else -1))
                open_nodes.append(len(nodes) - 1)
            elif keyword == "}":
                open_nodes.pop()
            elif keyword == "OFFSET":
                nodes[open_nodes[-1]].offset = np.array([_finite(word) for word in words[1:4]]).reshape(3)
            elif keyword == "CHANNELS":
                nodes[open_nodes[-1]].channels = _channels(words)
            elif keyword == "MOTION" and nodes and not open_nodes:
                return nodes, number
            elif keyword not in ("", "HIERARCHY"):
                raise ValueError
        except (ValueError, IndexError):
            raise DataError(
                f"{path}, line {number + 1}: {line.strip()[:60]!r} has no place in a BVH hierarchy"
            ) from None
        if len(nodes) > MAX_JOINTS:
            raise DataError(f"{path} has more than {MAX_JOINTS} joints")
    raise DataError(f"{path} is no BVH file: it has no hierarchy that is followed by MOTION")


def _channels(words: list[str]) -> tuple[str, ...]:
    channels = tuple(word.lower() for word in words[2:])
    known = re.compile(r"[xyz](position|rotation)")
    if len(channels) != int(words[1]) or not all(known.fullmatch(channel) for channel in channels):
        raise ValueError
    return channels


def _finite(word: str) -> float:
    value = float(word)
    if not np.isfinite(value):
        raise ValueError
    return value


def _motion(lines: list[str], start: int, channels: int, path: Path) -> tuple[FloatArray, float]:
    """The channel values (L, channels) and the frames a second."""
    rows = [(number, line) for number, line in enumerate(lines[start + 1 :], start + 2) if line.strip()]
    head = " ".join(line for _, line in rows[:2])
    found = re.fullmatch(r"\s*Frames:\s*(\d+)\s+Frame Time:\s*([0-9.eE+-]+)\s*", head, re.IGNORECASE)
    seconds = float(found[2]) if found and re.fullmatch(r"\d*\.?\d+([eE][+-]?\d+)?", found[2]) else 0.0
    if found is None or not 1 / 1000 <= seconds <= 1:
        raise DataError(f"{path}, line {start + 2}: expected 'Frames: N' and a 'Frame Time:' between 0.001 and 1 s")
    rows = rows[2:]
    if len(rows) != int(found[1]) or not rows:
        raise DataError(f"{path} announces {int(found[1])} frames and has {len(rows)}")
    values = np.empty((len(rows), channels))
    for row, (number, line) in zip(values, rows, strict=True):
        try:
            row[:] = np.array(line.split(), dtype=np.float64)
        except ValueError:
            raise DataError(f"{path}, line {number}: expected {channels} numbers") from None
    if not np.isfinite(values).all():
        bad = rows[int(np.argwhere(~np.isfinite(values))[0, 0])][0]
        raise DataError(f"{path}, line {bad}: not a finite number")
    return values, 1 / seconds


def _positions(nodes: list[_Node], values: FloatArray) -> FloatArray:
    """Forward kinematics: where every node is in every frame, (L, nodes, 3), in the file's unit and axes."""
    count = len(values)
    positions = np.empty((count, len(nodes), 3))
    rotations = np.empty((len(nodes), count, 3, 3))
    column = 0
    for number, node in enumerate(nodes):
        local = np.broadcast_to(np.eye(3), (count, 3, 3))
        shift = np.tile(node.offset, (count, 1))
        moved = [channel for channel in node.channels if channel.endswith("position")]
        if moved and node.parent >= 0:
            shift[:] = 0  # a joint that moves within its parent says all of its place in its channels
        for channel in node.channels:
            axis = "xyz".index(channel[0])
            if channel.endswith("position"):
                shift[:, axis] += values[:, column]
            else:
                local = local @ _turn(axis, np.radians(values[:, column]))
            column += 1
        if node.parent < 0:
            positions[:, number], rotations[number] = shift, local
        else:
            parent = rotations[node.parent]
            positions[:, number] = positions[:, node.parent] + (parent @ shift[..., None])[..., 0]
            rotations[number] = parent @ local
    return positions


def _turn(axis: int, angle: FloatArray) -> FloatArray:
    """Rotation matrices (L, 3, 3) about one axis."""
    out = np.zeros((len(angle), 3, 3))
    one, two = (axis + 1) % 3, (axis + 2) % 3
    out[:, axis, axis] = 1
    out[:, one, one] = out[:, two, two] = np.cos(angle)
    out[:, two, one] = np.sin(angle)
    out[:, one, two] = -out[:, two, one]
    return out


def _chosen(nodes: list[_Node], path: Path) -> list[int]:
    """The node of each Human3.6M joint."""
    names = {node.name: number for number, node in reversed(list(enumerate(nodes)))}
    found = {joint: next((names[name] for name in NODES[joint] if name in names), None) for joint in HUMAN36M.joints}
    missing = [f"{joint} ({' or '.join(NODES[joint])})" for joint, number in found.items() if number is None]
    if missing:
        raise DataError(f"{path} has no joint for {', '.join(missing)}")
    return [number for number in found.values() if number is not None]


def _unit(positions: FloatArray, path: Path) -> float:
    """Metres in the file's unit: the one that makes the legs a grown person's."""
    hip, knee, foot = (positions[0, HUMAN36M.joints.index(name)] for name in ("LHip", "LKnee", "LFoot"))
    leg = float(np.linalg.norm(hip - knee) + np.linalg.norm(knee - foot))
    for unit in UNITS:
        if _LEG[0] <= leg * unit <= _LEG[1]:
            return unit
    raise DataError(f"{path}: a leg of {leg:.3g} units is no person's in metres, centimetres, inches or CMU's unit")


def _resampled(positions: FloatArray, rate: float) -> FloatArray:
    """Positions at 50 frames a second, interpolated linearly between the frames of the file."""
    moments = np.arange(0, (len(positions) - 1) / rate + 1e-9, 1 / FPS) * rate
    before = np.minimum(moments.astype(np.int64), len(positions) - 1)
    after = np.minimum(before + 1, len(positions) - 1)
    part = (moments - before)[:, None, None]
    out: FloatArray = (1 - part) * positions[before] + part * positions[after]
    return out
