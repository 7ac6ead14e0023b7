"""The models by name: how to build one, which weights are in the box, and how to put weights into it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pstmo_edge.errors import CheckpointError, UsageError
from pstmo_edge.models.checkpoints import fit_state, load_weights, read_checkpoint
from pstmo_edge.naming import unknown
from pstmo_edge.skeletons import COCO, HUMAN36M, MPI_INF_3DHP, Skeleton, get_skeleton
from pstmo_edge.windows import WindowSpec

if TYPE_CHECKING:
    from torch import nn


FRAMES = (9, 27, 81, 243, 351)


@dataclass(frozen=True)
class Architecture:
    """One line of the zoo: the settings that make this name differ from its siblings.

    `ends` are the layers that enter and leave the network: INT8 leaves them in float, since they are little of the work
    and most of the error.
    """

    kind: Literal["lifter", "pretrain", "refine"] = "lifter"
    family: Literal["p-stmo", "strided-transformer", "poseformer", "videopose3d", "anatomy3d"] = "p-stmo"
    layers: int = 3
    frames: tuple[int, ...] = FRAMES
    channels: tuple[str, ...] = ("x", "y")
    ends: tuple[str, ...] = ("encoder.fc_1", "fcn.1")


MODELS = {
    "p-stmo-s": Architecture(),
    "p-stmo": Architecture(layers=4),
    "p-stmo-s-pretrain": Architecture("pretrain"),
    "p-stmo-pretrain": Architecture("pretrain", layers=4),
    "refine": Architecture("refine"),
    "poseformer": Architecture(
        family="poseformer", frames=(9, 27, 81), ends=("Spatial_patch_to_embedding", "head.1")
    ),
    "anatomy3d": Architecture(
        family="anatomy3d", frames=(9, 27, 81, 243), channels=("x", "y", "visibility"),
        ends=("expand_conv", "expand_convscore", "layers_convbone.0", "boneatt", "lengthlinear", "shrink"),
    ),
    "videopose3d": Architecture(family="videopose3d", frames=(9, 27, 81, 243), ends=("expand_conv", "shrink")),
    "strided-transformer": Architecture(family="strided-transformer", ends=("encoder.0", "fcn.1")),
}  # fmt: skip


@dataclass(frozen=True)
class TrainedOn:
    """What a published weights file does not say: its joints, and what turns its output into metres."""

    skeleton: Skeleton = HUMAN36M
    pose_skeleton: Skeleton = HUMAN36M
    metres: float = 1.0


TRAINED_ON = {
    "human36m": TrainedOn(),
    # The published code for MPI-INF-3DHP trains on millimetres.
    "mpi-inf-3dhp": TrainedOn(MPI_INF_3DHP, MPI_INF_3DHP, 1e-3),
    "in-the-wild": TrainedOn(skeleton=COCO),
}
DEFAULT_MODEL, DEFAULT_FRAMES = "p-stmo-s", 27  # what the box has weights for
HUMAN36M_FPS = 50.0
_HEADS = ("fcn.1.", "fcn_1.1.")  # the last layers of a lifter
RUN_WEIGHTS = "weights.safetensors"  # what every stage of training leaves in its folder


@dataclass(frozen=True)
class Lifter:
    """What a model's weights expect of their input; every model of the zoo carries one as `.lifter`.

    `frame_rate` is that of the training motion, of which every `t_downsample`-th frame enters a window;
    `target_index` is the window position whose pose comes out (None: the centre), `skeleton` the keypoints that go in
    and `pose_skeleton` the joints that come out. `emitted` is (first frame, number of frames) where the per-frame head
    puts out the poses of many frames, see `emission.emitting`.
    """

    name: str
    frames: int
    t_downsample: int
    frame_rate: float
    weights: str  # where they come from: "bundled", "random", or a file's name
    weights_sha256: str
    target_index: int | None = None
    skeleton: str = HUMAN36M.name
    pose_skeleton: str = HUMAN36M.name
    emitted: tuple[int, int] | None = None

    @property
    def window(self) -> WindowSpec:
        """The window the model reads, and what of it comes out."""
        target, count = self.emitted or (self.target_index, None)
        return WindowSpec(self.frames, self.t_downsample, target, len(self.channels), count)

    @property
    def ends(self) -> tuple[str, ...]:
        """The layers that enter and leave the network, see `Architecture`."""
        ends = MODELS[self.name].ends
        return ends if self.emitted is None else tuple("fcn_1.1" if name == "fcn.1" else name for name in ends)

    @property
    def channels(self) -> tuple[str, ...]:
        """What the model reads of every keypoint."""
        return MODELS[self.name].channels

    def notes(self) -> dict[str, str]:
        """What a weights file says of its model; `load_model` reads it back."""
        notes = {"model": self.name, "frames": self.frames, "t_downsample": self.t_downsample}
        notes |= {"frame_rate": self.frame_rate, "skeleton": self.skeleton, "pose_skeleton": self.pose_skeleton}
        if self.target_index is not None:
            notes["target_index"] = self.target_index
        return {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in notes.items()}


def check_model(name: str, frames: int) -> None:
    """Raise UsageError unless there is such a model with that many frames."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    allowed = MODELS[name].frames
    if frames not in allowed:
        raise UsageError(f"{name} cannot have {frames} frames: choose one of {', '.join(map(str, allowed))}")


def create_model(
    name: str,
    frames: int = 243,
    *,
    t_downsample: int | None = None,
    target_index: int | None = None,
    dropout: float | None = None,
    frame_rate: float = HUMAN36M_FPS,
    skeleton: str = HUMAN36M.name,
    pose_skeleton: str = HUMAN36M.name,
) -> nn.Module:
    """A model with random weights, in training mode; see `Lifter` for what the last arguments say.

    `dropout` is the published one unless given.

    Raises UsageError for an unknown name or frame count.
    """
    check_model(name, frames)
    architecture = MODELS[name]
    model = _module(name, frames, target_index, {} if dropout is None else {"dropout": dropout}, pose_skeleton)
    step = t_downsample or (2 if frames == 243 and architecture.family == "p-stmo" else 1)
    model.lifter = Lifter(
        name, frames, step, frame_rate, "random", weights_digest(model), target_index, skeleton, pose_skeleton
    )
    return model


def _module(name: str, frames: int, target_index: int | None, options: dict[str, Any], pose_skeleton: str) -> nn.Module:
    """The network itself; imported here, so that the zoo can be read without torch."""
    from pstmo_edge.models import anatomy3d, p_stmo, poseformer, refine, strided_transformer, videopose3d

    architecture = MODELS[name]
    if architecture.kind == "refine":
        return refine.Refine(refine.RefineConfig(root=get_skeleton(pose_skeleton).root))
    if architecture.family == "poseformer":
        return poseformer.PoseFormer(poseformer.PoseFormerConfig(frames, **options))
    if architecture.family in ("videopose3d", "anatomy3d"):
        causal = architecture.family == "videopose3d" and target_index == frames - 1
        if target_index not in (None, frames // 2) and not causal:
            newest = " or the newest" if architecture.family == "videopose3d" else ""
            raise UsageError(
                f"{name} gives the pose of the centre{newest}: frame {target_index} of {frames} is neither"
            )
        if architecture.family == "anatomy3d":
            return anatomy3d.Anatomy3D(anatomy3d.Anatomy3DConfig(frames, **options))
        return videopose3d.VideoPose3D(videopose3d.VideoPose3DConfig(frames, causal=causal, **options))
    config = p_stmo.PSTMOConfig(frames, layers=architecture.layers, **options)
    if architecture.family == "strided-transformer":
        return strided_transformer.StridedTransformer(config)
    return p_stmo.PSTMOPretrain(config) if architecture.kind == "pretrain" else p_stmo.PSTMO(config)


def load_model(
    name: str | None = None,
    frames: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    t_downsample: int | None = None,
    trained_on: str = "human36m",
) -> nn.Module:
    """A model with trained weights, in evaluation mode: `forward` takes (B, T, 17, C) and returns (B, 17, 3) metres.

    `checkpoint` is a published `.pth`, our own `.safetensors`, the folder of a training run, the name of weights in
    the box (`bundled_weights`), or None for the box's weights of that model. Our own files say which model they are
    for; for others `name` and `frames` do (by default p-stmo-s with 27 frames), and `t_downsample` is what they were
    trained with: by default 2 for 243 frames and 1 otherwise, as published. So does `trained_on`, a key of TRAINED_ON:
    those of MPI-INF-3DHP put out millimetres, which become metres here. Raises UsageError for what cannot be asked for,
    CheckpointError for a file that does not fit.
    """
    if trained_on not in TRAINED_ON:
        raise unknown("dataset that weights were trained on", trained_on, TRAINED_ON)
    state, notes, source = read_weights(checkpoint, name, frames)
    data = TRAINED_ON["human36m" if notes else trained_on]
    name = name or notes.get("model", DEFAULT_MODEL)
    frames = frames or int(notes.get("frames", DEFAULT_FRAMES))
    model = create_model(
        name,
        frames,
        t_downsample=t_downsample or int(notes.get("t_downsample", 0)),
        target_index=int(notes["target_index"]) if "target_index" in notes else None,
        frame_rate=float(notes.get("frame_rate", HUMAN36M_FPS)),
        skeleton=notes.get("skeleton", data.skeleton.name),
        pose_skeleton=notes.get("pose_skeleton", data.pose_skeleton.name),
    )
    if data.metres != 1:
        state = {n: a * np.float32(data.metres) if n.startswith(_HEADS) else a for n, a in state.items()}
    put_weights(model, state, str(checkpoint or source), f"{name} with {frames} frames")
    model.lifter = dataclasses.replace(model.lifter, weights=source, weights_sha256=weights_digest(model))
    return model.eval()


def read_weights(
    checkpoint: str | os.PathLike[str] | None, name: str | None = None, frames: int | None = None
) -> tuple[dict[str, np.ndarray], dict[str, str], str]:
    """State dict, notes and a word on where they come from, of whatever `load_model` takes."""
    if checkpoint is None:
        check_model(name or DEFAULT_MODEL, frames or DEFAULT_FRAMES)
        return *_bundled(f"{name or DEFAULT_MODEL}-{frames or DEFAULT_FRAMES}"), "bundled"
    if str(checkpoint) in bundled_weights():
        return *_bundled(str(checkpoint)), "bundled"
    path = Path(checkpoint)
    if path.is_dir():
        path = run_weights(path)
    if path.suffix.lower() == ".safetensors":
        return *load_weights(path), path.name
    check_model(name or DEFAULT_MODEL, frames or DEFAULT_FRAMES)
    return read_checkpoint(path), {}, path.name


def run_weights(folder: Path) -> Path:
    """The last stage's weights in the folder of a training run; raises CheckpointError where there are none."""
    for stage in ("refine", "finetune", "pretrain", "."):
        path = folder / stage / RUN_WEIGHTS
        if path.is_file():
            return path
    raise CheckpointError(f"{folder} holds no {RUN_WEIGHTS}: it is no folder of a finished training run")


def put_weights(model: nn.Module, state: Mapping[str, np.ndarray], source: str, wanted: str) -> None:
    """Fill a model from a state dict of arrays; raises CheckpointError unless names and shapes are exactly its own."""
    import torch

    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    fitted = fit_state(state, expected, source, wanted)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in fitted.items()})


def state_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """A model's state dict as arrays, which share its memory where that is the CPU's."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}


def bundled_weights() -> tuple[str, ...]:
    """The names of the weights in the box: model, frames and what they are for, such as p-stmo-s-27-causal."""
    names = (entry.name for entry in resources.files("pstmo_edge").joinpath("data").iterdir())
    return tuple(sorted(name.removesuffix(".safetensors") for name in names if name.endswith(".safetensors")))


def _bundled(name: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    if name not in bundled_weights():
        have = ", ".join(bundled_weights())
        raise UsageError(f"the box holds no weights {name} (it holds {have}): give a file with --checkpoint")
    with resources.as_file(resources.files("pstmo_edge").joinpath(f"data/{name}.safetensors")) as path:
        return load_weights(path)


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over every name, shape and value of the weights, in order of name."""
    digest = hashlib.sha256()
    for name, array in sorted(state_arrays(model).items()):
        digest.update(f"{name}{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
