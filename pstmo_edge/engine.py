"""A verified bundle, opened: keypoints in, poses out."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.backends import Session, installed_version, open_session, require
from pstmo_edge.bundle import Bundle, Manifest, open_bundle
from pstmo_edge.errors import BackendError, DataError
from pstmo_edge.naming import unknown
from pstmo_edge.streaming import Stream, StreamSettings, open_stream
from pstmo_edge.targets import check_runs_here
from pstmo_edge.windows import WindowSpec


class Engine:
    """One opened bundle. Not for use from two threads at once."""

    def __init__(self, bundle: Bundle, session: Session) -> None:
        self.bundle = bundle
        self._session = session

    @property
    def manifest(self) -> Manifest:
        """All that is known about the engine."""
        return self.bundle.manifest

    @property
    def path(self) -> Path:
        """The bundle's folder."""
        return self.bundle.path

    @property
    def backend(self) -> str:
        """The runtime that executes it."""
        return self.manifest.backend.name

    @property
    def spec(self) -> WindowSpec:
        """The window it reads."""
        given = self.manifest.input
        count = None if self.manifest.emitted is None else self.manifest.poses_a_window
        return WindowSpec(given.frames, given.t_downsample, given.target_index, len(given.channels), count)

    def infer(self, keypoints: FloatArray) -> FloatArray:
        """Poses (B, 17, 3) in metres of windows (B, T, 17, 2) of normalised keypoints.

        An engine that emits K frames a window (`manifest.output.frames`) gives their poses, (B, K, 17, 3).
        Raises DataError where the shape is another or a value is not finite: one such value would spoil every pose
        of its window without a sign.
        """
        return self._session.run(self._checked(keypoints))

    def stream(
        self,
        image_size: tuple[int, int],
        fps: float = 30.0,
        lookahead: int | None = 0,
        *,
        skeleton: str | None = None,
        max_gap: float = 0.5,
        min_confidence: float = 0.3,
        backlog: int = 8,
    ) -> Stream:
        """A sliding window over one person's frames: push (17, 2) or (17, 3) pixels and a timestamp, get poses.

        `image_size` is (width, height) in pixels, `fps` the camera's frames a second, `lookahead` the window frames a
        pose waits for: 0 is live, None as many as the model was trained with. `skeleton` names the keypoints' joint
        set, to be refused if it is not the model's. The rest: see `streaming.StreamSettings`. Raises UsageError and
        DataError.
        """
        settings = StreamSettings(image_size, fps, lookahead, max_gap, min_confidence, backlog)
        return open_stream(self, settings, skeleton)

    def native_stream(self, settings: StreamSettings) -> Stream | None:
        """The runtime's own stream, where it has one."""
        opener = getattr(self._session, "stream", None)
        return None if opener is None else opener(settings)

    def _checked(self, keypoints: FloatArray) -> FloatArray:
        given = self.manifest.input
        expected = (given.frames, len(given.joints), len(given.channels))
        if keypoints.ndim != 4 or keypoints.shape[1:] != expected:
            raise DataError(
                f"keypoints have shape {keypoints.shape}, this engine reads (B, {', '.join(map(str, expected))}): "
                f"windows of {given.frames} frames of {given.skeleton} joints"
            )
        if not np.isfinite(keypoints).all():  # 2 microseconds for one window of 27 frames
            raise DataError("keypoints hold NaN or infinite values: fill missing joints before they reach the engine")
        return np.ascontiguousarray(keypoints, np.float32)


DEVICES = ("cpu", "cuda")


def load_engine(path: str | os.PathLike[str], threads: int | None = None, device: str = "cpu") -> Engine:
    """Verify the bundle at `path`, check that this machine can run it, and open it.

    `threads` limits the runtime's threads. `device` "cuda" runs a native bundle on an NVIDIA GPU, see docs/gpu.md.
    Raises BundleError for a damaged bundle, BackendError where the runtime is missing or of another version, the CPU
    would overflow, or there is no GPU that can run it.
    """
    if device not in DEVICES:
        raise unknown("device", device, DEVICES)
    bundle = open_bundle(path)
    if device == "cuda":
        return Engine(bundle, _open_on_gpu(bundle))
    on_cpu = bundle.manifest.backend.name not in ("native", "tensorrt")  # whose sums are exact everywhere
    if bundle.manifest.precision.requested == "int8" and on_cpu:
        check_runs_here(bundle.manifest.target.name)
    check_versions(bundle)
    return Engine(bundle, open_session(bundle, threads))


def _open_on_gpu(bundle: Bundle) -> Session:
    """In our library where `compile --gpu` put kernels into the bundle, otherwise through torch and triton."""
    if any(entry.path == "gpu-weights.safetensors" for entry in bundle.manifest.files):
        from pstmo_edge.kernels.abi import NativeEngine

        return NativeEngine(bundle.path, device="cuda")
    require_gpu_packages("device cuda")
    session: Session = import_module("pstmo_edge.kernels.triton.engine").open_session(bundle)
    return session


def require_gpu_packages(what: str) -> None:
    """Raise BackendError unless what our GPU kernels are compiled with is installed."""
    missing = [package for package in ("torch", "triton") if installed_version(package) is None]
    if missing:
        raise BackendError(f"{what} needs {' and '.join(missing)}, not installed here: pip install 'pstmo-edge[gpu]'")


def check_versions(bundle: Bundle) -> None:
    """Raise BackendError unless the installed runtime is one that the bundle was made for."""
    needed = bundle.manifest.backend
    require(needed.name)
    installed = {name: installed_version(name) or "" for name in needed.versions}
    wrong = needed.mismatches(installed)
    if wrong:
        raise BackendError(f"{bundle.path} cannot run here: {'; '.join(wrong)}; install that or build the bundle again")
