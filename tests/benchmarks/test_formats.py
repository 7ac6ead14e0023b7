"""The table of formats: its figures from known errors."""

import json

import numpy as np
import pytest

from pstmo_edge.benchmarks import formats
from pstmo_edge.windows import WindowSpec


def test_changes_are_those_against_fp32():
    exact = {"mpjpe_mm": 40.0, "acceleration_mm": 5.0, "joints_mm": [0.0, 40.0, 60.0]}
    row = {"mpjpe_mm": 40.5, "acceleration_mm": 5.1, "joints_mm": [0.0, 39.0, 61.5]}
    found = formats.compared(row, exact)
    assert found == pytest.approx({"change_mm": 0.5, "worst_joint_mm": 1.5, "jitter_percent": 2.0})


def test_errors_of_known_poses(short_sequences):
    """Poses that tremble by 2 mm from frame to frame: an error of 1 mm, an acceleration error of 4 mm."""
    windows, true, actions = formats.stretches(short_sequences, WindowSpec(9))
    assert len(true) == len(actions) == sum(map(len, windows))
    assert all(part.shape[1:] == (9, 17, 2) for part in windows)
    given = iter(np.split(true, np.cumsum([len(part) for part in windows])[:-1]))

    def predict(part):
        poses = next(given)[: len(part)].copy()
        poses[:, 1:, 0] += 0.001 * (-1.0) ** np.arange(len(poses))[:, None]
        return poses

    assert max(map(len, windows)) <= 256  # one call a take
    found = formats.errors(predict, windows, true, actions)
    assert found["joints_mm"][0] == pytest.approx(0, abs=1e-3)
    np.testing.assert_allclose(found["joints_mm"][1:], 1, atol=1e-3)
    assert found["mpjpe_mm"] == pytest.approx(16 / 17, abs=1e-3)
    assert found["acceleration_mm"] == pytest.approx(4 * 16 / 17, rel=1e-3)


def test_the_committed_table_is_whole():
    found = json.loads(formats.RESULTS.read_text())
    for weights in found["weights"].values():
        assert set(weights["formats"]) == set(formats.FORMATS)
        assert formats.table(weights).count("\n") == len(formats.FORMATS) + 1
        for row in weights["formats"].values():
            again = formats.compared(row, weights["formats"]["fp32"])
            assert {name: row[name] for name in again} == pytest.approx(again, abs=0.01)
