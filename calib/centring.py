"""Centring before a matrix: the mean of its input moves into biases, at no cost at run time.

A float format rounds a value by a share of its size, so a mean that all rows have in common costs accuracy in each of
them and tells nothing. Every channel of the input loses its mean where it is made, in a LayerNorm's shift or in the
biases of attention's values, whose shares add up to 1; the bias of the matrix gets what the mean gave its outputs: the
same function (the ranges of integer grids gain nothing from it, as their zero points hold the mean). The correction is
that of Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019, section 4.1.2
(absorbing high biases), with means instead of ranges and without a ReLU in between.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from pstmo_edge.calib.equalization import Place, places
from pstmo_edge.calib.observers import Statistics
from pstmo_edge.models.interception import normalised_layers


def centre(model: nn.Module, seen: Mapping[str, Statistics], windows: torch.Tensor) -> None:
    """Change the biases of a fused model so that layers read inputs whose means over what was `seen` are 0.

    `windows` (N, T, 17, C) tell which layers read a LayerNorm; one will do. Behind a ReLU nothing can be taken off.
    """
    norms = set(normalised_layers(model, windows).values())
    with torch.no_grad():
        for place in places(model, windows):
            values = place.start > 0  # of attention, behind its queries and keys
            if (values or place.makers[0] in norms) and place.readers[0] in seen:
                _absorb(model, place, seen[place.readers[0]])


def _absorb(model: nn.Module, place: Place, seen: Statistics) -> None:
    (source,), (reader,) = (map(model.get_submodule, names) for names in (place.makers, place.readers))
    mean = seen.total.float()
    source.bias[place.start :] -= mean
    reader.bias += seen.weight @ mean
