"""What the stages of a camera app are joined by: bounded queues that count what they drop, and latencies."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")


class BoundedQueue(Generic[T]):
    """At most `size` items between two threads; a full one drops its oldest and counts it, or makes the giver wait."""

    def __init__(self, size: int, drops: bool) -> None:
        self.size, self.drops = size, drops
        self.received = self.dropped = 0
        self._items: deque[T] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: T) -> None:
        """Add an item; after `close` it is dropped and counted."""
        with self._changed:
            while len(self._items) >= self.size and not self.drops and not self._closed:
                self._changed.wait()
            self.received += 1
            if self._closed:
                self.dropped += 1
                return
            if len(self._items) >= self.size:
                self._items.popleft()
                self.dropped += 1
            self._items.append(item)
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more comes: the taker gets what is left, and then the end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Close, and count as dropped what nobody will take."""
        with self._changed:
            self.close()
            self.dropped += len(self._items)
            self._items.clear()

    def __iter__(self) -> Iterator[T]:
        """Take items as they come, until the queue is closed and empty."""
        while True:
            with self._changed:
                while not self._items and not self._closed:
                    self._changed.wait()
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item


class Latency:
    """Durations of a stage, in bins 2 % apart from 1 microsecond to 100 seconds: as much memory after a year."""

    _FIRST, _STEP, _BINS = 1e-3, np.log(1.02), 932  # milliseconds

    def __init__(self) -> None:
        self.count, self.last_ms, self.max_ms = 0, 0.0, 0.0
        self._bins = np.zeros(self._BINS, np.int64)

    def add(self, seconds: float) -> None:
        """Count one duration."""
        ms = max(seconds * 1000.0, 0.0)
        place = int(np.log(max(ms, self._FIRST) / self._FIRST) / self._STEP)
        self._bins[min(place, self._BINS - 1)] += 1
        self.count += 1
        self.last_ms, self.max_ms = ms, max(self.max_ms, ms)

    def percentile(self, share: float) -> float:
        """The duration in milliseconds that `share` (0 to 1) of all stay under, to within 2 %; 0 for none."""
        if not self.count:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self._bins), share * self.count))
        return float(min(self._FIRST * np.exp(self._STEP * (place + 1)), self.max_ms))

    def summary(self) -> dict[str, float]:
        """Percentiles in milliseconds."""
        return {f"p{round(share * 100)}": round(self.percentile(share), 3) for share in (0.5, 0.9, 0.99)} | {
            "max": round(self.max_ms, 3)
        }
