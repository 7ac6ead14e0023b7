"""Anatomy3D: bone directions from the window, bone lengths from many frames of the video, joints from both.

Source: Chen et al., "Anatomy-aware 3D Human Pose Estimation with Bone-based Pose Decomposition", IEEE TCSVT 2021.
Parameter names are the published ones; of the published parameters, those that only its training losses use
(`shrink_direct_1`, `shrink_js_*`, `lengthlinear_*`, `directlinear_*` with a number) are kept and not computed with.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pstmo_edge.models.layers import BatchNorm, Dropout, by_row, over_time, pointwise

BONES = (
    (16, 15), (15, 14), (13, 12), (12, 11), (10, 9), (9, 8), (8, 7), (8, 11),
    (8, 14), (7, 0), (3, 2), (2, 1), (6, 5), (5, 4), (1, 0), (4, 0),
)  # fmt: skip
_TEMPERATURE = 10.0  # of the attention over frames
_TAPS = 3


@dataclass(frozen=True)
class Anatomy3DConfig:
    """What distinguishes one Anatomy3D from another; `frames` is a power of three."""

    frames: int = 243
    channels: int = 1024
    joints: int = 17
    dropout: float = 0.25

    @property
    def blocks(self) -> int:
        """Residual blocks of each network: every one of them sees three times as far."""
        return next(power for power in range(1, 9) if _TAPS ** (power + 1) == self.frames)


class Anatomy3D(nn.Module):
    """Keypoints with visibility scores to poses, root-relative metres."""

    def __init__(self, config: Anatomy3DConfig) -> None:
        super().__init__()
        self.config = config
        width, joints, blocks, bones = config.channels, config.joints, config.blocks, len(BONES)

        def convolutions(inputs: list[int]) -> nn.ModuleList:
            pairs = [(given, width, kernel) for first in inputs for given, kernel in ((first, _TAPS), (width, 1))]
            return nn.ModuleList(nn.Conv1d(i, o, kernel_size=k, bias=False) for i, o, k in pairs)

        self.expand_conv = nn.Conv1d(2 * joints, width, kernel_size=_TAPS, bias=False)
        self.expand_bn = BatchNorm(width)
        self.expand_convscore = nn.Conv1d(joints, width, kernel_size=_TAPS, bias=False)
        self.expand_bnscore = BatchNorm(width)
        self.layers_conv = convolutions([2 * width, *[width] * (blocks - 1)])
        self.layers_bn = nn.ModuleList(BatchNorm(width) for _ in self.layers_conv)
        self.layers_conv1 = convolutions([2 * width] * blocks)
        self.layers_bn1 = nn.ModuleList(BatchNorm(width) for _ in self.layers_conv1)
        self.layers_convbone = nn.ModuleList(
            [nn.Linear(2 * joints, width), *(nn.Linear(width, width) for _ in range(2 * blocks)), nn.Linear(width, 51)]
        )
        self.layers_bnbone = nn.ModuleList(BatchNorm(width) for _ in range(2 * blocks + 1))
        self.boneatt = nn.Linear(6 * joints, bones)
        self.shrink_direct_2 = nn.Conv1d(width, 3 * bones, kernel_size=1)
        self.lengthlinear = nn.Linear(bones, width)
        self.directlinear = nn.Conv1d(3 * bones, width, kernel_size=1)
        self.shrink = nn.Conv1d(width, 3 * joints, kernel_size=1)
        self.drop = Dropout(config.dropout)
        shifts = joints * (joints + 1) // 2 - bones
        for name, layer in {
            "shrink_direct_1": nn.Conv1d(width, 3 * bones, kernel_size=1),
            "lengthlinear_1": nn.Linear(bones, width),
            "lengthlinear_2": nn.Linear(bones, width),
            "directlinear_1": nn.Conv1d(3 * bones, width, kernel_size=1),
            "directlinear_2": nn.Conv1d(3 * bones, width, kernel_size=1),
            "shrink_js_1": nn.Conv1d(width, 3 * shifts, kernel_size=1),
            "shrink_js_2": nn.Conv1d(width, 3 * shifts, kernel_size=1),
        }.items():
            self.add_module(name, layer.requires_grad_(False))

    def forward(self, keypoints: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, T, 17, 3) to (B, 17, 3); bone lengths (B, 16) are the window's own unless given."""
        if lengths is None:
            lengths = self.bone_lengths(keypoints)
        return self._joints(self._directions(keypoints, strided=True), lengths).squeeze(1)

    def forward_sequence(self, keypoints: Tensor) -> Tensor:
        """(B, L, 17, 3) to (B, L - T + 1, 17, 3), with bone lengths from all frames that have a pose, as published."""
        reach = self.config.frames // 2
        lengths = self.bone_lengths(keypoints[:, reach : keypoints.shape[1] - reach])
        return self._joints(self._directions(keypoints, strided=False), lengths)

    def bone_lengths(self, keypoints: Tensor) -> Tensor:
        """(B, L, 17, 3) to (B, 16) metres: each frame gives its lengths, attention weighs the frames."""
        batch, frames = keypoints.shape[:2]
        x = keypoints[..., :2].flatten(2).flatten(0, 1)
        x = self.drop(F.relu(self.layers_bnbone[0](self.layers_convbone[0](x))))
        for number in range(1, 2 * self.config.blocks, 2):
            y = self.drop(F.relu(self.layers_bnbone[number](self.layers_convbone[number](x))))
            x = x + self.drop(F.relu(self.layers_bnbone[number + 1](self.layers_convbone[number + 1](y))))
        joints = self.layers_convbone[-1](x)  # [B L, 51]
        attention = self.boneatt(torch.cat([joints, joints.abs()], dim=-1)) * _TEMPERATURE
        points = joints.unflatten(-1, (self.config.joints, 3))
        ends, starts = zip(*BONES, strict=True)
        lengths = (points[:, list(ends)] - points[:, list(starts)]).norm(dim=-1)
        weights = attention.unflatten(0, (batch, frames)).softmax(dim=1)
        return (lengths.unflatten(0, (batch, frames)) * weights).sum(1)

    def _directions(self, keypoints: Tensor, *, strided: bool) -> Tensor:
        """(B, L, 17, 3) to directions of unit length (B, N, 48), N poses."""
        levels = self._bottom(keypoints, strided=strided)
        bones = pointwise(self.shrink_direct_2, self._top(levels, strided=strided)).unflatten(-1, (len(BONES), 3))
        return (bones / bones.norm(dim=-1, keepdim=True)).flatten(-2)

    def _bottom(self, keypoints: Tensor, *, strided: bool) -> list[Tensor]:
        """The first network: its tokens at every level, (B, frames of that level, C)."""
        x, score = keypoints[..., :2].flatten(2), keypoints[..., 2]
        x = self._step(over_time(self.expand_conv.weight, self.expand_conv.bias, x, 1, strided), self.expand_bn)
        conv = self.expand_convscore
        score = self._step(over_time(conv.weight, conv.bias, score, 1, strided), self.expand_bnscore)
        levels, reach = [x], _TAPS
        x = torch.cat([x, score * x], dim=-1)
        for number in range(self.config.blocks):
            conv, point = self.layers_conv[2 * number : 2 * number + 2]
            below = levels[-1]
            residual = below[:, 1::_TAPS] if strided else below[:, reach : below.shape[1] - reach]
            x = self._step(over_time(conv.weight, conv.bias, x, reach, strided), self.layers_bn[2 * number])
            x = residual + self._step(pointwise(point, x), self.layers_bn[2 * number + 1])
            levels.append(x)
            reach *= _TAPS
        return levels

    def _top(self, levels: list[Tensor], *, strided: bool) -> Tensor:
        """The second network, which sees the first one's result beside every level: (B, N, C).

        Over a sequence each pose has tokens of its own, (B N, tokens, C), but what a convolution makes of the levels is
        made once a frame and shared by all poses.
        """
        width, poses = self.config.channels, levels[-1].shape[1]
        x = levels[-1].flatten(0, 1)[:, None].expand(-1, self.config.frames // _TAPS, -1)
        reach = _TAPS
        for number in range(self.config.blocks):
            conv, point = self.layers_conv1[2 * number : 2 * number + 2]
            if strided:
                y = over_time(conv.weight, conv.bias, torch.cat([x, levels[number]], dim=-1), reach, strided)
            else:
                own, level = conv.weight.split(width, dim=1)
                shared = over_time(level, None, levels[number], reach, strided)  # [B, frames of that level, C]
                tokens = torch.arange(x.shape[1] // _TAPS) * reach * _TAPS
                places = (torch.arange(poses)[:, None] + tokens).to(x.device)
                if number == 0:  # all tokens of a pose are still alike, so one product serves them all
                    mine = F.linear(x[:, :1], own.sum(-1), conv.bias)
                else:
                    mine = over_time(own, conv.bias, x, 1, strided=True)
                y = mine + shared[:, places].flatten(0, 1)
            y = self._step(y, self.layers_bn1[2 * number])
            x = x[:, 1::_TAPS] + self._step(pointwise(point, y), self.layers_bn1[2 * number + 1])
            reach *= _TAPS
        return x.squeeze(1).unflatten(0, (-1, poses))

    def _joints(self, directions: Tensor, lengths: Tensor) -> Tensor:
        """Directions (B, N, 48) and lengths (B, 16) to joints (B, N, 17, 3)."""
        x = pointwise(self.directlinear, directions) * self.lengthlinear(lengths)[:, None]
        return pointwise(self.shrink, x).unflatten(-1, (self.config.joints, 3))

    def _step(self, x: Tensor, norm: nn.Module) -> Tensor:
        """(B, T, C): a norm, ReLU and dropout."""
        return self.drop(F.relu(by_row(norm, x)))
