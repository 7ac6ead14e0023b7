"""What narrow types cost: the arithmetic that says so is that of the kernels, and trained weights keep the limits."""

import json

import pytest
import torch
from gpu_samples import error

from pstmo_edge.benchmarks import gpu_tables
from pstmo_edge.benchmarks.gpu_networks import trained_network
from pstmo_edge.benchmarks.gpu_precision import PLACES, STREAM, Rounding, as_kernels, poses_of
from pstmo_edge.calib.sensitivity import Probes
from pstmo_edge.kernels.triton import fp8, ops
from pstmo_edge.kernels.triton.lifter import lifter_of
from pstmo_edge.metrics import mpjpe
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
    found = json.loads(gpu_tables.PRECISION.read_text())
    rows = {(row["network"], row["stream"]): row["change_mm"] for row in found["whole"]}
    deployed = {("bf16", "fp32"), ("fp16", "fp16"), ("int8", "fp16"), ("fp8", "fp16")}
    assert all(rows[key] < gpu_tables.LIMITS_MM[key[0]] for key in deployed)
    assert rows["bf16", "bf16"] > 20 * gpu_tables.LIMITS_MM["bf16"]
    others = [row for row in found["others"] if (row["network"], row["stream"]) in deployed]
    assert len(others) == 8
    assert all(row["change_mm"] < gpu_tables.LIMITS_MM[row["network"]] for row in others)


# ---- FP8 -------------------------------------------------------------------------------------------------------------


def test_the_kernels_in_fp16_are_those_that_were_chosen():
    found = json.loads(gpu_tables.PRECISION.read_text())["fp8"]
    *before, last = found["steps"]
    assert tuple(step["kernel"] for step in found["steps"]) == fp8.IN_FP16
    assert last["change_mm"] <= found["limit_mm"] < gpu_tables.LIMITS_MM["fp8"]
    assert all(step["change_mm"] > found["limit_mm"] for step in before)


def test_trained_weights_in_fp8_keep_the_limit():
    network, (windows, truth) = trained_network()
    windows, truth = torch.from_numpy(windows[::16]), truth[::16]
    emulated = network.emulated("fp8")
    lifter = lifter_of(emulated, torch.float16)
    in_fp16 = {name for name, precision in lifter.precisions.items() if precision == "fp16"}
    assert {fp8.kernel_of(name) for name in in_fp16} == set(fp8.IN_FP16)
    # A kernel multiplies in one type, so that those compiled ahead of time are all it takes.
    assert not {fp8.kernel_of(name) for name in emulated.layers} & set(fp8.IN_FP16)
    with torch.inference_mode():
        exact, found = network.fused(windows).numpy(), lifter(windows).numpy()
    change = mpjpe(found - found[:, :1], truth).mean() - mpjpe(exact - exact[:, :1], truth).mean()
    assert change < gpu_tables.LIMITS_MM["fp8"], f"{change:+.3f} mm"


def test_the_choice_frees_what_moves_poses_most(fused):
    """With random weights: a limit that nothing but fp16 throughout keeps, and one that three kernels in fp16 keep."""
    windows = keypoints(8).numpy()
    emulated = fp8.all_in_fp8(fused, windows)
    kernels = {fp8.kernel_of(name) for name in emulated.layers}
    assert len(kernels) == 1 + 2 * 4
    with torch.inference_mode():
        probes = Probes(windows, fused(keypoints(8)).numpy())  # so the change of MPJPE is how far poses move
    steps = fp8.choose(emulated, probes, 0.0)
    assert {step.kernel for step in steps} == kernels
    shares = [step.fp8_share for step in steps]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 0
    assert fp8.choose(emulated, probes, steps[2].change_mm)[-1] == steps[2]
