"""How far a pose can be trusted: the expected error of each joint in millimetres, calibrated on data.

What speaks against a pose is measured beside the stream (`doubt_signs`); a regression with a log link (quasi-Poisson:
McCullagh & Nelder, Generalized Linear Models, 2nd ed. 1989, section 9.2) turns it into the expected error. Its
coefficients are fitted by `pstmo_edge.benchmarks.doubt` on the training split, with a detector's errors and lost
joints, for one set of weights, by whose SHA-256 they are kept: other weights have no doubt until it is fitted for them.
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
from pstmo_edge.filling import Holder
from pstmo_edge.skeletons import get_skeleton
from pstmo_edge.streaming import PoseResult, StreamSettings, as_frame

if TYPE_CHECKING:
    from pstmo_edge.engine import Engine

FILE = "data/doubt.json"


@dataclass(frozen=True)
class DoubtEstimate:
    """The expected error of a pose in millimetres.

    `per_joint_mm` (17,) of each joint (0 at the root, which is the origin), `pose_mm` their mean, and `doubtful`
    whether that is more than the model's `limit_mm`.
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
        own = {each.name: _array(values[each.name]) for each in fields(cls) if each.name != "motion"}
        motion = {each.name: _array(values["motion"][each.name]) for each in fields(Motion)}
        return cls(**own, motion=Motion(**motion))

    def to_dict(self) -> dict[str, Any]:
        """Plain values of five digits, for JSON."""
        plain = {name.name: _plain(getattr(self, name.name)) for name in fields(self) if name.name != "motion"}
        motion = {name.name: _plain(getattr(self.motion, name.name)) for name in fields(self.motion)}
        return {**plain, "signs": [*SIGNS, *MIRROR_SIGNS], "motion": motion}

    def expected(self, signs: FloatArray) -> FloatArray:
        """The expected error (..., 17), millimetres, of signs (..., 17, F), or (..., 17, F + 2) with the mirror's."""
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


def _array(value: Any) -> Any:
    return np.array(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(each) for each in value]
    return float(f"{value:.5g}") if isinstance(value, (float, np.floating)) else value


class DoubtTracker:
    """The doubt of one person's poses, told as they come.

    `settings` are those of the person's stream. A result that follows its predecessor by more than `max_gap`, or lies
    before it, begins a new sequence. Raises DataError where model and engine read other joints. Not for use from two
    threads at once.
    """

    def __init__(self, engine: Engine, settings: StreamSettings, model: DoubtModel) -> None:
        self.model, self.settings = model, settings
        manifest = engine.manifest
        if (manifest.input.skeleton, manifest.output.skeleton) != (model.keypoint_skeleton, model.pose_skeleton):
            raise DataError(f"the doubt model is of {model.keypoint_skeleton} and the engine of other joints")
        self._joints = get_skeleton(model.keypoint_skeleton).num_joints
        self._signs = Signs(manifest.input, get_skeleton(model.pose_skeleton), model.keypoint_skeleton, model.motion)
        self._holder = Holder(settings.image_size, settings.min_confidence, 2)
        self._recent: deque[Seen] = deque()
        self._start = 0.0
        self._measured_at = np.full(self._joints, -np.inf)

    def estimate(
        self, result: PoseResult, keypoints: FloatArray | None, mirrored: FloatArray | None = None
    ) -> DoubtEstimate:
        """The doubt of a stream's next result.

        `keypoints` are those of the result's own frame, (17, 2) pixels or (17, 3) with confidence, None where it has
        none. `mirrored` is the pose (17, 3) of the mirrored window, turned back, where the app affords a second forward
        a pose. Raises DataError for another shape.
        """
        return self.model.estimate(self.signs(result, keypoints, mirrored))

    def signs(self, result: PoseResult, keypoints: FloatArray | None, mirrored: FloatArray | None = None) -> FloatArray:
        """What speaks against each joint of a stream's next result, (17, F), or (17, F + 2) with `mirrored`."""
        self._see(np.zeros((self._joints, 3)) if keypoints is None else keypoints, result.timestamp)
        signs = self._signs.measure(result, self._recent)
        return signs if mirrored is None else np.concatenate([signs, disagreement(result.pose, mirrored)], axis=-1)

    def _see(self, keypoints: FloatArray, time: float) -> None:
        frame = as_frame(keypoints)
        if not self._recent or not 0 < time - self._recent[-1].time <= self.settings.max_gap:
            self._start = time
            self._recent.clear()
            self._holder.forget()
            self._measured_at[:] = -np.inf
        points, missing, _ = self._holder.fill(frame, time)
        self._measured_at[~missing] = time
        confidence = np.where(missing, 1.0, np.clip(frame[:, 2], 0.0, 1.0))  # of a missing joint nothing is said
        held = np.minimum(time - self._measured_at, 1.0)
        self._recent.append(Seen(time, self._start, points.copy(), missing, confidence, held))
        while time - self._recent[0].time > NEAR:
            self._recent.popleft()
