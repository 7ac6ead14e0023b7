"""From a portable bundle to the engine of this device: compiled, read back, signed, and put into the bundle."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import ValidationError

from pstmo_edge.bundle import Bundle, Manifest, open_bundle, write_bundle
from pstmo_edge.errors import BackendError, BundleError, UsageError
from pstmo_edge.files import write_atomic
from pstmo_edge.manifest import BackendSpec
from pstmo_edge.trt.api import Api, import_tensorrt
from pstmo_edge.trt.buffers import Gpu, open_cuda
from pstmo_edge.trt.inspection import check_precision, executed
from pstmo_edge.trt.plans import (
    ENGINE,
    GRAPH,
    PLAN,
    RECORD,
    BuildPlan,
    EngineKey,
    EngineRecord,
    check_dla,
    signed,
    written,
)

INPUT = "keypoints"


def compile_bundle(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    changes: Mapping[str, object] | None = None,
    allow_float: bool = False,
    tell: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> Bundle:
    """Compile the bundle at `path` for this device and write it to `out` (by default in its place).

    `changes` are fields of the build plan that differ from the bundle's; the plan that was used is written with it.
    The manifest then says what precision the engine's inspector found for each layer. Raises UsageError, BundleError,
    and BackendError: no TensorRT, no device, a graph that it refuses, no memory, or, unless `allow_float`, a bundle in
    INT8 or FP8 whose engine is not.
    """
    bundle = open_bundle(path)
    manifest = bundle.manifest
    if manifest.backend.name != "tensorrt":
        raise UsageError(_not_for_tensorrt(path, manifest.backend.name))
    target = Path(out) if out is not None else bundle.path
    if out is not None and target.exists():
        raise UsageError(f"{target} exists already: give another --out, or none to compile in place")
    plan, graph = _changed(read_plan(bundle), changes or {}), bundle.read(GRAPH)
    api = Api()
    check_dla(plan, api.version, manifest.precision.requested)
    cuda = open_cuda()
    try:
        key = engine_key(bundle, api.version, cuda.gpu())
        given = manifest.input
        sample = (given.frames, len(given.joints), len(given.channels))
        cache = _cache_file(key)
        tell(f"TensorRT {api.version} compiles for {key.device}: some minutes on a Jetson", 0, 0)
        engine, timings = cuda.inside(lambda: api.build(graph, INPUT, sample, plan, _read(cache), tell))
        tell("reading the layers back", 0, 0)
        information = cuda.inside(
            lambda: api.information(api.deserialize(engine, plan.version_compatible, plan.dla_core))
        )
    finally:
        cuda.close()
    layers = executed(manifest.precision.layers, information)
    if not allow_float:
        check_precision(manifest.precision.layers, layers, manifest.precision.requested)
    cache.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(cache, timings)
    digest = hashlib.sha256(engine).hexdigest()
    compatible, core = plan.version_compatible, plan.dla_core
    record = signed(EngineRecord(key=key, engine_sha256=digest, version_compatible=compatible, dla_core=core))
    artifacts = {entry.path: bundle.read(entry.path) for entry in manifest.files}
    artifacts |= {PLAN: as_file(plan), ENGINE: engine, RECORD: written(record)}
    return write_bundle(target, _compiled(manifest, layers, api.version), artifacts, force=out is None)


def _not_for_tensorrt(path: object, backend: str) -> str:
    if backend == "native":
        return (
            f"{path} is for native, which needs no compiling on a CPU: give --gpu with the chip, --gpu sm_87, to add "
            "kernels for a GPU, or build --backend tensorrt for TensorRT"
        )
    return f"{path} is for {backend}, which needs no compiling: build --backend tensorrt first"


def missing_here() -> str | None:
    """Why nothing can be compiled on this machine, or None where TensorRT and a device are here."""
    try:
        import_tensorrt()
        open_cuda().close()
    except BackendError as error:
        return str(error)
    return None


def engine_key(bundle: Bundle, version: str, gpu: Gpu) -> EngineKey:
    """What an engine of this bundle depends on, here and now."""
    manifest = bundle.manifest
    return EngineKey(
        graph_sha256=next(entry.sha256 for entry in manifest.files if entry.path == GRAPH),
        weights_sha256=manifest.model.weights_sha256, precision=manifest.precision.requested,
        tensorrt=version, device=gpu.name, capability=gpu.capability, driver=gpu.driver,
    )  # fmt: skip


def read_plan(bundle: Bundle) -> BuildPlan:
    """The bundle's build plan; raises BundleError."""
    try:
        return BuildPlan.model_validate_json(bundle.read(PLAN))
    except ValidationError as error:
        raise BundleError(f"{bundle.path}: {PLAN} cannot be used: {error.errors()[0]['msg']}; build it again") from None


def as_file(plan: BuildPlan) -> bytes:
    """The plan as it stands in a bundle."""
    return plan.model_dump_json(indent=2).encode() + b"\n"


def _changed(plan: BuildPlan, changes: Mapping[str, object]) -> BuildPlan:
    try:
        return BuildPlan.model_validate({**plan.model_dump(), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        field = " ".join(map(str, first["loc"]))
        raise UsageError(f"the build plan cannot be used: {field}{': ' if field else ''}{first['msg']}") from None


def _compiled(manifest: Manifest, layers: tuple[object, ...], version: str) -> Manifest:
    fields = manifest.model_dump()
    fields["precision"]["layers"] = [layer.model_dump() for layer in layers]  # type: ignore[attr-defined]
    narrow = {each["name"] for each in fields["precision"]["layers"] if each["precision"] in ("int8", "fp8", "w8a16")}
    kept = [name for name in fields["precision"]["left_in_float"] if name not in narrow]
    fields["precision"]["left_in_float"] = kept
    fields["backend"] = BackendSpec(name="tensorrt", version=version, versions=manifest.backend.versions).model_dump()
    return Manifest.model_validate({**fields, "files": ()})


def _cache_file(key: EngineKey) -> Path:
    """Where timings of this device and TensorRT are kept: TensorRT refuses those of another by itself."""
    folder = Path(os.environ.get("PSTMO_EDGE_CACHE") or Path.home() / ".cache" / "pstmo-edge")
    name = hashlib.sha256(f"{key.tensorrt} {key.device} {key.capability} {key.driver}".encode()).hexdigest()
    return folder / f"tensorrt-{name[:16]}.timing"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def need_engine(bundle: Bundle) -> None:
    """Raise BackendError where the bundle was not compiled yet."""
    if not any(entry.path == ENGINE for entry in bundle.manifest.files):
        raise BackendError(f"{bundle.path} is portable and not compiled yet: `pstmo-edge compile {bundle.path}` here")
