"""Which layers run in INT8: the mix that takes the least time within a bound on the error."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from pstmo_edge.calib.sensitivity import Sensitivity
from pstmo_edge.targets import Target

_STEPS = 2000  # into which the bound is divided: a cost is rounded up to the next one
_WORTH = 0.04  # the share of the time that what costs the whole bound must save
_QUANTIZE = 8  # multiply-adds whose time it takes to quantize one value of a layer's input


@dataclass(frozen=True)
class LayerTime:
    """A layer's time in both precisions, in any unit that all layers share."""

    fp32: float
    int8: float

    @property
    def saved(self) -> float:
        """What INT8 saves."""
        return self.fp32 - self.int8


@dataclass(frozen=True)
class Mix:
    """Layers in INT8, the error to reckon with, and the time of all weighted layers as a share of that in fp32."""

    integers: tuple[str, ...]
    expected_mm: float
    time: float


def modelled_times(
    multiply_adds: Mapping[str, int], outputs: Mapping[str, int], target: Target
) -> dict[str, LayerTime]:
    """Times by layer in multiply-adds of fp32: `outputs` are its output channels.

    INT8 does `target.speedup` times as many, and quantizes the layer's inputs first.
    """
    return {
        name: LayerTime(count, count / target.speedup + _QUANTIZE * count / outputs[name])
        for name, count in multiply_adds.items()
    }


def choose_mix(
    found: Sensitivity,
    times: Mapping[str, LayerTime],
    max_drop_mm: float,
    always_float: Collection[str] = (),
    max_jitter_percent: float | None = None,
) -> Mix:
    """The layers whose INT8 saves most time while their expected costs add up to no more than `max_drop_mm`.

    With `max_jitter_percent`, the jitter to reckon with also rises by no more than that: independent tremblings add up
    by their squares.

    A knapsack, solved exactly but for rounding costs up to a 2000th of the bound. Layers that save no time stay in
    float, and so do those that would spend more of the bound than they are worth: what costs p per cent of it must
    save at least p / 25 per cent of the time. So the two ends, which are dear and little work, are in INT8 only where
    the bound is wide.
    """
    total = sum(time.fp32 for time in times.values())
    costs = {layer.name: found.expected_mm(layer) for layer in found.layers}
    usable = [
        name
        for name, cost in costs.items()
        if name not in always_float
        and cost <= max_drop_mm
        and times[name].saved > 0
        and times[name].saved / total >= _WORTH * (cost / max_drop_mm if max_drop_mm else 0)
    ]
    shares = {name: costs[name] / max_drop_mm if max_drop_mm else 0.0 for name in usable}
    if max_jitter_percent is not None:
        spare = found.spare_jitter(max_jitter_percent)
        jitters = {layer.name: layer.jitter_mm**2 for layer in found.layers}
        usable = [name for name in usable if jitters[name] <= spare]
        # The larger share of the two bounds: where these add up to 1, both hold.
        shares = {name: max(shares[name], jitters[name] / spare if spare else 0.0) for name in usable}
    chosen = _knapsack([(shares[name], times[name].saved) for name in usable])
    integers = tuple(name for name, taken in zip(usable, chosen, strict=True) if taken)
    spent = sum(times[name].saved for name in integers)
    return Mix(integers, sum(costs[name] for name in integers), (total - spent) / total if total else 1.0)


def _knapsack(items: list[tuple[float, float]]) -> list[bool]:
    """Which (cost, value) items have the greatest value while their costs add up to no more than 1."""
    sizes = [int(np.ceil(cost * _STEPS - 1e-9)) for cost, _ in items]
    best = np.zeros(_STEPS + 1)
    taken = np.zeros((len(items), _STEPS + 1), bool)
    for number, (size, (_, value)) in enumerate(zip(sizes, items, strict=True)):
        if size > _STEPS:
            continue
        with_it = np.full(_STEPS + 1, -np.inf)
        with_it[size:] = best[: _STEPS + 1 - size] + value
        taken[number] = with_it > best
        best = np.maximum(best, with_it)
    chosen, left = [False] * len(items), _STEPS
    for number in reversed(range(len(items))):
        if taken[number, left]:
            chosen[number], left = True, left - sizes[number]
    return chosen
