"""GPU kernels in a native bundle: `pstmo-edge compile BUNDLE --gpu sm_87`, no GPU needed.

Beside the weights for CPUs the bundle then holds `gpu-weights.safetensors`, the same network as the kernels read it,
and for every chip `gpu-sm_87.json`, the launch plan, and `gpu-sm_87.safetensors`, its cubins as arrays of bytes by the
names in the plan. libpstmo_edge opens them with the device "cuda" and needs no Python.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import triton
from safetensors.torch import save

from pstmo_edge.bundle import Bundle, open_bundle, write_bundle
from pstmo_edge.errors import BackendError, UsageError
from pstmo_edge.kernels.cuda import single_window
from pstmo_edge.kernels.triton import aot, device
from pstmo_edge.kernels.triton.engine import lifter_of_bundle
from pstmo_edge.kernels.triton.lifter import KernelLifter
from pstmo_edge.kernels.triton.plan import Compiled, Compiler, compiler_for, plan_of

# A capability to the kernel, the least driver for it, and its row of the table.
SingleCompiler = Callable[[int], tuple[Compiled, int, dict[str, int]]]
WEIGHTS = "gpu-weights.safetensors"
CHIPS = tuple(f"sm_{capability}" for capability in aot.TARGETS)


def plan_file(chip: str) -> str:
    """The file of a chip's plan."""
    return f"gpu-{chip}.json"


def cubin_file(chip: str) -> str:
    """The file of a chip's cubins."""
    return f"gpu-{chip}.safetensors"


def add_kernels(
    path: str | os.PathLike[str],
    chips: Sequence[str],
    out: str | os.PathLike[str] | None = None,
    *,
    tell: Callable[[str, int, int], None] = lambda text, done, total: None,
    single: SingleCompiler | None = None,
    compilers: Callable[[int], Compiler] = compiler_for,
    lifter: KernelLifter | None = None,
) -> Bundle:
    """Compile the native bundle at `path` for some chips ("sm_87") and write it to `out`, by default in its place.

    `single` compiles the kernel that lifts one window in one launch (`cuda.single_window.compiled`); None: without.
    Kernels of other chips that it held stay. Raises UsageError (another backend's bundle, an unknown chip, a folder
    that exists, kernels of an older version beside) and BackendError (a kernel that does not fit).
    """
    unknown = [chip for chip in chips if chip not in CHIPS]
    if unknown:
        raise UsageError(f"no kernels for {', '.join(unknown)}: choose among {', '.join(CHIPS)}")
    if compilers is compiler_for and device.INTERPRETED.value:
        raise BackendError("TRITON_INTERPRET is set, and the interpreter compiles nothing: unset it")
    if out is not None and Path(out).exists():
        raise UsageError(f"{out} exists already: give another --out, or none to compile in place")
    bundle = open_bundle(path)
    lifter = lifter or lifter_of_bundle(bundle)
    added = {WEIGHTS: save(_arrays(lifter))}
    digest = hashlib.sha256(added[WEIGHTS]).hexdigest()
    held = {entry.path: bundle.read(entry.path) for entry in bundle.manifest.files}
    _check_others(bundle, held, digest, chips)
    for number, chip in enumerate(chips):
        tell(f"compiling for {chip}", number, len(chips))
        capability, frames = int(chip.removeprefix("sm_")), bundle.manifest.input.frames
        plan, cubins = plan_of(lifter, frames, capability, compilers(capability))
        if single is not None:
            _add_single(plan, cubins, lifter, frames, *single(capability)[:2])
        plan |= {
            "weights_sha256": digest, "driver": aot.least_driver(capability), "compiler": f"triton {triton.__version__}"
        }  # fmt: skip
        added |= {plan_file(chip): json.dumps(plan, indent=1).encode() + b"\n", cubin_file(chip): save(_images(cubins))}
    target = bundle.path if out is None else Path(out)
    return write_bundle(target, bundle.manifest.model_copy(update={"files": ()}), held | added, force=out is None)


def _add_single(
    plan: dict[str, Any], cubins: dict[str, bytes], lifter: KernelLifter, frames: int, kernel: Compiled, driver: int
) -> None:
    plan["single"] = {
        "entry": kernel.entry, "threads": kernel.threads, "shared_bytes": kernel.shared_bytes, "driver": driver,
        **single_window.described(lifter, frames),
    }  # fmt: skip
    cubins[single_window.NAME] = kernel.cubin


def _images(cubins: dict[str, bytes]) -> dict[str, torch.Tensor]:
    return {name: torch.frombuffer(bytearray(cubin), dtype=torch.uint8) for name, cubin in cubins.items()}


def _arrays(lifter: KernelLifter) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in lifter.named_buffers()}


def _check_others(bundle: Bundle, held: dict[str, bytes], digest: str, chips: Sequence[str]) -> None:
    """Plans of other chips read the same weights file: it must not change under them."""
    others = [chip for chip in CHIPS if plan_file(chip) in held and chip not in chips]
    plans: dict[str, Any] = {chip: json.loads(held[plan_file(chip)]) for chip in others}
    stale = [chip for chip, plan in plans.items() if plan["weights_sha256"] != digest]
    if stale:
        raise UsageError(
            f"{bundle.path} holds kernels of another version for {', '.join(stale)}: "
            f"compile all chips in one call, {' '.join(f'--gpu {chip}' for chip in (*chips, *stale))}"
        )
