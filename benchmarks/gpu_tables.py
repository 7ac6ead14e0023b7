"""The tables of docs/gpu.md, made from the results: `python -m pstmo_edge.benchmarks.gpu_tables` writes them there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pstmo_edge.files import write_atomic
from pstmo_edge.kernels.triton import cost

_ROOT = Path(__file__).resolve().parents[1]
KERNELS = _ROOT / "benchmarks" / "results" / "gpu_kernels.json"
PRECISION = _ROOT / "benchmarks" / "results" / "gpu_precision.json"
PAGE = _ROOT / "docs" / "gpu.md"
LIMITS_MM = {"bf16": 0.05, "fp16": 0.05, "int8": 0.2, "fp8": 0.2}
_SHOWN = ("sm_86", "sm_87", "sm_90", "sm_110")


def kernel_table(found: dict[str, Any]) -> str:
    """Registers a thread, kilobytes of shared memory and matrix instructions of the kernels for many tokens."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for target in _SHOWN:
        for row in found["targets"][target]["kernels"]:
            if "many" in row["for"] and row["precision"] in ("bf16", "fp16", "int8", "fp8"):
                units = ", ".join(sorted({name.replace("kind::", "") for name in row["matrix"]}))
                text = f"{row['registers']}, {row['shared_bytes'] / 1024:.0f} kB, {units}"
                rows.setdefault((row["precision"], row["kernel"]), {})[target] = text
    lines = [f"| precision | kernel | {' | '.join(_SHOWN)} |", f"|---|---|{'---|' * len(_SHOWN)}"]
    for (precision, kernel), cells in rows.items():
        lines.append(f"| {precision} | `{kernel}` | {' | '.join(cells.get(target, '-') for target in _SHOWN)} |")
    single = [found["single_window"][target] for target in _SHOWN]
    taken = " | ".join(f"{row['registers']}, 0 kB, mma.sync f16" for row in single)
    lines.append(f"| fp16 | `single_window` (CUDA) | {taken} |")
    compiler = max(row["driver"] for row in single) // 1000
    return "\n".join([*lines, "", f"Triton {found['triton']}; nvcc {compiler}."])


def whole_table(found: dict[str, Any]) -> str:
    """What each network costs, by the types of its tokens and of its residual stream."""
    lines = [
        "| products | residual stream | poses move by, mm | MPJPE, mm | limit of MPJPE |",
        "|---|---|---:|---:|---:|",
    ]
    for row in found["whole"]:
        limit = LIMITS_MM[row["network"].partition(",")[0]]
        verdict = f"{limit}" if row["change_mm"] <= limit else f"{limit}, **missed**"
        lines.append(
            f"| {row['network']} | {row['stream']} | {row['moved_mm']:.2f} | {row['change_mm']:+.3f} | {verdict} |"
        )
    cells: dict[str, list[str]] = {}
    for row in found["others"]:
        cells.setdefault(row["weights"], []).append(f"{row['moved_mm']:.2f} / {row['change_mm']:+.3f}")
    kinds = dict.fromkeys(f"{row['network']}, stream {row['stream']}" for row in found["others"])
    lines += ["", f"| other weights, moved / MPJPE, mm | {' | '.join(kinds)} |", f"|---|{'---:|' * len(kinds)}"]
    return "\n".join([*lines, *(f"| `{weights}` | {' | '.join(texts)} |" for weights, texts in cells.items())])


def places_table(found: dict[str, Any]) -> str:
    """What bf16 costs in one place alone, and the residual stream layer by layer."""
    kept = [row for row in found["places"] if not row["rounded"].startswith("residual stream into")]
    lines = ["| in bf16 alone | poses move by, mm | MPJPE, mm |", "|---|---:|---:|"]
    lines += [f"| {row['rounded']} | {row['moved_mm']:.2f} | {row['change_mm']:+.3f} |" for row in kept]
    layers = [row for row in found["places"] if row["rounded"].startswith("residual stream into")]
    lines += [
        "",
        "| residual stream | values, rms | across their mean's direction | bf16's error | poses move by, mm |",
    ]
    lines += ["|---|---:|---:|---:|---:|"]
    for row, stream in zip(layers, found["streams"], strict=True):
        where = row["rounded"].removeprefix("residual stream ")
        sizes = f"{stream['rms']:.1f} | {stream['across_rms']:.1f} | {stream['bf16_error_rms']:.3f}"
        lines.append(f"| {where} | {sizes} | {row['moved_mm']:.2f} |")
    return "\n".join(lines)


def projection_table() -> str:
    """What the published peaks allow, by chip and precision: limits, and said to be so."""
    lines = [
        "| chip | fp16, batch 1 | fp16, batch 64 | 8-bit, batch 1 | 8-bit, batch 64 |",
        "|---|---:|---:|---:|---:|",
    ]
    for chip in cost.CHIPS:
        byte = "int8" if chip.peaks["int8"] else "fp8"
        cells = [cost.project(chip, 243, 3, precision, batch) for precision in ("fp16", byte) for batch in (1, 64)]
        texts = " | ".join("-" if cell is None else f"{cell.windows_per_s:,.0f}" for cell in cells)
        lines.append(f"| {chip.name} ({byte}) | {texts} |")
    return "\n".join(lines)


def filled(page: str, kernels: dict[str, Any], precision: dict[str, Any]) -> str:
    """The page with its tables as they are now."""
    tables = {
        "precision": whole_table(precision), "places": places_table(precision), "kernels": kernel_table(kernels),
        "projections": projection_table(),
    }  # fmt: skip
    for name, table in tables.items():
        start, end = f"<!-- {name}: made by benchmarks/gpu_tables.py -->", f"<!-- end of {name} -->"
        if page.count(start) != 1 or page.count(end) != 1:
            raise ValueError(f"the page has no single place for the table of {name}")
        before, _, rest = page.partition(start)
        page = f"{before}{start}\n\n{table}\n\n{end}{rest.partition(end)[2]}"
    return page


def main() -> None:
    """Write the page anew."""
    kernels, precision = (json.loads(path.read_text()) for path in (KERNELS, PRECISION))
    write_atomic(PAGE, filled(PAGE.read_text(), kernels, precision).encode())


if __name__ == "__main__":
    main()
