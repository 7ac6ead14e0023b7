"""The one command for a GPU, tried on a CPU as it will be run there: from a checkout, without other packages."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is for Linux alone")
ROOT = Path(__file__).parents[2]
# What a machine with torch and triton need not have; and no editable install, so that a checkout is all it takes.
PROGRAM = """
import runpy, sys
for name in ("pydantic", "typer", "rich", "onnx", "onnxscript", "onnxruntime", "openvino"):
    sys.modules[name] = None  # an import of it fails
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.argv = ["gpu.py", *sys.argv[1:]]
runpy.run_path("benchmarks/gpu.py", run_name="__main__")
"""


def run(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def test_a_dry_run_walks_the_whole_road(tmp_path):
    answer = run("--dry-run", "--precisions", "int8", "--out", str(tmp_path / "gpu.json"))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["dry_run"] is True
    assert "no time here means anything" in found["device"]["name"]
    checked = {check["what"] for check in found["checks"]}
    assert checked > {"norm_linear", "spatial_encoder", "feed_forward_1", "feed_forward_3"}
    assert any("random weights" in name for name in checked), "the whole network was not checked"
    assert all(check["passed"] and check["error"] <= check["limit"] for check in found["checks"])
    assert found["ours"]["int8"][0]["windows_per_s"] > 0
    assert found["ours"].keys() == found["latency"].keys() == {"int8"}
    assert {"fp32", "bf16", "int8", "copy"} <= found["peaks"].keys()
    # Nothing that a CPU cannot know is claimed.
    assert found["shares"] is found["projections"] is found["millimetres"] is found["power"]["int8"] is None
    assert "bf16: not asked for" in found["not_measured"]
    assert any(text.startswith("libpstmo_edge: a dry run has no driver") for text in found["not_measured"])


def test_a_machine_without_a_gpu_gets_one_line():
    answer = run("--out", "nowhere.json")
    assert answer.returncode == 1
    assert answer.stderr.strip() == "no GPU that torch can use: give --dry-run to try the script, or install a driver"


SANITIZER = """#!{python}
import json, sys
tool, out = sys.argv[sys.argv.index("--tool") + 1], sys.argv[sys.argv.index("--out") + 1]
json.dump({{"device": {{"name": "Test GPU"}}, "commit": "abc", "checks": [1, 2, 3]}}, open(out, "w"))
assert "--checks-only" in sys.argv and "--error-exitcode" in sys.argv
print("noise")
print("========= ERROR SUMMARY: 0 errors" if tool == "memcheck" else "========= RACECHECK SUMMARY: 1 hazard")
sys.exit(tool == "racecheck")
"""


def test_the_sanitizers_verdict_is_written(tmp_path, monkeypatch, capsys):
    from pstmo_edge.benchmarks import gpu

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="no compute-sanitizer here: it comes with the CUDA toolkit"):
        gpu.sanitize(["bf16"], tmp_path / "found.json")
    program = tmp_path / "compute-sanitizer"
    program.write_text(SANITIZER.format(python=sys.executable))
    program.chmod(0o755)
    with pytest.raises(SystemExit, match="compute-sanitizer found errors"):
        gpu.sanitize(["bf16"], tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["commit"], found["checks"], found["precisions"]) == ("abc", 3, ["bf16"])
    assert found["sanitizer"]["memcheck"] == {"passed": True, "said": ["========= ERROR SUMMARY: 0 errors"]}
    assert found["sanitizer"]["racecheck"]["passed"] is False
    assert "racecheck: FAILED: ========= RACECHECK SUMMARY: 1 hazard" in capsys.readouterr().out
    assert gpu.default_path(found, "-sanitizer").name == "gpu-test-gpu-sanitizer.json"


def test_a_kernel_that_raises_fails_its_check_and_the_others_go_on(monkeypatch):
    import torch

    from pstmo_edge.benchmarks.gpu_checks import SMALL, check_ops
    from pstmo_edge.kernels.triton import launch

    def broken(*operands, **rest):
        raise RuntimeError("out of resource: shared memory\nmore")

    for name in ("attention", "norm_linear", "spatial_encoder", "feed_forward"):
        monkeypatch.setattr(launch, name, broken)
    found = list(check_ops(torch.device("cpu"), "bf16", SMALL, 90))
    assert len({check.what for check in found}) == 6
    assert not any(check.passed for check in found)
    assert {check.note for check in found} == {"RuntimeError: out of resource: shared memory"}


def test_a_kernel_that_is_wrong_fails_its_check():
    import torch

    from pstmo_edge.benchmarks.gpu_checks import Operands, _check
    from pstmo_edge.kernels.triton import reference
    from pstmo_edge.kernels.triton.tuning import Tiles

    qkv = Operands(torch.device("cpu")).normal(2, 9, 192)

    def check(spoil):
        def kernel(*operands, out, tiles):
            out.copy_(spoil(reference.attention(*operands)))

        operands, tiles = (qkv, 2), Tiles(16, 16, 4, 2)
        return _check(
            "attention", "fp32", "2x9", "few", kernel, reference.attention, operands, (2, 9, 64), qkv.dtype, tiles
        )

    assert check(lambda out: out).passed
    assert not check(lambda out: out * 1.001).passed
    assert not check(lambda out: out + torch.randn_like(out) * 1e-9).repeatable

    def unwritten(out):
        out[1, 8, 63] = float("nan")
        return out

    assert not check(unwritten).passed
