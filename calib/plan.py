"""From a model, calibration motion and a bound on the error to the Q/DQ graph of the fastest mix within it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
import torch
from torch import nn

from pstmo_edge.arrays import FloatArray
from pstmo_edge.calib.cache import cached_calibration, cached_sensitivity, calibration_key
from pstmo_edge.calib.calibrate import corrected
from pstmo_edge.calib.emulation import EmulatedModel
from pstmo_edge.calib.mixing import LayerTime, Mix, choose_mix, modelled_times
from pstmo_edge.calib.observers import Progress, silent
from pstmo_edge.calib.qdq import quantized_graph
from pstmo_edge.calib.sensitivity import Sensitivity
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
_ATTEMPTS = 4  # bounds that are tried, each tighter than the one that an engine exceeded


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

    def mixes(
        self, max_drop_mm: float, *, ends_in_float: bool, max_jitter_percent: float | None = None
    ) -> Iterator[Mix]:
        """Mixes to try in turn, until an engine's measured error is within the bound: ever fewer layers in INT8."""
        if self.found is None:  # weights that mean nothing: all but the ends, to measure the speed
            yield Mix(tuple(name for name in self.emulated.layers if name not in self.ends), 0.0, 1.0)
            return
        ends, bound = self.ends if ends_in_float else (), max_drop_mm
        for _ in range(_ATTEMPTS):
            mix = choose_mix(self.found, self.times, bound, ends, max_jitter_percent)
            if not mix.integers:
                return
            yield mix
            bound = min(bound, mix.expected_mm) / 2  # below what it spends, so that the next mix is another

    def quantized(self, mix: Mix) -> Quantized:
        """The graph of one mix, its biases corrected."""
        model = self.emulated.with_layers(mix.integers)
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
    tell: Progress = silent,
) -> Plan:
    """Calibrate a model of the zoo on windows (N, T, 17, C) and measure its layers on others of `probes`.

    `graph` is that of its fused form. Without probes nothing is measured; where they hold too little that calibration
    did not see, the bundled motion takes their place. Results are cached (`calib.cache`).
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
        found = cached_sensitivity(emulated, key, unseen, true, tell)
    times = modelled_times(counts, outputs, target)
    return Plan(graph, windows, replace(settings), emulated, times, model.lifter.ends, found)
