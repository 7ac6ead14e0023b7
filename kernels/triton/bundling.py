"""GPU kernels in a native bundle: `pstmo-edge compile BUNDLE --gpu sm_87`, no GPU needed.

libpstmo_edge opens the bundle with the device "cuda" and needs no Python; see `packing` for the files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pstmo_edge.bundle import Bundle, open_bundle, write_bundle
from pstmo_edge.errors import BackendError, UsageError
from pstmo_edge.kernels.triton.engine import lifter_of_bundle
from pstmo_edge.kernels.triton.lifter import KernelLifter
from pstmo_edge.kernels.triton.packing import CHIPS, SingleCompiler, check_chips, kernel_files, plan_file, weights_of
from pstmo_edge.kernels.triton.plan import Compiler, compiler_for


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
    that exists, kernels of an older version beside) and BackendError (a kernel that does not fit, numbers that leave
    the range of fp16).
    """
    check_chips(chips)
    if out is not None and Path(out).exists():
        raise UsageError(f"{out} exists already: give another --out, or none to compile in place")
    bundle = open_bundle(path)
    lifter = lifter or lifter_of_bundle(bundle)
    held = {entry.path: bundle.read(entry.path) for entry in bundle.manifest.files}
    _check_others(bundle, held, lifter, chips)
    check_range(lifter, bundle.manifest.input.frames)
    added = kernel_files(lifter, bundle.manifest.input.frames, chips, single, compilers, tell)
    target = bundle.path if out is None else Path(out)
    return write_bundle(target, bundle.manifest.model_copy(update={"files": ()}), held | added, force=out is None)


def check_range(lifter: KernelLifter, frames: int) -> None:
    """Raise BackendError where the lifter's poses are not finite, on keypoints twice as far out as real ones.

    fp16 ends at 65,504; a residual stream of the weights in the box reaches 76.
    """
    keypoints = 0.6 * torch.randn(4, frames, 17, 2, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        finite = bool(lifter(keypoints).isfinite().all())
    if not finite:
        raise BackendError(
            f"this model's numbers leave the range of {str(lifter.dtype).removeprefix('torch.')}, in which a GPU "
            "computes it, and its poses would not be finite: lift it on a CPU, or train it with weight decay"
        )


def _check_others(bundle: Bundle, held: dict[str, bytes], lifter: KernelLifter, chips: Sequence[str]) -> None:
    """Plans of other chips read the same weights file: it must not change under them."""
    others = [chip for chip in CHIPS if plan_file(chip) in held and chip not in chips]
    plans: dict[str, Any] = {chip: json.loads(held[plan_file(chip)]) for chip in others}
    digest = hashlib.sha256(weights_of(lifter)).hexdigest()
    stale = [chip for chip, plan in plans.items() if plan["weights_sha256"] != digest]
    if stale:
        raise UsageError(
            f"{bundle.path} holds kernels of another version for {', '.join(stale)}: "
            f"compile all chips in one call, {' '.join(f'--gpu {chip}' for chip in (*chips, *stale))}"
        )
