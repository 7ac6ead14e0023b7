"""The models by name: how to build one, which weights are in the box, and how to put weights into it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pstmo_edge.errors import UsageError
from pstmo_edge.models.checkpoints import fit_state, load_weights, read_checkpoint
from pstmo_edge.naming import unknown
from pstmo_edge.windows import WindowSpec

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Architecture:
    """One line of the zoo: the settings that make this name differ from its siblings."""

    layers: int
    pretrain: bool = False


MODELS = {
    "p-stmo-s": Architecture(layers=3),
    "p-stmo": Architecture(layers=4),
    "p-stmo-s-pretrain": Architecture(layers=3, pretrain=True),
    "p-stmo-pretrain": Architecture(layers=4, pretrain=True),
}
FRAMES = (9, 27, 81, 243, 351)
DEFAULT_MODEL, DEFAULT_FRAMES = "p-stmo-s", 27  # what the box has weights for
HUMAN36M_FPS = 50.0


@dataclass(frozen=True)
class Lifter:
    """What a model's weights expect of their input; every model of the zoo carries one as `.lifter`.

    `frame_rate` is that of the training motion, of which every `t_downsample`-th frame enters a window.
    """

    name: str
    frames: int
    t_downsample: int
    frame_rate: float
    weights: str  # where they come from: "bundled", "random", or a file's name
    weights_sha256: str

    @property
    def window(self) -> WindowSpec:
        """The window the model reads."""
        return WindowSpec(self.frames, self.t_downsample)


def check_model(name: str, frames: int) -> None:
    """Raise UsageError unless there is such a model with that many frames."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    if frames not in FRAMES:
        raise UsageError(f"{name} cannot have {frames} frames: choose one of {', '.join(map(str, FRAMES))}")


def create_model(name: str, frames: int = 243, *, t_downsample: int | None = None, dropout: float = 0.1) -> nn.Module:
    """A model with random weights, in training mode. Raises UsageError for an unknown name or frame count."""
    from pstmo_edge.models.p_stmo import PSTMO, PSTMOConfig, PSTMOPretrain

    check_model(name, frames)
    kind = MODELS[name]
    config = PSTMOConfig(frames=frames, layers=kind.layers, dropout=dropout)
    model: nn.Module = PSTMOPretrain(config) if kind.pretrain else PSTMO(config)
    return _labelled(model, name, t_downsample, HUMAN36M_FPS, "random")


def load_model(
    name: str = DEFAULT_MODEL,
    frames: int = DEFAULT_FRAMES,
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    t_downsample: int | None = None,
) -> nn.Module:
    """A model with trained weights, in evaluation mode: `forward` takes (B, T, 17, 2) and returns (B, 17, 3) metres.

    `checkpoint` is a published `.pth`, our own `.safetensors`, or None for the weights in the box. `t_downsample` is
    what the weights were trained with where the file does not say: by default 2 for 243 frames and 1 otherwise, as
    published. Raises UsageError for what cannot be asked for, CheckpointError for a file that does not fit.
    """
    check_model(name, frames)
    if checkpoint is None:
        state, metadata = _bundled(name, frames)
        source = "bundled"
    elif Path(checkpoint).suffix.lower() == ".safetensors":
        state, metadata = load_weights(checkpoint)
        source = Path(checkpoint).name
    else:
        state, metadata = read_checkpoint(checkpoint), {}
        source = Path(checkpoint).name
    model = create_model(name, frames)
    put_weights(model, state, str(checkpoint or source), f"{name} with {frames} frames")
    step = t_downsample or int(metadata.get("t_downsample", 0)) or None
    rate = float(metadata.get("frame_rate", HUMAN36M_FPS))
    return _labelled(model, name, step, rate, source).eval()


def put_weights(model: nn.Module, state: Mapping[str, np.ndarray], source: str, wanted: str) -> None:
    """Fill a model from a state dict of arrays; raises CheckpointError unless names and shapes are exactly its own."""
    import torch

    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    fitted = fit_state(state, expected, source, wanted)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in fitted.items()})


def state_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """A model's state dict as arrays that share its memory."""
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def bundled_models() -> tuple[tuple[str, int], ...]:
    """The (name, frames) that have weights in the box."""
    names = (entry.name for entry in resources.files("pstmo_edge").joinpath("data").iterdir())
    stems = (name.removesuffix(".safetensors").rpartition("-") for name in names if name.endswith(".safetensors"))
    return tuple(sorted((model, int(frames)) for model, _, frames in stems))


def _bundled(name: str, frames: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    if (name, frames) not in bundled_models():
        have = ", ".join(f"{model} with {count} frames" for model, count in bundled_models())
        raise UsageError(
            f"the box holds no weights of {name} with {frames} frames (it holds {have}): give a file with --checkpoint"
        )
    with resources.as_file(resources.files("pstmo_edge").joinpath(f"data/{name}-{frames}.safetensors")) as path:
        return load_weights(path)


def _labelled(model: nn.Module, name: str, step: int | None, rate: float, weights: str) -> nn.Module:
    frames = int(model.config.frames)
    if step is None:
        step = 2 if frames == 243 else 1
    model.lifter = Lifter(name, frames, step, rate, weights, _digest(model))
    return model


def _digest(model: nn.Module) -> str:
    """SHA-256 over every name, shape and value of the weights, in order of name."""
    digest = hashlib.sha256()
    for name, array in sorted(state_arrays(model).items()):
        digest.update(f"{name}{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
