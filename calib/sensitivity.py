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
from pstmo_edge.calib.emulation import EmulatedModel, IntegerLayer, Layer
from pstmo_edge.calib.observers import Progress, silent
from pstmo_edge.metrics import MM, mpjpe
from pstmo_edge.models.interception import intercepted

_QUANTILES = 200
_BATCH_TOKENS = 4096  # the outputs of all layers are kept for one batch: about 250 MB for P-STMO-S


@dataclass(frozen=True)
class Cost:
    """What one layer alone in integers does to the poses, in millimetres.

    `moved_mm` is how far they move from the float model's, `cost_mm` how much the MPJPE rises; `jitter_mm` is the
    acceleration of that movement over three neighbouring frames, root mean square, a frame squared: what the layer
    adds to a pose's trembling.
    """

    moved_mm: float
    cost_mm: float
    jitter_mm: float = 0.0


@dataclass(frozen=True)
class LayerCost:
    """One layer's part in the error of INT8, over the same windows as all others.

    `int8` is with 8-bit activations, `wide` with 16-bit ones, where that was measured. `gain_mm` is by how much poses
    come nearer to the float model's when this layer alone is left in float.
    """

    name: str
    int8: Cost
    gain_mm: float
    wide: Cost | None = None


@dataclass(frozen=True)
class Sensitivity:
    """What all layers cost, dearest first, beside the whole: `error_mm` of the float model, `moved_mm` of all INT8.

    `accelerations_mm` are even quantiles of the float model's own acceleration errors over joints and frames, with the
    keypoints of a detector: most are small and few are large, so what trembling adds to their mean is not told by any
    one number.
    """

    layers: tuple[LayerCost, ...]
    error_mm: float
    moved_mm: float
    windows: int
    accelerations_mm: tuple[float, ...] = ()

    def expected_mm(self, cost: Cost) -> float:
        """What to reckon with for a cost: what was measured, and not less than what the movement costs on average.

        A small random movement d of joints that are e away from the truth raises the MPJPE by d^2 / (3 e), which adds
        up over layers; a measured cost below that is luck with the windows.
        """
        return max(cost.cost_mm, cost.moved_mm**2 / (3 * max(self.error_mm, 1.0)))

    def spare_jitter(self, percent: float) -> float:
        """The mean square of the trembling (mm^2 a frame^4) that raises the mean acceleration error by `percent`.

        An independent trembling of that mean square s makes an error a sqrt(a^2 + s).
        """
        errors = np.array(self.accelerations_mm)
        wanted, low, high = errors.mean() * (1 + percent / 100), 0.0, (10 + percent) ** 2 * (1 + errors.max()) ** 2
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (low, middle) if np.sqrt(errors**2 + middle).mean() > wanted else (middle, high)
        return low

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Sensitivity:
        """Back from JSON."""
        layers = tuple(
            LayerCost(
                layer["name"],
                Cost(**layer["int8"]),
                layer["gain_mm"],
                None if layer["wide"] is None else Cost(**layer["wide"]),
            )
            for layer in values["layers"]
        )
        return cls(**{**values, "layers": layers, "accelerations_mm": tuple(values["accelerations_mm"])})


@dataclass(frozen=True)
class Probes:
    """Windows (N, T, 17, C) with their true poses, (N, 17, 3) or (N, K, 17, 3); each three in turn are neighbours."""

    windows: FloatArray
    poses: FloatArray


def sensitivity(
    emulated: EmulatedModel, probes: Probes, live: Probes | None = None, tell: Progress = silent, *, wide: bool = False
) -> Sensitivity:
    """The cost of every integer layer on the probes, and with `wide` that of 16-bit activations too.

    `live` are probes as a detector sees them: the float model's own trembling on them is what that of INT8 is
    compared with; by default the probes. The outputs of the layers before the one in question are those of one
    forward, so only what comes after is computed.
    """
    windows, poses = probes.windows, probes.poses
    layers = list(emulated.layers)
    widened = {name: layer.widened() for name, layer in emulated.layers.items() if isinstance(layer, IntegerLayer)}
    kinds = ("int8", "wide") if wide else ("int8",)
    alone: dict[str, dict[str, list[FloatArray]]] = {kind: {name: [] for name in layers} for kind in kinds}
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
                alone["int8"][name].append(in_float.flipped(batch, name, emulated.layers[name]))
                if wide:
                    alone["wide"][name].append(in_float.flipped(batch, name, widened[name]))
                freed[name].append(in_integers.flipped(batch, name, None))
                tell("what each layer costs in INT8", number * len(layers) + done + 1, len(pieces) * len(layers))
    base, whole = np.concatenate(exact), np.concatenate(every)
    error, moved = _mean(base, poses), _mean(whole, base)

    def cost(found: FloatArray) -> Cost:
        jitter = float(np.sqrt(np.square(_accelerations(found - base)).mean()))
        return Cost(_mean(found, base), _mean(found, poses) - error, jitter)

    costs = [
        LayerCost(
            name,
            cost(np.concatenate(alone["int8"][name])),
            gain_mm=moved - _mean(np.concatenate(freed[name]), base),
            wide=cost(np.concatenate(alone["wide"][name])) if wide else None,
        )
        for name in layers
    ]
    ranked = tuple(sorted(costs, key=lambda layer: -layer.int8.moved_mm))
    trembling = _accelerations(base - poses if live is None else _float_poses(emulated, live, size) - live.poses)
    own = np.quantile(trembling, (np.arange(_QUANTILES) + 0.5) / _QUANTILES)
    return Sensitivity(ranked, error, moved, len(windows), tuple(own.tolist()))


def _float_poses(emulated: EmulatedModel, probes: Probes, size: int) -> FloatArray:
    with torch.no_grad():
        return np.concatenate([emulated.model(batch).numpy() for batch in torch.from_numpy(probes.windows).split(size)])


class _Pass:
    """One forward whose layers' outputs are kept, and forwards that differ from it in one layer."""

    def __init__(self, emulated: EmulatedModel, integers: Collection[str]) -> None:
        self.emulated = emulated
        self.layers = {name: emulated.layers[name] for name in integers}
        self.outputs: dict[str, Tensor] = {}

    def run(self, batch: Tensor) -> FloatArray:
        """Poses of the batch."""

        def keep(name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            self.outputs[name] = _compute(self.layers.get(name), x, weight, bias)
            return self.outputs[name]

        return self._poses(batch, keep)

    def flipped(self, batch: Tensor, layer: str, other: Layer | None) -> FloatArray:
        """The poses with another form of one layer, None for float; what comes before it is not computed again."""
        before = set(list(self.outputs)[: list(self.outputs).index(layer)])

        def compute(name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            if name in before:
                return self.outputs[name]
            return _compute(other if name == layer else self.layers.get(name), x, weight, bias)

        return self._poses(batch, compute)

    def _poses(self, batch: Tensor, intercept: Callable[[str, Tensor, Tensor, Tensor], Tensor]) -> FloatArray:
        with intercepted(self.emulated.model, intercept):
            poses: FloatArray = self.emulated.model(batch).numpy()
        return poses


def _compute(layer: Layer | None, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x, weight, bias) if layer is None else layer(x, weight, bias)


def _accelerations(moved: FloatArray) -> FloatArray:
    """Size of the second difference of every three windows, by joint, millimetres a frame squared."""
    threes = moved[: len(moved) // 3 * 3].reshape(-1, 3, *moved.shape[1:])
    found: FloatArray = np.linalg.norm(np.diff(threes, 2, axis=1), axis=-1) * MM
    return found


def _mean(found: FloatArray, target: FloatArray) -> float:
    value = float(np.mean(mpjpe(found, target)))
    assert math.isfinite(value)
    return value
