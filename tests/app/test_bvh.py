"""BVH files: read by a parser of somebody else's, every joint is where the pose had it, and bones keep their length."""

import numpy as np
import pytest

from pstmo_edge.app.bvh import NODES, fixed_bones, write_bvh
from pstmo_edge.datasets import bvh, cmu_mocap
from pstmo_edge.errors import DataError, UsageError

bvh_package = pytest.importorskip("bvh", reason="needs the package bvh: pip install 'pstmo-edge[dev]'")
rotations = pytest.importorskip("scipy.spatial.transform", reason="needs scipy: pip install 'pstmo-edge[data]'")
LIMIT = 1e-4  # metres; angles are written to a hundred-thousandth of a degree


@pytest.fixture(scope="module")
def dance():
    """Root-relative poses (L, 17, 3) and roots (L, 3), z up, of real people who turn and bend."""
    positions = np.concatenate([take.positions[:60] for take in cmu_mocap.takes("test")[-4:]])
    return positions - positions[:, :1], positions[:, 0]


def read(path):
    """Where every joint is, by name, (L, 3), from the parser's offsets and channels and scipy's rotations."""
    parsed = bvh_package.Bvh(path.read_text())
    found, turns = {}, {}
    for name in parsed.get_joints_names():
        channels = parsed.joint_channels(name)
        values = np.array(parsed.frames_joint_channels(name, channels), float)
        order = "".join(channel[0] for channel in channels if channel.endswith("rotation"))
        own = rotations.Rotation.from_euler(order.upper(), values[:, -3:], degrees=True)
        parent = parsed.joint_parent(name)
        if parent is None:
            found[name], turns[name] = values[:, :3], own
        else:
            found[name] = found[parent.name] + turns[parent.name].apply(parsed.joint_offset(name))
            turns[name] = turns[parent.name] * own
    end = next(child for child in parsed.get_joint("Head").children if child.value[0] == "End")
    found["Head end"] = found["Head"] + turns["Head"].apply([float(value) for value in end["OFFSET"]])
    return parsed, found


def joints(found):
    """The pose's joints (L, 17, 3) of what `read` found."""
    names = {node.joint: node.name for node in NODES if node.joint is not None} | {10: "Head end"}
    return np.stack([found[names[joint]] for joint in range(17)], axis=1)


def z_up(points):
    return np.stack([points[..., 0], -points[..., 2], points[..., 1]], axis=-1) / 100


def test_joints_are_where_the_poses_had_them(dance, tmp_path):
    poses, roots = dance
    poses = fixed_bones(poses)
    write_bvh(tmp_path / "dance.bvh", poses, roots, 25, axes="world")
    parsed, found = read(tmp_path / "dance.bvh")
    assert parsed.nframes == len(poses)
    assert parsed.frame_time == pytest.approx(0.04)
    np.testing.assert_allclose(z_up(joints(found)), poses + roots[:, None], atol=LIMIT)


def test_trembling_bones_become_constant_and_keep_their_directions(dance, tmp_path):
    poses, roots = dance
    poses = poses + np.random.default_rng(0).normal(0, 0.01, poses.shape)
    poses -= poses[:, :1]
    write_bvh(tmp_path / "a.bvh", poses, roots, 30, axes="world")
    _, found = read(tmp_path / "a.bvh")
    read_back = z_up(joints(found)) - roots[:, None]
    np.testing.assert_allclose(read_back, fixed_bones(poses), atol=LIMIT)
    parents = [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15]
    for joint in range(1, 17):
        bone = read_back[:, joint] - read_back[:, parents[joint]]
        given = poses[:, joint] - poses[:, parents[joint]]
        lengths = np.linalg.norm(bone, axis=-1)
        assert np.ptp(lengths) < LIMIT
        assert lengths[0] == pytest.approx(np.median(np.linalg.norm(given, axis=-1)), abs=LIMIT)


@pytest.mark.parametrize("seed", range(3))
def test_any_pose_comes_back(seed, tmp_path):
    """Directions at random, and along and against every axis, where turns of half a circle and gimbals are."""
    rng = np.random.default_rng(seed)
    axes = np.concatenate([np.eye(3), -np.eye(3)])
    poses = np.zeros((60, 17, 3))
    parents = [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15]
    for joint in range(1, 17):
        bone = axes[rng.integers(6, size=60)] if seed else rng.normal(size=(60, 3))
        poses[:, joint] = poses[:, parents[joint]] + 0.3 * bone / np.linalg.norm(bone, axis=-1, keepdims=True)
    write_bvh(tmp_path / "any.bvh", poses, None, 30, axes="world")
    _, found = read(tmp_path / "any.bvh")
    np.testing.assert_allclose(z_up(joints(found)), poses, atol=LIMIT)


def test_a_camera_s_poses_stand_upright(dance, tmp_path):
    poses, roots = dance
    turn = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])  # world to a level camera: y down, z ahead
    write_bvh(tmp_path / "camera.bvh", fixed_bones(poses @ turn.T), roots @ turn.T, 50)
    _, found = read(tmp_path / "camera.bvh")
    np.testing.assert_allclose(z_up(joints(found)), fixed_bones(poses) + roots[:, None], atol=LIMIT)


def test_our_own_reader_knows_the_names(dance, tmp_path):
    poses, roots = (values[:60] for values in dance)
    write_bvh(tmp_path / "dance.bvh", fixed_bones(poses), roots, 50, axes="world")
    np.testing.assert_allclose(
        bvh.read(tmp_path / "dance.bvh", unit=0.01), fixed_bones(poses) + roots[:, None], atol=LIMIT
    )


def test_angles_do_not_jump_by_whole_turns(dance, tmp_path):
    poses, roots = (values[:60] for values in dance)
    turned = poses @ np.stack(
        [[[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]] for a in np.linspace(0, 9, 60)]
    )
    write_bvh(tmp_path / "turn.bvh", turned, roots, 50, axes="world")
    values = np.array(bvh_package.Bvh((tmp_path / "turn.bvh").read_text()).frames, float)
    assert np.abs(np.diff(values[:, 3:6], axis=0)).max() < 90
    assert np.ptp(values[:, 5]) > 360


def test_a_root_that_is_not_known_is_where_it_was(dance, tmp_path):
    poses, roots = (values[:6] for values in dance)
    given = roots.copy()
    given[[0, 3]] = np.nan
    write_bvh(tmp_path / "a.bvh", poses, given, 50, axes="world")
    found = z_up(read(tmp_path / "a.bvh")[1]["Hips"])
    np.testing.assert_allclose(found, roots[[1, 1, 2, 2, 4, 5]], atol=LIMIT)
    write_bvh(tmp_path / "b.bvh", poses, np.full((6, 3), np.nan), 50)
    assert not read(tmp_path / "b.bvh")[1]["Hips"].any()


def test_what_is_no_recording_is_refused_and_writes_nothing(dance, tmp_path):
    poses, roots = (values[:5] for values in dance)
    path = tmp_path / "no.bvh"
    for given, says in (
        ((poses[:0], None, 30), "1 frame at least"),
        ((poses[:, :16], None, 30), "holds"),
        ((poses, roots[:4], 30), "one for each pose"),
        ((poses * np.nan, roots, 30), "NaN"),
        ((poses, roots, 30, "camera", "mpi-inf-3dhp-17"), "human36m-17 alone"),
    ):
        with pytest.raises(DataError, match=says):
            write_bvh(path, *given)
    with pytest.raises(UsageError, match="frames a second"):
        write_bvh(path, poses, roots, 0)
    with pytest.raises(UsageError, match="'camera' or 'world'"):
        write_bvh(path, poses, roots, 30, "down")
    assert list(tmp_path.iterdir()) == []
