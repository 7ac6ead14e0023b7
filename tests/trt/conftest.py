"""A machine with TensorRT, and bundles for it: everything here is a stand-in; see standin.py."""

import shutil
import sys
from pathlib import Path

import pytest

import pstmo_edge as pe
from pstmo_edge import backends
from pstmo_edge.preparing import prepare_unmeasured
from pstmo_edge.trt import api, buffers, plans

sys.path.insert(0, str(Path(__file__).parent))
import standin


@pytest.fixture(scope="session")
def portable(small_model, small_prepared, tmp_path_factory):
    """Bundles for TensorRT, by precision: `portable / "int8"` is built when it is first asked for."""
    folder = tmp_path_factory.mktemp("tensorrt")

    class Portable:
        def __truediv__(self, precision):
            out = folder / precision
            if not out.exists():
                # What another precision than fp32 costs is measured elsewhere, and takes half a minute.
                prepared = small_prepared if precision == "fp32" else prepare_unmeasured(small_model)
                pe.build(small_model, precision, "tensorrt", out=out, prepared=prepared)
            return out

    return Portable()


@pytest.fixture
def device(monkeypatch, tmp_path):
    """A machine with TensorRT and CUDA; call it with another version, driver or fault."""
    monkeypatch.setenv(plans.KEY_VARIABLE, str(tmp_path / "plan.key"))
    monkeypatch.setenv("PSTMO_EDGE_CACHE", str(tmp_path / "cache"))

    def make(version="10.3.0", cuda="cuda-python", **faults):
        memory = standin.FakeMemory()
        trt = standin.tensorrt(version, memory, **faults)
        found = {"tensorrt": trt}
        found |= {"cuda.bindings.runtime": standin.cuda_bindings(memory)} if cuda == "cuda-python" else {}
        found |= {"pycuda.driver": standin.pycuda_driver(memory)} if cuda == "pycuda" else {}

        def load(name):
            if name in found:
                return found[name]
            raise ModuleNotFoundError(f"No module named '{name}'")

        monkeypatch.setattr(api, "import_module", load)
        monkeypatch.setattr(buffers, "import_module", load)
        known = backends.installed_version
        monkeypatch.setattr(
            "pstmo_edge.backends.installed_version", lambda name: version if name == "tensorrt" else known(name)
        )
        monkeypatch.setattr(
            "pstmo_edge.engine.installed_version", lambda name: version if name == "tensorrt" else known(name)
        )
        return memory, trt

    return make


@pytest.fixture
def bundle(portable, tmp_path):
    """A copy of a portable bundle."""

    def copy(precision="fp32", name="engine"):
        return Path(shutil.copytree(portable / precision, tmp_path / name))

    return copy
