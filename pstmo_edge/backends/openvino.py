"""OpenVINO on the CPU."""

from __future__ import annotations

import openvino as ov

from pstmo_edge.arrays import FloatArray
from pstmo_edge.bundle import Bundle
from pstmo_edge.errors import BackendError
from pstmo_edge.manifest import Precision

# What OpenVINO's CPU plugin calls its matrix products and convolutions.
_PRODUCTS = ("FullyConnected", "MatMul", "Convolution")
ARTIFACT, WEIGHTS = "model.xml", "model.bin"


class OpenVinoSession:
    """A compiled model and one inference request."""

    def __init__(self, model: ov.Model, threads: int | None = None) -> None:
        # Without the hint OpenVINO computes in bfloat16 where the CPU has it, and millimetres are lost unasked.
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
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
                precision: Precision = "int8" if str(info["runtimePrecision"].value) in ("u8", "i8") else "fp32"
                for name in str(info["originalLayersNames"].value).split(","):
                    found[name.split("/")[0]] = precision
        return found


def open_session(bundle: Bundle, threads: int | None = None) -> OpenVinoSession:
    """Open the bundle's model from verified bytes."""
    try:
        model = ov.Core().read_model(bundle.read(ARTIFACT), bundle.read(WEIGHTS))
        return OpenVinoSession(model, threads)
    except RuntimeError as error:
        raise BackendError(f"openvino {ov.__version__} refuses {bundle.path}: {error}") from error
