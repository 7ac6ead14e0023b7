"""StridedTransformer: the lifter that P-STMO grew out of, with one layer where P-STMO has its spatial encoder.

Source: Li et al., "Exploiting Temporal Contexts with Strided Transformer for 3D Human Pose Estimation", IEEE
Transactions on Multimedia 2022. Parameter names are the published ones.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from pstmo_edge.models.layers import BatchNorm, Dropout
from pstmo_edge.models.p_stmo import PSTMO, PSTMOConfig

_DROPOUT = 2.5  # of the embedding, in multiples of the transformer's


class Embedding(nn.Sequential):
    """The joints of one frame to one token: a pointwise layer, BatchNorm, ReLU and dropout."""

    def __init__(self, inputs: int, channels: int, dropout: float) -> None:
        super().__init__(
            nn.Conv1d(inputs, channels, kernel_size=1), BatchNorm(channels), nn.ReLU(), Dropout(_DROPOUT * dropout)
        )

    def forward(self, keypoints: Tensor) -> Tensor:
        """(B, T, J, 2) to (B, T, C)."""
        linear, norm, relu, dropout = self
        x = F.linear(keypoints.flatten(0, 1).flatten(1), linear.weight.squeeze(-1), linear.bias)
        out: Tensor = dropout(relu(norm(x)))
        return out.unflatten(0, keypoints.shape[:2])


class StridedTransformer(PSTMO):
    """A window of normalised 2D keypoints to the pose of its centre frame, root-relative metres."""

    def __init__(self, config: PSTMOConfig) -> None:
        super().__init__(config)
        self.encoder = Embedding(2 * config.joints, config.channels, config.dropout)
