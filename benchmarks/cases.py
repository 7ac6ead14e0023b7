"""What a benchmark is asked to measure, and what is known of it before it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from pstmo_edge.backends import BACKENDS, installed_version
from pstmo_edge.benchmarks.rows import Row
from pstmo_edge.bundle import open_bundle
from pstmo_edge.errors import PstmoEdgeError
from pstmo_edge.manifest import Manifest

UNKNOWN = "?"  # the backend and precision of a bundle that does not open
DEFAULT_ROWS = (
    ("torch", "fp32"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "int8"),
)


@dataclass(frozen=True)
class BundleCase:
    """An engine that exists."""

    path: Path


@dataclass(frozen=True)
class BuildCase:
    """An engine to be built from a torch model of the zoo."""

    model: Any
    backend: str
    precision: str


Case: TypeAlias = BundleCase | BuildCase


def default_cases(model: Any, bundles: Sequence[str | os.PathLike[str]] = ()) -> list[Case]:
    """The default rows of a model in order, each from a fitting bundle where there is one; other bundles follow."""
    given = [Path(path) for path in bundles]
    fitting = {key: path for path in given if (key := _fits(path, model)) is not None}
    cases: list[Case] = [BundleCase(fitting[row]) if row in fitting else BuildCase(model, *row) for row in DEFAULT_ROWS]
    used = {case.path for case in cases if isinstance(case, BundleCase)}
    return cases + [BundleCase(path) for path in given if path not in used]


def empty_row(case: Case) -> Row:
    """What is known of a case before it is opened."""
    if isinstance(case, BuildCase):
        lifter = case.model.lifter
        return Row(case.backend, case.precision, "ok", model=lifter.name, frames=lifter.frames)
    row = Row(UNKNOWN, UNKNOWN, "ok", name=case.path.name or str(case.path))
    try:
        return described(row, open_bundle(case.path).manifest)
    except PstmoEdgeError:
        return row  # opening it again says why


def described(row: Row, manifest: Manifest) -> Row:
    """The row with all that the manifest tells."""
    accuracy, precision = manifest.accuracy, manifest.precision
    return replace(
        row,
        backend=manifest.backend.name,
        precision=precision.requested,
        model=manifest.model.name,
        frames=manifest.input.frames,
        size_bytes=sum(entry.size for entry in manifest.files),
        mpjpe_mm=accuracy.after.mpjpe_mm if accuracy else None,
        change_mm=accuracy.drop_mm if accuracy else None,
        lookahead_ms=manifest.input.lookahead_ms,
        int8_share=precision.int8_share if precision.layers else None,
        left_in_float=precision.left_in_float,
    )


def runtime_installed(case: Case, backend: str) -> bool:
    """Whether the packages are there that this case needs of its backend."""
    known = BACKENDS.get(backend)
    if known is None:
        return True  # the trouble is another
    building = isinstance(case, BuildCase) and case.precision == "int8"
    packages = known.packages + (known.build_packages if building else ())
    return all(installed_version(package) for package in packages)


def _fits(path: Path, model: Any) -> tuple[str, str] | None:
    """The (backend, precision) of a bundle made of this model's weights for this window, else None."""
    try:
        manifest = open_bundle(path).manifest
    except PstmoEdgeError:
        return None
    if manifest.model.weights_sha256 != model.lifter.weights_sha256:
        return None
    return manifest.backend.name, manifest.precision.requested
