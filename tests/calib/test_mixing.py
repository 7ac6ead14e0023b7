import itertools

import numpy as np
import pytest

from pstmo_edge.calib.mixing import Bounds, LayerTime, choose_mix, modelled_times
from pstmo_edge.calib.sensitivity import Cost, LayerCost, Sensitivity
from pstmo_edge.targets import TARGETS


def costs(values, error=45.0):
    layers = tuple(LayerCost(name, Cost(0.0, cost), 0.0) for name, cost in values.items())
    return Sensitivity(layers, error, 1.0, 64)


def test_the_mix_is_the_best_of_all_that_fit():
    rng = np.random.default_rng(0)
    for _ in range(5):
        names = [f"l{number}" for number in range(9)]
        values = dict(zip(names, rng.uniform(0.05, 0.5, 9), strict=True))
        times = {name: LayerTime(time, 0.4 * time) for name, time in zip(names, rng.uniform(1, 9, 9), strict=True)}
        mix = choose_mix(costs(values), times, Bounds(1.0))
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
    assert choose_mix(found, times, Bounds(1.0), ["native end"]).integers == ("body",)
    assert choose_mix(found, times, Bounds(5.0), ["native end"]).integers == ("body", "end")
    assert choose_mix(found, times, Bounds(5.0)).integers == ("body", "end", "native end")
    assert choose_mix(found, times, Bounds(0.01), ["native end"]).integers == ()
    assert choose_mix(found, times, Bounds(0.0)).integers == ("native end",)


def test_a_bound_on_jitter_keeps_trembling_layers_in_float():
    layers = tuple(
        LayerCost(name, Cost(0.0, 0.01, jitter), 0.0) for name, jitter in {"a": 0.1, "b": 0.4, "c": 3.0}.items()
    )
    found = Sensitivity(layers, 45.0, 1.0, 64, accelerations_mm=(3.0,))
    times = {name: LayerTime(10, 4) for name in "abc"}
    assert choose_mix(found, times, Bounds(1.0)).integers == ("a", "b", "c")
    assert choose_mix(found, times, Bounds(1.0, 2.0)).integers == ("a", "b")  # 0.17 of 0.36 mm^2 more
    assert choose_mix(found, times, Bounds(1.0, 0.5)).integers == ("a",)  # of 0.09
    assert choose_mix(found, times, Bounds(1.0, 50.0)).integers == ("a", "b", "c")


def test_a_layer_that_trembles_gets_more_bits_where_there_are_kernels_for_them():
    jitters = {"a": 0.1, "b": 0.4, "c": 3.0, "d": 3.0}
    layers = tuple(
        LayerCost(name, Cost(0.0, 0.01, jitter), 0.0, Cost(0.0, 0.0, jitter / 100)) for name, jitter in jitters.items()
    )
    found = Sensitivity(layers, 45.0, 1.0, 64, accelerations_mm=(3.0,))
    times = {name: LayerTime(10, 3, 5) for name in "abc"} | {"d": LayerTime(10, 3, 11)}  # none that save time
    mix = choose_mix(found, times, Bounds(1.0, 2.0))
    assert (mix.integers, mix.wide) == (("a", "b", "c"), ("c",))
    assert mix.time == pytest.approx((3 + 3 + 5 + 10) / 40)
    assert choose_mix(found, times, Bounds(1.0)).wide == ()
    assert choose_mix(found, times, Bounds(1.0, 0.5)).wide == ("b", "c")
    # Where more bits take no more time they are taken.
    even = {name: LayerTime(10, 3, 3) for name in "abcd"}
    assert choose_mix(found, even, Bounds(1.0)).wide == ("a", "b", "c", "d")


@pytest.mark.parametrize("seed", range(3))
def test_the_mix_of_forms_is_the_best_of_all_that_fit(seed):
    rng = np.random.default_rng(seed)
    names = [f"l{number}" for number in range(6)]
    layers, times = [], {}
    for name in names:
        cost, jitter = rng.uniform(0.05, 0.5), rng.uniform(0.1, 1.0)
        layers.append(LayerCost(name, Cost(0.0, cost, jitter), 0.0, Cost(0.0, cost / 9, jitter / 30)))
        times[name] = LayerTime(10.0, float(rng.uniform(2, 4)), float(rng.uniform(4, 7)))
    found = Sensitivity(tuple(layers), 45.0, 1.0, 64, accelerations_mm=(3.0,))
    bounds = Bounds(0.8, 3.0)
    spare = found.spare_jitter(3.0)
    best = 0.0
    for forms in itertools.product((None, "int8", "wide"), repeat=len(names)):
        chosen = [(layer, form) for layer, form in zip(layers, forms, strict=True) if form]
        share = sum(
            max(getattr(layer, form).cost_mm / 0.8, getattr(layer, form).jitter_mm ** 2 / spare)
            for layer, form in chosen
        )
        if share <= 0.99:
            best = max(best, sum(10.0 - getattr(times[layer.name], form) for layer, form in chosen))
    mix = choose_mix(found, times, bounds)
    saved = sum(10.0 - (times[name].wide if name in mix.wide else times[name].int8) for name in mix.integers)
    assert saved >= best > 0
    costs = {layer.name: layer.wide if layer.name in mix.wide else layer.int8 for layer in layers}
    assert sum(costs[name].cost_mm for name in mix.integers) <= 0.8
    assert sum(costs[name].jitter_mm ** 2 for name in mix.integers) <= spare


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
    assert found.expected_mm(Cost(3.0, -0.3)) == pytest.approx(9 / 135)
    assert found.expected_mm(Cost(3.0, 0.5)) == 0.5


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_modelled_times_know_the_instruction_set_and_the_cost_of_quantizing(target):
    times = modelled_times({"wide": 1000, "narrow": 1000}, {"wide": 512, "narrow": 4}, target)
    assert times["wide"].int8 == pytest.approx(1000 / target.speedup + 1000 / 64)
    assert times["wide"].saved > 0 > times["narrow"].saved
