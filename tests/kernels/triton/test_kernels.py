"""Every kernel through triton's interpreter, at awkward sizes, against its reference in float64."""

import pytest
import torch
from gpu_samples import (
    BYTES,
    CHANNELS,
    HALVES,
    HEADS,
    HIDDEN,
    INPUTS,
    Samples,
    assert_as_good_as_torch,
    error,
    poisoned,
)

from pstmo_edge.calib.emulation import Grid, IntegerLayer
from pstmo_edge.calib.formats import Fp8Layer
from pstmo_edge.calib.settings import Activations
from pstmo_edge.kernels.triton import launch, reference
from pstmo_edge.kernels.triton.lifter import stream_type
from pstmo_edge.kernels.triton.reference import Product, fp8_product, int8_product
from pstmo_edge.kernels.triton.tuning import Tiles


@pytest.mark.parametrize(
    ("windows", "tokens", "dtype"),
    [
        *((*size, torch.bfloat16) for size in [(1, 1), (5, 3), (7, 9), (3, 27), (2, 81), (1, 244)]),
        *((*size, torch.float32) for size in [(23, 3), (1, 80), (1, 351)]),
        (7, 9, torch.float16),
    ],
)
def test_attention(windows, tokens, dtype):
    qkv = Samples().normal(windows, tokens, 3 * CHANNELS, dtype=dtype)
    out = poisoned((windows, tokens, CHANNELS), dtype)
    # Blocks of 64 queries hold several short windows, or one, or a part of one.
    assert_as_good_as_torch(launch.attention, reference.attention, qkv, HEADS, out=out, tiles=Tiles(64, 128, 4, 2))


def test_attention_of_large_scores_does_not_overflow():
    """The largest score is subtracted: plain exponentials of these would be infinite."""
    qkv = Samples().normal(2, 27, 3 * CHANNELS, scale=20.0)
    assert_as_good_as_torch(
        launch.attention, reference.attention, qkv, HEADS, out=poisoned((2, 27, CHANNELS), qkv.dtype),
        tiles=Tiles(16, 16, 4, 2),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "columns", "dtype"),
    [(1, 192, torch.bfloat16), (33, 51, torch.float32), (33, 51, torch.bfloat16), (81, 192, torch.float16)],
)
def test_norm_linear(rows, columns, dtype):
    """Of tokens in the type of the residual stream, which is float32 where the products are bfloat16."""
    some = Samples()
    x, norm = some.normal(1, rows, CHANNELS, dtype=stream_type(dtype)), some.norm()
    product = some.product(columns, CHANNELS, dtype)
    for behind in (norm, None):
        assert_as_good_as_torch(
            launch.norm_linear, reference.norm_linear, x, behind, product, dtype,
            out=poisoned((1, rows, columns), dtype), tiles=Tiles(32, 64, 4, 2, span=128),
        )  # fmt: skip


def test_the_norm_of_tokens_far_from_zero():
    """The variance is that of what the mean was taken from: a difference of squares would lose it."""
    some = Samples()
    x = some.normal(1, 9, CHANNELS) + 300
    assert_as_good_as_torch(
        launch.norm_linear, reference.norm_linear, x, some.norm(), some.product(64, CHANNELS, torch.float32),
        torch.float32, out=poisoned((1, 9, 64), torch.float32), tiles=Tiles(16, 64, 4, 2, span=64),
    )  # fmt: skip


def test_the_norm_is_the_published_one():
    """Through a product that does nothing: a (x - mean) / (std + 1e-6) + b with the unbiased deviation."""
    from pstmo_edge.models.fused import _stock_norm
    from pstmo_edge.models.layers import LayerNorm

    some, published = Samples(), LayerNorm(CHANNELS)
    with torch.no_grad():
        published.a_2.copy_(some.norm()[0])
        published.b_2.copy_(some.norm()[1])
        stock = _stock_norm(published)
        x = some.normal(1, 33, CHANNELS, scale=3.0)
        product = Product(torch.eye(CHANNELS), torch.zeros(CHANNELS))
        norm = torch.stack([stock.weight, stock.bias])
        out = launch.norm_linear(x, norm, product, torch.float32, tiles=Tiles(64, 64, 4, 2))
        torch.testing.assert_close(out, published(x), rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("taps", "stride", "windows", "tokens", "dtype"),
    [
        (1, 1, 1, 33, torch.bfloat16), (1, 1, 4, 3, torch.float32), (3, 3, 13, 3, torch.bfloat16),
        (3, 3, 2, 27, torch.float16), (3, 1, 2, 9, torch.float32), (3, 9, 1, 117, torch.bfloat16),
        (3, 13, 2, 13, torch.float32),
    ],
)  # fmt: skip
def test_feed_forward(taps, stride, windows, tokens, dtype):
    some, stream = Samples(), stream_type(dtype)
    x, mixed = (some.normal(windows, tokens, CHANNELS, dtype=each) for each in (stream, dtype))
    sizes = ((CHANNELS, CHANNELS), (HIDDEN, CHANNELS), (CHANNELS, taps * HIDDEN))
    products = [some.product(*size, dtype) for size in sizes]
    position = None if stride == 9 else some.normal(tokens, CHANNELS)
    assert_as_good_as_torch(
        launch.feed_forward, reference.feed_forward, x, mixed, some.norm(), products, position, stride,
        out=poisoned((windows, -(-tokens // stride), CHANNELS), stream), tiles=Tiles(32, 64, 4, 2, chunk_0=32),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("windows", "frames", "dtype"), [(1, 1, torch.float32), (3, 27, torch.bfloat16), (1, 9, torch.float16)]
)
def test_spatial_encoder(windows, frames, dtype):
    some, stream = Samples(), stream_type(dtype)
    keypoints, position = some.normal(windows, frames, INPUTS, scale=0.3), some.normal(frames, CHANNELS)
    products = _encoder(some, dtype)
    assert_as_good_as_torch(
        launch.spatial_encoder, reference.spatial_encoder, keypoints, products, position, stream,
        out=poisoned((windows, frames, CHANNELS), stream), tiles=Tiles(32, 32, 4, 2),
    )  # fmt: skip


def _encoder(some, dtype):
    sizes = ((HIDDEN, HIDDEN), (HIDDEN, HIDDEN), (CHANNELS, HIDDEN))
    return [some.product(HIDDEN, INPUTS, torch.float32), *(some.product(*size, dtype) for size in sizes)]


# ---- 8 bits ----------------------------------------------------------------------------------------------------------


def test_an_int8_product_is_the_emulation_to_the_bit():
    some, grid = Samples(), Grid(6 / 255, 117, 0, 255)
    weight = torch.randint(-127, 128, (51, 256), generator=some.generator).to(torch.int8)
    scale, bias = some.normal(51).abs() / 100, some.normal(51)
    x = some.normal(1, 33, 256, scale=2.0)
    x[0, 0, :9] = (torch.arange(9) - 4.5) * torch.tensor(grid.scale)  # ties
    x[0, 1, :4] = torch.tensor([1e9, -1e9, 3.3, -2.8])  # far beyond the grid, and just
    expected = IntegerLayer(weight, scale, bias, Activations(), grid)(x)
    product = int8_product(weight, scale, bias, grid.scale, grid.zero_point)
    out = launch.norm_linear(
        x, None, product, torch.float32, poisoned(expected.shape, x.dtype), Tiles(32, 32, 4, 2, span=64)
    )
    assert torch.equal(out, expected)
    assert torch.equal(reference.norm_linear(x, None, product, torch.float32), expected)


def test_the_largest_int8_sums_are_exact():
    """Every input and weight at its extreme: far beyond what float32 would add exactly."""
    weight, x = torch.full((32, 1024), -127, dtype=torch.int8), torch.full((1, 1, 1024), 1e9)
    product = int8_product(weight, torch.ones(32), torch.zeros(32), 1.0, 0)
    out = launch.norm_linear(x, None, product, torch.float32, tiles=Tiles(16, 32, 4, 2, span=32))
    assert (out == -127.0 * 255 * 1024).all()


def test_fp8_rounds_as_the_emulation():
    """Through weights that do nothing: subnormals, ties to even mantissas, saturation."""
    inner = 64
    x = torch.cat([torch.linspace(-500, 500, 40), 2.0 ** torch.arange(-12, 12)]).reshape(1, 1, inner)
    ties = torch.tensor([1.0625, 1.1875, -1.3125, 3 * 2.0**-10, 2.0**-10, 5 * 2.0**-10, 17.0, 464.0])
    x[0, 0, : len(ties)] = ties
    eye, one, zero = torch.eye(inner), torch.ones(inner), torch.zeros(inner)
    out = launch.norm_linear(
        x, None, fp8_product(eye, one, zero, 1.0), torch.float32, poisoned(x.shape, x.dtype),
        Tiles(16, 32, 4, 2, span=64),
    )  # fmt: skip
    assert torch.equal(out, Fp8Layer(eye, one, 1.0, zero)(x))


@pytest.mark.parametrize(
    ("kind", "dtype"), [(BYTES[0], torch.float32), (BYTES[1], torch.float32), (BYTES[0], torch.float16)]
)
def test_quantized_ops(kind, dtype):
    """float32 between the products of an op, so codes are the reference's and what is left is the output's rounding."""
    some, limit = Samples(), max(1e-6, torch.finfo(dtype).eps)
    x, mixed = (some.normal(3, 9, CHANNELS, dtype=dtype) for _ in range(2))
    norm, position = some.norm(), some.normal(9, CHANNELS)
    product = some.product(192, CHANNELS, kind)
    out = launch.norm_linear(x, norm, product, dtype)
    assert error(out, reference.norm_linear(x, norm, product, dtype).double()) < limit
    for taps in (1, 3):
        sizes = ((CHANNELS, CHANNELS), (HIDDEN, CHANNELS), (CHANNELS, taps * HIDDEN))
        operands = (x, mixed, norm, [some.product(*size, kind) for size in sizes], position, taps)
        out = launch.feed_forward(*operands, out=poisoned((3, 9 // taps, CHANNELS), dtype))
        assert error(out, reference.feed_forward(*operands).double()) < limit
    operands = (some.normal(3, 9, INPUTS, scale=0.3), _encoder(some, kind), position, dtype)
    out = launch.spatial_encoder(*operands, out=poisoned((3, 9, CHANNELS), dtype))
    assert error(out, reference.spatial_encoder(*operands).double()) < limit


def test_some_products_of_an_op_may_be_quantized():
    some = Samples()
    x, mixed = (some.normal(2, 9, CHANNELS) for _ in range(2))
    kinds = (torch.float32, torch.int8, torch.float8_e4m3fn)
    sizes = ((CHANNELS, CHANNELS), (HIDDEN, CHANNELS), (CHANNELS, HIDDEN))
    operands = (x, mixed, some.norm(), [some.product(*s, k) for s, k in zip(sizes, kinds, strict=True)], None, 1)
    assert error(launch.feed_forward(*operands), reference.feed_forward(*operands).double()) < 1e-6


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_a_batch_beyond_32_bit_offsets_is_refused():
    huge = torch.empty(1, device="cpu").expand(12000, 243, 768)
    with pytest.raises(ValueError, match="lift at most 2796202 tokens at once"):
        launch.attention(huge, 8)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_grid_belongs_to_quantized_weights(dtype):
    with pytest.raises(ValueError, match="have no grid"):
        Product(torch.zeros(4, 4, dtype=dtype), torch.zeros(4), torch.zeros(12))
    with pytest.raises(ValueError, match="need a grid"):
        Product(torch.zeros(4, 4, dtype=torch.int8), torch.zeros(4))
