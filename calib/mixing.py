"""Which layers run in INT8, and with how many bits of activations: the mix of least time within the bounds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pstmo_edge.calib.sensitivity import Cost, Sensitivity
from pstmo_edge.targets import Target

_STEPS = 2000  # into which the bound is divided: a cost is rounded up to the next one
_WORTH = 0.04  # the share of the time that what costs the whole bound must save
_QUANTIZE = 8  # multiply-adds whose time it takes to quantize one value of a layer's input


@dataclass(frozen=True)
class LayerTime:
    """A layer's time in fp32, with 8-bit and with 16-bit activations, in any unit that all layers share."""

    fp32: float
    int8: float
    wide: float | None = None  # None: no such kernels

    @property
    def saved(self) -> float:
        """What INT8 saves."""
        return self.fp32 - self.int8


@dataclass(frozen=True)
class Mix:
    """Layers with 8-bit weights, the error to reckon with, and the time of all weighted layers as a share of fp32's.

    The activations of those in `wide` have 16 bits, the others' 8.
    """

    integers: tuple[str, ...]
    expected_mm: float
    time: float
    wide: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bounds:
    """What a mix may cost: a rise of the MPJPE in millimetres, and of the jitter in per cent (None: any)."""

    max_drop_mm: float
    max_jitter_percent: float | None = None


@dataclass(frozen=True)
class _Option:
    """One form of a layer: the share of the bounds that it takes, and the time that it saves."""

    share: float
    saved: float
    expected_mm: float
    wide: bool


def modelled_times(
    multiply_adds: Mapping[str, int], outputs: Mapping[str, int], target: Target, *, wide: bool = False
) -> dict[str, LayerTime]:
    """Times by layer in multiply-adds of fp32: `outputs` are its output channels.

    INT8 does `target.speedup` times as many, with `wide` activations `target.wide_speedup` times as many, and both
    quantize the layer's inputs first.
    """
    return {
        name: LayerTime(
            count,
            count / target.speedup + _QUANTIZE * count / outputs[name],
            count / target.wide_speedup + _QUANTIZE * count / outputs[name] if wide else None,
        )
        for name, count in multiply_adds.items()
    }


def choose_mix(
    found: Sensitivity, times: Mapping[str, LayerTime], bounds: Bounds, always_float: Collection[str] = ()
) -> Mix:
    """The mix that saves most time while the costs to reckon with add up to no more than the bounds.

    Costs in millimetres add up; independent tremblings add up by their squares. A knapsack of layers that each take
    one of their forms or none, solved exactly but for rounding costs up to a 2000th of the bound. What saves no time
    is not used, and neither is what would spend more of the bound than it is worth: what costs p per cent of it must
    save at least p / 25 per cent of the time. So the two ends of a network, which are dear and little work, are in
    INT8 only where the bound is wide.
    """
    total = sum(time.fp32 for time in times.values())
    spare = None if bounds.max_jitter_percent is None else found.spare_jitter(bounds.max_jitter_percent)
    options: dict[str, list[_Option]] = {}
    for layer in found.layers:
        if layer.name in always_float:
            continue
        time, made = times[layer.name], []
        if layer.wide is not None and time.wide is not None:
            made.append(_option(found, layer.wide, time.fp32 - time.wide, bounds, spare, wide=True))
        made.append(_option(found, layer.int8, time.saved, bounds, spare, wide=False))
        options[layer.name] = [
            option
            for option in made
            if option.share <= 1 and option.saved > 0 and option.saved / total >= _WORTH * _dearness(option, bounds)
        ]
    forms = [[(option.share, option.saved) for option in each] for each in options.values()]
    taken = dict(zip(options, _knapsack(forms), strict=True))
    chosen = {name: options[name][number] for name, number in taken.items() if number is not None}
    spent = sum(option.saved for option in chosen.values())
    return Mix(
        tuple(chosen),
        sum(option.expected_mm for option in chosen.values()),
        (total - spent) / total if total else 1.0,
        tuple(name for name, option in chosen.items() if option.wide),
    )


def _option(
    found: Sensitivity, cost: Cost, saved: float, bounds: Bounds, spare: float | None, *, wide: bool
) -> _Option:
    """The larger share of the two bounds counts: where these add up to 1, both hold."""
    expected = found.expected_mm(cost)
    share = _ratio(expected, bounds.max_drop_mm)
    if spare is not None:
        share = max(share, _ratio(cost.jitter_mm**2, spare))
    return _Option(share, saved, expected, wide)


def _ratio(cost: float, bound: float) -> float:
    return cost / bound if bound > 0 else (np.inf if cost > 0 else 0.0)


def _dearness(option: _Option, bounds: Bounds) -> float:
    return _ratio(option.expected_mm, bounds.max_drop_mm)


def _knapsack(groups: Sequence[Sequence[tuple[float, float]]]) -> list[int | None]:
    """Of every group of (cost, value) at most one, so that the value is greatest and costs add up to at most 1.

    Where two are worth the same the one named first is taken.
    """
    best = np.zeros(_STEPS + 1)
    taken = np.full((len(groups), _STEPS + 1), -1)
    sizes = [[int(np.ceil(cost * _STEPS - 1e-9)) for cost, _ in group] for group in groups]
    for number, group in enumerate(groups):
        before = best.copy()
        for option, (size, (_, value)) in enumerate(zip(sizes[number], group, strict=True)):
            with_it = np.full(_STEPS + 1, -np.inf)
            with_it[size:] = before[: _STEPS + 1 - size] + value
            better = with_it > best
            taken[number, better] = option
            best = np.where(better, with_it, best)
    chosen: list[int | None] = [None] * len(groups)
    left = _STEPS
    for number in reversed(range(len(groups))):
        option = int(taken[number, left])
        if option >= 0:
            chosen[number] = option
            left -= sizes[number][option]
    return chosen
