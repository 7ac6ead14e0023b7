"""MPI-INF-3DHP in miniature, made of the bundled motion: the original release's .mat files and the published .npz."""

import h5py
import numpy as np
from scipy.io import savemat

from pstmo_edge.cameras import human36m_cameras, world_to_camera
from pstmo_edge.datasets import cmu_mocap, mpi_inf_3dhp

TRAIN_FRAMES, TEST_FRAMES = 12, 40
# Which of Human3.6M's 17 joints stands in for each of MPI-INF-3DHP's.
FROM_HUMAN36M = (10, 8, 14, 15, 16, 11, 12, 13, 1, 2, 3, 4, 5, 6, 0, 7, 9)


def seen(number, length, size=(2048, 2048)):
    """Pixels (L, 17, 2) and millimetres (L, 17, 3) of some motion, another for each number."""
    takes = [take.positions for take in cmu_mocap.takes("test") if len(take.positions) >= 2 * length]
    positions = takes[number % len(takes)][number % length :][:length, FROM_HUMAN36M]
    points = world_to_camera(positions, human36m_cameras("S9")[number % 4]) * 1000
    return points[..., :2] / points[..., 2:] * 1500 + np.array(size) / 2, points


def validity(number, length=TEST_FRAMES):
    return (np.arange(length) + number) % 4 != 0


def activity(number, length=TEST_FRAMES):
    return (np.arange(length) // 10 + number) % 7 + 1


def numbered(names):
    return {name: number for number, name in enumerate(names)}


def recorded(joints):
    """(L, 28 * C) of the recordings, with the skeleton's joints where the release has them and noise elsewhere."""
    rows = np.random.default_rng(0).normal(0, 1e4, (len(joints), 28, joints.shape[-1]))
    rows[:, mpi_inf_3dhp._JOINTS] = joints
    return rows.reshape(len(joints), -1)


def cells(arrays):
    column = np.empty((len(arrays), 1), dtype=object)
    for row, array in enumerate(arrays):
        column[row, 0] = array
    return column


def write_train_mat(path, number, frames=TRAIN_FRAMES, lost_2d=0, **changes):
    """annot.mat of one take, version 5: a cell a camera, of 14."""
    views = [seen(number + camera, frames) for camera in range(14)]
    variables = {
        "annot2": cells([recorded(pixels)[: frames - lost_2d] for pixels, _ in views]),
        "annot3": cells([np.zeros((frames, 84)) for _ in views]),
        "univ_annot3": cells([recorded(points) for _, points in views]),
        "cameras": np.arange(14, dtype=np.uint8)[None],
        "frames": np.arange(frames, dtype=np.uint16)[:, None],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables | changes, do_compression=True)


def write_test_mat(path, number, frames=TEST_FRAMES, drop=()):
    """annot_data.mat of one sequence, version 7.3: HDF5 behind Matlab's 512 bytes, with the axes reversed."""
    pixels, points = seen(number, frames, mpi_inf_3dhp.image_size(path.parent.name))
    variables = {
        "annot2": pixels[:, None],
        "univ_annot3": points[:, None],
        "valid_frame": validity(number, frames).astype(np.float64)[:, None],
        "activity_annotation": activity(number, frames).astype(np.float64)[:, None],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        for name in variables.keys() - set(drop):
            file[name] = variables[name]
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def write_release(folder):
    for number, (subject, take) in enumerate(mpi_inf_3dhp.TRAIN_TAKES):
        write_train_mat(folder / subject / take / "annot.mat", number)
    for subject, number in numbered(mpi_inf_3dhp.TEST_SUBJECTS).items():
        write_test_mat(folder / "mpi_inf_3dhp_test_set" / subject / "annot_data.mat", number)


def published_train():
    return {
        f"{subject} {take}": [
            {
                str(camera): dict(zip(("data_2d", "data_3d"), seen(number + camera, TRAIN_FRAMES), strict=True))
                for camera in mpi_inf_3dhp.CAMERAS
            },
            fps,
        ]
        for number, ((subject, take), (_, fps)) in enumerate(mpi_inf_3dhp.TRAIN_TAKES.items())
    }


def published_test():
    data = {}
    for subject, number in numbered(mpi_inf_3dhp.TEST_SUBJECTS).items():
        pixels, points = seen(number, TEST_FRAMES, mpi_inf_3dhp.image_size(subject))
        data[subject] = {"data_2d": pixels, "data_3d": points, "valid": validity(number).astype(np.float64)}
    return data


def write_published(folder, train=None, test=None):
    np.savez_compressed(folder / "data_train_3dhp", data=train or published_train())
    np.savez_compressed(folder / "data_test_3dhp", data=test or published_test())
