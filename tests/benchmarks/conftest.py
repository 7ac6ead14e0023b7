"""Small stand-ins: a lifter whose error is known, motion it can lift, and the bundles and engines made of it."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pstmo_edge.benchmarks import moments, provenance
from pstmo_edge.benchmarks.checks import held_out
from pstmo_edge.benchmarks.provenance import Settings
from pstmo_edge.benchmarks.references import References
from pstmo_edge.benchmarks.report import Report
from pstmo_edge.benchmarks.rows import Row, recommend, summary
from pstmo_edge.benchmarks.timing import TimingPlan
from pstmo_edge.bundle import (
    Accuracy,
    BackendSpec,
    Errors,
    InputSpec,
    Manifest,
    ModelSpec,
    OutputSpec,
    PrecisionSpec,
    TargetSpec,
)
from pstmo_edge.datasets.sequences import PoseSequence
from pstmo_edge.skeletons import HUMAN36M
from pstmo_edge.windows import WindowSpec

SPEC = WindowSpec(9)
DIGEST = "a" * 64
BIAS_MM = 20.0
ERROR_MM = BIAS_MM * 16 / 17  # the root is at the origin by definition, so 16 of 17 joints are off


def true_pose(keypoints):
    """Poses that follow from keypoints (..., 17, 2): depth is a third of the sum; root-relative."""
    whole = np.concatenate([keypoints, keypoints.sum(-1, keepdims=True) / 3], -1)
    return (whole - whole[..., :1, :]).astype(np.float32)


def lift(windows):
    """What the float model predicts: the truth, 20 mm too far away."""
    poses = true_pose(windows[:, SPEC.target])
    poses[..., 2] += BIAS_MM / 1000
    return poses


def make_sequences(frames=60):
    rng = np.random.default_rng(7)
    made = []
    for action in ("Walking 1", "Sitting", "<b>Waving</b> 2"):
        standing = rng.uniform(-0.4, 0.4, (1, 17, 2))
        keypoints = (standing + rng.normal(0, 0.01, (frames, 17, 2)).cumsum(0)).astype(np.float32)
        made.append(PoseSequence("S9", action, "1", keypoints, true_pose(keypoints), 50.0, (1000, 1000)))
    return tuple(made)


def make_manifest(backend="onnxruntime", precision="fp32", drop=0.0, digest=DIGEST, accuracy=True):
    def errors(mpjpe):
        return Errors(mpjpe_mm=mpjpe, p_mpjpe_mm=mpjpe, mpjve_mm=1.0)

    return Manifest(
        pstmo_edge_version="0",
        input=InputSpec(
            skeleton=HUMAN36M.name,
            joints=HUMAN36M.joints,
            frames=SPEC.frames,
            frame_rate=50.0,
            target_index=SPEC.target,
            lookahead_frames=4,
        ),
        output=OutputSpec(skeleton=HUMAN36M.name, joints=HUMAN36M.joints),
        model=ModelSpec(name="p-stmo-s", parameters=1, weights_sha256=digest),
        precision=PrecisionSpec(requested=precision),
        target=TargetSpec(name="generic"),
        backend=BackendSpec(name=backend, version="1"),
        accuracy=Accuracy(
            data="toy motion", keypoints="gt", before=errors(ERROR_MM), after=errors(ERROR_MM + drop), max_drop_mm=1.0
        )
        if accuracy
        else None,
    )


class FakeEngine:
    """An opened bundle that computes `infer` and remembers the batch sizes it was asked for."""

    def __init__(self, manifest, infer=lift):
        self.manifest, self.spec, self.batches = manifest, SPEC, []
        self._infer = infer

    def infer(self, windows):
        self.batches.append(len(windows))
        return self._infer(windows)


def make_model():
    return SimpleNamespace(
        lifter=SimpleNamespace(name="p-stmo-s", frames=9, weights="toy", weights_sha256=DIGEST, emitted=None),
        predict=lift,
    )


@pytest.fixture
def settings():
    return Settings(check_windows=40, timing_windows=4, timing=TimingPlan(2, 0.002, 0.0, 0.002))


@pytest.fixture
def shop(monkeypatch):
    """Where engines come from instead of a build: (backend, precision) to an engine, or to an error to raise."""
    build_module = import_module("pstmo_edge.building")
    prepare_module = import_module("pstmo_edge.preparing")
    engine_module = import_module("pstmo_edge.engine")

    stock: dict = {}
    built: dict = {}
    shop = SimpleNamespace(stock=stock, built=built, prepared=0)

    def build(model, precision, backend, *, out, **options):
        made = stock[backend, precision]
        if isinstance(made, Exception):
            raise made
        built[Path(out)] = made, options

    def prepare(model, **options):
        shop.prepared += 1
        return "graph"

    monkeypatch.setattr(build_module, "build", build)
    monkeypatch.setattr(prepare_module, "prepare", prepare)
    monkeypatch.setattr(prepare_module, "check_request", lambda *request, **options: None)
    monkeypatch.setattr(engine_module, "load_engine", lambda path, threads=None: built[Path(path)][0])
    monkeypatch.setattr(
        References, "_session", lambda self, manifest: self._models[manifest.model.weights_sha256].predict
    )
    return shop


def _row(backend="onnxruntime", precision="fp32", p50=4.0, **values):
    known = {
        "size_bytes": 18_000_000 if precision == "fp32" else 5_000_000,
        "mpjpe_mm": 45.0,
        "change_mm": 0.0,
        "p90_ms": p50 * 1.2,
        "p99_ms": p50 * 2,
        "fps": 900 / p50,
        "samples": 100,
        "noise": 0.02,
        "lookahead_ms": 80.0,
        "model": "p-stmo-s",
        "frames": 9,
    }
    return Row(backend, precision, "ok", p50_ms=p50, **{**known, **values})


@pytest.fixture
def make_row():
    """A row that passed its check, with any value changed."""
    return _row


@pytest.fixture
def fakes():
    """The stand-ins themselves."""
    return SimpleNamespace(
        SPEC=SPEC,
        DIGEST=DIGEST,
        ERROR_MM=ERROR_MM,
        Engine=FakeEngine,
        lift=lift,
        manifest=make_manifest,
        model=make_model,
        sequences=make_sequences,
    )


@pytest.fixture
def report(settings):
    """A report of three rows, one of them failed, with text that would break a page which does not escape it."""
    rows = recommend(
        (
            _row("torch", "fp32", 8.0),
            _row("onnxruntime", "int8", 3.0, mpjpe_mm=45.1, change_mm=0.1, left_in_float=("fcn.1",), int8_share=0.97),
            Row("openvino", "int8", "failed", "refused: <script>alert('x')</script> & more", name="<i>my</i> engine"),
        ),
        max_drop_mm=1.0,
    )
    data = held_out(make_sequences(), SPEC, 40)
    return Report(
        rows=rows,
        summary=summary(rows, 1.0),
        data="toy <motion>",
        checked_windows=40,
        provenance={**provenance.collect(settings), "cpu": "Fast & <Cheap> CPU"},
        shown=rows[1].title,
        moments=moments.choose(lift(data.windows), data),
        actions={"<b>Waving</b>": {"mpjpe_mm": 19.0, "windows": 20}, "Sitting": {"mpjpe_mm": 18.0, "windows": 20}},
    )


@pytest.fixture
def many(report, make_row):
    """A report of three models: one with errors, one without weights, one of which an engine failed.

    Speeds and errors are such that their order as text is not that of the numbers.
    """
    published = {"mpjpe_mm": 43.0, "fps": 3504, "device": "a GPU of theirs"}
    random = {"mpjpe_mm": None, "change_mm": None, "weights": "random"}

    def rows(model, speeds, **values):
        kinds = (("torch", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8"))
        for (backend, precision), fps in zip(kinds, speeds, strict=True):
            p50 = 1e3 / fps
            spread = tuple(p50 * (0.9 + 0.01 * step + 0.001 * step**2) for step in range(21))
            known = {"fps": float(fps), "poses_per_s": float(fps), "percentiles_ms": spread, "jitter_ms": p50 / 20}
            yield make_row(backend, precision, p50, **{**known, "model": model, "frames": 27, **values})

    first = list(rows("p-stmo-s", (99, 560, 1102), mpjpe_mm=45.25, p_mpjpe_mm=38.5, published=published, mflop=181.0))
    first[2] = dataclasses.replace(first[2], mpjpe_mm=45.3, change_mm=0.05, int8_share=0.97)
    third = [*rows("videopose3d", (203, 1500, 20), mpjpe_mm=102.5, change_mm=-0.004)]
    third[2] = Row("onnxruntime", "int8", "failed", "no range for <conv>", model="videopose3d", frames=27)
    every = (*first, *rows("anatomy3d", (9, 62, 101), **random), *third)
    return dataclasses.replace(report, rows=every, summary=summary(every, 1.0))


@pytest.fixture
def no_moments(report):
    return dataclasses.replace(report, moments=(), actions={}, shown="")
