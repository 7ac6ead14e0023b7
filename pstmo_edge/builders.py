"""How a float graph becomes the artifacts of each backend; one class a backend, all with the same two steps."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import onnx
from torch import nn

from pstmo_edge.backends import Session
from pstmo_edge.errors import BackendError
from pstmo_edge.graph import layer_precisions
from pstmo_edge.manifest import LayerPrecision

if TYPE_CHECKING:
    import openvino as ov


@dataclass(frozen=True)
class Source:
    """What is built: the model and the graph of its fused form."""

    model: nn.Module
    graph: onnx.ModelProto


@dataclass(frozen=True)
class Built:
    """The artifacts by file name, the engine opened from them, and the precision each layer really has."""

    artifacts: dict[str, bytes]
    session: Session
    layers: tuple[LayerPrecision, ...]


class Builder(Protocol):
    """One backend's way from graph to engine."""

    ends_in_float: bool  # whether it has no INT8 form of the layers that enter and leave the network
    wide: bool  # whether it has kernels for 16-bit activations

    def build_float(self, source: Source) -> Built:
        """The engine in fp32."""
        ...

    def build_int8(self, source: Source, graph: onnx.ModelProto) -> Built:
        """The engine of a Q/DQ graph made of the source (`calib.qdq`)."""
        ...


class TorchBuilder:
    """Weights for the model's own code."""

    ends_in_float = False
    wide = False

    def build_float(self, source: Source) -> Built:
        """See `Builder`."""
        from pstmo_edge.backends.torch import ARTIFACT, TorchSession
        from pstmo_edge.models.checkpoints import save_weights
        from pstmo_edge.models.zoo import state_arrays

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ARTIFACT
            save_weights(path, state_arrays(source.model), source.model.lifter.notes())
            weights = path.read_bytes()
        return Built({ARTIFACT: weights}, TorchSession(source.model), layer_precisions(source.graph))

    def build_int8(self, source: Source, graph: onnx.ModelProto) -> Built:
        """Not offered: see `backends.BACKENDS`."""
        raise NotImplementedError


class OnnxRuntimeBuilder:
    """The graph itself, with explicit Q/DQ for INT8."""

    ends_in_float = False
    wide = False

    def build_float(self, source: Source) -> Built:
        """See `Builder`."""
        return self._built(source.graph)

    def build_int8(self, source: Source, graph: onnx.ModelProto) -> Built:
        """See `Builder`."""
        return self._built(graph)

    def _built(self, graph: onnx.ModelProto) -> Built:
        from pstmo_edge.backends.onnxruntime import ARTIFACT, OnnxRuntimeSession

        model = graph.SerializeToString()
        return Built({ARTIFACT: model}, OnnxRuntimeSession(model), layer_precisions(graph))


class OpenVinoBuilder:
    """OpenVINO's own model, converted from the graph, which for INT8 has its Q/DQ nodes."""

    ends_in_float = False
    wide = False

    def build_float(self, source: Source) -> Built:
        """See `Builder`."""
        return self._built(source.graph)

    def build_int8(self, source: Source, graph: onnx.ModelProto) -> Built:
        """See `Builder`."""
        return self._built(graph)

    def _converted(self, graph: onnx.ModelProto) -> ov.Model:
        import openvino as ov

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            onnx.save(graph, path)
            return ov.convert_model(path)

    def _built(self, graph: onnx.ModelProto) -> Built:
        import openvino as ov

        from pstmo_edge.backends.openvino import ARTIFACT, WEIGHTS, OpenVinoSession

        model = self._converted(graph)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ARTIFACT
            ov.save_model(model, path, compress_to_fp16=False)
            artifacts = {name: (Path(folder) / name).read_bytes() for name in (ARTIFACT, WEIGHTS)}
        session = OpenVinoSession(model)
        executed = session.layer_precisions()
        layers = tuple(
            layer.model_copy(update={"precision": executed.get(layer.name, "fp32")})
            for layer in layer_precisions(graph)
        )
        return Built(artifacts, session, layers)


class NativeBuilder:
    """The fused network's weights; for INT8 the codes and scales of a Q/DQ graph."""

    ends_in_float = True
    wide = True

    def build_float(self, source: Source) -> Built:
        """See `Builder`."""
        return self._built(source, None)

    def build_int8(self, source: Source, graph: onnx.ModelProto) -> Built:
        """See `Builder`."""
        return self._built(source, graph)

    def _built(self, source: Source, quantized: onnx.ModelProto | None) -> Built:
        from safetensors.numpy import save

        from pstmo_edge.backends.native import ARTIFACT, ProbeSession
        from pstmo_edge.models.fused import fuse
        from pstmo_edge.models.zoo import state_arrays
        from pstmo_edge.native_weights import native_tensors

        config = source.model.config
        weights = save(native_tensors(state_arrays(fuse(source.model)), quantized))
        session = ProbeSession(weights, config.frames, config.layers)
        return Built({ARTIFACT: weights}, session, layer_precisions(quantized or source.graph))


class TensorRtBuilder(OnnxRuntimeBuilder):
    """The same graph, and the plan for compiling it where it will run; measured in ONNX Runtime."""

    def _built(self, graph: onnx.ModelProto) -> Built:
        return with_plan(super()._built(graph), graph)


def with_plan(built: Built, graph: onnx.ModelProto) -> Built:
    """A graph's artifacts as a portable bundle for TensorRT has them; raises BackendError for a graph it refuses."""
    from pstmo_edge.trt.graphs import problems
    from pstmo_edge.trt.plans import PLAN, BuildPlan

    if found := problems(graph):
        raise BackendError(f"TensorRT would not take this graph as it is meant: {'; '.join(found[:3])}: choose fp32")
    plan = BuildPlan().model_dump_json(indent=2).encode() + b"\n"
    return Built({**built.artifacts, PLAN: plan}, built.session, built.layers)


BUILDERS: dict[str, type[Builder]] = {
    "torch": TorchBuilder,
    "onnxruntime": OnnxRuntimeBuilder,
    "openvino": OpenVinoBuilder,
    "native": NativeBuilder,
    "tensorrt": TensorRtBuilder,
}
