"""What the tests in mediapipe's environment cannot make there, for want of torch and onnx: engines and tiny models."""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from pstmo_edge.building import build
from pstmo_edge.models.zoo import load_model
from pstmo_edge.preparing import prepare_unmeasured


def save(path, shape, arrays):
    """A model that gives the same arrays for every picture of a shape."""
    nodes, outputs = [], []
    for name, array in arrays.items():
        tensor = helper.make_tensor(name, TensorProto.FLOAT, array.shape, array.astype(np.float32).ravel())
        nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "constant", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "engine-coco").exists():
        model = load_model("p-stmo-s", frames=27, checkpoint="p-stmo-s-27-coco")
        build(model, "fp32", "native", out=out / "engine-coco", prepared=prepare_unmeasured(model))
    # One box of score 0.9, and none; seventeen joints on the diagonal of a 192 x 256 input.
    save(out / "det.onnx", [1, 3, 640, 640], {"dets": np.array([[[100, 50, 300, 450, 0.9]]])})
    save(out / "nobody.onnx", [1, 3, 640, 640], {"dets": np.zeros((1, 0, 5))})
    across, down = np.zeros((1, 17, 384)), np.zeros((1, 17, 512))
    joints = np.arange(17)
    across[0, joints, joints * 20], down[0, joints, joints * 30] = 0.8, 0.8
    save(out / "pose.onnx", [1, 3, 256, 192], {"simcc_x": across, "simcc_y": down})


main(Path(sys.argv[1]))
