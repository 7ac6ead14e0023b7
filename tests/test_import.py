"""`import pstmo_edge` stays light: quick, and without any heavy or optional package."""

import json
import subprocess
import sys

LIMIT_SECONDS = 0.3
HEAVY = ("torch", "triton", "onnxruntime", "openvino", "onnx", "tensorrt", "matplotlib", "plotly", "scipy")

PROGRAM = """
import json, sys, time
start = time.perf_counter()
import pstmo_edge
print(json.dumps([time.perf_counter() - start, sorted(sys.modules)]))
"""


def import_once() -> tuple[float, list[str]]:
    """Return the seconds the import took inside a fresh interpreter, NumPy included, and all loaded modules."""
    answer = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    seconds, modules = json.loads(answer.stdout)
    return seconds, modules


def test_import_is_quick() -> None:
    # The best of several: the first one compiles, and another process may hold the cores for a moment.
    times = [import_once()[0] for _ in range(7)]
    assert min(times) < LIMIT_SECONDS, f"best of {sorted(times)} s"


def test_import_loads_nothing_heavy() -> None:
    loaded = {name.partition(".")[0] for name in import_once()[1]}
    assert loaded.isdisjoint(HEAVY), loaded.intersection(HEAVY)


def test_public_names_survive_the_import_of_every_module() -> None:
    """A module that has the name of a function would take its place as soon as anything imports it."""
    program = """
import importlib, pkgutil, pstmo_edge
for found in pkgutil.iter_modules(pstmo_edge.__path__):
    if found.name not in ("__main__",):
        importlib.import_module(f"pstmo_edge.{found.name}")
for name in pstmo_edge.__all__:
    value = getattr(pstmo_edge, name)
    assert callable(value) or isinstance(value, str), name
"""
    subprocess.run([sys.executable, "-c", program], check=True)
