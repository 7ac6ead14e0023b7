"""The reader of BVH files: forward kinematics against another derivation, units, frames, and what is refused."""

from itertools import pairwise

import numpy as np
import pytest
from bvh_files import CMU, END, ROOT_CHANNELS, UNIT, hierarchy, motion, random_values, walk, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pstmo_edge.cameras import quaternion_matrix
from pstmo_edge.datasets import bvh, cmu_mocap, load_sequences
from pstmo_edge.errors import DataError
from pstmo_edge.skeletons import HUMAN36M

# Where CMU's names put each joint; "Head end" is an End Site.
NAMES = (
    "Hips", "RightUpLeg", "RightLeg", "RightFoot", "LeftUpLeg", "LeftLeg", "LeftFoot", "Spine", "Neck", "Head",
    "Head end", "LeftArm", "LeftForeArm", "LeftHand", "RightArm", "RightForeArm", "RightHand",
)  # fmt: skip
SLOW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def joint(name):
    return HUMAN36M.joints.index(name)


def turn(axis, degrees):
    """A rotation from its quaternion, which the reader does not use."""
    half = np.radians(degrees) / 2
    quaternion = np.array([np.cos(half), 0, 0, 0])
    quaternion[1 + "XYZ".index(axis)] = np.sin(half)
    return quaternion_matrix(quaternion)


def expected(row):
    """World positions of NAMES, z up, metres, one frame at a time and joint by joint."""
    places, turns = {}, {}
    for number, (name, offset, parent, _) in enumerate(walk(CMU)):
        z, y, x = row[3 + 3 * number : 6 + 3 * number]
        local = turn("Z", z) @ turn("Y", y) @ turn("X", x)
        if parent is None:
            places[name], turns[name] = row[:3], local
        else:
            places[name] = places[parent] + turns[parent] @ offset
            turns[name] = turns[parent] @ local
    places["Head end"] = places["Head"] + turns["Head"] @ END
    found = np.array([places[name] for name in NAMES]) * UNIT
    return found[:, [0, 2, 1]] * [1, -1, 1]


def test_random_motion_lands_where_another_derivation_puts_it(tmp_path):
    values = random_values(13)
    found = bvh.read(write(tmp_path / "a.bvh", values, seconds=1 / 50))
    np.testing.assert_allclose(found, [expected(row) for row in values], atol=2e-5)


def rest(frames=1):
    values = np.zeros((frames, 3 * len(walk(CMU)) + 3))
    values[:, 1] = 17.0
    return values


def channel(name, axis):
    number = [each[0] for each in walk(CMU)].index(name)
    return 3 + 3 * number + "ZYX".index(axis)


def test_angles_of_zero_leave_the_body_at_rest_upright_and_left_on_its_left(tmp_path):
    (found,) = bvh.read(write(tmp_path / "a.bvh", rest()))
    np.testing.assert_allclose(found[joint("Hip")], [0, 0, 17 * UNIT])
    np.testing.assert_allclose(found[joint("LShoulder")] - found[joint("Thorax")], np.array([3.5, 0.2, 0.9]) * UNIT)
    np.testing.assert_allclose(found[joint("Head")] - found[joint("Neck/Nose")], [0, 0, 1.6 * UNIT], atol=1e-12)
    left = found[joint("LShoulder")] - found[joint("RShoulder")]
    toes = np.array([0, -1, 0])  # the database's bodies rest with their faces to +z, which is -y here
    np.testing.assert_allclose(np.cross(left, [0, 0, 1]) / np.linalg.norm(left), toes, atol=1e-12)


def test_a_quarter_turn_of_the_elbow_moves_the_hand_alone(tmp_path):
    values = rest()
    values[0, channel("LeftForeArm", "Z")] = 90  # about the axis forward: the left forearm points up
    (found,), (still,) = (
        bvh.read(write(tmp_path / name, rows)) for name, rows in (("a.bvh", values), ("b.bvh", rest()))
    )
    np.testing.assert_allclose(found[joint("LWrist")] - found[joint("LElbow")], [0, 0, 3.3 * UNIT], atol=1e-6)
    others = [number for number in range(17) if number != joint("LWrist")]
    np.testing.assert_allclose(found[others], still[others], atol=1e-12)


@pytest.mark.parametrize(
    ("order", "want"),
    [
        ("Zrotation Yrotation Xrotation", [0, 1, 0]),  # Y takes the file's x to -z, and Z leaves it there
        ("Yrotation Zrotation Xrotation", [0, 0, 1]),  # Z takes it to y, and Y leaves it there
    ],
)
def test_channels_turn_in_the_order_in_which_they_stand(tmp_path, order, want):
    """Hips turned by 90 degrees about two axes: what stands first is outermost."""
    values = rest()
    values[0, 3:5] = 90
    path = tmp_path / "a.bvh"
    text = "HIERARCHY\n" + hierarchy(CMU) + motion(values)
    path.write_text(text.replace(" ".join(ROOT_CHANNELS[3:]), order, 1))
    (found,) = bvh.read(path)
    left = found[joint("LHip")] - found[joint("RHip")]  # along x at rest
    np.testing.assert_allclose(left / np.linalg.norm(left), want, atol=1e-6)


def test_a_node_with_position_channels_is_where_they_say(tmp_path):
    """Some exporters write an offset and the same place again: it counts once."""
    old = "JOINT Spine\n{\n\tOFFSET 0 2.1 -0.1\n\tCHANNELS 3"
    text = hierarchy(CMU).replace(old, old.replace("CHANNELS 3", "CHANNELS 6 Xposition Yposition Zposition"))
    values = np.insert(rest(), [channel("Spine", "Z")] * 3, [0, 2.1, -0.1], axis=1)
    path = tmp_path / "a.bvh"
    path.write_text("HIERARCHY\n" + text.replace("OFFSET 0 0 0", "OFFSET 5 17 5", 1) + motion(values))
    np.testing.assert_allclose(bvh.read(path), bvh.read(write(tmp_path / "b.bvh", rest())), atol=1e-9)


def test_the_t_pose_before_a_take_is_left_out(tmp_path):
    values = random_values(241)
    with_pose = np.concatenate([rest(), values])
    with_pose[0, channel("LeftUpLeg", "Z")] = -20
    found = bvh.read(write(tmp_path / "a.bvh", with_pose))
    np.testing.assert_allclose(found, bvh.read(write(tmp_path / "b.bvh", values)))
    assert len(bvh.read(write(tmp_path / "c.bvh", rest()))) == 1  # a file with no more than that is what it is


@pytest.mark.parametrize("rate", [30, 50, 60, 120, 240])
def test_every_rate_becomes_fifty_a_second(tmp_path, rate):
    values = np.repeat(rest(), 2 * rate + 1, axis=0)
    values[:, 0] = np.arange(2 * rate + 1) / rate  # a unit a second along x
    found = bvh.read(write(tmp_path / "a.bvh", values, seconds=1 / rate))
    np.testing.assert_allclose(found[:100, 0, 0], np.arange(100) / 50 * UNIT, atol=1e-5)
    assert len(found) in (100, 101)  # the last frame may fall to rounding of the frame time


def test_angles_are_sampled_along_time(tmp_path):
    values = np.repeat(rest(), 60, axis=0)
    values[:, channel("LeftForeArm", "Z")] = np.arange(60)  # a degree a frame, 120 frames a second
    found = bvh.read(write(tmp_path / "a.bvh", values))
    hand = found[:, joint("LWrist")] - found[:, joint("LElbow")]
    np.testing.assert_allclose(np.degrees(np.arctan2(hand[:, 2], hand[:, 0])), np.arange(25) / 50 * 120, atol=0.01)


def scaled(tree, factor):
    name, offset, children = tree
    return name, tuple(factor * value for value in offset), [scaled(child, factor) for child in children]


@pytest.mark.parametrize("unit", bvh.UNITS)
def test_the_unit_is_told_by_the_legs(tmp_path, unit):
    path = tmp_path / "a.bvh"
    values = rest()
    values[:, :3] *= UNIT / unit
    write(path, values, scaled(CMU, UNIT / unit))
    with_end = [number for number in range(17) if number != joint("Head")]  # the writer does not scale End Sites
    np.testing.assert_allclose(
        bvh.read(path)[:, with_end], bvh.read(write(tmp_path / "b.bvh", rest()))[:, with_end], atol=1e-5
    )
    np.testing.assert_array_equal(bvh.read(path), bvh.read(path, unit))


def test_no_leg_fits_two_units():
    units = sorted(bvh.UNITS)
    assert min(large / small for small, large in pairwise(units)) > bvh.LEG[1] / bvh.LEG[0]


@pytest.mark.parametrize(("factor", "unit"), [(0.1, None), (20.0, None), (1.0, 0.01), (1.0, 1.0)])
def test_inhuman_bones_are_refused(tmp_path, factor, unit):
    path = write(tmp_path / "a.bvh", rest(), scaled(CMU, factor))
    with pytest.raises(DataError, match="no person's") as error:
        bvh.read(path, unit)
    assert one_line(error)


def test_characters_names_and_biovisions_names_are_known(tmp_path):
    plain = write(tmp_path / "a.bvh", rest())
    text = plain.read_text()
    (tmp_path / "b.bvh").write_text(text.replace("JOINT ", "JOINT Bob:").replace("ROOT ", "ROOT Bob:"))
    for side in ("Left", "Right"):
        renamed = {"Shoulder": "Collar", "ForeArm": "Elbow", "Arm": "Shoulder", "Hand": "Wrist", "UpLeg": "Hip",
                   "Leg": "Knee", "Foot": "Ankle"}  # fmt: skip
        for old, new in renamed.items():
            text = text.replace(f"JOINT {side}{old}\n", f"JOINT {side}{new}\n")
    (tmp_path / "c.bvh").write_text(text)
    for name in ("b.bvh", "c.bvh"):
        np.testing.assert_array_equal(bvh.read(tmp_path / name), bvh.read(plain))


def test_layout_of_the_text_does_not_matter(tmp_path):
    plain = write(tmp_path / "a.bvh", random_values(5))
    text = plain.read_text()
    other = text.replace("\n{", " {").replace("JOINT", "Joint").replace("\t", "    ").replace("\n", "\r\n\r\n")
    (tmp_path / "b.bvh").write_bytes(other.encode())
    np.testing.assert_array_equal(bvh.read(tmp_path / "b.bvh"), bvh.read(plain))


def one_line(error):
    return "\n" not in str(error.value)


def changed(old, new, count=1):
    def change(text):
        assert old in text
        return text.replace(old, new, count)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "is no BVH file"),
        (lambda text: "\x00\x01binary", r"line 1: .* has no place"),
        (lambda text: text[: text.index("MOTION")], "is no BVH file"),
        (changed("OFFSET 0 2.1 -0.1", "OFFSET 0 2.1"), r"line \d+: 'OFFSET 0 2.1' has no place"),
        (changed("OFFSET 0 2.1 -0.1", "OFFSET 0 2.1 nan"), r"line \d+: 'OFFSET 0 2.1 nan' has no place"),
        (changed("OFFSET 1.7", "OFFSET one"), "line 12: 'OFFSET one"),
        (changed("CHANNELS 6 X", "CHANNELS 5 X"), "line 5: 'CHANNELS 5"),
        (changed("CHANNELS 3 Z", "CHANNELS 4 Z"), r"line \d+: 'CHANNELS 4"),
        (changed("CHANNELS 3 Zrotation", "CHANNELS 3 Wrotation"), r"line \d+: 'CHANNELS 3 W"),
        (changed("ROOT Hips\n{", "{"), r"line 2: '{' has no place"),
        (changed("ROOT Hips", "JOINT Hips"), r"line 2: 'JOINT Hips' has no place"),
        (changed("JOINT Spine\n{", "JOINT Spine\n"), r"line \d+: 'OFFSET"),
        (changed("}\nMOTION", "}\n}\nMOTION"), r"line \d+: '}' has no place"),
        (changed("}\nMOTION", "\nMOTION"), r"line \d+: 'MOTION' has no place"),
        (changed("JOINT LeftUpLeg", "JOINT LeftThigh"), r"no joint for LHip \(LeftUpLeg or LeftHip\)"),
        (changed("Frames: 3", "Frames: x"), r"line \d+: expected 'Frames: N'"),
        (changed("Frames: 3", "Frames: 4"), "announces 4 frames and has 3"),
        (changed("Frames: 3", "Frames: 2"), "announces 2 frames and has more"),
        (changed("Frames: 3", "Frames: 0"), "announces 0 frames"),
        (changed("Frames: 3", "Frames: 999999999"), "announces 999999999 frames"),
        (changed("Frame Time: 0.0083333", "Frame Time: 0"), "expected 'Frames: N' and a 'Frame Time:'"),
        (changed("Frame Time: 0.0083333", "Frame Time: nan"), "expected 'Frames: N' and a 'Frame Time:'"),
        (lambda text: text.rstrip() + " 1\n", r"line \d+: expected 96 numbers"),
        (lambda text: text[: text.rstrip().rindex("\n")] + "\n7\n", r"line \d+: expected 96 numbers"),
        (lambda text: text[: text.rstrip().rindex(" ")] + " words\n", r"line \d+: expected 96 numbers"),
        (lambda text: text[: text.rstrip().rindex(" ")] + " inf\n", r"line \d+: not a finite number"),
        (lambda text: text[: text.rstrip().rindex(" ")] + " 1e300\n", r"line \d+: not a finite number"),
        (changed("\n3.0", "\n3000000.0"), "m from the origin"),
        (changed("End Site", "JOINT x\n{\n}\n" * 600 + "End Site"), "more than 500 joints"),
    ],
)  # fmt: skip
def test_a_malformed_file_is_one_line(tmp_path, change, message):
    values = random_values(3)
    values[0, 0] = 3.0
    path = write(tmp_path / "a.bvh", values)
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=message) as error:
        bvh.read(path)
    assert one_line(error)


def test_all_missing_joints_are_listed_at_once(tmp_path):
    path = tmp_path / "a.bvh"
    path.write_text(
        "HIERARCHY\nROOT Hips\n{\nOFFSET 0 0 0\nCHANNELS 0\nEnd Site\n{\nOFFSET 0 1 0\n}\n}\n" + motion([[]])
    )
    with pytest.raises(DataError, match=r"RHip \(RightUpLeg or RightHip\), RKnee .*RWrist") as error:
        bvh.read(path)
    assert one_line(error)


def test_large_and_unreadable_files_are_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "a.bvh", random_values(3))
    for nothing in (tmp_path, tmp_path / "none.bvh"):
        with pytest.raises(DataError, match="cannot be read"):
            bvh.read(nothing)
    monkeypatch.setattr(bvh, "MAX_BYTES", 100)
    with pytest.raises(DataError, match="at most 100 are read"):
        bvh.read(path)


@SLOW
@given(data=st.data())
def test_no_edit_of_a_file_is_a_traceback(tmp_path, data):
    path = tmp_path / "a.bvh"
    text = write(path, rest(2)).read_text()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 400, len(text))))
    words = st.sampled_from(
        ["{", "}", "\n", "JOINT", "END", "OFFSET", "CHANNELS 1", "MOTION", "1e999", "-1", "Frames:"]
    )
    new = " ".join(data.draw(st.lists(words | st.text(max_size=5), max_size=6)))
    path.write_text(text[:start] + new + text[end:])
    found = outcome(path)
    assert "\n" not in found if isinstance(found, str) else np.isfinite(found).all() and found.shape[1:] == (17, 3)


def outcome(path):
    try:
        return bvh.read(path)
    except DataError as error:
        return str(error)


def test_the_nodes_are_those_of_the_bundled_motion(tmp_path):
    """Its bones are as long as the same bones of the database's files, which this body imitates."""
    (found,) = bvh.read(write(tmp_path / "a.bvh", rest()))
    bundled = cmu_mocap.takes("train")[0].positions[0]
    for number, parent in HUMAN36M.bones:
        length, known = (np.linalg.norm(body[number] - body[parent]) for body in (found, bundled))
        assert length == pytest.approx(known, rel=0.1), HUMAN36M.joints[number]


def test_a_folder_of_files_is_seen_by_the_cameras_of_its_split(tmp_path):
    for number in range(3):
        write(tmp_path / "Walking" / f"35_0{number}.bvh", random_values(25, number))
    train, test = load_sequences(tmp_path, "train"), load_sequences(tmp_path, "test", "detected", "coco-17")
    assert [sequence.action for sequence in train] == ["Walking 35_01"] * 4 + ["Walking 35_02"] * 4
    assert [sequence.subject for sequence in train] == ["S1"] * 4 + ["S5"] * 4
    assert [(s.action, s.subject, s.skeleton, s.pose_skeleton) for s in test] == [
        ("Walking 35_00", "S9", "coco-17", "human36m-17")
    ] * 4
    assert all(sequence.confidence is not None for sequence in test)
