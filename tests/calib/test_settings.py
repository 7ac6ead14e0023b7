from dataclasses import replace

import pytest

from pstmo_edge.calib.settings import (
    NAIVE,
    Activations,
    Entropy,
    Granularity,
    MeanSquaredError,
    Percentile,
    Rounding,
    Settings,
    Weights,
    settings_for,
)
from pstmo_edge.errors import UsageError
from pstmo_edge.targets import TARGETS


@pytest.mark.parametrize(
    ("wrong", "instead"),
    [
        (lambda: Weights(granularity=Granularity.PER_TOKEN), "PER_CHANNEL"),
        (lambda: Weights(symmetric=False), "symmetric=True"),
        (lambda: Weights(5), "one of 4, 7, 8"),
        (lambda: Weights(observer=Entropy()), r"MinMax\(\) or MeanSquaredError\(\)"),
        (lambda: Weights(observer=Percentile()), r"MinMax\(\) or MeanSquaredError\(\)"),
        (lambda: Activations(4), "one of 7, 8, 16"),
        (lambda: Activations(granularity=Granularity.PER_CHANNEL), "smoothing"),
        (lambda: Activations(granularity=Granularity.PER_TOKEN, observer=Entropy()), r"MinMax\(\)"),
        (lambda: Percentile(100), r"MinMax\(\)"),
        (lambda: Percentile(3), "between 50 and 100"),
        (lambda: Settings(smoothing=(0.5, 1.5)), "between 0 and 1"),
        (lambda: Settings(activations=Activations(7, symmetric=True)), "symmetric=False"),
    ],
)
def test_wrong_combinations_fail_when_constructed_and_say_what_to_use(wrong, instead):
    with pytest.raises(UsageError, match=instead):
        wrong()


def test_limits():
    assert Activations(8).limits == (0, 255)
    assert Activations(7).limits == (0, 127)
    assert Activations(16).limits == (0, 65_535)
    assert Activations(8, symmetric=True).limits == (-128, 127)
    assert [Weights(bits).limit for bits in (4, 7, 8)] == [7, 64, 127]
    assert 2 * Activations(8).limits[1] * Weights(7).limit <= 32_767 < 2 * 255 * Weights(8).limit


def test_settings_are_values():
    """Equal settings are equal, whatever the order of the layers; different ones have different plain forms."""
    assert Settings().leaving("b", "a") == Settings(keep_float=("a", "b", "a"))
    assert hash(Settings().leaving("b", "a")) == hash(Settings(keep_float=("a", "b")))
    variants = [
        Settings(),
        NAIVE,
        Settings(smoothing=(0.5,)),
        Settings(smoothing=(0.25, 0.5)),
        Settings(bias_correction=True),
        Settings(Weights(7)),
        Settings(Weights(rounding=Rounding.GPTQ)),
        Settings(Weights(observer=MeanSquaredError())),
        Settings(activations=Activations(observer=MeanSquaredError())),
        Settings(activations=Activations(observer=Percentile(99.9))),
        Settings(activations=Activations(observer=Percentile(99.99))),
        Settings(activations=Activations(granularity=Granularity.PER_TOKEN)),
        Settings(keep_float=("a",)),
    ]
    assert len({str(settings.to_dict()) for settings in variants}) == len(variants)
    assert len({settings.describe() for settings in variants}) == len(variants) - 1  # what stays float is told apart


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_has_settings(name):
    target = TARGETS[name]
    settings = settings_for(target, ("x",))
    assert settings.weights.bits == target.weight_bits
    assert settings.activations.symmetric == (name == "tensorrt")
    assert settings.keep_float == ("x",)
    assert replace(settings, keep_float=()) == settings_for(target)
