"""Engines in formats other than fp32 and INT8, for the backends that take them (`backends.BACKENDS`)."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.errors import BackendError
from pstmo_edge.graph import layer_nodes, layer_precisions
from pstmo_edge.manifest import LayerPrecision, Precision

if TYPE_CHECKING:
    import onnx

    from pstmo_edge.builders import Built, Source
    from pstmo_edge.calib.emulation import EmulatedModel

# How the scales of a calibrated format are found, for its manifest.
METHODS: dict[str, str] = {
    "fp8": "E4M3, weights by output channel with GPTQ, activations by tensor, min-max",
    "w8a16": "8-bit weights by output channel with GPTQ, 16-bit symmetric activations by tensor, twice the range seen",
    "w4": "4-bit weights in groups of 32 with GPTQ, min-max, activations in float32",
}
_KEEP_ENDS = ("bf16", "fp8", "w4")  # the other formats cost nothing at the ends of the network


def left_in_float(backend: str, precision: Precision, ends: tuple[str, ...]) -> tuple[str, ...]:
    """Which of the layers that enter and leave the network stay in float32; OpenVINO's bf16 takes all."""
    return ends if backend in ("onnxruntime", "tensorrt") and precision in _KEEP_ENDS else ()


def build_format(
    backend: str,
    source: Source,
    precision: Precision,
    windows: FloatArray | None,
    keep_float: tuple[str, ...],
) -> Built:
    """The engine in `precision`, opened from the very artifacts that are deployed.

    `windows` (N, T, 17, C) are needed by the calibrated formats. Raises BackendError where this machine cannot compute
    what was asked for, and UsageError where the weights do not fit the format.
    """
    if backend == "torch":
        return _torch_fp16(source)
    if backend == "openvino":
        return _openvino(source, precision)
    from pstmo_edge.calib.format_graph import format_graph

    # A strongly typed network computes in the types of its graph.
    made = _emulated(source, precision, windows, keep_float, compute=backend == "tensorrt")
    graph = format_graph(source.graph, made.layers)
    if backend == "native":
        from pstmo_edge.builders import NativeBuilder

        return NativeBuilder().build_int8(source, graph)
    if backend == "tensorrt":
        from pstmo_edge.backends.onnxruntime import ARTIFACT
        from pstmo_edge.builders import Built, with_plan

        if precision == "bf16":  # of whose products ONNX Runtime has none on a CPU
            built = Built({ARTIFACT: graph.SerializeToString()}, _Emulated(made), layer_precisions(graph))
            return with_plan(built, graph)
        return with_plan(_onnxruntime(graph, precision), graph)
    return _onnxruntime(graph, precision)


def _emulated(
    source: Source, precision: Precision, windows: FloatArray | None, keep_float: tuple[str, ...], *, compute: bool
) -> EmulatedModel:
    """The model in the format; with `compute` products in half precision are so too."""
    from pstmo_edge.calib.formats import emulated
    from pstmo_edge.export import exportable, random_keypoints

    model = source.model
    if windows is None:  # nothing is calibrated: one window tells which layers there are
        windows = random_keypoints(1, model.config.frames, len(model.lifter.channels))
    return emulated(exportable(model), precision, windows, keep_float, compute=compute)


class _Emulated:
    """A session of an emulated model, to measure what no runtime here computes."""

    def __init__(self, model: EmulatedModel) -> None:
        self.model = model

    def run(self, keypoints: FloatArray) -> FloatArray:
        """(B, T, 17, C) to (B, 17, 3)."""
        import torch

        with torch.inference_mode():
            poses: FloatArray = self.model(torch.from_numpy(keypoints)).numpy()
        return poses


def _onnxruntime(graph: onnx.ModelProto, precision: Precision) -> Built:
    """The graph itself, whose products ONNX Runtime computes in float32 on a CPU."""
    from pstmo_edge.backends.onnxruntime import ARTIFACT, OnnxRuntimeSession
    from pstmo_edge.builders import Built

    content = graph.SerializeToString()
    session = OnnxRuntimeSession(content, keep_relu=precision == "fp8")
    return Built({ARTIFACT: content}, session, layer_precisions(graph))


def _openvino(source: Source, precision: Precision) -> Built:
    """fp16: weights are stored in it and products are float32; bf16: OpenVINO computes in it, weights are float32."""
    import onnx
    import openvino as ov

    from pstmo_edge.backends.openvino import ARTIFACT, WEIGHTS, OpenVinoSession
    from pstmo_edge.builders import Built

    with tempfile.TemporaryDirectory() as folder:
        graph, path = Path(folder) / "model.onnx", Path(folder) / ARTIFACT
        onnx.save(source.graph, graph)
        ov.save_model(ov.convert_model(graph), path, compress_to_fp16=precision == "fp16")
        artifacts = {name: (Path(folder) / name).read_bytes() for name in (ARTIFACT, WEIGHTS)}
    model = ov.Core().read_model(artifacts[ARTIFACT], artifacts[WEIGHTS])
    session = OpenVinoSession(model, compute="bf16" if precision == "bf16" else "f32")
    found, adds = session.layer_precisions(), _additions(source.graph)
    layers = tuple(
        layer.model_copy(update={"precision": found.get(layer.name) or found.get(adds.get(layer.name, ""), "fp32")})
        for layer in layer_precisions(source.graph)
    )
    if precision == "fp16":
        return Built(artifacts, session, _stored(layers, precision))
    if not any(layer.precision == "bf16" for layer in layers):
        raise BackendError("OpenVINO computes nothing in bf16 on this CPU: choose --precision fp16 or fp32")
    return Built(artifacts, session, layers)


def _additions(graph: onnx.ModelProto) -> dict[str, str]:
    """The node that adds the bias behind a layer, by the layer: OpenVINO calls the two by that node's name."""
    behind = {name: node.name for node in graph.graph.node if node.op_type == "Add" for name in node.input}
    return {node.name: behind[node.output[0]] for node in layer_nodes(graph) if node.output[0] in behind}


def _torch_fp16(source: Source) -> Built:
    """Weights rounded to fp16; the model computes in float32."""
    import torch

    from pstmo_edge.backends.torch import ARTIFACT, TorchSession
    from pstmo_edge.builders import Built
    from pstmo_edge.models.checkpoints import save_weights
    from pstmo_edge.models.zoo import state_arrays

    arrays = {
        name: array.astype(np.float16) if array.dtype.kind == "f" else array
        for name, array in state_arrays(source.model).items()
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ARTIFACT
        save_weights(path, arrays, source.model.lifter.notes())
        content = path.read_bytes()
    model = copy.deepcopy(source.model)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return Built({ARTIFACT: content}, TorchSession(model), _stored(layer_precisions(source.graph), "fp16"))


def _stored(layers: tuple[LayerPrecision, ...], precision: Precision) -> tuple[LayerPrecision, ...]:
    """The same layers whose weights are stored in `precision`; products of two activations have none."""
    return tuple(
        layer if layer.name.startswith("product.") else layer.model_copy(update={"weights": precision})
        for layer in layers
    )
