"""A P-STMO made of the ops: the fused model's weights, laid out and typed as the kernels read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pstmo_edge.calib.emulation import EmulatedModel, IntegerLayer
from pstmo_edge.calib.formats import Fp8Layer
from pstmo_edge.errors import BackendError, UsageError
from pstmo_edge.kernels.triton import ops
from pstmo_edge.kernels.triton.reference import Product, fp8_product, int8_product
from pstmo_edge.models.emission import with_emitted
from pstmo_edge.models.fused import FusedAttention, NarrowAttention, fuse
from pstmo_edge.models.p_stmo import PSTMO, STRIDES

# Under 3 % of the work and nearly all of the error of low precisions: always in fp32.
ENDS = ("encoder.fc_1", "fcn.1", "fcn_1.1")
_UNSIGNED_BYTES = (0, 255)


def stream_type(dtype: torch.dtype) -> torch.dtype:
    """The type of the residual stream, which passes from layer to layer, where other tokens are of `dtype`.

    Trained, it grows along one direction until its values are ten times what matters in them: with the 8 bits of bf16
    the stream alone moves poses by 9 mm, and all other tokens by less than 1 (docs/gpu.md). fp16 has 11 bits.
    """
    return torch.float32 if dtype == torch.bfloat16 else dtype


class _Product(nn.Module):
    """A `reference.Product` whose tensors move with the module."""

    def __init__(self, product: Product) -> None:
        super().__init__()
        self.register_buffer("weight", product.weight.contiguous())
        self.register_buffer("bias", product.bias.float().contiguous())
        self.register_buffer("grid", product.grid)

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.weight, self.bias, self.grid


class _Layer(nn.Module):
    """One transformer layer, plain or strided; `position` is what the layer behind it adds first."""

    def __init__(
        self, layer: nn.Module, products: Mapping[str, Product], heads: int, stride: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        attend, feed = layer.sublayer
        self.register_buffer("norm_1", torch.stack([attend.norm.weight, attend.norm.bias]).float())
        self.register_buffer("norm_2", torch.stack([feed.norm.weight, feed.norm.bias]).float())
        self.register_buffer("position", None)
        self.qkv = _Product(products["self_attn.qkv"])
        self.products = nn.ModuleList(
            _Product(products[name]) for name in ("self_attn.out", "feed_forward.w_1", "feed_forward.w_2")
        )
        self.heads, self.stride, self.dtype = heads, stride, dtype

    def forward(self, x: Tensor) -> Tensor:
        """The stream (B, T, C) to (B, ceil(T / stride), C)."""
        qkv = ops.norm_linear(x, self.norm_1, *self.qkv.parts, self.dtype)
        mixed = ops.attention(qkv, self.heads)
        out: Tensor = ops.feed_forward(x, mixed, self.norm_2, *_spread(self.products), self.position, self.stride)
        return out


def _spread(products: nn.ModuleList) -> tuple[list[Tensor], list[Tensor], list[Tensor | None]]:
    weights, biases, grids = zip(*(product.parts for product in products), strict=True)
    return list(weights), list(biases), list(grids)


class KernelLifter(nn.Module):
    """(B, T, 17, 2) float32 to (B, 17, 3), or to the emitted poses (B, K, 17, 3), float32.

    `precisions` says of every layer with weights what its product is computed in, `dtype` is the type of the tokens
    between kernels and `stream` that of the residual stream among them. Move it with `.to(device)`; its types are its
    own, so a change of type would make another network of it.
    """

    def __init__(self, model: PSTMO, products: Mapping[str, Product], dtype: torch.dtype, emitted: Any) -> None:
        super().__init__()
        self.dtype, self.stream = dtype, stream_type(dtype)
        self.joints, self.emitted = model.config.joints, emitted
        self.precisions = {name: _precision(product) for name, product in products.items()}
        self.encoder = nn.ModuleList(
            _Product(products[f"encoder.{name}"]) for name in ("fc_1", "layers.0.w1", "layers.0.w2", "fc_2")
        )
        self.register_buffer("position", model.Transformer.pos_embedding[0].float().contiguous())
        self.layers = nn.ModuleList(_layers(model, products, dtype, emitted is not None))
        self.head = _Product(products["fcn.1" if emitted is None else "fcn_1.1"])

    def forward(self, keypoints: Tensor) -> Tensor:
        """Normalised keypoints (B, T, 17, 2) float32 to poses in metres."""
        x = ops.spatial_encoder(keypoints.flatten(2), *_spread(self.encoder), self.position, self.stream)
        for layer in self.layers:
            x = layer(x)
        if self.emitted is not None:
            first, count = self.emitted
            x = x[:, first : first + count].contiguous()
        poses: Tensor = ops.norm_linear(x, None, *self.head.parts, torch.float32).unflatten(-1, (self.joints, 3))
        return poses.squeeze(1) if self.emitted is None else poses


def lifter_of(model: nn.Module, dtype: torch.dtype = torch.float32) -> KernelLifter:
    """A P-STMO in evaluation mode, or its emulated INT8 or FP8 form, for the kernels.

    Layers that the emulation quantizes are, but for the two ends; all others are in `dtype`, fp32, bf16 or fp16, and so
    are the tokens between the kernels, but for the residual stream of bf16. Raises UsageError for other models and
    quantizations.
    """
    layers = dict(model.layers) if isinstance(model, EmulatedModel) else {}
    inner: Any = model.model if isinstance(model, EmulatedModel) else model
    if not isinstance(inner, PSTMO):
        raise UsageError(f"the GPU kernels run p-stmo and p-stmo-s, not {type(inner).__name__}")
    fused = _fused(inner)
    with torch.no_grad():
        products = {
            name: _product(name, module, layers.get(name), dtype)
            for name, module in fused.named_modules()
            if isinstance(module, nn.Linear | nn.Conv1d)
        }
        return KernelLifter(fused, products, dtype, inner.emitted).eval()


def lifter_of_tensors(
    name: str, frames: int, tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float16
) -> KernelLifter:
    """The arrays of a native bundle (`native_weights`) for the kernels: the same integers as on the CPU.

    Layers with 16-bit activations have no units on a GPU: their weights, dequantized, are in `dtype`. Raises
    BackendError where an array is missing.
    """
    from pstmo_edge.models.zoo import create_model

    return filled(fuse(create_model(name, frames)), tensors, dtype)


def filled(model: Any, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> KernelLifter:
    """The same of a fused model of any size, whose own weights are overwritten."""
    products = {
        layer: _stored_product(layer, tensors, dtype)
        for layer, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d) and not layer.startswith("fcn_1")
    }
    with torch.no_grad():
        for key, value in model.state_dict().items():
            layer = key.rpartition(".")[0]
            if layer not in products and not layer.startswith("fcn_1") and not layer.endswith("model.norm"):
                value.copy_(_stored(tensors, key).reshape(value.shape))
        return KernelLifter(model, products, dtype, None).eval()


def _stored(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise BackendError(f"the bundle's weights hold no {name}: build it again")
    return tensors[name]


def _stored_product(layer: str, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Product:
    weight, bias = _stored(tensors, f"{layer}.weight"), _stored(tensors, f"{layer}.bias")
    float_type = torch.float32 if layer in ENDS else dtype
    if weight.dtype != torch.int8:
        return Product(weight.to(float_type), bias.float())
    scale, zero = _stored(tensors, f"{layer}.weight_scale"), _stored(tensors, f"{layer}.input_zero_point")
    if layer in ENDS or zero.dtype != torch.uint8:
        return Product((weight.float() * scale[:, None]).to(float_type), bias.float())
    return int8_product(weight, scale, bias, float(_stored(tensors, f"{layer}.input_scale")), int(zero))


def _fused(model: PSTMO) -> Any:
    """The fused form with one product for query, key and value in every layer."""
    attention = model.Transformer.model.layers[-1].self_attn
    if isinstance(attention, NarrowAttention):
        raise UsageError("this model was fused for some frames alone: give the GPU kernels the model before fuse()")
    return model if isinstance(attention, FusedAttention) else fuse(with_emitted(model, None))


def _product(name: str, module: nn.Module, layer: Any, dtype: torch.dtype) -> Product:
    weight = module.weight
    matrix = weight if weight.dim() == 2 else weight.transpose(1, 2).flatten(1)  # taps side by side
    bias = module.bias if layer is None else layer.bias
    if name in ENDS:
        return Product(matrix.float(), bias.float())
    if isinstance(layer, IntegerLayer):
        grid = layer.grid
        if grid is None or (grid.low, grid.high) != _UNSIGNED_BYTES:
            raise UsageError(f"{name}: the GPU kernels read int8 activations by tensor, unsigned, from 0 to 255")
        return int8_product(layer.weight, layer.weight_scale, bias, grid.scale, grid.zero_point)
    if isinstance(layer, Fp8Layer):
        return fp8_product(layer.weight, layer.weight_scale, bias, layer.input_scale)
    return Product(matrix.to(dtype), bias.float())


def _precision(product: Product) -> str:
    names = {torch.int8: "int8", torch.float8_e4m3fn: "fp8", torch.float32: "fp32", torch.bfloat16: "bf16"}
    return names.get(product.weight.dtype, "fp16")


def _layers(model: PSTMO, products: Mapping[str, Product], dtype: torch.dtype, per_frame: bool) -> list[_Layer]:
    heads = model.config.heads
    temporal, reduce = model.Transformer.model, model.Transformer_reduce.model
    found = [
        _Layer(layer, _below(products, f"Transformer.model.layers.{i}."), heads, 1, dtype)
        for i, layer in enumerate(temporal.layers)
    ]
    if per_frame:
        return found
    strided = [
        _Layer(layer, _below(products, f"Transformer_reduce.model.layers.{i}."), heads, stride, dtype)
        for i, (layer, stride) in enumerate(zip(reduce.layers, STRIDES[model.config.frames], strict=True))
    ]
    tables = (reduce.pos_embedding_1, reduce.pos_embedding_2, reduce.pos_embedding_3)
    for before, table in zip([found[-1], *strided[:-1]], tables, strict=False):
        before.position = table[0].float().contiguous()
    return found + strided


def _below(products: Mapping[str, Product], prefix: str) -> dict[str, Product]:
    return {name.removeprefix(prefix): product for name, product in products.items() if name.startswith(prefix)}
