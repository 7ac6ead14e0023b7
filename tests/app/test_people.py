"""People over real engines: each person's poses are those of a stream of its own, whatever others do."""

import dataclasses

import numpy as np
import pytest
from native_build import native_bundle

import pstmo_edge as pe
from pstmo_edge.app.people import People
from pstmo_edge.app.tracking import TrackerSettings
from pstmo_edge.app.types import Detections, Frame
from pstmo_edge.errors import DataError
from pstmo_edge.kernels import native
from pstmo_edge.streaming import StreamSettings

SIZE, FPS = (1000, 1002), 50.0
needs_library = pytest.mark.skipif(not native.available(), reason=f"no native library: {native.why_unavailable()}")


@pytest.fixture(params=["onnxruntime", pytest.param("native", marks=needs_library)])
def engine(request):
    if request.param == "native":
        return pe.load_engine(native_bundle("tiny"), threads=1)
    return pe.load_engine(request.getfixturevalue("small_engine"), threads=1)


def settings(lookahead=None, **changes):
    return StreamSettings(SIZE, FPS, lookahead, **changes)


def walkers(count, length, seed=0):
    """(L, N, 17, 3): people who sway on their places, far enough apart."""
    rng = np.random.default_rng(seed)
    shapes = rng.uniform(-80, 80, (count, 17, 2)) + np.linspace(150, 850, count)[:, None, None]
    paths = shapes + rng.normal(0, 1.5, (length, count, 17, 2)).cumsum(0)
    return np.concatenate([paths, np.full((length, count, 17, 1), 0.9)], axis=-1)


def run(people, frames, ids=None, times=None, size=SIZE):
    """All poses of frames (a list of (N, 17, 3)), by person."""
    poses = {}
    updates = []
    for index, keypoints in enumerate(frames):
        time = index / FPS if times is None else times[index]
        found = Detections(np.array(keypoints).reshape(-1, 17, 3), "human36m-17", None if ids is None else ids[index])
        updates.append(people.update(Frame(index, time, size), found))
    updates.append(people.finish())
    for update in updates:
        for pose in update.poses:
            poses.setdefault(pose.person, []).append(pose)
    return poses, updates


@pytest.mark.parametrize("lookahead", [0, 3])
def test_each_person_has_the_poses_of_its_own_stream(engine, lookahead):
    moving = walkers(3, 30)
    poses, _ = run(People(engine, settings(lookahead)), list(moving))
    assert sorted(poses) == [0, 1, 2]
    for person, found in poses.items():
        stream = engine.stream(SIZE, FPS, lookahead)
        alone = [stream.push(frame, i / FPS) for i, frame in enumerate(moving[:, person])]
        alone = [each for each in alone if each is not None] + stream.finish()
        assert [pose.result.frame for pose in found] == list(range(30))
        for pose, expected in zip(found, alone, strict=True):
            # The batch of a ready runtime may add in another order.
            np.testing.assert_allclose(pose.pose, expected.pose, atol=1e-5)
            assert pose.flag == "valid"
            assert pose.result.lookahead_ms == expected.lookahead_ms
            np.testing.assert_allclose(pose.keypoints, moving[pose.result.frame, person])


def test_a_person_who_is_hidden_is_stale_and_nobody_else_is(engine):
    moving = walkers(2, 40)
    frames = [moving[i] if not 15 <= i < 20 else moving[i, :1] for i in range(40)]
    people = People(engine, settings(0))
    poses, updates = run(people, frames)
    assert [len(found) for found in poses.values()] == [40, 40]
    assert {pose.flag for pose in poses[0]} == {"valid"}
    assert [pose.result.frame for pose in poses[1] if pose.result.stale] == list(range(15, 20))
    assert all(pose.flag in ("degraded", "stale") for pose in poses[1][15:24])
    assert people.counters.held == 5
    assert [update.left for update in updates[:-1]] == [()] * 40


def test_who_left_is_told_once_and_comes_back_as_another(engine):
    moving = walkers(2, 80)
    frames = [moving[i] if not 10 <= i < 50 else moving[i, :1] for i in range(80)]  # away for 0.8 s
    people = People(engine, settings(0))
    poses, updates = run(people, frames)
    assert sorted(poses) == [0, 1, 2]
    assert [update.joined for update in updates if update.joined] == [(0, 1), (2,)]
    assert [update.left for update in updates[:-1] if update.left] == [(1,)]
    assert {pose.flag for pose in poses[0]} == {"valid"}
    assert poses[2][0].result.frame == 50


def test_numbers_of_a_source_are_kept_and_a_jump_resets_that_person_only(engine):
    moving = walkers(2, 60)
    moving[30:, 1, :, :2] += 400 * np.array([-1, 1])  # person 9 is another one from here on
    people = People(engine, settings(0))
    poses, _ = run(people, list(moving), ids=[(4, 9)] * 60)
    assert sorted(poses) == [4, 9]
    assert {pose.flag for pose in poses[4]} == {"valid"}
    assert people.counters.jumps == 1
    flags = [pose.flag for pose in poses[9]]
    behind = engine.manifest.input.target_index * engine.manifest.input.t_downsample
    assert flags == ["valid"] * 30 + ["gap"] * behind + ["valid"] * (30 - behind)
    fresh = engine.stream(SIZE, FPS, 0)
    expected = [fresh.push(frame, i / FPS).pose for i, frame in enumerate(moving[30:, 1])]
    np.testing.assert_allclose([pose.pose for pose in poses[9][30:]], expected, atol=1e-5)


def test_another_size_of_the_picture_ends_all_sequences(engine):
    moving = walkers(1, 20)
    people = People(engine, settings(0))
    first, _ = run(people, list(moving))
    found = Detections(moving[0], "human36m-17")
    update = people.update(Frame(20, 20 / FPS, SIZE), found)
    assert update.joined == (1,)
    update = people.update(Frame(21, 21 / FPS, (SIZE[1] * 2, SIZE[0])), found)
    assert update.left == (1,)
    assert update.joined == (2,)
    assert len(first[0]) == 20


def test_every_detection_and_every_frame_is_accounted_for(engine):
    rng = np.random.default_rng(5)
    moving = walkers(4, 200, seed=5)
    frames, times, time = [], [], 0.0
    for keypoints in moving:
        keypoints = keypoints[rng.random(4) < 0.9].copy()
        keypoints[rng.random(keypoints.shape[:2]) < 0.2, 2] = 0
        if rng.random() < 0.05 and len(keypoints):
            keypoints[0, 0] = np.nan
        frames.append(keypoints)
        time += rng.choice([0.02, 0.021, 0.0, 0.3, 0.9], p=[0.8, 0.1, 0.04, 0.04, 0.02])
        times.append(time)
    people = People(engine, settings(2), TrackerSettings(most_people=3))
    poses, _ = run(people, frames, times=times)
    counters, streams = people.counters, people.streams
    assert counters.detected == counters.tracked + counters.twins + counters.unsure + counters.crowded
    assert counters.crowded > 0
    assert counters.unsure + counters.twins >= 0
    assert streams.received == counters.tracked + counters.held
    assert streams.pending == 0
    assert streams.received == streams.delivered + streams.dropped + streams.rejected
    assert streams.rejected > 0
    assert counters.poses == streams.delivered == sum(map(len, poses.values()))
    assert all(np.isfinite(pose.pose).all() for found in poses.values() for pose in found)
    assert all(pose.flag != "valid" for found in poses.values() for pose in found if pose.result.missing.any())


def test_joints_that_the_engine_does_not_read_are_refused(engine):
    people = People(engine, settings(0))
    with pytest.raises(DataError, match="p-stmo-s-27-coco"):
        people.update(Frame(0, 0.0, SIZE), Detections(np.zeros((1, 33, 3)), "blazepose-33"))


def test_memory_is_that_of_the_people_present(engine):
    """Whoever has left leaves one sum of counters."""
    moving = walkers(1, 1)[0]
    people = People(engine, settings(None))
    for index in range(30):
        people.update(Frame(index, float(index), SIZE), Detections(moving, "human36m-17"))
    assert len(people._people) == 1
    assert len(people._ended) == 1
    assert people.streams.received == 30
    assert dataclasses.asdict(people.counters)["tracked"] == 30
