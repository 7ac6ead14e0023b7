"""VideoPose3D: temporal convolutions, dilated over sequences and strided over single windows, with the same weights.

Source: Pavllo et al., "3D human pose estimation in video with temporal convolutions and semi-supervised training", CVPR
2019, section 3. Parameter names are the published ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from pstmo_edge.models.layers import BatchNorm, Dropout, by_row, over_time, pointwise


@dataclass(frozen=True)
class VideoPose3DConfig:
    """What distinguishes one VideoPose3D from another; the last block's convolution spans the window's `frames`."""

    frames: int = 243
    channels: int = 1024
    joints: int = 17
    causal: bool = False  # the pose of the newest frame instead of the centre's
    dropout: float = 0.25

    @property
    def blocks(self) -> int:
        """Residual blocks behind the first convolution: each widens the view three times."""
        return next(power for power in range(1, 9) if 3 ** (power + 1) == self.frames)


class VideoPose3D(nn.Module):
    """A window of normalised 2D keypoints to one pose, or a sequence to all of its poses; root-relative metres."""

    def __init__(self, config: VideoPose3DConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        self.expand_conv = nn.Conv1d(2 * config.joints, width, kernel_size=3, bias=False)
        self.expand_bn = BatchNorm(width)
        self.layers_conv = nn.ModuleList(
            nn.Conv1d(width, width, kernel_size=kernel, bias=False) for _ in range(config.blocks) for kernel in (3, 1)
        )
        self.layers_bn = nn.ModuleList(BatchNorm(width) for _ in self.layers_conv)
        self.shrink = nn.Conv1d(width, 3 * config.joints, kernel_size=1)
        self.drop = Dropout(config.dropout)

    def forward(self, keypoints: Tensor) -> Tensor:
        """(B, T, 17, 2) to (B, 17, 3), with strides in place of dilation: nothing is computed that is not used."""
        return self._run(keypoints, strided=True).squeeze(1)

    def forward_sequence(self, keypoints: Tensor) -> Tensor:
        """(B, L, 17, 2) to (B, L - T + 1, 17, 3): the poses of every whole window, each layer computed once a frame."""
        return self._run(keypoints, strided=False)

    def _run(self, keypoints: Tensor, *, strided: bool) -> Tensor:
        x = self._step(self.expand_conv, self.expand_bn, keypoints.flatten(2), 1, strided)
        reach, kept = 3, 2 if self.config.causal else 1  # `kept` of three taps is where the residual goes on
        for number in range(self.config.blocks):
            conv, point = self.layers_conv[2 * number : 2 * number + 2]
            norms = self.layers_bn[2 * number : 2 * number + 2]
            residual = x[:, kept::3] if strided else x[:, kept * reach : x.shape[1] + (kept - 2) * reach]
            x = self._step(conv, norms[0], x, reach, strided)
            x = residual + self._step(point, norms[1], x, 1, strided)
            reach *= 3
        return pointwise(self.shrink, x).unflatten(-1, (self.config.joints, 3))

    def _step(self, conv: nn.Conv1d, norm: nn.Module, x: Tensor, reach: int, strided: bool) -> Tensor:
        """(B, L, C): a convolution over time, its norm, ReLU and dropout."""
        return self.drop(F.relu(by_row(norm, over_time(conv.weight, conv.bias, x, reach, strided))))
