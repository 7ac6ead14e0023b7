"""What quantizing each layer alone costs: which layers to leave in float when the whole costs too much."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx

from pstmo_edge.arrays import FloatArray
from pstmo_edge.backends.onnxruntime import OnnxRuntimeSession
from pstmo_edge.calib.onnx_qdq import quantize_onnx
from pstmo_edge.graph import weighted_layers
from pstmo_edge.metrics import mpjpe
from pstmo_edge.targets import Target

_WINDOWS = 64


def layer_costs(
    graph: onnx.ModelProto,
    windows: FloatArray,
    target: Target,
    layers: Iterable[str],
    advance: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """How far poses move, in millimetres, when one layer alone is in INT8: by layer, dearest first.

    The distance to the float pose, not the error against the truth, is what is ranked: it needs no true poses and
    does not hide a layer whose errors happen to cancel another's.
    """
    every = weighted_layers(graph)
    few = windows[:: max(1, len(windows) // _WINDOWS)]
    exact = OnnxRuntimeSession(graph.SerializeToString()).run(few)
    costs = {}
    for layer in layers:
        alone = quantize_onnx(graph, windows, target, [name for name in every if name != layer])
        moved = OnnxRuntimeSession(alone.SerializeToString()).run(few)
        costs[layer] = float(np.mean(mpjpe(moved, exact)))
        advance()
    return dict(sorted(costs.items(), key=lambda item: -item[1]))
