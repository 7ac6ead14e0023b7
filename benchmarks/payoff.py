"""Whether INT8 pays on this device: the precisions of one backend side by side, in milliseconds and millimetres.

`pstmo-edge build` shows it after every INT8 build: on many CPUs and models INT8 is no faster, and tools do not say so.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.backends import get_backend
from pstmo_edge.benchmarks.timing import Latency, TimingPlan, time_interleaved
from pstmo_edge.building import build
from pstmo_edge.engine import Engine, load_engine
from pstmo_edge.errors import PstmoEdgeError
from pstmo_edge.preparing import Prepared
from pstmo_edge.windows import WindowSource

if TYPE_CHECKING:
    from torch import nn

PLAN = TimingPlan(rounds=4, slice_s=0.25, warmup_s=0.25)  # 6 seconds for four engines
_CANDIDATES = ("fp32", "fp16", "bf16", "int8")
_SAME = 0.03  # times that differ by less are the same
_WINDOWS = 64
_NO_LIMIT_MM = 1e6  # what is compared is not refused

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Choice:
    """One precision: the median time of a forward, what it adds to the error, and the size of its files.

    `change_mm` is that of the MPJPE against the fp32 model, None where weights mean nothing. `noise` is half the range
    of the rounds' medians, relative to the median.
    """

    precision: str
    p50_ms: float
    noise: float
    change_mm: float | None
    size_bytes: int


@dataclass(frozen=True)
class Payoff:
    """The precisions of a backend on this device, those that failed with why, and the limit on the error."""

    backend: str
    choices: tuple[Choice, ...]
    failed: dict[str, str]
    max_drop_mm: float

    @property
    def recommended(self) -> str:
        """The fastest precision within the limit; of those that are as fast, the one that adds least to the error."""
        allowed = [choice for choice in self.choices if (choice.change_mm or 0.0) <= self.max_drop_mm]
        fastest = min(allowed or self.choices, key=lambda choice: choice.p50_ms)
        alike = [choice for choice in allowed or self.choices if not _faster(fastest, choice)]
        return min(alike, key=lambda choice: (choice.precision != "fp32", abs(choice.change_mm or 0.0))).precision

    def lines(self) -> list[str]:
        """What to use and why, in a sentence or two."""
        found = {choice.precision: choice for choice in self.choices}
        best = found[self.recommended]
        if not {"fp32", "int8"} <= found.keys():
            return [f"Use {best.precision} here: {_figures(best)}."]
        int8, fp32 = found["int8"], found["fp32"]
        if best is int8:
            gain = fp32.p50_ms / int8.p50_ms
            size = int8.size_bytes / fp32.size_bytes
            text = f"INT8 pays here: {gain:.2f} times as fast as fp32 ({_figures(int8)} against {fp32.p50_ms:.2f} ms)"
            return [f"{text}; its file is {size:.2f} of the size."]
        why = "is no faster" if not _faster(int8, fp32) else f"is not the best ({best.precision} is)"
        if (int8.change_mm or 0.0) > self.max_drop_mm:
            why = f"costs more than {self.max_drop_mm:g} mm"
        return [
            f"INT8 does not pay here: it {why} ({_figures(int8)}; fp32 {_figures(fp32)}).",
            f"Use --precision {best.precision}: {_figures(best)}.",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**dataclasses.asdict(self), "recommended": self.recommended, "text": " ".join(self.lines())}


def _faster(one: Choice, other: Choice) -> bool:
    """Whether it is faster by more than the noise of the two."""
    return other.p50_ms > one.p50_ms * (1 + max(_SAME, one.noise + other.noise))


def _figures(choice: Choice) -> str:
    change = "" if choice.change_mm is None else f", {choice.change_mm:+.2f} mm"
    return f"{choice.p50_ms:.2f} ms a forward{change}"


def candidates(backend: str) -> tuple[str, ...]:
    """The precisions worth measuring: ONNX Runtime computes bf16 weights in float32, as it does fp16 ones."""
    offered = get_backend(backend).precisions
    return tuple(each for each in _CANDIDATES if each in offered and (backend, each) != ("onnxruntime", "bf16"))


def measure(
    model: nn.Module,
    backend: str,
    prepared: Prepared,
    built: Path | None = None,
    *,
    max_drop_mm: float = 1.0,
    plan: TimingPlan = PLAN,
    progress: Progress = lambda text, done, total: None,
    **options: Any,
) -> Payoff:
    """Build every candidate in a temporary folder and time them in turns, one window at a time.

    `built` is a bundle that is there already; `options` are those of `build`, such as the target and the data.
    """
    engines: dict[str, Engine] = {}
    failed: dict[str, str] = {}
    known = None if built is None else load_engine(built)
    with tempfile.TemporaryDirectory() as folder:
        for precision in candidates(backend):
            if known is not None and known.manifest.precision.requested == precision:
                engines[precision] = known
                continue
            out = Path(folder) / precision
            try:
                build(
                    model, precision, backend, out=out, prepared=prepared, max_drop_mm=_NO_LIMIT_MM, progress=progress,
                    **options,
                )  # fmt: skip
                engines[precision] = load_engine(out)
            except PstmoEdgeError as error:  # a precision that this device lacks is no reason to fail
                failed[precision] = str(error)
        progress(f"timing {', '.join(engines)} on this device", 0, 0)
        times = _timed(engines, prepared, plan)
    choices = []
    for precision, engine in engines.items():
        time = times[precision]
        if isinstance(time, Latency):
            choices.append(_choice(precision, engine, time))
        else:
            failed[precision] = str(time)
    return Payoff(backend, tuple(choices), failed, max_drop_mm)


def _timed(engines: dict[str, Engine], prepared: Prepared, plan: TimingPlan) -> dict[str, Latency | Exception]:
    windows = _windows(next(iter(engines.values())), prepared)
    names = list(engines)
    found = time_interleaved({i: (engines[name].infer, windows) for i, name in enumerate(names)}, plan)
    return {name: found[i] for i, name in enumerate(names)}


def _windows(engine: Engine, prepared: Prepared) -> list[FloatArray]:
    """Single windows (1, T, 17, C) of held-out motion."""
    from pstmo_edge.export import random_keypoints

    spec = engine.spec
    if not prepared.held_out:
        return [random_keypoints(1, spec.frames, spec.channels)]
    source = WindowSource([prepared.held_out[0].inputs(spec.channels)], spec)
    _, windows = next(iter(source.batches(_WINDOWS)))
    return [np.ascontiguousarray(window[None]) for window in windows]


def _choice(precision: str, engine: Engine, time: Latency) -> Choice:
    accuracy = engine.manifest.accuracy
    size = sum(entry.size for entry in engine.manifest.files)
    return Choice(precision, time.p50_ms, time.noise, None if accuracy is None else accuracy.drop_mm, size)
