"""What narrow types cost the weights in the box, and in which arrays: benchmarks/results/gpu_precision.json.

    python -m pstmo_edge.benchmarks.gpu_precision        three minutes on one core; no GPU

The arithmetic of the kernels on a CPU: what a kernel keeps narrow is rounded, everything inside it is float32, and so
are its sums. What `gpu.py` measures on a GPU stands under "millimetres" in its own results.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pstmo_edge import __version__
from pstmo_edge.arrays import FloatArray
from pstmo_edge.benchmarks.gpu_networks import Network, random_network, trained_network
from pstmo_edge.benchmarks.provenance import commit
from pstmo_edge.calib.sensitivity import Probes
from pstmo_edge.calib.windows import calibration_windows, unseen_windows
from pstmo_edge.datasets import load_sequences
from pstmo_edge.datasets.sequences import PoseSequence
from pstmo_edge.files import write_atomic
from pstmo_edge.kernels.triton import fp8
from pstmo_edge.kernels.triton.lifter import KernelLifter, lifter_of, stream_type
from pstmo_edge.kernels.triton.reference import normed
from pstmo_edge.models.fused import fuse
from pstmo_edge.models.zoo import load_model
from pstmo_edge.windows import WindowSource

RESULTS = Path("benchmarks/results/gpu_precision.json")
STREAM = "residual stream"
PLACES = (
    "weights", "spatial encoder", STREAM, "queries, keys, values", "shares of attention", "output of attention",
    "behind a LayerNorm", "hidden layer",
)  # fmt: skip
OTHER_WEIGHTS = ("p-stmo-s-27-causal", "p-stmo-s-27-coco")
# A quarter below the limit, for motion that is neither that of the choice nor that of the report.
FP8_CHOICE_MM = 0.15
_PROBES = 768
_FULL = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_BATCH = 256
_EVERY = 4  # of the windows, for one place at a time
_OTHER_WINDOWS = 1024


@dataclass(frozen=True)
class Rounding:
    """The types that the arrays of some places are rounded to; everything else is float32."""

    types: Mapping[str, torch.dtype]

    def __call__(self, place: str, x: Tensor) -> Tensor:
        """`x` as the kernels keep it there."""
        dtype = self.types.get(place)
        return x if dtype is None else x.to(dtype).float()


def as_kernels(dtype: torch.dtype, stream: torch.dtype | None = None) -> Rounding:
    """What the kernels round where tokens and weights are of `dtype`; `stream` in the place of `stream_type`."""
    stream = stream or stream_type(dtype)
    return Rounding(dict.fromkeys(PLACES, dtype) | {STREAM: stream, "kept by the spatial encoder": stream})


def poses_of(lifter: KernelLifter, keypoints: Tensor, rounded: Rounding, seen: list[Tensor] | None = None) -> Tensor:
    """A float32 lifter's poses (B, 17, 3) with some of its arrays rounded; `seen` takes the stream of every layer."""

    def linear(x: Tensor, product: Any) -> Tensor:
        return F.linear(x, rounded("weights", product.weight), product.bias)

    x = _encoded(lifter, keypoints, rounded, linear)
    for number, layer in enumerate(lifter.layers):
        x = rounded(f"{STREAM} into layer {number}", rounded(STREAM, x))
        if seen is not None:
            seen.append(x)
        mixed = _attended(
            linear(rounded("behind a LayerNorm", normed(x, layer.norm_1)), layer.qkv), layer.heads, rounded
        )
        projection, wide, narrow = layer.products
        x = x + linear(mixed, projection)
        hidden = F.relu(linear(rounded("behind a LayerNorm", normed(x, layer.norm_2)), wide))
        hidden = rounded("hidden layer", hidden)
        if narrow.weight.shape[1] != wide.weight.shape[0]:
            hidden = F.pad(hidden, (0, 0, 1, 1)).unfold(1, 3, layer.stride).transpose(-1, -2).flatten(-2)
        x = x[:, :: layer.stride] + linear(hidden, narrow)
        x = x if layer.position is None else x + layer.position[: x.shape[1]]
    x = rounded(f"{STREAM} into the head", rounded(STREAM, x))
    if seen is not None:
        seen.append(x)
    return F.linear(x, lifter.head.weight, lifter.head.bias).unflatten(-1, (lifter.joints, 3)).squeeze(1)


def _encoded(lifter: KernelLifter, keypoints: Tensor, rounded: Rounding, linear: Any) -> Tensor:
    fc_1, second, third, last = lifter.encoder
    first = F.leaky_relu(F.linear(keypoints.flatten(2), fc_1.weight, fc_1.bias), 0.2)
    x = F.leaky_relu(linear(rounded("spatial encoder", first), second), 0.2)
    x = F.leaky_relu(linear(rounded("spatial encoder", x), third), 0.2) + rounded("kept by the spatial encoder", first)
    encoded: Tensor = linear(rounded("spatial encoder", x), last) + lifter.position
    return encoded


def _attended(qkv: Tensor, heads: int, rounded: Rounding) -> Tensor:
    parts = rounded("queries, keys, values", qkv).chunk(3, dim=-1)
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
    scores = query @ key.transpose(-1, -2)
    shares = torch.exp(scores - scores.amax(-1, keepdim=True))
    mixed = rounded("shares of attention", shares) @ value / shares.sum(-1, keepdim=True)
    return rounded("output of attention", mixed.transpose(1, 2).flatten(-2))


# ---- what it costs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Motion:
    """Held-out windows (B, T, 17, 2), their true poses (B, 17, 3) in metres, and the poses of float32."""

    windows: Tensor
    truth: FloatArray
    exact: FloatArray

    def thinned(self, every: int) -> Motion:
        """Each `every`-th window."""
        return Motion(self.windows[::every], self.truth[::every], self.exact[::every])

    def row(self, name: str, run: Any) -> dict[str, Any]:
        """How far poses are from those of float32 and how much MPJPE changes, in millimetres."""
        with torch.no_grad():
            poses = torch.cat([run(piece) for piece in self.windows.split(_BATCH)]).numpy()
        change = _mpjpe(poses, self.truth) - _mpjpe(self.exact, self.truth)
        found = {"rounded": name, "windows": len(poses), "moved_mm": _mpjpe(poses, self.exact), "change_mm": change}
        print(f"{name}: {found['moved_mm']:.2f} mm moved, {change:+.3f} mm", flush=True)
        return found


def _mpjpe(poses: FloatArray, truth: FloatArray) -> float:
    centred = [pose - pose[:, :1] for pose in (poses, truth)]
    return float(np.linalg.norm(centred[0] - centred[1], axis=-1).mean() * 1e3)


def whole(network: Network, lifter: KernelLifter, motion: Motion) -> Iterator[dict[str, Any]]:
    """Networks as they are deployed or were once: by type, and by the type of their residual stream."""
    for name, stream in (("bf16", "bf16"), ("bf16", "fp16"), ("bf16", "fp32"), ("fp16", "fp16"), ("fp16", "fp32")):
        rounding = as_kernels(_FULL[name], _FULL[stream])
        yield {"network": name, "stream": stream} | motion.row(
            f"{name}, stream {stream}", lambda piece, rounding=rounding: poses_of(lifter, piece, rounding)
        )
    # The reference rounds what the kernels of quantized layers do: between products it is float32.
    yield {"network": "int8", "stream": "fp16"} | motion.row(
        "int8, tokens fp16", lifter_of(network.emulated("int8"), torch.float16)
    )
    yield from in_fp8(network, motion)


def in_fp8(network: Network, motion: Motion) -> Iterator[dict[str, Any]]:
    """FP8 as it is deployed, and what it would cost without the kernels in fp16 and without centring.

    What stays in fp16 is rounded a little more often here than by its kernels, inside which everything is float32.
    """
    for name, centred, kernels in (
        ("fp8", True, fp8.IN_FP16), ("fp8, not centred", False, fp8.IN_FP16), ("fp8, all layers", True, ()),
        ("fp8, all layers, not centred", False, ()),
    ):  # fmt: skip
        emulated = fp8.leaving(fp8.all_in_fp8(network.fused, network.windows, centred=centred), kernels)
        yield {"network": name, "stream": "fp16"} | motion.row(name, lifter_of(emulated, torch.float16))


def fp8_choice(network: Network) -> dict[str, Any]:
    """Which kernels of an FP8 network stay in fp16, chosen on training motion; `fp8.IN_FP16` holds them."""
    spec = load_model().lifter.window
    probes = Probes(*unseen_windows(load_sequences(split="train"), spec, _PROBES, network.windows))
    steps = fp8.choose(fp8.all_in_fp8(network.fused, network.windows), probes, FP8_CHOICE_MM)
    longer = random_network(243, small=False)  # shares depend on shapes alone
    return {
        "limit_mm": FP8_CHOICE_MM, "windows": len(probes.windows), "steps": [asdict(step) for step in steps],
        "fp8_share_of_243_frames": fp8.fp8_share(longer.emulated("fp8"), longer.windows),
    }  # fmt: skip


def places(lifter: KernelLifter, motion: Motion) -> Iterator[dict[str, Any]]:
    """One place in bf16, everything else in float32; the stream also layer by layer."""
    into = [f"{STREAM} into layer {number}" for number in range(len(lifter.layers))]
    for place in (*PLACES, *into, f"{STREAM} into the head"):
        rounding = Rounding({place: torch.bfloat16})
        yield motion.row(place, lambda piece, rounding=rounding: poses_of(lifter, piece, rounding))


def streams(lifter: KernelLifter, windows: Tensor) -> list[dict[str, float]]:
    """The residual stream layer by layer, by the root mean square of its values.

    `across` is what varies across the direction of the mean: how far a token lies along it, LayerNorm takes out.
    """
    seen: list[Tensor] = []
    with torch.no_grad():
        poses_of(lifter, windows, Rounding({}), seen)
    return [_stream(x.flatten(0, 1)) for x in seen]


def _stream(x: Tensor) -> dict[str, float]:
    mean = x.mean(0)
    along = F.normalize(mean, dim=0)
    across = (x - mean) - ((x - mean) @ along)[:, None] * along
    parts = {"rms": x, "across_rms": across, "bf16_error_rms": x - x.bfloat16().float()}
    return {name: float(part.pow(2).mean().sqrt()) for name, part in parts.items()} | {"largest": float(x.abs().max())}


def others() -> Iterator[dict[str, Any]]:
    """The same question of the other weights in the box, with a detector's keypoints."""
    for weights in OTHER_WEIGHTS:
        model = load_model(checkpoint=weights)
        spec, skeleton = model.lifter.window, model.lifter.skeleton
        held_out = _detected("test", skeleton)
        source = WindowSource([sequence.inputs(spec.channels) for sequence in held_out], spec)
        targets = np.linspace(0, sum(map(len, held_out)) - 1, _OTHER_WINDOWS).astype(int)
        truth = np.concatenate([sequence.true_poses() for sequence in held_out])[targets]
        network = Network(weights, fuse(model), calibration_windows(_detected("train", skeleton), spec))
        windows, lifter = torch.from_numpy(source.gather(targets)), lifter_of(model)
        with torch.no_grad():
            motion = Motion(windows, truth, lifter(windows).numpy())
        for name, stream in (("bf16", "bf16"), ("bf16", "fp32"), ("fp16", "fp16")):
            rounding = as_kernels(_FULL[name], _FULL[stream])
            yield {"weights": weights, "network": name, "stream": stream} | motion.row(
                f"{weights}, {name}, stream {stream}",
                lambda piece, rounding=rounding, lifter=lifter: poses_of(lifter, piece, rounding),
            )
        for name in ("int8", "fp8"):
            yield {"weights": weights, "network": name, "stream": "fp16"} | motion.row(
                f"{weights}, {name}", lifter_of(network.emulated(name), torch.float16)
            )


def _detected(split: str, skeleton: str) -> tuple[PoseSequence, ...]:
    return load_sequences(split=split, keypoints="detected", skeleton=skeleton)


def measured() -> dict[str, Any]:
    """Everything, as plain values."""
    network, (windows, truth) = trained_network()
    lifter, keypoints = lifter_of(network.fused), torch.from_numpy(windows)
    with torch.no_grad():
        exact = torch.cat([network.fused(piece) for piece in keypoints.split(_BATCH)]).numpy()
    motion = Motion(keypoints, truth, exact)
    few = motion.thinned(_EVERY)
    return {
        "pstmo_edge": __version__, "commit": commit(), "torch": torch.__version__, "weights": network.name,
        "data": "cmu-mocap, test split, gt keypoints", "fp32_mpjpe_mm": _mpjpe(exact, truth),
        "places": list(places(lifter, few)), "streams": streams(lifter, few.windows),
        "whole": list(whole(network, lifter, motion)), "fp8": fp8_choice(network), "others": list(others()),
    }  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    out = parser.parse_args().out
    write_atomic(out, (json.dumps(measured(), indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
