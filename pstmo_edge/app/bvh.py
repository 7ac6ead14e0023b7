"""Poses to BVH, the motion format that Blender, MotionBuilder and Maya open.

A BVH skeleton has fixed bones that turn: every bone gets the median of its lengths over the recording, and in each
frame its direction in the pose, so a joint is off from its pose by what the bones up to it tremble in length. A
direction leaves the twist about the bone open: a bone turns the shortest way from where its parent carries it, without
twist (elbows and knees then bend about any axis, not about a hinge). The hips' own turn is that of the line between the
hip joints and of the way to the spine.

The tree and its names are those of the CMU database's files: where bones branch, each has a joint of length 0 of its
own (LHipJoint, LowerBack, LeftShoulder, ...), since one turn could not serve all of them. Rest is a T-pose, y up, x to
the person's left. Lengths are centimetres (the format has no field for it), angles degrees about Z, X, Y: that order
has its gimbal lock where a person lies down, not where one turns about.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal, TypeAlias

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.errors import DataError, UsageError
from pstmo_edge.files import write_atomic
from pstmo_edge.skeletons import HUMAN36M

CENTIMETRES = 100.0
FACES = {"camera": ((0, 1, 2), (1, -1, -1)), "world": ((0, 2, 1), (1, 1, -1))}  # axes and signs that make y up
Axes: TypeAlias = Literal["camera", "world"]
_LEFT, _RIGHT, _UP, _DOWN = (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0)
_HAND = 5.0  # centimetres of the end sites of hands and feet, which poses do not have: something to see


@dataclass(frozen=True)
class _Node:
    """A joint of the file: its parent's number, the pose's joint that it is (None: where its parent is), its rest."""

    name: str
    parent: int
    joint: int | None
    rest: tuple[int, int, int] = (0, 0, 0)
    end: int | None = None  # the pose's joint that its end site is


def _limb(side: str, rest: tuple[int, int, int], start: int, names: tuple[str, ...], joints: range) -> list[_Node]:
    """A joint of no length at the branch, then one for each joint of the limb."""
    first, *others = names
    nodes = [_Node(first, start, None)]
    out = _LEFT if side == "Left" else _RIGHT
    for place, (name, joint) in enumerate(zip(others, joints, strict=True)):
        nodes.append(_Node(side + name, -1, joint, out if place == 0 else rest))
    return nodes


def _tree() -> tuple[_Node, ...]:
    nodes = [_Node("Hips", -1, 0)]

    def grow(more: list[_Node]) -> None:
        for place, node in enumerate(more):
            parent = node.parent if place == 0 else len(nodes) - 1
            nodes.append(_Node(node.name, parent, node.joint, node.rest, node.end))

    leg, arm = ("UpLeg", "Leg", "Foot"), ("Arm", "ForeArm", "Hand")
    grow(_limb("Left", _DOWN, 0, ("LHipJoint", *leg), range(4, 7)))
    grow(_limb("Right", _DOWN, 0, ("RHipJoint", *leg), range(1, 4)))
    grow([_Node("LowerBack", 0, None), _Node("Spine", -1, 7, _UP), _Node("Neck", -1, 8, _UP)])
    neck = len(nodes) - 1
    grow([_Node("Head", neck, 9, _UP, end=10)])
    grow(_limb("Left", _LEFT, neck, ("LeftShoulder", *arm), range(11, 14)))
    grow(_limb("Right", _RIGHT, neck, ("RightShoulder", *arm), range(14, 17)))
    return tuple(nodes)


NODES = _tree()


def write_bvh(
    path: str | os.PathLike[str],
    poses: FloatArray,
    roots: FloatArray | None,
    fps: float,
    axes: Axes = "camera",
    pose_skeleton: str = HUMAN36M.name,
) -> None:
    """Write one person's recording: poses (L, 17, 3) and roots (L, 3) in metres, evenly `fps` frames a second.

    `axes` says what they are in: "camera" (x right, y down, z ahead) or "world" (z up). Without roots the person stays
    at the origin; a root that is not finite is where it was last known. Raises DataError for other shapes and joints
    and for poses that are not finite, UsageError for a rate of 0, WriteError.
    """
    if pose_skeleton != HUMAN36M.name:
        raise DataError(f"poses are of {pose_skeleton}: BVH files are written of {HUMAN36M.name} alone")
    if not 0 < fps < 1e4:
        raise UsageError(f"fps is {fps}: give the frames a second of the recording")
    joints, places = _checked(poses, roots, axes)
    lengths = _bone_lengths(joints)
    turns, rows = _angles(joints), [places]
    rows += [turns[:, number] for number in range(len(NODES))]
    values = np.concatenate(rows, axis=1)

    def write(file: BinaryIO) -> None:
        file.write(("\n".join(["HIERARCHY", *_hierarchy(0, lengths)]) + "\n").encode())
        file.write(f"MOTION\nFrames: {len(values)}\nFrame Time: {1 / fps:.8f}\n".encode())
        np.savetxt(file, values, fmt="%.5f")

    write_atomic(path, write)


def fixed_bones(poses: FloatArray) -> FloatArray:
    """Root-relative poses (L, 17, 3) as a BVH file holds them: each bone's direction, and its median length."""
    fixed = np.zeros_like(poses)
    lengths = _bone_lengths(poses)
    for joint, parent in HUMAN36M.bones:  # parents come first
        bone = poses[:, joint] - poses[:, parent]
        fixed[:, joint] = fixed[:, parent] + bone / np.linalg.norm(bone, axis=-1, keepdims=True) * lengths[joint]
    return fixed


def _checked(poses: FloatArray, roots: FloatArray | None, axes: Axes) -> tuple[FloatArray, FloatArray]:
    """Joints (L, 17, 3), and root places (L, 3), both in centimetres with y up."""
    count = HUMAN36M.num_joints
    if poses.ndim != 3 or poses.shape[1:] != (count, 3) or len(poses) == 0:
        raise DataError(f"poses have shape {poses.shape}: a BVH file holds (frames, {count}, 3), 1 frame at least")
    if roots is not None and roots.shape != (len(poses), 3):
        raise DataError(f"roots have shape {roots.shape}: give ({len(poses)}, 3), one for each pose")
    if not np.isfinite(poses).all():
        raise DataError("poses hold NaN or infinite values: leave such frames out")
    if axes not in FACES:
        raise UsageError(f"axes are {axes!r}: give 'camera' or 'world'")
    order, signs = FACES[axes]
    turned = poses[..., order].astype(np.float64) * signs * CENTIMETRES
    places = np.zeros((len(poses), 3)) if roots is None else _held(roots)[:, order] * signs * CENTIMETRES
    return turned - turned[:, :1], places


def _held(roots: FloatArray) -> FloatArray:
    """Roots with those that are not known where they were last, and at first where they will be."""
    known = np.isfinite(roots).all(-1)
    if not known.any():
        return np.zeros(roots.shape)
    last = np.maximum.accumulate(np.where(known, np.arange(len(roots)), -1))
    held: FloatArray = roots[np.where(last < 0, int(np.argmax(known)), last)].astype(np.float64)
    return held


def _bone_lengths(joints: FloatArray) -> FloatArray:
    """The median length of the bone that ends in each joint, (17,)."""
    lengths = np.zeros(joints.shape[1])
    for joint, parent in HUMAN36M.bones:
        lengths[joint] = np.median(np.linalg.norm(joints[:, joint] - joints[:, parent], axis=-1))
    return lengths


def _angles(joints: FloatArray) -> FloatArray:
    """The angles (L, nodes, 3) of every joint against its parent: degrees about Z, X and Y, without jumps of a turn."""
    count = len(joints)
    turns = np.empty((len(NODES), count, 3, 3))
    angles = np.zeros((count, len(NODES), 3))
    for number, node in enumerate(NODES):
        parent = np.broadcast_to(np.eye(3), (count, 3, 3)) if node.parent < 0 else turns[node.parent]
        turns[number] = _hips(joints) if node.parent < 0 else _swung(parent, *_aim(number, joints))
        angles[:, number] = _euler(np.swapaxes(parent, -1, -2) @ turns[number])
    return np.degrees(np.unwrap(angles, axis=0))


def _aim(number: int, joints: FloatArray) -> tuple[FloatArray, FloatArray | None]:
    """The direction at rest of the bone that a joint turns, and those it has (L, 3); None where it turns none."""
    node = NODES[number]
    start = next(NODES[at].joint for at in (number, node.parent) if NODES[at].joint is not None)
    child = next((other for other in NODES if other.parent == number and other.joint is not None), None)
    end, rest = (node.end, node.rest) if child is None else (child.joint, child.rest)
    return np.array(rest, np.float64), None if end is None else joints[:, end] - joints[:, start]


def _hips(joints: FloatArray) -> FloatArray:
    """The turn of the hips, (L, 3, 3): x from the right hip joint to the left one, y as near to the spine as it can."""
    across = _unit(joints[:, 4] - joints[:, 1], _LEFT)
    up = joints[:, 7] - (joints[:, 7] * across).sum(-1, keepdims=True) * across
    spare = np.cross(np.where(np.abs(across[:, :1]) < 0.9, _LEFT, (0, 0, 1)), across)  # where the spine is no help
    up = _unit(up, _unit(spare, _UP))
    return np.stack([across, up, np.cross(across, up)], axis=-1)


def _swung(parent: FloatArray, rest: FloatArray, wanted: FloatArray | None) -> FloatArray:
    """The parent's turn (L, 3, 3), and the shortest one after it that brings the bone to where it is wanted (L, 3)."""
    if wanted is None:
        return parent
    carried = parent @ rest
    wanted = _unit(wanted, rest)
    cosine = (carried * wanted).sum(-1)
    # Half way round no turn is the shortest: any axis across the bone does.
    spare = np.where(np.abs(carried[:, :1]) < 0.9, (1.0, 0, 0), (0, 1.0, 0))
    axis = _unit(np.cross(carried, spare), _UP)
    half = 2 * axis[:, :, None] * axis[:, None] - np.eye(3)
    cross = _cross_matrix(np.cross(carried, wanted))
    swing = np.eye(3) + cross + cross @ cross / np.maximum(1 + cosine, 1e-12)[:, None, None]
    turned: FloatArray = np.where((cosine < -1 + 1e-9)[:, None, None], half, swing) @ parent
    return turned


def _unit(vectors: FloatArray, otherwise: tuple[int, int, int] | FloatArray) -> FloatArray:
    """Vectors (L, 3) of length 1; one of no length becomes `otherwise`."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(length > 1e-9, vectors / np.maximum(length, 1e-9), otherwise)


def _cross_matrix(vectors: FloatArray) -> FloatArray:
    """The matrices (L, 3, 3) that multiply like the cross products of vectors (L, 3)."""
    x, y, z = vectors.T
    zero = np.zeros_like(x)
    return np.stack([np.stack([zero, -z, y], -1), np.stack([z, zero, -x], -1), np.stack([-y, x, zero], -1)], axis=-2)


def _euler(turn: FloatArray) -> FloatArray:
    """Angles (L, 3) in radians of turns (L, 3, 3) that are Rz Rx Ry; where X is a right angle, Y is 0."""
    sine = np.clip(turn[:, 2, 1], -1, 1)
    locked = np.abs(sine) > 1 - 1e-12
    z = np.where(locked, np.arctan2(turn[:, 1, 0], turn[:, 0, 0]), np.arctan2(-turn[:, 0, 1], turn[:, 1, 1]))
    y = np.where(locked, 0.0, np.arctan2(-turn[:, 2, 0], turn[:, 2, 2]))
    return np.stack([z, np.arcsin(sine), y], axis=-1)


def _hierarchy(number: int, lengths: FloatArray, depth: int = 0) -> Iterator[str]:
    """The lines of a joint and all below it."""
    node, space = NODES[number], "\t" * depth
    offset = np.array(node.rest) * (0.0 if node.joint is None else lengths[node.joint])
    turns = "Zrotation Xrotation Yrotation"
    yield f"{space}{'JOINT' if depth else 'ROOT'} {node.name}"
    yield f"{space}{{"
    yield f"{space}\tOFFSET {_numbers(offset)}"
    yield f"{space}\tCHANNELS " + (f"3 {turns}" if depth else f"6 Xposition Yposition Zposition {turns}")
    children = [child for child, other in enumerate(NODES) if other.parent == number]
    for child in children:
        yield from _hierarchy(child, lengths, depth + 1)
    if not children:
        end = np.array(node.rest) * (_HAND if node.end is None else lengths[node.end])
        yield f"{space}\tEnd Site"
        yield from (f"{space}\t{{", f"{space}\t\tOFFSET {_numbers(end)}", f"{space}\t}}")
    yield f"{space}}}"


def _numbers(values: FloatArray) -> str:
    return " ".join(f"{value + 0.0:.5f}" for value in values)
