"""BVH files in the layout of the CMU database's conversion for MotionBuilder, with made-up bodies and motion."""

import numpy as np

UNIT = 0.0254 / 0.45  # metres


def _limb(side, x):
    return (
        (f"{side[0]}HipJoint", (0, 0, 0), [
            (f"{side}UpLeg", (1.7 * x, -1.8, 0.6), [
                (f"{side}Leg", (2.5 * x, -7.0, 0), [
                    (f"{side}Foot", (2.4 * x, -6.7, 0), [(f"{side}ToeBase", (0.1 * x, -0.5, 2.0), [])])
                ])
            ])
        ]),
        (f"{side}Shoulder", (0, 0, 0), [
            (f"{side}Arm", (3.5 * x, 0.9, -0.2), [
                (f"{side}ForeArm", (5.0 * x, 0, 0), [
                    (f"{side}Hand", (3.3 * x, 0, 0), [
                        (f"{side}FingerBase", (0, 0, 0), [(f"{side}HandIndex1", (0.7 * x, 0, 0), [])]),
                        (f"{side[0]}Thumb", (0, 0, 0), []),
                    ])
                ])
            ])
        ]),
    )  # fmt: skip


(_LEFT_LEG, _LEFT_ARM), (_RIGHT_LEG, _RIGHT_ARM) = _limb("Left", 1), _limb("Right", -1)
_HEAD = ("Neck", (0, 0, 0), [("Neck1", (0, 1.6, 0.1), [("Head", (0, 1.5, -0.1), [])])])
CMU = ("Hips", (0, 0, 0), [
    _LEFT_LEG, _RIGHT_LEG,
    ("LowerBack", (0, 0, 0), [("Spine", (0, 2.1, -0.1), [("Spine1", (0, 2.0, -0.1), [_HEAD, _LEFT_ARM, _RIGHT_ARM])])]),
])  # fmt: skip
END = (0, 1.6, 0)
ROOT_CHANNELS = ("Xposition", "Yposition", "Zposition", "Zrotation", "Yrotation", "Xrotation")


def walk(tree):
    """Every (name, offset, parent's name, children), depth first, as the channels stand in a frame."""

    def visit(node, parent):
        name, offset, children = node
        yield name, np.array(offset, float), parent, children
        for child in children:
            yield from visit(child, name)

    return list(visit(tree, None))


def hierarchy(tree, root=True):
    """The text of a tree: six channels for the root, three rotations for every other joint."""
    name, offset, children = tree
    channels = ROOT_CHANNELS if root else ROOT_CHANNELS[3:]
    end = "End Site\n{{\nOFFSET {} {} {}\n}}\n".format(*END)
    return (
        f"{'ROOT' if root else 'JOINT'} {name}\n{{\n\tOFFSET {offset[0]} {offset[1]} {offset[2]}\n"
        f"\tCHANNELS {len(channels)} {' '.join(channels)} \n"
        f"{''.join(hierarchy(child, False) for child in children) or end}}}\n"
    )


def motion(values, seconds=1 / 120):
    """The text of channel values (L, channels)."""
    rows = "\n".join(" ".join(f"{value:.6f}" for value in row) for row in values)
    return f"MOTION\nFrames: {len(values)}\nFrame Time: {seconds:.7f}\n{rows}\n"


def random_values(frames, seed=0, tree=CMU, spread=20.0):
    """Smooth random motion (L, channels): a root near standing height, angles in degrees."""
    rng = np.random.default_rng(seed)
    phase, size = rng.uniform(0, 2 * np.pi, (2, 3 * len(walk(tree)) + 3))
    values = spread * np.sin(phase + 0.02 * np.arange(frames)[:, None]) * size / np.pi
    values[:, :3] = [3.0, 17.0, -2.0] + values[:, :3] / 20
    return values


def write(path, values, tree=CMU, seconds=1 / 120):
    """One file; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("HIERARCHY\n" + hierarchy(tree) + motion(values, seconds))
    return path
