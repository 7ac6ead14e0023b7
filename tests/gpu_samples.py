"""Random operands of the ops, and the two measures that every kernel is held to."""

import torch

from pstmo_edge.kernels.triton.reference import Product, fp8_product, int8_product

HALVES = [torch.bfloat16, torch.float16]
FLOATS = [torch.float32, *HALVES]
BYTES = [torch.int8, torch.float8_e4m3fn]
# Small, so that a test takes a fraction of a second; the last dimensions of the network are in `test_whole.py`.
CHANNELS, HIDDEN, HEADS, INPUTS = 64, 128, 2, 34


class Samples:
    def __init__(self, seed=0):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape, dtype=torch.float32, scale=1.0):
        return (torch.randn(*shape, generator=self.generator) * scale).to(dtype)

    def norm(self, channels=CHANNELS):
        return torch.stack([1 + self.normal(channels, scale=0.1), self.normal(channels, scale=0.1)])

    def product(self, outputs, inputs, dtype):
        weight, bias = self.normal(outputs, inputs) / inputs**0.5, self.normal(outputs, scale=0.1)
        largest = weight.abs().amax(1)
        if dtype == torch.int8:
            scale = largest / 127
            return int8_product(torch.round(weight / scale[:, None]).to(torch.int8), scale, bias, 6 / 255, 117)
        if dtype == torch.float8_e4m3fn:
            return fp8_product(weight / (largest / 448)[:, None], largest / 448, bias, 4 / 448)
        return Product(weight.to(dtype), bias)


def poisoned(shape, dtype):
    return torch.full(shape, float("nan"), dtype=dtype)


def exact(value):
    """Float operands in float64; quantized ones as they are, since they are part of what is computed."""
    if isinstance(value, Product):
        return value if value.grid is not None else Product(value.weight.double(), value.bias.double())
    if isinstance(value, (list, tuple)):
        return type(value)(map(exact, value))
    if isinstance(value, torch.Tensor):
        return value.double()
    return torch.float64 if isinstance(value, torch.dtype) else value


def error(found, truth):
    """Relative, over all elements; NaN where one was not written."""
    return float((found.double() - truth).norm() / truth.norm())


def assert_as_good_as_torch(kernel, reference, *operands, out, **tiles):
    """Within twice the error of plain torch in the same types, from float64, into a buffer that was full of NaN."""
    truth = reference(*exact(operands))
    plain = error(reference(*operands), truth)
    found = error(kernel(*operands, out=out, **tiles), truth)
    assert found <= 2 * plain, f"{found:.3e}, plain torch {plain:.3e}"
