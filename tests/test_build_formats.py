"""Bundles in the formats beside fp32 and INT8: built, opened, measured, named truthfully; what cannot be is refused."""

import pytest

from pstmo_edge.backends import BACKENDS
from pstmo_edge.backends.onnxruntime import OnnxRuntimeSession
from pstmo_edge.building import build
from pstmo_edge.engine import load_engine
from pstmo_edge.errors import AccuracyError, UsageError
from pstmo_edge.export import random_keypoints, relative_difference
from pstmo_edge.preparing import check_request

# Half of the weights' bits at the ends, so that a random model's poses move by that much at most.
FORMATS = [(name, each) for name, backend in BACKENDS.items() for each in backend.precisions
           if each not in ("fp32", "int8")]  # fmt: skip
CLOSE = {"fp16": 1e-3, "bf16": 0.05, "w8a16": 0.02, "w4": 0.2, "fp8": 0.3}


@pytest.mark.parametrize(("backend", "precision"), FORMATS)
def test_every_format_builds_opens_and_is_named(
    backend, precision, small_model, small_prepared, small_engine, short_sequences, tmp_path
):
    out = tmp_path / "engine"
    options = {"prepared": small_prepared, "max_drop_mm": 1000.0}
    bundle = build(small_model, precision, backend, short_sequences, out, **options)
    exact, keypoints = load_engine(small_engine).infer, random_keypoints(2, 9)
    # What is not compiled on a device yet is a graph.
    portable = backend == "tensorrt"
    if (backend, precision) != ("tensorrt", "bf16"):  # no runtime here computes in it
        found = OnnxRuntimeSession((out / "model.onnx").read_bytes(), 1).run if portable else load_engine(out).infer
        assert 0 < relative_difference(found(keypoints), exact(keypoints)) < CLOSE[precision]
    given = bundle.manifest.precision
    assert given.requested == precision
    assert given.requested_share > 0.8
    on_load = precision == "fp16" or (precision == "bf16" and backend == "onnxruntime")
    assert given.weights_only is (on_load and not portable)
    assert (bundle.manifest.calibration is not None) is (precision in ("fp8", "w8a16", "w4"))
    assert 0 < abs(bundle.manifest.accuracy.drop_mm) < 1000


def test_files_shrink_with_the_format(small_model, small_prepared, small_engine, short_sequences, tmp_path):
    sizes = {"fp32": (small_engine / "model.onnx").stat().st_size}
    for precision in ("fp16", "w4"):
        out = tmp_path / precision
        build(small_model, precision, "onnxruntime", short_sequences, out, prepared=small_prepared, max_drop_mm=1000.0)
        sizes[precision] = (out / "model.onnx").stat().st_size
    assert sizes["fp16"] < 0.55 * sizes["fp32"]
    assert sizes["w4"] < 0.25 * sizes["fp32"]


def refusal(*arguments, **options):
    """What a build says that is refused for its error; None where it is built."""
    try:
        build(*arguments, **options)
    except AccuracyError as error:
        return str(error)
    return None


def test_a_format_is_gated_in_millimetres(small_model, small_prepared, short_sequences, tmp_path):
    options = {"prepared": small_prepared, "max_drop_mm": 0.0}
    refusals = {
        precision: refusal(small_model, precision, "onnxruntime", short_sequences, tmp_path / precision, **options)
        for precision in ("bf16", "fp8", "w4")  # of a random model the error may fall by chance
    }
    assert any(refusals.values())
    for precision, text in refusals.items():
        assert (tmp_path / precision).exists() is (text is None)
        assert text is None or f"{precision} on onnxruntime raises the error by" in text


@pytest.mark.parametrize(
    ("backend", "precision", "text"),
    [
        ("openvino", "fp8", "openvino bundles come in fp32, fp16, bf16, int8, not in fp8: .* --backend onnxruntime"),
        ("torch", "w4", "torch bundles come in fp32, fp16, not in w4: choose one of these, or --backend onnxruntime"),
        ("native", "bf16", "native bundles come in fp32, int8, w8a16, not in bf16: .*onnxruntime or openvino"),
        ("onnxruntime", "w4a8", "w4a8"),
    ],
)
def test_what_a_backend_does_not_take_is_refused_with_what_does(backend, precision, text, tmp_path):
    with pytest.raises(UsageError, match=text) as caught:
        check_request(precision, backend, tmp_path / "engine")
    assert "\n" not in str(caught.value)
