"""Writes folders of short keypoint files, seeded."""

import numpy as np


def write_recording(path, frames=12, seed=0, fps=50.0, skeleton="human36m-17", **changed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(200, 800, (1, 17, 2)) + rng.normal(0, 2, (frames, 17, 2)).cumsum(0)
    arrays = {"keypoints": points.astype(np.float32), "image_size": np.array([1000, 1000]), "skeleton": skeleton}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{**arrays, "fps": np.array(fps), **changed})
    return path


def write_archive(folder, count, frames=12):
    """`count` recordings in folders of a hundred."""
    return [
        write_recording(folder / f"{number // 100:03}" / f"{number:05}.npz", frames, number) for number in range(count)
    ]
