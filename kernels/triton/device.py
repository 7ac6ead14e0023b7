"""The kernels. What each computes is the function of the same name in `reference`; only the way there is told here.

Weights are (out, in) and row-major, as torch keeps them, so both operands of a product lie along its inner dimension,
which int8 and fp8 units ask for. A product is computed in the type of its weights: with int8 or fp8 ones its input is
quantized in the epilogue of what came before, and its sums are 32-bit. Everything between products is float32 and
stays on the chip.

Sizes that change from call to call are not specialized: one compiled kernel serves them all.

The triton interpreter runs the same source on a CPU (TRITON_INTERPRET=1, set before this module is imported).
"""

import os

import triton
import triton.language as tl

# The interpreter multiplies bfloat16 as the integers that it keeps it in, and rounds towards zero: `_dot` and
# `_narrowed` do there by hand what the hardware does.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") == "1")
# Added to a float32 below 2**22 in size, this leaves no bits for a fraction: it rounds, ties to even.
ROUNDER = tl.constexpr(12582912.0)
LOG2_E = tl.constexpr(1.4426950408889634)
GRID_HEADER = tl.constexpr(4)  # a quantized layer's grid: see `reference.Grid`
LARGEST_E4M3 = tl.constexpr(448.0)
LEAST_SCORE = tl.constexpr(-1.0e30)


@triton.jit
def _sums(w_ptr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Zeroed accumulators of a product with these weights."""
    if w_ptr.dtype.element_ty == tl.int8:
        return tl.zeros((ROWS, COLUMNS), tl.int32)
    else:
        return tl.zeros((ROWS, COLUMNS), tl.float32)


@triton.jit
def _dot(a, b, acc):
    if INTERPRETED and a.dtype == tl.bfloat16:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="tf32x3", out_dtype=acc.dtype)


@triton.jit
def _narrowed(x, element: tl.constexpr):
    """Floats as another type of floats, ties to even."""
    if INTERPRETED and element == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        x = (bits + 32767 + ((bits >> 16) & 1)).to(tl.float32, bitcast=True)
    elif INTERPRETED and element == tl.float8e4nv:
        bits = x.to(tl.uint32, bitcast=True)
        normal = ((bits + 524287 + ((bits >> 20) & 1)) & 0xFFF00000).to(tl.float32, bitcast=True)
        x = tl.where(tl.abs(x) < 2.0**-6, (x + ROUNDER / 512.0) - ROUNDER / 512.0, normal)
    return x.to(element)


@triton.jit
def _operand(x, w_ptr, grid_ptr):
    """Floats as the left operand of a product with these weights."""
    element: tl.constexpr = w_ptr.dtype.element_ty
    if element == tl.int8:
        scale = tl.load(grid_ptr)
        zero = tl.load(grid_ptr + 1)
        centred = tl.minimum(tl.maximum(tl.div_rn(x, scale), -zero), 255.0 - zero)
        # 0 .. 255 become -128 .. 127; the grid's offsets take that and the zero point out of the sums again.
        return ((centred + ROUNDER) - ROUNDER + (zero - 128.0)).to(tl.int8)
    elif element == tl.float8e4nv:
        scaled = tl.div_rn(x, tl.load(grid_ptr))
        return _narrowed(tl.minimum(tl.maximum(scaled, -LARGEST_E4M3), LARGEST_E4M3), tl.float8e4nv)
    else:
        return _narrowed(x, element)


@triton.jit
def _finished(acc, w_ptr, bias_ptr, grid_ptr, n, COLUMNS: tl.constexpr):
    """Sums of the output columns `n` as floats, with the bias."""
    here = n < COLUMNS
    bias = tl.load(bias_ptr + n, mask=here, other=0.0)
    element: tl.constexpr = w_ptr.dtype.element_ty
    if element == tl.int8:
        offset = tl.load(grid_ptr + GRID_HEADER + COLUMNS + n, mask=here, other=0.0).to(tl.int32, bitcast=True)
        acc = acc - offset[None, :]
    y = acc.to(tl.float32)
    if element == tl.int8 or element == tl.float8e4nv:
        y = y * tl.load(grid_ptr + GRID_HEADER + n, mask=here, other=0.0)[None, :]
    return y + bias[None, :]


@triton.jit
def _weights(w_ptr, n, k, COLUMNS: tl.constexpr, INNER: tl.constexpr):
    """The weights of output columns `n` and inner places `k` as a right operand, (k, n)."""
    return tl.load(w_ptr + n[None, :] * INNER + k[:, None], mask=(n < COLUMNS)[None, :], other=0.0)


@triton.jit
def _normed(x, norm_ptr, c, eps, CHANNELS: tl.constexpr):
    centred = x - (tl.sum(x, 1) / CHANNELS)[:, None]
    variance = tl.sum(centred * centred, 1) / CHANNELS
    scaled = centred * tl.rsqrt(variance + eps)[:, None]
    return scaled * tl.load(norm_ptr + c)[None, :] + tl.load(norm_ptr + CHANNELS + c)[None, :]


@triton.jit
def _leaky(x):
    return tl.where(x > 0, x, 0.2 * x)


@triton.jit(do_not_specialize=["rows", "frames"])
def spatial_encoder(
    x_ptr, w1_ptr, b1_ptr, w2_ptr, b2_ptr, g2_ptr, w3_ptr, b3_ptr, g3_ptr, w4_ptr, b4_ptr, g4_ptr, position_ptr,
    out_ptr, rows, frames,
    INPUTS: tl.constexpr, HIDDEN: tl.constexpr, CHANNELS: tl.constexpr, BLOCK_M: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """One program for BLOCK_M frames: the hidden layer of a frame never leaves the chip."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = m < rows
    wide = tl.arange(0, HIDDEN)
    acc = tl.zeros((BLOCK_M, HIDDEN), tl.float32)
    for k0 in range(0, INPUTS, 16):  # 34 inputs cost 48, not the 64 that one product would be padded to
        k = k0 + tl.arange(0, 16)
        x = tl.load(x_ptr + m[:, None] * INPUTS + k[None, :], mask=inside[:, None] & (k < INPUTS)[None, :], other=0.0)
        w = tl.load(w1_ptr + wide[None, :] * INPUTS + k[:, None], mask=(k < INPUTS)[:, None], other=0.0)
        acc = _dot(x.to(w1_ptr.dtype.element_ty), w, acc)
    first = _leaky(acc + tl.load(b1_ptr + wide)[None, :])
    operand = _operand(first, w2_ptr, g2_ptr)
    kept = _narrowed(first, out_ptr.dtype.element_ty)  # what the residual adds, in half the registers
    third = _sums(w3_ptr, BLOCK_M, HIDDEN)
    for n0 in range(0, HIDDEN, CHUNK):  # a slice of the second layer is at once the inner dimension of the third
        n = n0 + tl.arange(0, CHUNK)
        second = _dot(operand, _weights(w2_ptr, n, wide, HIDDEN, HIDDEN), _sums(w2_ptr, BLOCK_M, CHUNK))
        second = _leaky(_finished(second, w2_ptr, b2_ptr, g2_ptr, n, HIDDEN))
        third = _dot(_operand(second, w3_ptr, g3_ptr), _weights(w3_ptr, wide, n, HIDDEN, HIDDEN), third)
    block = _leaky(_finished(third, w3_ptr, b3_ptr, g3_ptr, wide, HIDDEN)) + kept.to(tl.float32)
    operand = _operand(block, w4_ptr, g4_ptr)
    for n0 in range(0, CHANNELS, CHUNK):
        n = n0 + tl.arange(0, CHUNK)
        y = _dot(operand, _weights(w4_ptr, n, wide, CHANNELS, HIDDEN), _sums(w4_ptr, BLOCK_M, CHUNK))
        y = _finished(y, w4_ptr, b4_ptr, g4_ptr, n, CHANNELS)
        y += tl.load(position_ptr + (m % frames)[:, None] * CHANNELS + n[None, :], mask=inside[:, None], other=0.0)
        tl.store(
            out_ptr + m[:, None] * CHANNELS + n[None, :], _narrowed(y, out_ptr.dtype.element_ty), mask=inside[:, None]
        )


@triton.jit(do_not_specialize=["rows"])
def norm_linear(
    x_ptr, norm_ptr, w_ptr, b_ptr, g_ptr, out_ptr, rows, eps,
    CHANNELS: tl.constexpr, COLUMNS: tl.constexpr, NORM: tl.constexpr, SPAN: tl.constexpr,
    BLOCK_M: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """One program for BLOCK_M rows and SPAN output columns, CHUNK of them at a time.

    A small SPAN gives a single window enough programs, a large one reads and norms the rows fewer times.
    """
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = m < rows
    c = tl.arange(0, CHANNELS)
    x = tl.load(x_ptr + m[:, None] * CHANNELS + c[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
    if NORM:
        x = _normed(x, norm_ptr, c, eps, CHANNELS)
    operand = _operand(x, w_ptr, g_ptr)
    for n0 in range(0, SPAN, CHUNK):
        n = tl.program_id(1) * SPAN + n0 + tl.arange(0, CHUNK)
        y = _dot(operand, _weights(w_ptr, n, c, COLUMNS, CHANNELS), _sums(w_ptr, BLOCK_M, CHUNK))
        y = _narrowed(_finished(y, w_ptr, b_ptr, g_ptr, n, COLUMNS), out_ptr.dtype.element_ty)
        here = inside[:, None] & (n < COLUMNS)[None, :]
        tl.store(out_ptr + m[:, None] * COLUMNS + n[None, :], y, mask=here)


@triton.jit(do_not_specialize=["windows", "tokens"])
def attention(
    qkv_ptr, out_ptr, windows, tokens,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, PACKED: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    PACK: tl.constexpr,
):  # fmt: skip
    """One program for one head and BLOCK_Q queries of a window, or of PACK whole windows where they are short.

    Scores exist for one block of keys at a time; the softmax is rescaled as larger ones appear (Milakov and
    Gimelshein, "Online normalizer calculation for softmax", 2018).
    """
    channels: tl.constexpr = HEADS * WIDTH
    group = tl.program_id(0)
    head = tl.program_id(2)
    length = tl.minimum(windows - group * PACK, PACK) * tokens
    base = qkv_ptr + group * PACK * tokens * 3 * channels + head * WIDTH
    q = tl.program_id(1) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    w = tl.arange(0, WIDTH)
    query = tl.load(base + q[:, None] * 3 * channels + w[None, :], mask=(q < length)[:, None], other=0.0)
    highest = tl.full((BLOCK_Q,), LEAST_SCORE, tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    mixed = tl.zeros((BLOCK_Q, WIDTH), tl.float32)
    for k0 in range(0, length, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        inside = k < length
        key = tl.load(base + channels + k[None, :] * 3 * channels + w[:, None], mask=inside[None, :], other=0.0)
        scores = _dot(query, key, tl.zeros((BLOCK_Q, BLOCK_K), tl.float32)) * LOG2_E
        allowed = inside[None, :]
        if PACKED:
            allowed = allowed & ((q // tokens)[:, None] == (k // tokens)[None, :])
        scores = tl.where(allowed, scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        shares = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(highest - higher)
        total = total * shrink + tl.sum(shares, 1)
        value = tl.load(base + 2 * channels + k[:, None] * 3 * channels + w[None, :], mask=inside[:, None], other=0.0)
        mixed = _dot(_narrowed(shares, value.dtype), value, mixed * shrink[:, None])
        highest = higher
    mixed = mixed / tl.maximum(total, 1.0)[:, None]  # the largest share is 1: only rows that are not stored have less
    out = _narrowed(mixed, out_ptr.dtype.element_ty)
    row = group * PACK * tokens + q
    tl.store(out_ptr + row[:, None] * channels + head * WIDTH + w[None, :], out, mask=(q < length)[:, None])


@triton.jit(do_not_specialize=["rows", "tokens", "kept", "stride"])
def feed_forward(
    x_ptr, mixed_ptr, w0_ptr, b0_ptr, g0_ptr, norm_ptr, w1_ptr, b1_ptr, g1_ptr, w2_ptr, b2_ptr, g2_ptr, position_ptr,
    out_ptr, rows, tokens, kept, stride, eps,
    CHANNELS: tl.constexpr, HIDDEN: tl.constexpr, TAPS: tl.constexpr, BLOCK_M: tl.constexpr, CHUNK: tl.constexpr,
    CHUNK_0: tl.constexpr,
):  # fmt: skip
    """One program for BLOCK_M output tokens; a token's hidden layer exists in slices of CHUNK, on the chip.

    With three taps each output token reads its three input tokens, whose projections, norms and hidden layers are
    computed for it alone. At stride 3 no input token has two readers; at strides 9 and 13 most have none and cost
    nothing; at stride 1 (only 9-frame windows, one layer) they are computed three times.
    """
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    window = row // kept
    place = row % kept
    c = tl.arange(0, CHANNELS)
    acc = _sums(w2_ptr, BLOCK_M, CHANNELS)
    plain: tl.constexpr = g2_ptr is None
    residual = tl.zeros((BLOCK_M, CHANNELS), out_ptr.dtype.element_ty)
    for step in range(TAPS):
        tap = (step + 1 + TAPS // 2) % TAPS  # the middle one, whose token is the residual, comes last
        token = place * stride + tap - TAPS // 2
        inside = (row < rows) & (token >= 0) & (token < tokens)
        source = (window * tokens + token)[:, None] * CHANNELS
        projected = _sums(w0_ptr, BLOCK_M, CHANNELS)
        for k0 in range(0, CHANNELS, CHUNK_0):
            k = k0 + tl.arange(0, CHUNK_0)
            mixed = tl.load(mixed_ptr + source + k[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
            weights = _weights(w0_ptr, c, k, CHANNELS, CHANNELS)
            projected = _dot(_operand(mixed, w0_ptr, g0_ptr), weights, projected)
        x = tl.load(x_ptr + source + c[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
        x += _finished(projected, w0_ptr, b0_ptr, g0_ptr, c, CHANNELS)
        if plain:  # the residual waits in the sums and needs no registers
            acc += tl.where(step == TAPS - 1, x, 0.0)
        else:
            residual = _narrowed(x, out_ptr.dtype.element_ty)  # that of the last step; half the registers
        operand = _operand(_normed(x, norm_ptr, c, eps, CHANNELS), w1_ptr, g1_ptr)
        for n0 in range(0, HIDDEN, CHUNK):
            n = n0 + tl.arange(0, CHUNK)
            hidden = _dot(operand, _weights(w1_ptr, n, c, HIDDEN, CHANNELS), _sums(w1_ptr, BLOCK_M, CHUNK))
            hidden = tl.maximum(_finished(hidden, w1_ptr, b1_ptr, g1_ptr, n, HIDDEN), 0.0)
            if TAPS > 1:
                hidden = tl.where(inside[:, None], hidden, 0.0)  # the convolution is padded with zeros
            weights = _weights(w2_ptr + tap * HIDDEN, c, n, CHANNELS, TAPS * HIDDEN)
            acc = _dot(_operand(hidden, w2_ptr, g2_ptr), weights, acc)
    out = _finished(acc, w2_ptr, b2_ptr, g2_ptr, c, CHANNELS)
    if not plain:
        out += residual.to(tl.float32)
    here = (row < rows)[:, None]
    if position_ptr is not None:
        out += tl.load(position_ptr + place[:, None] * CHANNELS + c[None, :], mask=here, other=0.0)
    tl.store(out_ptr + row[:, None] * CHANNELS + c[None, :], _narrowed(out, out_ptr.dtype.element_ty), mask=here)
