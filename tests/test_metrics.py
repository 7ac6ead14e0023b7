import numpy as np
import pytest
from reference import load_golden

from pstmo_edge import metrics
from pstmo_edge.errors import DataError


@pytest.fixture
def poses():
    rng = np.random.default_rng(0)
    return rng.normal(0, 0.4, (20, 17, 3))


def test_metrics_equal_the_published_ones():
    _, arrays, meta = load_golden("metrics")
    errors = metrics.mpjpe(arrays["predicted"], arrays["target"])
    aligned = metrics.p_mpjpe(arrays["predicted"], arrays["target"])
    assert errors.mean() == pytest.approx(float(arrays["mpjpe_mm"]), rel=1e-4)
    np.testing.assert_allclose(aligned, arrays["p_mpjpe_mm"], rtol=1e-4)
    assert metrics.per_action(errors, meta["actions"]) == pytest.approx(meta["p1"], rel=1e-4)
    assert metrics.per_action(aligned, meta["actions"]) == pytest.approx(meta["p2"], rel=1e-4)


def test_alignment_undoes_a_similarity_transform_but_no_reflection(poses):
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    moved = 1.7 * poses @ turn + [0.3, -2.0, 5.0]
    assert metrics.p_mpjpe(moved, poses).max() < 1e-9
    assert metrics.p_mpjpe(poses * [-1, 1, 1], poses).min() > 1


def test_scale_is_all_that_n_mpjpe_forgives(poses):
    assert metrics.n_mpjpe(0.5 * poses, poses).max() < 1e-9
    assert metrics.n_mpjpe(poses + 0.1, poses).min() > 1


def test_a_constant_offset_has_no_velocity_error(poses):
    assert metrics.mpjve(poses + 0.05, poses) == pytest.approx(0, abs=1e-9)
    assert metrics.mpjpe(poses + 0.05, poses) == pytest.approx(np.full(20, 50 * 3**0.5))
    jitter = np.where(np.arange(20)[:, None, None] % 2, 0.01, 0)
    assert metrics.mpjve(poses + jitter, poses) == pytest.approx(10 * 3**0.5)


def test_pck_and_auc_count_joints():
    true = np.zeros((1, 4, 3))
    found = np.array([[[0, 0, 0], [0.1, 0, 0], [0.149, 0, 0], [0.2, 0, 0]]])
    assert metrics.pck(found, true) == 75.0
    expected = np.mean([np.mean([e < t for e in (0, 100, 149, 200)]) * 100 for t in range(0, 151, 5)])
    assert metrics.auc(found, true) == pytest.approx(expected)


def test_shapes_must_agree(poses):
    with pytest.raises(DataError, match="must agree"):
        metrics.mpjpe(poses[:, :16], poses)
