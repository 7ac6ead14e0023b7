"""The arrays of a native bundle: the fused network's weights, and the codes and scales of its INT8 layers.

Names are those of the fused model (models/fused.py). A layer's `weight` is (out, in), float32 or int8; a convolution
over three tokens is a product over their 3 x hidden values. An INT8 layer also has `weight_scale` (out), `input_scale`
(1) and `input_zero_point` (1), with the meaning of ONNX's QuantizeLinear and DequantizeLinear around a float product.
The zero point's type says how its input is quantized: uint8 for 8 bits, int16 (always 0) for 16; see `calib.emulation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from pstmo_edge.errors import BackendError
from pstmo_edge.graph import layer_nodes

_PASSED = ("QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape", "Identity")
_NORMS = {"self_attn.qkv": "sublayer.0.norm", "feed_forward.w_1": "sublayer.1.norm"}
_UNUSED = ("fcn_1.", "Transformer.model.norm.", "Transformer_reduce.model.norm.")  # they reach no centre pose


@dataclass(frozen=True)
class QuantizedLayer:
    """One layer of a Q/DQ graph with 8-bit weights: codes (out, in) int8, their scales (out), and its input's grid.

    `input_zero_point` is a uint8 where the input has 8 bits, and an int16 of 0 where it has 16.
    """

    weight: np.ndarray
    weight_scale: np.ndarray
    input_scale: float
    input_zero_point: np.uint8 | np.int16


def native_tensors(state: Mapping[str, np.ndarray], graph: onnx.ModelProto | None = None) -> dict[str, np.ndarray]:
    """The arrays of a bundle, from a fused model's state dict and, for INT8, the Q/DQ graph made of that model.

    What a calibration changed besides the layers it quantized, biases and the norms before them, comes from the graph.
    """
    tensors = {
        name: _as_matrix(array) if name.endswith(".weight") and array.ndim > 1 else array
        for name, array in state.items()
        if not name.startswith(_UNUSED)
    }
    if graph is not None:
        _Reader(graph).update(tensors)
    return {name: np.ascontiguousarray(array) for name, array in tensors.items()}


def quantized_layers(graph: onnx.ModelProto) -> dict[str, QuantizedLayer]:
    """The INT8 layers of a Q/DQ graph by name; raises BackendError for a form that the native engine does not have."""
    reader = _Reader(graph)
    found = {node.name: reader.quantized(node) for node in layer_nodes(graph)}
    return {name: layer for name, layer in found.items() if layer is not None}


class _Reader:
    """A graph with its constants, and who writes what."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        self.graph = graph
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
        self.writers = {output: node for node in graph.graph.node for output in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def update(self, tensors: dict[str, np.ndarray]) -> None:
        """Replace what the graph says of every layer with weights."""
        for node in layer_nodes(self.graph):
            if f"{node.name}.weight" not in tensors:
                continue  # a product of attention
            tensors |= self.layer(node)
            for layer, norm in _NORMS.items():
                if node.name.endswith(layer):
                    tensors |= self.norm_before(node, node.name.removesuffix(layer) + norm)

    def layer(self, node: onnx.NodeProto) -> dict[str, np.ndarray]:
        """The arrays of one layer."""
        bias, found = {f"{node.name}.bias": self.bias(node)}, self.quantized(node)
        if found is None:
            return bias | {f"{node.name}.weight": _oriented(node, self.constants[node.input[1]])}
        return bias | {
            f"{node.name}.weight": found.weight,
            f"{node.name}.weight_scale": found.weight_scale,
            f"{node.name}.input_scale": np.array([found.input_scale], np.float32),
            f"{node.name}.input_zero_point": np.array([found.input_zero_point]),
        }

    def norm_before(self, node: onnx.NodeProto, name: str) -> dict[str, np.ndarray]:
        """Gain and bias of the norm that a layer reads, under its name: a calibration may have moved scales into it."""
        norm = self.source(node.input[0])
        if norm is None or norm.op_type != "LayerNormalization":
            raise BackendError(f"{node.name} reads no norm in the graph: the native engine has no such form")
        return {
            f"{name}.{kind}": self.constants[x] for kind, x in zip(("weight", "bias"), norm.input[1:3], strict=True)
        }

    def quantized(self, node: onnx.NodeProto) -> QuantizedLayer | None:
        """The INT8 side of a layer, or None where it is in float."""
        weight = self.writers.get(node.input[1])
        if weight is None or weight.op_type != "DequantizeLinear" or weight.input[0] not in self.constants:
            return None
        activation = self.source(node.input[0], stop="DequantizeLinear")
        if activation is None:
            raise BackendError(f"{node.name} has INT8 weights and a float input: the native engine has no such form")
        codes, scale = (self.constants[name] for name in weight.input[:2])
        input_scale, zero = (self.constants[name] for name in activation.input[1:3])
        if len(weight.input) > 2 and self.constants[weight.input[2]].any():
            raise BackendError(f"{node.name} has asymmetric weights: the native engine has no such form")
        if zero.dtype not in (np.uint8, np.int16) or zero.size != 1 or codes.dtype != np.int8:
            raise BackendError(
                f"{node.name} has {zero.dtype} activations and {codes.dtype} weights: the native engine reads uint8 or "
                f"int16 activations by tensor and int8 weights"
            )
        if zero.dtype == np.int16 and zero.any():
            raise BackendError(f"{node.name} has 16-bit activations with a zero point: the native engine has none")
        matrix = _oriented(node, codes)
        scales = np.broadcast_to(scale.astype(np.float32).reshape(-1), (len(matrix),))
        return QuantizedLayer(matrix, scales, float(input_scale), zero.reshape(())[()])

    def bias(self, node: onnx.NodeProto) -> np.ndarray:
        """A layer's bias: its third input or what the addition behind it adds."""
        names = list(node.input[2:3])
        for after in self.readers.get(node.output[0], []):
            names += [name for name in after.input if after.op_type == "Add"]
        for name in names:
            value = self.constant(name)
            if value is not None:
                return value.reshape(-1)
        raise BackendError(f"{node.name} has no bias in the graph: the native engine needs one")

    def constant(self, name: str) -> np.ndarray | None:
        """A constant, dequantized where it is stored in codes."""
        if name in self.constants:
            return self.constants[name]
        writer = self.writers.get(name)
        if writer is None or writer.op_type != "DequantizeLinear" or writer.input[0] not in self.constants:
            return None
        codes, scale = (self.constants[part] for part in writer.input[:2])
        return (codes.astype(np.float64) * scale).astype(np.float32)

    def source(self, name: str, stop: str | None = None) -> onnx.NodeProto | None:
        """The node that computes `name`, past those that only quantize or move it; or the first `stop` on the way."""
        node = self.writers.get(name)
        while node is not None and node.op_type in _PASSED and node.op_type != stop:
            node = self.writers.get(node.input[0])
        return None if node is None or (stop is not None and node.op_type != stop) else node


def _oriented(node: onnx.NodeProto, weight: Any) -> np.ndarray:
    """A layer's weights as (out, in), whatever its type of node."""
    if node.op_type == "Conv":
        return _as_matrix(weight)
    swapped = node.op_type == "Gemm" and any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return weight if swapped else weight.T


def _as_matrix(weight: np.ndarray) -> np.ndarray:
    """(out, in) or (out, in, taps) to (out, taps x in)."""
    return weight if weight.ndim == 2 else weight.transpose(0, 2, 1).reshape(len(weight), -1)
