"""How far a pose can be trusted: the expected error of each joint in millimetres, calibrated on data.

What speaks against a pose is measured beside the stream (`doubt_signs`); a regression with a log link (quasi-Poisson:
McCullagh & Nelder, Generalized Linear Models, 2nd ed. 1989, section 9.2) turns it into the expected error. Its
coefficients are fitted by `pstmo_edge.benchmarks.doubt` on the training split, with a detector's errors and lost joints,
for one set of weights, by whose SHA-256 they are kept: other weights have no doubt until it is fitted for them.
docs/streams.md says how well it holds on the test split.

An expectation is no bound: half of the poses err by more than a median, and what no sign shows (a person of a shape
never seen) is not in it.
"""

from __future__ import annotations

import json
import os
from collections import deque
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pstmo_edge.app.doubt_signs import MIRROR_SIGNS, NEAR, SIGNS, Motion, Seen, Signs, disagreement
from pstmo_edge.arrays import FloatArray
from pstmo_edge.errors import DataError
from pstmo_edge.skeletons import get_skeleton, mirrored
from pstmo_edge.streaming import LONGEST_TIME, Holder, PoseResult, Stream, StreamSettings, as_frame, next_time

if TYPE_CHECKING:
    from pstmo_edge.engine import Engine

KEPT_SECONDS = 8.0  # of a person's frames: the longest window's look-ahead, the longest hole and the wait to be read
FILE = "data/doubt.json"


@dataclass(frozen=True)
class DoubtEstimate:
    """The expected error of a pose in millimetres.

    `per_joint_mm` (17,) of each joint (0 at the root, which is the origin), `pose_mm` their mean, and `doubtful` whether
    that is more than the model's `limit_mm`.
    """

    per_joint_mm: FloatArray
    pose_mm: float
    doubtful: bool


@dataclass(frozen=True)
class DoubtModel:
    """What was fitted for one set of weights.

    `plain` and `mirror` hold the coefficients of log millimetres without and with mirrored disagreement, (F,), and
    `joints` and `mirror_joints` those of each joint, (17,). Signs are held within `low` and `high` (F + 2,), the range
    that they were fitted in: nothing is extrapolated. `limit_mm` is the expected error from which a pose is doubtful.
    """

    weights_sha256: str
    keypoint_skeleton: str
    pose_skeleton: str
    fitted_on: str
    limit_mm: float
    plain: FloatArray
    joints: FloatArray
    mirror: FloatArray
    mirror_joints: FloatArray
    low: FloatArray
    high: FloatArray
    motion: Motion

    @classmethod
    def for_engine(cls, engine: Engine, path: str | os.PathLike[str] | None = None) -> DoubtModel | None:
        """That of an engine's weights, from `path` or from those in the box; None where none was fitted for them.

        Raises DataError for a file that is none of ours.
        """
        text = resources.files("pstmo_edge").joinpath(FILE).read_text() if path is None else Path(path).read_text()
        try:
            known = json.loads(text)["models"]
            found = known.get(engine.manifest.model.weights_sha256)
            return None if found is None else cls.from_dict(found)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path or FILE} holds no doubt model ({error}): fit it again") from None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DoubtModel:
        """The inverse of `to_dict`; raises DataError where the signs are not those of this version."""
        if values["signs"] != [*SIGNS, *MIRROR_SIGNS]:
            raise DataError("it was fitted for the signs of another version")
        given = {name.name: values[name.name] for name in fields(cls) if name.name != "motion"}
        arrays = {name: np.array(value) if isinstance(value, list) else value for name, value in given.items()}
        motion = {
            name: np.array(value) if isinstance(value, list) else value for name, value in values["motion"].items()
        }
        return cls(**arrays, motion=Motion(**motion))

    def to_dict(self) -> dict[str, Any]:
        """Plain values of five digits, for JSON."""
        plain = {name.name: _plain(getattr(self, name.name)) for name in fields(self) if name.name != "motion"}
        motion = {name.name: _plain(getattr(self.motion, name.name)) for name in fields(self.motion)}
        return {**plain, "signs": [*SIGNS, *MIRROR_SIGNS], "motion": motion}

    def expected(self, signs: FloatArray) -> FloatArray:
        """The expected error of each joint (..., 17), millimetres, of signs (..., 17, F), or F + 2 with the mirror's."""
        count = signs.shape[-1]
        weights, joints = (self.plain, self.joints) if count == len(self.plain) else (self.mirror, self.mirror_joints)
        with np.errstate(over="ignore"):
            error: FloatArray = np.exp(np.clip(signs, self.low[:count], self.high[:count]) @ weights + joints)
        error[..., get_skeleton(self.pose_skeleton).root] = 0.0
        return error

    def estimate(self, signs: FloatArray) -> DoubtEstimate:
        """The doubt of one pose with signs (17, F) or (17, F + 2)."""
        error = self.expected(signs)
        mean = float(error.mean())
        return DoubtEstimate(error, mean, mean > self.limit_mm)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(each) for each in value]
    return float(f"{value:.5g}") if isinstance(value, (float, np.floating)) else value


class DoubtTracker:
    """The doubt of one person's poses, beside that person's stream.

    Give every frame to `observe` as it is pushed and every result to `estimate` as the stream gave it: frames are
    counted as streams count them. `settings` are the stream's. `mirror` is a second stream of the same engine with
    the same settings, for mirrored disagreement: it costs a second forward a pose; the tracker pushes to it itself.
    Raises DataError where model and engine read other joints. Not for use from two threads at once.
    """

    def __init__(
        self, engine: Engine, settings: StreamSettings, model: DoubtModel, mirror: Stream | None = None
    ) -> None:
        self.model, self.settings, self.mirror = model, settings, mirror
        manifest = engine.manifest
        if (manifest.input.skeleton, manifest.output.skeleton) != (model.keypoint_skeleton, model.pose_skeleton):
            raise DataError(
                f"the doubt model reads {model.keypoint_skeleton} and not {manifest.input.skeleton} keypoints"
            )
        self.seen, self.lifted = get_skeleton(model.keypoint_skeleton), get_skeleton(model.pose_skeleton)
        self.measured = Signs(manifest.input, self.seen, self.lifted, model.motion)
        self.holder = Holder(settings, 2)
        self.kept: deque[tuple[int, Seen]] = deque()
        self.mirrored: dict[int, FloatArray] = {}
        self.count = 0
        self.last: float | None = None
        self.start = 0.0
        self.measured_at = np.full(self.seen.num_joints, -np.inf)

    def observe(self, keypoints: FloatArray, timestamp: float | None = None) -> None:
        """One frame, as it is pushed to the stream; what a stream refuses is counted and left out."""
        frame = as_frame(keypoints)
        time = next_time(self.last, self.settings.fps) if timestamp is None else timestamp
        number, self.count = self.count, self.count + 1
        if self.mirror is not None:
            self._reflect(self.mirror, frame, time)
        last = self.last
        if not abs(time) <= LONGEST_TIME or (last is not None and last - self.settings.max_gap <= time <= last):
            return
        if last is None or not 0 < time - last <= self.settings.max_gap:
            self._begin(time)
        self.last = time
        points, missing = self.holder.fill(frame)
        self.measured_at[~missing] = time
        confidence = np.where(missing, 1.0, np.clip(frame[:, 2], 0.0, 1.0))  # of a missing joint nothing is said
        held = np.minimum(time - self.measured_at, 1.0)
        self.kept.append((number, Seen(time, self.start, points.copy(), missing, confidence, held)))
        while abs(time - self.kept[0][1].time) > KEPT_SECONDS:
            self.mirrored.pop(self.kept.popleft()[0], None)

    def finish(self) -> None:
        """End the sequence, before the stream's own `finish`, whose results can then be estimated."""
        if self.mirror is not None:
            self._take(self.mirror.finish())
        self.last = None

    def estimate(self, result: PoseResult) -> DoubtEstimate | None:
        """The doubt of a result, as the stream gave it; None where its frame is no longer kept."""
        signs = self.signs(result)
        return None if signs is None else self.model.estimate(signs)

    def signs(self, result: PoseResult) -> FloatArray | None:
        """What speaks against each joint of a result, (17, F), or (17, F + 2) where the mirrored pose is there."""
        own = next((seen for number, seen in reversed(self.kept) if number == result.frame), None)
        if own is None:
            return None
        newest = own.time + min(NEAR, result.lookahead_ms / 1000 + 1e-3)
        frames = [seen for _, seen in self.kept if own.time - NEAR <= seen.time <= newest and seen.start == own.start]
        signs = self.measured.measure(result, frames, next(at for at, seen in enumerate(frames) if seen is own))
        other = self.mirrored.get(result.frame)
        return signs if other is None else np.concatenate([signs, disagreement(result.pose, other)], axis=-1)

    def _begin(self, time: float) -> None:
        self.start = time
        self.holder.forget()
        self.measured_at[:] = -np.inf

    def _reflect(self, mirror: Stream, frame: FloatArray, time: float) -> None:
        turned = frame[list(self.seen.mirror)]
        turned[:, 0] = self.settings.image_size[0] - turned[:, 0]
        result = mirror.push(turned, time)
        self._take([] if result is None else [result, *iter(mirror.read, None)])

    def _take(self, results: list[PoseResult]) -> None:
        for result in results:
            self.mirrored[result.frame] = mirrored(result.pose, self.lifted)
