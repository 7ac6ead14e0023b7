"""PoseFormer: a transformer over the joints of each frame, then one over the frames of the window.

Source: Zheng et al., "3D Human Pose Estimation with Spatial and Temporal Transformers", ICCV 2021. Parameter names are
the published ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class PoseFormerConfig:
    """What distinguishes one PoseFormer from another: `channels` of one joint, `dropout` of whole paths."""

    frames: int = 81
    channels: int = 32
    depth: int = 4
    heads: int = 8
    hidden: int = 2  # of the feed-forward layers, in multiples of their channels
    joints: int = 17
    dropout: float = 0.1


class Attention(nn.Module):
    """Multi-head self-attention with joined projections."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) to (N, T, C)."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each [N, H, T, C/H]
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(-2))
        return out


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) to (N, T, C)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Pre-norm transformer layer; in training a share of the samples skips each of its two parts."""

    def __init__(self, channels: int, config: PoseFormerConfig, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = Attention(channels, config.heads)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = MLP(channels, config.hidden * channels)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) to (N, T, C)."""
        x = x + self._kept(self.attn(self.norm1(x)))
        return x + self._kept(self.mlp(self.norm2(x)))

    def _kept(self, x: Tensor) -> Tensor:
        if not self.training or not self.drop_path:
            return x
        return x * F.dropout(x.new_ones(len(x), 1, 1), self.drop_path)


class PoseFormer(nn.Module):
    """A window of normalised 2D keypoints to the pose of its centre frame, root-relative metres."""

    def __init__(self, config: PoseFormerConfig) -> None:
        super().__init__()
        self.config = config
        wide = config.joints * config.channels
        rates = torch.linspace(0, config.dropout, config.depth).tolist()
        self.Spatial_patch_to_embedding = nn.Linear(2, config.channels)
        self.Spatial_pos_embed = nn.Parameter(torch.zeros(1, config.joints, config.channels))
        self.Temporal_pos_embed = nn.Parameter(torch.zeros(1, config.frames, wide))
        self.Spatial_blocks = nn.ModuleList(Block(config.channels, config, rate) for rate in rates)
        self.blocks = nn.ModuleList(Block(wide, config, rate) for rate in rates)
        self.Spatial_norm = nn.LayerNorm(config.channels, eps=1e-6)
        self.Temporal_norm = nn.LayerNorm(wide, eps=1e-6)
        self.weighted_mean = nn.Conv1d(config.frames, 1, kernel_size=1)
        self.head = nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, 3 * config.joints))

    def forward(self, keypoints: Tensor) -> Tensor:
        """(B, T, 17, 2) to (B, 17, 3)."""
        x = self.Spatial_patch_to_embedding(keypoints.flatten(0, 1)) + self.Spatial_pos_embed  # [B T, 17, C]
        for block in self.Spatial_blocks:
            x = block(x)
        x = self.Spatial_norm(x).flatten(1).unflatten(0, keypoints.shape[:2]) + self.Temporal_pos_embed  # [B, T, 17 C]
        for block in self.blocks:
            x = block(x)
        weights, bias = self.weighted_mean.weight.squeeze(-1), self.weighted_mean.bias
        mean = (weights @ self.Temporal_norm(x)).squeeze(1) + bias  # [B, 17 C]
        out: Tensor = self.head(mean)
        return out.unflatten(-1, (self.config.joints, 3))
