"""The CUDA engine: launch plans, cubins and the driver, down to every call that can fail."""

import json
import os
import shutil

import cuda_standin as standin
import numpy as np
import pytest
import torch
from native_build import native_bundle
from reference import largest_difference

import pstmo_edge as pe
from pstmo_edge.bundle import open_bundle, write_bundle
from pstmo_edge.errors import BackendError, BundleError, DataError, UsageError
from pstmo_edge.kernels import native
from pstmo_edge.kernels.abi import NativeEngine, read_streams
from pstmo_edge.kernels.cuda import single_window
from pstmo_edge.kernels.triton import bundling, packing, tuning
from pstmo_edge.kernels.triton.lifter import filled, lifter_of_tensors
from pstmo_edge.models.fused import fuse
from pstmo_edge.models.p_stmo import PSTMO, PSTMOConfig
from pstmo_edge.streaming import StreamSettings

pytestmark = pytest.mark.skipif(not native.available(), reason=f"no native library: {native.why_unavailable()}")

FRAMES = 9
MUTANTS = int(os.environ.get("PSTMO_EDGE_MUTANTS", "40"))
NO_GPU = ("no CUDA driver: /nowhere/libcuda.so.1 cannot be loaded", "/nowhere/libcuda.so.1")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Random weights for p-stmo-s with 9 frames, in float and in INT8, with plans in three types for two chips."""
    made = {}
    out = tmp_path_factory.mktemp("cuda")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "choice", standin.choice)
        for kind, dtype in (
            *((kind, torch.float32) for kind in ("tiny", "small", "int8")),
            ("small", torch.bfloat16),
            *((kind, torch.float16) for kind in ("int8", "small")),
        ):
            source = native_bundle(kind)
            arrays = _arrays(source)
            lifter = _tiny(arrays) if kind == "tiny" else lifter_of_tensors("p-stmo-s", FRAMES, arrays, dtype)
            folder = out / f"{kind}-{str(dtype).removeprefix('torch.')}"
            bundling.add_kernels(source, ["sm_87", "sm_90"], folder, compilers=standin.compiler, lifter=lifter)
            made[folder.name] = folder
        made["single"] = out / "single"  # the last one's with the kernel for one window
        bundling.add_kernels(
            native_bundle("small"), ["sm_87"], made["single"], single=standin.single, compilers=standin.compiler,
            lifter=lifter,
        )  # fmt: skip
    return made


def _tiny(arrays):
    """The measures of make_bundle's tiny network: a few milliseconds a window, a few to open."""
    config = PSTMOConfig(frames=FRAMES, layers=1, channels=32, hidden=32, heads=1)
    return filled(fuse(PSTMO(config).eval()), arrays, torch.float32)


def _arrays(folder):
    from safetensors.torch import load

    return load(open_bundle(folder).read("weights.safetensors"))


@pytest.fixture
def tiny(bundles):
    return bundles["tiny-float32"]


@pytest.fixture(autouse=True)
def clean():
    """Nothing may be left of any test, and no rule of the driver's broken."""
    standin.set_up()
    yield
    assert standin.library().standin_violation() == b""
    assert standin.library().standin_live() == 0


def windows(count, seed=0):
    return np.random.default_rng(seed).normal(0, 0.3, (count, FRAMES, 17, 2)).astype(np.float32)


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "limit"), [("small-float32", 1e-5), ("int8-float32", 1e-2)])
def test_poses_are_those_of_the_cpu(bundles, name, limit):
    """In INT8 a value between two codes may round the other way, since the CPU multiplies where the GPU divides."""
    keypoints = windows(4)
    expected = NativeEngine(bundles[name]).run(keypoints)
    found = standin.open_engine(bundles[name], max_batch=3).run(keypoints)
    assert largest_difference(found, expected) < limit


# What plain torch costs at most is noted, so that twice that is a limit: codes of 8 bits that round the other way move
# the poses of random weights by 4 %.
@pytest.mark.parametrize(("kind", "dtype", "most"), [("small", "float16", 5e-3), ("int8", "float16", 5e-2),
                                                     ("small", "bfloat16", 3e-2)])  # fmt: skip
def test_narrow_types_are_as_near_as_in_torch(bundles, kind, dtype, most):
    """fp16 as bundles are compiled, bf16 as `benchmarks/gpu.py` measures it."""
    keypoints, arrays = windows(4), _arrays(native_bundle(kind))
    expected = NativeEngine(bundles[f"{kind}-float32"]).run(keypoints)
    with torch.inference_mode():
        lifter = lifter_of_tensors("p-stmo-s", FRAMES, arrays, getattr(torch, dtype))
        plain = largest_difference(lifter(torch.from_numpy(keypoints)).numpy(), expected)
    found = standin.open_engine(bundles[f"{kind}-{dtype}"], max_batch=3).run(keypoints)
    assert largest_difference(found, expected) < 2 * plain < 2 * most


def test_the_residual_stream_of_bf16_is_float32(bundles):
    for dtype, channel in (("bfloat16", 4), ("float16", 2)):
        plan = json.loads(open_bundle(bundles[f"small-{dtype}"]).read("gpu-sm_87.json"))
        taken = {name: plan["buffers"][name] // FRAMES for name in ("tokens_0", "tokens_1", "qkv", "mixed")}
        assert taken == {"tokens_0": 256 * channel, "tokens_1": 256 * channel, "qkv": 768 * 2, "mixed": 256 * 2}


def test_one_window_in_one_launch(bundles):
    """No further from float32 than the launches it stands for, and only where a window comes alone."""
    keypoints = windows(3, 7)
    expected = NativeEngine(bundles["small-float32"]).run(keypoints)
    engine, many = (standin.open_engine(bundles[name]) for name in ("single", "small-float16"))
    assert (engine.info["isa"], many.info["isa"]) == ("sm_87 single-launch", "sm_87")
    before, lib = standin.library().standin_launches(), standin.library()
    found = np.concatenate([engine.run(window[None]) for window in keypoints])
    assert lib.standin_launches() - before == 3
    sequence = np.concatenate([many.run(window[None]) for window in keypoints])
    assert largest_difference(found, expected) < 2 * largest_difference(sequence, expected) < 4e-3
    together = lib.standin_together()
    assert largest_difference(engine.run(keypoints[:2]), expected[:2]) < 4e-3
    assert lib.standin_together() == together


def test_one_launch_with_several_tiles_of_tokens(tmp_path, monkeypatch):
    """27 frames are two tiles of 16 tokens, the second one not full, and two blocks of keys."""
    monkeypatch.setattr(tuning, "choice", standin.choice)
    source = native_bundle("medium")
    lifter = lifter_of_tensors("p-stmo-s", 27, _arrays(source))
    bundling.add_kernels(
        source, ["sm_87"], tmp_path / "one", single=standin.single, compilers=standin.compiler, lifter=lifter
    )
    keypoints = np.random.default_rng(2).normal(0, 0.3, (1, 27, 17, 2)).astype(np.float32)
    found = standin.open_engine(tmp_path / "one", max_batch=1).run(keypoints)
    assert largest_difference(found, NativeEngine(source).run(keypoints)) < 4e-3


@pytest.mark.parametrize(
    ("kind", "dtype", "held"), [("int8", torch.float16, "int8"), ("small", torch.bfloat16, "bf16")]
)
def test_the_single_launch_is_for_fp16_alone(kind, dtype, held):
    lifter = lifter_of_tensors("p-stmo-s", FRAMES, _arrays(native_bundle(kind)), dtype)
    with pytest.raises(UsageError, match=f"the single launch computes in fp16 and this bundle has {held}: leave it"):
        single_window.described(lifter, FRAMES)


def test_a_driver_too_old_for_the_one_launch_takes_many(bundles, tmp_path):
    def newer(plan):
        plan["single"]["driver"] = 13000
        return plan

    changed(bundles["single"], tmp_path / "newer", plan=newer)
    engine = standin.open_engine(tmp_path / "newer", max_batch=1)
    assert engine.info["isa"] == "sm_87"
    engine.run(windows(1))
    assert standin.library().standin_together() == 0


@pytest.mark.parametrize("multiprocessors", [1, 8])
@pytest.mark.parametrize(("batch", "pieces"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 3)])
def test_every_batch_is_cut_into_captured_pieces(tiny, multiprocessors, batch, pieces):
    standin.set_up(multiprocessors=multiprocessors)
    keypoints, engine = windows(batch, batch), standin.open_engine(tiny, max_batch=3)
    before, calls = standin.library().standin_replays(), standin.library().standin_calls()
    found = engine.run(keypoints)
    assert standin.library().standin_replays() - before == pieces
    # push, pop, and for each piece a graph and a wait: nothing is taken, loaded or captured any more
    assert standin.library().standin_calls() - calls == 2 + 2 * pieces
    assert largest_difference(found, NativeEngine(tiny).run(keypoints)) < 1e-5


def test_few_and_many_tokens_have_kernels_of_their_own(tiny):
    plan = json.loads((tiny / "gpu-sm_87.json").read_text())
    assert plan["few_below"] == 64
    for launch in plan["launches"]:
        assert launch["few"]["kernel"] != launch["many"]["kernel"]
    assert len(plan["launches"]) == 2 + 3 * 4


def test_the_engine_says_what_it_is(tiny):
    info = standin.open_engine(tiny, device="cuda:0").info
    assert (info["isa"], info["threads"], info["frames"], info["model"]) == ("sm_87", 1, FRAMES, "p-stmo-s")


def test_streams_share_the_weights_and_give_the_poses_of_the_cpu(tiny):
    settings = StreamSettings((1000, 1000), 50.0, lookahead=0)
    engine = standin.open_engine(tiny)
    live = standin.library().standin_live()
    streams = [engine.stream(settings) for _ in range(3)]
    assert standin.library().standin_live() == live
    expected = NativeEngine(tiny).stream(settings)
    del engine  # its streams keep it
    for frame in range(12):
        pixels = np.random.default_rng(frame).uniform(300, 600, (17, 2)).astype(np.float32)
        wanted = expected.push(pixels, frame / 50)
        for stream in streams:
            found = stream.push(pixels, frame / 50)
            assert largest_difference(found.pose, wanted.pose) < 1e-5
            assert (found.frame, found.degraded, found.filled_frames) == (frame, wanted.degraded, wanted.filled_frames)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_many_streams_are_read_in_one_batch(tiny, device):
    """At different frame rates, so that some have no pose when others have."""
    engine = NativeEngine(tiny, device=device, max_batch=4, driver=standin.path())
    many, one = (
        [engine.stream(StreamSettings((1000, 1000), fps, lookahead=2)) for fps in (50, 25, 50, 100)] for _ in "ab"
    )
    rng, taken = np.random.default_rng(5), 0
    for frame in range(20):
        for left, right in zip(many, one, strict=True):
            pixels = rng.uniform(300, 600, (17, 2)).astype(np.float32)
            left.feed(pixels, frame / 50)
            right.feed(pixels, frame / 50)
        before = standin.library().standin_replays()
        found = read_streams(many)
        ready = sum(each is not None for each in found)
        assert standin.library().standin_replays() - before == (bin(ready).count("1") if device == "cuda" else 0)
        for left, right in zip(found, one, strict=True):
            expected = right.read()
            assert (left is None) == (expected is None)
            if left is not None:
                taken += 1
                assert largest_difference(left.pose, expected.pose) < (1e-5 if device == "cuda" else 1e-12)
                assert (left.frame, left.timestamp, left.degraded) == (
                    expected.frame, expected.timestamp, expected.degraded
                )  # fmt: skip
    assert taken > 30
    assert [stream.counters for stream in many] == [stream.counters for stream in one]


def test_streams_that_cannot_be_read_together(tiny):
    settings = StreamSettings((1000, 1000), 50.0, lookahead=0)
    one, two = (NativeEngine(tiny).stream(settings) for _ in range(2))
    assert read_streams([]) == []
    for wrong in ([one, two], [one, one]):
        with pytest.raises(UsageError):
            read_streams(wrong)
    assert read_streams([one]) == [None]


def test_a_launch_of_too_few_programs_is_noticed(tiny, tmp_path):
    """What keeps these tests honest: rows that nobody computes stay NaN."""
    changed(tiny, tmp_path / "wrong", plan=_broken(("launches", 1, "few", "grid", 0), [0, 4, 4]))
    standin.set_up(multiprocessors=64)
    with pytest.raises(DataError, match="poses are not finite"):
        standin.open_engine(tmp_path / "wrong").run(windows(1))


# ---- what there is one line for --------------------------------------------------------------------------------------


def refused(error, text, folder, **options):
    """One clear line, and the CPU still lifts the same bundle."""
    with pytest.raises(error, match=text) as raised:
        NativeEngine(folder, device="cuda", **{"driver": standin.path(), "max_batch": 2, **options})
    assert "\n" not in str(raised.value)
    assert standin.library().standin_live() == 0


def test_no_driver(tiny):
    refused(BackendError, NO_GPU[0] + "; install NVIDIA's driver, or open", tiny, driver=NO_GPU[1])
    assert np.isfinite(NativeEngine(tiny).run(windows(1))).all()


def test_python_opens_it_without_torch(tiny):
    """`load_engine` goes to the library, which here finds no driver; a machine with one lacks a chip's kernels."""
    with pytest.raises(BackendError, match=r"no CUDA driver: libcuda.so.1 cannot be loaded|no GPU|GPU kernels for"):
        pe.load_engine(tiny, device="cuda")


def test_a_library_that_is_no_driver(tiny):
    refused(BackendError, "driver is too old: it has no cuInit, which CUDA 11.4 brought", tiny, driver=native.path())


def test_a_driver_older_than_the_kernels(tiny):
    standin.set_up(version=11080)
    refused(BackendError, "too old: it runs CUDA 11.8 and the kernels of this bundle need 12.0: update", tiny)


def test_no_gpu_of_that_number(tiny):
    with pytest.raises(BackendError, match="there is no GPU 3: the driver shows 1, counted from 0"):
        standin.open_engine(tiny, device="cuda:3")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "cuda:1x", "CUDA"])
def test_a_device_that_there_is_not(tiny, device):
    with pytest.raises(UsageError, match=f"no device '{device}': use cpu, cuda or cuda:0"):
        standin.open_engine(tiny, device=device)


def test_a_chip_without_kernels(tiny):
    standin.set_up(capability=120)
    said = (
        r"GPU kernels for sm_87, sm_90 and this GPU, stand-in \(no GPU\), is sm_120: "
        "add them with pstmo-edge compile BUNDLE --gpu sm_120"
    )
    refused(BackendError, said, tiny)
    refused(BackendError, "it has GPU kernels for no chip and this GPU", native_bundle("small"))


def test_memory_that_runs_out(tiny):
    standin.set_up(memory=10 << 20)
    refused(BackendError, r"does not hold 4096 windows at once \(cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY", tiny,
            max_batch=4096)  # fmt: skip
    assert standin.open_engine(tiny, max_batch=2).run(windows(1)).shape == (1, 17, 3)
    refused(UsageError, "max_batch is 70000: use 1 to 65536", tiny, max_batch=70000)


def test_most_windows_is_a_limit(tiny, tmp_path):
    changed(tiny, tmp_path / "few", plan=lambda plan: plan | {"most_windows": 3})
    refused(UsageError, "max_batch is 4: these kernels take 3 windows at most", tmp_path / "few", max_batch=4)
    assert standin.open_engine(tmp_path / "few", max_batch=None).run(windows(5)).shape == (5, 17, 3)


def changed(bundle, out, plan=lambda plan: plan, **artifacts):
    """The bundle with another plan, or other files, and right digests."""
    opened = open_bundle(bundle)
    files = {entry.path: opened.read(entry.path) for entry in opened.manifest.files}
    files["gpu-sm_87.json"] = json.dumps(plan(json.loads(files["gpu-sm_87.json"]))).encode()
    files |= artifacts
    files = {name: data for name, data in files.items() if data is not None}
    write_bundle(out, opened.manifest.model_copy(update={"files": ()}), files, force=True)


def _broken(path, value):
    def change(plan):
        at = plan
        for key in path[:-1]:
            at = at[key]
        if value is None:
            del at[path[-1]]
        else:
            at[path[-1]] = value
        return plan

    return change


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("schema",), 2, "made by a newer pstmo-edge .schema 2, this library reads up to 1"),
        (("schema",), None, "it has no schema"),
        (("frames",), 27, "frames: a whole number from 9 to 9 was expected"),
        (("launches",), [], "launches: none"),
        (("launches", 1, "arguments", 0), ["buffer", "nothing"], "an argument 'nothing' is not there"),
        (("launches", 1, "arguments", 1), ["weight", "nothing"], "an argument 'nothing' is not there"),
        (("launches", 1, "arguments", 1), ["pointer", 4096], "an argument of an unknown form"),
        (("launches", 1, "few", "kernel"), "nothing", "there is no kernel 'nothing'"),
        (("launches", 1, "few", "grid", 0), [0, 9, 0], "grid: a whole number from 1 to"),
        (("launches", 1, "few", "grid", 1), [1 << 20, 0, 1], "more programs than an axis has"),
        (("launches", 1, "few", "grid", 0), [0, 1 << 31, 1], "count: it leaves 32 bits"),
        (("launches", 1, "many"), None, "one has no kernel for many tokens"),
        (("buffers", "poses"), 51, "buffers.poses: 204 bytes were expected"),
        (("kernels", "norm_linear_2"), {"entry": "x", "threads": 4096, "shared_bytes": 0}, "threads: a whole number"),
        (("kernels", "other"), {"entry": "x", "threads": 32, "shared_bytes": 0}, "kernels.other: it has no cubin"),
        (("weights_sha256",), "0" * 64, "its launch plan is for other weights; compile it again"),
    ],
)
def test_a_plan_that_is_wrong(tiny, tmp_path, path, value, said):
    changed(tiny, tmp_path / "wrong", plan=_broken(path, value))
    refused(BundleError, said, tmp_path / "wrong")


def test_files_that_are_damaged(tiny, tmp_path):
    damaged = tmp_path / "damaged"
    changed(tiny, damaged, **{"gpu-sm_87.safetensors": None})
    refused(BundleError, "it has no gpu-sm_87.safetensors beside its launch plan", damaged)
    cubins = bytearray(open_bundle(tiny).read("gpu-sm_87.safetensors"))
    changed(tiny, damaged, **{"gpu-sm_87.safetensors": bytes(cubins[:-1])})
    refused(BundleError, "no safetensors file", damaged)
    at = cubins.index(b"standin")
    cubins[at : at + 7] = b"\x7fELF..."
    changed(tiny, damaged, **{"gpu-sm_87.safetensors": bytes(cubins)})
    refused(
        BundleError, "a cubin for sm_87 cannot be loaded .cuModuleLoadData: CUDA_ERROR_INVALID_IMAGE .200.*compile",
        damaged,
    )  # fmt: skip
    shutil.rmtree(damaged)
    shutil.copytree(tiny, damaged)
    (damaged / "gpu-sm_87.json").write_text("{}")
    refused(BundleError, "gpu-sm_87.json has 2 bytes and the manifest says", damaged)
    assert np.isfinite(NativeEngine(tiny).run(windows(1))).all()


def test_mutants_of_a_plan(tiny, tmp_path):
    """With right digests: each is refused in one line or opens; none breaks the driver's rules or leaves a thing."""
    standin.set_up(computes=False)
    opened = open_bundle(tiny)
    files = {entry.path: opened.read(entry.path) for entry in opened.manifest.files if "90" not in entry.path}
    manifest, rng = opened.manifest.model_copy(update={"files": ()}), np.random.default_rng(0)
    plan, said = files["gpu-sm_87.json"], []
    for _ in range(MUTANTS):
        mutant = bytearray(plan)
        for at in rng.integers(0, len(plan), rng.integers(1, 4)):
            mutant[at] = rng.choice(list(b'0123456789-"[]{},:.eE xa'))
        if rng.random() < 0.1:
            del mutant[rng.integers(len(plan)) :]
        write_bundle(tmp_path / "mutant", manifest, files | {"gpu-sm_87.json": bytes(mutant)}, force=True)
        try:
            standin.open_engine(tmp_path / "mutant", max_batch=1)
        except (BundleError, BackendError, UsageError) as error:
            said.append(str(error))
        assert standin.library().standin_live() == 0
        standin.set_up(computes=False)  # the driver is told what a mutant says of threads and shared memory
    assert len(said) > MUTANTS // 2
    assert not [text for text in said if "\n" in text]


def test_every_call_of_the_driver_that_fails_while_opening(tiny):
    standin.set_up(computes=False)
    engine = standin.open_engine(tiny)
    calls = standin.library().standin_calls()
    del engine
    assert standin.library().standin_calls() > calls > 100
    for number in range(1, calls + 1):
        standin.set_up(computes=False)
        standin.library().standin_fail(number, 719)
        said = ""
        try:
            standin.open_engine(tiny)
        except BackendError as error:
            said = str(error)
        # The release of a graph that was captured, and of this thread's context, have nobody to tell.
        assert "CUDA_ERROR_LAUNCH_FAILED (719)" in said or (said == "" and number > 20)
        assert standin.library().standin_live() == 0, f"call {number} leaves something behind"
        assert standin.library().standin_violation() == b"", f"call {number}"


def test_a_gpu_that_fails_while_lifting(tiny):
    engine, keypoints = standin.open_engine(tiny), windows(1)
    stream = engine.stream(StreamSettings((1000, 1000), 50.0, lookahead=0))
    for call in (1, 2, 3):
        standin.library().standin_fail(call, 719)
        with pytest.raises(BackendError, match=r"^the GPU failed in cu\w+: CUDA_ERROR_LAUNCH_FAILED .719.; start the"):
            engine.run(keypoints)
    standin.library().standin_fail(2, 719)
    with pytest.raises(BackendError, match="the GPU failed"):
        stream.push(np.full((17, 2), 500, np.float32), 0.0)
    counters = stream.counters
    assert (counters.received, counters.delivered, counters.pending, counters.dropped) == (1, 0, 1, 0)
    assert np.isfinite(NativeEngine(tiny).run(keypoints)).all()


# ---- making them -----------------------------------------------------------------------------------------------------


def test_a_model_that_leaves_the_range_of_fp16_is_refused():
    """Weights of the last network layer a million times too large: float32 holds what comes out, fp16 does not."""
    arrays = _arrays(native_bundle("small"))
    arrays["Transformer.model.layers.2.feed_forward.w_2.weight"] *= 1e6
    bundling.check_range(lifter_of_tensors("p-stmo-s", FRAMES, arrays, torch.float32), FRAMES)
    with pytest.raises(BackendError, match="numbers leave the range of float16, in which a GPU computes it, and its"):
        bundling.check_range(lifter_of_tensors("p-stmo-s", FRAMES, arrays), FRAMES)


def test_chips_are_added_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "choice", standin.choice)
    lifter = _tiny(_arrays(native_bundle("tiny")))
    shutil.copytree(native_bundle("tiny"), tmp_path / "bundle")
    for chips in (["sm_80"], ["sm_87", "sm_120"]):
        bundling.add_kernels(tmp_path / "bundle", chips, compilers=standin.compiler, lifter=lifter)
    names = {entry.path for entry in open_bundle(tmp_path / "bundle").manifest.files}
    assert {packing.plan_file(chip) for chip in ("sm_80", "sm_87", "sm_120")} < names
    plan = json.loads((tmp_path / "bundle" / "gpu-sm_120.json").read_text())
    assert plan["driver"] == 13000  # what triton brings for it is of CUDA 13
    assert set(plan["precisions"].values()) == {"fp32"}
    with pytest.raises(UsageError, match="no kernels for sm_75: choose among sm_80, sm_86"):
        bundling.add_kernels(tmp_path / "bundle", ["sm_75"])
    with pytest.raises(BackendError, match="TRITON_INTERPRET is set"):
        bundling.add_kernels(tmp_path / "bundle", ["sm_80"], lifter=lifter)
    other = _tiny({name: 2 * array for name, array in _arrays(native_bundle("tiny")).items()})
    with pytest.raises(UsageError, match="another version for sm_87, sm_120: compile all chips in one call"):
        bundling.add_kernels(tmp_path / "bundle", ["sm_80"], compilers=standin.compiler, lifter=other)
