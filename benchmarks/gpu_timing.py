"""How long work takes on a GPU: events, warm-up, medians; its peaks and its power in the same run.

On a CPU (the dry run) the same functions run each thing once, so that nothing is first tried on a borrowed GPU.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

_DRY_RUNS = 1


@dataclass(frozen=True)
class Machine:
    """Where it is measured, and how long one figure may take; `device` is a CPU in a dry run."""

    device: torch.device
    seconds: float = 0.25
    warm_up_s: float = 0.1

    @property
    def is_gpu(self) -> bool:
        """Whether figures mean anything."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Until all work is done."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)


def device_ms(machine: Machine, run: Callable[[], object]) -> dict[str, float]:
    """Milliseconds of one `run` between two events: median, tenth and ninetieth percentile, and how many."""
    if not machine.is_gpu:
        return _summary([_wall_ms(machine, run) for _ in range(_DRY_RUNS)])
    estimate = _warm(machine, run)
    # Events of one run each; few long runs still give a median of five.
    count = max(5, min(1000, int(machine.seconds / estimate)))
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
    for start, end in pairs:
        start.record()
        run()
        end.record()
    machine.wait()
    return _summary([start.elapsed_time(end) for start, end in pairs])


def wall_ms(machine: Machine, run: Callable[[], object]) -> dict[str, float]:
    """Milliseconds of one `run` that ends by waiting for its result, by the clock on the wall: what a camera waits."""
    if machine.is_gpu:
        estimate = _warm(machine, run)
        count = max(20, min(2000, int(machine.seconds / estimate)))
    else:
        count = _DRY_RUNS
    return _summary([_wall_ms(machine, run) for _ in range(count)])


def _warm(machine: Machine, run: Callable[[], object]) -> float:
    """Run for a while; the seconds of one run."""
    run()
    machine.wait()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < machine.warm_up_s:
        run()
        machine.wait()
        count += 1
    return (time.perf_counter() - start) / count


def _wall_ms(machine: Machine, run: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    run()
    machine.wait()
    return (time.perf_counter_ns() - start) / 1e6


def _summary(samples: list[float]) -> dict[str, float]:
    ordered = sorted(samples)
    return {
        "median_ms": statistics.median(ordered), "p10_ms": ordered[len(ordered) // 10],
        "p90_ms": ordered[len(ordered) * 9 // 10], "p99_ms": ordered[len(ordered) * 99 // 100], "runs": len(ordered),
    }  # fmt: skip


# ---- peaks -----------------------------------------------------------------------------------------------------------


def peaks(machine: Machine) -> dict[str, float | None]:
    """What this GPU reaches: operations a second of a large matrix product by precision, bytes a second of a copy.

    Random operands: on zeros some GPUs run faster. None where torch has no such product here.
    """
    size = _matrix_size(machine)
    products = {"fp32": _float_product(torch.float32), "bf16": _float_product(torch.bfloat16),
                "fp16": _float_product(torch.float16), "int8": _int8_product, "fp8": _fp8_product}  # fmt: skip
    found: dict[str, float | None] = {}
    for name, product in products.items():
        try:
            run = product(machine, size)
            found[name] = 2 * size**3 / (device_ms(machine, run)["median_ms"] / 1e3)
        except (RuntimeError, ValueError, AttributeError, NotImplementedError):  # no such units, or not in this torch
            found[name] = None
    source = torch.randn(_copied(machine), device=machine.device)
    target = torch.empty_like(source)
    found["copy"] = 2 * source.nbytes / (device_ms(machine, lambda: target.copy_(source))["median_ms"] / 1e3)
    return found


def _matrix_size(machine: Machine) -> int:
    if not machine.is_gpu:
        return 64
    return 8192 if torch.cuda.get_device_properties(machine.device).total_memory > 24e9 else 4096


def _copied(machine: Machine) -> int:
    """Floats of the copy: far more than a cache holds."""
    return 2**28 if _matrix_size(machine) == 8192 else 2**26 if machine.is_gpu else 2**10


def _float_product(dtype: torch.dtype) -> Callable[[Machine, int], Callable[[], object]]:
    def make(machine: Machine, size: int) -> Callable[[], object]:
        a, b = (torch.randn(size, size, device=machine.device).to(dtype) for _ in range(2))
        return lambda: a @ b

    return make


def _int8_product(machine: Machine, size: int) -> Callable[[], object]:
    a, b = (torch.randint(-127, 128, (size, size), device=machine.device).to(torch.int8) for _ in range(2))
    torch._int_mm(a, b.t())
    return lambda: torch._int_mm(a, b.t())


def _fp8_product(machine: Machine, size: int) -> Callable[[], object]:
    a, b = (torch.randn(size, size, device=machine.device).to(torch.float8_e4m3fn) for _ in range(2))
    one = torch.ones((), device=machine.device)

    def run() -> object:
        return torch._scaled_mm(a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    run()
    return run


# ---- power and what the driver says ----------------------------------------------------------------------------------

_QUERIED = (
    "name", "driver_version", "pstate", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw", "power.limit",
    "temperature.gpu",
)  # fmt: skip


def nvidia_smi(*fields: str) -> list[str] | None:
    """One value for each field of the first GPU, or None where nvidia-smi does not say (on Jetson)."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    with suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(
            [tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits", "--id=0"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
        values = [value.strip() for value in answer.stdout.strip().splitlines()[0].split(",")]
        return values if len(values) == len(fields) else None
    return None


def driver_state() -> dict[str, str] | None:
    """Name, driver, clocks, power and temperature now."""
    values = nvidia_smi(*_QUERIED)
    return None if values is None else dict(zip(_QUERIED, values, strict=True))


def watts(machine: Machine, run: Callable[[], object], seconds: float = 2.0) -> dict[str, Any] | None:
    """Mean power of the whole board while `run` is repeated; None where nothing tells it."""
    if not machine.is_gpu or nvidia_smi("power.draw") is None:
        return None
    samples: list[float] = []
    done = threading.Event()

    def sample() -> None:
        while not done.is_set():
            value = nvidia_smi("power.draw")
            with suppress(TypeError, ValueError):
                samples.append(float(value[0]))  # type: ignore[index]

    thread = threading.Thread(target=sample)
    thread.start()
    start, count = time.perf_counter(), 0
    try:
        while time.perf_counter() - start < seconds:
            run()
            machine.wait()
            count += 1
    finally:
        done.set()
        thread.join()
    settled = samples[len(samples) // 3 :]  # the sensor averages over the last fraction of a second
    if not settled:
        return None
    return {"mean_w": statistics.fmean(settled), "samples": len(settled), "runs_per_s": count / seconds}
