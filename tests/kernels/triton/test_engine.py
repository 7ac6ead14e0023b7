"""A native bundle on a GPU: the same integers as on the CPU, and one clear line where there is no GPU for it."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save

import pstmo_edge as pe
from pstmo_edge.errors import BackendError, UsageError
from pstmo_edge.kernels.triton.engine import GpuEngine, lifter_of_bundle, require_gpu
from pstmo_edge.kernels.triton.lifter import lifter_of, lifter_of_tensors
from pstmo_edge.models.fused import fuse
from pstmo_edge.native_weights import native_tensors


def arrays(model):
    return {name: tensor.numpy().copy() for name, tensor in fuse(model).state_dict().items()}


def stored(model):
    return {name: torch.from_numpy(array) for name, array in native_tensors(arrays(model)).items()}


def bundle_of(backend, tensors, precision="fp32"):
    """What is read of a bundle, without the seconds that building one takes."""
    manifest = SimpleNamespace(
        backend=SimpleNamespace(name=backend), model=SimpleNamespace(name="p-stmo-s"), input=SimpleNamespace(frames=9),
        precision=SimpleNamespace(requested=precision), files=(),
    )  # fmt: skip
    return SimpleNamespace(path="engine", manifest=manifest, read=lambda name: save(tensors))


def test_a_native_bundle_is_the_model_in_bf16(small_model):
    lifter = lifter_of_bundle(bundle_of("native", stored(small_model)), torch.bfloat16)
    assert set(lifter.precisions.values()) == {"fp32", "bf16"}
    keypoints = torch.randn(1, 9, 17, 2) * 0.3
    with torch.inference_mode():
        assert torch.equal(lifter(keypoints), lifter_of(small_model, torch.bfloat16)(keypoints))
    half = lifter_of_bundle(bundle_of("native", stored(small_model)))
    assert set(half.precisions.values()) == {"fp32", "fp16"}


def test_float_arrays_make_the_network_of_the_model(small_model):
    lifter = lifter_of_tensors("p-stmo-s", 9, stored(small_model), torch.float32)
    keypoints = torch.randn(2, 9, 17, 2) * 0.3
    with torch.inference_mode():
        assert torch.equal(lifter(keypoints), lifter_of(small_model)(keypoints))


def test_int8_arrays_stay_integers(small_model):
    tensors, layer = stored(small_model), "Transformer.model.layers.1.feed_forward.w_1"
    wide = "Transformer.model.layers.1.feed_forward.w_2"  # of a network with 16-bit activations there
    for name, zero in ((layer, torch.tensor([117], dtype=torch.uint8)), (wide, torch.tensor([0], dtype=torch.int16))):
        weight = tensors[f"{name}.weight"]
        scale = weight.abs().amax(1) / 127
        tensors |= {
            f"{name}.weight": torch.round(weight / scale[:, None]).to(torch.int8), f"{name}.weight_scale": scale,
            f"{name}.input_scale": torch.tensor([0.02]), f"{name}.input_zero_point": zero,
        }  # fmt: skip
    lifter = lifter_of_tensors("p-stmo-s", 9, tensors)
    assert lifter.precisions[layer] == "int8"
    assert lifter.precisions[wide] == "fp16"
    product = lifter.layers[1].products[1]
    assert torch.equal(product.weight, tensors[f"{layer}.weight"])
    assert product.grid[:2].tolist() == pytest.approx([0.02, 117])
    del tensors[f"{layer}.weight_scale"]
    with pytest.raises(BackendError, match=r"hold no Transformer.*w_1.weight_scale: build it again"):
        lifter_of_tensors("p-stmo-s", 9, tensors)


# ---- what there is one line for --------------------------------------------------------------------------------------


def gpu(monkeypatch, capability, available=True):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA Test")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


def with_precision(name):
    return SimpleNamespace(precisions={"layer": name})


def test_no_gpu(monkeypatch):
    gpu(monkeypatch, (9, 0), available=False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(BackendError, match=r"^device cuda: this torch was built without CUDA: install a driver and"):
        require_gpu(with_precision("bf16"))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(BackendError, match=r"^device cuda: no usable NVIDIA driver or GPU: install a driver and"):
        require_gpu(with_precision("bf16"))


def test_a_gpu_that_lacks_what_is_needed(monkeypatch):
    gpu(monkeypatch, (7, 5))
    with pytest.raises(BackendError, match=r"NVIDIA Test has compute capability 7.5, the kernels need 8.0"):
        require_gpu(with_precision("bf16"))
    gpu(monkeypatch, (8, 7))
    with pytest.raises(BackendError, match=r"FP8 needs 8.9: build in int8 or fp16"):
        require_gpu(with_precision("fp8"))
    assert require_gpu(with_precision("int8")) == torch.device("cuda", 0)


def test_load_engine_says_why(small_model, monkeypatch):
    gpu(monkeypatch, (9, 0), available=False)
    bundles = {name: bundle_of(name, stored(small_model)) for name in ("native", "onnxruntime")}
    monkeypatch.setattr("pstmo_edge.engine.open_bundle", bundles.__getitem__)
    with pytest.raises(BackendError, match=r"^device cuda: "):
        pe.load_engine("native", device="cuda")
    with pytest.raises(
        UsageError, match=r"^engine is for onnxruntime: device cuda opens native bundles, build --backend"
    ):
        pe.load_engine("onnxruntime", device="cuda")
    with pytest.raises(UsageError, match="device"):
        pe.load_engine("native", device="gpu")
    monkeypatch.setattr("pstmo_edge.engine.installed_version", lambda name: None)
    with pytest.raises(BackendError, match=r"^device cuda needs torch and triton, not installed here: pip install"):
        pe.load_engine("native", device="cuda")


# ---- the road of the engine, with graphs that record nothing ---------------------------------------------------------


class Graph:
    """Stands for a CUDA graph: replaying it runs the network again."""

    def __init__(self):
        self.replays = 0


@pytest.fixture
def without_gpu(monkeypatch):
    """Everything of torch.cuda that the engine calls, on a CPU."""
    stream = SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: None)
    empty = torch.empty
    monkeypatch.setattr("pstmo_edge.kernels.triton.engine.require_gpu", lambda lifter: torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, pool: nullcontext())
    monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory=False, **rest: empty(*shape, **rest))


def test_the_engine_replays_one_graph_a_batch_size(fused, without_gpu, monkeypatch):
    lifter = lifter_of(fused)
    engine = GpuEngine(lifter, 9, largest=2)

    def replay(graph):
        captured = next(held for held in engine._captured.values() if held.graph is graph)
        captured.poses.copy_(lifter(captured.keypoints))
        graph.replays += 1

    monkeypatch.setattr(Graph, "replay", replay, raising=False)
    keypoints = np.random.default_rng(0).normal(0, 0.3, (5, 9, 17, 2)).astype(np.float32)
    with torch.no_grad():
        expected = lifter(torch.from_numpy(keypoints)).numpy()
    np.testing.assert_allclose(engine.run(keypoints), expected, atol=1e-5)
    assert {batch: held.graph.replays for batch, held in engine._captured.items()} == {2: 2, 1: 1}
    first = engine.run(keypoints[:2])
    engine.run(keypoints[2:4])
    np.testing.assert_allclose(first, expected[:2], atol=1e-5)  # a later call does not change an earlier result


def test_a_batch_that_the_memory_does_not_hold(fused, without_gpu, monkeypatch):
    lifter = lifter_of(fused)
    monkeypatch.setattr(lifter, "forward", lambda keypoints: _full())
    with pytest.raises(
        BackendError, match=r"^the GPU's memory does not hold 3 windows of 9 frames: lift fewer at once$"
    ):
        GpuEngine(lifter, 9).run(np.zeros((3, 9, 17, 2), np.float32))


def _full():
    raise torch.cuda.OutOfMemoryError("CUDA out of memory")
