"""Equalization before a matrix: outliers of its input move into its weights, at no cost at run time.

Every channel of the input is divided by a factor where it is made, and the column of the matrix that reads it
multiplied by it: the same function. It is made by a LayerNorm's gain and bias (SmoothQuant, Xiao et al., ICML 2023,
section 4), or by the rows of a layer before it, with nothing but a ReLU, a leaky ReLU or attention's weighted mean in
between (Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019, section
4.1), all of which let a positive factor pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pstmo_edge.calib.observers import Statistics
from pstmo_edge.calib.settings import Settings
from pstmo_edge.models.interception import normalised_layers

# What lets a factor pass, by the last names of the layers: the one that reads, the one that makes what it reads, and
# whether that is the last third of it (attention's values).
_PASSING = (
    ("self_attn.out", "self_attn.qkv", True),
    ("attn.proj", "attn.qkv", True),
    ("feed_forward.w_2", "feed_forward.w_1", False),
    ("layers.0.w2", "layers.0.w1", False),  # of the spatial encoder
)


# P-STMO's spatial encoder adds what its block makes to the block's own input, so both share their factors.
_BLOCK_MAKERS = ("encoder.fc_1", "encoder.layers.0.w2")
_BLOCK_READERS = ("encoder.fc_2", "encoder.layers.0.w1")


@dataclass(frozen=True)
class Place:
    """Layers that read the same channels, and the norms or layers that make them, in the rows from `start` on."""

    readers: tuple[str, ...]
    makers: tuple[str, ...]
    start: int = 0


def places(model: nn.Module, keypoints: Tensor) -> Iterator[Place]:
    """Every place of a fused model where a factor can pass."""
    for layer, norm in normalised_layers(model, keypoints).items():
        yield Place((layer,), (norm,))
    names = {name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv1d)}
    for reader, maker, third in _PASSING:
        for layer in sorted(name for name in names if name.endswith(f".{reader}")):
            source = layer.removesuffix(reader) + maker
            if source in names:
                yield Place((layer,), (source,), len(model.get_submodule(source).weight) // 3 * 2 if third else 0)
    if names.issuperset(_BLOCK_MAKERS + _BLOCK_READERS):
        yield Place(_BLOCK_READERS, _BLOCK_MAKERS)


def equalize(
    model: nn.Module, seen: Mapping[str, Statistics], settings: Settings, keypoints: Tensor
) -> dict[str, float]:
    """Change the model's weights; the strength that each equalized layer got.

    Layers that stay in float are left alone, and so are those for which none of several strengths helps.
    """
    chosen: dict[str, float] = {}
    with torch.no_grad():
        for place in places(model, keypoints):
            if place.readers[0] in settings.keep_float or place.readers[0] not in seen:  # or never computed
                continue
            channels = len(model.get_submodule(place.makers[0]).weight) - place.start
            strength, factors = _best([seen[name] for name in place.readers], channels, settings)
            if strength is not None:
                chosen |= dict.fromkeys(place.readers, strength)
                _move(model, place, factors)
    return chosen


def _move(model: nn.Module, place: Place, factors: Tensor) -> None:
    for source in map(model.get_submodule, place.makers):
        for made in (source.weight[place.start :], source.bias[place.start :]):
            made.div_(factors.view(-1, *[1] * (made.dim() - 1)))
    for reader in map(model.get_submodule, place.readers):
        columns = reader.weight  # (N, taps x C), or a convolution's (N, C, taps)
        columns.mul_(factors[:, None] if columns.dim() == 3 else factors.repeat(columns.shape[1] // len(factors)))


def smoothing_factors(statistics: Statistics, strength: float, channels: int) -> Tensor:
    """The factor (channels,) of every channel: the larger, the more of its range moves into the weights."""
    inputs = torch.maximum(statistics.high.abs(), statistics.low.abs()).view(-1, channels).amax(0)
    weights = statistics.weight.abs().amax(0).view(-1, channels).amax(0)
    usable = (inputs > 0) & (weights > 0)
    factors = torch.where(usable, inputs, 1.0) ** strength / torch.where(usable, weights, 1.0) ** (1 - strength)
    return torch.where(usable, factors / factors[usable].log().mean().exp(), 1.0)


def _best(readers: list[Statistics], channels: int, settings: Settings) -> tuple[float | None, Tensor]:
    tried = [(strength, smoothing_factors(readers[0], strength, channels)) for strength in settings.smoothing]
    if len(tried) == 1:
        return tried[0]

    def error(choice: tuple[float | None, Tensor]) -> float:
        """Relative to no equalization, so that no reader outweighs another."""
        return sum(expected_error(each, choice[1], settings) / expected_error(each, none, settings) for each in readers)

    none = torch.ones(channels)
    return min([(None, none), *tried], key=error)


def expected_error(statistics: Statistics, factors: Tensor, settings: Settings) -> float:
    """The mean squared error of the outputs, if rounding errors are independent and spread evenly over a step."""
    factors = factors.repeat(len(statistics.low) // len(factors))
    low, high = statistics.low / factors, statistics.high / factors
    first, last = settings.activations.limits
    if settings.activations.symmetric:
        step = float(torch.maximum(-low, high).max()) / last
    else:
        step = (max(float(high.max()), 0) - min(float(low.min()), 0)) / (last - first)
    weight = statistics.weight * factors
    weight_steps = weight.abs().amax(1) / settings.weights.limit
    from_inputs = step**2 / 12 * float(weight.double().square().sum())
    from_weights = float(weight_steps.double().square().sum()) / 12 * float((statistics.squares / factors**2).sum())
    return from_inputs + from_weights
