import numpy as np
import pytest

from pstmo_edge import cameras
from pstmo_edge.errors import UsageError


@pytest.fixture
def camera():
    return cameras.human36m_cameras("S9")[0]


def test_four_cameras_look_at_the_stage():
    for subject in ("S1", "S5", "S6", "S7", "S8", "S9", "S11"):
        found = cameras.human36m_cameras(subject)
        assert [camera.name for camera in found] == ["54138969", "55011271", "58860488", "60457274"]
        for camera in found:
            seen = cameras.world_to_camera(np.array([0.0, 0.0, 1.0]), camera)
            pixels = cameras.project(seen, camera)
            assert 3 < seen[2] < 8
            assert (np.abs(pixels - 500) < 200).all()


def test_world_and_camera_are_inverses(camera):
    points = np.random.default_rng(0).normal(size=(4, 17, 3))
    np.testing.assert_allclose(cameras.camera_to_world(cameras.world_to_camera(points, camera), camera), points)
    np.testing.assert_allclose(camera.rotation @ camera.rotation.T, np.eye(3), atol=1e-12)


def test_up_in_the_world_is_up_in_the_image(camera):
    foot, head = (cameras.world_to_camera(np.array([0, 0, height]), camera) for height in (0.0, 1.7))
    assert cameras.project(head, camera)[1] < cameras.project(foot, camera)[1]


def test_projection_without_distortion_is_a_pinhole():
    points = np.array([[0.5, -0.25, 2.0]])
    plain = {"focal": np.array([1000.0, 1100.0]), "centre": np.array([512.0, 500.0])}
    found = cameras.project_with(points, radial=np.zeros(3), tangential=np.zeros(2), **plain)
    np.testing.assert_allclose(found, [[512 + 250, 500 - 137.5]])


def test_screen_normalisation_keeps_the_aspect():
    corners = np.array([[0.0, 0.0], [1920.0, 1080.0], [960.0, 540.0]])
    found = cameras.normalise_screen(corners, (1920, 1080))
    np.testing.assert_allclose(found, [[-1, -0.5625], [1, 0.5625], [0, 0]])
    np.testing.assert_allclose(cameras.denormalise_screen(found, (1920, 1080)), corners)


def test_an_unknown_subject_is_named():
    with pytest.raises(UsageError, match="S12"):
        cameras.human36m_cameras("S12")
