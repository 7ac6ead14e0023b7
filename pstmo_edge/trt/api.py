"""The one place that speaks to TensorRT's Python API, from 10.3 to 11.x.

Where they differ: 11 knows only strongly typed networks and has neither the precision flags (FP16, INT8, ...) nor the
calibrators nor EXPLICIT_BATCH. Nothing of these is used: precision is in the graph, and STRONGLY_TYPED is asked for in
10 alone. On failure the API answers None or False; the reasons are in the log, which is kept here.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from pstmo_edge.errors import BackendError
from pstmo_edge.trt.plans import BuildPlan, check_version

# What the adapter uses, checked against the published binding packages (tests/trt/bindings.json).
NAMES = (
    "AMPERE_PLUS", "Builder", "BuilderFlag", "DETAILED", "DLA", "DLA_core", "DeviceType", "EngineInspector",
    "GPU_FALLBACK", "HardwareCompatibilityLevel", "ICudaEngine", "IExecutionContext", "ILogger", "JSON",
    "LayerInformationFormat", "Logger", "MemoryPoolType", "NetworkDefinitionCreationFlag", "OnnxParser",
    "ProfilingVerbosity", "Runtime", "STRONGLY_TYPED", "TensorIOMode", "VERSION_COMPATIBLE", "WORKSPACE",
    "add_optimization_profile", "build_serialized_network", "builder_optimization_level", "can_run_on_DLA",
    "create_builder_config", "create_engine_inspector", "create_execution_context", "create_network",
    "create_optimization_profile", "create_timing_cache", "default_device_type", "deserialize_cuda_engine",
    "engine_host_code_allowed", "execute_async_v3", "get_engine_information", "get_error", "get_layer",
    "get_tensor_mode", "get_tensor_name", "get_tensor_profile_shape", "hardware_compatibility_level",
    "num_DLA_cores", "num_io_tensors", "num_layers", "parse", "profiling_verbosity", "serialize", "set_flag",
    "set_input_shape", "set_memory_pool_limit", "set_shape", "set_tensor_address", "set_timing_cache",
)  # fmt: skip
REMOVED_IN_11 = ("EXPLICIT_BATCH", "FP16", "IInt8Calibrator", "OBEY_PRECISION_CONSTRAINTS", "int8_calibrator")
_OUT_OF_MEMORY = ("out of memory", "outofmemory", "insufficient memory", "cudaerrormemoryallocation")


def import_tensorrt() -> Any:
    """The module; raises BackendError where it is missing, does not load, or has another version."""
    try:
        trt = import_module("tensorrt")
    except ImportError as error:
        raise BackendError(
            f"TensorRT is not installed here ({error}): on a Jetson it comes with JetPack (apt install "
            f"python3-libnvinfer, and a venv with --system-site-packages), elsewhere pip install 'tensorrt>=10.3,<12'"
        ) from None
    check_version(trt.__version__)
    return trt


class Api:
    """TensorRT with a log that errors are made of."""

    def __init__(self) -> None:
        trt = self.trt = import_tensorrt()
        self.messages: list[str] = []
        messages = self.messages

        base: Any = trt.ILogger

        class Log(base):
            """Keeps what went wrong."""

            def __init__(self) -> None:
                base.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                    messages.append(str(message))

        self.logger = Log()

    @property
    def version(self) -> str:
        """TensorRT's version."""
        return str(self.trt.__version__)

    def build(
        self,
        graph: bytes,
        tensor: str,
        sample: tuple[int, ...],
        plan: BuildPlan,
        cache: bytes = b"",
        tell: Callable[[str, int, int], None] = lambda text, done, total: None,
    ) -> tuple[bytes, bytes]:
        """The serialized engine of an ONNX graph, and the timing cache that makes the next build faster.

        `tensor` is the input's name and `sample` its shape without the batch. `tell` hears how much of the graph a DLA
        core takes, where one was asked for. Raises BackendError.
        """
        trt = self.trt
        builder = self._made(trt.Builder(self.logger), "a builder")
        flags = 0
        if int(self.version.split(".")[0]) < 11:  # later every network is, and the flag is ignored
            flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = self._made(builder.create_network(flags), "a network")
        parser = trt.OnnxParser(network, self.logger)
        if not parser.parse(graph):
            reasons = [str(parser.get_error(index)) for index in range(parser.num_errors)]
            raise BackendError(f"TensorRT {self.version} does not read the graph: {'; '.join(reasons) or 'no reason'}")
        config = self._made(builder.create_builder_config(), "a builder config")
        timing = self._configure(config, plan, cache)
        profile = builder.create_optimization_profile()
        profile.set_shape(tensor, *((size, *sample) for size in (plan.batch_min, plan.batch_opt, plan.batch_max)))
        if config.add_optimization_profile(profile) < 0:
            raise BackendError(f"TensorRT {self.version} refuses batches of {plan.batch_min} to {plan.batch_max}")
        if plan.dla_core is not None:
            taken = self._use_dla(builder, network, config, plan.dla_core)
            tell(f"DLA core {plan.dla_core} takes {taken} of {network.num_layers} layers, the GPU the others", 0, 0)
        engine = self._made(builder.build_serialized_network(network, config), "an engine")
        return bytes(engine), bytes(timing.serialize()) if timing is not None else b""

    def _configure(self, config: Any, plan: BuildPlan, cache: bytes) -> Any:
        trt = self.trt
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, plan.workspace_mib << 20)
        config.builder_optimization_level = plan.optimization_level
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the inspector names no types
        if plan.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if plan.hardware_compatible:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        timing = config.create_timing_cache(cache)
        if timing is None or not config.set_timing_cache(timing, False):
            timing = config.create_timing_cache(b"")  # of another device or version: start anew
            config.set_timing_cache(timing, False)
        return timing

    def _use_dla(self, builder: Any, network: Any, config: Any, core: int) -> int:
        """Give the DLA core all layers that it takes and the GPU the others; return how many it takes."""
        cores = int(builder.num_DLA_cores)
        if core >= cores:
            raise BackendError(f"--dla is {core}: this device has {cores} DLA cores; compile without --dla for its GPU")
        config.default_device_type = self.trt.DeviceType.DLA
        config.DLA_core = core
        config.set_flag(self.trt.BuilderFlag.GPU_FALLBACK)
        taken = sum(bool(config.can_run_on_DLA(network.get_layer(index))) for index in range(network.num_layers))
        if not taken:
            raise BackendError(f"a DLA takes none of the {network.num_layers} layers: compile without --dla")
        return taken

    def deserialize(self, engine: bytes, host_code: bool = False, dla_core: int | None = None) -> Any:
        """The engine of verified bytes; never call this with others. Raises BackendError.

        `host_code` is for version compatible engines, which carry a runtime of their own; `dla_core` is the one that
        the engine was compiled for.
        """
        self.runtime = self._made(self.trt.Runtime(self.logger), "a runtime")
        self.runtime.engine_host_code_allowed = host_code
        if dla_core is not None:
            self.runtime.DLA_core = dla_core
        return self._made(self.runtime.deserialize_cuda_engine(engine), "the engine opened")

    def information(self, engine: Any) -> str:
        """What the engine's inspector says of its layers, JSON."""
        inspector = self._made(engine.create_engine_inspector(), "an inspector")
        return str(inspector.get_engine_information(self.trt.LayerInformationFormat.JSON))

    def _made(self, thing: Any, what: str) -> Any:
        if thing is not None:
            return thing
        reason = "; ".join(self.messages[-3:]) or "it gives no reason"
        if any(sign in reason.lower().replace(" ", "") for sign in (s.replace(" ", "") for s in _OUT_OF_MEMORY)):
            raise BackendError(
                f"TensorRT ran out of memory ({reason}): close other programs, or give less --batch or --workspace-mib"
            )
        raise BackendError(f"TensorRT {self.version} could not make {what}: {reason}")
