"""`import pstmo_edge` stays light: quick, and without any heavy or optional package."""

import json
import subprocess
import sys

LIMIT_SECONDS = 0.3
HEAVY = ("torch", "onnxruntime", "openvino", "nncf", "onnx", "tensorrt", "matplotlib", "plotly", "scipy")

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
