"""The runtimes that open a bundle, one file each, found by name.

A backend module has `open_session(bundle, threads)` that returns a `Session`; nothing else is asked of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Protocol

from pstmo_edge.arrays import FloatArray
from pstmo_edge.errors import BackendError, UsageError
from pstmo_edge.kernels import native as library
from pstmo_edge.manifest import Precision
from pstmo_edge.naming import unknown

if TYPE_CHECKING:
    from pstmo_edge.bundle import Bundle
    from pstmo_edge.models.zoo import Lifter

LIBRARY = "libpstmo_edge"  # what the native backend needs: no package, but it has a version


class Session(Protocol):
    """An opened engine."""

    def run(self, keypoints: FloatArray) -> FloatArray:
        """Normalised keypoints (B, T, 17, 2) float32 to poses (B, 17, 3), or (B, K, 17, 3), float32 in metres."""
        ...


@dataclass(frozen=True)
class Backend:
    """One line of the table: the packages it needs, the extra that brings them, the precisions it can be built in.

    The first package's version is the backend's. `models` are those it can run, by name; empty: all.
    """

    name: str
    packages: tuple[str, ...]
    extra: str
    precisions: tuple[str, ...]
    models: tuple[str, ...] = ()
    # What builds and measures its bundles, where that is something else than what runs them.
    built_with: tuple[str, ...] = ()


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("torch", ("torch",), "build", ("fp32", "fp16")),
        Backend("onnxruntime", ("onnxruntime",), "build", ("fp32", "fp16", "bf16", "int8", "fp8", "w8a16", "w4")),
        Backend("openvino", ("openvino",), "openvino", ("fp32", "fp16", "bf16", "int8")),
        Backend("native", (LIBRARY,), "", ("fp32", "int8", "w8a16"), models=("p-stmo", "p-stmo-s")),
        Backend(
            "tensorrt", ("tensorrt",), "build", ("fp32", "fp16", "bf16", "int8", "fp8"), built_with=("onnxruntime",)
        ),
    )
}
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8", "fp8", "w8a16", "w4")
CALIBRATED: tuple[Precision, ...] = ("int8", "fp8", "w8a16", "w4")  # those that need windows to be built


_DISTRIBUTIONS = {"tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")}  # the first is also JetPack's


def as_precision(name: str) -> Precision:
    """The name, if it is that of a precision; raises UsageError with the nearest match."""
    for precision in PRECISIONS:
        if precision == name:
            return precision
    raise unknown("precision", name, PRECISIONS)


def get_backend(name: str, precision: Precision | None = None) -> Backend:
    """The backend called `name`, if it can be built in `precision`; raises UsageError."""
    if name not in BACKENDS:
        raise unknown("backend", name, BACKENDS)
    backend = BACKENDS[name]
    if precision is not None and precision not in backend.precisions:
        others = [other.name for other in BACKENDS.values() if precision in other.precisions]
        raise UsageError(
            f"{name} bundles come in {', '.join(backend.precisions)}, not in {precision}: choose one of these"
            + (f", or --backend {' or '.join(others)}" if others else "")
        )
    return backend


def runs(name: str, lifter: Lifter) -> bool:
    """Whether the backend called `name` can run this model."""
    models = BACKENDS[name].models
    return not models or (lifter.name in models and lifter.emitted is None)


def default_backend(precision: str, lifter: Lifter) -> str:
    """Our own library where it is installed and runs this model in this precision, else onnxruntime."""
    ours = precision in BACKENDS["native"].precisions and runs("native", lifter) and library.available()
    return "native" if ours else "onnxruntime"


def check_lifter(name: str, lifter: Lifter) -> None:
    """Raise UsageError unless the backend called `name` can run this model."""
    models = get_backend(name).models
    if models and lifter.name not in models:
        raise UsageError(f"{name} runs {' and '.join(models)}, not {lifter.name}: choose --backend onnxruntime")
    if models and lifter.emitted is not None:
        raise UsageError(f"{name} gives one pose a window, not {lifter.emitted[1]}: choose --backend onnxruntime")


def installed_version(package: str) -> str | None:
    """The version of an installed package, without importing it, or of the native library."""
    if package == LIBRARY:
        return library.version()
    for name in _DISTRIBUTIONS.get(package, (package,)):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def require(name: str, *, building: bool = False) -> dict[str, str]:
    """Versions of the packages a backend needs; raises BackendError with the command that installs what is missing."""
    backend = get_backend(name)
    packages = backend.built_with if building and backend.built_with else backend.packages
    versions = {package: installed_version(package) for package in packages}
    missing = [package for package, version in versions.items() if version is None]
    if LIBRARY in missing:
        raise BackendError(f"the {name} backend needs {LIBRARY}: {library.why_unavailable()}")
    if missing == ["tensorrt"]:
        raise BackendError(
            "the tensorrt backend needs TensorRT 10.3 to 11.x, not installed here: on a Jetson apt install "
            "python3-libnvinfer and a venv with --system-site-packages, elsewhere pip install 'tensorrt>=10.3,<12'"
        )
    if missing:
        raise BackendError(
            f"the {name} backend needs {' and '.join(missing)}, not installed here: "
            f"pip install 'pstmo-edge[{backend.extra}]'"
        )
    return {package: version for package, version in versions.items() if version is not None}


def open_session(bundle: Bundle, threads: int | None = None) -> Session:
    """Open a verified bundle with the backend its manifest names; raises BackendError."""
    name = bundle.manifest.backend.name
    require(name)
    session: Session = import_module(f"pstmo_edge.backends.{name}").open_session(bundle, threads)
    return session
