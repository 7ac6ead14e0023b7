"""`lift` on a Ray cluster, by Ray Data. Recordings, engine and output must have the same paths on every node.

Ray runs a task again whose worker died; since a file of poses is written whole or not at all, and one that is there is
left alone, each is there exactly once all the same.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pstmo_edge.backends import installed_version
from pstmo_edge.engine import load_engine
from pstmo_edge.errors import BackendError, PstmoEdgeError, UsageError
from pstmo_edge.lifting import BATCH, Job, Lifter, Outcome, Summary, output_folder

FILES = 64  # a task: small enough that a lost one is cheap, large enough that Ray's own cost is not felt
_STOPS = "stops"  # a column: why a worker cannot go on
LOCAL, RUNNING = "local", "auto"  # addresses: start Ray here, for this run; the cluster that runs here
_PATIENCE = 5.0, 10.0  # seconds that a port has to open, and a cluster to answer: Ray itself tries for minutes
_HEALTH = (sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address")  # what Kubernetes asks nodes with


class _Worker:
    """One process with an engine of its own.

    What stops a run (a full disk, an engine that this node cannot open) goes back as a row: raised here, it would reach
    the user as a page of Ray's own traceback.
    """

    def __init__(self, engine: str, batch: int, threads: int) -> None:
        self.engine, self.batch, self.threads = engine, batch, threads
        self.lifter: Lifter | None = None

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        jobs = [Job(Path(source), Path(target)) for source, target in zip(rows["source"], rows["target"], strict=True)]
        stops = ""
        try:
            self.lifter = self.lifter or Lifter(load_engine(self.engine, self.threads), self.batch)
            done = [asdict(outcome) for outcome in self.lifter.run(jobs)]
        except PstmoEdgeError as error:
            done, stops = [asdict(Outcome(""))], str(error)
        columns = {name: [each[name] for each in done] for name in Outcome.__dataclass_fields__}
        return {**columns, _STOPS: [stops] * len(done)}


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

    `address` is that of a running cluster ("auto": the one of this machine), or "local". Raises UsageError for another,
    BackendError where Ray is missing, does not answer or loses its workers, or where a worker cannot go on.
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
                stops = row.pop(_STOPS)
                if stops:
                    raise BackendError(f"a worker cannot go on: {stops}")
                outcome = Outcome(**row)
                summary.add(outcome)
                told(outcome)
        return summary
    except ray.exceptions.RayError as error:
        raise BackendError(f"Ray gave up: {str(error).strip().splitlines()[-1]}; what is lifted is kept") from None
    finally:
        ray.shutdown()


def _connect(address: str) -> Any:
    if installed_version("ray") is None:
        raise BackendError("Ray is not installed: pip install 'pstmo-edge[ray]', on every node")
    _reach(address)
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else its C++ side writes between our lines
    import logging

    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)

    try:
        ray.init(address=None if address == LOCAL else address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _no_cluster(address, str(error).splitlines()[0] if str(error) else type(error).__name__) from None
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray


def _reach(address: str) -> None:
    """Find out in seconds whether a cluster answers at `address`: `ray.init` tries a dead one for five minutes.

    Raises UsageError for what is no address, BackendError where nobody listens there, or somebody else.
    """
    named = os.environ.get("RAY_ADDRESS", RUNNING) if address == RUNNING else address
    if named in (LOCAL, RUNNING):
        return
    if named.startswith("ray://"):  # Ray's client has no Ray Data
        raise UsageError(f"--ray {named}: Ray Data runs on the cluster's nodes alone; start lift there, with {RUNNING}")
    try:
        parts = urlsplit(f"//{named}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise UsageError(f"--ray {named}: give HOST:PORT (6379 as a rule), {RUNNING} or {LOCAL}")
    try:
        socket.create_connection((host, port), timeout=_PATIENCE[0]).close()
    except OSError as error:
        raise _no_cluster(named, (error.strerror or str(error)).lower()) from None
    _check_health(named)


def _check_health(address: str) -> None:
    """Ask what listens at `address` for its health, with Ray's own command."""
    try:
        done = subprocess.run((*_HEALTH, address), capture_output=True, text=True, timeout=_PATIENCE[1])
    except subprocess.TimeoutExpired:
        raise _no_cluster(address, f"something listens there and says nothing in {_PATIENCE[1]:.0f} s") from None
    if done.returncode == 1:  # 2: this Ray has no such command
        last = (done.stderr.strip() or "unhealthy").splitlines()[-1]
        raise _no_cluster(address, last.removeprefix("ray.exceptions.").split(". ")[0].rstrip("."))


def _no_cluster(address: str, reason: str) -> BackendError:
    return BackendError(f"no Ray cluster answers at {address} ({reason}): start one, or give --ray {LOCAL}")
