"""Launch plans: what an engine without Python must know to run a lifter's kernels through the driver.

A plan is JSON. It names device buffers with their bytes a window, compiled kernels with their threads and shared
memory, and launches in order: which kernel, how many programs, which arguments. Every number that depends on the batch
is written as [fixed, by window]; a grid's axis as [fixed, by window, things of a program]. Kernels for few and for many
tokens stand side by side; the engine takes those for few where a launch has fewer than `few_below` tokens for every
multiprocessor, as `tuning` does. kernels/cuda/plan.h is the reader.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch import Tensor

from pstmo_edge.errors import BackendError
from pstmo_edge.kernels.triton import launch, tuning
from pstmo_edge.kernels.triton.lifter import KernelLifter
from pstmo_edge.kernels.triton.reference import Product

SCHEMA = 1
_TYPES = {
    torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int8: "i8",
    torch.float8_e4m3fn: "fp8e4nv",
}  # fmt: skip
_JOINTS = 17


@dataclass(frozen=True)
class Compiled:
    """A kernel for one chip: its cubin, the name in it, and what a launch must ask for."""

    cubin: bytes
    entry: str
    threads: int
    shared_bytes: int


@dataclass(frozen=True)
class Source:
    """A kernel to compile: the types of its arguments in order, what is fixed, its tiles."""

    kernel: str
    types: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    tiles: tuning.Tiles


Compiler = Callable[[Source], Compiled]


@dataclass
class _Step:
    """One launch for few tokens and for many, at one batch."""

    few: launch.Call
    many: launch.Call
    tokens: int


@dataclass
class _Walk:
    """A lifter's launches at one batch, with the tensors that stand for its buffers."""

    lifter: KernelLifter
    frames: int
    batch: int
    capability: int
    steps: list[_Step] = field(default_factory=list)
    buffers: dict[str, int] = field(default_factory=dict)  # bytes
    names: dict[int, tuple[str, str]] = field(default_factory=dict)  # by id(tensor)
    kept: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        lifter, dtype = self.lifter, self.lifter.stream
        self.names = {id(tensor): ("weight", name) for name, tensor in lifter.named_buffers()}
        encoder = [Product(*each.parts) for each in lifter.encoder]
        channels, tokens = len(encoder[-1].weight), self.frames
        keypoints = self._buffer("keypoints", (tokens, 2 * _JOINTS), torch.float32)
        x = self._buffer("tokens_0", (tokens, channels), dtype)
        self._add(
            "spatial_encoder", launch.narrowest(encoder), self.batch * tokens,
            lambda tiles: launch.spatial_encoder_call(keypoints, encoder, lifter.position, x, tiles),
        )  # fmt: skip
        for i, layer in enumerate(lifter.layers):
            kept = -(-tokens // layer.stride)
            x = self._layer(layer, x, tokens, self._buffer(f"tokens_{(i + 1) % 2}", (kept, channels), dtype))
            tokens = kept
        head = Product(*lifter.head.parts)
        poses = self._buffer("poses", (tokens, len(head.weight)), torch.float32)
        self._add(
            "head", head.weight.dtype, self.batch * tokens,
            lambda tiles: launch.norm_linear_call(x, None, head, poses, tiles),
        )  # fmt: skip

    def _layer(self, layer: Any, x: Tensor, tokens: int, out: Tensor) -> Tensor:
        channels, rows = x.shape[-1], self.batch * tokens
        qkv, products = Product(*layer.qkv.parts), [Product(*each.parts) for each in layer.products]
        gathered = self._buffer("qkv", (tokens, 3 * channels), self.lifter.dtype)
        mixed = self._buffer("mixed", (tokens, channels), self.lifter.dtype)
        self._add(
            "norm_linear", qkv.weight.dtype, rows,
            lambda tiles: launch.norm_linear_call(x, layer.norm_1, qkv, gathered, tiles),
        )  # fmt: skip
        self._add(
            "attention", gathered.dtype, rows,
            lambda tiles: launch.attention_call(gathered, layer.heads, mixed, tiles),
        )  # fmt: skip
        taps = products[2].weight.shape[1] // len(products[1].weight)
        self._add(
            f"feed_forward_{taps}", launch.narrowest(products), self.batch * out.shape[1],
            lambda tiles: launch.feed_forward_call(
                x, mixed, layer.norm_2, products, layer.position, layer.stride, out, tiles
            ),
        )  # fmt: skip
        return out

    def _add(self, name: str, dtype: torch.dtype, tokens: int, call: Callable[[tuning.Tiles], launch.Call]) -> None:
        choice = tuning.choice(name, tuning.CLASSES[dtype], self.capability)
        if choice is None:
            raise BackendError(f"no kernel of {name} in {dtype} fits sm_{self.capability}: build in another precision")
        self.steps.append(_Step(call(choice.few), call(choice.many), tokens))

    def _buffer(self, name: str, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        tensor = torch.empty((self.batch, *shape), dtype=dtype, device="meta")
        self.buffers[name] = max(self.buffers.get(name, 0), tensor.numel() * dtype.itemsize)
        self.names[id(tensor)] = ("buffer", name)
        self.kept.append(tensor)  # while it lives no other tensor has its id
        return tensor


def plan_of(lifter: KernelLifter, frames: int, capability: int, compile_source: Compiler) -> tuple[dict[str, Any], Any]:
    """The plan of a lifter (on the CPU) for a chip, and its cubins by the names in the plan.

    Every distinct kernel is given to `compile_source` once. Raises BackendError where a kernel does not fit the chip.
    """
    one, two = (_Walk(lifter, frames, batch, capability) for batch in (1, 2))
    kernels: dict[Source, tuple[str, Compiled]] = {}
    launches = []
    for first, second in zip(one.steps, two.steps, strict=True):
        row: dict[str, Any] = {"tokens": first.tokens, "arguments": _arguments(one, first.few, second.few)}
        for regime in ("few", "many"):
            call, next_call = getattr(first, regime), getattr(second, regime)
            source = _source(call)
            if source not in kernels:
                kernels[source] = (f"{call.kernel}_{len(kernels)}", compile_source(source))
            grid = [[*_count(a, b), each] for (a, each), (b, _) in zip(call.grid, next_call.grid, strict=True)]
            row[regime] = {"kernel": kernels[source][0], "grid": grid}
        launches.append(row)
    widest = max(bytes_of // lifter.dtype.itemsize for bytes_of in one.buffers.values())
    document = {
        "schema": SCHEMA, "chip": f"sm_{capability}", "frames": frames, "few_below": tuning.TOKENS_OF_A_MULTIPROCESSOR,
        "most_windows": launch.MOST_ELEMENTS // widest, "precisions": lifter.precisions, "buffers": one.buffers,
        "kernels": {
            name: {"entry": made.entry, "threads": made.threads, "shared_bytes": made.shared_bytes}
            for name, made in kernels.values()
        },
        "launches": launches,
    }  # fmt: skip
    return document, {name: made.cubin for name, made in kernels.values()}


def _source(call: launch.Call) -> Source:
    return Source(call.kernel, tuple(_types(call)), tuple(sorted(call.constants.items())), call.tiles)


def _types(call: launch.Call) -> Any:
    for name, value in call.arguments.items():
        if isinstance(value, Tensor):
            yield name, f"*{_TYPES[value.dtype]}"
        elif value is not None:  # what is None is compiled away
            yield name, "fp32" if isinstance(value, float) else "i32"


def _arguments(walk: _Walk, call: launch.Call, next_call: launch.Call) -> list[list[Any]]:
    found: list[list[Any]] = []
    for value, next_value in zip(call.arguments.values(), next_call.arguments.values(), strict=True):
        if isinstance(value, Tensor):
            found.append(list(walk.names[id(value)]))
        elif isinstance(value, float):
            found.append(["float", value])
        elif value is not None:
            found.append(["count", *_count(value, next_value)])
    return [*found, ["null"], ["null"]]  # triton's scratch memory, of which these kernels use none


def _count(at_one: int, at_two: int) -> tuple[int, int]:
    """A number that grows evenly with the batch, as (fixed, by window)."""
    return 2 * at_one - at_two, at_two - at_one


def compiler_for(capability: int) -> Compiler:
    """Triton's own, ahead of time; raises BackendError where a kernel does not fit the chip."""
    from pstmo_edge.kernels.triton import aot

    def compile_source(source: Source) -> Compiled:
        variant = aot.Variant(source.kernel, source.kernel, "", dict(source.types), dict(source.constants))
        compiled, row = aot.compile_variant(variant, capability, source.tiles)
        faults = aot.faults(row, capability, source.tiles.warps)
        if faults:
            raise BackendError(f"{source.kernel} for sm_{capability} {'; '.join(faults)}: change triton's version")
        made = compiled.metadata
        declared = aot.parameters(compiled.asm["ptx"])
        expected = [_PTX_TYPES.get(name, "u64") for _, name in source.types] + ["u64", "u64"]
        if declared != expected or made.global_scratch_size or made.profile_scratch_size or made.num_ctas != 1:
            raise BackendError(
                f"triton {triton.__version__} launches {source.kernel} in a way that plans do not know: "
                f"it takes {', '.join(declared)}; install the version that pyproject.toml names"
            )
        return Compiled(compiled.asm["cubin"], made.name, 32 * source.tiles.warps, made.shared)

    return compile_source


_PTX_TYPES = {"i32": "u32", "fp32": "f32"}
