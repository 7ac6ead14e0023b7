"""How an engine is to be compiled, what it was compiled for, and the proof that it came from here.

A TensorRT engine is native code to whoever loads it, and a digest stops accidents alone. So `compile` signs what it
made with a key that stays on the device (HMAC-SHA256), over the engine's digest and all that it depends on, and nothing
without that signature reaches TensorRT.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pstmo_edge.errors import BackendError
from pstmo_edge.files import write_atomic

GRAPH, PLAN, ENGINE, RECORD = "model.onnx", "build_plan.json", "model.plan", "engine.json"
OLDEST, NEWEST = (10, 3), (12,)  # TensorRT from the one up to, and without, the other
KEY_VARIABLE = "PSTMO_EDGE_PLAN_KEY"
_KEY_BYTES = 32
# NVIDIA's "Working with DLA", as of TensorRT 11.4.1: no dynamic sizes, batches of at most 4096, fp16 and int8 alone;
# 10.7 was the last of 10.x that supports a DLA, 11.4.1 the first of 11 (on Jetson Orin).
DLA_BATCHES = 4096
DLA_PRECISIONS = ("fp16", "int8")
_DLA_VERSIONS = (((10, 3), (10, 8)), ((11, 4, 1), (12,)))


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BuildPlan(_Record):
    """What `compile` asks of TensorRT's builder. Precisions are in the graph: the network is strongly typed."""

    batch_min: int = Field(default=1, ge=1)
    batch_opt: int = Field(default=1, ge=1)
    batch_max: int = Field(default=64, ge=1)
    workspace_mib: int = Field(default=512, ge=16)
    optimization_level: int = Field(default=5, ge=0, le=5)  # builder time for kernel choice; 5 tries most
    version_compatible: bool = False  # opens with later versions of the same major one; larger, and some kernels lost
    hardware_compatible: bool = False  # opens on every GPU from Ampere on; not on Jetson
    dla_core: int | None = Field(default=None, ge=0)  # which takes what layers it can; the GPU takes the others

    def model_post_init(self, context: object) -> None:
        """Refuse a profile whose sizes are out of order, and a DLA with batches of several sizes."""
        if not self.batch_min <= self.batch_opt <= self.batch_max:
            raise ValueError(f"batches {self.batch_min}, {self.batch_opt}, {self.batch_max} are not in order")
        if self.dla_core is None:
            return
        if self.batch_min != self.batch_max:
            raise ValueError(f"a DLA takes one size of batch, not {self.batch_min} to {self.batch_max}: give one")
        if self.batch_max > DLA_BATCHES:
            raise ValueError(f"a DLA takes batches of at most {DLA_BATCHES}, not {self.batch_max}")
        if self.hardware_compatible or self.version_compatible:
            raise ValueError("an engine for a DLA is for one device and one version: leave out the compatible ones")


class EngineKey(_Record):
    """All that a compiled engine depends on: with another value of any it has to be compiled again."""

    graph_sha256: str
    weights_sha256: str
    precision: str
    tensorrt: str
    device: str
    capability: str
    driver: str

    def differences(self, here: EngineKey) -> tuple[str, ...]:
        """What is another here, a phrase each."""
        return tuple(
            f"{name.removesuffix('_sha256')} {_short(ours)} here, {_short(theirs)} in the engine"
            for name, theirs in self.model_dump().items()
            if (ours := getattr(here, name)) != theirs
        )


class EngineRecord(_Record):
    """What stands beside a compiled engine."""

    key: EngineKey
    engine_sha256: str
    version_compatible: bool = False
    dla_core: int | None = None
    tag: str = ""


def signed(record: EngineRecord) -> EngineRecord:
    """The record with its signature by this device's key, which is made where there is none."""
    return record.model_copy(update={"tag": _tag(record, _key(make=True))})


def written(record: EngineRecord) -> bytes:
    """The record as it stands beside the engine."""
    return json.dumps(record.model_dump(), indent=2).encode() + b"\n"


def verified(content: bytes, engine: bytes, path: Path) -> EngineRecord:
    """The record, if this device signed it and it is of these bytes; raises BackendError."""
    again = f"run `pstmo-edge compile {path}` on this device"
    try:
        record = EngineRecord.model_validate_json(content)
    except ValidationError:
        raise BackendError(f"{path}: {RECORD} is damaged: {again}") from None
    key = _key(make=False)
    if key is None:
        raise BackendError(f"{path} was compiled elsewhere: there is no key at {key_path()}; {again}")
    if not hmac.compare_digest(record.tag.encode(), _tag(record, key).encode()):
        raise BackendError(f"{path}: {ENGINE} was not signed by this device's key, so it is not opened: {again}")
    if not hmac.compare_digest(record.engine_sha256, hashlib.sha256(engine).hexdigest()):
        raise BackendError(f"{path}: {ENGINE} is not the engine that was signed, so it is not opened: {again}")
    return record


def check_key(record: EngineRecord, here: EngineKey, path: Path) -> None:
    """Raise BackendError where the engine was compiled for another graph, TensorRT, device or driver."""
    if record.version_compatible:
        same = _numbers(record.key.tensorrt)[0] == _numbers(here.tensorrt)[0]
        if same and _numbers(record.key.tensorrt) <= _numbers(here.tensorrt):
            here = here.model_copy(update={"tensorrt": record.key.tensorrt})
    if found := record.key.differences(here):
        raise BackendError(f"{path} was compiled for something else: {'; '.join(found)}: `pstmo-edge compile {path}`")


def check_version(version: str) -> None:
    """Raise BackendError for a TensorRT outside 10.3 to 11.x."""
    if not OLDEST <= _numbers(version) < NEWEST:
        raise BackendError(f"TensorRT {version} is installed: 10.3 to 11.x are supported; on a Jetson, JetPack 6 or 7")


def check_dla(plan: BuildPlan, version: str, precision: str) -> None:
    """Raise BackendError where a plan asks for a DLA that this TensorRT or precision does not have."""
    if plan.dla_core is None:
        return
    if precision not in DLA_PRECISIONS:
        raise BackendError(
            f"a DLA computes {' and '.join(DLA_PRECISIONS)}, this bundle is {precision}: build it with --precision fp16"
        )
    if not any(first <= _numbers(version) < end for first, end in _DLA_VERSIONS):
        raise BackendError(
            f"TensorRT {version} supports no DLA (10.3 to 10.7 do, and 11.4.1 or newer, on Jetson Orin): "
            f"compile without --dla"
        )


def key_path() -> Path:
    """Where this device's key is: $PSTMO_EDGE_PLAN_KEY, or plan.key in the user's configuration folder."""
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path(os.environ.get(KEY_VARIABLE) or folder / "pstmo-edge" / "plan.key")


def _key(make: bool) -> bytes | None:
    path = key_path()
    if make and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        old = os.umask(0o077)  # no moment in which others can read it
        try:
            write_atomic(path, secrets.token_bytes(_KEY_BYTES))
        finally:
            os.umask(old)
    try:
        key = path.read_bytes()
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if mode & 0o077:  # who reads it can sign, too
        raise BackendError(f"others may read {path}, the key that engines are trusted by: chmod 600 {path}")
    if len(key) != _KEY_BYTES:
        raise BackendError(f"{path} has {len(key)} bytes, a key has {_KEY_BYTES}: remove it and compile again")
    return key


def _tag(record: EngineRecord, key: bytes | None) -> str:
    assert key is not None
    # As kernels/runtime/trt_plan.cc computes it from the file, so `written` must keep the same escapes.
    fields = record.model_dump(exclude={"tag"})
    message = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _short(value: str) -> str:
    return value[:12] if len(value) == 64 else value
