"""Model to ONNX, with the check that the graph computes what the model computes."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings

import numpy as np
import onnx
import torch
from torch import nn

from pstmo_edge.arrays import FloatArray
from pstmo_edge.backends.onnxruntime import OnnxRuntimeSession
from pstmo_edge.errors import UsageError
from pstmo_edge.graph import name_layers
from pstmo_edge.models.fused import fuse
from pstmo_edge.models.interception import layer_weights
from pstmo_edge.models.zoo import MODELS

OPSET = 20
TOLERANCE = 1e-4  # of the largest output
PARITY_BATCHES = (1, 2, 7)
INPUT, OUTPUT = "keypoints", "pose"


class ParityError(AssertionError):
    """An exported graph that computes something else than its model: a defect of the exporter, not of the user."""


def exportable(model: nn.Module) -> nn.Module:
    """The fused copy that is exported; raises UsageError for a model that lifts no poses."""
    if MODELS[model.lifter.name].kind != "lifter":
        raise UsageError(f"{model.lifter.name} lifts no poses by itself: build p-stmo-s or p-stmo")
    return fuse(model)


def export_onnx(model: nn.Module) -> onnx.ModelProto:
    """The ONNX graph of a fused model: `keypoints` (batch, T, 17, C) to `pose` (batch, 17, 3), batch dynamic.

    Of a model that emits K frames a window the poses are (batch, K, 17, 3), and nothing else is computed. Checked
    against the model at batch 1, 2 and 7; raises ParityError.
    """
    example = torch.from_numpy(random_keypoints(2, model.config.frames, len(model.lifter.channels)))
    with _quiet():
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"keypoints": {0: torch.export.Dim("batch", min=1, max=65536)}},
            external_data=False,
        )
    assert program is not None
    matrices = {name: weight.numpy() for name, weight in layer_weights(model, example).items()}
    graph = name_layers(tidy(program.model_proto), matrices)
    check_parity(model, graph)
    return graph


def tidy(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph simplified, checked, with the exporter's notes about source files removed."""
    import onnxslim

    with _quiet():
        graph = onnxslim.slim(graph)
    for node in graph.graph.node:
        del node.metadata_props[:]
    for holder in (graph, graph.graph):
        del holder.metadata_props[:]
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.value_info):
        del value.metadata_props[:]
    onnx.checker.check_model(graph, full_check=True)
    return graph


def check_parity(model: nn.Module, graph: onnx.ModelProto) -> float:
    """The largest difference between model and graph, relative to the largest output; raises ParityError."""
    session = OnnxRuntimeSession(graph.SerializeToString())
    worst = 0.0
    for batch in PARITY_BATCHES:
        keypoints = random_keypoints(batch, model.config.frames, len(model.lifter.channels))
        with torch.inference_mode():
            expected = model(torch.from_numpy(keypoints)).numpy()
        worst = max(worst, relative_difference(session.run(keypoints), expected))
    if not worst <= TOLERANCE:
        raise ParityError(f"the exported graph differs from the model by {worst:.2g} of the largest output")
    return worst


def relative_difference(found: FloatArray, expected: FloatArray) -> float:
    """Largest absolute difference over largest absolute expected value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def random_keypoints(batch: int, frames: int, channels: int = 2) -> FloatArray:
    """Smooth, seeded keypoints (batch, frames, 17, channels) in the range of real ones, the third their visibility."""
    rng = np.random.default_rng(batch)
    walk = rng.normal(0, 0.02, (batch, frames, 17, 2)).cumsum(1)
    points = rng.normal(0, 0.3, (batch, 1, 17, 2)) + walk
    if channels == 3:
        points = np.concatenate([points, rng.uniform(0, 1, (batch, frames, 17, 1))], axis=-1)
    return points.astype(np.float32)


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]
    """Silence exporters that print their progress; what goes wrong is raised and stays visible."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
