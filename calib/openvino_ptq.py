"""INT8 for OpenVINO by nncf, with its preset for transformers."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Collection

import nncf
import openvino as ov
from nncf.quantization.range_estimator import RangeEstimatorParametersSet

from pstmo_edge.arrays import FloatArray
from pstmo_edge.targets import Target


def quantize_openvino(
    model: ov.Model, windows: FloatArray, target: Target, keep_float: Collection[str] = ()
) -> ov.Model:
    """The model with its layers in INT8 but those whose names are in `keep_float`.

    `windows` (N, T, 17, 2) give the ranges. With a 7-bit target nncf's overflow fix halves the range of the weights.
    """
    logging.getLogger("nncf").setLevel(logging.ERROR)
    fix = nncf.OverflowFix.ENABLE if target.weight_bits == 7 else nncf.OverflowFix.DISABLE
    quantized: ov.Model
    with contextlib.redirect_stdout(io.StringIO()):  # nncf draws its own progress bars
        quantized = nncf.quantize(
            model,
            nncf.Dataset([window[None] for window in windows]),
            subset_size=len(windows),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            # A layer with a bias of its own becomes two operations; the product is the one named "WithoutBiases".
            ignored_scope=nncf.IgnoredScope(
                patterns=[f"^{re.escape(name)}(/WithoutBiases)?$" for name in sorted(keep_float)], validate=False
            ),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=fix,
                # nncf's own choice, the mean of each window's extremes, clips the extreme poses.
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                # Smoothing costs accuracy here: with 7-bit weights 0.49 mm instead of 0.23 for the weights in the box.
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1),
            ),
        )
    return quantized
