"""Where the labels of a scatter plot go, so that none covers another label or a marker."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TypeAlias

Point: TypeAlias = tuple[float, float]
Box: TypeAlias = tuple[float, float, float, float]  # left, low, right, high

# Directions to try, best first: beside the marker, then above and below, then the corners.
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_DISTANCES = (1.0, 2.4, 4.0, 6.0, 8.5, 11.0, 14.0, 18.0)


def place(
    points: Sequence[Point], sizes: Sequence[Point], bounds: Box, gap: float, others: Sequence[Box] = ()
) -> list[Point]:
    """The centres of labels of the given (width, height) beside their points, in the same units; y may run either way.

    `gap` is the radius of a marker with its breathing space, `others` is what must not be covered either. Labels stay
    within `bounds`. Where nothing is free the place with the least overlap is taken.
    """
    taken = [_around(point, (2 * gap, 2 * gap)) for point in points]
    centres: list[Point] = []
    for number, (point, size) in enumerate(zip(points, sizes, strict=True)):
        rivals = [*taken[:number], *taken[number + 1 :], *others]
        best = min(_candidates(point, size, gap), key=lambda at: _cost(_around(at, size), rivals, bounds))
        taken.append(_around(best, size))
        centres.append(best)
    return centres


def nearest(point: Point, centre: Point, size: Point) -> Point:
    """Where a line from a point meets a label: the nearest place of its box."""
    left, low, right, high = _around(centre, size)
    return min(max(point[0], left), right), min(max(point[1], low), high)


def around_points(points: Sequence[Point], gap: float) -> list[Box]:
    """The boxes of markers without labels, for `place`."""
    return [_around(point, (2 * gap, 2 * gap)) for point in points]


def along(corners: Sequence[Point], gap: float) -> list[Box]:
    """Boxes along a line that runs across and up only, `gap` to each side, for `place`."""
    ends = itertools.pairwise(corners)
    return [(min(x1, x2) - gap, min(y1, y2) - gap, max(x1, x2) + gap, max(y1, y2) + gap) for (x1, y1), (x2, y2) in ends]


def _candidates(point: Point, size: Point, gap: float) -> Iterable[Point]:
    for distance in _DISTANCES:
        for x, y in _DIRECTIONS:
            across = 0.0 if x == 0 else x * (gap + size[0] / 2)
            yield point[0] + across, point[1] + y * (gap * distance + size[1] / 2) if y else point[1]


def _cost(box: Box, others: Sequence[Box], bounds: Box) -> float:
    """Area covered twice, and area outside; `min` takes the first of equals, so the nearest free place wins."""
    inside = _shared(box, bounds)
    outside = (box[2] - box[0]) * (box[3] - box[1]) - inside
    return 10 * outside + sum(_shared(box, other) for other in others)


def _around(centre: Point, size: Point) -> Box:
    half_width, half_height = size[0] / 2, size[1] / 2
    return centre[0] - half_width, centre[1] - half_height, centre[0] + half_width, centre[1] + half_height


def _shared(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)
