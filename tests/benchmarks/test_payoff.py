"""What a build says about INT8 on this device."""

import pytest

from pstmo_edge.benchmarks import payoff
from pstmo_edge.benchmarks.payoff import Choice, Payoff, candidates, measure
from pstmo_edge.benchmarks.timing import TimingPlan
from pstmo_edge.building import build


def found(**times):
    """A payoff of (milliseconds, millimetres) by precision."""
    sizes = {"fp32": 1000, "fp16": 500, "bf16": 500, "int8": 270}
    choices = tuple(Choice(name, ms, 0.01, mm, sizes[name]) for name, (ms, mm) in times.items())
    return Payoff("onnxruntime", choices, {}, 1.0)


@pytest.mark.parametrize(
    ("times", "best", "text"),
    [
        ({"fp32": (2.0, 0.0), "int8": (1.0, 0.05)}, "int8", "INT8 pays here: 2.00 times as fast as fp32 (1.00 ms"),
        ({"fp32": (1.0, 0.0), "int8": (1.01, 0.05)}, "fp32", "INT8 does not pay here: it is no faster (1.01 ms"),
        ({"fp32": (1.0, 0.0), "int8": (0.99, 0.05)}, "fp32", "is no faster"),
        ({"fp32": (1.0, 0.0), "int8": (1.4, 0.05)}, "fp32", "Use --precision fp32: 1.00 ms a forward, +0.00 mm."),
        ({"fp32": (2.0, 0.0), "int8": (1.0, 1.5)}, "fp32", "it costs more than 1 mm"),
        ({"fp32": (2.0, 0.0), "bf16": (0.8, 0.1), "int8": (1.5, 0.1)}, "bf16", "is not the best (bf16 is)"),
        ({"fp32": (2.0, 0.0), "fp16": (2.0, 0.0), "int8": (2.1, 0.1)}, "fp32", "no faster"),
        ({"fp32": (2.0, None), "int8": (1.0, None)}, "int8", "(1.00 ms a forward against 2.00 ms)"),
        ({"fp32": (2.0, 0.0)}, "fp32", "Use fp32 here"),
    ],
)
def test_the_fastest_within_the_limit_is_recommended(times, best, text):
    measured = found(**times)
    assert measured.recommended == best
    assert text in " ".join(measured.lines())
    assert len(measured.lines()) <= 2
    assert measured.to_dict()["recommended"] == best


def test_noise_decides_nothing():
    choices = (Choice("fp32", 1.0, 0.2, 0.0, 1000), Choice("int8", 0.8, 0.2, 0.1, 270))
    assert Payoff("onnxruntime", choices, {}, 1.0).recommended == "fp32"


def test_candidates_are_what_a_backend_computes():
    assert candidates("onnxruntime") == ("fp32", "fp16", "int8")
    assert candidates("native") == ("fp32", "int8")
    assert candidates("openvino") == ("fp32", "fp16", "bf16", "int8")


def test_every_candidate_is_built_and_timed_and_a_failure_is_a_line(
    small_model, small_prepared, short_sequences, tmp_path, monkeypatch
):
    out = tmp_path / "engine"
    build(small_model, "fp16", "onnxruntime", out=out, prepared=small_prepared, max_drop_mm=1000.0)
    monkeypatch.setattr(payoff, "candidates", lambda backend: ("fp32", "fp16", "w4a8"))
    plan = TimingPlan(rounds=1, slice_s=0.01, settle_s=0, warmup_s=0)
    told = []
    measured = measure(
        small_model, "onnxruntime", small_prepared, out, plan=plan, progress=lambda *now: told.append(now[0]),
        max_drop_mm=5.0, calibration=short_sequences,
    )  # fmt: skip
    assert [choice.precision for choice in measured.choices] == ["fp32", "fp16"]
    assert all(choice.p50_ms > 0 and choice.size_bytes > 0 for choice in measured.choices)
    assert "w4a8" in measured.failed["w4a8"]
    assert measured.choices[0].change_mm == pytest.approx(0, abs=0.01)
    assert any("timing fp32, fp16" in text for text in told)
