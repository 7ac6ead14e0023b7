"""The checker of graphs for TensorRT: one broken graph a rule, and our own graphs, which break none."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from pstmo_edge.backends.onnxruntime import OnnxRuntimeSession
from pstmo_edge.export import export_onnx, exportable, random_keypoints
from pstmo_edge.models.zoo import create_model
from pstmo_edge.trt.graphs import OPERATORS, OPSETS, problems

# The lists' rows of our operators, copied by hand: nothing here reads them out of our own table.
LISTS = json.loads(Path(__file__).with_name("operators.json").read_text())
TYPES = {
    "FP32": TensorProto.FLOAT, "FP16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16, "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64, "UINT8": TensorProto.UINT8, "BOOL": TensorProto.BOOL, "INT8": TensorProto.INT8,
    "INT4": TensorProto.INT4, "FP8": TensorProto.FLOAT8E4M3FN, "FP4": TensorProto.FLOAT4E2M1,
}  # fmt: skip


def graph(kind=np.int8, zero=0, scales=1, axis=1, quantized=True, scale=0.1, op="MatMul", extra=()):
    """A product of 4 by 4 with explicit quantization."""
    constants = {
        "s": np.full(scales, scale, np.float32) if scales > 1 else np.array(scale, np.float32),
        "z": np.full(scales, zero, kind) if scales > 1 else np.array(zero, kind),
        "w": np.ones((4, 4), np.int8), "ws": np.full(4, 0.1, np.float32), "wz": np.zeros(4, np.int8),
    }  # fmt: skip
    pair = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "dq"),
    ]
    nodes = [
        *(pair if quantized else ()),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], "wdq", axis=axis),
        helper.make_node(op, ["d" if quantized else "x", "wd"], ["y"], "layer"),
        *extra,
    ]
    made = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)])


@pytest.mark.parametrize("version", sorted(LISTS))
def test_what_the_checker_allows_is_on_the_published_lists(version):
    listed = LISTS[version]
    assert OPSETS.start >= listed["opsets"][0]
    assert OPSETS.stop - 1 <= listed["opsets"][1]
    for operator, kinds in OPERATORS.items():
        assert kinds <= {TYPES[name] for name in listed["operators"][operator]}, operator


def test_the_right_graph_has_no_problem():
    assert problems(graph()) == ()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"zero": 3}, "its zero point is not 0"),
        ({"kind": np.uint8}, "DequantizeLinear of UINT8"),
        ({"scales": 4}, "an activation has 4 scales"),
        ({"axis": 0}, "along axis 0, its output channels along 1"),
        ({"quantized": False}, "would run in float"),
        ({"scale": -0.1}, "its scale is not positive"),
        ({"extra": (helper.make_node("Det", ["y"], ["e"], "odd"),)}, "ONNX Det is no operator"),
        ({"extra": (helper.make_node("LayerNormalization", ["y", "ws"], ["n", "mean"], "norm"),)}, "mean or deviation"),
    ],
)
def test_each_rule_finds_what_breaks_it(changed, words):
    found = problems(graph(**changed))
    assert any(words in phrase for phrase in found), found


def test_an_opset_beyond_the_list_is_told():
    odd = graph()
    odd.opset_import[0].version = 25
    assert "opset 25 is not among 9 to 22" in problems(odd)


def test_our_graph_has_no_problem(small_prepared):
    assert problems(small_prepared.source.graph) == ()


@pytest.mark.parametrize("name", ["poseformer", "anatomy3d"])
def test_other_architectures_have_no_problem(name):
    assert problems(export_onnx(exportable(create_model(name, 9).eval()))) == ()


def test_a_changed_type_is_told():
    halves = graph()
    halves.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    assert any("QuantizeLinear of DOUBLE" in phrase for phrase in problems(halves))


@pytest.mark.parametrize("name", ["p-stmo-s", "p-stmo"])
def test_the_forms_that_tensorrt_fuses_equal_the_published_ones(name):
    """The stock norm in place of the published one (unbiased deviation), attention as two products and a softmax."""
    torch.manual_seed(3)
    model = create_model(name, 9).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # gains and biases that are not 1 and 0
                parameter.add_(0.3 * torch.randn_like(parameter))
    rewritten = export_onnx(exportable(model))
    kinds = Counter(node.op_type for node in rewritten.graph.node)
    blocks = sum(hasattr(module, "self_attn") for module in model.modules())
    assert blocks > 3
    assert kinds["LayerNormalization"] == 2 * blocks
    assert kinds["Softmax"] == blocks
    assert not {"ReduceMean", "Sqrt", "Pow", "ReduceSum"} & set(kinds)
    writers = {output: node for node in rewritten.graph.node for output in node.output}
    readers = {name: node for node in rewritten.graph.node for name in node.input}
    for softmax in (node for node in rewritten.graph.node if node.op_type == "Softmax"):
        assert writers[softmax.input[0]].op_type in ("MatMul", "Mul", "Add")
        assert readers[softmax.output[0]].op_type == "MatMul"
    keypoints = random_keypoints(8, 9)
    with torch.inference_mode():
        exact = model.double()(torch.from_numpy(keypoints).double()).numpy()
    found = OnnxRuntimeSession(rewritten.SerializeToString(), 1).run(keypoints)
    assert np.abs(found - exact).max() < 1e-5 * np.abs(exact).max()
