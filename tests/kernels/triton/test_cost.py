"""The counts behind projections, and that a projection never passes for a measurement."""

import pytest

from pstmo_edge.benchmarks.cost import mflop
from pstmo_edge.kernels.triton import cost


@pytest.mark.parametrize(("name", "frames", "layers"), [("p-stmo-s", 243, 3), ("p-stmo", 27, 4), ("p-stmo-s", 9, 3)])
def test_operations_are_those_of_the_model(name, frames, layers):
    counted = cost.operations(frames, layers) / 1e6
    model = mflop(name, frames)
    # The kernels compute the hidden layer of a stride-1 convolution three times.
    assert counted == pytest.approx(model, rel=1e-3) if frames != 9 else counted > model


def test_a_projection_is_bounded_by_both_peaks():
    nano = next(chip for chip in cost.CHIPS if chip.name.startswith("Orin Nano"))
    found = cost.project(nano, 243, 3, "int8", 64)
    assert found.windows_per_s < nano.peaks["int8"] / cost.operations(243, 3)
    tokens = sum(one.token_bytes for one in cost.costs(243, 3, "int8"))
    assert found.windows_per_s < nano.bandwidth / tokens
    halved = dict.fromkeys((one.name for one in cost.costs(243, 3, "int8")), 0.5)
    assert cost.project(nano, 243, 3, "int8", 64, halved).windows_per_s == pytest.approx(found.windows_per_s / 2)


def test_every_figure_is_marked():
    found = cost.projections(243, 3)
    assert {projection.chip for projection in found} == {chip.name for chip in cost.CHIPS}
    assert all(p.basis == "projection, limit: 100 % of the peaks, no efficiency was measured" for p in found)
    assert not [p for p in found if "Orin" in p.chip and p.precision == "fp8"], "Orin has no FP8 units"
    assert all(chip.source for chip in cost.CHIPS)
