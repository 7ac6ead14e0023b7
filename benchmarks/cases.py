"""What a benchmark is asked to measure, and what is known of it before it runs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from pstmo_edge.backends import BACKENDS, installed_version, runs
from pstmo_edge.benchmarks.published import PUBLISHED, TABLES
from pstmo_edge.benchmarks.rows import Row
from pstmo_edge.bundle import open_bundle
from pstmo_edge.errors import DataError, PstmoEdgeError, UsageError
from pstmo_edge.manifest import Manifest
from pstmo_edge.naming import unknown

UNKNOWN = "?"  # the backend and precision of a bundle that does not open
DEFAULT_ROWS = (
    ("torch", "fp32"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "int8"),
    ("native", "fp32"),
    ("native", "int8"),
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


def default_rows(model: Any) -> list[tuple[str, str]]:
    """Those of DEFAULT_ROWS whose backend can run this model."""
    return [row for row in DEFAULT_ROWS if runs(row[0], model.lifter)]


def default_cases(model: Any, bundles: Sequence[str | os.PathLike[str]] = ()) -> list[Case]:
    """The default rows of a model in order, each from a fitting bundle where there is one; other bundles follow."""
    given = [Path(path) for path in bundles]
    fitting = {key: path for path in given if (key := _fits(path, model)) is not None}
    cases: list[Case] = [
        BundleCase(fitting[row]) if row in fitting else BuildCase(model, *row) for row in default_rows(model)
    ]
    used = {case.path for case in cases if isinstance(case, BundleCase)}
    return cases + [BundleCase(path) for path in given if path not in used]


def table_cases(table: str, weights: Path | None = None) -> list[Case]:
    """The default rows of every model of a table (TABLES), with weights from a folder, the box, or at random.

    The folder holds NAME-FRAMES with any of the endings that `load_model` opens, or as the folder of a training run.
    Raises UsageError and CheckpointError.
    """
    if table not in TABLES:
        raise unknown("table", table, TABLES)
    if weights is not None and not weights.is_dir():
        raise DataError(f"no such folder of weights: {weights}")
    models = [with_weights(*wanted, weights) for wanted in TABLES[table]]
    return [BuildCase(model, *row) for model in models for row in default_rows(model)]


def model_cases(text: str) -> list[Case]:
    """The default rows of weights in the box, by their name, or of NAME-FRAMES with random ones; raises UsageError."""
    from pstmo_edge.models.zoo import bundled_weights, load_model

    if text in bundled_weights():
        model = load_model(checkpoint=text)
    else:
        name, _, frames = text.rpartition("-")
        if not frames.isdigit():
            have = ", ".join(bundled_weights())
            raise UsageError(f"{text} is neither an engine nor weights in the box ({have}) nor a model as p-stmo-s-243")
        model = with_weights(name, int(frames), None)
    return [BuildCase(model, *row) for row in default_rows(model)]


def with_weights(name: str, frames: int, folder: Path | None) -> Any:
    """A model of the zoo, in evaluation mode; without weights its random ones are the same at every call."""
    import torch

    from pstmo_edge.models.zoo import bundled_weights, create_model, load_model

    stem = f"{name}-{frames}"
    found = sorted(folder.glob(f"{stem}*")) if folder is not None else []
    fitting = [path for path in found if path.name == stem or path.stem == stem]
    if len(fitting) > 1:
        raise UsageError(f"{folder} holds more than one {stem}: {', '.join(path.name for path in fitting)}")
    if fitting:
        return load_model(name, frames, fitting[0])
    if stem in bundled_weights():
        return load_model(name, frames)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _as_if_trained(create_model(name, frames))


def _as_if_trained(model: Any) -> Any:
    """Random statistics for the BatchNorms: those of a fresh model are all alike, so its graph would be simpler."""
    from torch import nn

    from pstmo_edge.models.zoo import weights_digest

    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            for values, low, high in (
                (module.weight.data, 0.8, 1.2),
                (module.bias.data, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.8, 1.2),
            ):
                values.uniform_(low, high)
    model.lifter = dataclasses.replace(model.lifter, weights_sha256=weights_digest(model))
    return model.eval()


def empty_row(case: Case) -> Row:
    """What is known of a case before it is opened."""
    if isinstance(case, BuildCase):
        lifter = case.model.lifter
        random = "random" if lifter.weights == "random" else ""
        published = PUBLISHED.get((lifter.name, lifter.frames))
        return Row(
            case.backend,
            case.precision,
            "ok",
            model=lifter.name,
            frames=lifter.frames,
            weights=random,
            published=published if lifter.emitted is None else None,
            emitted=1 if lifter.emitted is None else lifter.emitted[1],
        )
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
        p_mpjpe_mm=accuracy.after.p_mpjpe_mm if accuracy else None,
        change_mm=accuracy.drop_mm if accuracy else None,
        parameters=manifest.model.parameters,
        lookahead_ms=manifest.input.lookahead_ms,
        int8_share=precision.int8_share if precision.layers else None,
        left_in_float=precision.left_in_float,
        emitted=manifest.poses_a_window,
    )


def runtime_installed(backend: str) -> bool:
    """Whether the packages of a backend are there; where there is no such backend the trouble is another."""
    return backend not in BACKENDS or all(installed_version(package) for package in BACKENDS[backend].packages)


def _fits(path: Path, model: Any) -> tuple[str, str] | None:
    """The (backend, precision) of a bundle made of this model's weights for the same frames, else None."""
    try:
        manifest = open_bundle(path).manifest
    except PstmoEdgeError:
        return None
    if (manifest.model.weights_sha256, manifest.emitted) != (model.lifter.weights_sha256, model.lifter.emitted):
        return None
    return manifest.backend.name, manifest.precision.requested
