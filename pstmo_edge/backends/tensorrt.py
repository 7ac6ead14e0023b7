"""TensorRT on an NVIDIA GPU: a compiled engine, its own stream, pinned buffers, one CUDA graph a batch size."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.bundle import Bundle
from pstmo_edge.errors import BackendError
from pstmo_edge.trt.api import Api
from pstmo_edge.trt.buffers import Cuda, open_cuda
from pstmo_edge.trt.compiling import engine_key, need_engine, read_plan
from pstmo_edge.trt.plans import ENGINE, RECORD, BuildPlan, check_key, verified


class TensorRtSession:
    """An opened engine. Callable from any thread; calls wait for each other."""

    def __init__(self, api: Api, engine: Any, cuda: Cuda, output_shape: tuple[int, ...], plan: BuildPlan) -> None:
        self._lock = threading.Lock()
        self._api, self._engine, self._cuda = api, engine, cuda
        self._context = engine.create_execution_context()
        if self._context is None:
            raise BackendError(f"TensorRT gives no execution context: {'; '.join(api.messages[-3:]) or 'no memory'}")
        self.batch_min, self.batch_max = plan.batch_min, plan.batch_max
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._input = next(name for name in names if engine.get_tensor_mode(name) == api.trt.TensorIOMode.INPUT)
        self._output = next(name for name in names if engine.get_tensor_mode(name) == api.trt.TensorIOMode.OUTPUT)
        sample = tuple(engine.get_tensor_profile_shape(self._input, 0)[2])[1:]
        self._shapes = (tuple(int(side) for side in sample), output_shape)
        self._host = tuple(cuda.pinned((self.batch_max, *shape)) for shape in self._shapes)
        self._host[0][:] = 0  # what fills up a batch smaller than the engine's least
        self._device = tuple(cuda.device(4 * self.batch_max * math.prod(shape)) for shape in self._shapes)
        for name, address in zip((self._input, self._output), self._device, strict=True):
            if not self._context.set_tensor_address(name, address):
                raise BackendError(f"TensorRT refuses the address of {name}")
        # A graph holds the shapes and addresses it was captured with, so the first size alone gets one, and only for as
        # long as no other size changes the context: a camera app has one size, an archive no need of graphs.
        self._graph: tuple[int, Callable[[], None] | None] | None = None

    def run(self, keypoints: FloatArray) -> FloatArray:
        """See `backends.Session`; batches beyond the engine's are cut into several."""
        with self._lock:
            if self._context is None:
                raise BackendError("the engine was closed")
            pieces = [
                self._forward(keypoints[start : start + self.batch_max])
                for start in range(0, len(keypoints), self.batch_max)
            ]
        return np.concatenate(pieces) if pieces else np.empty((0, *self._shapes[1]), np.float32)

    def close(self) -> None:
        """Give the device's memory back; a second call does nothing."""
        with self._lock:
            if self._context is not None:
                self._graph = None
                self._context = self._engine = None
                self._host = ()  # `close` gives their memory back
                self._cuda.close()

    def _forward(self, keypoints: FloatArray) -> FloatArray:
        self._host[0][: len(keypoints)] = keypoints
        size = max(len(keypoints), self.batch_min)
        if self._graph is None:
            self._graph = (size, self._captured(size))
        elif self._graph[0] != size:
            self._graph = (-1, None)
        launch = self._graph[1]
        if launch is None:
            self._cuda.inside(lambda: self._enqueue(size))
        else:
            launch()
        self._cuda.synchronize()
        return self._host[1][: len(keypoints)].copy()

    def _captured(self, size: int) -> Callable[[], None] | None:
        """A CUDA graph of one forward; TensorRT does lazy work in the first call, which a graph must not hold."""
        cuda = self._cuda
        cuda.inside(lambda: self._enqueue(size))
        cuda.synchronize()
        captured: Callable[[], None] | None = cuda.inside(lambda: cuda.capture(lambda: self._enqueue(size)))
        return captured

    def _enqueue(self, size: int) -> None:
        if not self._context.set_input_shape(self._input, (size, *self._shapes[0])):
            raise BackendError(f"TensorRT refuses a batch of {size}: {'; '.join(self._api.messages[-3:])}")
        self._cuda.upload(self._device[0], self._host[0][:size])
        if not self._context.execute_async_v3(self._cuda.stream):
            raise BackendError(f"TensorRT failed: {'; '.join(self._api.messages[-3:]) or 'no reason'}")
        self._cuda.download(self._host[1][:size], self._device[1])


def open_session(bundle: Bundle, threads: int | None = None, cuda: str | None = None) -> TensorRtSession:
    """Open the bundle's engine, after its signature, TensorRT's version, the device and the driver were checked.

    `cuda` names the package for device memory: cuda-python or pycuda. Raises BackendError.
    """
    need_engine(bundle)
    engine = bundle.read(ENGINE)
    record = verified(bundle.read(RECORD), engine, bundle.path)
    api, memory = Api(), open_cuda(cuda)
    try:
        check_key(record, engine_key(bundle, api.version, memory.gpu()), bundle.path)
        opened = memory.inside(lambda: api.deserialize(engine, record.version_compatible, record.dla_core))
        manifest = bundle.manifest
        emitted = () if manifest.emitted is None else (manifest.poses_a_window,)
        shape = (*emitted, len(manifest.output.joints), 3)
        session: TensorRtSession = memory.inside(lambda: TensorRtSession(api, opened, memory, shape, read_plan(bundle)))
        return session
    except BaseException:
        memory.close()
        raise
