"""Plain PyTorch: the reference that every other backend is compared with."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from pstmo_edge.arrays import FloatArray
from pstmo_edge.bundle import Bundle
from pstmo_edge.models.emission import with_emitted
from pstmo_edge.models.zoo import load_model

ARTIFACT = "weights.safetensors"


class TorchSession:
    """A model in evaluation mode, on whatever device it is."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.device = next(model.parameters()).device

    def run(self, keypoints: FloatArray) -> FloatArray:
        """See `backends.Session`."""
        with torch.inference_mode():
            poses: FloatArray = self.model(torch.from_numpy(keypoints).to(self.device)).float().cpu().numpy()
        return poses


def open_session(bundle: Bundle, threads: int | None = None) -> TorchSession:
    """Build the model and put the bundle's weights into it; `threads` is torch's own setting, shared by the process."""
    if threads is not None:
        torch.set_num_threads(threads)
    spec = bundle.manifest.model
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ARTIFACT
        path.write_bytes(bundle.read(ARTIFACT))
        model = load_model(spec.name, bundle.manifest.input.frames, path)
    return TorchSession(with_emitted(model, bundle.manifest.emitted))
