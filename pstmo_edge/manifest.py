"""The schema of a bundle's manifest.json: all that a camera app must know about an engine and cannot see in it.

The schema is versioned and strict: a field that this version does not know is an error, since ignoring it could mean
feeding the engine the wrong thing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION: Final = 1
MANIFEST_NAME = "manifest.json"

# What a layer multiplies; w8a16: 8-bit weights, 16-bit activations; w4: 4-bit weights, activations in float.
Precision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8", "fp8", "w8a16", "w4"]
Sha256: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=200)]
Millimetres: TypeAlias = Annotated[float, Field(ge=0)]
PlainValue: TypeAlias = str | bool | int | float | tuple[str | bool | int | float | None, ...] | None


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InputSpec(_Record):
    """What the engine is fed: `(batch, frames, joints, channels)` float32."""

    skeleton: Name
    joints: tuple[Name, ...]
    channels: tuple[Name, ...] = ("x", "y")
    frames: int = Field(ge=1)
    t_downsample: int = Field(default=1, ge=1)  # every t_downsample-th frame of the motion enters the window
    frame_rate: float = Field(gt=0)  # frames a second of the motion trained on, before t_downsample
    target_index: int = Field(ge=0)  # the frame of the window whose pose comes out, or the first of many
    lookahead_frames: int = Field(ge=0)  # frames of the window that lie after it: the longest wait of any pose
    normalisation: str = "screen: x / w * 2 - 1, y / w * 2 - h / w"
    units: str = "pixels before normalisation, image width 2 after it"

    @property
    def lookahead_ms(self) -> float:
        """How long a pose waits for the frames after it at most, in milliseconds at the frame rate trained on.

        Of many poses a window the first waits that long, see `Manifest.least_lookahead_ms`.
        """
        return 1000.0 * self.lookahead_frames * self.t_downsample / self.frame_rate

    @model_validator(mode="after")
    def _consistent(self) -> InputSpec:
        if self.target_index >= self.frames:
            raise ValueError(f"target_index {self.target_index} lies outside a window of {self.frames} frames")
        if self.lookahead_frames > self.frames - 1 - self.target_index:
            raise ValueError(f"{self.lookahead_frames} frames of look-ahead do not follow frame {self.target_index}")
        return self


class EmittedFrames(_Record):
    """The frames of the window whose poses come out: `count` neighbours from `first` on."""

    first: int = Field(ge=0)
    count: int = Field(ge=1)


class OutputSpec(_Record):
    """What the engine returns: `(batch, joints, 3)` float32, or with `frames` `(batch, count, joints, 3)`."""

    skeleton: Name
    joints: tuple[Name, ...]
    frames: EmittedFrames | None = None  # None: one pose a window, that of the target frame
    units: str = "metres"
    frame: str = "camera, root-relative"
    camera_convention: str = "x right, y down, z forward, away from the camera"


class ModelSpec(_Record):
    """The network the engine was built from."""

    name: Name
    config: dict[str, PlainValue] = {}
    parameters: int = Field(ge=0)
    weights_sha256: Sha256


class LayerPrecision(_Record):
    """The precision one layer really got, read back from the graph, and its weight in the whole."""

    name: Name
    kind: Name
    precision: Precision
    multiply_adds: int = Field(ge=0)  # for one window
    weights: Precision | None = None  # how its weights are stored, where the product has another precision


class PrecisionSpec(_Record):
    """The precision asked for, and what each layer got."""

    requested: Precision
    layers: tuple[LayerPrecision, ...] = ()
    left_in_float: tuple[Name, ...] = ()  # layers that the build kept in float to hold the limit on the error

    @property
    def int8_share(self) -> float:
        """The share of all multiply-adds that run in INT8, from 0 to 1."""
        return self._share([layer for layer in self.layers if layer.precision == "int8"])

    @property
    def wide_share(self) -> float:
        """The share of all multiply-adds of 8-bit weights by 16-bit activations, from 0 to 1."""
        return self._share([layer for layer in self.layers if layer.precision == "w8a16"])

    @property
    def requested_share(self) -> float:
        """The share of all multiply-adds whose product or weights have the precision asked for, from 0 to 1."""
        return self._share([each for each in self.layers if self.requested in (each.precision, each.weights)])

    @property
    def weights_only(self) -> bool:
        """Whether the precision asked for is that of stored weights alone, and the products are in float32."""
        return any(layer.weights == self.requested for layer in self.layers)

    def _share(self, layers: list[LayerPrecision]) -> float:
        total = sum(layer.multiply_adds for layer in self.layers)
        return sum(layer.multiply_adds for layer in layers) / total if total else 0.0

    @model_validator(mode="after")
    def _consistent(self) -> PrecisionSpec:
        precisions = {layer.name: layer.precision for layer in self.layers}
        if len(precisions) != len(self.layers):
            raise ValueError("two layers have the same name")
        for name in self.left_in_float:
            if precisions.get(name, "int8") in ("int8", "fp8", "w8a16"):
                raise ValueError(f"left_in_float names {name!r}, which is not a layer in float")
        return self


class TargetSpec(_Record):
    """The instruction set or device the engine was built for."""

    name: Name
    weight_bits: int = Field(default=8, ge=1, le=32)  # 7 where 8-bit products would overflow 16-bit sums
    requires: tuple[Name, ...] = ()  # CPU features or device properties, without which the engine must not run


class BackendSpec(_Record):
    """The runtime that opens the engine."""

    name: Name
    version: str  # of the runtime that the engine was built and measured with
    versions: dict[str, Annotated[str, Field(pattern=r"^(==|>=)?[0-9]+(\.[0-9A-Za-z+]+)*$")]] = {}

    def mismatches(self, installed: Mapping[str, str]) -> tuple[str, ...]:
        """What `versions` asks of the machine and `installed` (name to version) lacks, one phrase each.

        `>=1.20` is a minimum; `==1.20` or `1.20` fixes the numbers given, so that 1.20.1 fits.
        """
        found = ((name, wanted, installed.get(name)) for name, wanted in self.versions.items())
        return tuple(
            f"{name} {wanted.removeprefix('==')} is needed and {have or 'none'} is installed"
            for name, wanted, have in found
            if have is None or not _fits(have, wanted)
        )


class Calibration(_Record):
    """How the ranges of the quantized layers were found."""

    method: Name
    windows: int = Field(ge=1)
    key: Sha256  # of the calibration windows
    source: str


class Errors(_Record):
    """Errors of one model on one set of motion, in millimetres; the velocity error in millimetres a frame."""

    mpjpe_mm: Millimetres
    p_mpjpe_mm: Millimetres
    mpjve_mm: Millimetres


class LookaheadError(_Record):
    """The error of poses that wait for `frames` frames of the window after their own, the rest being the newest."""

    frames: int = Field(ge=0)
    mpjpe_mm: Millimetres


class Accuracy(_Record):
    """The errors before (float) and after (as built), on the same data."""

    data: str
    keypoints: Name  # "gt", "detected", or the name of a detector's file
    flip: bool = False  # whether predictions were averaged with those of the mirrored input: two forwards a pose
    before: Errors
    after: Errors
    max_drop_mm: float | None = None  # the limit asked for
    # Of INT8: by how much the acceleration error rises with a detector's keypoints, per cent, and the limit asked for.
    jitter_percent: float | None = None
    max_jitter_percent: float | None = None
    # Of a stream, with a detector's keypoints where data says what those are; from 0 to the model's look-ahead.
    lookahead: tuple[LookaheadError, ...] = ()

    @property
    def drop_mm(self) -> float:
        """How much the build raised the MPJPE, in millimetres; negative where it fell."""
        return self.after.mpjpe_mm - self.before.mpjpe_mm


class FileEntry(_Record):
    """One artifact of the bundle: a plain file name, never a path, so that it cannot point outside the folder."""

    path: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")
    size: int = Field(ge=0)
    sha256: Sha256


class Manifest(_Record):
    """The whole manifest; `files` is filled when the bundle is written."""

    schema_version: Literal[1] = SCHEMA_VERSION
    pstmo_edge_version: str
    created: datetime = Field(default_factory=lambda: datetime.now(timezone.utc).replace(microsecond=0))
    input: InputSpec
    output: OutputSpec
    model: ModelSpec
    precision: PrecisionSpec
    target: TargetSpec
    backend: BackendSpec
    calibration: Calibration | None = None
    accuracy: Accuracy | None = None
    files: tuple[FileEntry, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        names = [entry.path.lower() for entry in self.files]  # folders on macOS do not tell A from a
        if len(set(names)) != len(names):
            raise ValueError("the list of files names one file twice")
        if MANIFEST_NAME in names:
            raise ValueError(f"the list of files names {MANIFEST_NAME} itself")
        emitted = self.output.frames
        if emitted is not None and emitted.first != self.input.target_index:
            raise ValueError(f"the first emitted frame is {emitted.first} and target_index {self.input.target_index}")
        if emitted is not None and emitted.first + emitted.count > self.input.frames:
            raise ValueError(f"{emitted.count} frames from {emitted.first} on leave a window of {self.input.frames}")
        return self

    @property
    def emitted(self) -> tuple[int, int] | None:
        """(first frame, number of frames) whose poses come out; None where it is the target's alone."""
        frames = self.output.frames
        return None if frames is None else (frames.first, frames.count)

    @property
    def poses_a_window(self) -> int:
        """How many poses one window gives."""
        return 1 if self.output.frames is None else self.output.frames.count

    @property
    def least_lookahead_ms(self) -> float:
        """How long the last frame's pose waits, milliseconds: as `input.lookahead_ms` where there is one a window."""
        given = self.input
        return given.lookahead_ms - 1000.0 * (self.poses_a_window - 1) * given.t_downsample / given.frame_rate


def _fits(have: str, wanted: str) -> bool:
    numbers = _numbers(wanted)
    if wanted.startswith(">="):
        return _numbers(have) >= numbers
    return _numbers(have)[: len(numbers)] == numbers


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: 1.32.0+cpu gives (1, 32, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[+a-zA-Z]", version.lstrip("=>"))[0]))
