"""Compiling for GPUs that are not here: the command, what it refuses, and whether the committed table is current."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pstmo_edge.kernels.triton import aot, tuning

TABLE = Path(__file__).parents[3] / aot.TABLE


def test_two_targets_compile_without_a_gpu(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "pstmo_edge.kernels.triton.aot", "--targets", "87", "90", "--precisions", "int8"]
    answer = subprocess.run(
        [*command, "--kernels", "norm_linear", "--out", tmp_path, "--table", tmp_path / "table.json"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr
    found = json.loads((tmp_path / "table.json").read_text())["targets"]
    assert found.keys() == {"sm_87", "sm_90"}
    for target, rows in found.items():
        assert [row["for"] for row in rows["kernels"]] == [["few"], ["many"]]
        for row in rows["kernels"]:
            assert any(name.endswith(" s8") for name in row["matrix"]), "int8 is not multiplied as int8"
            assert 16 < row["registers"] < 256
            cubin = tmp_path / f"{target}-int8-norm_linear-{row['for'][0]}.cubin"
            assert cubin.read_bytes()[:4] == b"\x7fELF"


FITS = {
    "registers": 128,
    "shared_bytes": 50_000,
    "spill_store_bytes": 0,
    "spill_load_bytes": 0,
    "matrix": {"mma.sync s8": 4},
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"spill_store_bytes": 8, "spill_load_bytes": 12}, "spills 20 bytes a thread"),
        ({"shared_bytes": 101_377}, "asks for 101377 bytes of shared memory, sm_86 has 101376"),
        ({"registers": 255}, "16 warps of 255 registers are more than a multiprocessor has"),
        ({"matrix": {}}, "has no matrix instruction: it was compiled to nothing"),
    ],
)
def test_what_does_not_fit_is_a_fault(change, said):
    assert aot.faults(FITS | change, 86, 16) == ([] if said is None else [said])


def test_what_ptxas_says_is_read():
    log = """ptxas info    : Compiling entry function 'k' for 'sm_87'
    24 bytes stack frame, 16 bytes spill stores, 20 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 24 bytes cumulative stack size"""
    found = {"registers": 255, "spill_store_bytes": 16, "spill_load_bytes": 20, "stack_bytes": 24}
    assert aot.read_log(log) == found
    with pytest.raises(RuntimeError, match="nothing of registers"):
        aot.read_log("ptxas fatal")
    ptx = "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {} wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {}"
    assert aot.matrix(ptx) == {"mma.sync s8": 1, "wgmma.mma_async bf16": 1}


def test_the_committed_table_is_of_these_tiles():
    """Every kernel of every target, compiled with the tiles that are used, and none with a fault."""
    found = json.loads(TABLE.read_text())["targets"]
    assert found.keys() == {f"sm_{capability}" for capability in aot.TARGETS}
    for capability in aot.TARGETS:
        rows = found[f"sm_{capability}"]["kernels"]
        assert not [row for row in rows if row["faults"]]
        made = {(row["precision"], row["kernel"], *row["for"]): tuning.Tiles(**row["tiles"]) for row in rows}
        wanted = {
            (variant.precision, variant.name, *regimes): tiles
            for precision in aot.PRECISIONS
            for variant in aot.variants(precision)
            if (choice := tuning.choice(*variant.kind, capability)) and (precision != "fp8" or capability >= 89)
            for tiles, regimes in aot._distinct(choice)
        }
        assert made == wanted, f"sm_{capability}: run python -m pstmo_edge.kernels.triton.aot --table {aot.TABLE}"


def test_rejected_tiles_are_not_used():
    used = {(name, kind, tiles) for (name, kind), choice in tuning.TABLE.items() for tiles in (choice.few, choice.many)}
    assert not used & {(name, kind, tiles) for name, kind, tiles, _ in tuning.REJECTED}


def test_the_page_shows_the_table():
    from pstmo_edge.benchmarks import gpu_tables

    page = gpu_tables.PAGE.read_text()
    made = gpu_tables.filled(page, json.loads(TABLE.read_text()), json.loads(gpu_tables.PRECISION.read_text()))
    assert made == page, "run python -m pstmo_edge.benchmarks.gpu_tables"
    assert "projection, limit" in page
