"""Whether the kernels and the engine are right on this GPU: nothing is timed that was not checked here first.

Outputs start as NaN, operands are random, sizes are odd, and every kernel runs with the tiles for few and for many
tokens, twice: a difference between two runs on the same operands is a race.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pstmo_edge.kernels.triton import launch, reference, tuning
from pstmo_edge.kernels.triton.cost import CHANNELS, HIDDEN, INPUTS, OUTPUTS
from pstmo_edge.kernels.triton.lifter import stream_type
from pstmo_edge.kernels.triton.reference import Product, fp8_product, int8_product

HEADS = 8
WEIGHTS = {
    "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16,
    "int8": torch.int8, "fp8": torch.float8_e4m3fn,
}  # fmt: skip
# Between kernels; `lifter.stream_type` says what the residual stream is in beside them.
TOKENS = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.float16,
    "fp8": torch.float16,
}


@dataclass(frozen=True)
class Check:
    """One kernel on one size: its error from float64, that of plain torch in the same types, and what is allowed."""

    what: str
    precision: str
    size: str
    tiles: str
    error: float
    plain_error: float
    limit: float
    repeatable: bool
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether it may be timed."""
        return self.repeatable and self.error <= self.limit

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"passed": self.passed}


@dataclass
class Operands:
    """Random operands on a device; the same seed gives the same ones."""

    device: torch.device
    seed: int = 0

    def __post_init__(self) -> None:
        self.generator = torch.Generator(self.device).manual_seed(self.seed)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
        """Gaussian values."""
        return (torch.randn(*shape, generator=self.generator, device=self.device) * scale).to(dtype)

    def norm(self, channels: int) -> Tensor:
        """Gain and shift of a LayerNorm."""
        return torch.stack([1 + self.normal(channels, scale=0.1), self.normal(channels, scale=0.1)])

    def product(self, outputs: int, inputs: int, precision: str) -> Product:
        """Weights of a product, quantized with made-up scales where the precision asks for it."""
        weight, bias = self.normal(outputs, inputs) / inputs**0.5, self.normal(outputs, scale=0.1)
        largest = weight.abs().amax(1)
        # The helpers build their grids on a CPU, as a build does.
        if precision == "int8":
            codes = torch.round(weight / (largest / 127)[:, None]).to(torch.int8)
            made = int8_product(codes.cpu(), largest.cpu() / 127, bias.cpu(), 6 / 255, 117)
        elif precision == "fp8":
            made = fp8_product((weight / (largest / 448)[:, None]).cpu(), largest.cpu() / 448, bias.cpu(), 4 / 448)
        else:
            return Product(weight.to(WEIGHTS[precision]), bias)
        grid = made.grid
        assert grid is not None
        return Product(made.weight.to(self.device), bias, grid.to(self.device))


@dataclass(frozen=True)
class Sizes:
    """Dimensions and (windows, tokens) to check; a dry run takes small ones."""

    channels: int = CHANNELS
    hidden: int = HIDDEN
    heads: int = HEADS
    windows: tuple[tuple[int, int], ...] = (
        (1, 1),
        (7, 3),
        (5, 9),
        (3, 27),
        (2, 80),
        (3, 81),
        (3, 243),
        (1, 244),
        (2, 351),
    )
    strides: tuple[tuple[int, int, int], ...] = (
        (3, 5, 3),
        (3, 4, 81),
        (3, 2, 243),
        (1, 3, 9),
        (9, 2, 117),
        (13, 3, 13),
    )


SMALL = Sizes(64, 128, 2, ((2, 9),), ((3, 2, 9),))


def check_ops(device: torch.device, precision: str, sizes: Sizes, capability: int) -> Iterator[Check]:
    """Every kernel of a precision that `tuning` has tiles for."""
    some = Operands(device)
    weights, tokens = WEIGHTS[precision], TOKENS[precision]
    stream = stream_type(tokens)
    kind = tuning.CLASSES[weights]
    channels, hidden = sizes.channels, sizes.hidden

    def run(
        name: str, size: str, kernel: Callable[..., Tensor], plain: Callable[..., Tensor], operands: tuple[Any, ...],
        shape: tuple[int, ...], out: torch.dtype, line: tuple[str, str] | None = None,
    ) -> Iterator[Check]:  # fmt: skip
        choice = tuning.choice(*(line or (name, kind)), capability)
        for label, tiles in () if choice is None else (("few", choice.few), ("many", choice.many)):
            try:
                yield _check(name, precision, size, label, kernel, plain, operands, shape, out, tiles)
            except Exception as error:  # a kernel that does not compile or launch fails its check, and the others go on
                yield failed(name, precision, size, error)

    for windows, length in sizes.windows:
        size = f"{windows}x{length}"
        x = some.normal(windows, length, channels, dtype=stream)
        if precision not in ("int8", "fp8"):
            qkv = some.normal(windows, length, 3 * channels, dtype=tokens)
            yield from run("attention", size, launch.attention, reference.attention, (qkv, sizes.heads),
                           (windows, length, channels), tokens)  # fmt: skip
            head = (x, None, some.product(OUTPUTS, channels, "fp32"), torch.float32)
            yield from run("head", size, launch.norm_linear, reference.norm_linear, head, (windows, length, OUTPUTS),
                           torch.float32, ("head", "single"))  # fmt: skip
        qkv_of = (x, some.norm(channels), some.product(3 * channels, channels, precision), tokens)
        yield from run("norm_linear", size, launch.norm_linear, reference.norm_linear, qkv_of,
                       (windows, length, 3 * channels), tokens)  # fmt: skip
        encoder = [some.product(hidden, INPUTS, "fp32"), *(
            some.product(outputs, hidden, precision) for outputs in (hidden, hidden, channels)
        )]  # fmt: skip
        keypoints, position = some.normal(windows, length, INPUTS, scale=0.3), some.normal(length, channels)
        yield from run("spatial_encoder", size, launch.spatial_encoder, reference.spatial_encoder,
                       (keypoints, encoder, position, stream), (windows, length, channels), stream)  # fmt: skip
        plain = [
            some.product(o, i, precision) for o, i in ((channels, channels), (hidden, channels), (channels, hidden))
        ]
        yield from run("feed_forward_1", size, launch.feed_forward, reference.feed_forward,
                       (x, some.normal(*x.shape, dtype=tokens), some.norm(channels), plain, position, 1),
                       (windows, length, channels), stream)  # fmt: skip
    for stride, windows, length in sizes.strides:
        x, mixed = (some.normal(windows, length, channels, dtype=each) for each in (stream, tokens))
        strided = [
            some.product(o, i, precision) for o, i in ((channels, channels), (hidden, channels), (channels, 3 * hidden))
        ]
        yield from run("feed_forward_3", f"{windows}x{length} stride {stride}", launch.feed_forward,
                       reference.feed_forward, (x, mixed, some.norm(channels), strided, None, stride),
                       (windows, -(-length // stride), channels), stream)  # fmt: skip


def _check(
    name: str, precision: str, size: str, label: str, kernel: Callable[..., Tensor], plain: Callable[..., Tensor],
    operands: tuple[Any, ...], shape: tuple[int, ...], dtype: torch.dtype, tiles: tuning.Tiles,
) -> Check:  # fmt: skip
    truth = plain(*exact(operands)).double()
    baseline = error(plain(*operands), truth)
    outs = [torch.full(shape, float("nan"), dtype=dtype, device=truth.device) for _ in range(2)]
    for out in outs:
        kernel(*operands, out=out, tiles=tiles)
    # A code of 8 bits may differ by one where sums were added in another order: the output's own rounding covers that.
    quantized = torch.finfo(dtype).eps if precision in ("int8", "fp8") else 0.0
    limit = max(2 * baseline, quantized, 1e-6)
    return Check(name, precision, size, label, error(outs[0], truth), baseline, limit, torch.equal(*outs))


def failed(what: str, precision: str, size: str, error: Exception) -> Check:
    """The check of what raised."""
    note = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
    return Check(what, precision, size, "", math.inf, 0.0, 0.0, False, note)


def exact(value: Any) -> Any:
    """Float operands in float64; quantized ones as they are, since they are part of what is computed."""
    if isinstance(value, Product):
        return value if value.grid is not None else Product(value.weight.double(), value.bias.double())
    if isinstance(value, list | tuple):
        return type(value)(map(exact, value))
    if isinstance(value, Tensor):
        return value.double()
    return torch.float64 if isinstance(value, torch.dtype) else value


def error(found: Tensor, truth: Tensor) -> float:
    """Relative, over all elements; NaN, which passes no limit, where one was not written."""
    return float((found.double() - truth).norm() / truth.norm())


def check_network(
    name: str, precision: str, run: Callable[[Tensor], Tensor], plain: Sequence[Callable[[Tensor], Tensor]],
    truth: Callable[[Tensor], Tensor], batches: Sequence[int], frames: int, device: torch.device,
) -> Iterator[Check]:  # fmt: skip
    """The whole network as it is deployed, against the fused model in float64.

    Twice the errors of `plain` together pass: torch in the type of the tokens and, of a quantized network, its
    emulation. `run` fills what it returns with NaN first.
    """
    some = Operands(device, 1)
    for batch in batches:
        keypoints = some.normal(batch, frames, 17, 2, scale=0.3)
        with torch.no_grad():
            expected = truth(keypoints).double()
            baseline = sum(error(other(keypoints), expected) for other in plain)
            first, second = run(keypoints).clone(), run(keypoints).clone()
        yield Check(
            name, precision, f"batch {batch}", "graph", error(first, expected), baseline, max(2 * baseline, 1e-6),
            torch.equal(first, second),
        )  # fmt: skip
