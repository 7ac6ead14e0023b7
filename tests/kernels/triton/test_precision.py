"""What narrow types cost: the arithmetic that says so is that of the kernels, and trained weights keep the limits."""

import json

import pytest
import torch
from gpu_samples import error

from pstmo_edge.benchmarks import gpu_tables
from pstmo_edge.benchmarks.gpu_precision import FP8_WORST, PLACES, STREAM, Rounding, as_kernels, poses_of
from pstmo_edge.kernels.triton import ops
from pstmo_edge.kernels.triton.lifter import lifter_of
from pstmo_edge.models.zoo import load_model


def keypoints(windows=2):
    return torch.randn(windows, 9, 17, 2, generator=torch.Generator().manual_seed(5)) * 0.3


def test_without_rounding_it_is_the_network(fused):
    with torch.inference_mode():
        assert error(poses_of(lifter_of(fused), keypoints(), Rounding({})), fused(keypoints()).double()) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_is_the_arithmetic_of_the_kernels(fused, dtype):
    """But for sums in another order, which may round the other way; a place left out costs more than half of it all."""
    lifter = lifter_of(fused)
    with torch.inference_mode():
        truth = fused(keypoints())
        emulated = poses_of(lifter, keypoints(), as_kernels(dtype))
        with ops.interpreted():
            found = lifter_of(fused, dtype)(keypoints())
    apart, cost = error(found, emulated.double()), error(emulated, truth.double())
    assert apart < cost / 3


def test_every_place_rounds(fused):
    lifter = lifter_of(fused)
    into = [f"{STREAM} into layer {number}" for number in range(len(lifter.layers))]
    with torch.inference_mode():
        exact = poses_of(lifter, keypoints(), Rounding({}))
        for place in (*PLACES, *into, f"{STREAM} into the head", "kept by the spatial encoder"):
            assert not torch.equal(poses_of(lifter, keypoints(), Rounding({place: torch.bfloat16})), exact), place


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_trained_poses_move_by_two_millimetres_at_most(dtype):
    """With the residual stream in bf16 it would be 10."""
    from pstmo_edge.datasets import load_sequences
    from pstmo_edge.windows import WindowSource

    model = load_model()
    spec = model.lifter.window
    source = WindowSource([sequence.inputs(spec.channels) for sequence in load_sequences(split="test")[:1]], spec)
    windows = torch.from_numpy(source.gather(range(0, len(source), len(source) // 8)))
    with torch.inference_mode():
        moved = (lifter_of(model, dtype)(windows) - lifter_of(model)(windows)).norm(dim=-1).mean()
    assert 0 < moved < 2e-3, f"{moved * 1e3:.2f} mm"


def test_what_was_measured_keeps_the_limits():
    """But for FP8, whose miss the page tells."""
    found = json.loads(gpu_tables.PRECISION.read_text())
    rows = {(row["network"], row["stream"]): row["change_mm"] for row in found["whole"]}
    deployed = {("bf16", "fp32"), ("fp16", "fp16"), ("int8", "fp16")}
    assert all(rows[key] < gpu_tables.LIMITS_MM[key[0]] for key in deployed)
    assert rows["bf16", "bf16"] > 20 * gpu_tables.LIMITS_MM["bf16"]
    others = [row for row in found["others"] if (row["network"], row["stream"]) in deployed]
    assert len(others) == 4
    assert all(row["change_mm"] < gpu_tables.LIMITS_MM[row["network"]] for row in others)
    assert set(FP8_WORST) < lifter_of(load_model()).precisions.keys()
