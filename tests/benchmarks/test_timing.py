"""Timing, with a clock that only the engines move."""

import numpy as np
import pytest

from pstmo_edge.benchmarks.timing import TimingPlan, summarise, time_interleaved

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
