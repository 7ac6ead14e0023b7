"""Everything a training run depends on, as frozen named settings; every checkpoint carries the whole recipe."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pstmo_edge.datasets import cmu_mocap
from pstmo_edge.errors import UsageError
from pstmo_edge.naming import unknown
from pstmo_edge.skeletons import COCO, HUMAN36M, MPI_INF_3DHP

KEEP = ("best", "last")
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class Augmentation:
    """How one training window differs from the take it was cut from; a share is a share of the windows."""

    mirror: float = 0.5  # share with left and right swapped
    turned: float = 0.5  # share in which the person is turned to any heading
    shift: float = 0.2  # standard deviation of where the person stands, metres along each floor axis
    camera_tilt: float = 0.03  # standard deviation of the camera's rotation about each axis, radians
    camera_shift: float = 0.15  # standard deviation of the camera's place, metres along each axis
    focal: float = 0.02  # relative standard deviation of the focal length
    free_camera: float = 0.0  # share seen by a camera anywhere around: height, pitch, distance and lens at random
    speed: float = 0.0  # standard deviation of the logarithm of the playing speed
    bodies: float = 0.5  # share with another body
    body_size: float = 0.05  # standard deviation of the logarithm of the whole body's size
    bone_length: float = 0.04  # standard deviation of the logarithm of each bone's length (left and right alike)
    detector: float = 0.4  # share with a detector's errors, of a strength drawn from 0..1.5
    missing: float = 0.0  # share in which a few joints are lost for a while and keep their last place


@dataclass(frozen=True)
class Quantized:
    """What the integer layers of quantization-aware fine-tuning are, as in `calib.settings`."""

    weight_bits: int = 8
    activation_bits: int = 8  # 0: activations stay in float
    per_channel: bool = True  # a scale for every output channel of the weights, or one for all
    symmetric: bool = False  # signed activations without a zero point, as TensorRT takes them
    ends: bool = False  # whether the layers that enter and leave the network are quantized too


@dataclass(frozen=True)
class Recipe:
    """One run through all stages: model, data, window, masking, optimisation and augmentation.

    Field names without a stage's name are those of Stage II. Source of the published settings: the commands in the
    README of the published code.
    """

    model: str
    frames: int
    t_downsample: int = 1
    use_t_downsample: int = 0  # the step at which the weights will be used (0: the same); sets their frame rate
    lookahead: int = -1  # window frames after the predicted one: 0 is causal, -1 the centre
    data: str = ""  # "": the user must say where it is
    keypoints: str = "gt"
    skeleton: str = HUMAN36M.name  # of the keypoints that go in
    mask_rate: float = 0.8  # Stage I: share of the frames hidden
    masked_joints: int = 2  # Stage I: joints hidden in every visible frame
    pretrain_lr: float = 1e-4
    pretrain_lr_decay: float = 0.97
    pretrain_epochs: int = 80
    lr: float = 1e-3
    lr_decay: float = 0.97  # by epoch
    restart_epoch: int = 0  # from this epoch on the rate starts again (0: never)
    restart_lr: float = 0.0
    restart_decay: float = 1.0
    epochs: int = 80
    refine_lr: float = 1e-4
    refine_lr_decay: float = 0.97
    refine_epochs: int = 10
    dropout: float = 0.1
    batch: int = 160  # over all processes
    steps_per_epoch: int = 0  # 0: every window once
    checkpoint_steps: int = 1000
    keep: str = "best"  # which epoch's weights the run ends with: the best on held-out data, as published, or the last
    precision: str = "auto"  # auto: bf16 where a GPU has it, else fp32
    compile: bool = False  # torch.compile; needs a C++ compiler on a CPU
    seed: int = 1
    threads: int = 0  # 0: as many as torch chooses
    augmentation: Augmentation | None = None  # None: the views of the data and their mirror images, as published
    qat: Quantized | None = None  # Stage II on the fused model with integer layers, from trained weights

    def __post_init__(self) -> None:
        """Refuse settings that contradict themselves (UsageError)."""
        for name, value, allowed in (("keep", self.keep, KEEP), ("precision", self.precision, PRECISIONS)):
            if value not in allowed:
                raise unknown(name, value, allowed)
        if not -1 <= self.lookahead < self.frames:
            raise UsageError(f"lookahead {self.lookahead} does not fit a window of {self.frames} frames")
        if not 0 < self.mask_rate < 1 or not 0 <= self.masked_joints <= 16:
            raise UsageError(
                f"mask_rate {self.mask_rate} must lie between 0 and 1, masked_joints {self.masked_joints} between 0 "
                f"and 16"
            )
        if self.batch < 2 or self.checkpoint_steps < 1 or min(self.epochs, self.pretrain_epochs) < 1:
            raise UsageError(f"batch {self.batch} must be at least 2, epochs and checkpoint_steps at least 1")
        if self.qat is not None and (self.compile or self.precision == "bf16"):
            raise UsageError("quantization-aware training needs precision=fp32 and compile=false")

    @property
    def target_index(self) -> int | None:
        """The window position whose pose is learnt; None for the centre."""
        return None if self.lookahead < 0 else self.frames - 1 - self.lookahead

    def schedule(self, stage: str) -> Schedule:
        """Epochs and rates of "pretrain", "finetune" or "refine"."""
        if stage == "pretrain":
            return Schedule(self.pretrain_epochs, self.pretrain_lr, self.pretrain_lr_decay)
        if stage == "refine":
            return Schedule(self.refine_epochs, self.refine_lr, self.refine_lr_decay)
        return Schedule(self.epochs, self.lr, self.lr_decay, self.restart_epoch, self.restart_lr, self.restart_decay)


@dataclass(frozen=True)
class Schedule:
    """How long a stage trains and at which rates."""

    epochs: int
    lr: float
    decay: float
    restart_epoch: int = 0
    restart_lr: float = 0.0
    restart_decay: float = 1.0

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        if 0 < self.restart_epoch <= epoch:
            return self.restart_lr * self.restart_decay ** (epoch - self.restart_epoch)
        return self.lr * self.decay**epoch


_CMU_27 = Recipe(
    "p-stmo-s", 27, t_downsample=2, data=cmu_mocap.NAME, dropout=0.0, batch=64, checkpoint_steps=200, keep="last",
    mask_rate=0.6, pretrain_lr=1e-3, pretrain_lr_decay=0.84, pretrain_epochs=4,
    lr_decay=0.84, epochs=26, restart_epoch=16, restart_lr=3.5e-4, restart_decay=0.72, refine_epochs=2,
    augmentation=Augmentation(),
)  # fmt: skip
_SHORT = dataclasses.replace(_CMU_27, lr=8e-4, lr_decay=0.6, epochs=8, restart_epoch=0)
_WILD = Augmentation(camera_tilt=0.05, focal=0.1, free_camera=0.5, speed=0.1, detector=0.7, missing=0.2)

# fmt: off
RECIPES = {
    # As published, on Human3.6M: --data names the folder.
    "p-stmo-s-gt": Recipe("p-stmo-s", 243, 2, mask_rate=0.8, masked_joints=7, lr=1e-3),
    "p-stmo-s": Recipe("p-stmo-s", 243, 2, keypoints="cpn_ft_h36m_dbb", mask_rate=0.8, masked_joints=2, lr=7e-4),
    "p-stmo": Recipe("p-stmo", 243, 2, keypoints="cpn_ft_h36m_dbb", mask_rate=0.6, masked_joints=3, lr=1e-3),
    # As published, on MPI-INF-3DHP, and for COCO keypoints: trained at 25 frames a second, used on videos of 25 to 30.
    "p-stmo-s-3dhp": Recipe("p-stmo-s", 81, skeleton=MPI_INF_3DHP.name, mask_rate=0.7, masked_joints=2, lr=7e-4),
    "p-stmo-s-wild": Recipe("p-stmo-s", 243, 2, use_t_downsample=1, keypoints="detectron_pt_coco", skeleton=COCO.name,
                            mask_rate=0.8, masked_joints=2, lr=7e-4),
    # The weights in the box, on two CPU cores. Dropout is off because no window is ever seen twice.
    "cmu-27": _CMU_27,
    # The other two start from those (--from p-stmo-s-27) and train a third as long.
    "cmu-27-causal": dataclasses.replace(_SHORT, lookahead=0),
    "cmu-27-coco": dataclasses.replace(_SHORT, skeleton=COCO.name, augmentation=_WILD),
    # The full-sized models on the bundled motion, where a GPU is to hand.
    "cmu-243": dataclasses.replace(_CMU_27, frames=243, dropout=0.1, batch=160, mask_rate=0.8, pretrain_epochs=20),
    # Every architecture alike, for a comparison of their errors at equal effort: --set model=NAME.
    "equal-27": dataclasses.replace(_SHORT, batch=32, lr=1e-3, lr_decay=0.63, epochs=6, steps_per_epoch=100),
    # Seconds, to see that everything works: the weights it makes are of no use.
    "tiny": Recipe("p-stmo-s", 9, data=cmu_mocap.NAME, batch=16, steps_per_epoch=20, checkpoint_steps=10,
                   pretrain_epochs=2, epochs=2, refine_epochs=1, augmentation=Augmentation()),
}
# fmt: on


_GROUPS: dict[str, Any] = {"augmentation": Augmentation, "qat": Quantized}  # fields with fields of their own


def get_recipe(name: str) -> Recipe:
    """The recipe called `name`; raises UsageError with the nearest match."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, for a checkpoint."""
    return dataclasses.asdict(recipe)


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """The inverse of `to_dict`."""
    groups = {name: kind(**values[name]) for name, kind in _GROUPS.items() if values.get(name) is not None}
    return Recipe(**{**values, **groups})


def overridden(recipe: Recipe, settings: Iterable[str] = (), **values: Any) -> Recipe:
    """The recipe with some fields changed.

    `settings` are texts such as "lr=5e-4", "augmentation.speed=0.1" or "qat.weight_bits=4"; of `values`, None leaves a
    field as it is. Raises UsageError for a field that is not there or a value that does not fit it.
    """
    changed = to_dict(recipe) | {name: value for name, value in values.items() if value is not None}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: write it as name=value")
        group = changed
        prefix, dot, rest = name.partition(".")
        if dot and prefix in _GROUPS:
            name = rest
            group = changed[prefix] = changed[prefix] or dataclasses.asdict(_GROUPS[prefix]())
        if name not in group or (group is changed and name in _GROUPS):
            raise unknown("field of a recipe", name, group)
        group[name] = _parsed(setting, text, type(group[name]))
    return from_dict(changed)


def _parsed(setting: str, text: str, kind: type) -> Any:
    """The value of a setting, of the type that the field has now."""
    if kind is str:
        return text
    try:
        value = json.loads(text.lower())
    except ValueError:
        value = None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise UsageError(f"--set {setting}: {text!r} is no {kind.__name__}")
    return value


def differences(ours: Recipe, theirs: Mapping[str, Any]) -> list[str]:
    """Which fields of two recipes differ, as 'lr (0.001, was 0.002)'."""
    found = []
    for name, value in json.loads(json.dumps(to_dict(ours))).items():
        if value != theirs.get(name):
            found.append(f"{name} ({value}, was {theirs.get(name)})")
    return found
