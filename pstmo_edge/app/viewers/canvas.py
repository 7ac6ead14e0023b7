"""A picture with its 3D poses beside it, drawn with Pillow: 2 to 4 ms a frame where matplotlib takes 100."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pstmo_edge.app.types import PersonPose
from pstmo_edge.app.viewers import looks
from pstmo_edge.app.viewers.aligned import Moment
from pstmo_edge.arrays import FloatArray
from pstmo_edge.skeletons import Skeleton

BACKGROUND, LINES, TEXT = (20, 24, 31), (52, 60, 72), (226, 232, 240)
STATUS = 24  # pixels of the line below
REACH = 1.25  # metres from the root to the edge of a cell


@cache
def font(size: int) -> Any:
    """Pillow's own font."""
    return ImageFont.load_default(size)


def fitted(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture at another size (width, height)."""
    if (image.shape[1], image.shape[0]) == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


class Canvas:
    """Draws moments of one source: the picture at `height` pixels, a square of poses to its right, a line below."""

    def __init__(
        self, image_size: tuple[int, int], keypoints: Skeleton, poses: Skeleton, height: int = 480, z_up: bool = False
    ) -> None:
        self.picture_size = (even(height * image_size[0] / image_size[1]), height)
        self.scale = height / image_size[1]
        self.size = (self.picture_size[0] + height, height + STATUS)
        self._keypoints, self._poses, self._z_up = keypoints, poses, z_up
        self._side = height

    def draw(self, moment: Moment) -> NDArray[np.uint8]:
        """One moment as (H, W, 3) uint8 RGB of `size`."""
        sheet = Image.new("RGB", self.size, BACKGROUND)
        if moment.frame.image is not None:
            sheet.paste(Image.fromarray(fitted(moment.frame.image, self.picture_size)))
        pen = ImageDraw.Draw(sheet)
        people = list(moment.poses.values())
        for person in people:
            if person.keypoints is not None and person.result.frame == moment.frame.index:
                self._draw_keypoints(pen, person.keypoints, person)
        pen.rectangle([self.picture_size[0], 0, self.size[0], self._side], fill=BACKGROUND)
        for person, cell in zip(people, self._cells(len(people)), strict=True):
            self._draw_pose(pen, person, cell)
        if not people:
            pen.text((self.picture_size[0] + 12, 10), "nobody", font=font(14), fill=LINES)
        pen.rectangle([0, self._side, *self.size], fill=BACKGROUND)
        pen.text((8, self._side + 4), f"{moment.frame.timestamp:.2f} s   {moment.status}", font=font(13), fill=TEXT)
        return np.asarray(sheet)

    def _draw_keypoints(self, pen: Any, keypoints: FloatArray, person: PersonPose) -> None:
        points = keypoints[:, :2] * self.scale
        seen = keypoints[:, 2] >= looks.SURE
        bones = zip(self._keypoints.bones, looks.sides(self._keypoints), strict=True)
        for (joint, parent), colour in bones:
            if seen[joint] and seen[parent]:
                pen.line([*points[joint], *points[parent]], fill=colour, width=3)
        for x, y in points[seen]:
            pen.ellipse([x - 3, y - 3, x + 3, y + 3], fill=looks.colour_of(person))
        if seen.any():
            top = points[seen].min(0)
            pen.text((top[0], top[1] - 20), str(person.person), font=font(16), fill=looks.colour_of(person))

    def _cells(self, count: int) -> Sequence[tuple[float, float, float]]:
        """(left, top, side) of a square for each person."""
        across = max(math.ceil(math.sqrt(count)), 1)
        side = self._side / across
        return [(self.picture_size[0] + i % across * side, i // across * side, side) for i in range(count)]

    def _draw_pose(self, pen: Any, person: PersonPose, cell: tuple[float, float, float]) -> None:
        left, top, side = cell
        scale, middle = side / 2 / REACH, np.array([left + side / 2, top + side / 2])
        pose = looks.as_seen(person.pose, self._z_up)
        seen = looks.turned(pose)
        points = seen[:, :2] * scale + middle
        self._draw_floor(pen, float(pose[:, 1].max()), scale, middle)
        missing = person.result.missing
        order = sorted(range(len(self._poses.bones)), key=lambda bone: -seen[list(self._poses.bones[bone]), 2].mean())
        colours = looks.sides(self._poses)
        for bone in order:  # the nearest last
            joint, parent = self._poses.bones[bone]
            colour = LINES if person.flag in ("gap", "stale") else colours[bone]
            pen.line([*points[joint], *points[parent]], fill=colour, width=max(round(side / 80), 2))
        radius = max(side / 160, 1.5)
        same = self._keypoints.joints == self._poses.joints  # only then does `missing` name these joints
        for joint, (x, y) in enumerate(points):
            fill = looks.FLAGS["stale"] if same and missing[joint] else TEXT
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)
        pen.rectangle([left + 1, top + 1, left + side - 2, top + side - 2], outline=looks.colour_of(person))
        pen.text((left + 10, top + 8), looks.label_of(person), font=font(13), fill=looks.colour_of(person))
        if person.doubt_mm is not None:
            doubt = f"expected error {float(np.mean(person.doubt_mm)):.0f} mm"
            pen.text((left + 10, top + 26), doubt, font=font(12), fill=TEXT)

    def _draw_floor(self, pen: Any, height: float, scale: float, middle: FloatArray) -> None:
        """A square metre grid at the height of the lowest joint, so that turning shows."""
        for start, end in _grid():
            line = looks.turned(np.array([start, end]) + np.array([0, height, 0]))[:, :2] * scale + middle
            pen.line([*line[0], *line[1]], fill=LINES, width=1)


@lru_cache(maxsize=1)
def _grid() -> list[tuple[tuple[float, float, float], tuple[float, float, float]]]:
    steps = (-0.75, -0.25, 0.25, 0.75)
    along = [((step, 0.0, -0.75), (step, 0.0, 0.75)) for step in steps]
    return along + [((-0.75, 0.0, step), (0.75, 0.0, step)) for step in steps]


def even(pixels: float) -> int:
    """The nearest even number: video codecs take no odd sides."""
    return max(round(pixels / 2) * 2, 2)
