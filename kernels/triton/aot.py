"""Compile every kernel for GPUs that are not here, and say what each takes of its chip.

    python -m pstmo_edge.kernels.triton.aot --out build/gpu

writes one cubin a kernel, precision and target, and `kernels.json`: registers, shared memory, spills. It fails when a
kernel spills a register, asks for more shared memory than its target has, or has no matrix instruction left. The table
is updated target by target, so `--targets 90` measures that one anew.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pstmo_edge.files import write_atomic
from pstmo_edge.kernels.triton import device, tuning
from pstmo_edge.kernels.triton.tuning import Tiles

TABLE = Path("benchmarks/results/gpu_kernels.json")
# Shared memory of one block at most, by compute capability (CUDA C++ programming guide, "compute capabilities").
TARGETS = {
    80: 163 * 1024,  # A100
    86: 99 * 1024,  # RTX 30
    87: 163 * 1024,  # Jetson Orin
    89: 99 * 1024,  # RTX 40, L4
    90: 227 * 1024,  # H100, H200
    100: 227 * 1024,  # B200
    110: 227 * 1024,  # Jetson Thor
    120: 99 * 1024,  # RTX 50
}
_REGISTERS_OF_A_MULTIPROCESSOR = 65536
_FP8_SINCE = 89
CHANNELS, HIDDEN, HEADS, INPUTS, OUTPUTS = 256, 512, 8, 34, 51
# The types of a precision's weights, tokens and residual stream, as triton writes them: see `lifter.stream_type`.
PRECISIONS = {
    "fp32": ("fp32", "fp32", "fp32"),
    "bf16": ("bf16", "bf16", "fp32"),
    "fp16": ("fp16", "fp16", "fp16"),
    "int8": ("i8", "fp16", "fp16"),
    "fp8": ("fp8e4nv", "fp16", "fp16"),
}


@dataclass(frozen=True)
class Variant:
    """One kernel in one precision, with what else is fixed when it is compiled."""

    kernel: str
    name: str
    precision: str
    types: dict[str, str]
    constants: dict[str, Any]

    @property
    def kind(self) -> tuple[str, str]:
        """Where `tuning.TABLE` has its tiles."""
        if self.name == "head":
            return "head", "single"
        return self.name.removesuffix("_packed"), "single" if self.precision == "fp32" else self.precision


def variants(precision: str) -> Iterator[Variant]:
    """All that a P-STMO of 256 channels needs in a precision."""
    weight, token, stream = PRECISIONS[precision]
    quantized = precision in ("int8", "fp8")

    def products(*names: str) -> dict[str, str]:
        return (
            {f"w{n}_ptr": f"*{weight}" for n in names}
            | {f"b{n}_ptr": "*fp32" for n in names}
            | ({f"g{n}_ptr": "*fp32" for n in names} if quantized else {})
        )

    tokens = {"x_ptr": f"*{stream}", "out_ptr": f"*{stream}"}
    network = {"CHANNELS": CHANNELS, "HIDDEN": HIDDEN}
    yield Variant(
        "spatial_encoder", "spatial_encoder", precision,
        {**tokens, **products("2", "3", "4"), "x_ptr": "*fp32", "w1_ptr": "*fp32", "b1_ptr": "*fp32",
         "position_ptr": "*fp32", "rows": "i32", "frames": "i32"},
        {**network, "INPUTS": INPUTS},
    )  # fmt: skip
    yield Variant(
        "norm_linear", "norm_linear", precision,
        {**tokens, **products(""), "norm_ptr": "*fp32", "out_ptr": f"*{token}", "rows": "i32", "eps": "fp32"},
        {"CHANNELS": CHANNELS, "COLUMNS": 3 * CHANNELS, "NORM": True},
    )  # fmt: skip
    if not quantized:
        yield Variant(
            "norm_linear", "head", precision,
            {**tokens, "w_ptr": "*fp32", "b_ptr": "*fp32", "out_ptr": "*fp32", "rows": "i32", "eps": "fp32"},
            {"CHANNELS": CHANNELS, "COLUMNS": OUTPUTS, "NORM": False},
        )  # fmt: skip
        for packed in (False, True):
            yield Variant(
                "attention", "attention_packed" if packed else "attention", precision,
                {"qkv_ptr": f"*{token}", "out_ptr": f"*{token}", "windows": "i32", "tokens": "i32"},
                {"HEADS": HEADS, "WIDTH": CHANNELS // HEADS, "PACKED": packed, "PACK": 2 if packed else 1},
            )  # fmt: skip
    for taps in (1, 3):
        yield Variant(
            "feed_forward", f"feed_forward_{taps}", precision,
            {**tokens, **products("0", "1", "2"), "mixed_ptr": f"*{token}", "norm_ptr": "*fp32",
             "position_ptr": "*fp32", **dict.fromkeys(("rows", "tokens", "kept", "stride"), "i32"), "eps": "fp32"},
            {**network, "TAPS": taps},
        )  # fmt: skip


def compile_variant(variant: Variant, capability: int, tiles: Tiles) -> tuple[Any, dict[str, Any]]:
    """The compiled kernel, and its row of the table."""
    kernel = getattr(device, variant.kernel)
    constants = tuning.constants(variant.kernel, tiles) | variant.constants
    missing = [n for n in kernel.arg_names if n not in variant.types and n not in constants]
    constants |= dict.fromkeys(missing)
    signature = {n: variant.types.get(n, "constexpr") for n in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(kernel.arg_names) if signature[n].startswith("*")}
    log = io.StringIO()
    with contextlib.redirect_stdout(log), triton.knobs.compilation.scope(), triton.knobs.nvidia.scope():
        triton.knobs.compilation.always_compile = True  # a cached kernel has no log
        triton.knobs.nvidia.dump_ptxas_log = True
        compiled = triton.compile(
            ASTSource(kernel, signature, constants, aligned),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": tiles.warps, "num_stages": tiles.stages},
        )
    row = read_log(log.getvalue()) | {"shared_bytes": compiled.metadata.shared, "matrix": matrix(compiled.asm["ptx"])}
    return compiled, row


def matrix(ptx: str) -> dict[str, int]:
    """How many matrix instructions of each kind and type of operands a kernel has."""
    found = re.findall(r"\b(mma\.sync|wgmma\.mma_async|tcgen05\.mma)\b\S*?\.(tf32|f16|bf16|s8|e4m3|kind::\w+)\b", ptx)
    return {" ".join(kind): found.count(kind) for kind in sorted(set(found))}


def parameters(ptx: str) -> list[str]:
    """The types of a kernel's parameters in order, as PTX has them: "u64", "u32", "f32"."""
    entry = re.search(r"\.entry [^(]*\(([^)]*)\)", ptx)
    return [] if entry is None else re.findall(r"\.param \.(\w+)", entry[1])


def least_driver(capability: int) -> int:
    """The oldest CUDA version that loads these kernels, as the driver counts: 12000 is 12.0.

    Within one major version a driver loads what any later compiler of that version made (CUDA compatibility guide,
    "minor version compatibility"); a chip that is younger than that has a driver that knows it.
    """
    nvidia = triton.knobs.nvidia
    version: str = (nvidia.ptxas_blackwell if capability >= 100 else nvidia.ptxas).version
    return int(version.split(".")[0]) * 1000


def read_log(log: str) -> dict[str, int]:
    """What `ptxas -v` says of the one kernel it compiled."""
    patterns = {
        "registers": r"Used (\d+) registers",
        "spill_store_bytes": r"(\d+) bytes spill stores",
        "spill_load_bytes": r"(\d+) bytes spill loads",
        "stack_bytes": r"(\d+) bytes stack frame",
    }
    found = {}
    for name, pattern in patterns.items():
        match = re.search(pattern, log)
        if match is None:
            raise RuntimeError(f"ptxas said nothing of {name}: {log[:200]!r}")
        found[name] = int(match[1])
    return found


def faults(row: dict[str, Any], capability: int, warps: int) -> list[str]:
    """What is wrong with a compiled kernel, in a few words each."""
    found = []
    if spilled := row["spill_store_bytes"] + row["spill_load_bytes"]:
        found.append(f"spills {spilled} bytes a thread")
    if row["shared_bytes"] > TARGETS[capability]:
        found.append(
            f"asks for {row['shared_bytes']} bytes of shared memory, sm_{capability} has {TARGETS[capability]}"
        )
    if row["registers"] * warps * 32 > _REGISTERS_OF_A_MULTIPROCESSOR:
        found.append(f"{warps} warps of {row['registers']} registers are more than a multiprocessor has")
    if not row["matrix"]:
        found.append("has no matrix instruction: it was compiled to nothing")
    return found


def rows_of(capability: int, precisions: list[str], names: list[str], out: Path | None) -> Iterator[dict[str, Any]]:
    """The rows of the table for one target, and its cubins in the folder `out`."""
    for precision in precisions:
        if precision == "fp8" and capability < _FP8_SINCE:
            continue
        for variant in variants(precision):
            choice = tuning.choice(*variant.kind, capability)
            if choice is None or (names and variant.name not in names):
                continue
            for tiles, regimes in _distinct(choice):
                compiled, row = compile_variant(variant, capability, tiles)
                file = f"sm_{capability}-{precision}-{variant.name}-{regimes[0]}.cubin"
                if out is not None:
                    write_atomic(out / file, compiled.asm["cubin"])
                yield {
                    "kernel": variant.name, "precision": precision, "for": regimes, "tiles": asdict(tiles), **row,
                    "entry": compiled.metadata.name, "faults": faults(row, capability, tiles.warps),
                }  # fmt: skip


def _distinct(choice: tuning.Choice) -> list[tuple[Tiles, list[str]]]:
    if choice.few == choice.many:
        return [(choice.few, ["few", "many"])]
    return [(choice.few, ["few"]), (choice.many, ["many"])]


def main() -> None:
    """Compile, print, write; exits with 1 where a kernel does not fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for the cubins; without it they are thrown away")
    parser.add_argument("--table", type=Path, help=f"the JSON to update, {TABLE} in this repository")
    parser.add_argument("--targets", type=int, nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=list(PRECISIONS))
    parser.add_argument("--kernels", nargs="+", default=[], help="some of them, by the names of the table")
    arguments = parser.parse_args()
    if device.INTERPRETED.value:
        parser.error("TRITON_INTERPRET is set, and the interpreter compiles nothing: unset it")
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
    bad = 0
    for capability in arguments.targets:
        rows = []
        for row in rows_of(capability, arguments.precisions, arguments.kernels, arguments.out):
            rows.append(row)
            bad += bool(row["faults"])
            print(_line(capability, row), flush=True)
        if arguments.table is not None:
            _update(arguments.table, capability, rows)
    if bad:
        sys.exit(f"{bad} kernels do not fit their target: change kernels/triton/tuning.py")


def _line(capability: int, row: dict[str, Any]) -> str:
    matrix = ", ".join(f"{count} {name}" for name, count in row["matrix"].items())
    return (
        f"sm_{capability} {row['precision']:5}{row['kernel']:17}{'/'.join(row['for']):9}{row['registers']:4} registers "
        f"{row['shared_bytes']:7} bytes shared  {matrix}  {'; '.join(row['faults']) or 'ok'}"
    )


def _update(path: Path, capability: int, rows: list[dict[str, Any]]) -> None:
    known = json.loads(path.read_text()) if path.exists() else {"targets": {}}
    known["triton"] = triton.__version__
    known["targets"][f"sm_{capability}"] = {"shared_bytes": TARGETS[capability], "kernels": rows}
    write_atomic(path, (json.dumps(known, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
