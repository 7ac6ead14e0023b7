"""Whole sequences against frame by frame, for the models that can do both: benchmarks/results/sequences.json.

VideoPose3D and Anatomy3D share most of their work between neighbouring windows. A window a frame repeats it, one at a
time or in batches; over a sequence each layer is computed once a frame. Run as
`python -m pstmo_edge.benchmarks.sequences` from the root of the source tree: about five minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pstmo_edge.benchmarks import cases
from pstmo_edge.benchmarks.checks import SAME
from pstmo_edge.benchmarks.provenance import Settings, collect
from pstmo_edge.datasets import load_sequences
from pstmo_edge.files import write_atomic
from pstmo_edge.windows import WindowSpec, extract_windows

RESULTS = Path("benchmarks/results/sequences.json")
MODELS = (("videopose3d", 27), ("videopose3d", 243), ("anatomy3d", 27), ("anatomy3d", 243))
FRAMES = 512  # of a sequence
_ONE = WindowSpec(1)
BATCH = 64  # windows of a forward, frame by frame


def measure(name: str, frames: int, rounds: int) -> dict[str, Any]:
    """Seconds of both ways over one sequence of real motion, in turns, after their poses were found equal."""
    model = cases.with_weights(name, frames, None)
    sequence = max(load_sequences(), key=len).inputs(len(model.lifter.channels))[:FRAMES]
    spec = model.lifter.window
    padded = extract_windows(sequence, np.arange(-spec.target, len(sequence) + frames - 1 - spec.target), _ONE)[:, 0]
    whole = torch.from_numpy(padded)[None]
    windows = torch.from_numpy(extract_windows(sequence, np.arange(len(sequence)), spec))
    lengths = (model.bone_lengths(torch.from_numpy(sequence)[None]),) if name == "anatomy3d" else ()

    def by_window(size: int) -> Tensor:
        # Anatomy3D takes the bone lengths of the whole sequence each way, which costs a window far less than its own.
        return torch.cat(
            [model(batch, *(each.expand(len(batch), -1) for each in lengths)) for batch in windows.split(size)]
        )

    def at_once() -> Tensor:
        poses: Tensor = model.forward_sequence(whole)[0]
        return poses

    ways: dict[str, Callable[[], Tensor]] = {
        "frame by frame": partial(by_window, 1),
        "in batches": partial(by_window, BATCH),
        "whole": at_once,
    }
    with torch.inference_mode():
        one, two = by_window(BATCH), at_once()
        difference = float((one - two).abs().max() / one.abs().max())
        if not difference <= SAME:
            raise SystemExit(f"{name} {frames}: the two ways differ by {difference:.2g} of the largest output")
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, run in ways.items():
                seconds[way].append(_seconds(run))
    whole = seconds["whole"]
    return {
        "model": name,
        "frames": frames,
        "sequence_frames": len(sequence),
        "difference": difference,
        "seconds": seconds,
        "times_faster_than": {
            way: statistics.median(slow / fast for slow, fast in zip(found, whole, strict=True))
            for way, found in seconds.items()
            if way != "whole"
        },
    }


def _seconds(run: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    before = collect(Settings())
    rows = []
    print(f"{'model':16} {'frame by frame':>24} {f'in batches of {BATCH}':>24} {'whole':>10}   difference")
    for name, frames in MODELS:
        row = measure(name, frames, rounds)
        rows.append(row)
        middle = {way: statistics.median(found) for way, found in row["seconds"].items()}
        slow = " ".join(f"{middle[way]:13.2f} s ({more:5.1f} x)" for way, more in row["times_faster_than"].items())
        print(f"{f'{name} {frames}':16} {slow} {middle['whole']:8.2f} s   {row['difference']:.1g}", flush=True)
    results = {"batch": BATCH, "rounds": rounds, "rows": rows, "provenance": before}
    write_atomic(RESULTS, (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
