"""The same function with less work: what is exported, calibrated and deployed instead of the training module."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pstmo_edge.models.anatomy3d import Anatomy3D
from pstmo_edge.models.layers import (
    Head,
    LayerNorm,
    ResidualBlock,
    SelfAttention,
    SpatialEncoder,
    StridedFeedForward,
)
from pstmo_edge.models.p_stmo import PSTMO
from pstmo_edge.models.poseformer import PoseFormer
from pstmo_edge.models.strided_transformer import Embedding
from pstmo_edge.models.videopose3d import VideoPose3D


class GatheredFeedForward(nn.Module):
    """A strided feed-forward whose convolution is one matrix product over gathered rows.

    With kernel 3, stride 3 and padding 1, the windows of the convolution do not overlap, so gathering them is a
    shift by one token and a change of shape: no copies of tokens, no layout changes.
    """

    def __init__(self, layer: StridedFeedForward) -> None:
        super().__init__()
        self.w_1 = _linear(layer.w_1)
        weight = layer.w_2.weight  # [C, hidden, 3]
        self.w_2 = nn.Linear(3 * weight.shape[1], weight.shape[0])
        _set(self.w_2, weight.transpose(1, 2).flatten(1), layer.w_2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T / 3, C); T is a multiple of 3."""
        wide = F.relu(self.w_1(x))
        rows = F.pad(wide, (0, 0, 1, 0))[:, :-1]  # tokens -1 .. T - 2
        out: Tensor = self.w_2(rows.unflatten(1, (-1, 3)).flatten(-2))
        return out


class FusedAttention(nn.Module):
    """Self-attention with one product for query, key and value, and the scale folded into the query's weights."""

    def __init__(self, layer: SelfAttention) -> None:
        super().__init__()
        query, key, value, out = layer.linears
        scale = (query.out_features // layer.heads) ** -0.5
        self.heads = layer.heads
        self.qkv = nn.Linear(query.in_features, 3 * query.out_features)
        _set(
            self.qkv,
            torch.cat([query.weight * scale, key.weight, value.weight]),
            torch.cat([query.bias * scale, key.bias, value.bias]),
        )
        self.out = out

    def forward(self, x: Tensor, rows: slice | None = None) -> Tensor:
        """(B, T, C) to (B, T, C), or with `rows` to these tokens alone."""
        if rows is not None:
            return self.forward(x)[:, rows]
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        out: Tensor = self.out(_attended(query, key, value, self.heads))
        return out


class NarrowAttention(nn.Module):
    """The same where only some tokens ask: a product for their queries, one for the key and value of all."""

    def __init__(self, layer: SelfAttention) -> None:
        super().__init__()
        query, key, value, out = layer.linears
        scale = (query.out_features // layer.heads) ** -0.5
        self.heads = layer.heads
        self.query = nn.Linear(query.in_features, query.out_features)
        self.key_value = nn.Linear(key.in_features, 2 * key.out_features)
        _set(self.query, query.weight * scale, query.bias * scale)
        _set(self.key_value, torch.cat([key.weight, value.weight]), torch.cat([key.bias, value.bias]))
        self.out = out

    def forward(self, x: Tensor, rows: slice) -> Tensor:
        """(B, T, C) to the answers for `rows`, (B, R, C)."""
        key, value = self.key_value(x).chunk(2, dim=-1)
        out: Tensor = self.out(_attended(self.query(x[:, rows]), key, value, self.heads))
        return out


def _attended(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Scaled queries (B, R, C), keys and values (B, T, C) to what the queries gather, (B, R, C)."""
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    scores = torch.softmax(query @ key.transpose(-1, -2), dim=-1)  # [B, H, R, T]
    return (scores @ value).transpose(1, 2).flatten(-2)


def fuse(model: nn.Module) -> nn.Module:
    """A copy of a lifter in evaluation mode that computes the same with less work; raises TypeError for others."""
    fused = copy.deepcopy(model).eval()
    with torch.no_grad():
        if isinstance(fused, PSTMO):
            _fuse_p_stmo(fused)
        elif isinstance(fused, VideoPose3D | Anatomy3D):
            _fold_temporal(fused)
        elif not isinstance(fused, PoseFormer):
            raise TypeError(f"{type(model).__name__} is no lifter")
    return fused


def _fuse_p_stmo(fused: PSTMO) -> None:
    """BatchNorms folded, projections of attention joined, LayerNorm as the stock operator.

    The published LayerNorm divides by the unbiased deviation plus 1e-6; the stock one, with its gain scaled by
    sqrt((C - 1) / C) and 1e-12 under the root, differs from it by less than 1e-6 of the result wherever the deviation
    is above 1, and runtimes have a fast kernel for it.
    """
    if isinstance(fused.encoder, Embedding):
        _fold_after(fused.encoder[0], fused.encoder[1])
        fused.encoder[1] = nn.Identity()
    else:
        _fold_spatial_encoder(fused.encoder)
    for head in (fused.fcn, fused.fcn_1):
        _fold_head(head)
    narrow = fused.Transformer.model.layers[-1] if fused.emitted not in (None, (0, fused.config.frames)) else None
    for module in list(fused.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LayerNorm):
                setattr(module, name, _stock_norm(child))
            elif isinstance(child, SelfAttention):
                setattr(module, name, NarrowAttention(child) if module is narrow else FusedAttention(child))
            elif isinstance(child, StridedFeedForward) and child.w_2.stride == (3,):
                setattr(module, name, GatheredFeedForward(child))


def _fold_temporal(fused: VideoPose3D | Anatomy3D) -> None:
    """Fold every BatchNorm of a convolutional model into the layer before it."""
    for name, child in list(fused.named_children()):
        norms = name.replace("_conv", "_bn")
        if name == norms:
            continue
        if isinstance(child, nn.ModuleList):
            for number, norm in enumerate(getattr(fused, norms)):
                _fold_after(child[number], norm)
                getattr(fused, norms)[number] = nn.Identity()
        else:
            _fold_after(child, getattr(fused, norms))
            setattr(fused, norms, nn.Identity())


def _fold_spatial_encoder(encoder: SpatialEncoder) -> None:
    _fold_after(encoder.fc_1, encoder.bn_1)
    encoder.bn_1 = nn.Identity()
    for block in encoder.layers:
        assert isinstance(block, ResidualBlock)
        _fold_after(block.w1, block.batch_norm1)
        _fold_after(block.w2, block.batch_norm2)
        block.batch_norm1, block.batch_norm2 = nn.Identity(), nn.Identity()


def affine(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) of a BatchNorm in evaluation mode."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def _fold_after(layer: nn.Conv1d | nn.Linear, norm: nn.BatchNorm1d) -> None:
    """Fold a BatchNorm into the layer before it, which gets a bias if it had none."""
    scale, shift = affine(norm)
    layer.bias = nn.Parameter(shift if layer.bias is None else layer.bias * scale + shift)
    layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))


def _fold_head(head: Head) -> None:
    """Fold a head's BatchNorm into the pointwise layer after it (no padding, so the shift folds too)."""
    norm, layer = head
    scale, shift = affine(norm)
    layer.bias.add_(layer.weight[..., 0] @ shift)
    layer.weight.mul_(scale[None, :, None])
    head[0] = nn.Identity()


def _stock_norm(norm: LayerNorm) -> nn.LayerNorm:
    channels = norm.a_2.numel()
    stock = nn.LayerNorm(channels, eps=norm.eps**2)
    stock.weight.copy_(norm.a_2 * ((channels - 1) / channels) ** 0.5)
    stock.bias.copy_(norm.b_2)
    return stock


def _linear(layer: nn.Conv1d) -> nn.Linear:
    """A pointwise convolution as a linear layer."""
    linear = nn.Linear(layer.in_channels, layer.out_channels)
    _set(linear, layer.weight[..., 0], layer.bias)
    return linear


def _set(linear: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    assert bias is not None
    linear.weight.copy_(weight)
    linear.bias.copy_(bias)
