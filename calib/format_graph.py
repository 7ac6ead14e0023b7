"""The ONNX graph of a model whose layers have another format than INT8: see `calib.formats` for what each means.

fp16 and bf16 weights stand behind a Cast; where the product is in half precision too, its operands are and a Cast
follows. FP8, 16-bit activations and 4-bit weights are explicit QuantizeLinear and DequantizeLinear nodes, as a strongly
typed TensorRT network reads them. A bias is always float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from pstmo_edge.calib.emulation import IntegerLayer, Layer
from pstmo_edge.calib.formats import Fp8Layer, HalfLayer, Int4Layer
from pstmo_edge.errors import UsageError
from pstmo_edge.graph import layer_nodes

OPSET = 21  # the first with 16-bit activations and 4-bit weights; FP8 came with 19
_BF16_OPSET = 22  # the first with convolutions in bf16
_IR_VERSION = 10
_HALF = {
    torch.float16: (TensorProto.FLOAT16, np.float16),
    torch.bfloat16: (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
}
_ARRAY = np.ndarray


def format_graph(graph: onnx.ModelProto, layers: Mapping[str, Layer]) -> onnx.ModelProto:
    """The float `graph` with these layers as their emulations compute them; raises UsageError for other kinds."""
    result = onnx.ModelProto()
    result.CopyFrom(graph)
    if missing := sorted(set(layers) - {node.name for node in layer_nodes(graph)}):
        raise AssertionError(f"the graph has no layers {', '.join(missing)}")
    writer = _Writer(result)
    for node in list(result.graph.node):
        writer.add(node, layers.get(node.name))
    return writer.finish()


class _Writer:
    """A graph whose nodes are written anew, in order."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.constants = {tensor.name: tensor for tensor in graph.graph.initializer}
        self.opset = OPSET

    def add(self, node: onnx.NodeProto, layer: Layer | None) -> None:
        """One node, with what its layer's format puts around it."""
        if isinstance(layer, HalfLayer):
            self._half(node, layer)
        elif isinstance(layer, Fp8Layer):
            self._inputs(node, layer.input_scale, np.zeros((), ml_dtypes.float8_e4m3fn))
            self._weights(node, layer.weight.numpy().astype(ml_dtypes.float8_e4m3fn), layer.weight_scale)
        elif isinstance(layer, IntegerLayer) and layer.grid is not None:
            kind = f"{'' if layer.activations.symmetric else 'u'}int{max(8, layer.activations.bits)}"
            self._inputs(node, layer.grid.scale, np.array(layer.grid.zero_point, kind))
            self._weights(node, layer.weight.numpy(), layer.weight_scale)
        elif isinstance(layer, Int4Layer):
            self._groups(node, layer)
        elif layer is not None:
            raise UsageError(f"{node.name}: a {type(layer).__name__} has no form in a static graph")
        self.nodes.append(node)
        if isinstance(layer, HalfLayer) and layer.compute:
            self._behind_half(node, layer)

    def finish(self) -> onnx.ModelProto:
        """The graph, without what nothing reads any more, checked."""
        graph = self.graph.graph
        del graph.node[:]
        graph.node.extend(self.nodes)
        del graph.value_info[:]
        read = {name for node in graph.node for name in node.input}
        kept = [tensor for name, tensor in self.constants.items() if name in read]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        for opset in self.graph.opset_import:
            if opset.domain == "":
                opset.version = max(opset.version, self.opset)
        self.graph.ir_version = max(self.graph.ir_version, _IR_VERSION)
        onnx.checker.check_model(self.graph, full_check=True)
        return self.graph

    def _half(self, node: onnx.NodeProto, layer: HalfLayer) -> None:
        code, kind = _HALF[layer.dtype]
        name = node.name
        weight = numpy_helper.to_array(self.constants[node.input[1]]).astype(kind)
        node.input[1] = self._constant(f"{name}.weight_half", weight)
        if layer.compute:
            if node.op_type == "Conv" and layer.dtype is torch.bfloat16:
                self.opset = _BF16_OPSET
            node.input[0] = self._node("Cast", [node.input[0]], f"{name}.input_half", to=code)
        else:
            node.input[1] = self._node("Cast", [node.input[1]], f"{name}.weight_float", to=TensorProto.FLOAT)

    def _behind_half(self, node: onnx.NodeProto, layer: HalfLayer) -> None:
        """The product back in float32, where a bias that the node held itself is added."""
        output, bias = node.output[0], node.input[2] if len(node.input) > 2 else ""
        node.output[0] = f"{node.name}.product_half"
        behind = f"{node.name}.product" if bias else output
        self._node("Cast", [node.output[0]], behind, to=TensorProto.FLOAT)
        if bias:
            del node.input[2:]
            if node.op_type == "Conv":  # (N,) to (N, 1): channels come before time
                bias = self._constant(f"{bias}_column", numpy_helper.to_array(self.constants[bias])[:, None])
            self._node("Add", [behind, bias], output)

    def _inputs(self, node: onnx.NodeProto, scale: float, zero_point: _ARRAY) -> None:
        """Quantize and dequantize what the node reads, by tensor."""
        name = node.name
        operands = [
            self._constant(f"{name}.input_scale", np.array(scale, np.float32)),
            self._constant(f"{name}.input_zero_point", zero_point),
        ]
        quantized = self._node("QuantizeLinear", [node.input[0], *operands], f"{name}.input_quantized")
        node.input[0] = self._node("DequantizeLinear", [quantized, *operands], f"{name}.input")

    def _weights(self, node: onnx.NodeProto, weight: _ARRAY, scale: Tensor) -> None:
        """Weights (N, K) of some type with a scale (N,) by output channel."""
        name = node.name
        operands = [
            self._constant(f"{name}.weight_quantized", _as_node_has_them(node, weight)),
            self._constant(f"{name}.weight_scale", scale.numpy()),
            self._constant(f"{name}.weight_zero_point", np.zeros(len(scale), weight.dtype)),
        ]
        axis = 1 - _input_axis(node)
        node.input[1] = self._node("DequantizeLinear", operands, f"{name}.weight_dequantized", axis=axis)

    def _groups(self, node: onnx.NodeProto, layer: Int4Layer) -> None:
        """4-bit weights with a scale for every group of a row."""
        name = node.name
        weight = layer.weight.numpy().astype(ml_dtypes.int4)
        operands = [
            self._constant(f"{name}.weight_quantized", _as_node_has_them(node, weight)),
            self._constant(f"{name}.weight_scale", _as_node_has_them(node, layer.weight_scale.numpy())),
        ]
        axes = {"axis": _input_axis(node), "block_size": layer.group}
        node.input[1] = self._node("DequantizeLinear", operands, f"{name}.weight_dequantized", **axes)

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: int) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{output}/{kind}", **attributes))
        return output

    def _constant(self, name: str, value: _ARRAY) -> str:
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        return name


def _transposed(node: onnx.NodeProto) -> bool:
    """Whether the node's weights are (N, K)."""
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def _input_axis(node: onnx.NodeProto) -> int:
    """The axis of the node's weights along which it adds; the other of the first two is that of its outputs."""
    return 1 if node.op_type == "Conv" or _transposed(node) else 0


def _as_node_has_them(node: onnx.NodeProto, weight: _ARRAY) -> _ARRAY:
    """Weights (N, K), of a convolution the taps side by side, or their scales by group, in the node's own layout."""
    if node.op_type == "Conv":
        taps = next(attribute.ints[0] for attribute in node.attribute if attribute.name == "kernel_shape")
        return weight.reshape(len(weight), taps, -1).transpose(0, 2, 1)
    return weight if _transposed(node) else weight.T
