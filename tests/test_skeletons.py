import numpy as np
import pytest

from pstmo_edge.errors import DataError, UsageError
from pstmo_edge.skeletons import HUMAN36M, SKELETONS, get_skeleton, mirrored, require_skeleton


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_left_and_right_are_twins(skeleton):
    assert len(set(skeleton.joints)) == skeleton.num_joints
    for left, right in zip(skeleton.left, skeleton.right, strict=True):
        assert skeleton.joints[left] == "L" + skeleton.joints[right][1:]
        assert skeleton.mirror[skeleton.parents[left]] == skeleton.parents[right]
    assert sorted(skeleton.left + skeleton.right) == [i for i, name in enumerate(skeleton.joints) if name[0] in "LR"]
    assert [skeleton.mirror[i] for i in skeleton.mirror] == list(range(skeleton.num_joints))


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_bones_form_one_tree(skeleton):
    root = [joint for joint, parent in enumerate(skeleton.parents) if parent < 0]
    assert len(root) == 1
    for start in range(skeleton.num_joints):
        joint, steps = start, 0
        while joint != root[0]:
            joint, steps = skeleton.parents[joint], steps + 1
            assert steps <= skeleton.num_joints


def test_mirroring_twice_changes_nothing():
    points = np.random.default_rng(0).normal(size=(5, 17, 3))
    np.testing.assert_array_equal(mirrored(mirrored(points)), points)
    assert mirrored(points)[0, 4, 0] == -points[0, 1, 0]


def test_the_wrong_joint_set_is_refused():
    with pytest.raises(DataError, match=r"coco-17.*human36m-17"):
        require_skeleton("coco-17", HUMAN36M, "clip.npz")
    with pytest.raises(UsageError, match="did you mean 'coco-17'"):
        get_skeleton("coco17")
