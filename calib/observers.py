"""What calibration remembers of the inputs of every layer: ranges, moments, histograms; never the inputs themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pstmo_edge.arrays import FloatArray
from pstmo_edge.calib.emulation import Grid, grid_of_range
from pstmo_edge.calib.settings import Activations, Entropy, MeanSquaredError, MinMax, Observer, Percentile
from pstmo_edge.models.interception import intercepted

# Told what is being done: a sentence, and how many steps it has (0: unknown) or has taken.
Progress: TypeAlias = Callable[[str, int, int], None]

_BINS = 4096
_TOKENS = 2048  # of one forward: more would leave the caches, fewer would not fill them
_SHRINKINGS = torch.linspace(1.0, 0.3, 71)  # the ranges that are tried, as shares of all that was seen


def silent(text: str, done: int, total: int) -> None:
    """Tell nobody."""


class Histogram:
    """Counts of values in equal bins around 0 that grow with what they meet, by powers of two: nothing is lost."""

    def __init__(self) -> None:
        self.reach = 2.0**-10
        self.counts = torch.zeros(_BINS, dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """Count these."""
        largest = float(values.abs().max())
        while self.reach < largest:
            self.reach *= 2
            merged = self.counts.view(-1, 2).sum(1)
            self.counts.zero_()[_BINS // 4 : 3 * _BINS // 4] = merged
        self.counts += torch.histc(values.float(), _BINS, -self.reach, self.reach).double()

    @property
    def centres(self) -> Tensor:
        """The middle of every bin."""
        return (torch.arange(_BINS) + 0.5) * (2 * self.reach / _BINS) - self.reach


@dataclass
class Statistics:
    """What was seen of one layer's input (..., K): by channel its ends, its mean and its mean square, each (K,).

    `weight` (N, K) and `bias` (N,) are the layer's own; `products` (K, K) is the mean of x x^T, the Hessian of the
    squared error of any output.
    """

    weight: Tensor
    bias: Tensor
    low: Tensor
    high: Tensor
    total: Tensor
    squares: Tensor
    rows: int = 0
    products: Tensor | None = None
    histogram: Histogram | None = None

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, *, products: bool, histogram: bool) -> Statistics:
        """Empty ones for a layer."""
        depth = weight.shape[1]
        return cls(
            weight.detach().clone(),
            bias.detach().clone(),
            torch.full((depth,), torch.inf),
            torch.full((depth,), -torch.inf),
            torch.zeros(depth, dtype=torch.float64),
            torch.zeros(depth, dtype=torch.float64),
            products=torch.zeros(depth, depth) if products else None,
            histogram=Histogram() if histogram else None,
        )

    def add(self, x: Tensor) -> None:
        """See the rows (R, K)."""
        low, high = torch.aminmax(x, dim=0)
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        self.total += x.sum(0)
        self.rows += len(x)
        if self.products is not None:
            self.products.addmm_(x.T, x)
        else:
            self.squares += x.square().sum(0)
        if self.histogram is not None:
            self.histogram.add(x)

    def finish(self) -> Statistics:
        """Turn sums into means."""
        self.total /= self.rows
        if self.products is not None:
            self.products /= self.rows
            self.squares = self.products.diagonal().double().clone()
        else:
            self.squares /= self.rows
        return self

    def grid(self, activations: Activations) -> Grid:
        """The grid of this input."""
        low, high = float(self.low.min()), float(self.high.max())
        if not isinstance(activations.observer, MinMax):
            assert self.histogram is not None
            low, high = clipped_range(self.histogram, low, high, activations.observer, activations)
        return grid_of_range(low, high, activations)


def observe(
    model: nn.Module,
    windows: FloatArray,
    *,
    products: bool = False,
    histograms: bool = False,
    tell: Progress = silent,
    text: str = "calibrating",
) -> dict[str, Statistics]:
    """Statistics of every weighted layer's input over the windows (N, T, 17, C), in one pass, in order of execution."""
    found: dict[str, Statistics] = {}

    def see(name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if name not in found:
            found[name] = Statistics.of(weight, bias, products=products, histogram=histograms)
        found[name].add(x.flatten(0, -2))
        return F.linear(x, weight, bias)

    with torch.no_grad(), intercepted(model, see):
        for done, batch in batches(windows):
            model(batch)
            tell(text, done, len(windows))
    return {name: statistics.finish() for name, statistics in found.items()}


def batches(windows: FloatArray) -> list[tuple[int, Tensor]]:
    """The windows in batches that fill the machine: how many there are up to the end of each, and the batch."""
    size = max(1, _TOKENS // windows.shape[1])
    count = math.ceil(len(windows) / size)
    pieces = torch.from_numpy(windows).tensor_split(count)
    ends = torch.tensor([len(piece) for piece in pieces]).cumsum(0).tolist()
    return list(zip(ends, pieces, strict=True))


def clipped_range(
    histogram: Histogram, low: float, high: float, observer: Observer, activations: Activations
) -> tuple[float, float]:
    """The ends that the observer keeps of what was seen between `low` and `high`."""
    if isinstance(observer, Percentile):
        return _percentile(histogram, observer.percent / 100, low, high)
    if not isinstance(observer, MeanSquaredError | Entropy):
        return low, high
    loss = _squared_error if isinstance(observer, MeanSquaredError) else _divergence
    seen = histogram.counts > 0
    counts, centres = histogram.counts[seen], histogram.centres[seen]
    losses = []
    for share in _SHRINKINGS.tolist():
        losses.append(loss(counts, centres, grid_of_range(share * low, share * high, activations)))
    best = float(_SHRINKINGS[min(range(len(losses)), key=losses.__getitem__)])
    return best * low, best * high


def _percentile(histogram: Histogram, share: float, low: float, high: float) -> tuple[float, float]:
    below = histogram.counts.cumsum(0) / histogram.counts.sum()
    edge = (1 - share) / 2
    ends = (histogram.centres[int((below >= level).nonzero()[0])] for level in (edge, 1 - edge))
    first, last = map(float, ends)
    return max(first, low), min(last, high)


def _squared_error(counts: Tensor, centres: Tensor, grid: Grid) -> float:
    return float((counts * (grid.dequantize(grid.quantize(centres)) - centres).double().square()).sum())


def _divergence(counts: Tensor, centres: Tensor, grid: Grid) -> float:
    """Kullback-Leibler divergence of the quantized distribution, with what is clipped moved to the ends."""
    levels = grid.quantize(centres).long() - grid.low
    inside = (centres >= (grid.low - grid.zero_point) * grid.scale) & (
        centres <= (grid.high - grid.zero_point) * grid.scale
    )
    if not inside.any():
        return math.inf
    kept = counts * inside
    reference = kept.clone()
    places = inside.nonzero().flatten()
    reference[places[0]] += counts[: places[0]].sum()
    reference[places[-1]] += counts[places[-1] + 1 :].sum()
    size = grid.high - grid.low + 1
    mass = torch.zeros(size, dtype=torch.float64).index_add_(0, levels, kept)
    bins = torch.zeros(size, dtype=torch.float64).index_add_(0, levels, (kept > 0).double())
    spread = (mass / bins.clamp(min=1))[levels] * (kept > 0)
    p, q = reference / reference.sum(), spread / spread.sum()
    some = (p > 0) & (q > 0)
    return float((p[some] * (p[some] / q[some]).log()).sum() + 1e3 * p[(p > 0) & (q <= 0)].sum())
