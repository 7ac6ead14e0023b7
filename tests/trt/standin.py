"""Stand-ins for TensorRT and for both CUDA packages, which enforce the documented rules. No result is a measurement.

The TensorRT one takes an ONNX graph, wraps it as its "engine" and computes with ONNX Runtime on the fake device's
memory. It knows only the calls that the published binding packages have, refuses what 11 removed, wants calls in the
documented order, and answers None or False on failure, with the reason in the logger.
"""

import ctypes
import enum
import json
import threading
from types import SimpleNamespace

import numpy as np
import onnx

from pstmo_edge.backends.onnxruntime import OnnxRuntimeSession

MAGIC = b"stand-in engine\n"


class FakeMemory:
    """The device: addresses that are real ones of this process, an order of work, and what is current where."""

    def __init__(self):
        self.blocks = {}
        self.streams = set()
        self.capturing = None
        self.graphs = {}
        self.calls = []
        self.host = {}
        self.contexts = threading.local()
        self.fail = {}
        self.busy = threading.Lock()

    def alloc(self, size):
        block = (ctypes.c_byte * size)()
        address = ctypes.addressof(block)
        self.blocks[address] = block
        return address

    def view(self, address, count):
        assert address in self.blocks, f"{address:#x} is no device memory"
        assert 4 * count <= len(self.blocks[address]), "past the end of the device's memory"
        return np.frombuffer(self.blocks[address], np.float32, count)

    def do(self, stream, work):
        """Work in a stream: recorded while that captures, else done (a stand-in has no other time than now)."""
        assert stream in self.streams, "no such stream"
        if self.capturing is not None:
            self.capturing.append(work)
            return
        assert self.busy.acquire(blocking=False), "two threads work at once"
        try:
            work()
        finally:
            self.busy.release()

    def stack(self):
        if not hasattr(self.contexts, "stack"):
            self.contexts.stack = []
        return self.contexts.stack


Status = enum.IntEnum("Status", {"cudaSuccess": 0, "cudaErrorMemoryAllocation": 2})


def cuda_bindings(memory):
    """`cuda.bindings.runtime` of cuda-python: every function answers a tuple that starts with the status."""

    def call(name, work):
        def function(*arguments):
            memory.calls.append(name)
            if memory.fail.get(name):
                return (Status.cudaErrorMemoryAllocation, None)
            value = work(*arguments)
            return (Status.cudaSuccess,) if value is None else (Status.cudaSuccess, value)

        return function

    def copy(target, source, size, kind, stream):
        device = source if kind == "d2h" else target
        assert device in memory.blocks
        memory.do(stream, lambda: ctypes.memmove(target, source, size))

    def create(flags):
        memory.streams.add(7)
        return 7

    def begin(stream, mode):
        assert mode == "thread-local"
        memory.capturing = []

    def end(stream):
        work, memory.capturing = memory.capturing, None
        memory.graphs[len(memory.graphs)] = work
        return len(memory.graphs) - 1

    def launch(graph, stream):
        for work in memory.graphs[graph]:
            memory.do(stream, work)

    def free(address):
        del memory.blocks[address]

    def host_alloc(size, flags):
        block = (ctypes.c_byte * size)()
        memory.host[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    functions = {
        "cudaSetDevice": lambda device: None,
        "cudaStreamCreateWithFlags": create,
        "cudaStreamDestroy": lambda stream: memory.streams.remove(stream),
        "cudaStreamSynchronize": lambda stream: None,
        "cudaGetDeviceProperties": lambda device: SimpleNamespace(name=b"Fake Orin", major=8, minor=7),
        "cudaDriverGetVersion": lambda: 12060,
        "cudaHostAlloc": host_alloc,
        "cudaFreeHost": lambda address: memory.host.pop(address) and None,
        "cudaMalloc": memory.alloc,
        "cudaFree": free,
        "cudaMemcpyAsync": copy,
        "cudaStreamBeginCapture": begin,
        "cudaStreamEndCapture": end,
        "cudaGraphInstantiate": lambda graph, flags: graph,
        "cudaGraphDestroy": lambda graph: None,
        "cudaGraphLaunch": launch,
        "cudaGraphExecDestroy": lambda graph: memory.graphs.pop(graph) and None,
    }
    return SimpleNamespace(
        cudaStreamNonBlocking=1, cudaHostAllocDefault=0,
        cudaMemcpyKind=SimpleNamespace(cudaMemcpyHostToDevice="h2d", cudaMemcpyDeviceToHost="d2h"),
        cudaStreamCaptureMode=SimpleNamespace(cudaStreamCaptureModeThreadLocal="thread-local"),
        **{name: call(name, work) for name, work in functions.items()},
    )  # fmt: skip


def pycuda_driver(memory):
    """`pycuda.driver`: nothing works in a thread where no context is current."""

    class Error(Exception):
        pass

    def current():
        if not memory.stack():
            raise Error("invalid device context - no currently active context?")

    class Context:
        def push(self):
            memory.stack().append(self)

        @staticmethod
        def pop():
            memory.stack().pop()

        def detach(self):
            memory.calls.append("detach")
            assert not pinned, "pycuda cannot give pinned memory back once its context is gone"

    pinned = set()

    class PagelockedHostAllocation:
        def __init__(self, shape, kind):
            current()
            pinned.add(self)
            self.memory = np.empty(shape, kind)
            self.__array_interface__ = self.memory.__array_interface__

        def free(self):
            current()
            pinned.remove(self)

    class Allocation:
        def __init__(self, size):
            current()
            if memory.fail.get("mem_alloc"):
                raise Error("cuMemAlloc failed: out of memory")
            self.address = memory.alloc(size)

        def __int__(self):
            return self.address

        def free(self):
            current()
            del memory.blocks[self.address]

    class Stream:
        def __init__(self):
            current()
            self.handle = 9
            memory.streams.add(9)

        def synchronize(self):
            current()

        def __del__(self):
            memory.streams.discard(9)

    def copy(target, source, size, stream):
        current()
        memory.do(stream.handle, lambda: ctypes.memmove(target, source, size))

    return SimpleNamespace(
        Error=Error, Context=Context, Stream=Stream, init=lambda: None, get_driver_version=lambda: 12060,
        Device=lambda index: SimpleNamespace(
            retain_primary_context=Context, name=lambda: "Fake Orin", compute_capability=lambda: (8, 7)
        ),
        pagelocked_empty=lambda shape, kind: np.asarray(PagelockedHostAllocation(shape, kind)),
        mem_alloc=Allocation,
        memcpy_htod_async=lambda address, source, stream: copy(address, source.ctypes.data, source.nbytes, stream),
        memcpy_dtoh_async=lambda target, address, stream: copy(target.ctypes.data, address, target.nbytes, stream),
    )  # fmt: skip


def tensorrt(version, memory, *, fail=None, float_layers=(), dla_cores=0, on_dla=("Conv", "Relu", "Add")):
    """A module like `tensorrt` of that version.

    `fail` makes one step fail; `float_layers` end up in float; the device has `dla_cores`, which take layers `on_dla`.
    """
    major = int(version.split(".")[0])
    handed = []  # every engine that was handed over to be opened

    class Severity(enum.Enum):
        INTERNAL_ERROR, ERROR, WARNING = 0, 1, 2

    class ILogger:
        def __init__(self):
            self.ready = True

    ILogger.Severity = Severity

    class Mode(enum.Enum):
        INPUT, OUTPUT = 1, 2

    flags = {"STRONGLY_TYPED": 1} | ({"EXPLICIT_BATCH": 0} if major < 11 else {})
    builder_flags = {"VERSION_COMPATIBLE": 1, "GPU_FALLBACK": 4} | ({"FP16": 2, "INT8": 3} if major < 11 else {})

    class TimingCache:
        def serialize(self):
            return b"timings"

    class Config:
        def __init__(self):
            self.limits, self.profiles, self.flags = {}, [], set()
            self.builder_optimization_level, self.profiling_verbosity = 3, "LAYER_NAMES_ONLY"
            self.hardware_compatibility_level = "NONE"
            self.default_device_type, self.DLA_core = "GPU", None

        def set_memory_pool_limit(self, pool, size):
            self.limits[pool] = size

        def set_flag(self, flag):
            self.flags.add(flag)

        def can_run_on_DLA(self, layer):  # noqa: N802
            assert self.default_device_type == "DLA", "what a DLA takes is known once a DLA was asked for"
            return layer.op_type in on_dla

        def create_timing_cache(self, content):
            return TimingCache() if content in (b"", b"timings") else None

        def set_timing_cache(self, cache, ignore_mismatch):
            return isinstance(cache, TimingCache)

        def add_optimization_profile(self, profile):
            self.profiles.append(profile)
            return len(self.profiles) - 1 if profile.shapes else -1

    class Profile:
        def __init__(self):
            self.shapes = {}

        def set_shape(self, name, least, best, most):
            if not all(a <= b <= c for a, b, c in zip(least, best, most, strict=True)):
                raise ValueError("shapes are out of order")
            self.shapes[name] = (least, best, most)

    class Network:
        def __init__(self, typed):
            self.typed, self.graph = typed, None

        @property
        def num_layers(self):
            return len(self.graph.graph.node)

        def get_layer(self, index):
            return self.graph.graph.node[index]

    class Builder:
        def __init__(self, logger):
            assert logger.ready
            self.logger, self.num_DLA_cores = logger, dla_cores

        def create_network(self, bits):
            if major >= 11 and bits & ~0b10:
                raise ValueError("no such flag in TensorRT 11")
            return Network(major >= 11 or bool(bits & 0b10))

        def create_builder_config(self):
            return Config()

        def create_optimization_profile(self):
            return Profile()

        def build_serialized_network(self, network, config):
            def refuse(reason):
                self.logger.log(Severity.ERROR, reason)

            if network.graph is None:
                return refuse("network has no outputs")
            if not network.typed and any("DequantizeLinear" in n.op_type for n in network.graph.graph.node):
                return refuse("Q/DQ in a weakly typed network without the INT8 flag")
            if not config.profiles:
                return refuse("Network has dynamic or shape inputs, but no optimization profile has been defined")
            on_core = config.DLA_core if config.default_device_type == "DLA" else None
            least, _, most = next(iter(config.profiles[0].shapes.values()))
            if on_core is not None and least != most:
                return refuse("DLA does not support dynamic dimensions")
            if on_core is not None and builder_flags["GPU_FALLBACK"] not in config.flags:
                return refuse("a layer cannot run on DLA and GPU fallback is not enabled")
            if fail == "memory":
                return refuse("[virtualMemoryBuffer.cpp::resizePhysical::154] Error Code 2: OutOfMemory (no details)")
            if fail == "build":
                return refuse("Could not find any implementation for node")
            name = network.graph.graph.input[0].name
            detailed = config.profiling_verbosity == "DETAILED"
            head = {"profile": config.profiles[0].shapes[name], "input": name, "detailed": detailed}
            head |= {"version": version, "dla_core": on_core}
            return MAGIC + json.dumps(head).encode() + b"\n" + network.graph.SerializeToString()

    class OnnxParser:
        def __init__(self, network, logger):
            self.network, self.errors = network, []

        def parse(self, content):
            if fail == "parse":
                self.errors.append("In node 3 (importFoo): UNSUPPORTED_NODE")
                return False
            self.network.graph = onnx.load_from_string(content)
            return True

        @property
        def num_errors(self):
            return len(self.errors)

        def get_error(self, index):
            return self.errors[index]

    class Context:
        def __init__(self, engine):
            self.engine, self.addresses, self.shape = engine, {}, None

        def set_tensor_address(self, name, address):
            self.addresses[name] = address
            return name in self.engine.names

        def set_input_shape(self, name, shape):
            least, _, most = self.engine.head["profile"]
            fits = all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))
            self.shape = tuple(shape) if fits else None
            return fits

        def execute_async_v3(self, stream):
            if self.shape is None or set(self.addresses) != set(self.engine.names):
                return False
            shape, (given, answer) = self.shape, self.engine.names

            def work():
                keypoints = memory.view(self.addresses[given], int(np.prod(shape))).reshape(shape)
                poses = self.engine.session.run(keypoints)
                memory.view(self.addresses[answer], poses.size)[:] = poses.ravel()

            memory.do(stream, work)
            return True

    class Inspector:
        def __init__(self, engine):
            self.engine = engine

        def get_engine_information(self, form):
            assert form == "JSON"
            nodes = [n for n in self.engine.graph.graph.node if n.op_type in ("MatMul", "Gemm", "Conv")]
            if not self.engine.head["detailed"]:
                return json.dumps({"Layers": [n.name for n in nodes]})
            made = {output: n.op_type for n in self.engine.graph.graph.node for output in n.output}
            return json.dumps({"Layers": [self._layer(n, made) for n in nodes]})

        def _layer(self, node, made):
            integer = made.get(node.input[0]) == "DequantizeLinear" and node.name not in float_layers
            kind = "Int8 NC/32HW32 format" if integer else "Row major linear FP32 format"
            name, inputs = f"{node.name} + add_myl0_3", [{"Name": "x", "Dimensions": [1, 9], "Format/Datatype": kind}]
            return {"Name": name, "LayerType": "gemm", "Inputs": inputs, "Outputs": [], "Metadata": "[ONNX]"}

    class Engine:
        def __init__(self, content):
            head, graph = content.removeprefix(MAGIC).split(b"\n", 1)
            self.head, self.graph = json.loads(head), onnx.load_from_string(graph)
            self.session = OnnxRuntimeSession(graph)
            self.names = (self.graph.graph.input[0].name, self.graph.graph.output[0].name)
            self.num_io_tensors = 2

        def create_execution_context(self):
            return Context(self)

        def create_engine_inspector(self):
            return Inspector(self)

        def get_tensor_name(self, index):
            return self.names[index]

        def get_tensor_mode(self, name):
            return Mode.INPUT if name == self.names[0] else Mode.OUTPUT

        def get_tensor_profile_shape(self, name, profile):
            return self.head["profile"]

    class Runtime:
        def __init__(self, logger):
            self.logger, self.engine_host_code_allowed, self.DLA_core = logger, False, None

        def deserialize_cuda_engine(self, content):
            handed.append(content)
            if not content.startswith(MAGIC) or fail == "open":
                self.logger.log(Severity.ERROR, "Serialization assertion stdVersionRead failed")
                return None
            engine = Engine(content)
            if engine.head["dla_core"] != self.DLA_core:
                self.logger.log(Severity.ERROR, "the engine is for another DLA core")
                return None
            return engine

    made = SimpleNamespace(
        __version__=version, ILogger=ILogger, Builder=Builder, OnnxParser=OnnxParser, Runtime=Runtime,
        TensorIOMode=Mode, DeviceType=SimpleNamespace(GPU="GPU", DLA="DLA"),
        MemoryPoolType=SimpleNamespace(WORKSPACE="WORKSPACE"),
        NetworkDefinitionCreationFlag=SimpleNamespace(**flags), BuilderFlag=SimpleNamespace(**builder_flags),
        ProfilingVerbosity=SimpleNamespace(DETAILED="DETAILED"), LayerInformationFormat=SimpleNamespace(JSON="JSON"),
        HardwareCompatibilityLevel=SimpleNamespace(AMPERE_PLUS="AMPERE_PLUS"),
    )  # fmt: skip
    made.handed = handed
    return made
