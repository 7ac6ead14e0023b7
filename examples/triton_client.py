"""Poses from a Triton Inference Server that serves `pstmo-edge export-triton`'s repository.

    pip install 'tritonclient[grpc]'
    python triton_client.py recording.npz --url localhost:8001            # windows, in batches
    python triton_client.py recording.npz --url localhost:8001 --stream   # a frame a request

The recording is an .npz of plain arrays: `keypoints` (L, 17, 2) in pixels and `image_size` (width, height). What the
server's models read is in the repository's pstmo-edge.json (--facts).
"""

import argparse
import json
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton

BATCH = 64


def normalised(path):
    """Screen coordinates (L, 17, 2): x / w * 2 - 1, y / w * 2 - h / w."""
    with np.load(path, allow_pickle=False) as file:
        keypoints, (width, height) = file["keypoints"][..., :2], file["image_size"]
    return (keypoints / width * 2 - [1, height / width]).astype(np.float32)


def tensor(name, values):
    """One input of a request."""
    made = triton.InferInput(name, values.shape, "FP32")
    made.set_data_from_numpy(np.ascontiguousarray(values))
    return made


def by_windows(client, model, frames, given):
    """The pose of every frame, from windows around it whose ends repeat the sequence's."""
    offsets = (np.arange(given["frames"]) - given["target_index"]) * given["t_downsample"]
    windows = frames[np.clip(np.arange(len(frames))[:, None] + offsets, 0, len(frames) - 1)]
    answers = [
        client.infer(model, [tensor("keypoints", windows[start : start + BATCH])]).as_numpy("pose")
        for start in range(0, len(windows), BATCH)
    ]
    return np.concatenate(answers)


def by_frames(client, model, frames, sequence):
    """A pose a frame, as a live camera has it: that of the frame which lies the look-ahead behind the newest."""
    poses = []
    for number, frame in enumerate(frames):
        begins, ends = number == 0, number == len(frames) - 1
        answer = client.infer(
            model, [tensor("frame", frame[None])], sequence_id=sequence, sequence_start=begins, sequence_end=ends
        )
        poses.append(answer.as_numpy("pose")[0])
    return np.stack(poses)


def main():
    """Lift one recording and print what came back."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recording", type=Path)
    parser.add_argument("--url", default="localhost:8001")
    parser.add_argument("--model", default="lifter")
    parser.add_argument("--facts", type=Path, default=Path("model_repository/pstmo-edge.json"))
    parser.add_argument("--stream", action="store_true")
    chosen = parser.parse_args()
    given = json.loads(chosen.facts.read_text())["input"]
    frames = normalised(chosen.recording)
    with triton.InferenceServerClient(chosen.url) as client:
        if chosen.stream:
            poses = by_frames(client, f"{chosen.model}-stream", frames, sequence=1)
        else:
            poses = by_windows(client, chosen.model, frames, given)
    print(
        f"{len(poses)} poses {poses.shape[1:]}, metres; the first joint's height over the root: {-poses[0, 0, 1]:.3f}"
    )


if __name__ == "__main__":
    main()
