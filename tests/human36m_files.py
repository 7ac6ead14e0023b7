"""Writes files of VideoPose3D's Human3.6M layout from the bundled motion."""

import numpy as np

from pstmo_edge.cameras import human36m_cameras
from pstmo_edge.datasets import cmu_mocap, human36m

TAKES = {("S1", "Walking 1"): 30, ("S9", "Sitting"): 20, ("S11", "Sitting 1"): 25}


def write_dataset(folder, layout="h36m", extra_frames=3, drop=None, takes=TAKES, cameras_of=None):
    """data_3d_h36m.npz with 32 joints and data_2d_h36m_gt.npz with four cameras, as object arrays."""
    world, image = {}, {}
    source = cmu_mocap.takes("test")[1].positions
    for (subject, action), length in takes.items():
        joints = np.zeros((length, 32, 3), np.float32)
        joints[:, human36m._MOVING] = source[:length]
        world.setdefault(subject, {})[action] = joints
        views = [
            cmu_mocap.view(source[: length + extra_frames], camera)[0].astype(np.float32)
            for camera in human36m_cameras(cameras_of or subject)
        ]
        image.setdefault(subject, {})[action] = views
    if drop:
        del image[drop[0]][drop[1]]
    symmetry = [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]]
    metadata = {"layout_name": layout, "num_joints": 17, "keypoints_symmetry": symmetry}
    np.savez_compressed(folder / "data_3d_h36m.npz", positions_3d=world)
    np.savez_compressed(folder / "data_2d_h36m_gt.npz", positions_2d=image, metadata=metadata)
    return source
