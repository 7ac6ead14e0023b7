"""The files of a bundle that hold GPU kernels: weights as the kernels read them, and plans and cubins for chips.

`gpu-weights.safetensors` is the network for all chips; for each chip there is `gpu-sm_87.json`, the launch plan, and
`gpu-sm_87.safetensors`, its cubins as arrays of bytes by the names in the plan.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
from safetensors.torch import save

from pstmo_edge.errors import BackendError, UsageError
from pstmo_edge.kernels.cuda import single_window
from pstmo_edge.kernels.triton import aot, device
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


def check_chips(chips: Sequence[str]) -> None:
    """Raise UsageError for a chip that there are no kernels for."""
    unknown = [chip for chip in chips if chip not in CHIPS]
    if unknown:
        raise UsageError(f"no kernels for {', '.join(unknown)}: choose among {', '.join(CHIPS)}")


def weights_of(lifter: KernelLifter) -> bytes:
    """The content of WEIGHTS; the same lifter gives the same bytes."""
    return save({name: tensor.contiguous() for name, tensor in lifter.named_buffers()})


def kernel_files(
    lifter: KernelLifter, frames: int, chips: Sequence[str], single: SingleCompiler | None = None,
    compilers: Callable[[int], Compiler] = compiler_for,
    tell: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> dict[str, bytes]:  # fmt: skip
    """All files of a lifter (on the CPU) for some chips ("sm_87"), by name; `single` adds the kernel for one window.

    Raises UsageError for a chip there are no kernels for, and BackendError for a kernel that does not fit its chip.
    """
    check_chips(chips)
    if compilers is compiler_for and device.INTERPRETED.value:
        raise BackendError("TRITON_INTERPRET is set, and the interpreter compiles nothing: unset it")
    files = {WEIGHTS: weights_of(lifter)}
    digest = hashlib.sha256(files[WEIGHTS]).hexdigest()
    for number, chip in enumerate(chips):
        tell(f"compiling for {chip}", number, len(chips))
        capability = int(chip.removeprefix("sm_"))
        plan, cubins = plan_of(lifter, frames, capability, compilers(capability))
        if single is not None:
            _add_single(plan, cubins, lifter, frames, *single(capability)[:2])
        plan |= {
            "weights_sha256": digest, "driver": aot.least_driver(capability), "compiler": f"triton {triton.__version__}"
        }  # fmt: skip
        files |= {plan_file(chip): json.dumps(plan, indent=1).encode() + b"\n", cubin_file(chip): save(_images(cubins))}
    return files


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
