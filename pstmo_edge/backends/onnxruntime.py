"""ONNX Runtime on the CPU."""

from __future__ import annotations

import onnxruntime as ort

from pstmo_edge.arrays import FloatArray
from pstmo_edge.bundle import Bundle
from pstmo_edge.errors import BackendError

ARTIFACT = "model.onnx"
# Makes a product of matrices and the addition behind it one Gemm, which runs in float, its INT8 weights dequantized
# at every call: 2.4 ms instead of 1.1 for P-STMO-S with 27 frames.
DISABLED = ("MatMulAddFusion",)


class OnnxRuntimeSession:
    """A graph in ONNX Runtime.

    `keep_relu` is for FP8: before a QuantizeLinear whose zero point is the least value ONNX Runtime drops a ReLU, and
    it takes the 0 of an FP8 type, which has a sign, for that least value.
    """

    def __init__(self, model: bytes, threads: int | None = None, *, keep_relu: bool = False) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        # Unasked, ONNX Runtime rounds the activations of layers with 4-bit or 8-bit weights to 8 bits: 1 is float32.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        disabled = [*DISABLED, "ReluQuantRewrite"] if keep_relu else [*DISABLED]
        self.session = ort.InferenceSession(
            model, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
        )
        self.input = self.session.get_inputs()[0].name

    def run(self, keypoints: FloatArray) -> FloatArray:
        """See `backends.Session`."""
        poses: FloatArray = self.session.run(None, {self.input: keypoints})[0]
        return poses


def open_session(bundle: Bundle, threads: int | None = None) -> OnnxRuntimeSession:
    """Open the bundle's graph from verified bytes."""
    try:
        keep_relu = bundle.manifest.precision.requested == "fp8"
        return OnnxRuntimeSession(bundle.read(ARTIFACT), threads, keep_relu=keep_relu)
    except Exception as error:  # ONNX Runtime raises its own types, all derived from RuntimeError or worse
        raise BackendError(f"onnxruntime {ort.__version__} refuses {bundle.path}: {error}") from error
