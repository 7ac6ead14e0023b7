"""The kernel that lifts one window in one launch (single_window.h): compiled by nvcc, and its part of a launch plan.

    python -m pstmo_edge.kernels.cuda.single_window

compiles it for every chip and writes registers and spills into the table of `kernels.triton.aot`. It fails on any
warning and where the kernel spills. How fast it is was not measured, so `compile --single-launch` must ask for it.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch

from pstmo_edge.errors import BackendError, UsageError
from pstmo_edge.files import write_atomic
from pstmo_edge.kernels.triton import aot
from pstmo_edge.kernels.triton.lifter import KernelLifter
from pstmo_edge.kernels.triton.plan import Compiled

NAME = "single_window"
THREADS = 256
SOURCE = Path(__file__).with_name("single_window.cu")
_FLAGS = ("-cubin", "-O3", "-std=c++17", "-Werror=all-warnings", "-Xcompiler=-Wall,-Wextra", "-Xptxas=-v,-warn-spills")


def compiled(capability: int) -> tuple[Compiled, int, dict[str, int]]:
    """The kernel for a chip, the least driver for it (13000 is CUDA 13.0), and its row of the table.

    Raises BackendError where there is no nvcc, or it warns or fails.
    """
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise BackendError("the single launch needs nvcc, not found here: install the CUDA toolkit, or do without")
    version = re.search(r"release (\d+)\.", subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout)
    target = f"sm_{capability}{'a' if capability >= 90 else ''}"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "kernel.cubin")
        command = [nvcc, f"-arch={target}", *_FLAGS, "-o", str(out), str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0 or version is None:
            raise BackendError(
                f"nvcc does not compile {SOURCE.name} for {target}: {(done.stderr or done.stdout).strip()[:400]}"
            )
        row = aot.read_log(done.stdout + done.stderr)
        return Compiled(out.read_bytes(), NAME, THREADS, 0), int(version[1]) * 1000, row


def described(lifter: KernelLifter, frames: int) -> dict[str, Any]:
    """A lifter as the kernel reads it: `network`, 8-byte slots in the order of single_window.h, and its workspace.

    Raises UsageError unless all but the two ends is fp16.
    """
    others = {name: precision for name, precision in lifter.precisions.items() if precision not in ("fp32", "fp16")}
    if others or lifter.dtype != torch.float16:
        held = sorted(set(others.values())) or [str(lifter.dtype).removeprefix("torch.")]
        raise UsageError(f"the single launch computes in fp16 and this bundle has {', '.join(held)}: leave it out")
    slots: list[list[Any]] = [["null"], ["count", frames, 0], ["count", len(lifter.layers), 0]]
    for number in range(4):
        slots += _product(f"encoder.{number}")
    slots += [["weight", "position"], *_product("head")]
    for number, layer in enumerate(lifter.layers):
        name = f"layers.{number}"
        taps = layer.products[2].weight.shape[1] // len(layer.products[1].weight)
        slots += [
            ["count", layer.stride, 0],
            ["count", taps, 0],
            ["weight", f"{name}.norm_1"],
            *_product(f"{name}.qkv"),
        ]
        slots += [*_product(f"{name}.products.0"), ["weight", f"{name}.norm_2"]]
        slots += [*_product(f"{name}.products.1"), *_product(f"{name}.products.2")]
        slots += [["null"] if layer.position is None else ["weight", f"{name}.position"]]
    return {"network": slots, "workspace": _workspace(lifter, frames)}


def _product(name: str) -> list[list[str]]:
    return [["weight", f"{name}.weight"], ["weight", f"{name}.bias"]]


def _workspace(lifter: KernelLifter, frames: int) -> int:
    """SingleWindow::workspace_bytes."""
    channels, hidden = len(lifter.encoder[3].weight), len(lifter.layers[0].products[1].weight)
    return frames * (2 * (2 * max(2 * channels, hidden) + 6 * channels) + 4 * channels)


def main() -> None:
    """Compile for every chip and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=aot.TABLE, help="the JSON to update")
    table = parser.parse_args().table
    known = json.loads(table.read_text())
    rows: dict[str, Any] = {}
    for capability in aot.TARGETS:
        kernel, driver, row = compiled(capability)
        if row["spill_store_bytes"] + row["spill_load_bytes"]:
            raise SystemExit(f"{NAME} spills on sm_{capability}: {row}")
        rows[f"sm_{capability}"] = {**row, "threads": kernel.threads, "driver": driver}
        print(f"sm_{capability} {NAME}: {row['registers']} registers, {row['stack_bytes']} bytes of stack, no spills")
    write_atomic(table, (json.dumps(known | {NAME: rows}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
