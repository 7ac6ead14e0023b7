"""P-STMO and P-STMO-S: the many-to-one lifter and its masked pre-training model.

Source: Shan et al., ECCV 2022, sections 3.1 to 3.4. Parameter names are the published ones, so that a published
checkpoint is a state dict of these modules.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pstmo_edge.models.layers import EncoderLayer, EncoderStack, Head, LayerNorm, SpatialEncoder

STRIDES = {9: (1, 3, 3), 27: (3, 3, 3), 81: (3, 3, 3, 3), 243: (3, 3, 3, 3, 3), 351: (3, 9, 13)}


@dataclass(frozen=True)
class PSTMOConfig:
    """What distinguishes one P-STMO from another; the residual block drops 2.5 times `dropout`, as published."""

    frames: int = 243
    layers: int = 3
    channels: int = 256
    hidden: int = 512
    heads: int = 8
    joints: int = 17
    dropout: float = 0.1

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of each strided layer."""
        return STRIDES[self.frames]


class TemporalEncoder(nn.Module):
    """A learned position table and a transformer over the window (section 3.1, "temporal encoding module")."""

    def __init__(self, config: PSTMOConfig) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.randn(1, config.frames, config.channels))
        self.model = _stack(config, config.channels, config.hidden, [None] * config.layers)

    def forward(self, x: Tensor, rows: slice | None = None) -> Tensor:
        """(B, T, C) to (B, T, C), or with `rows` to these tokens alone."""
        out: Tensor = self.model(x + self.pos_embedding, rows)
        return out


def _stack(config: PSTMOConfig, channels: int, hidden: int, strides: list[int | None]) -> EncoderStack:
    layers = [EncoderLayer(channels, hidden, config.heads, config.dropout, stride) for stride in strides]
    return EncoderStack(layers, channels)


class StridedStack(EncoderStack):
    """Strided layers that reduce the window to one token; the first three add a position table, cut to length."""

    def __init__(self, config: PSTMOConfig) -> None:
        layers = [
            EncoderLayer(config.channels, config.hidden, config.heads, config.dropout, stride)
            for stride in config.strides
        ]
        super().__init__(layers, config.channels)
        self.pos_embedding_1 = nn.Parameter(torch.randn(1, config.frames, config.channels))
        self.pos_embedding_2 = nn.Parameter(torch.randn(1, config.frames, config.channels))
        self.pos_embedding_3 = nn.Parameter(torch.randn(1, config.frames, config.channels))

    def forward(self, x: Tensor, rows: slice | None = None) -> Tensor:
        """(B, T, C) to (B, 1, C); no token can be left out, so `rows` is None."""
        tables = (self.pos_embedding_1, self.pos_embedding_2, self.pos_embedding_3)
        for number, layer in enumerate(self.layers):
            if number < len(tables):
                x = x + tables[number][:, : x.shape[1]]
            x = layer(x)
        return x


class ManyToOne(nn.Module):
    """The strided transformer (section 3.1, "many-to-one frame aggregator")."""

    def __init__(self, config: PSTMOConfig) -> None:
        super().__init__()
        self.model = StridedStack(config)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, 1, C)."""
        out: Tensor = self.model(x)
        return out


class PSTMO(nn.Module):
    """A window of normalised 2D keypoints to the pose of its centre frame, root-relative metres.

    With `emitted` (`emission.emitting` sets it) to the poses of that many frames from the first of the two numbers on.
    """

    emitted: tuple[int, int] | None = None

    def __init__(self, config: PSTMOConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = SpatialEncoder(2 * config.joints, 2 * config.channels, config.channels, config.dropout)
        self.Transformer = TemporalEncoder(config)
        self.Transformer_reduce = ManyToOne(config)
        self.fcn = Head(config.channels, config.joints, 3)
        self.fcn_1 = Head(config.channels, config.joints, 3)

    def forward(self, keypoints: Tensor) -> Tensor:
        """(B, T, 17, 2) to (B, 17, 3) without the per-frame head, or `emitted` ones to (B, K, 17, 3) with it alone."""
        if self.emitted is not None:
            return self.forward_frames(keypoints, *self.emitted)
        return self.aggregate(self.encode(keypoints))

    def forward_all(self, keypoints: Tensor) -> Tensor:
        """(B, T, 17, 2) to (B, T, 17, 3): the per-frame head behind the temporal encoder."""
        return self.forward_frames(keypoints, 0, self.config.frames)

    def forward_frames(self, keypoints: Tensor, first: int, count: int) -> Tensor:
        """(B, T, 17, 2) to (B, count, 17, 3), the poses of `count` frames from `first` on, by the per-frame head."""
        rows = None if count == self.config.frames else slice(first, first + count)
        out: Tensor = self.fcn_1(self.Transformer(self.encoder(keypoints), rows))
        return out

    def forward_both(self, keypoints: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, 17, 2) to the centre poses (B, 17, 3) and all poses (B, T, 17, 3): what training needs."""
        tokens = self.encode(keypoints)
        return self.aggregate(tokens), self.fcn_1(tokens)

    def encode(self, keypoints: Tensor) -> Tensor:
        """(B, T, 17, 2) to tokens (B, T, C)."""
        out: Tensor = self.Transformer(self.encoder(keypoints))
        return out

    def aggregate(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T, C) to the centre poses (B, 17, 3)."""
        out: Tensor = self.fcn(self.Transformer_reduce(tokens))
        return out.squeeze(1)


class Decoder(nn.Module):
    """The narrow transformer of masked pose modelling."""

    def __init__(self, config: PSTMOConfig, layers: int) -> None:
        super().__init__()
        self.model = _stack(config, config.channels // 2, config.hidden // 2, [None] * layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C / 2) to (B, T, C / 2)."""
        out: Tensor = self.model(x)
        return out


class PSTMOPretrain(nn.Module):
    """Masked pose modelling (section 3.2): 2D keypoints rebuilt from the visible frames and joints."""

    def __init__(self, config: PSTMOConfig) -> None:
        super().__init__()
        self.config = config
        narrow = config.channels // 2
        self.encoder = SpatialEncoder(2 * config.joints, 2 * config.channels, config.channels, config.dropout)
        self.Transformer = TemporalEncoder(config)
        self.Transformer_dec = Decoder(config, config.layers - 1)
        self.encoder_to_decoder = nn.Linear(config.channels, narrow, bias=False)
        self.encoder_LN = LayerNorm(config.channels)
        self.fcn_dec = Head(narrow, config.joints, 2)
        self.dec_pos_embedding = nn.Parameter(torch.randn(1, config.frames, narrow))
        self.mask_token = nn.Parameter(torch.randn(1, 1, narrow))
        self.spatial_mask_token = nn.Parameter(torch.randn(1, 1, 2))

    def forward(self, keypoints: Tensor, temporal_mask: Tensor, spatial_mask: Tensor) -> Tensor:
        """Rebuild (B, T, 17, 2), visible frames first, from keypoints (B, T, 17, 2).

        `temporal_mask` (T,) and `spatial_mask` (T, 17) are boolean; True hides.
        """
        visible = ~temporal_mask
        x = torch.where(spatial_mask[None, :, :, None], self.spatial_mask_token[0], keypoints)
        x = self.encoder(x[:, visible]) + self.Transformer.pos_embedding[:, visible]
        x = self.encoder_to_decoder(self.encoder_LN(self.Transformer.model(x)))
        hidden = self.mask_token + self.dec_pos_embedding[:, temporal_mask]  # [1, hidden frames, C / 2]
        x = torch.cat([x + self.dec_pos_embedding[:, visible], hidden.expand(len(x), -1, -1)], dim=1)
        out: Tensor = self.fcn_dec(self.Transformer_dec(x))
        return out
