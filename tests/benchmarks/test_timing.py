"""Timing, with a clock that only the engines move."""

import time

import numpy as np
import pytest

from pstmo_edge.benchmarks.timing import TimingPlan, best_batch, summarise, time_interleaved

PLAN = TimingPlan(rounds=4, slice_s=0.1, settle_s=0.02, warmup_s=0.05)
WINDOWS = [np.full((1, 9, 17, 2), number, np.float32) for number in range(3)]


class Clock:
    def __init__(self):
        self.now = 0
        self.order = []

    def __call__(self):
        return self.now

    def engine(self, name, milliseconds):
        """An engine that takes the given times in turns."""
        count = 0

        def infer(window):
            nonlocal count
            assert window.shape == (1, 9, 17, 2)
            self.now += int(milliseconds[count % len(milliseconds)] * 1e6)
            count += 1
            if self.order[-1:] != [name]:
                self.order.append(name)

        return infer


def test_known_latencies_come_out_exactly():
    clock = Clock()
    engines = {0: (clock.engine("a", [2.0]), WINDOWS), 1: (clock.engine("b", [1.0, 3.0]), WINDOWS)}
    found = time_interleaved(engines, PLAN, clock=clock)
    assert (found[0].p50_ms, found[0].p99_ms, found[0].mean_ms, found[0].fps) == (2.0, 2.0, 2.0, 500.0)
    assert found[0].samples == 4 * 50  # 0.1 s in pieces of 2 ms, the settling not counted
    assert found[0].noise == 0
    assert found[1].p50_ms in (1.0, 2.0, 3.0)
    assert found[1].p90_ms == 3.0
    assert found[1].mean_ms == pytest.approx(2.0, abs=0.05)


def test_engines_take_turns_and_the_order_rotates():
    clock = Clock()
    engines = {number: (clock.engine(number, [5.0]), WINDOWS) for number in range(3)}
    time_interleaved(engines, PLAN, clock=clock)
    warm_up, rounds = clock.order[:3], clock.order[3:]
    assert warm_up == [0, 1, 2]
    # Where one round ends with the engine the next begins with, the two slices look like one.
    assert rounds == [0, 1, 2, 1, 2, 0, 2, 0, 1, 0, 1, 2]


def test_the_first_windows_do_not_count():
    clock = Clock()
    times = iter([500.0] + [1.0] * 10_000)

    def infer(window):
        clock.now += int(next(times) * 1e6)

    assert time_interleaved({0: (infer, WINDOWS)}, PLAN, clock=clock)[0].p99_ms == 1.0


def test_a_slow_engine_is_still_sampled_once_a_round():
    clock = Clock()
    found = time_interleaved({0: (clock.engine("slow", [900.0]), WINDOWS)}, PLAN, clock=clock)
    assert found[0].samples == PLAN.rounds
    assert found[0].p50_ms == 900.0


def test_an_engine_that_raises_does_not_stop_the_others():
    clock = Clock()
    left = 30

    def breaks(window):
        nonlocal left
        left -= 1
        clock.now += 1_000_000
        if left < 0:
            raise RuntimeError("out of memory")

    found = time_interleaved({0: (breaks, WINDOWS), 1: (clock.engine("b", [4.0]), WINDOWS)}, PLAN, clock=clock)
    assert isinstance(found[0], RuntimeError)
    assert found[1].p50_ms == 4.0


def test_progress_ends_at_one():
    clock, told = Clock(), []
    time_interleaved({0: (clock.engine("a", [2.0]), WINDOWS)}, PLAN, advance=told.append, clock=clock)
    assert told == [0.25, 0.5, 0.75, 1.0]


def test_noise_is_half_the_range_of_the_medians():
    latency = summarise([[1_000_000] * 5, [1_200_000] * 5, [1_100_000] * 5])
    assert latency.round_p50_ms == (1.0, 1.2, 1.1)
    assert latency.noise == pytest.approx(0.1 / 1.1)


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"slice_s": 0.0}, {"settle_s": -1.0}])
def test_a_plan_that_measures_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="nothing would be measured"):
        TimingPlan(**wrong)


def test_the_harness_adds_less_than_two_per_cent_to_a_millisecond():
    """An engine that spins for exactly 1 ms by the clock: what is measured above that is the harness's own."""

    def infer(window):
        end = time.perf_counter_ns() + 1_000_000
        while time.perf_counter_ns() < end:
            pass

    plan = TimingPlan(rounds=4, slice_s=0.1, settle_s=0.01, warmup_s=0.01)
    found = time_interleaved({0: (infer, WINDOWS)}, plan)[0]
    assert 1.0 <= found.p50_ms < 1.02, f"{found.p50_ms:.4f} ms for an engine of 1 ms"
    # Between two windows it does next to nothing, so the times of all add up to the slices'.
    assert found.samples * found.mean_ms / 1e3 > 0.98 * plan.rounds * plan.slice_s


def test_percentiles_of_a_known_distribution():
    """Latencies drawn from a lognormal distribution, whose quantiles are known: exp(m + s z)."""
    rng = np.random.default_rng(3)
    middle, spread = np.log(2.0), 0.25
    rounds = [np.exp(middle + spread * rng.standard_normal(50_000)) * 1e6 for _ in range(4)]
    found = summarise(rounds)
    for measured, z in ((found.p50_ms, 0.0), (found.p90_ms, 1.281552), (found.p99_ms, 2.326348)):
        assert measured == pytest.approx(np.exp(middle + spread * z), rel=0.01)
    assert found.mean_ms == pytest.approx(np.exp(middle + spread**2 / 2), rel=0.005)
    assert found.percentiles_ms[10] == found.p50_ms
    assert found.percentiles_ms[18] == found.p90_ms
    assert len(found.percentiles_ms) == 21
    assert list(found.percentiles_ms) == sorted(found.percentiles_ms)


def test_jitter_is_the_mean_step_within_a_round():
    found = summarise([[1e6, 3e6, 2e6], [9e6, 9e6]])
    assert found.jitter_ms == pytest.approx((2 + 1 + 0) / 3), "the step from one round to the next is none"


def test_the_best_batch_is_where_doubling_stops_to_pay():
    clock = Clock()

    def infer(windows):
        clock.now += int((1.0 + 0.1 * min(len(windows), 8) + 1.0 * max(0, len(windows) - 8)) * 1e6)

    def batches(size):
        return [np.zeros((size, 9, 17, 2), np.float32)]

    assert best_batch(infer, batches, clock=clock) == 8
