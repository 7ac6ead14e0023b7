import itertools

import numpy as np
import pytest

from pstmo_edge.calib.mixing import LayerTime, choose_mix, modelled_times
from pstmo_edge.calib.sensitivity import LayerCost, Sensitivity
from pstmo_edge.targets import TARGETS


def costs(values, error=45.0):
    layers = tuple(LayerCost(name, 0.0, cost, 0.0) for name, cost in values.items())
    return Sensitivity(layers, error, 1.0, 64)


def test_the_mix_is_the_best_of_all_that_fit():
    rng = np.random.default_rng(0)
    for _ in range(5):
        names = [f"l{number}" for number in range(9)]
        values = dict(zip(names, rng.uniform(0.05, 0.5, 9), strict=True))
        times = {name: LayerTime(time, 0.4 * time) for name, time in zip(names, rng.uniform(1, 9, 9), strict=True)}
        mix = choose_mix(costs(values), times, 1.0)
        assert mix.expected_mm <= 1.0
        best = max(
            sum(times[name].saved for name in subset)
            for size in range(10)
            for subset in itertools.combinations(names, size)
            if sum(values[name] for name in subset) <= 0.99
        )
        assert sum(times[name].saved for name in mix.integers) >= best
        total = sum(time.fp32 for time in times.values())
        assert mix.time == pytest.approx(1 - sum(times[name].saved for name in mix.integers) / total)


def test_what_saves_no_time_or_is_not_worth_its_cost_stays_in_float():
    times = {"body": (98, 30), "slower": (1, 2), "end": (1, 0.4), "native end": (9, 1)}
    times = {name: LayerTime(*both) for name, both in times.items()}
    found = costs({"body": 0.02, "slower": 0.0, "end": 0.4, "native end": 0.0})
    # 40 % of the bound for 0.6 % of the time is too much, 8 % is not.
    assert choose_mix(found, times, 1.0, ["native end"]).integers == ("body",)
    assert choose_mix(found, times, 5.0, ["native end"]).integers == ("body", "end")
    assert choose_mix(found, times, 5.0).integers == ("body", "end", "native end")
    assert choose_mix(found, times, 0.01, ["native end"]).integers == ()
    assert choose_mix(found, times, 0.0).integers == ("native end",)


def test_a_bound_on_jitter_keeps_trembling_layers_in_float():
    layers = tuple(LayerCost(name, 0.0, 0.01, 0.0, jitter) for name, jitter in {"a": 0.1, "b": 0.4, "c": 3.0}.items())
    found = Sensitivity(layers, 45.0, 1.0, 64, accelerations_mm=(3.0,))
    times = {name: LayerTime(10, 4) for name in "abc"}
    assert choose_mix(found, times, 1.0).integers == ("a", "b", "c")
    assert choose_mix(found, times, 1.0, (), 2.0).integers == ("a", "b")  # 0.17 of 0.36 mm^2 more
    assert choose_mix(found, times, 1.0, (), 0.5).integers == ("a",)  # of 0.09
    assert choose_mix(found, times, 1.0, (), 50.0).integers == ("a", "b", "c")


def test_spare_jitter_is_what_the_mean_error_can_take():
    """Most errors are small and few are large: the large ones make no room."""
    errors = np.array([0.5] * 90 + [30.0] * 10)
    found = Sensitivity((), 45.0, 1.0, 64, accelerations_mm=tuple(errors))
    spare = found.spare_jitter(5.0)
    assert np.sqrt(errors**2 + spare).mean() == pytest.approx(1.05 * errors.mean())
    assert spare < 0.1 * np.square(errors).mean() * (1.05**2 - 1)
    noise = np.random.default_rng(0).normal(0, np.sqrt(spare / 3), (4000, 100, 3))
    moved = np.linalg.norm(noise + errors[:, None] * [1, 0, 0], axis=-1)
    assert moved.mean() / errors.mean() == pytest.approx(1.05, abs=0.02)
    assert found.spare_jitter(0.0) == pytest.approx(0.0, abs=1e-9)


def test_luck_with_the_windows_is_not_reckoned_with():
    found = costs({"a": -0.3})
    lucky = LayerCost("a", 3.0, -0.3, 0.0)
    assert found.expected_mm(lucky) == pytest.approx(9 / 135)
    assert found.expected_mm(LayerCost("a", 3.0, 0.5, 0.0)) == 0.5


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_modelled_times_know_the_instruction_set_and_the_cost_of_quantizing(target):
    times = modelled_times({"wide": 1000, "narrow": 1000}, {"wide": 512, "narrow": 4}, target)
    assert times["wide"].int8 == pytest.approx(1000 / target.speedup + 1000 / 64)
    assert times["wide"].saved > 0 > times["narrow"].saved
