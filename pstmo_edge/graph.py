"""What an ONNX graph of a lifter holds: its layers by the model's own names, their cost, and their precision."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from pstmo_edge.manifest import LayerPrecision, Precision

LAYER_TYPES = ("MatMul", "Gemm", "Conv")


def name_layers(graph: onnx.ModelProto, matrices: Mapping[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """Give every layer with weights the name it has in the model, and its weights `<name>.weight`.

    The exporter folds a transposition into a weight and forgets its name. A layer is known by its values, where
    `matrices` (N, K) by name hold them, or else by its bias, which keeps its name unless it is all 0 or like another.
    """
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    readers = _readers(graph)
    unclaimed = dict(matrices or {})
    renamed: dict[str, str] = {}
    for number, node in enumerate(layer_nodes(graph)):
        if node.input[1] not in weights:
            node.name = f"product.{number}"
            continue
        matrix = oriented(node, numpy_helper.to_array(weights[node.input[1]]))
        name = next((name for name, given in unclaimed.items() if np.array_equal(given, matrix)), None)
        if name is not None:
            del unclaimed[name]
        else:
            biases = (name for name in _bias_candidates(node, readers) if name.endswith(".bias"))
            name = next(biases, "").removesuffix(".bias")
        if name:
            node.name = name
            renamed[node.input[1]] = f"{name}.weight"
    for node in graph.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
    for tensor in graph.graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    return graph


def layer_nodes(graph: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every matrix product and convolution, in order."""
    return (node for node in graph.graph.node if node.op_type in LAYER_TYPES)


def weighted_layers(graph: onnx.ModelProto) -> list[str]:
    """Names of the layers that have weights: those that can be quantized."""
    weights = {tensor.name for tensor in graph.graph.initializer}
    return [node.name for node in layer_nodes(graph) if node.input[1] in weights]


def oriented(node: onnx.NodeProto, weight: np.ndarray) -> np.ndarray:
    """A layer's weights as (N, K), a convolution's with its taps side by side, whatever its type of node."""
    if node.op_type == "Conv":
        return weight.transpose(0, 2, 1).reshape(len(weight), -1)
    swapped = node.op_type == "Gemm" and any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return weight if swapped else weight.T


def layer_precisions(graph: onnx.ModelProto) -> tuple[LayerPrecision, ...]:
    """Every layer's multiply-adds for one window and the precision its operands have in the graph.

    A layer counts as int8 only where both operands come out of a DequantizeLinear. Weights that are stored in half
    precision and cast to float32 before the product are its `weights`.
    """
    single = onnx.ModelProto()
    single.CopyFrom(graph)
    single.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    for value in single.graph.output:
        value.type.tensor_type.shape.dim[0].Clear()
    del single.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(single, data_prop=True)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.graph.initializer}
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    stored = _Stored(graph)
    return tuple(
        LayerPrecision(
            name=node.name,
            kind=node.op_type,
            precision=stored.precision(node),
            multiply_adds=_multiply_adds(node, shapes),
            weights=stored.weights(node),
        )
        for node in layer_nodes(graph)
    )


def weight_magnitudes(graph: onnx.ModelProto) -> dict[str, int]:
    """The largest absolute value of every 8-bit weight tensor: what decides whether integer sums can overflow."""
    return {
        tensor.name: int(abs(numpy_helper.to_array(tensor).astype(int)).max())
        for tensor in graph.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    }


_TYPE = onnx.TensorProto
_HALF: dict[int, Precision] = {_TYPE.FLOAT16: "fp16", _TYPE.BFLOAT16: "bf16"}
# By the types that a layer's input and weights have before they are dequantized.
_QUANTIZED: dict[tuple[int, int], Precision] = {
    (_TYPE.UINT8, _TYPE.INT8): "int8",
    (_TYPE.INT8, _TYPE.INT8): "int8",
    (_TYPE.UINT16, _TYPE.INT8): "w8a16",
    (_TYPE.INT16, _TYPE.INT8): "w8a16",
    (_TYPE.FLOAT8E4M3FN, _TYPE.FLOAT8E4M3FN): "fp8",
    (_TYPE.FLOAT, _TYPE.INT4): "w4",
}


class _Stored:
    """The types in which operands are stored before a graph dequantizes them or casts them to float32."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        self.writers = {output: node for node in graph.graph.node for output in node.output}
        self.types = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}

    def precision(self, node: onnx.NodeProto) -> Precision:
        """What the layer multiplies."""
        own = _HALF.get(self.types.get(node.input[1], _TYPE.FLOAT))
        return own or _QUANTIZED.get((self._quantized(node.input[0]), self._quantized(node.input[1])), "fp32")

    def weights(self, node: onnx.NodeProto) -> Precision | None:
        """The half precision that the weights are cast from, if they are."""
        writer = self.writers.get(node.input[1])
        return _HALF.get(self.types.get(writer.input[0], 0)) if writer and writer.op_type == "Cast" else None

    def _quantized(self, name: str) -> int:
        writer = self.writers.get(name)
        if writer is None or writer.op_type != "DequantizeLinear":
            return int(_TYPE.FLOAT)
        return self.types.get(writer.input[0]) or self.types.get(writer.input[2] if len(writer.input) > 2 else "", 0)


def _multiply_adds(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    """Multiply-adds of one layer, from the shapes of its operands."""
    left, right, out = (shapes[name] for name in (node.input[0], node.input[1], node.output[0]))
    if node.op_type == "Conv":
        return math.prod(out) * math.prod(right[1:])
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return math.prod(out) * left[0 if transposed else -1]
    return math.prod(out) * left[-1]


def _readers(graph: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _bias_candidates(node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]]) -> list[str]:
    """Inputs that may be the layer's bias: its own third one, or what an addition right behind it adds."""
    own = list(node.input[2:3])
    added = [name for after in readers.get(node.output[0], []) if after.op_type == "Add" for name in after.input]
    return own + added
