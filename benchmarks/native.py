"""The native engine against the ready runtimes, all in one run: benchmarks/results/native.json.

For each model every competitor's output is checked first; then all are timed in turns, a slice each, with one window,
as one camera's stream, and with 16 windows a call. Of the ready runtimes none can keep what it knows of old frames, so
their stream is a window a frame; the native engine encodes the new frame alone. In the same run a bare loop measures
what multiply-adds the machine can do, and a profile says what share of that each layer reaches.

Run as `python -m pstmo_edge.benchmarks.native` from the root of the source tree, on an idle machine: two minutes a
model on two cores. `--isa avx2` limits everything to AVX2 that can be: our kernels, OpenVINO, and torch; ONNX Runtime
has no such switch and uses what it finds. On a machine that others use too, `--threads 1 --cpu-time` counts the time of
the CPU instead of the clock's: what others take then hardly matters.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pstmo_edge.arrays import FloatArray
from pstmo_edge.benchmarks.timing import Clock, Latency, TimingPlan, time_interleaved
from pstmo_edge.files import write_atomic
from pstmo_edge.manifest import Precision

RESULTS = Path("benchmarks/results/native.json")
MODELS = (("p-stmo-s", 243), ("p-stmo-s", 27))
SCENARIOS = ("window", "stream", "batch 16")
KERNELS: tuple[Precision, ...] = ("fp32", "int8", "w8a16")
# "mixed" is INT8 with 16-bit activations where the default build of the 27-frame weights has them, for its jitter.
MIXED = ("encoder.layers.0.w1", "encoder.fc_2", "Transformer.model.layers.1.self_attn.qkv",
         *(f"Transformer.model.layers.{layer}.self_attn.out" for layer in range(3)))  # fmt: skip
BATCH = 16
FP32_TOLERANCE = 1e-4  # of the largest output
INT8_TOLERANCE = 0.05  # the same; random weights amplify rounding, so accuracy is shown on trained ones elsewhere
# Read when the libraries are loaded, hence by a process of its own.
LIMITS = {"avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}, "auto": {}}
TARGETS = {"avx2": "x86-avx2", "auto": "auto"}  # 7-bit weights where pair sums would overflow


@dataclass(frozen=True)
class Competitor:
    """One engine: what it is, and windows (B, T, 17, 2) to poses (B, 17, 3)."""

    runtime: str
    precision: str
    run: Callable[[FloatArray], FloatArray]
    stream: Callable[[FloatArray], object] | None = None  # a window of which only the newest frame is new

    @property
    def name(self) -> str:
        """As printed."""
        return f"{self.runtime} {self.precision}"


def competitors(model: Any, windows: FloatArray, isa: str, threads: int) -> tuple[list[Competitor], dict[str, Any]]:
    """Every engine of a model, its INT8 ones calibrated on `windows`, and the native ones by precision."""
    from safetensors.numpy import save

    from pstmo_edge.backends.native import ProbeSession
    from pstmo_edge.backends.onnxruntime import OnnxRuntimeSession
    from pstmo_edge.backends.openvino import OpenVinoSession
    from pstmo_edge.calib.calibrate import calibrate
    from pstmo_edge.calib.format_graph import format_graph
    from pstmo_edge.calib.formats import emulated
    from pstmo_edge.calib.qdq import quantized_graph
    from pstmo_edge.calib.settings import settings_for
    from pstmo_edge.export import export_onnx, exportable
    from pstmo_edge.models.zoo import MODELS as ZOO
    from pstmo_edge.models.zoo import state_arrays
    from pstmo_edge.native_weights import native_tensors
    from pstmo_edge.targets import resolve_target

    fused = exportable(model)
    graph, target, ends = export_onnx(fused), resolve_target(TARGETS[isa]), ZOO[model.lifter.name].ends
    integers = calibrate(fused, windows, settings_for(target, ends))
    quantized, mixed = quantized_graph(graph, integers), quantized_graph(graph, integers.widened(MIXED))
    wide = format_graph(graph, emulated(fused, "w8a16", windows).layers)
    config, state = model.config, state_arrays(fused)
    native = {
        precision: ProbeSession(save(native_tensors(state, made)), config.frames, config.layers, threads, isa)
        for precision, made in (("fp32", None), ("int8", quantized), ("mixed", mixed), ("w8a16", wide))
    }
    openvino = {"fp32": _openvino(graph), "int8": _openvino(quantized)}
    found = [
        Competitor("onnxruntime", "fp32", OnnxRuntimeSession(graph.SerializeToString(), threads).run),
        Competitor("onnxruntime", "int8", OnnxRuntimeSession(quantized.SerializeToString(), threads).run),
        *(Competitor("openvino", name, OpenVinoSession(made, threads).run) for name, made in openvino.items()),
        Competitor("torch.compile", "fp32", _compiled(fused, threads)),
        *(Competitor("native", name, session.run, _Stream(session)) for name, session in native.items()),
    ]
    return found, native


def _openvino(graph: Any) -> Any:
    import onnx
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(graph, path)
        return ov.convert_model(path)


def _compiled(module: Any, threads: int) -> Callable[[FloatArray], FloatArray]:
    import torch

    torch.set_num_threads(threads)
    compiled = torch.compile(module, dynamic=False)  # one program for each batch size

    def run(keypoints: FloatArray) -> FloatArray:
        with torch.inference_mode():
            poses: FloatArray = compiled(torch.from_numpy(keypoints)).numpy()
        return poses

    return run


class _Stream:
    """Windows that follow each other: the newest frame is encoded into a ring, the rest of the network runs."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.tokens: FloatArray | None = None
        self.next = 0

    def __call__(self, window: FloatArray) -> FloatArray:
        """The pose (17, 3) of a window (1, T, 17, 2) of which only the last frame is encoded."""
        if self.tokens is None:
            self.tokens = encoded(self.session, window[0])
        self.session.encode(window[0, -1], self.tokens[self.next])
        self.next = (self.next + 1) % len(self.tokens)
        pose: FloatArray = self.session.run_tokens(self.tokens, self.next)
        return pose


def encoded(session: Any, frames: FloatArray) -> FloatArray:
    """The tokens (T, C) of frames (T, 17, 2), encoded one by one."""
    tokens = np.zeros((len(frames), 256), np.float32)
    for number, frame in enumerate(frames):
        session.encode(np.ascontiguousarray(frame), tokens[number])
    return tokens


def check(found: list[Competitor], model: Any, windows: FloatArray) -> dict[str, float]:
    """The largest difference of each from torch, of the largest output; SystemExit where one is wrong."""
    import torch

    with torch.inference_mode():
        expected = model(torch.from_numpy(windows)).numpy()
    scale, differences = np.abs(expected).max(), {}
    for one in found:
        alone = np.concatenate([one.run(window[None]) for window in windows[:4]])
        poses = one.run(windows)
        difference = float(max(np.abs(poses - expected).max(), np.abs(alone - expected[:4]).max()) / scale)
        limit = FP32_TOLERANCE if one.precision == "fp32" else INT8_TOLERANCE
        if not difference <= limit:
            raise SystemExit(f"{one.name} differs from torch by {difference:.2g} of the largest output, not timed")
        if one.runtime == "native" and not np.array_equal(alone, poses[:4]):
            raise SystemExit(f"{one.name}: a window's pose depends on its batch, not timed")
        differences[one.name] = difference
    return differences


def check_stream(session: Any, windows: FloatArray) -> None:
    """SystemExit unless the stream's pose of a window has the bits of the batch's."""
    if not np.array_equal(session.run_tokens(encoded(session, windows[0])), session.run(windows[:1])[0]):
        raise SystemExit("native: the stream's pose differs from the batch's, not timed")


def time_all(
    found: list[Competitor], windows: FloatArray, plan: TimingPlan, clock: Clock
) -> dict[str, dict[str, Latency]]:
    """The latency of a call of every competitor in every scenario: all of them take turns."""
    singles = [np.ascontiguousarray(window[None]) for window in windows]
    jobs: dict[int, tuple[Callable[[FloatArray], object], list[FloatArray]]] = {}
    keys: list[tuple[str, str]] = []
    for scenario in SCENARIOS:
        for one in found:
            run = one.stream if scenario == "stream" and one.stream is not None else one.run
            if scenario == "stream" and one.stream is None:
                continue  # the same calls as with one window
            jobs[len(keys)] = (run, [windows] if scenario == "batch 16" else singles)
            keys.append((scenario, one.name))
    measured = time_interleaved(jobs, plan, clock=clock)
    results: dict[str, dict[str, Latency]] = {scenario: {} for scenario in SCENARIOS}
    for number, (scenario, name) in enumerate(keys):
        latency = measured[number]
        if isinstance(latency, Exception):
            raise latency
        results[scenario][name] = latency
    for one in found:
        results["stream"].setdefault(one.name, results["window"][one.name])
    return results


def peak_rate(isa: str, weight_bits: int, precision: Precision, seconds: float = 0.5) -> float:
    """Multiply-adds a second of one thread in a bare loop, the best of many short pieces."""
    from pstmo_edge.backends.native import peak

    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        count = peak(isa, weight_bits, precision, 50_000)
        best = max(best, count / (time.perf_counter() - start))
    return best


def limits(isa: str, threads: int) -> dict[str, float]:
    """Multiply-adds a second of one thread while as many threads as are used run the same loop."""
    bits = 7 if isa == "avx2" else 8
    with ThreadPoolExecutor(threads) as pool:
        return {
            name: min(pool.map(lambda _, name=name: peak_rate(isa, bits, name), range(threads))) for name in KERNELS
        }


def shares(session: Any, windows: FloatArray, limit: dict[str, float], repeats: int) -> list[dict[str, Any]]:
    """What each layer does a second in the stream, and its share of the limit, on one of the threads."""
    push = _Stream(session)
    push(windows[:1])
    session.profile()
    for number in range(repeats):
        push(windows[number % len(windows)][None])
    rows = []
    for part in session.profile():
        if part.seconds == 0:
            continue
        rate = part.multiply_adds / part.seconds
        row = {"part": part.name, "precision": part.precision, "ms_a_frame": part.seconds * 1e3 / repeats}
        rows.append(row | {"gmac_per_s": rate / 1e9, "share": rate / limit[part.precision]})
    return rows


def measure(name: str, frames: int, arguments: argparse.Namespace, plan: TimingPlan) -> dict[str, Any]:
    """All of one model."""
    from pstmo_edge.benchmarks.cases import with_weights
    from pstmo_edge.export import random_keypoints

    isa, threads = arguments.isa, arguments.threads
    clock = time.process_time_ns if arguments.cpu_time else time.perf_counter_ns
    model, windows = with_weights(name, frames, None), random_keypoints(BATCH, frames)
    found, native = competitors(model, random_keypoints(64, frames), isa, threads)
    differences = check(found, model, windows)
    for session in native.values():
        check_stream(session, windows)
    before = limits(isa, threads)
    times = time_all(found, windows, plan, clock)
    limit = {name: max(value, limits(isa, threads)[name]) for name, value in before.items()}
    return {
        "model": name,
        "frames": frames,
        "weights": model.lifter.weights,
        "kernels": native["int8"].isa,
        "threads": threads,
        "clock": "cpu" if arguments.cpu_time else "wall",
        "native_memory_bytes": {precision: session.memory_bytes for precision, session in native.items()},
        "difference_from_torch": differences,
        "limit_gmac_per_s": {name: value / 1e9 for name, value in limit.items()},
        "times": {scenario: {one: _row(latency) for one, latency in rows.items()} for scenario, rows in times.items()},
        "ratios": {scenario: ratios(rows) for scenario, rows in times.items()},
        "layers": {precision: shares(session, windows, limit, 60) for precision, session in native.items()},
    }


def _row(latency: Latency) -> dict[str, Any]:
    return {key: value for key, value in asdict(latency).items() if key not in ("percentiles_ms", "jitter_ms")}


def ratios(rows: dict[str, Latency]) -> dict[str, float]:
    """How many times as fast the native engines are as the fastest others, of all and of fp32.

    By the median of all rounds, and by each one's best round: what else the machine does can only make a round slower.
    """
    medians = {name: row.p50_ms for name, row in rows.items()}
    best = {name: min(row.round_p50_ms) for name, row in rows.items()}
    found = {}
    for kind, times in (("median", medians), ("best round", best)):
        others = {name: ms for name, ms in times.items() if not name.startswith("native")}
        fastest, fastest_fp32 = min(others.values()), min(ms for name, ms in others.items() if name.endswith("fp32"))
        found[f"native int8 to the fastest, {kind}"] = fastest / times["native int8"]
        found[f"native mixed to the fastest, {kind}"] = fastest / times["native mixed"]
        found[f"native fp32 to the fastest fp32, {kind}"] = fastest_fp32 / times["native fp32"]
    return found


def render(result: dict[str, Any]) -> str:
    """A model's result as text."""
    limit = result["limit_gmac_per_s"]
    lines = [
        f"{result['model']} {result['frames']} frames, {result['weights']} weights, kernels {result['kernels']}, "
        f"{result['threads']} threads, {result['clock']} time; "
        "limit of a thread "
        + ", ".join(f"{value:.1f} ({name})" for name, value in limit.items())
        + " G multiply-adds/s",
    ]
    for scenario, rows in result["times"].items():
        windows = BATCH if scenario == "batch 16" else 1
        for name, row in sorted(rows.items(), key=lambda item: item[1]["p50_ms"]):
            median, best = row["p50_ms"] / windows, min(row["round_p50_ms"]) / windows
            lines.append(
                f"  {scenario:9} {name:19} {median:8.3f} ms a pose, {1000 / median:8.1f} poses/s; best {best:8.3f} ms"
            )
        lines += [f"  {scenario:9} {what}: {ratio:.2f} times" for what, ratio in result["ratios"][scenario].items()]
    for precision, rows in result["layers"].items():
        total = sum(row["ms_a_frame"] for row in rows)
        lines.append(f"  stream {precision}, one thread of {total:.3f} ms a frame:")
        lines += [
            f"    {row['part']:50} {row['precision']} {row['ms_a_frame']:7.4f} ms {row['gmac_per_s']:7.1f} G/s "
            f"{row['share']:6.1%}"
            for row in rows
        ]
    return "\n".join(lines)


def run_child(arguments: argparse.Namespace, isa: str) -> dict[str, Any]:
    """The results of one instruction set, in a process whose libraries were limited to it before they were loaded."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [sys.executable, "-m", "pstmo_edge.benchmarks.native", "--child", str(out), "--isa", isa]
        command += ["--threads", str(arguments.threads), "--rounds", str(arguments.rounds)]
        command += ["--models", *arguments.models, *(["--cpu-time"] if arguments.cpu_time else [])]
        subprocess.run(command, check=True, env=os.environ | LIMITS[isa])
        found: dict[str, Any] = json.loads(out.read_text())
    return found


def measure_here(arguments: argparse.Namespace) -> None:
    """What a child does."""
    from pstmo_edge.benchmarks.provenance import Settings, collect

    if arguments.isa == "avx2":
        import torch._inductor.config as inductor

        inductor.cpp.simdlen = 256
    plan = TimingPlan(rounds=arguments.rounds, slice_s=0.25, settle_s=0.06, warmup_s=0.25)
    results = []
    for text in arguments.models:
        name, _, frames = text.rpartition("-")
        results.append(measure(name, int(frames), arguments, plan))
        print(render(results[-1]), flush=True)
    found = {"models": results, "provenance": collect(Settings(threads=arguments.threads, timing=plan))}
    write_atomic(arguments.child, (json.dumps(found, indent=1) + "\n").encode())


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", choices=[*LIMITS, "both"], default="both", help="what everything is limited to")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--models", nargs="+", default=[f"{name}-{frames}" for name, frames in MODELS])
    parser.add_argument("--cpu-time", action="store_true", help="count the CPU's time; with --threads 1")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        measure_here(arguments)
        return
    known = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for isa in ("auto", "avx2") if arguments.isa == "both" else (arguments.isa,):
        known[isa] = run_child(arguments, isa)
        write_atomic(arguments.out, (json.dumps(known, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
