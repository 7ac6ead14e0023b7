"""The reader, on files with the CMU conversion's hierarchy whose joints are worked out here in another way."""

import numpy as np
import pytest

from pstmo_edge.datasets import bvh, load_sequences
from pstmo_edge.datasets.takes import load_takes
from pstmo_edge.errors import DataError, UsageError
from pstmo_edge.skeletons import HUMAN36M

INCH = 0.0254 / 0.45
# name: parent, offset in CMU's unit. Limbs hang along one axis, so that a turn about one joint is easily worked out.
TREE = {
    "Hips": ("", (0, 0, 0)),
    "LHipJoint": ("Hips", (0, 0, 0)),
    "LeftUpLeg": ("LHipJoint", (1.5, -1.5, 0)),
    "LeftLeg": ("LeftUpLeg", (0, -7.5, 0)),
    "LeftFoot": ("LeftLeg", (0, -7.4, 0)),
    "RHipJoint": ("Hips", (0, 0, 0)),
    "RightUpLeg": ("RHipJoint", (-1.5, -1.5, 0)),
    "RightLeg": ("RightUpLeg", (0, -7.5, 0)),
    "RightFoot": ("RightLeg", (0, -7.4, 0)),
    "LowerBack": ("Hips", (0, 0, 0)),
    "Spine": ("LowerBack", (0, 2.0, 0)),
    "Spine1": ("Spine", (0, 2.1, 0)),
    "Neck": ("Spine1", (0, 2.0, 0)),
    "Neck1": ("Neck", (0, 1.5, 0)),
    "Head": ("Neck1", (0, 1.6, 0)),
    "LeftShoulder": ("Spine1", (0, 1, 0)),
    "LeftArm": ("LeftShoulder", (3.0, 0, 0)),
    "LeftForeArm": ("LeftArm", (5.0, 0, 0)),
    "LeftHand": ("LeftForeArm", (3.5, 0, 0)),
    "RightShoulder": ("Spine1", (0, 1, 0)),
    "RightArm": ("RightShoulder", (-3.0, 0, 0)),
    "RightForeArm": ("RightArm", (-5.0, 0, 0)),
    "RightHand": ("RightForeArm", (-3.5, 0, 0)),
}
NAMES = list(TREE)


def node_text(name, indent=0):
    parent, offset = TREE[name]
    space = "\t" * indent
    positions = "Xposition Yposition Zposition " if not parent else ""
    channels = f"{6 if positions else 3} {positions}Zrotation Yrotation Xrotation"
    children = [child for child in NAMES if TREE[child][0] == name]
    inside = (
        "".join(node_text(child, indent + 1) for child in children)
        or f"{space}\tEnd Site\n{space}\t{{\n{space}\t\tOFFSET 0 0 1\n{space}\t}}\n"
    )
    numbers = " ".join(map(str, offset))
    kind = "JOINT" if parent else "ROOT"
    return (
        f"{space}{kind} {name}\n{space}{{\n{space}\tOFFSET {numbers}\n{space}\tCHANNELS {channels}\n{inside}{space}}}\n"
    )


def order(name="Hips"):
    return [name] + [deeper for child in NAMES if TREE[child][0] == name for deeper in order(child)]


def write(path, angles=None, frames=60, seconds=1 / 120, root=(0, 17, 0), scale=1.0):
    """`angles` is {(node, axis): degrees by frame}; the rest stays straight."""
    rows = []
    for frame in range(frames):
        row = [value * scale for value in root]
        for name in order():
            row += [(angles or {}).get((name, axis), np.zeros(frames))[frame] for axis in "zyx"]
        rows.append(" ".join(f"{value:.6f}" for value in row))
    text = "HIERARCHY\n" + node_text("Hips")
    if scale != 1:
        lines = [
            "OFFSET " + " ".join(str(float(v) * scale) for v in line.split()[1:]) if "OFFSET" in line else line
            for line in text.splitlines()
        ]
        text = "\n".join(lines) + "\n"
    path.write_text(text + f"MOTION\nFrames: {frames}\nFrame Time: {seconds:.7f}\n" + "\n".join(rows) + "\n")
    return path


def joint(positions, name):
    return positions[:, HUMAN36M.joints.index(name)]


def test_a_body_at_rest_stands_upright_in_metres(tmp_path):
    positions = bvh.read(write(tmp_path / "rest.bvh"))
    assert positions.shape == (25, 17, 3)  # 60 frames at 120 a second, at 50 a second
    np.testing.assert_allclose(joint(positions, "Hip")[0], [0, 0, 17 * INCH], atol=1e-9)
    np.testing.assert_allclose(joint(positions, "LFoot")[0], [1.5 * INCH, 0, (17 - 1.5 - 14.9) * INCH], atol=1e-9)
    np.testing.assert_allclose(joint(positions, "Head")[0], [0, 0, (17 + 9.2) * INCH], atol=1e-9)
    np.testing.assert_allclose(joint(positions, "RWrist")[0], [-11.5 * INCH, 0, (17 + 5.1) * INCH], atol=1e-9)


def test_turning_a_joint_moves_what_hangs_on_it(tmp_path):
    """The left knee bent by 90 degrees about x swings the foot back along the file's z, which is our -y."""
    ninety = np.full(60, 90.0)
    positions = bvh.read(write(tmp_path / "knee.bvh", {("LeftLeg", "x"): ninety}))
    moved = joint(positions, "LFoot")[0] - joint(positions, "LKnee")[0]
    np.testing.assert_allclose(moved, [0, 7.4 * INCH, 0], atol=1e-6)
    turned = bvh.read(write(tmp_path / "hips.bvh", {("Hips", "z"): ninety, ("Hips", "x"): ninety}))
    # Channels are applied from the left: z after x. Up (file y) goes to z by x, and stays there by z.
    head = joint(turned, "Head")[0] - joint(turned, "Hip")[0]
    np.testing.assert_allclose(head, [0, -9.2 * INCH, 0], atol=1e-6)


def test_motion_is_resampled_along_time(tmp_path):
    angle = np.linspace(0, 59, 60)
    positions = bvh.read(write(tmp_path / "swing.bvh", {("LeftForeArm", "z"): angle}))
    hand = joint(positions, "LWrist") - joint(positions, "LElbow")
    found = np.degrees(np.arctan2(hand[:, 2], hand[:, 0]))
    np.testing.assert_allclose(found, np.arange(25) / 50 * 120, atol=0.01)


@pytest.mark.parametrize("unit", [1.0, 0.01, 0.0254])
def test_the_unit_is_found_by_the_legs(tmp_path, unit):
    plain = bvh.read(write(tmp_path / "plain.bvh"))
    other = bvh.read(write(tmp_path / "other.bvh", scale=INCH / unit))
    np.testing.assert_allclose(other, plain, atol=1e-5)


def test_a_folder_is_a_dataset(tmp_path):
    for number in range(11):
        write(tmp_path / f"{number:02}.bvh", frames=20)
    assert [take.action for take in load_takes(str(tmp_path), "test")] == ["00", "10"]
    assert len(load_takes(str(tmp_path), "train")) == 9
    views = load_sequences(tmp_path, "test")
    assert len(views) == 8
    assert views[0].keypoints.shape == (8, 17, 2)
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        write(tmp_path / split / "only.bvh", frames=20)
    assert [take.action for take in load_takes(str(tmp_path), "train")] == ["only"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: "", "no BVH file"),
        (lambda text: text.replace("OFFSET 1.5", "OFFSET one", 1), "line 12"),
        (lambda text: text.replace("Zrotation", "Wrotation", 1), "line 5"),
        (lambda text: text.replace("CHANNELS 6", "CHANNELS 5", 1), "line 5"),
        (lambda text: text.replace("}", "", 1), "MOTION"),
        (lambda text: text.replace("}", "} }", 1).replace("LeftArm", "Tentacle"), "LShoulder"),
        (lambda text: text.replace("Frames: 60", "Frames: 61"), "61 frames and has 60"),
        (lambda text: text.replace("Frame Time: 0.0083333", "Frame Time: 0"), "Frame Time"),
        (lambda text: text.rstrip() + " 1\n", "numbers"),
        (lambda text: text.replace("0.000000", "nan", 1), "not a finite number"),
        (lambda text: text.replace("-7.5 0", "-300 0"), "no person"),
    ],
)
def test_a_malformed_file_is_one_clear_line(tmp_path, change, words):
    path = write(tmp_path / "bad.bvh")
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=words) as caught:
        bvh.read(path)
    assert "bad.bvh" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_motion_is_refused(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'cmu-mocap'"):
        load_takes("cmu-mocab", "train")
    with pytest.raises(UsageError, match="without augmentation"):
        load_takes(str(tmp_path), "train")
    write(tmp_path / "a.bvh")
    with pytest.raises(DataError, match="train split"):
        load_takes(str(tmp_path), "train")
