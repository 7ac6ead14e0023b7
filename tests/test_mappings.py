import numpy as np
import pytest

from pstmo_edge.errors import DataError, UsageError
from pstmo_edge.mappings import mapping
from pstmo_edge.skeletons import COCO, HUMAN36M, SKELETONS, get_skeleton

TO_COCO = ["coco-17", "blazepose-33", "halpe-26", "openpose-18", "openpose-25"]


def numbered(skeleton):
    """(J, 3): a joint's number is its place, so that a swap of two shows."""
    numbers = np.arange(skeleton.num_joints, dtype=float)
    return np.stack([numbers, 100 - numbers, 0.5 + numbers / 100], axis=-1)


@pytest.mark.parametrize("source", TO_COCO)
def test_every_joint_of_coco_is_the_one_of_that_name(source):
    given = get_skeleton(source)
    mapped = mapping(source, "coco-17")(numbered(given)[None])
    assert mapped.shape == (1, 17, 3)
    for joint, values in zip(COCO.joints, mapped[0], strict=True):
        assert np.allclose(values, numbered(given)[given.joints.index(joint)]), joint


@pytest.mark.parametrize("source", TO_COCO)
def test_left_and_right_stay_left_and_right(source):
    given, mapped = get_skeleton(source), mapping(source, "coco-17")
    mirrored = numbered(given)[list(given.mirror)]
    assert np.allclose(mapped(mirrored), mapped(numbered(given))[list(COCO.mirror)])


def test_halpe_to_human36m_takes_means_where_it_must_and_says_so():
    mapped = mapping("halpe-26", "human36m-17")
    assert mapped.derived == ("Spine", "Neck/Nose")
    given, halpe = numbered(get_skeleton("halpe-26")), get_skeleton("halpe-26").joints.index
    found = dict(zip(HUMAN36M.joints, mapped(given), strict=True))
    assert np.allclose(found["Spine"][:2], (given[halpe("Hip")] + given[halpe("Neck")])[:2] / 2)
    assert np.allclose(found["Head"], given[halpe("HeadTop")])
    assert np.allclose(found["RFoot"], given[halpe("RAnkle")])
    given[halpe("Neck"), 2] = 0
    assert mapped(given)[[HUMAN36M.joints.index(name) for name in ("Spine", "Thorax", "Neck/Nose")], 2].max() == 0


def test_what_cannot_be_mapped_is_refused_with_what_to_use():
    with pytest.raises(DataError, match="p-stmo-s-27-coco"):
        mapping("blazepose-33", "human36m-17")
    with pytest.raises(DataError, match="weights that read mpi-inf-3dhp-17"):
        mapping("mpi-inf-3dhp-17", "coco-17")
    with pytest.raises(UsageError, match="coco-17"):
        mapping("coco17", "human36m-17")


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=lambda skeleton: skeleton.name)
def test_pairs_of_every_joint_set_are_named_alike(skeleton):
    for left, right in zip(skeleton.left, skeleton.right, strict=True):
        names = skeleton.joints[left], skeleton.joints[right]
        assert (names[0][0], names[1][0], names[0][1:]) == ("L", "R", names[1][1:])
    sided = [name for name in skeleton.joints if name[0] in "LR" and name[1].isupper()]
    assert len(sided) == 2 * len(skeleton.left)
    assert sum(parent < 0 for parent in skeleton.parents) >= 1
