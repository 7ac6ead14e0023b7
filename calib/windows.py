"""Which windows a calibration sees: spread over actions, speeds, headings and places, made as inference makes them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence

import numpy as np

from pstmo_edge.arrays import FloatArray, IntArray
from pstmo_edge.datasets.sequences import PoseSequence, check_sequence
from pstmo_edge.errors import DataError
from pstmo_edge.metrics import action_of
from pstmo_edge.skeletons import get_skeleton
from pstmo_edge.windows import WindowSource, WindowSpec

DEFAULT_WINDOWS = 256
LEAST_WINDOWS = 16
_CANDIDATES = 64  # for every window that is chosen
_PROBED = 8  # neighbourhoods that are looked at for every window wanted
_STILL = 1e-6  # of the image's half width: joints that move less in a whole sequence do not move


class CalibrationWarning(UserWarning):
    """Calibration data that can be used and is probably not what was meant."""


def calibration_windows(
    sequences: Sequence[PoseSequence], spec: WindowSpec, count: int = DEFAULT_WINDOWS
) -> FloatArray:
    """`count` windows (N, T, 17, C): the same number from every action, in the order of actions and frames.

    Of each action one half lies at even distances in its takes, as inference will meet it; the other half is added
    window by window where it is farthest from all chosen so far in speed, heading, place in the image and size of the
    person, so that the extremes are seen too.

    Raises DataError where there are no sequences, fewer than 16 windows, or keypoints that cannot be used.
    """
    if not sequences:
        raise DataError("no sequences to calibrate on")
    moving = [sequence for sequence in map(check_sequence, sequences) if _moves(sequence)]
    frames = sum(map(len, moving))
    if not moving:
        raise DataError(
            f"none of the {len(sequences)} calibration sequences moves: ranges taken from a still person do not hold "
            f"for motion; give real motion with --calib"
        )
    if min(frames, count) < LEAST_WINDOWS:
        raise DataError(
            f"{min(frames, count)} calibration windows are too few for the ranges of INT8, at least {LEAST_WINDOWS} "
            f"are needed: give longer motion with --calib"
        )
    if len(moving) < len(sequences):
        _warn(f"{len(sequences) - len(moving)} of {len(sequences)} calibration sequences do not move and are left out")
    groups: dict[str, list[PoseSequence]] = {}
    for sequence in moving:
        groups.setdefault(action_of(sequence.action), []).append(sequence)
    shares = np.diff(np.linspace(0, count, len(groups) + 1).round().astype(int))
    chosen = [_spread(group, spec, share) for group, share in zip(groups.values(), shares, strict=True) if share]
    return np.concatenate(chosen).astype(np.float32)


def windows_key(windows: FloatArray) -> str:
    """SHA-256 of the windows: says whether two calibrations saw the same data."""
    return hashlib.sha256(np.ascontiguousarray(windows, "<f4").tobytes()).hexdigest()


def unseen_windows(
    sequences: Sequence[PoseSequence], spec: WindowSpec, count: int, seen: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Up to `count` windows (N, T, 17, C) that are not among the `seen`, with their true poses.

    They come in threes of neighbouring frames, at even distances, so that jitter shows. The poses are those the model
    puts out: (N, 17, 3), or (N, K, 17, 3) where it emits K frames a window. Raises DataError where the sequences have
    none.
    """
    source = WindowSource([sequence.inputs(spec.channels) for sequence in sequences], spec)
    poses = np.concatenate([sequence.true_poses() for sequence in sequences])
    last = max(0, len(source) - 3)
    firsts = np.unique(np.linspace(0, last, min(last + 1, _PROBED * count)).astype(int))
    targets = np.minimum(firsts[:, None] + np.arange(3), len(source) - 1)
    frames, inside = source.emitted(targets.ravel())
    frames, whole = frames.reshape(*targets.shape, -1), np.all(inside.reshape(len(targets), -1), axis=1)
    together = source.ends[targets[:, 0]] == source.ends[targets[:, 2]]  # of one sequence
    known = {window.tobytes() for window in seen}
    windows = source.gather(targets.ravel()).astype(np.float32)
    new = np.array([window.tobytes() not in known for window in windows]).reshape(targets.shape).all(1)
    kept = np.flatnonzero(whole & together & new)
    wanted = max(1, count // 3)
    kept = kept[np.unique(np.linspace(0, len(kept) - 1, min(wanted, len(kept))).astype(int))]
    found = poses[frames[kept]].reshape(3 * len(kept), spec.emitted or 1, *poses.shape[1:]).astype(np.float32)
    chosen = windows.reshape(*targets.shape, *windows.shape[1:])[kept].reshape(-1, *windows.shape[1:])
    return chosen, found if spec.emitted else found[:, 0]


def check_handedness(poses: FloatArray, skeleton: str) -> None:
    """Warn where most knees of the poses (N, J, 3), metres, bend backwards: left and right are then swapped.

    Knees bend towards where the body faces, which the hips tell by which is left. Keypoints of a mirrored video whose
    joints were not exchanged contradict that, whatever the camera; ranges taken from them are those of poses that
    never come.
    """
    joints = get_skeleton(skeleton).joints
    try:
        left, right = ([joints.index(f"{side}{name}") for name in ("Hip", "Knee")] for side in "LR")
        ankles = [next(i for i, name in enumerate(joints) if name in (f"{side}Foot", f"{side}Ankle")) for side in "LR"]
    except (ValueError, StopIteration):
        return
    across = poses[:, left[0]] - poses[:, right[0]]  # to the person's left
    bends = []
    for (hip, knee), ankle in zip((left, right), ankles, strict=True):
        down = poses[:, ankle] - poses[:, hip]
        forward = np.cross(down, across)  # camera axes: x right, y down, z away
        middle = (poses[:, hip] + poses[:, ankle]) / 2
        size = np.linalg.norm(forward, axis=-1) * np.linalg.norm(down, axis=-1)
        bends.append(((poses[:, knee] - middle) * forward).sum(-1) / np.maximum(size, 1e-12))
    bent = np.abs(bends) > 0.02  # of the leg's length: a straight knee says nothing
    if bent.sum() >= LEAST_WINDOWS and (np.array(bends)[bent] < 0).mean() > 0.5:
        _warn(
            "most knees bend backwards in the calibration motion, so its left and right look swapped: if the video was "
            "mirrored, exchange the left and right joints of its keypoints, or mirror it back"
        )


def _warn(text: str) -> None:
    warnings.warn(text, CalibrationWarning, stacklevel=3)


def _moves(sequence: PoseSequence) -> bool:
    return bool(np.ptp(sequence.keypoints, axis=0).max() > _STILL)


def _spread(group: Sequence[PoseSequence], spec: WindowSpec, count: int) -> FloatArray:
    """`count` windows of one action's sequences, laid end to end."""
    source = WindowSource([sequence.inputs(spec.channels) for sequence in group], spec)
    even = ((np.arange(-(-count // 2)) + 0.5) * len(source) / -(-count // 2)).astype(int)
    candidates = np.unique(np.linspace(0, len(source) - 1, min(len(source), _CANDIDATES * count)).astype(int))
    if count > len(candidates):
        even = ((np.arange(count) + 0.5) * len(source) / count).astype(int)
    features = np.concatenate([_features(sequence, spec) for sequence in group])
    return source.gather(np.sort(_farthest(features, even, candidates, count)))


def _farthest(features: FloatArray, chosen: IntArray, candidates: IntArray, count: int) -> IntArray:
    """Frames added to `chosen` one by one, each the candidate farthest from all others (Gonzalez 1985)."""
    frames = list(chosen)
    distance = np.full(len(candidates), np.inf)
    for frame in frames:
        distance = np.minimum(distance, np.square(features[candidates] - features[frame]).sum(-1))
    while len(frames) < count:
        frame = candidates[distance.argmax()]
        frames.append(frame)
        distance = np.minimum(distance, np.square(features[candidates] - features[frame]).sum(-1))
        distance[candidates == frame] = -1
    return np.array(frames)


def _features(sequence: PoseSequence, spec: WindowSpec) -> FloatArray:
    """What windows should differ in, by frame (L, 6), each about 0 to 1 wide."""
    points = sequence.keypoints
    size = np.linalg.norm(np.ptp(points, axis=1), axis=-1)  # the diagonal of the person's box
    reach = spec.frames * spec.t_downsample // 2
    steps = np.linalg.norm(np.diff(points, axis=0, prepend=points[:1]), axis=-1).mean(-1) / np.maximum(size, 1e-6)
    total = np.concatenate([[0.0], np.cumsum(steps)])
    ends = np.arange(len(points))
    first, last = np.maximum(ends - reach, 0), np.minimum(ends + reach + 1, len(points))
    speed = (total[last] - total[first]) / (last - first) * sequence.fps  # body sizes a second
    centre = points.mean(1)
    heading = _heading(sequence)
    return np.stack(
        [np.log1p(speed) / 2, np.cos(heading) / 2, np.sin(heading) / 2, *centre.T, np.log(np.maximum(size, 1e-3)) / 2],
        axis=-1,
    )


def _heading(sequence: PoseSequence) -> FloatArray:
    """Where the person faces, radians around the vertical, 0 towards the camera: from true poses or else keypoints.

    In keypoints the hips' and shoulders' signed width against the person's height tells the angle up to front and back
    of a profile, which is enough to choose views that differ.
    """
    skeleton = get_skeleton(sequence.pose_skeleton if sequence.poses is not None else sequence.skeleton)
    pairs = [(left, right) for left, right in zip(skeleton.left, skeleton.right, strict=True)
             if skeleton.joints[left] in ("LHip", "LShoulder")]  # fmt: skip
    given = sequence.keypoints if sequence.poses is None else sequence.poses
    across = np.mean([given[:, left] - given[:, right] for left, right in pairs], axis=0)
    if sequence.poses is not None:
        return np.arctan2(across[:, 2], across[:, 0])
    height = np.maximum(np.ptp(given[..., 1], axis=1), 1e-6)
    widest = 0.25  # of a person's height: hips and shoulders seen from the front
    return np.arccos(np.clip(across[:, 0] / height / widest, -1, 1))
