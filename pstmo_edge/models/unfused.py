"""The way back from the fused form: weights trained in the form that is deployed, in the form that is stored."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from pstmo_edge.errors import UsageError
from pstmo_edge.models.fused import FusedAttention, GatheredFeedForward, affine
from pstmo_edge.models.layers import Head, LayerNorm, SelfAttention, SpatialEncoder, StridedFeedForward
from pstmo_edge.models.p_stmo import PSTMO
from pstmo_edge.models.strided_transformer import Embedding


def unfuse(fused: nn.Module, like: nn.Module) -> nn.Module:
    """A copy of `like` whose fused form is `fused`, that being `fuse(like)` with other weights.

    BatchNorms keep what they are in `like`; a channel that they multiply by 0 keeps its weights. Raises UsageError for
    models other than P-STMO's family.
    """
    if not isinstance(like, PSTMO) or like.emitted is not None:
        raise UsageError(f"the fused form of {like.lifter.name} has no way back: only P-STMO's family has, whole")
    result = copy.deepcopy(like).eval()
    assert isinstance(fused, PSTMO)
    with torch.no_grad():
        _copy_alike(fused, result)
        if isinstance(result.encoder, Embedding):
            _unfold_after(result.encoder[0], like.encoder[0], result.encoder[1])
        else:
            _unfold_encoder(result.encoder, like.encoder)
        for name in ("fcn", "fcn_1"):
            _unfold_head(getattr(result, name), getattr(like, name))
        for name, module in like.named_modules():
            if isinstance(module, LayerNorm):
                _set_norm(result.get_submodule(name), fused.get_submodule(name))
            elif isinstance(module, SelfAttention):
                _set_attention(result.get_submodule(name), fused.get_submodule(name))
            elif isinstance(module, StridedFeedForward) and module.w_2.stride == (3,):
                _set_convolutions(result.get_submodule(name), fused.get_submodule(name))
    return result


def _copy_alike(fused: nn.Module, result: nn.Module) -> None:
    """Everything that has the same name and shape in both; what was folded into it is taken out later."""
    shapes = {name: value.shape for name, value in result.state_dict().items()}
    alike = {name: value for name, value in fused.state_dict().items() if shapes.get(name) == value.shape}
    result.load_state_dict(alike, strict=False)


def _unfold_encoder(encoder: SpatialEncoder, like: SpatialEncoder) -> None:
    _unfold_after(encoder.fc_1, like.fc_1, encoder.bn_1)
    for block, before in zip(encoder.layers, like.layers, strict=True):
        _unfold_after(block.w1, before.w1, block.batch_norm1)
        _unfold_after(block.w2, before.w2, block.batch_norm2)


def _unfold_after(layer: nn.Module, like: nn.Module, norm: nn.Module) -> None:
    """Take a BatchNorm out of the layer before it."""
    scale, shift = affine(norm)
    column = scale.view(-1, *[1] * (layer.weight.dim() - 1))
    layer.weight.copy_(_divided(layer.weight, column, like.weight))
    layer.bias.copy_(_divided(layer.bias - shift, scale, like.bias))


def _unfold_head(head: Head, like: Head) -> None:
    """Take a head's BatchNorm out of the pointwise layer after it."""
    norm, layer = head
    scale, shift = affine(norm)
    layer.weight.copy_(_divided(layer.weight, scale[None, :, None], like[1].weight))
    layer.bias.sub_(layer.weight[..., 0] @ shift)


def _divided(value: Tensor, scale: Tensor, otherwise: Tensor) -> Tensor:
    return torch.where(scale == 0, otherwise, value / torch.where(scale == 0, 1.0, scale))


def _set_norm(norm: nn.Module, stock: nn.Module) -> None:
    channels = norm.a_2.numel()
    norm.a_2.copy_(stock.weight / ((channels - 1) / channels) ** 0.5)
    norm.b_2.copy_(stock.bias)


def _set_attention(attention: nn.Module, joined: nn.Module) -> None:
    assert isinstance(joined, FusedAttention)
    query, key, value, out = attention.linears
    scale = (query.out_features // attention.heads) ** -0.5
    for linear, weight, bias, factor in zip(
        (query, key, value), joined.qkv.weight.chunk(3), joined.qkv.bias.chunk(3), (scale, 1.0, 1.0), strict=True
    ):
        linear.weight.copy_(weight / factor)
        linear.bias.copy_(bias / factor)
    out.load_state_dict(joined.out.state_dict())


def _set_convolutions(layer: nn.Module, gathered: nn.Module) -> None:
    assert isinstance(gathered, GatheredFeedForward)
    layer.w_1.weight.copy_(gathered.w_1.weight[..., None])
    layer.w_1.bias.copy_(gathered.w_1.bias)
    layer.w_2.weight.copy_(gathered.w_2.weight.unflatten(1, (3, -1)).transpose(1, 2))
    layer.w_2.bias.copy_(gathered.w_2.bias)
