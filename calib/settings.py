"""How a model is quantized, as frozen values: what cannot work fails when it is constructed and says what does."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, TypeAlias

from pstmo_edge.errors import UsageError
from pstmo_edge.targets import Target

ACTIVATION_BITS = (7, 8, 16)
WEIGHT_BITS = (4, 7, 8)


class Granularity(str, Enum):
    """What shares one scale: a whole tensor, the weights of one output channel, or one token of the activations."""

    PER_TENSOR = "per-tensor"
    PER_CHANNEL = "per-channel"
    PER_TOKEN = "per-token"  # noqa: S105 (a token of a transformer)


class Rounding(str, Enum):
    """How weights become integers: each to the nearest, or all of a layer so that its outputs move least.

    GPTQ (Frantar et al., ICLR 2023) goes column by column and lets later columns make up for the errors of earlier
    ones.
    """

    NEAREST = "nearest"
    GPTQ = "gptq"


@dataclass(frozen=True)
class MinMax:
    """The smallest and the largest value seen: nothing seen in calibration is clipped."""


@dataclass(frozen=True)
class Percentile:
    """The range that holds `percent` of the values; the tails are clipped, half of the rest on each side."""

    percent: float = 99.99

    def __post_init__(self) -> None:
        if not 50 < self.percent < 100:
            raise UsageError(
                f"a percentile of {self.percent:g} must lie between 50 and 100: use MinMax() for all of it"
            )


@dataclass(frozen=True)
class Entropy:
    """The range whose quantized distribution has the least Kullback-Leibler divergence (Migacz, GTC 2017)."""


@dataclass(frozen=True)
class MeanSquaredError:
    """The range with the least mean squared error of the quantized values, clipping included."""


Observer: TypeAlias = MinMax | Percentile | Entropy | MeanSquaredError


@dataclass(frozen=True)
class Activations:
    """How the input of an integer layer becomes integers.

    Affine ones are unsigned with a zero point (uint8: 0..255); symmetric ones are signed without (int8: -128..127, the
    range seen on -127..127), which is what TensorRT asks for. 7 bits leave an AVX2 kernel room to add two pair sums
    before it widens them.
    """

    bits: int = 8
    symmetric: bool = False
    granularity: Granularity = Granularity.PER_TENSOR
    observer: Observer = field(default_factory=MinMax)

    def __post_init__(self) -> None:
        if self.bits not in ACTIVATION_BITS:
            raise UsageError(f"activations of {self.bits} bits are not offered: use one of {_listed(ACTIVATION_BITS)}")
        if self.granularity is Granularity.PER_CHANNEL:
            raise UsageError(
                "a scale for each channel of an activation cannot leave the sum over channels: use "
                "Granularity.PER_TENSOR and equalize (Settings.smoothing)"
            )
        if self.granularity is Granularity.PER_TOKEN and not isinstance(self.observer, MinMax):
            raise UsageError("the range of a token is measured at run time: use MinMax() with Granularity.PER_TOKEN")

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest integer."""
        half = 2 ** (self.bits - 1)
        return (-half, half - 1) if self.symmetric else (0, 2 * half - 1)


@dataclass(frozen=True)
class Weights:
    """How the weights of an integer layer become integers: symmetric, -127..127 with 8 bits.

    With 7 bits they reach 64, not 63: 2 x 255 x 64 still fits 16 bits.
    """

    bits: int = 8
    granularity: Granularity = Granularity.PER_CHANNEL
    observer: Observer = field(default_factory=MinMax)
    rounding: Rounding = Rounding.NEAREST
    symmetric: bool = True

    def __post_init__(self) -> None:
        if self.bits not in WEIGHT_BITS:
            raise UsageError(f"weights of {self.bits} bits are not offered: use one of {_listed(WEIGHT_BITS)}")
        if self.granularity is Granularity.PER_TOKEN:
            raise UsageError("weights have no tokens: use Granularity.PER_CHANNEL")
        if not self.symmetric:
            raise UsageError(
                "a zero point of the weights adds a sum over the activations to every output, and TensorRT refuses "
                "it: use symmetric=True"
            )
        if not isinstance(self.observer, MinMax | MeanSquaredError):
            raise UsageError(f"{type(self.observer).__name__} is for activations: use MinMax() or MeanSquaredError()")

    @property
    def limit(self) -> int:
        """The largest absolute integer."""
        return 64 if self.bits == 7 else int(2 ** (self.bits - 1) - 1)


@dataclass(frozen=True)
class Settings:
    """Everything that decides the integers of a model, but the windows it is calibrated on.

    `smoothing` are strengths of the equalization between a normalisation and the next matrix: 0 evens out the weights,
    1 the activations, 0.5 shares the difficulty (SmoothQuant, Xiao et al., ICML 2023). One strength is used everywhere;
    of several, every pair takes the one with the least expected error, which may be none. `bias_correction` takes the
    mean error of every output channel out of its bias (Nagel et al., ICCV 2019). The layers of `keep_float` are not
    quantized.
    """

    weights: Weights = field(default_factory=Weights)
    activations: Activations = field(default_factory=Activations)
    smoothing: tuple[float, ...] = ()
    bias_correction: bool = False
    keep_float: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for strength in self.smoothing:
            if not 0 <= strength <= 1:
                raise UsageError(f"a smoothing of {strength:g} must lie between 0 and 1: 0.5 shares the difficulty")
        if self.activations.bits == 7 and self.activations.symmetric:
            raise UsageError(
                "7-bit activations make room for pair sums of unsigned values: use symmetric=False, or 8 bits"
            )
        object.__setattr__(self, "keep_float", tuple(sorted(set(self.keep_float))))

    def leaving(self, *layers: str) -> Settings:
        """The same with these layers left in float as well."""
        return replace(self, keep_float=(*self.keep_float, *layers))

    def to_dict(self) -> dict[str, Any]:
        """Plain values: a JSON of them tells settings apart."""
        return {name: _plain(value) for name, value in vars(self).items()}

    def describe(self) -> str:
        """One line for people, such as a manifest's."""
        weights, activations = self.weights, self.activations
        parts = [
            f"weights {weights.bits}-bit {weights.granularity.value} {_observer_name(weights.observer)}",
            f"activations {activations.bits}-bit {'symmetric' if activations.symmetric else 'affine'} "
            f"{activations.granularity.value} {_observer_name(activations.observer)}",
        ]
        if self.smoothing:
            parts.append(f"equalized {self.smoothing[0]:g}" if len(self.smoothing) == 1 else "equalized by layer")
        if weights.rounding is not Rounding.NEAREST:
            parts.append("GPTQ")
        if self.bias_correction:
            parts.append("bias correction")
        return ", ".join(parts)


NAIVE = Settings(Weights(granularity=Granularity.PER_TENSOR), Activations())


def settings_for(target: Target, keep_float: tuple[str, ...] = ()) -> Settings:
    """What a build for this target uses unless told otherwise: the method that loses least (docs/quantization.md)."""
    return Settings(
        Weights(target.weight_bits, rounding=Rounding.GPTQ),
        Activations(symmetric=target.symmetric_activations, observer=MeanSquaredError()),
        smoothing=(0.35, 0.5, 0.65, 0.8),
        bias_correction=True,
        keep_float=keep_float,
    )


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


def _observer_name(observer: Observer) -> str:
    if isinstance(observer, Percentile):
        return f"percentile {observer.percent:g}"
    return {MinMax: "min-max", Entropy: "entropy", MeanSquaredError: "mean squared error"}[type(observer)]


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if hasattr(value, "__dataclass_fields__"):
        return {"kind": type(value).__name__, **{name: _plain(inner) for name, inner in vars(value).items()}}
    return list(value) if isinstance(value, tuple) else value
