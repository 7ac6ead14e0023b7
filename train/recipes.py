"""Everything a training run depends on, as frozen named settings; a run's checkpoint carries the whole recipe."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from pstmo_edge.naming import unknown


@dataclass(frozen=True)
class Augmentation:
    """How one training window differs from the take it was cut from."""

    mirror: float = 0.5  # share of windows with left and right swapped
    turned: float = 0.5  # share of windows in which the person is turned to any heading
    shift: float = 0.2  # standard deviation of where the person stands, metres along each floor axis
    camera_tilt: float = 0.03  # standard deviation of the camera's rotation about each axis, radians
    camera_shift: float = 0.15  # standard deviation of the camera's place, metres along each axis
    focal: float = 0.02  # relative standard deviation of the focal length
    bodies: float = 0.5  # share of windows with another body
    body_size: float = 0.05  # relative standard deviation of the whole body
    bone_length: float = 0.04  # relative standard deviation of each bone (left and right alike)
    detector: float = 0.4  # share of windows with a detector's errors, of a strength drawn from 0..1.5


@dataclass(frozen=True)
class Recipe:
    """One training run: model, window, optimisation and augmentation."""

    model: str
    frames: int
    t_downsample: int = 1
    dropout: float = 0.1
    batch: int = 160
    epochs: int = 80
    lr: float = 1e-3
    lr_decay: float = 0.95  # by epoch
    restart_epoch: int = 0  # from this epoch on the rate starts again (0: never)
    restart_lr: float = 0.0
    restart_decay: float = 1.0
    steps_per_epoch: int = 0  # 0: every window once
    seed: int = 1
    threads: int = 0  # 0: as many as torch chooses
    checkpoint_steps: int = 200
    augmentation: Augmentation = field(default_factory=Augmentation)

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        if 0 < self.restart_epoch <= epoch:
            return self.restart_lr * self.restart_decay ** (epoch - self.restart_epoch)
        return self.lr * self.lr_decay**epoch


# fmt: off
RECIPES = {
    # A minute, to see that everything works: the weights it makes are of no use.
    "smoke": Recipe("p-stmo-s", 9, batch=16, epochs=2, steps_per_epoch=20, checkpoint_steps=10),
    # The weights in the box, two CPU cores. Dropout is off because no window is ever seen twice.
    "cmu-27": Recipe(
        "p-stmo-s", 27, t_downsample=2, dropout=0.0, batch=64, epochs=26,
        lr_decay=0.84, restart_epoch=16, restart_lr=3.5e-4, restart_decay=0.72,
    ),
}
# fmt: on


def get_recipe(name: str) -> Recipe:
    """The recipe called `name`; raises UsageError with the nearest match."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, for a checkpoint."""
    return dataclasses.asdict(recipe)


def from_dict(values: dict[str, Any]) -> Recipe:
    """The inverse of `to_dict`."""
    return Recipe(**{**values, "augmentation": Augmentation(**values["augmentation"])})
