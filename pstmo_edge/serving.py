"""A model repository for NVIDIA's Triton Inference Server, made of a bundle.

Two models: one reads windows, which the server gathers from many clients into batches; the other reads frames, and
keeps each sequence's window on the server (implicit state of the sequence batcher), so that a client sends 17 points a
frame. The configuration follows model_config.proto of the server's public interface.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pstmo_edge.bundle import Bundle, open_bundle
from pstmo_edge.errors import UsageError
from pstmo_edge.files import write_folder_atomic
from pstmo_edge.trt.compiling import need_engine, read_plan
from pstmo_edge.trt.plans import ENGINE, RECORD, verified

if TYPE_CHECKING:
    import onnx

    from pstmo_edge.manifest import Manifest

MARKER = "pstmo-edge.json"  # the bundle's manifest, for clients: units, joints, look-ahead
MAX_BATCH = 64
QUEUE_DELAY_US = 2000  # how long a window waits for others to share a batch with
IDLE_US = 5_000_000  # after so long without a frame a sequence's window is forgotten
FILES = {"onnxruntime": ("model.onnx",), "openvino": ("model.xml", "model.bin"), "tensorrt": (ENGINE,)}


@dataclass(frozen=True)
class Serving:
    """How the server runs the models: the name of the first, its batches, instances and their kind."""

    name: str = "lifter"
    max_batch: int = MAX_BATCH
    instances: int = 1
    gpu: bool = False

    def __post_init__(self) -> None:
        """Refuse what Triton would."""
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise UsageError(f"--name is {self.name!r}: use letters, digits, - and _")
        if self.max_batch < 1 or self.instances < 1:
            raise UsageError(f"batches of {self.max_batch} and {self.instances} instances: both must be 1 or more")


def export_triton(
    path: str | os.PathLike[str], out: str | os.PathLike[str], serving: Serving | None = None, force: bool = False
) -> tuple[str, ...]:
    """Write the model repository `out` of the bundle at `path`, and return the names of its models.

    The streaming model is made of ONNX graphs alone. Raises UsageError for a backend that Triton has not, BundleError,
    and BackendError for a TensorRT engine that was not compiled, or not signed by this device.
    """
    serving = serving or Serving()
    bundle = open_bundle(path)
    backend = bundle.manifest.backend.name
    if backend not in FILES:
        raise UsageError(f"Triton has no backend for {backend} bundles: build --backend {', '.join(FILES)}")
    if serving.gpu and backend == "openvino":
        raise UsageError("Triton's OpenVINO backend runs on CPUs: leave --gpu out, or build --backend onnxruntime")
    artifacts = {name: bundle.read(name) for name in FILES[backend] if backend != "tensorrt"}
    batch, group = serving.max_batch, _instances(serving, serving.gpu)
    if backend == "tensorrt":
        artifacts, most, group = _compiled(bundle, serving)
        batch = min(batch, most)
    with write_folder_atomic(out, force=force, marker=MARKER) as folder:
        (folder / MARKER).write_bytes(_facts(bundle.manifest))
        models = {serving.name: (_windows_config(bundle.manifest, serving, backend, batch, group), artifacts)}
        if backend == "onnxruntime":
            name = f"{serving.name}-stream"
            graph = streaming_graph(_parsed(artifacts["model.onnx"]), bundle.manifest)
            models[name] = (
                _stream_config(bundle.manifest, name, batch, group),
                {"model.onnx": graph.SerializeToString()},
            )
        for name, (config, files) in models.items():
            (folder / name / "1").mkdir(parents=True)
            (folder / name / "config.pbtxt").write_text(config)
            for file, content in files.items():
                (folder / name / "1" / file).write_bytes(content)
    return tuple(models)


def streaming_graph(graph: onnx.ModelProto, manifest: Manifest) -> onnx.ModelProto:
    """The graph with its window kept outside it.

    `frame` (B, 17, C), `START` (B, 1) and `window_in` go in, `pose` and `window_out` come out. A window's state is its
    (T - 1) t_downsample + 1 newest frames; the first frame of a sequence fills it.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    given = manifest.input
    sides = [len(given.joints), len(given.channels)]
    kept = history(manifest)
    result = onnx.ModelProto()
    result.CopyFrom(graph)
    body, keypoints = result.graph, result.graph.input[0].name
    constants = {
        "axis": [1], "one": [1], "none": [0], "end": [2**31 - 1], "step": [given.t_downsample], "flat": [-1, 1, 1, 1],
    }  # fmt: skip
    body.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), f"stream/{name}") for name, value in constants.items()
    )
    body.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "stream/half"))

    def node(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
        names = [
            name if name in ("frame", "START", "window_in", "window_out") else f"stream/{name}"
            for name in inputs.split()
        ]
        target = output if output in ("window_out", keypoints) else f"stream/{output}"
        return helper.make_node(kind, names, [target], name=f"stream/{kind}/{output}", **attributes)

    before = [
        node("Unsqueeze", "frame axis", "new"),
        node("Slice", "window_in one end axis", "tail"),
        node("Concat", "tail new", "moved", axis=1),
        node("Greater", "START half", "begins"),
        node("Reshape", "begins flat", "started"),
        node("Where", "started new moved", "window_out"),
        node("Slice", "window_out none end axis step", keypoints),
    ]
    after = list(body.node)
    del body.node[:]
    body.node.extend([*before, *after])
    del body.input[:]
    body.input.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
        for name, shape in (("frame", sides), ("START", [1]), ("window_in", [kept, *sides]))
    )
    body.output.append(helper.make_tensor_value_info("window_out", TensorProto.FLOAT, ["batch", kept, *sides]))
    onnx.checker.check_model(result, full_check=True)
    return result


def history(manifest: Manifest) -> int:
    """How many frames the streaming model keeps of each sequence."""
    return (manifest.input.frames - 1) * manifest.input.t_downsample + 1


def _compiled(bundle: Bundle, serving: Serving) -> tuple[dict[str, bytes], int, dict[str, Any]]:
    """The plan that this device signed, since the server opens whatever lies there; its batches and where it runs."""
    need_engine(bundle)
    engine, plan = bundle.read(ENGINE), read_plan(bundle)
    record = verified(bundle.read(RECORD), engine, bundle.path)
    if plan.batch_min > 1:
        raise UsageError(
            f"{bundle.path} takes {plan.batch_min} windows or more and a server sends what it has: "
            f"compile with --batch 1,1,{plan.batch_max}"
        )
    group = _instances(serving, gpu=True)
    if record.dla_core is not None:
        group["secondary_devices"] = [{"kind": Word("KIND_NVDLA"), "device_id": record.dla_core}]
    return {ENGINE: engine}, plan.batch_max, group


def _windows_config(manifest: Manifest, serving: Serving, backend: str, batch: int, group: dict[str, Any]) -> str:
    shape = [manifest.input.frames, *_frame(manifest)]
    return _text(
        name=serving.name, backend=backend, max_batch_size=batch, input=[_tensor("keypoints", shape)],
        output=[_tensor("pose", _poses(manifest))],
        dynamic_batching={"max_queue_delay_microseconds": QUEUE_DELAY_US},
        instance_group=[group],
        model_warmup=[{"name": "zeros", "batch_size": 1, "inputs": {
            "key": "keypoints", "value": {"data_type": Word("TYPE_FP32"), "dims": shape, "zero_data": True}}}],
    )  # fmt: skip


def _stream_config(manifest: Manifest, name: str, batch: int, group: dict[str, Any]) -> str:
    state = {
        "input_name": "window_in", "output_name": "window_out", "data_type": Word("TYPE_FP32"),
        "dims": [history(manifest), *_frame(manifest)],
    }  # fmt: skip
    start = {"kind": Word("CONTROL_SEQUENCE_START"), "fp32_false_true": [0, 1]}
    return _text(
        name=name, backend="onnxruntime", max_batch_size=batch, input=[_tensor("frame", _frame(manifest))],
        output=[_tensor("pose", _poses(manifest))],
        sequence_batching={
            "max_sequence_idle_microseconds": IDLE_US, "control_input": [{"name": "START", "control": [start]}],
            "state": [state], "oldest": {"max_candidate_sequences": batch},
        },
        instance_group=[group],
    )  # fmt: skip


class Word(str):
    """A name of the protocol, written without quotes."""

    __slots__ = ()


def _tensor(name: str, dims: list[int]) -> dict[str, Any]:
    return {"name": name, "data_type": Word("TYPE_FP32"), "dims": dims}


def _instances(serving: Serving, gpu: bool) -> dict[str, Any]:
    return {"count": serving.instances, "kind": Word("KIND_GPU" if gpu else "KIND_CPU")}


def _frame(manifest: Manifest) -> list[int]:
    return [len(manifest.input.joints), len(manifest.input.channels)]


def _poses(manifest: Manifest) -> list[int]:
    several = [] if manifest.emitted is None else [manifest.poses_a_window]
    return [*several, len(manifest.output.joints), 3]


def _text(**fields: Any) -> str:
    """Protocol buffers' text format."""
    return "\n".join(_lines(fields)) + "\n"


def _lines(fields: Mapping[str, Any], indent: str = "") -> list[str]:
    lines = []
    for name, value in fields.items():
        for each in value if isinstance(value, list) and value and isinstance(value[0], dict) else [value]:
            if isinstance(each, dict):
                lines += [f"{indent}{name} {{", *_lines(each, indent + "  "), f"{indent}}}"]
            else:
                lines.append(f"{indent}{name}: {each if isinstance(each, Word) else json.dumps(each)}")
    return lines


def _facts(manifest: Manifest) -> bytes:
    return json.dumps(manifest.model_dump(mode="json"), indent=2).encode() + b"\n"


def _parsed(content: bytes) -> onnx.ModelProto:
    import onnx

    return onnx.load_from_string(content)
