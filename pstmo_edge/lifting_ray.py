"""`lift` on a Ray cluster, by Ray Data. Recordings, engine and output must have the same paths on every node.

Ray runs a task again whose worker died; since a file of poses is written whole or not at all, and one that is there is
left alone, each is there exactly once all the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pstmo_edge.backends import installed_version
from pstmo_edge.engine import load_engine
from pstmo_edge.errors import BackendError, UsageError
from pstmo_edge.lifting import BATCH, Job, Lifter, Outcome, Summary, output_folder

FILES = 64  # a task: small enough that a lost one is cheap, large enough that Ray's own cost is not felt
LOCAL = "local"  # an address: start Ray here, for this run


class _Worker:
    """One process with an engine of its own."""

    def __init__(self, engine: str, batch: int, threads: int) -> None:
        self.lifter = Lifter(load_engine(engine, threads), batch)

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        jobs = [Job(Path(source), Path(target)) for source, target in zip(rows["source"], rows["target"], strict=True)]
        done = [asdict(outcome) for outcome in self.lifter.run(jobs)]
        return {name: [each[name] for each in done] for name in Outcome.__dataclass_fields__}


def lift(
    engine: Path,
    jobs: Sequence[Job],
    out: Path,
    address: str,
    workers: int | None = None,
    threads: int = 1,
    batch: int = BATCH,
    told: Callable[[Outcome], None] = lambda outcome: None,
) -> Summary:
    """Lift all recordings with `workers` processes of `threads` each (by default as many as the cluster has room for).

    `address` is that of a running cluster ("auto": the one of this machine), or "local". Raises BackendError where Ray
    is missing or does not answer.
    """
    ray = _connect(address)
    try:
        room = int(ray.cluster_resources().get("CPU", 1)) // threads
        if (workers or 1) > room:
            raise UsageError(f"{workers} workers of {threads} threads do not fit: the cluster has room for {room}")
        summary, opened = Summary(), load_engine(engine, threads)
        with output_folder(out, opened.bundle):
            absolute = [{name: os.path.abspath(path) for name, path in vars(job).items()} for job in jobs]
            rows = ray.data.from_items(absolute, override_num_blocks=max(1, -(-len(jobs) // FILES)))
            pool = ray.data.ActorPoolStrategy(size=min(workers or room, -(-len(jobs) // FILES)))
            lifted = rows.map_batches(
                _Worker, batch_size=FILES, num_cpus=threads, compute=pool,
                fn_constructor_args=(os.path.abspath(engine), batch, threads),
            )  # fmt: skip
            for row in lifted.iter_rows():
                outcome = Outcome(**row)
                summary.add(outcome)
                told(outcome)
        return summary
    finally:
        ray.shutdown()


def _connect(address: str) -> Any:
    if installed_version("ray") is None:
        raise BackendError("Ray is not installed: pip install 'pstmo-edge[ray]', on every node")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    import logging

    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)

    try:
        ray.init(address=None if address == LOCAL else address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackendError(f"no Ray cluster answers at {address} ({reason}): start one, or give --ray local") from None
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray
