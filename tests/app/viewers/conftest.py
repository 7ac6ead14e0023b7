"""Views as a pipeline hands them to viewers: rendered people who walk, with exact poses."""

from dataclasses import replace

import numpy as np
import pytest
from app import figures

from pstmo_edge.app.types import Detections, Frame, PersonPose, View
from pstmo_edge.datasets import load_sequences
from pstmo_edge.streaming import PoseResult

SIZE = (320, 240)
FRAMES = 24
BESIDE = np.array([0.9, 0, 0.4])  # of person 1, in metres, where person 2 walks


def result_of(pose, timestamp, frame, **flags):
    plain = {"degraded": False, "stale": False, "gap": False} | flags
    return PoseResult(
        pose=pose, timestamp=timestamp, frame=frame, lookahead_ms=flags.pop("lookahead_ms", 0.0),
        missing=np.zeros(17, bool), regained=np.zeros(17, bool), filled_frames=0,
        **{k: plain[k] for k in ("degraded", "stale", "gap")},
    )  # fmt: skip


@pytest.fixture(scope="session")
def joints():
    """(N, 17, 3) joints of one walk in the camera frame."""
    take = next(sequence for sequence in load_sequences() if sequence.action == "Walking 1001")
    return figures.joints_of(take)[:FRAMES]


@pytest.fixture(scope="session")
def pictures(joints):
    return [figures.picture([each, each + BESIDE], figures.FOCAL * SIZE[0], SIZE) for each in joints]


@pytest.fixture
def views(joints, pictures):
    """`views(delay)`: two people's views, every pose `delay` frames after its own; person 2 is in doubt."""

    def make(delay=0, timestamps=None):
        times = np.arange(FRAMES) / 30 if timestamps is None else timestamps
        frames = [Frame(i, float(times[i]), SIZE, pictures[i]) for i in range(FRAMES)]
        made = []
        for index, frame in enumerate(frames):
            ready = poses_at(joints, index - delay, float(times[index - delay]), delay) if index >= delay else ()
            keypoints = np.stack([pose.keypoints for pose in poses_at(joints, index, frame.timestamp, 0)])
            latency = {"detect": 11.0, "lift": 2.5, "total": 14.0 + index}
            made.append(
                View(frame, Detections(keypoints, "human36m-17"), ready, joined=(1, 2) if index == delay else (),
                     status=f"30.0 FPS, frame {index}", latency_ms=latency)
            )  # fmt: skip
        return made

    return make


def poses_at(joints, index, timestamp, delay):
    made = []
    for person, shift in ((1, [0, 0, 0]), (2, BESIDE)):
        here = joints[index] + shift
        keypoints = np.concatenate([figures.pixels_of(here, SIZE), np.full((17, 1), 0.9)], 1).astype(np.float32)
        flags = {"degraded": person == 2 and index >= 8, "stale": person == 2 and index >= 16}
        result = result_of(here - here[0], timestamp, index, **flags)
        result = replace(result, lookahead_ms=delay / 30 * 1000)
        made.append(
            PersonPose(person, result, keypoints, result.pose, np.full(17, 20.0 * person), person == 2, here[0])
        )
    return tuple(made)
