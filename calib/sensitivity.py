"""What every layer costs in INT8, in millimetres, and what leaving it in float gains: by emulation."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pstmo_edge.arrays import FloatArray
from pstmo_edge.calib.emulation import EmulatedModel
from pstmo_edge.calib.observers import Progress, silent
from pstmo_edge.metrics import MM, mpjpe
from pstmo_edge.models.interception import intercepted

_BATCH_TOKENS = 4096  # the outputs of all layers are kept for one batch: about 250 MB for P-STMO-S


@dataclass(frozen=True)
class LayerCost:
    """One layer's part in the error of INT8, in millimetres, over the same windows.

    With this layer alone in INT8, `moved_mm` is how far poses move from the float model's and `cost_mm` how much the
    MPJPE rises; `gain_mm` is by how much poses come nearer to the float model's when it alone is left in float.
    `jitter_mm` is the acceleration of that movement over three neighbouring frames, root mean square, a frame squared:
    what the layer adds to a pose's trembling.
    """

    name: str
    moved_mm: float
    cost_mm: float
    gain_mm: float
    jitter_mm: float = 0.0


@dataclass(frozen=True)
class Sensitivity:
    """What all layers cost, dearest first, beside the whole: `error_mm` of the float model, `moved_mm` of all INT8.

    `jitter_mm` is the float model's own acceleration error, root mean square, by which that of layers is judged.
    """

    layers: tuple[LayerCost, ...]
    error_mm: float
    moved_mm: float
    windows: int
    jitter_mm: float = 0.0

    def expected_mm(self, layer: LayerCost) -> float:
        """What to reckon with for one layer: its measured cost, and not less than what its movement costs on average.

        A small random movement d of joints that are e away from the truth raises the MPJPE by d^2 / (3 e), which adds
        up over layers; a measured cost below that is luck with the windows.
        """
        return max(layer.cost_mm, layer.moved_mm**2 / (3 * max(self.error_mm, 1.0)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Sensitivity:
        """Back from JSON."""
        return cls(**{**values, "layers": tuple(LayerCost(**layer) for layer in values["layers"])})


def sensitivity(
    emulated: EmulatedModel, windows: FloatArray, poses: FloatArray, tell: Progress = silent
) -> Sensitivity:
    """The cost of every integer layer, on windows (N, T, 17, C) with true poses (N, 17, 3), or (N, K, 17, 3).

    Every three windows in turn are of neighbouring frames (`unseen_windows`). The outputs of the layers before the one
    in question are those of one forward, so only what comes after is computed.
    """
    layers = list(emulated.layers)
    alone: dict[str, list[FloatArray]] = {name: [] for name in layers}
    freed: dict[str, list[FloatArray]] = {name: [] for name in layers}
    exact: list[FloatArray] = []
    every: list[FloatArray] = []
    size = max(1, _BATCH_TOKENS // windows.shape[1])
    pieces = torch.from_numpy(windows).split(size)
    with torch.no_grad():
        for number, batch in enumerate(pieces):
            in_float, in_integers = _Pass(emulated, ()), _Pass(emulated, layers)
            exact.append(in_float.run(batch))
            every.append(in_integers.run(batch))
            for done, name in enumerate(layers):
                alone[name].append(in_float.flipped(batch, name))
                freed[name].append(in_integers.flipped(batch, name))
                tell("what each layer costs in INT8", number * len(layers) + done + 1, len(pieces) * len(layers))
    base, whole = np.concatenate(exact), np.concatenate(every)
    error, moved = _mean(base, poses), _mean(whole, base)
    costs = [
        LayerCost(
            name,
            moved_mm=_mean(np.concatenate(alone[name]), base),
            cost_mm=_mean(np.concatenate(alone[name]), poses) - error,
            gain_mm=moved - _mean(np.concatenate(freed[name]), base),
            jitter_mm=_acceleration(np.concatenate(alone[name]) - base),
        )
        for name in layers
    ]
    ranked = tuple(sorted(costs, key=lambda cost: -cost.moved_mm))
    return Sensitivity(ranked, error, moved, len(windows), _acceleration(base - poses))


class _Pass:
    """One forward whose layers' outputs are kept, and forwards that differ from it in one layer."""

    def __init__(self, emulated: EmulatedModel, integers: Collection[str]) -> None:
        self.emulated, self.integers = emulated, set(integers)
        self.outputs: dict[str, Tensor] = {}

    def run(self, batch: Tensor) -> FloatArray:
        """Poses of the batch."""

        def keep(name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            self.outputs[name] = self._compute(name in self.integers, name, x, weight, bias)
            return self.outputs[name]

        return self._poses(batch, keep)

    def flipped(self, batch: Tensor, layer: str) -> FloatArray:
        """The poses with one layer in the other precision; what comes before it is not computed again."""
        before = set(list(self.outputs)[: list(self.outputs).index(layer)])

        def compute(name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            if name in before:
                return self.outputs[name]
            return self._compute((name in self.integers) != (name == layer), name, x, weight, bias)

        return self._poses(batch, compute)

    def _compute(self, integer: bool, name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.emulated.compute(name, x, weight, bias) if integer else F.linear(x, weight, bias)

    def _poses(self, batch: Tensor, intercept: Callable[[str, Tensor, Tensor, Tensor], Tensor]) -> FloatArray:
        with intercepted(self.emulated.model, intercept):
            poses: FloatArray = self.emulated.model(batch).numpy()
        return poses


def _acceleration(moved: FloatArray) -> float:
    """Root mean square over joints of the second difference of every three windows, millimetres a frame squared."""
    threes = moved[: len(moved) // 3 * 3].reshape(-1, 3, *moved.shape[1:])
    return float(np.sqrt(np.square(np.diff(threes, 2, axis=1)).sum(-1).mean())) * MM


def _mean(found: FloatArray, target: FloatArray) -> float:
    value = float(np.mean(mpjpe(found, target)))
    assert math.isfinite(value)
    return value
