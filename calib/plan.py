"""From a model, calibration motion and a bound on the error to the Q/DQ graph of the fastest mix within it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
import torch
from torch import nn

from pstmo_edge.arrays import FloatArray
from pstmo_edge.calib.cache import cached_calibration, cached_sensitivity, calibration_key
from pstmo_edge.calib.calibrate import corrected
from pstmo_edge.calib.emulation import EmulatedModel
from pstmo_edge.calib.mixing import Bounds, LayerTime, Mix, choose_mix, modelled_times
from pstmo_edge.calib.observers import Progress, silent
from pstmo_edge.calib.qdq import quantized_graph
from pstmo_edge.calib.sensitivity import Probes, Sensitivity
from pstmo_edge.calib.settings import Settings, settings_for
from pstmo_edge.calib.windows import LEAST_WINDOWS, check_handedness, unseen_windows
from pstmo_edge.datasets import load_sequences
from pstmo_edge.datasets.sequences import PoseSequence
from pstmo_edge.graph import layer_precisions
from pstmo_edge.models.fused import fuse
from pstmo_edge.models.interception import layer_biases
from pstmo_edge.targets import Target

_PROBE_TOKENS = 8192  # of the windows on which costs are measured
_LEAST_PROBES, _MOST_PROBES = 48, 128


@dataclass(frozen=True)
class Quantized:
    """One mix as a graph, and its layers left in float."""

    graph: onnx.ModelProto
    emulated: EmulatedModel
    mix: Mix
    left_in_float: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A calibrated model and what its layers cost; `found` is None where nothing could be measured."""

    graph: onnx.ModelProto
    windows: FloatArray
    settings: Settings
    emulated: EmulatedModel
    times: dict[str, LayerTime]
    ends: tuple[str, ...]
    found: Sensitivity | None

    def mix(self, bounds: Bounds, *, ends_in_float: bool) -> Mix:
        """The layers in INT8 that save most time within the bounds: none where nothing fits."""
        if self.found is None:  # weights that mean nothing: all but the ends, to measure the speed
            return Mix(tuple(name for name in self.emulated.layers if name not in self.ends), 0.0, 1.0)
        return choose_mix(self.found, self.times, bounds, self.ends if ends_in_float else ())

    def quantized(self, mix: Mix) -> Quantized:
        """The graph of one mix, its biases corrected."""
        model = self.emulated.with_layers(mix.integers).widened(mix.wide)
        if self.settings.bias_correction:
            model = corrected(model, self.windows)
        left = tuple(name for name in self.times if name not in mix.integers)
        return Quantized(quantized_graph(self.graph, model), model, mix, left)

    def to_dict(self) -> dict[str, Any]:
        """What was found, for a report."""
        return {
            "settings": self.settings.to_dict(),
            "sensitivity": None if self.found is None else self.found.to_dict(),
            "saved": {name: time.saved / sum(t.fp32 for t in self.times.values()) for name, time in self.times.items()},
        }


def make_plan(
    model: nn.Module,
    graph: onnx.ModelProto,
    windows: FloatArray,
    target: Target,
    probes: Sequence[PoseSequence] | None,
    live: Sequence[PoseSequence] = (),
    tell: Progress = silent,
    *,
    wide: bool = False,
) -> Plan:
    """Calibrate a model of the zoo on windows (N, T, 17, C) and measure its layers on others of `probes`.

    `graph` is that of its fused form. Without probes nothing is measured; where they hold too little that calibration
    did not see, the bundled motion takes their place. On `live`, motion as a detector sees it, the model's own jitter
    is measured; without it on the probes. With `wide` layers may also have 16-bit activations. Results are cached
    (`calib.cache`).
    """
    fused, settings = fuse(model), settings_for(target)
    with torch.no_grad():
        poses = fused(torch.from_numpy(windows[:: max(1, len(windows) // 64)])).numpy()
    if model.lifter.weights != "random":  # whose poses are no people's
        check_handedness(poses.reshape(-1, *poses.shape[-2:]), model.lifter.pose_skeleton)
    emulated = cached_calibration(fused, windows, settings, tell)
    precisions = {layer.name: layer for layer in layer_precisions(graph)}
    counts = {name: precisions[name].multiply_adds for name in emulated.layers}
    biases = layer_biases(fused)
    outputs = {name: len(biases[name]) for name in emulated.layers}
    found = None
    if probes is not None:
        key = calibration_key(fused, windows, settings)
        count = min(max(_PROBE_TOKENS // windows.shape[1], _LEAST_PROBES), _MOST_PROBES)
        unseen, true = unseen_windows(probes, model.lifter.window, count, windows)
        if len(unseen) < LEAST_WINDOWS:  # short motion, nearly all of which was used to calibrate
            bundled = load_sequences(split="train", skeleton=model.lifter.skeleton)
            unseen, true = unseen_windows(bundled, model.lifter.window, count, windows)
        moving = Probes(*unseen_windows(live, model.lifter.window, count, windows)) if live else None
        if moving is not None and len(moving.windows) < LEAST_WINDOWS:
            moving = None
        found = cached_sensitivity(emulated, key, Probes(unseen, true), moving, tell, wide=wide)
    times = modelled_times(counts, outputs, target, wide=wide)
    return Plan(graph, windows, replace(settings), emulated, times, model.lifter.ends, found)
