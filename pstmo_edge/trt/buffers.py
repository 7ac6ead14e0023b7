"""Device memory behind one small interface: cuda-python by default, pycuda where a user has that.

Both use the device's primary context, so that they live beside torch and others in one process, and from any thread.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.errors import BackendError


@dataclass(frozen=True)
class Gpu:
    """What a compiled engine depends on."""

    name: str
    capability: str
    driver: str


class Cuda(Protocol):
    """One stream and its memory on the first device. Every call may come from another thread, one at a time."""

    def gpu(self) -> Gpu:
        """Which device it is."""
        ...

    def pinned(self, shape: tuple[int, ...]) -> FloatArray:
        """A host array (float32) that copies need no staging of."""
        ...

    def device(self, size: int) -> int:
        """The address of `size` bytes on the device."""
        ...

    @property
    def stream(self) -> int:
        """The stream's handle, as TensorRT wants it."""
        ...

    def upload(self, address: int, source: FloatArray) -> None:
        """Copy to the device, in the stream."""
        ...

    def download(self, target: FloatArray, address: int) -> None:
        """Copy from the device, in the stream."""
        ...

    def synchronize(self) -> None:
        """Wait for the stream."""
        ...

    def capture(self, work: Callable[[], None]) -> Callable[[], None] | None:
        """`work` recorded as a CUDA graph, to be launched; None where the package has none."""
        ...

    def inside(self, work: Callable[[], Any]) -> Any:
        """Run something that needs the device's context current in this thread, and leave the thread as it was."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class CudaPython:
    """`cuda-python`, the runtime API: it makes the primary context current by itself in every thread."""

    def __init__(self) -> None:
        try:
            self.api = import_module("cuda.bindings.runtime")
        except ImportError:
            self.api = import_module("cuda.cudart")  # before 12.8
        self._device: list[int] = []
        self._host: list[int] = []
        self._graphs: list[Any] = []
        self._call("cudaSetDevice", 0)
        self._stream = self._call("cudaStreamCreateWithFlags", self.api.cudaStreamNonBlocking)

    @property
    def stream(self) -> int:
        """See `Cuda`."""
        return int(self._stream)

    def gpu(self) -> Gpu:
        """See `Cuda`."""
        found = self._call("cudaGetDeviceProperties", 0)
        name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
        return Gpu(name.rstrip("\0"), f"{found.major}.{found.minor}", str(self._call("cudaDriverGetVersion")))

    def pinned(self, shape: tuple[int, ...]) -> FloatArray:
        """See `Cuda`."""
        size = int(np.prod(shape)) * 4
        address = int(self._call("cudaHostAlloc", size, self.api.cudaHostAllocDefault))
        self._host.append(address)
        block: Any = (ctypes.c_byte * size).from_address(address)
        return np.frombuffer(block, np.float32).reshape(shape)

    def device(self, size: int) -> int:
        """See `Cuda`."""
        address = int(self._call("cudaMalloc", size))
        self._device.append(address)
        return address

    def upload(self, address: int, source: FloatArray) -> None:
        """See `Cuda`."""
        kind = self.api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, kind, self._stream)

    def download(self, target: FloatArray, address: int) -> None:
        """See `Cuda`."""
        kind = self.api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, kind, self._stream)

    def synchronize(self) -> None:
        """See `Cuda`."""
        self._call("cudaStreamSynchronize", self._stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None] | None:
        """See `Cuda`; thread-local capture, so that other threads' work is not disturbed."""
        mode = self.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            work()
        finally:
            graph = self._call("cudaStreamEndCapture", self._stream)
        ready = self._call("cudaGraphInstantiate", graph, 0)
        self._call("cudaGraphDestroy", graph)
        self._graphs.append(ready)
        return lambda: self._call("cudaGraphLaunch", ready, self._stream)

    def inside(self, work: Callable[[], Any]) -> Any:
        """See `Cuda`."""
        self._call("cudaSetDevice", 0)
        return work()

    def close(self) -> None:
        """See `Cuda`."""
        for name, things in (
            ("cudaGraphExecDestroy", self._graphs), ("cudaFree", self._device), ("cudaFreeHost", self._host),
        ):  # fmt: skip
            while things:
                self._call(name, things.pop())
        if self._stream is not None:
            self._call("cudaStreamDestroy", self._stream)
            self._stream = None

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *values = getattr(self.api, name)(*arguments)
        if int(status) != 0:
            reason = getattr(status, "name", status)
            raise BackendError(f"CUDA: {name} failed with {reason}: close what else uses the GPU, and try again")
        return values[0] if values else None


class PyCuda:
    """`pycuda`, the driver API: the primary context is pushed for each call and popped again, whatever happens."""

    def __init__(self) -> None:
        self.driver = import_module("pycuda.driver")
        self.driver.init()
        self._gpu = self.driver.Device(0)
        self._context = self._gpu.retain_primary_context()
        self._memory: list[Any] = []
        self._host: list[Any] = []
        self._stream: Any = self.inside(lambda: self.driver.Stream())

    @property
    def stream(self) -> int:
        """See `Cuda`."""
        return int(self._stream.handle)

    def gpu(self) -> Gpu:
        """See `Cuda`."""
        major, minor = self._gpu.compute_capability()
        return Gpu(self._gpu.name(), f"{major}.{minor}", str(self.driver.get_driver_version()))

    def pinned(self, shape: tuple[int, ...]) -> FloatArray:
        """See `Cuda`."""
        array: FloatArray = self.inside(lambda: self.driver.pagelocked_empty(shape, np.float32))
        self._host.append(array)
        return array

    def device(self, size: int) -> int:
        """See `Cuda`."""
        self._memory.append(self.inside(lambda: self.driver.mem_alloc(size)))
        return int(self._memory[-1])

    def upload(self, address: int, source: FloatArray) -> None:
        """See `Cuda`."""
        self.inside(lambda: self.driver.memcpy_htod_async(address, source, self._stream))

    def download(self, target: FloatArray, address: int) -> None:
        """See `Cuda`."""
        self.inside(lambda: self.driver.memcpy_dtoh_async(target, address, self._stream))

    def synchronize(self) -> None:
        """See `Cuda`."""
        self.inside(lambda: self._stream.synchronize())

    def capture(self, work: Callable[[], None]) -> Callable[[], None] | None:
        """See `Cuda`: pycuda offers none in its releases."""
        return None

    def inside(self, work: Callable[[], Any]) -> Any:
        """See `Cuda`."""
        self._context.push()
        try:
            return work()
        except (self.driver.Error, MemoryError) as error:
            raise BackendError(f"CUDA: {error}: close what else uses the GPU, and try again") from None
        finally:
            self.driver.Context.pop()

    def close(self) -> None:
        """See `Cuda`."""
        if self._stream is None:
            return

        def free() -> None:
            for memory in self._memory:
                memory.free()
            for array in self._host:
                array.base.free()  # pycuda cannot once the context is gone, and an error's traceback may hold the array
            self._memory.clear()
            self._host.clear()
            self._stream = None

        self.inside(free)
        self._context.detach()


DRIVERS: dict[str, Callable[[], Cuda]] = {"cuda-python": CudaPython, "pycuda": PyCuda}


def open_cuda(name: str | None = None) -> Cuda:
    """The named package, or the first that is installed; raises BackendError."""
    reasons = []
    for each in [name] if name else DRIVERS:
        try:
            return DRIVERS[each]()
        except (ImportError, RuntimeError, OSError) as error:
            reasons.append(f"{each}: {error}")
    raise BackendError(f"no CUDA for Python ({'; '.join(reasons)}): pip install cuda-python")
