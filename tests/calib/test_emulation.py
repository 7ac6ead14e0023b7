"""The emulation against the definition in its docstring, written down again in exact integers."""

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch.nn import functional as F

from pstmo_edge.calib.emulation import (
    EmulatedModel,
    IntegerLayer,
    boundaries,
    fake_quantized,
    grid_of_range,
)
from pstmo_edge.calib.settings import Activations, Granularity
from pstmo_edge.export import random_keypoints
from pstmo_edge.models.fused import fuse
from pstmo_edge.models.interception import intercepted, layer_biases
from pstmo_edge.models.zoo import create_model

ZOO = [
    ("p-stmo-s", 9), ("p-stmo-s", 27), ("p-stmo", 27), ("p-stmo-s", 351), ("poseformer", 9), ("anatomy3d", 9),
    ("videopose3d", 9), ("videopose3d", 27), ("strided-transformer", 9),
]  # fmt: skip


def integer_layer(depth=40, outputs=6, activations=None, low=-1.5, high=2.5, limit=127, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    activations = activations or Activations()
    weight = torch.randint(-limit, limit + 1, (outputs, depth), generator=generator).to(torch.int8)
    scale = torch.rand(outputs, generator=generator) / 100 + 1e-3
    grid = None if activations.granularity is Granularity.PER_TOKEN else grid_of_range(low, high, activations)
    return IntegerLayer(weight, scale, torch.randn(outputs, generator=generator), activations, grid, **options)


def by_the_definition(layer, x):
    """The docstring's three lines with NumPy's integers."""
    grid = layer.grid
    q = np.clip(np.rint(x / np.float32(grid.scale)).astype(np.int64) + grid.zero_point, grid.low, grid.high)
    sums = (q - grid.zero_point) @ layer.weight.numpy().astype(np.int64).T
    scale = np.float32(grid.scale) * layer.weight_scale.numpy()
    return sums.astype(np.float32) * scale + layer.bias.numpy()


@pytest.mark.parametrize("depth", [1, 31, 40, 520, 1536])
@pytest.mark.parametrize("activations", [Activations(), Activations(7), Activations(8, True), Activations(16)])
def test_an_integer_layer_is_its_definition_to_the_bit(depth, activations):
    layer = integer_layer(depth, activations=activations)
    x = 2 * torch.randn(5, 3, depth, generator=torch.Generator().manual_seed(1))
    np.testing.assert_array_equal(layer(x).numpy(), by_the_definition(layer, x.numpy()))


def test_the_largest_sums_are_exact():
    """Every input and weight at its extreme: where float32 would lose the last bits."""
    layer = integer_layer(1536, 3)
    layer.weight.fill_(127)
    layer.weight[:, 0] = 2
    x = torch.full((2, 1536), 100.0)
    sums = (255 - layer.grid.zero_point) * (127 * 1535 + 2)
    assert sums % 2 == 1
    assert sums > 2**24
    np.testing.assert_array_equal(layer(x).numpy(), by_the_definition(layer, x.numpy()))


def test_ties_go_to_even_and_ends_saturate():
    grid = grid_of_range(-128.0, 127.0, Activations())
    assert (grid.scale, grid.zero_point) == (1.0, 128)
    values = torch.tensor([-0.5, 0.5, 1.5, 2.5, -1.5, 126.6, 500.0, -127.5, -500.0])
    assert grid.quantize(values).tolist() == [128, 128, 130, 130, 126, 255, 255, 0, 0]


@pytest.mark.parametrize("activations", [Activations(), Activations(7), Activations(8, True), Activations(16)])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-2.0, -1.0), (0.0, 0.0)])
def test_every_grid_holds_zero_and_its_range(low, high, activations):
    grid = grid_of_range(low, high, activations)
    assert grid.low <= grid.zero_point <= grid.high
    assert grid.scale == np.float32(grid.scale) > 0
    values = torch.linspace(low, high, 101)
    assert float((grid.dequantize(grid.quantize(values)) - values).abs().max()) <= 0.51 * grid.scale
    assert float(grid.dequantize(grid.quantize(torch.zeros(1)))) == 0
    if activations.symmetric:
        assert grid.zero_point == 0


def test_quantize_is_onnx_quantize_linear():
    """The same integers as ONNX's reference implementation, ties and saturation included."""
    grid = grid_of_range(-1.5, 2.5, Activations())
    x = torch.cat([torch.randn(1000) * 2, (torch.arange(-300, 300) + 0.5) * grid.scale])
    node = onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    make = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [
        make("x", onnx.TensorProto.FLOAT, [None]), make("s", onnx.TensorProto.FLOAT, []),
        make("z", onnx.TensorProto.UINT8, []),
    ], [make("y", onnx.TensorProto.UINT8, [None])])  # fmt: skip
    reference = ReferenceEvaluator(onnx.helper.make_model(graph))
    (expected,) = reference.run(None, {"x": x.numpy(), "s": np.float32(grid.scale), "z": np.uint8(grid.zero_point)})
    np.testing.assert_array_equal(grid.quantize(x).numpy(), expected)


def test_saturating_pairs_are_those_of_the_instruction():
    layer = integer_layer(7, 4, saturating_pairs=True)
    x = torch.randn(3, 7) * 3
    q = layer.grid.quantize(x).numpy().astype(int)
    weight = layer.weight.numpy().astype(int)
    expected = np.zeros((3, 4))
    for row in range(3):
        for out in range(4):
            products = [*(q[row] * weight[out]), 0]
            pairs = [min(max(products[i] + products[i + 1], -32768), 32767) for i in range(0, 8, 2)]
            expected[row, out] = sum(pairs) - layer.grid.zero_point * weight[out].sum()
    scale = layer.grid.scale * layer.weight_scale.numpy()
    np.testing.assert_allclose(layer(x).numpy(), expected * scale + layer.bias.numpy(), rtol=1e-6)


@pytest.mark.parametrize(("limit", "safe"), [(64, True), (127, False)])
def test_seven_bit_weights_cannot_saturate_a_pair_sum_and_eight_bit_ones_do(limit, safe):
    layer = integer_layer(64, 8, limit=limit)
    layer.weight[0] = limit
    x = torch.cat([torch.full((1, 64), 9.0), torch.randn(20, 64)])
    same = torch.equal(layer(x), integer_layer_with_pairs(layer)(x))
    assert (layer.saturated(x) == 0) is safe
    assert same is safe


def integer_layer_with_pairs(layer):
    return IntegerLayer(layer.weight, layer.weight_scale, layer.bias, layer.activations, layer.grid, True)


def test_pair_sums_need_unsigned_inputs():
    with pytest.raises(ValueError, match="no symmetric"):
        integer_layer(activations=Activations(8, True), saturating_pairs=True)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_token_alone_decides_its_grid(symmetric):
    layer = integer_layer(activations=Activations(8, symmetric, Granularity.PER_TOKEN))
    x = torch.randn(6, 40) * torch.tensor([1e-3, 1.0, 10.0, 1e3, 0.0, 1.0])[:, None]
    exact = F.linear(x, layer.dequantized(), layer.bias)
    for row in range(6):
        torch.testing.assert_close(layer(x)[row], layer(x[row : row + 1])[0], rtol=0, atol=0)
    scale = x.abs().amax(-1, keepdim=True) * layer.dequantized().abs().sum(1) / 127
    assert bool(((layer(x) - exact).abs() <= scale + 1e-6).all())
    assert float((layer(x) - exact).abs().max()) > 0


def test_training_sees_the_same_values_and_a_straight_gradient():
    grid = grid_of_range(-1.0, 2.0, Activations())
    x = torch.tensor([-1.3, -0.7, 0.1, 1.9, 2.6], requires_grad=True)
    found = fake_quantized(x, grid.scale, grid.zero_point, grid.low, grid.high)
    torch.testing.assert_close(found, grid.dequantize(grid.quantize(x)), rtol=0, atol=1e-6)
    found.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize(("name", "frames"), ZOO)
def test_every_weighted_layer_of_the_zoo_passes_through(name, frames):
    """Intercepted and computed as it was, every architecture gives the same poses; every layer is seen by its name."""
    torch.manual_seed(0)
    model = fuse(create_model(name, frames))
    keypoints = torch.from_numpy(random_keypoints(2, frames, len(model.lifter.channels)))
    seen = {}

    def plain(layer, x, weight, bias):
        assert x.shape[-1] == weight.shape[1]
        seen[layer] = tuple(weight.shape)
        return F.linear(x, weight, bias)

    with torch.inference_mode():
        exact = model(keypoints)
        with intercepted(model, plain):
            found = model(keypoints)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)
    used = {
        layer for layer, bias in layer_biases(model).items()
        if layer.split(".")[0] not in ("fcn_1", "weighted_mean") and bias.requires_grad
    }  # fmt: skip
    assert set(seen) == used
    assert len(seen) >= 4


def test_an_emulated_model_computes_its_layers_and_no_others(small_model):
    model = fuse(small_model)
    keypoints = torch.from_numpy(random_keypoints(3, 9))
    name = "Transformer.model.layers.0.self_attn.qkv"
    with torch.inference_mode():
        exact = model(keypoints)
        assert torch.equal(EmulatedModel(model, {})(keypoints), exact)
        changed = EmulatedModel(model, {name: lambda x, weight, bias: F.linear(x, weight, bias) + 1.0})
        found = boundaries(changed, keypoints)
        assert not torch.equal(changed(keypoints), exact)
        assert torch.equal(changed.with_layers([])(keypoints), exact)
        x, out = found[name]
        linear = model.get_submodule(name)
        torch.testing.assert_close(out, linear(x) + 1.0)
        assert torch.equal(model(keypoints), exact)  # the mode ends with the call
    with pytest.raises(KeyError, match="no layers nonsense"):
        EmulatedModel(model, {"nonsense": lambda x, weight, bias: x})
