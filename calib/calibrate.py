"""From a model and calibration windows to integer layers: the one road that all methods walk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pstmo_edge.arrays import FloatArray
from pstmo_edge.calib.emulation import EmulatedModel, IntegerLayer, copied
from pstmo_edge.calib.equalization import equalize
from pstmo_edge.calib.observers import Progress, Statistics, observe, silent
from pstmo_edge.calib.rounding import gptq, nearest, weight_scales
from pstmo_edge.calib.settings import Granularity, MinMax, Rounding, Settings
from pstmo_edge.models.interception import intercepted

_CORRECTION_TOKENS = 2**15  # of the one batch on which biases are corrected


@dataclass(frozen=True)
class FloatLayer:
    """A layer left in float whose bias (N,) makes up for the mean error of the integer layers before it."""

    bias: Tensor

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Rows (..., K) to (..., N)."""
        return F.linear(x, weight, self.bias)


def calibrate(model: nn.Module, windows: FloatArray, settings: Settings, tell: Progress = silent) -> EmulatedModel:
    """The emulated INT8 form of a fused model, calibrated on windows (N, T, 17, C).

    Every layer is calibrated by itself on the float model's activations, so any subset of the result's layers is
    calibrated too (`with_layers`, `corrected`).
    """
    model = copied(model)
    if settings.smoothing:
        seen = observe(model, windows, tell=tell, text="calibrating: ranges by channel")
        equalize(model, seen, settings, torch.from_numpy(windows[:1]))
    seen = observe(
        model,
        windows,
        products=settings.weights.rounding is Rounding.GPTQ,
        histograms=not isinstance(settings.activations.observer, MinMax),
        tell=tell,
    )
    chosen = [name for name in seen if name not in settings.keep_float]
    layers = {}
    for done, name in enumerate(chosen, 1):
        layers[name] = integer_layer(seen[name], settings)
        tell("rounding the weights", done, len(chosen))
    emulated = EmulatedModel(model, layers)
    return corrected(emulated, windows) if settings.bias_correction else emulated


def integer_layer(statistics: Statistics, settings: Settings) -> IntegerLayer:
    """One layer in integers."""
    weights, activations = settings.weights, settings.activations
    scale = weight_scales(statistics.weight, weights)
    if weights.rounding is Rounding.GPTQ:
        assert statistics.products is not None
        integers = gptq(statistics.weight, scale, weights.limit, statistics.products)
    else:
        integers = nearest(statistics.weight, scale, weights.limit)
    grid = None if activations.granularity is Granularity.PER_TOKEN else statistics.grid(activations)
    reach = float(torch.maximum(-statistics.low, statistics.high).max())
    return IntegerLayer(integers, scale, statistics.bias, activations, grid, reach=reach)


def corrected(emulated: EmulatedModel, windows: FloatArray, layers: Iterable[str] | None = None) -> EmulatedModel:
    """The same (or with only some of its `layers`), every mean output channel as in the float model.

    Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019, section 4.2, with
    means that are measured: all windows go through the network as one batch, so that every layer is corrected on the
    inputs that the corrected layers before it make.
    """
    emulated = emulated if layers is None else emulated.with_layers(layers)
    spread = max(1, -(-len(windows) * windows.shape[1] // _CORRECTION_TOKENS))
    batch = torch.from_numpy(windows[::spread])
    means: dict[str, Tensor] = {}

    def measure(name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out = F.linear(x, weight, bias)
        means[name] = out.flatten(0, -2).mean(0)
        return out

    found: dict[str, IntegerLayer | FloatLayer] = {}

    def correct(name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        layer = emulated.layers.get(name)
        out = emulated.compute(name, x, weight, bias)
        shift = means[name] - out.flatten(0, -2).mean(0)
        if isinstance(layer, IntegerLayer):
            found[name] = replace(layer, bias=layer.bias + shift)
        elif found:  # before the first integer layer there is nothing to correct
            found[name] = FloatLayer(bias + shift)
        return out + shift

    with torch.no_grad():
        with intercepted(emulated.model, measure):
            emulated.model(batch)
        with intercepted(emulated.model, correct):
            emulated.model(batch)
    return EmulatedModel(emulated.model, found)
