"""Static INT8 as explicit Q/DQ around the layers of an ONNX graph, by onnxruntime.quantization.

Weights are symmetric, by output channel; activations are affine, by tensor, with the range they had on the
calibration windows (clipping it costs millimetres: a lifter's outliers are poses). Only the operands of layers with
weights are quantized: outputs, the residual stream, LayerNorm, softmax and attention's own products stay in float.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from pstmo_edge.arrays import FloatArray
from pstmo_edge.graph import LAYER_TYPES, weight_magnitudes, weighted_layers
from pstmo_edge.targets import Target

_BATCH = 32


class _Windows(CalibrationDataReader):
    """Feeds the calibration windows under the graph's input name."""

    def __init__(self, name: str, windows: FloatArray) -> None:
        self._batches: Iterator[dict[str, FloatArray]] = iter(
            {name: windows[start : start + _BATCH]} for start in range(0, len(windows), _BATCH)
        )

    def get_next(self) -> dict[str, FloatArray] | None:
        """The next batch, or None at the end."""
        return next(self._batches, None)


def quantize_onnx(
    graph: onnx.ModelProto, windows: FloatArray, target: Target, keep_float: Collection[str] = ()
) -> onnx.ModelProto:
    """The graph with all its layers in INT8 but those in `keep_float`.

    `windows` (N, T, 17, 2) give the ranges. With a 7-bit target no weight exceeds 64, so a sum of two products with
    unsigned 8-bit activations stays within 16 bits.
    """
    chosen = [name for name in weighted_layers(graph) if name not in set(keep_float)]
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(graph, source)
        with _quiet():
            quantize_static(
                source,
                result,
                _Windows(graph.graph.input[0].name, windows),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(LAYER_TYPES),
                nodes_to_quantize=chosen,
                per_channel=True,
                reduce_range=target.weight_bits == 7,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={
                    "MatMulConstBOnly": True,
                    "WeightSymmetric": True,
                    "ActivationSymmetric": False,
                    "OpTypesToExcludeOutputQuantization": list(LAYER_TYPES),
                },
            )
        quantized = onnx.load(result)
    limit = 2 ** (target.weight_bits - 1)
    worst = max(weight_magnitudes(quantized).values(), default=0)
    assert worst <= limit, f"a weight of {worst} exceeds the {limit} that {target.name} can add without overflow"
    return quantized


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantizer's advice about preprocessing, which the export has already done."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)
