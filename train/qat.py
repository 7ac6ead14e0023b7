"""Quantization-aware fine-tuning: the fused model is trained as its integer layers will compute it.

In each forward the weights and inputs of every quantized layer lie on the grids of `calib` (the ranges of inputs from
calibration, those of weights from the weights as they are), with the gradient of a straight line (Jacob et al.,
"Quantization and training of neural networks for efficient integer-arithmetic-only inference", CVPR 2018, section 3).
BatchNorms are folded as in a build, and so are frozen; what comes out is an ordinary model, which a build calibrates as
any other.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pstmo_edge.arrays import FloatArray
from pstmo_edge.calib.emulation import EmulatedModel, Grid, fake_quantized
from pstmo_edge.calib.observers import observe
from pstmo_edge.calib.rounding import weight_scales
from pstmo_edge.calib.settings import Activations, Granularity, Weights
from pstmo_edge.models.fused import fuse
from pstmo_edge.models.interception import intercepted
from pstmo_edge.models.unfused import unfuse
from pstmo_edge.train.objectives import Finetune
from pstmo_edge.train.recipes import Quantized, Recipe


def quantization_aware(recipe: Recipe, quantized: Quantized | None = None) -> Recipe:
    """The recipe's last step: short, at a low rate, without dropout, in float32."""
    return dataclasses.replace(
        recipe, qat=quantized or Quantized(), lr=2e-5, lr_decay=0.5, restart_epoch=0, epochs=2, dropout=0.0,
        precision="fp32", compile=False, keep="best",
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TrainedLayer:
    """One layer as training sees it: the values of `IntegerLayer`, held as floats that gradients pass."""

    weights: Weights
    grid: Grid | None  # None: inputs stay in float

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Rows (..., K) to (..., N)."""
        scale = weight_scales(weight.detach(), self.weights)[:, None]
        limit = self.weights.limit
        rounded = fake_quantized(weight, scale, 0, -limit, limit)
        if self.grid is not None:
            grid = self.grid
            x = fake_quantized(x, grid.scale, grid.zero_point, grid.low, grid.high)
        return F.linear(x, rounded, bias)


class QuantizedFinetune(Finetune):
    """Stage II on the fused form of `model` with integer layers, calibrated on `windows` (N, T, 17, C).

    Raises UsageError for a model whose fused form has no way back (`models.unfused`).
    """

    def __init__(self, model: nn.Module, windows: FloatArray, quantized: Quantized) -> None:
        fused = fuse(model)
        unfuse(fused, model)  # what could not be stored at the end is refused at the start
        super().__init__(fused.requires_grad_(True))
        self._before = (model,)  # not a module of this one: its weights are not trained
        granularity = Granularity.PER_CHANNEL if quantized.per_channel else Granularity.PER_TENSOR
        weights = Weights(quantized.weight_bits, granularity)
        keep = () if quantized.ends else model.lifter.ends
        self.layers: dict[str, TrainedLayer] = {}
        for name, seen in observe(fused, windows).items():
            if name not in keep:
                bits = quantized.activation_bits
                grid = seen.grid(Activations(bits, quantized.symmetric)) if bits else None
                self.layers[name] = TrainedLayer(weights, grid)
        self._freeze_unused(model.lifter.window.frames, len(model.lifter.channels))

    def _freeze_unused(self, frames: int, channels: int) -> None:
        """Leave what no loss depends on out of training, such as the encoder's closing norm, which is never applied."""
        named = list(self.named_parameters())
        loss = self(torch.zeros(2, frames, 17, channels), torch.ones(2, frames, 17, 3))
        found = torch.autograd.grad(loss, [parameter for _, parameter in named], allow_unused=True)
        for (_, parameter), gradient in zip(named, found, strict=True):
            parameter.requires_grad_(gradient is not None)

    def forward(self, keypoints: Tensor, poses: Tensor) -> Tensor:
        """(B, T, 17, 2) and (B, T, 17, 3) to the loss."""
        with intercepted(self.lifter, lambda name, *operands: self.layers[name](*operands), self.layers):
            return super().forward(keypoints, poses)

    def emulated(self) -> EmulatedModel:
        """The model with its layers as they are now, to be measured."""
        return EmulatedModel(self.lifter, self.layers)

    @property
    def stored(self) -> dict[str, nn.Module]:
        """See `Objective`: the model before its fusion, with the weights trained so far."""
        before = self._before[0]
        return {"weights": unfuse(self.lifter, before.to(next(self.lifter.parameters()).device))}


def calibration_for(recipe: Recipe, model: nn.Module) -> FloatArray:
    """The windows (N, T, 17, C) that a build of this model calibrates on, of the recipe's training split."""
    from pstmo_edge.calib.windows import calibration_windows
    from pstmo_edge.datasets import load_sequences

    sequences = load_sequences(recipe.data, "train", recipe.keypoints, recipe.skeleton)
    return calibration_windows(sequences, model.lifter.window)
