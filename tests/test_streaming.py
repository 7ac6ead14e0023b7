"""Streams: equal to batches, the native one equal to its NumPy twin, and every frame accounted for."""

import dataclasses

import numpy as np
import pytest
from native_build import native_bundle

import pstmo_edge as pe
from pstmo_edge.cameras import normalise_screen
from pstmo_edge.clock import Clock
from pstmo_edge.errors import DataError, UsageError
from pstmo_edge.kernels import native
from pstmo_edge.kernels.abi import NativeEngine, NativeStream
from pstmo_edge.reference_stream import ReferenceStream
from pstmo_edge.streaming import StreamSettings
from pstmo_edge.windows import WindowSpec, window_indices

SIZE = (1920, 1080)
needs_library = pytest.mark.skipif(not native.available(), reason=f"no native library: {native.why_unavailable()}")


@pytest.fixture(params=["onnxruntime", pytest.param("native", marks=needs_library)])
def engine(request):
    """An engine of 9 frames at 50 a second, in a ready runtime and in the native library."""
    if request.param == "native":
        return pe.load_engine(native_bundle("tiny"), threads=1)
    return pe.load_engine(request.getfixturevalue("small_engine"), threads=1)


@pytest.fixture
def native_engine():
    return pe.load_engine(native_bundle("tiny"), threads=1)


def motion(length: int, seed: int = 0) -> np.ndarray:
    """Smooth pixels (L, 17, 2) of a person who moves about."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 3, (length, 17, 2)) + rng.normal(0, 3, (length, 1, 2))
    return (rng.uniform(300, 900, (17, 2)) + steps.cumsum(axis=0)).astype(np.float32)


def collect(stream, pixels, times):
    results = [stream.push(frame, time) for frame, time in zip(pixels, times, strict=True)]
    return [result for result in results if result is not None] + stream.finish()


@pytest.mark.parametrize("lookahead", [0, 1, 4, None])
def test_a_stream_equals_batches_bit_for_bit(engine, lookahead):
    given = engine.manifest.input
    length = 40
    pixels, times = motion(length), np.arange(length) / given.frame_rate
    results = collect(engine.stream(SIZE, given.frame_rate, lookahead), pixels, times)
    ahead = given.lookahead_frames if lookahead is None else lookahead
    indices = window_indices(length, np.arange(length), WindowSpec(given.frames))
    newest = np.minimum(np.arange(length) + ahead, length - 1)
    windows = normalise_screen(pixels, SIZE)[np.minimum(indices, newest[:, None])]
    assert [result.frame for result in results] == list(range(length))
    for i, result in enumerate(results):
        np.testing.assert_array_equal(result.pose, engine.infer(windows[i : i + 1])[0])
        assert result.valid
        assert result.timestamp == times[i]
        assert result.lookahead_ms == pytest.approx(1000 * (times[newest[i]] - times[i]))


@needs_library
def test_the_native_stream_is_the_library_s(native_engine):
    assert isinstance(native_engine.stream(SIZE), NativeStream)
    assert isinstance(native_engine.stream(SIZE, fps=25, lookahead=None), NativeStream)


def hostile(rng, fps: float, length: int):
    """Frames as cameras and detectors bring them on a bad day: (17, 3) pixels and a timestamp each."""
    time, hidden = 0.0, np.zeros(17, bool)
    often, seldom = rng.choice([0.01, 0.1, 0.4]), rng.choice([0.1, 0.4])
    for pixels in motion(length, int(rng.integers(2**31))):
        luck = rng.random()
        time += (1 + rng.normal(0, 0.05)) / fps + (rng.exponential(0.3) if luck < 0.03 else 0)
        frame = np.concatenate([pixels, rng.uniform(0.25, 1, (17, 1))], axis=1)
        hidden = rng.random(17) < np.where(hidden, 1 - seldom, often)
        frame[hidden, 2] = 0
        if rng.random() < 0.1:
            frame[:, 2] = 0
        if rng.random() < 0.05:
            frame[rng.integers(17), rng.integers(3)] = rng.choice([np.nan, np.inf, 1e30, -1e39])
        yield frame, float(rng.choice([np.nan, time - 0.05, time - 5, np.inf, time])) if luck > 0.97 else time


@needs_library
@pytest.mark.parametrize("seed", range(24))
def test_the_native_stream_equals_its_twin_on_anything(native_engine, seed):
    rng = np.random.default_rng(seed)
    fps = float(rng.choice([10, 25, 29.97, 30, 49.5, 50, 60, 120]))
    lookahead = [0, 1, 4, None][rng.integers(4)]
    max_gap, backlog = float(rng.choice([0.2, 0.5, 2])), int(rng.choice([1, 8]))
    settings = StreamSettings(SIZE, fps, lookahead, max_gap, backlog=backlog)
    ours, twin = native_engine.native_stream(settings), ReferenceStream(native_engine, settings)
    compared = 0
    for frame, time in hostile(rng, fps, 200):
        assert_same(ours.push(frame, time), twin.push(frame, time))
        if rng.random() < 0.1:
            assert_same(ours.read(), twin.read())
        counters = ours.counters
        assert counters == twin.counters
        assert counters.received == counters.delivered + counters.dropped + counters.rejected + counters.pending
        compared += 1
    rest = list(zip(ours.finish(), twin.finish(), strict=True))
    for one, other in rest:
        assert_same(one, other)
    assert compared == 200
    assert ours.counters.pending == 0
    assert ours.counters.delivered > 50


def assert_same(one, other):
    assert (one is None) == (other is None)
    if one is not None:
        for field in dataclasses.fields(one):
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)
        assert np.isfinite(one.pose).all()


def lost(pixels: np.ndarray, joint: int, first: int, end: int) -> np.ndarray:
    broken = pixels.copy()
    broken[first:end, joint] = np.nan
    return broken


@pytest.mark.parametrize("lookahead", [0, 2, 4])
def test_missing_joints_are_held_interpolated_and_flagged(engine, lookahead):
    """Held until they are seen again; the poses that know of that, and all later ones, have them interpolated."""
    pixels, times = motion(40), np.arange(40) / 50
    body = np.zeros((40, 2))  # how far it has moved
    body[1:] = np.diff(np.delete(pixels, 5, axis=1).mean(1), axis=0).cumsum(0)
    held, passed = pixels.copy(), pixels.copy()
    held[10:13, 5] = pixels[9, 5] + body[10:13] - body[9]
    share = np.arange(1, 4)[:, None] / 4
    off = pixels[13, 5] - (pixels[9, 5] + body[13] - body[9])
    passed[10:13, 5] = held[10:13, 5] + share * off
    before, after = (collect(engine.stream(SIZE, 50, lookahead), each, times) for each in (held, passed))
    results = collect(engine.stream(SIZE, 50, lookahead), lost(pixels, 5, 10, 13), times)
    for i, result in enumerate(results):
        known = i + lookahead >= 13
        reference = (after if known else before)[i]
        np.testing.assert_allclose(result.pose, reference.pose, atol=2e-5)  # pixels are rounded once more here
        assert result.degraded == (10 - lookahead <= i < 17)
        assert list(np.flatnonzero(result.missing)) == ([5] if 10 <= i < 13 else [])
        assert list(np.flatnonzero(result.regained)) == ([5] if 10 <= i < 13 and known else [])
        assert not result.stale
        assert not result.gap


def test_a_pose_knows_the_frames_it_waited_for_and_no_later_one(engine):
    """Whenever it is read: each pose equals, bit for bit, the one of a stream that ended with its newest frame."""
    length, ahead, times = 40, 3, np.arange(40) / 50
    pixels = motion(length)
    missing = np.random.default_rng(3).random((length, 17)) < 0.4
    missing[5:12, 3] = missing[20:29, 8:] = missing[:6, 1] = True
    frames = np.concatenate([pixels, ~missing[..., None]], axis=2)
    at_once = collect(engine.stream(SIZE, 50, ahead), frames, times)
    late = engine.stream(SIZE, 50, ahead, backlog=length)
    for frame, time in zip(frames, times, strict=True):
        late.feed(frame, time)
    for i, (one, other) in enumerate(zip(at_once, late.finish(), strict=True)):
        assert_same(one, other)
        cut = min(i + ahead + 1, length)
        assert_same(one, collect(engine.stream(SIZE, 50, ahead), frames[:cut], times[:cut])[i])
    assert sum(result.regained.sum() for result in at_once) > 50


def test_held_joints_stay_where_too_few_tell_how_the_body_moves(engine):
    """Three hands that wave are no body."""
    pixels, times = motion(30), np.arange(30) / 50
    few = np.arange(17) < 3
    held = pixels.copy()
    held[12:, ~few] = pixels[11, ~few]
    broken = pixels.copy()
    broken[12:, ~few] = np.nan
    clean = collect(engine.stream(SIZE, 50), held, times)
    for result, reference in zip(collect(engine.stream(SIZE, 50), broken, times), clean, strict=True):
        np.testing.assert_array_equal(result.pose, reference.pose)


def test_nobody_there_is_stale_then_a_gap_then_clean_again(engine):
    pixels, times = motion(100), np.arange(100) / 50
    confidence = np.ones((100, 17, 1), np.float32)
    confidence[20:60] = 0
    stream = engine.stream(SIZE, 50)
    frames = np.concatenate([pixels, confidence], axis=2)
    results = {result.frame: result for result in collect(stream, frames, times)}
    assert set(results) == set(range(45)) | set(range(60, 100))
    assert all(results[i].stale and results[i].missing.all() for i in range(20, 45))
    assert [results[i].gap for i in range(60, 66)] == [True] * 4 + [False] * 2
    fresh = collect(engine.stream(SIZE, 50), frames[60:], times[60:])
    for i in range(60, 100):
        np.testing.assert_array_equal(results[i].pose, fresh[i - 60].pose)
    assert stream.counters.gaps == 1
    assert stream.counters.dropped == stream.counters.dropped_empty == 15


def test_a_rejected_frame_changes_nothing(engine):
    pixels, times = motion(20), np.arange(20) / 50
    plain = collect(engine.stream(SIZE, 50), pixels, times)
    stream = engine.stream(SIZE, 50)
    results = []
    for frame, time in zip(pixels, times, strict=True):
        results.append(stream.push(frame, time))
        for bad in (time, time - 0.01, np.nan, np.inf, 2e10):
            assert stream.push(frame + 100, bad) is None
    for one, other in zip(results, plain, strict=True):
        np.testing.assert_array_equal(one.pose, other.pose)
    assert stream.counters.rejected == 100


def test_without_timestamps_frames_come_at_the_camera_s_rate(engine):
    stream = engine.stream(SIZE, 50)
    results = [stream.push(frame) for frame in motion(10)]
    assert [round(result.timestamp * 50) for result in results] == list(range(10))
    assert all(result.valid for result in results)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": (0, 1080)}, "0 x 1080"),
        ({"fps": 0}, "fps is 0"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"lookahead": 5}, "this model has 0 to 4"),
        ({"lookahead": -1}, "this model has 0 to 4"),
        ({"max_gap": 0}, "max_gap is 0"),
        ({"max_gap": 0.03}, "two frames"),
        ({"min_confidence": -1}, "min_confidence is -1"),
        ({"backlog": 0}, "backlog is 0"),
    ],
)
def test_wrong_settings_are_refused(engine, changes, words):
    with pytest.raises(UsageError, match=words):
        engine.stream(**{"image_size": SIZE, "fps": 50, **changes})


def test_wrong_frames_and_joint_sets_are_refused(engine):
    with pytest.raises(DataError, match=r"shape \(17, 4\)"):
        engine.stream(SIZE, 50).push(np.zeros((17, 4)))
    with pytest.raises(DataError, match="map the joints first"):
        engine.stream(SIZE, 50, skeleton="coco-17")
    assert engine.stream(SIZE, 50, skeleton="human36m-17").counters.received == 0


@needs_library
def test_the_library_says_what_the_manifest_says(native_engine):
    given, info = native_engine.manifest.input, NativeEngine(native_engine.path, 1).info
    assert (info["frames"], info["frame_rate"], info["t_downsample"]) == (given.frames, given.frame_rate, 1)
    assert (info["skeleton"], info["precision"]) == (given.skeleton, "fp32")
    assert info["lookahead_ms"] == given.lookahead_ms


def test_the_clock_takes_a_whole_fraction_of_the_model_s_rate(small_engine):
    given = pe.load_engine(small_engine).manifest.input.model_copy(update={"t_downsample": 3})
    assert [Clock(given, fps).steps for fps in (10, 16.7, 25, 34, 50, 500)] == [1, 1, 1, 2, 3, 3]
    assert Clock(given, 50).locked
    assert not Clock(given, 25).locked
