"""Whether TensorRT's parser takes a graph, and whether its Q/DQ nodes stand where layers become integer ones.

Operators and types are those that the ONNX-TensorRT parser's published lists of TensorRT 10.6 and 10.15 have in common
(docs/operators.md of onnx/onnx-tensorrt; tests/trt/operators.json); the rules are of the same lists and of NVIDIA's
"Working with quantized types".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from pstmo_edge.graph import LAYER_TYPES

OPSETS = range(9, 23)
# Those our graphs are made of, with the element types that they may compute in.
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_MOVED = _FLOATS | {TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL}
_NUMBERS = _MOVED - {TensorProto.BOOL}
_QUANTIZED = frozenset({TensorProto.INT8, TensorProto.FLOAT8E4M3FN, TensorProto.INT4})
OPERATORS: dict[str, frozenset[int]] = {
    **dict.fromkeys(("Conv", "Gelu", "Gemm", "LayerNormalization", "LeakyRelu", "MatMul", "QuantizeLinear"), _FLOATS),
    **dict.fromkeys(("BatchNormalization", "Einsum", "Elu", "Erf", "Exp", "Sigmoid", "Softmax", "Tanh"), _FLOATS),
    **dict.fromkeys(("Abs", "Add", "Div", "Greater", "Mul", "Pad", "Relu", "Sub"), _NUMBERS),
    **dict.fromkeys(("ReduceL2", "ReduceMean", "ReduceSum"), _NUMBERS),
    **dict.fromkeys(("Cast", "Concat", "Expand", "Flatten", "Gather", "GatherND", "Identity", "Reshape"), _MOVED),
    **dict.fromkeys(("Shape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze", "Where"), _MOVED),
    **dict.fromkeys(("Pow", "Sqrt"), _FLOATS),
    "DequantizeLinear": _QUANTIZED,
}  # fmt: skip


def problems(graph: onnx.ModelProto) -> tuple[str, ...]:
    """What speaks against the graph, a phrase each; empty for one that TensorRT should take as it is meant."""
    found = _Graph(graph)
    return tuple(phrase for rule in RULES for phrase in rule(found))


class _Graph:
    """A graph by names."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.nodes = model, model.graph.node
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.writers = {output: node for node in self.nodes for output in node.output}
        inferred = onnx.shape_inference.infer_shapes(model).graph
        values = (*inferred.input, *inferred.value_info, *inferred.output)
        self.types = {value.name: value.type.tensor_type.elem_type for value in values}
        self.types |= {name: tensor.data_type for name, tensor in self.constants.items()}

    def quantizers(self) -> Iterator[onnx.NodeProto]:
        """Every QuantizeLinear and DequantizeLinear."""
        return (node for node in self.nodes if node.op_type in ("QuantizeLinear", "DequantizeLinear"))

    def products(self) -> Iterator[onnx.NodeProto]:
        """Every product with a quantized operand."""
        for node in self.nodes:
            if node.op_type in LAYER_TYPES and any(self.dequantizer(name) is not None for name in node.input[:2]):
                yield node

    def dequantizer(self, name: str) -> onnx.NodeProto | None:
        """The DequantizeLinear that makes a tensor, if one does."""
        writer = self.writers.get(name)
        return writer if writer is not None and writer.op_type == "DequantizeLinear" else None

    def value(self, name: str) -> np.ndarray:
        """A constant."""
        return np.asarray(numpy_helper.to_array(self.constants[name]))


def known_operators(graph: _Graph) -> Iterator[str]:
    """Operators, their types and the opset are on the list."""
    opset = next((each.version for each in graph.model.opset_import if each.domain == ""), 0)
    if opset not in OPSETS:
        yield f"opset {opset} is not among {OPSETS.start} to {OPSETS.stop - 1}"
    for node in graph.nodes:
        allowed = OPERATORS.get(node.op_type) if node.domain == "" else None
        kind = graph.types.get(node.input[0]) if node.input else None
        if allowed is None:
            yield f"{node.name}: {node.domain or 'ONNX'} {node.op_type} is no operator that was checked"
        elif kind is not None and kind not in allowed:
            yield f"{node.name}: {node.op_type} of {TensorProto.DataType.Name(kind)}"


def first_output_of_norms(graph: _Graph) -> Iterator[str]:
    """LayerNormalization gives its first output alone."""
    for node in graph.nodes:
        if node.op_type == "LayerNormalization" and any(node.output[1:]):
            yield f"{node.name}: its mean or deviation is read, which TensorRT does not give"


def constant_scales(graph: _Graph) -> Iterator[str]:
    """Scales are positive constants."""
    for node in graph.quantizers():
        if node.input[1] not in graph.constants:
            yield f"{node.name}: its scale is no constant"
        elif not (graph.value(node.input[1]).astype(np.float32) > 0).all():
            yield f"{node.name}: its scale is not positive"


def zero_points_of_zero(graph: _Graph) -> Iterator[str]:
    """Quantization is symmetric: a zero point is 0."""
    for node in graph.quantizers():
        if len(node.input) > 2 and node.input[2]:
            if node.input[2] not in graph.constants:
                yield f"{node.name}: its zero point is no constant"
            elif graph.value(node.input[2]).astype(np.float32).any():
                yield f"{node.name}: its zero point is not 0"


def activations_by_tensor(graph: _Graph) -> Iterator[str]:
    """What is quantized at run time has one scale."""
    for node in graph.nodes:
        if node.op_type != "QuantizeLinear" or node.input[1] not in graph.constants:
            continue
        if (count := graph.value(node.input[1]).size) != 1:
            yield f"{node.name}: an activation has {count} scales, TensorRT takes one"


def weights_by_output_channel(graph: _Graph) -> Iterator[str]:
    """Scales of weights lie along the output channels."""
    for node in graph.products():
        dequantize = graph.dequantizer(node.input[1])
        if dequantize is None or dequantize.input[1] not in graph.constants:
            continue
        if dequantize.input[0] not in graph.constants or graph.value(dequantize.input[1]).ndim != 1:
            continue
        axis = next((each.i for each in dequantize.attribute if each.name == "axis"), 1)
        rank = len(graph.constants[dequantize.input[0]].dims)
        swapped = node.op_type == "Gemm" and any(each.name == "transB" and each.i for each in node.attribute)
        wanted = 0 if node.op_type == "Conv" or swapped else rank - 1
        if axis % rank != wanted:
            yield f"{node.name}: scales of its weights lie along axis {axis}, its output channels along {wanted}"


def both_operands(graph: _Graph) -> Iterator[str]:
    """A product runs in integers only where both operands were quantized."""
    for node in graph.products():
        first, second = (graph.dequantizer(name) for name in node.input[:2])
        narrow = second is not None and graph.types.get(second.input[0]) == TensorProto.INT4
        if not narrow and (first is None or second is None):
            yield f"{node.name}: one operand is quantized and the other is not, so it would run in float"


RULES: tuple[Callable[[_Graph], Iterator[str]], ...] = (
    known_operators, first_output_of_norms, constant_scales, zero_points_of_zero, activations_by_tensor,
    weights_by_output_channel, both_operands,
)  # fmt: skip
