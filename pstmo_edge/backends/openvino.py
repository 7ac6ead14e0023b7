"""OpenVINO on the CPU."""

from __future__ import annotations

import openvino as ov

from pstmo_edge.arrays import FloatArray
from pstmo_edge.bundle import Bundle
from pstmo_edge.errors import BackendError
from pstmo_edge.manifest import Precision

# What OpenVINO's CPU plugin calls its matrix products and convolutions; attention is a subgraph.
_PRODUCTS = ("FullyConnected", "MatMul", "Convolution", "Subgraph")
_EXECUTED: dict[str, Precision] = {"u8": "int8", "i8": "int8", "bf16": "bf16", "f16": "fp16"}
ARTIFACT, WEIGHTS = "model.xml", "model.bin"


class OpenVinoSession:
    """A compiled model and one inference request."""

    def __init__(self, model: ov.Model, threads: int | None = None, compute: str = "f32") -> None:
        # Without the hint OpenVINO computes in bfloat16 where the CPU has it, and millimetres are lost unasked.
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": compute}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        self.compiled = ov.Core().compile_model(model, "CPU", settings)
        self.request = self.compiled.create_infer_request()

    def run(self, keypoints: FloatArray) -> FloatArray:
        """See `backends.Session`."""
        poses: FloatArray = self.request.infer([keypoints], share_inputs=True)[0]
        return poses

    def layer_precisions(self) -> dict[str, Precision]:
        """The precision in which OpenVINO executes each layer, read back from the compiled model."""
        found: dict[str, Precision] = {}
        for operation in self.compiled.get_runtime_model().get_ordered_ops():
            info = operation.get_rt_info()
            if str(info["layerType"].value) in _PRODUCTS:
                precision = _EXECUTED.get(str(info["runtimePrecision"].value), "fp32")
                for name in str(info["originalLayersNames"].value).split(","):
                    found[name.split("/")[0]] = precision
        return found


def open_session(bundle: Bundle, threads: int | None = None) -> OpenVinoSession:
    """Open the bundle's model from verified bytes."""
    try:
        model = ov.Core().read_model(bundle.read(ARTIFACT), bundle.read(WEIGHTS))
        compute = "bf16" if bundle.manifest.precision.requested == "bf16" else "f32"
        return OpenVinoSession(model, threads, compute)
    except RuntimeError as error:
        raise BackendError(f"openvino {ov.__version__} refuses {bundle.path}: {error}") from error
