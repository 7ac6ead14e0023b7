"""A lifter on a GPU: the kernels under one CUDA graph a batch size, with pinned memory for what goes in and out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pstmo_edge.arrays import FloatArray
from pstmo_edge.errors import BackendError, UsageError
from pstmo_edge.kernels.triton.lifter import KernelLifter, lifter_of_tensors

if TYPE_CHECKING:
    from pstmo_edge.bundle import Bundle

LEAST_CAPABILITY = 80  # bf16 and asynchronous copies; below it triton's own support ends too
_FP8_SINCE = 89
_WARM_UPS = 3  # compile the kernels, and let triton load them: neither may happen while a graph is captured


@dataclass
class Captured:
    """The graph of one batch size, and the tensors that it reads and writes, on the GPU and in pinned memory."""

    graph: Any
    keypoints: Tensor
    poses: Tensor
    host_keypoints: Tensor
    host_poses: Tensor


def require_gpu(lifter: KernelLifter) -> torch.device:
    """The current GPU, if it can run this lifter; raises BackendError with the way out."""
    if not torch.cuda.is_available():
        why = "this torch was built without CUDA" if torch.version.cuda is None else "no usable NVIDIA driver or GPU"
        raise BackendError(f"device cuda: {why}: install a driver and torch for CUDA, or use the native backend")
    major, minor = torch.cuda.get_device_capability()
    name, capability = torch.cuda.get_device_name(), major * 10 + minor
    if capability < LEAST_CAPABILITY:
        raise BackendError(f"{name} has compute capability {major}.{minor}, the kernels need 8.0: use another backend")
    if capability < _FP8_SINCE and "fp8" in lifter.precisions.values():
        raise BackendError(f"{name} has compute capability {major}.{minor}, FP8 needs 8.9: build in int8 or fp16")
    return torch.device("cuda", torch.cuda.current_device())


class GpuEngine:
    """Lifts windows of one length; every batch size is captured when it first comes, and replayed from then on.

    Not for use from several threads at once. `largest` bounds the memory: larger batches are lifted in pieces.
    """

    def __init__(self, lifter: KernelLifter, frames: int, largest: int = 4096) -> None:
        self.device = require_gpu(lifter)
        self.lifter = lifter.to(self.device)
        self.frames, self.largest = frames, largest
        self._captured: dict[int, Captured] = {}
        self._pool = torch.cuda.graph_pool_handle()  # graphs that never run at the same time share their memory

    def run(self, keypoints: FloatArray) -> FloatArray:
        """Normalised keypoints (B, T, 17, 2) float32 to poses (B, 17, 3), or (B, K, 17, 3), float32 in metres.

        Raises BackendError where the GPU's memory does not hold the batch.
        """
        windows = torch.from_numpy(keypoints)
        found = [self._piece(piece) for piece in windows.split(self.largest)]
        poses: FloatArray = torch.cat(found).numpy()
        return poses

    @torch.no_grad()
    def _piece(self, windows: Tensor) -> Tensor:
        captured = self.captured(len(windows))
        captured.host_keypoints.copy_(windows)
        captured.keypoints.copy_(captured.host_keypoints, non_blocking=True)
        captured.graph.replay()
        captured.host_poses.copy_(captured.poses, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        return captured.host_poses.clone()

    def captured(self, batch: int) -> Captured:
        """The graph of a batch size, with the tensors that it reads and writes."""
        if batch not in self._captured:
            try:
                self._captured[batch] = self._capture(batch)
            except torch.cuda.OutOfMemoryError as error:
                raise BackendError(
                    f"the GPU's memory does not hold {batch} windows of {self.frames} frames: lift fewer at once"
                ) from error
        return self._captured[batch]

    @torch.no_grad()  # not inference mode, whose tensors could not be written from outside
    def _capture(self, batch: int) -> Captured:
        keypoints = torch.zeros(batch, self.frames, 17, 2, device=self.device)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self.lifter(keypoints)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            poses = self.lifter(keypoints)
        host = [torch.empty(tensor.shape, pin_memory=True) for tensor in (keypoints, poses)]
        return Captured(graph, keypoints, poses, *host)


def lifter_of_bundle(bundle: Bundle, dtype: torch.dtype = torch.float16) -> KernelLifter:
    """A native bundle's network for the kernels; layers that the bundle has in float, and all tokens, are in `dtype`.

    fp16 is as fast as bf16, whose residual stream must be in fp32 (docs/gpu.md).

    Raises UsageError for the bundles of other backends, whose graphs are for their own runtimes.
    """
    from safetensors.torch import load

    from pstmo_edge.backends.native import ARTIFACT

    manifest = bundle.manifest
    if manifest.backend.name != "native":
        raise UsageError(
            f"{bundle.path} is for {manifest.backend.name}: device cuda opens native bundles, build --backend native"
        )
    return lifter_of_tensors(manifest.model.name, manifest.input.frames, load(bundle.read(ARTIFACT)), dtype)


def open_session(bundle: Bundle) -> GpuEngine:
    """What `load_engine(..., device="cuda")` opens: a session of `backends`."""
    return GpuEngine(lifter_of_bundle(bundle), bundle.manifest.input.frames)
