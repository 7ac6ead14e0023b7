"""Labels of the plot never cover each other where there is room."""

import itertools

import numpy as np
import pytest

from pstmo_edge.benchmarks.labels import along, around_points, nearest, place

BOUNDS, SIZE, GAP = (0.0, 0.0, 900.0, 400.0), (120.0, 15.0), 14.0


def overlap(one, other, sizes):
    return all(abs(a - b) < (first + second) / 2 - 1e-9 for a, b, first, second in zip(one, other, *sizes, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_crowded_points_get_separate_labels(seed):
    points = [tuple(point) for point in np.random.default_rng(seed).uniform((300, 170), (600, 230), (6, 2))]
    places = place(points, [SIZE] * 6, BOUNDS, GAP)
    for one, other in itertools.combinations(places, 2):
        assert not overlap(one, other, (SIZE, SIZE))
    for label, point in itertools.product(places, points):
        assert not overlap(label, point, (SIZE, (2 * GAP, 2 * GAP)))
    for x, y in places:
        assert SIZE[0] / 2 <= x <= BOUNDS[2] - SIZE[0] / 2
        assert SIZE[1] / 2 <= y <= BOUNDS[3] - SIZE[1] / 2


def test_equal_points_get_different_labels():
    places = place([(450.0, 200.0)] * 4, [SIZE] * 4, BOUNDS, GAP)
    assert len(set(places)) == 4


def test_a_lonely_point_has_its_label_beside_it():
    assert place([(100.0, 200.0)], [SIZE], BOUNDS, GAP) == [(100 + GAP + 60, 200.0)]
    assert place([(880.0, 200.0)], [SIZE], BOUNDS, GAP) == [(880 - GAP - 60, 200.0)]


def test_labels_keep_clear_of_lines_and_of_markers_without_labels():
    line = along([(0.0, 200.0), (500.0, 200.0), (500.0, 400.0)], 1)
    ((x, y),) = place([(300.0, 200.0)], [SIZE], BOUNDS, GAP, others=line)
    assert (x, abs(y - 200)) == (300.0, GAP + SIZE[1] / 2), "above or below, not on the line"
    nameless = around_points([(380.0, 200.0)], GAP)
    ((x, y),) = place([(300.0, 200.0)], [SIZE], BOUNDS, GAP, others=nameless)
    assert x == 300 - GAP - SIZE[0] / 2


def test_a_line_ends_at_the_edge_of_its_label():
    assert nearest((0.0, 0.0), (100.0, 50.0), (40.0, 10.0)) == (80.0, 45.0)
    assert nearest((110.0, 90.0), (100.0, 50.0), (40.0, 10.0)) == (110.0, 55.0)
