"""The explicit Q/DQ graph of an emulated model: one graph for ONNX Runtime, OpenVINO and TensorRT.

Around every integer layer stand QuantizeLinear and DequantizeLinear for its input, by tensor, of 8 or 16 bits, and
DequantizeLinear for its int8 weights, by output channel; bias, epilogue and everything else are float32. A strongly
typed TensorRT network reads its precisions from these nodes; it asks for zero points of 0 (the tensorrt target) and
weights whose axis is that of the output channels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from pstmo_edge.calib.calibrate import FloatLayer
from pstmo_edge.calib.emulation import EmulatedModel, IntegerLayer, Layer
from pstmo_edge.errors import UsageError
from pstmo_edge.graph import LAYER_TYPES, layer_nodes, weighted_layers
from pstmo_edge.models.interception import layer_biases, layer_weights, normalised_layers

_ARRAY = np.ndarray
WIDE_OPSET = 21  # the first with 16-bit activations
_WIDE_IR_VERSION = 10


def quantized_graph(graph: onnx.ModelProto, emulated: EmulatedModel) -> onnx.ModelProto:
    """The float `graph` of the same fused model with every layer as the emulation has it.

    Raises UsageError for a format that a static graph cannot hold.
    """
    result = onnx.ModelProto()
    result.CopyFrom(graph)
    return _Writer(result, emulated).write()


class _Writer:
    """One graph on its way from float to Q/DQ."""

    def __init__(self, graph: onnx.ModelProto, emulated: EmulatedModel) -> None:
        self.graph, self.emulated = graph, emulated
        config, channels = emulated.config, len(emulated.lifter.channels)
        example = torch.zeros(1, config.frames, config.joints, channels)
        self.weights = layer_weights(emulated.model, example)
        self.norms = normalised_layers(emulated.model, example)
        self.biases = layer_biases(emulated.model)
        self.constants = {tensor.name: tensor for tensor in graph.graph.initializer}
        self.made: list[onnx.NodeProto] = []

    def write(self) -> onnx.ModelProto:
        """Every layer in order; the nodes of a layer stand together, so the order of the graph stays valid."""
        nodes, weighted = list(self.graph.graph.node), set(weighted_layers(self.graph))
        if missing := sorted(set(self.emulated.layers) - weighted):
            raise AssertionError(f"the graph has no layers {', '.join(missing)}")
        self.norm_nodes = {node.output[0]: node for node in nodes if node.op_type == "LayerNormalization"}
        self.after = {name: node for node in nodes if node.op_type == "Add" for name in node.input}
        for node in nodes:
            if node.name in weighted and node.op_type in LAYER_TYPES:
                self._layer(node)
            else:
                self.made.append(node)
        del self.graph.graph.node[:]
        self.graph.graph.node.extend(self.made)
        del self.graph.graph.value_info[:]
        self._drop_unused()
        onnx.checker.check_model(self.graph, full_check=True)
        return self.graph

    def _layer(self, node: onnx.NodeProto) -> None:
        layer = self.emulated.layers.get(node.name)
        self._norm(node)
        if isinstance(layer, IntegerLayer):
            self._integers(node, layer)
        else:  # equalization may have moved factors into it, whatever its own format
            swapped = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            weight = self.weights[node.name].numpy()
            node.input[1] = self._constant(f"{node.name}.weight", weight if swapped else _for_node(node, weight))
        bias = self.biases[node.name] if layer is None else _bias_of(node.name, layer)
        self._bias(node, bias.detach().numpy())

    def _norm(self, node: onnx.NodeProto) -> None:
        """The gain and bias that equalization gave the norm before a layer."""
        norm = self.norm_nodes.get(node.input[0])
        name = self.norms.get(node.name)
        if norm is not None and name is not None:
            module = self.emulated.model.get_submodule(name)
            norm.input[1] = self._constant(f"{name}.weight", module.weight.detach().numpy())
            norm.input[2] = self._constant(f"{name}.bias", module.bias.detach().numpy())

    def _integers(self, node: onnx.NodeProto, layer: IntegerLayer) -> None:
        grid, name = layer.grid, node.name
        if grid is None or layer.activations.bits not in (8, 16):
            raise UsageError(
                f"{name}: {layer.activations.bits}-bit {layer.activations.granularity.value} activations have no form "
                f"in a static graph: use 8 or 16 bits and Granularity.PER_TENSOR"
            )
        kind = np.dtype(f"{'' if layer.activations.symmetric else 'u'}int{layer.activations.bits}")
        if layer.activations.bits == 16:
            _raise_opset(self.graph, WIDE_OPSET)
        scale = self._constant(f"{name}.input_scale", np.array(grid.scale, np.float32))
        zero = self._constant(f"{name}.input_zero_point", np.array(grid.zero_point, kind))
        self._node("QuantizeLinear", [node.input[0], scale, zero], f"{name}.input_quantized")
        self._node("DequantizeLinear", [f"{name}.input_quantized", scale, zero], f"{name}.input")
        weight = _for_node(node, layer.weight.numpy())
        scales = layer.weight_scale.numpy()
        operands = [
            self._constant(f"{name}.weight_quantized", weight),
            self._constant(f"{name}.weight_scale", scales),
            self._constant(f"{name}.weight_zero_point", np.zeros(len(scales), np.int8)),
        ]
        self._node("DequantizeLinear", operands, f"{name}.weight_dequantized", axis=0 if node.op_type == "Conv" else 1)
        node.input[0], node.input[1] = f"{name}.input", f"{name}.weight_dequantized"

    def _bias(self, node: onnx.NodeProto, bias: _ARRAY) -> None:
        """The layer's bias: behind a product of integers an addition, so that no runtime wants it in integers."""
        value = self._constant(f"{node.name}.bias", bias)
        if node.op_type == "Conv" or (node.op_type == "Gemm" and not self._is_integer(node)):
            while len(node.input) < 3:
                node.input.append("")
            node.input[2] = value
            self.made.append(node)
            return
        after = self.after.get(node.output[0])
        places = [] if after is None else [i for i, name in enumerate(after.input) if name in self.constants]
        if node.op_type == "MatMul" and after is not None and places:
            after.input[places[0]] = value
            self.made.append(node)
            return
        product, output = f"{node.name}.product", node.output[0]
        self.made.append(helper.make_node("MatMul", list(node.input[:2]), [product], name=node.name))
        self.made.append(helper.make_node("Add", [product, value], [output], name=f"{node.name}.add"))

    def _is_integer(self, node: onnx.NodeProto) -> bool:
        return isinstance(self.emulated.layers.get(node.name), IntegerLayer)

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: int) -> None:
        self.made.append(helper.make_node(kind, inputs, [output], name=f"{output}/{kind}", **attributes))

    def _constant(self, name: str, value: _ARRAY) -> str:
        """A constant under its name; one that the graph has already is replaced."""
        made = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        if name in self.constants:
            self.constants[name].CopyFrom(made)
        else:
            self.constants[name] = self.graph.graph.initializer.add()
            self.constants[name].CopyFrom(made)
        return name

    def _drop_unused(self) -> None:
        read = {name for node in self.graph.graph.node for name in node.input}
        kept = [tensor for tensor in self.graph.graph.initializer if tensor.name in read]
        del self.graph.graph.initializer[:]
        self.graph.graph.initializer.extend(kept)


def _raise_opset(graph: onnx.ModelProto, version: int) -> None:
    for opset in graph.opset_import:
        if opset.domain == "":
            opset.version = max(opset.version, version)
    graph.ir_version = max(graph.ir_version, _WIDE_IR_VERSION)


def _bias_of(name: str, layer: Layer) -> torch.Tensor:
    if isinstance(layer, IntegerLayer | FloatLayer):
        return layer.bias.detach()
    raise UsageError(f"{name}: a {type(layer).__name__} has no form in a Q/DQ graph: use an IntegerLayer")


def _for_node(node: onnx.NodeProto, weight: _ARRAY) -> _ARRAY:
    """Weights (N, K), taps side by side, as the node wants them; a Gemm will be a MatMul."""
    if node.op_type == "Conv":
        taps = next(attribute.ints[0] for attribute in node.attribute if attribute.name == "kernel_shape")
        return weight.reshape(len(weight), taps, -1).transpose(0, 2, 1)
    return weight.T


def boundary_names(graph: onnx.ModelProto) -> Iterator[tuple[str, str, str]]:
    """Of every integer layer its name, the tensor that is quantized, and the tensor behind its bias."""
    writers = {output: node for node in graph.graph.node for output in node.output}
    for node in layer_nodes(graph):
        dequantize = writers.get(node.input[0])
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            continue
        quantize = writers[dequantize.input[0]]
        add = next((each for each in graph.graph.node if each.op_type == "Add" and node.output[0] in each.input), node)
        yield node.name, quantize.input[0], add.output[0]
