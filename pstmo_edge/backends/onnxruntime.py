"""ONNX Runtime on the CPU."""

from __future__ import annotations

import onnxruntime as ort

from pstmo_edge.arrays import FloatArray
from pstmo_edge.bundle import Bundle
from pstmo_edge.errors import BackendError

ARTIFACT = "model.onnx"


class OnnxRuntimeSession:
    """A graph in ONNX Runtime."""

    def __init__(self, model: bytes, threads: int | None = None) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name

    def run(self, keypoints: FloatArray) -> FloatArray:
        """See `backends.Session`."""
        poses: FloatArray = self.session.run(None, {self.input: keypoints})[0]
        return poses


def open_session(bundle: Bundle, threads: int | None = None) -> OnnxRuntimeSession:
    """Open the bundle's graph from verified bytes."""
    try:
        return OnnxRuntimeSession(bundle.read(ARTIFACT), threads)
    except Exception as error:  # ONNX Runtime raises its own types, all derived from RuntimeError or worse
        raise BackendError(f"onnxruntime {ort.__version__} refuses {bundle.path}: {error}") from error
