"""What benchmarks/gpu.py does with the library on a GPU, with the stand-in in a GPU's place; its times are not kept."""

import cuda_standin as standin
import pytest
import torch

from pstmo_edge.benchmarks import gpu_library
from pstmo_edge.benchmarks.gpu import Budget
from pstmo_edge.benchmarks.gpu_networks import Plain, random_network
from pstmo_edge.benchmarks.gpu_timing import Machine
from pstmo_edge.bundle import open_bundle
from pstmo_edge.kernels import native
from pstmo_edge.kernels.triton import tuning

pytestmark = pytest.mark.skipif(not native.available(), reason=f"no native library: {native.why_unavailable()}")


@pytest.fixture
def run(monkeypatch):
    standin.set_up()
    monkeypatch.setattr(tuning, "choice", standin.choice)
    monkeypatch.setattr(gpu_library, "MAX_BATCH", 4)
    run = gpu_library.LibraryRun(Machine(torch.device("cpu")), random_network(9, True), 87)
    write, engine = gpu_library.write_folder, gpu_library.NativeEngine

    def write_texts(folder, network, precision, chip, single):
        write(folder, network, precision, chip, None, standin.compiler)
        assert open_bundle(folder).manifest.input.frames == 9  # the package's own reader takes it too

    monkeypatch.setattr(gpu_library, "write_folder", write_texts)
    monkeypatch.setattr(
        gpu_library, "NativeEngine", lambda folder, **options: engine(folder, **options, driver=standin.path())
    )
    monkeypatch.setattr(gpu_library.shutil, "which", lambda name: None)  # no kernel for one window at 64 channels
    yield run
    run.engines.clear()
    assert (standin.library().standin_live(), standin.library().standin_violation()) == (0, b"")


def checks(run, limit=torch.float16):
    cpu = torch.device("cpu")
    truth, plain = Plain(run.network.fused, torch.float64, cpu), Plain(run.network.fused, limit, cpu)
    return list(run.checks(["fp16"], truth, lambda precision: [plain], (1, 3)))


def test_the_library_is_checked_and_then_timed(run):
    found = checks(run)
    assert [check.what for check in found] == ["libpstmo_edge, fp16"] * 2
    assert all(check.passed for check in found), found
    rows = run.timed(Budget(60))["fp16"]
    assert [row["batch"] for row in rows] == [1, 4]
    assert all(row["windows_per_s"] > 0 for row in rows)


def test_what_fails_its_check_is_not_timed(run):
    assert not any(check.passed for check in checks(run, torch.float64))
    assert run.timed(Budget(60)) == {}


def test_a_gpu_that_cannot_be_opened_is_a_failed_check(run):
    standin.set_up(version=11080)
    (check,) = checks(run)
    assert not check.passed
    assert "BackendError" in check.note
    assert "the CUDA driver is too old" in check.note
