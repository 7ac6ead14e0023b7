import numpy as np
import pytest

from pstmo_edge.datasets import load_sequences
from pstmo_edge.datasets.detector import DetectorModel
from pstmo_edge.skeletons import COCO, HUMAN36M, MPI_INF_3DHP


def standing(skeleton, frames=400, height=400.0):
    """Somebody of `height` pixels who stands still, the joints anywhere."""
    rng = np.random.default_rng(0)
    pixels = rng.uniform(300, 300 + height, (skeleton.num_joints, 2))
    pixels[0, 1], pixels[1, 1] = 300, 300 + height
    return np.repeat(pixels[None], frames, axis=0)


def test_human36m_outputs_never_change():
    """Published figures were measured on this stream of random numbers."""
    pixels = np.arange(2 * 30 * 17 * 2, dtype=float).reshape(2, 30, 17, 2) % 997
    found, confidence = DetectorModel().apply(pixels, np.random.default_rng(7))
    summary = [found.mean(), found.std(), found[1, 29, 13, 0], confidence.mean(), confidence[0, 0, 0]]
    np.testing.assert_allclose(
        summary,
        [487.1434138845487, 293.2246489805784, 36.91455501211138, 0.8883048105182525, 0.9615690390142969],
        rtol=1e-9,
    )


@pytest.mark.parametrize("skeleton", [HUMAN36M, COCO], ids=lambda skeleton: skeleton.name)
def test_hips_are_steadier_than_wrists_and_sides_are_alike(skeleton):
    exact = standing(skeleton, 20_000)
    found, _ = DetectorModel(outlier_rate=0).apply(exact, np.random.default_rng(0), skeleton=skeleton)
    spread = dict(zip(skeleton.joints, (found - exact).std((0, 2)) / 400, strict=True))
    assert spread["LWrist"] > 1.5 * spread["LHip"]
    assert spread["LWrist"] == pytest.approx(0.018, rel=0.1)
    for left, right in zip(skeleton.left, skeleton.right, strict=True):
        assert spread[skeleton.joints[left]] == pytest.approx(spread[skeleton.joints[right]], rel=0.1)


@pytest.mark.parametrize("skeleton", [HUMAN36M, COCO], ids=lambda skeleton: skeleton.name)
def test_a_swapped_joint_is_where_its_twin_is(skeleton):
    exact = standing(skeleton, 2000)
    model = DetectorModel(outlier_rate=0.05, outlier_size=0.0, swap_share=1.0)
    found, confidence = model.apply(exact, np.random.default_rng(0), skeleton=skeleton)
    twins = exact[:, list(skeleton.mirror)]
    error, to_twin = (np.linalg.norm(found - place, axis=-1) for place in (exact, twins))
    pairs = [*skeleton.left, *skeleton.right]
    apart = np.linalg.norm(exact - twins, axis=-1) > 60
    swapped = (to_twin < 40) & apart
    assert 0.1 < swapped[:, pairs].mean() < 0.4
    assert (swapped | (error < 60))[:, pairs].all()
    assert confidence[swapped].mean() < 0.6 < confidence[~swapped].mean()


def test_a_joint_set_without_measured_jitter_is_no_silent_guess():
    with pytest.raises(KeyError):
        DetectorModel().apply(standing(MPI_INF_3DHP, 4), np.random.default_rng(0), skeleton=MPI_INF_3DHP)


def test_coco_keypoints_of_the_bundled_motion_err_as_much_as_human36ms():
    exact, found = (load_sequences("cmu-mocap", "test", kind, "coco-17") for kind in ("gt", "detected"))
    error = np.concatenate(
        [np.linalg.norm(b.keypoints - a.keypoints, axis=-1) * 500 for a, b in zip(exact, found, strict=True)]
    )
    assert 4 < error.mean() < 6
    assert error[:, COCO.joints.index("LWrist")].mean() > 2 * error[:, COCO.joints.index("LEye")].mean()
    assert all(sequence.confidence.shape == sequence.keypoints.shape[:2] for sequence in found)
