"""Which poses of a window a model puts out: that of its target frame, or those of many frames at once.

P-STMO has a second head behind its temporal encoder, which training makes right for every frame of the window (Shan et
al., ECCV 2022, section 3.4: the multiple frame loss). Deployed alone it gives many poses a forward, without the
strided layers.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

from pstmo_edge.errors import UsageError
from pstmo_edge.models.zoo import MODELS

if TYPE_CHECKING:
    from torch import nn

CENTRE, ALL = "centre", "all"
_FAMILIES = ("p-stmo", "strided-transformer")  # those with a per-frame head


def emitting(model: nn.Module, emit: str | int = CENTRE) -> nn.Module:
    """A copy of a model of the zoo that puts out other poses of its window.

    `emit` is "centre" (the model as it is: (B, 17, 3), the pose of its target frame by the strided layers), "all"
    ((B, T, 17, 3), every frame by the per-frame head), or an odd number K ((B, K, 17, 3), the middle K frames by that
    head; for 1 as well). Raises UsageError for another `emit`, and for a model without that head.
    """
    lifter = model.lifter
    return with_emitted(model, emitted_frames(lifter.name, lifter.frames, emit))


def with_emitted(model: nn.Module, emitted: tuple[int, int] | None) -> nn.Module:
    """The same for (first frame, number of frames), as a manifest says it; None is the target frame.

    The model itself where it does that already.
    """
    if model.lifter.emitted == emitted:
        return model
    other = copy.deepcopy(model)
    other.emitted = emitted
    other.lifter = dataclasses.replace(model.lifter, emitted=emitted)
    return other


def emitted_frames(name: str, frames: int, emit: str | int) -> tuple[int, int] | None:
    """(first frame, number of frames) of what `emitting` is told; raises UsageError."""
    if emit == CENTRE:
        return None
    count = frames if emit == ALL else int(emit) if str(emit).isdecimal() else 0
    if not 1 <= count <= frames or count % 2 == 0:
        raise UsageError(f"--emit is {emit}: give centre, all, or an odd number of middle frames from 1 to {frames}")
    if MODELS[name].family not in _FAMILIES or MODELS[name].kind != "lifter":
        able = ", ".join(able for able, line in MODELS.items() if line.family in _FAMILIES and line.kind == "lifter")
        raise UsageError(f"{name} has no per-frame head, so it emits one pose a window: --emit {emit} is for {able}")
    return (frames - count) // 2, count
