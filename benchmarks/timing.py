"""Latency of one window at a time, all engines interleaved so that a noisy machine is unkind to each alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import TypeAlias

import numpy as np

from pstmo_edge.arrays import FloatArray

Infer: TypeAlias = Callable[[FloatArray], object]
Clock: TypeAlias = Callable[[], int]  # nanoseconds

_NS = 1e9
_GAIN = 1.03  # what a doubled batch must bring to be worth its delay


@dataclass(frozen=True)
class TimingPlan:
    """How long to measure: every engine gets `rounds` slices of `slice_s` seconds, in turns.

    Each slice starts with `settle_s` seconds that do not count: the caches fill again, and the threads of the
    runtime before, which spin for a while after their last window, go to sleep.
    """

    rounds: int = 8
    slice_s: float = 0.4
    settle_s: float = 0.08
    warmup_s: float = 0.4  # once, before the first round: runtimes choose kernels and grow their memory

    def __post_init__(self) -> None:
        """Refuse a plan that measures nothing."""
        if self.rounds < 1 or self.slice_s <= 0 or self.settle_s < 0 or self.warmup_s < 0:
            raise ValueError(f"nothing would be measured: {self}")

    @property
    def seconds(self) -> float:
        """What the plan takes for one engine, in seconds."""
        return self.warmup_s + self.rounds * (self.slice_s + self.settle_s)


@dataclass(frozen=True)
class Latency:
    """How long one forward took, milliseconds; `round_p50_ms` are the medians of the rounds, in order.

    `jitter_ms` is the mean difference of one forward and the next of its round, `percentiles_ms` are the 0th, 5th, ...
    100th.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    samples: int
    round_p50_ms: tuple[float, ...]
    jitter_ms: float = 0.0
    percentiles_ms: tuple[float, ...] = ()

    @property
    def fps(self) -> float:
        """Windows a second of one stream that never waits: one over the mean, so slow windows count too."""
        return 1000.0 / self.mean_ms

    @property
    def noise(self) -> float:
        """Half the range of the rounds' medians, relative to the median of all."""
        return (max(self.round_p50_ms) - min(self.round_p50_ms)) / 2 / self.p50_ms


@dataclass
class _Stream:
    """One engine while it is timed: its windows in an endless circle, and the rounds' samples in nanoseconds."""

    infer: Infer
    windows: Iterator[FloatArray]
    rounds: list[list[int]] = field(default_factory=list)
    error: Exception | None = None


def time_interleaved(
    engines: Mapping[int, tuple[Infer, Sequence[FloatArray]]],
    plan: TimingPlan,
    *,
    advance: Callable[[float], None] | None = None,
    clock: Clock = time.perf_counter_ns,
) -> dict[int, Latency | Exception]:
    """Time every engine on its own windows (1, T, 17, 2), in turns; an engine that raises gets its error instead.

    `advance` is told the share done, 0 to 1, after every slice.
    """
    streams = {key: _Stream(infer, cycle(windows)) for key, (infer, windows) in engines.items()}
    for stream in streams.values():
        _spend(stream, plan.warmup_s, clock)
    keys = list(streams)
    for number in range(plan.rounds):
        for place in range(len(keys)):
            # The order rotates, so that no engine always follows the same neighbour.
            _slice(streams[keys[(place + number) % len(keys)]], plan, clock)
            if advance is not None:
                advance((number * len(keys) + place + 1) / (plan.rounds * len(keys)))
    return {key: stream.error or summarise(stream.rounds) for key, stream in streams.items()}


def best_batch(
    infer: Infer,
    batches: Callable[[int], Sequence[FloatArray]],
    *,
    largest: int = 256,
    seconds: float = 0.25,
    clock: Clock = time.perf_counter_ns,
) -> int:
    """The batch size, a power of two, at which the most windows pass in a second.

    `batches` gives the windows in batches of a size. The search ends when two doublings in a row bring less than 3 %.
    """
    best, fastest, size, idle = 1, 0.0, 1, 0
    while size <= largest and idle < 2:
        stream = _Stream(infer, cycle(batches(size)))
        _spend(stream, seconds / 4, clock)
        samples = _spend(stream, seconds, clock)
        if stream.error is not None:
            raise stream.error
        rate = size / float(np.median(samples))
        idle = 0 if rate > fastest * _GAIN else idle + 1
        if rate > fastest * _GAIN:
            best, fastest = size, rate
        size *= 2
    return best


def summarise(rounds: Sequence[Sequence[int]]) -> Latency:
    """The latency behind the samples of each round, nanoseconds."""
    milliseconds = np.concatenate([np.asarray(samples, np.float64) for samples in rounds]) / 1e6
    p50, p90, p99 = (float(value) for value in np.percentile(milliseconds, (50, 90, 99)))
    medians = tuple(float(np.median(samples)) / 1e6 for samples in rounds)
    steps = np.concatenate([np.abs(np.diff(np.asarray(samples, np.float64))) for samples in rounds]) / 1e6
    jitter = float(steps.mean()) if len(steps) else 0.0
    percentiles = tuple(float(value) for value in np.percentile(milliseconds, range(0, 101, 5)))
    return Latency(p50, p90, p99, float(milliseconds.mean()), len(milliseconds), medians, jitter, percentiles)


def _slice(stream: _Stream, plan: TimingPlan, clock: Clock) -> None:
    _spend(stream, plan.settle_s, clock)
    samples = _spend(stream, plan.slice_s, clock)
    if stream.error is None:
        stream.rounds.append(samples)


def _spend(stream: _Stream, seconds: float, clock: Clock) -> list[int]:
    """Run windows for that long, at least one; the time of each in nanoseconds."""
    samples: list[int] = []
    if stream.error is not None:
        return samples
    end = clock() + int(seconds * _NS)
    try:
        with _no_garbage_collection():
            while not samples or clock() < end:
                window = next(stream.windows)
                start = clock()
                stream.infer(window)
                samples.append(clock() - start)
    except Exception as error:  # whatever a runtime raises: it becomes a row, and the others go on
        stream.error = error
    return samples


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
