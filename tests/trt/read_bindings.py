"""Names and arguments of TensorRT's Python API, read out of its published binding packages without importing them.

Usage: `python read_bindings.py WHEEL ... > bindings.json`, with wheels of `pip download --no-deps
tensorrt-cu12-bindings==VERSION`. A name is there where the extension holds it as a string; a function's arguments are
those that its docstring (a local symbol of the extension) tells. Needs binutils.
"""

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from pstmo_edge.trt.api import NAMES, REMOVED_IN_11

FUNCTIONS = (
    "add_optimization_profile", "build_serialized_network", "create_network", "create_timing_cache",
    "deserialize_cuda_engine", "execute_async_v3", "get_engine_information", "get_tensor_mode",
    "get_tensor_name", "get_tensor_profile_shape", "set_input_shape", "set_memory_pool_limit", "set_shape",
    "set_tensor_address", "set_timing_cache",
)  # fmt: skip


def tool(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def docstrings(path: Path, data: bytes) -> dict[str, list[str]]:
    """Docstrings by function name: a symbol is a pointer, its relocation's addend the string's address."""
    addends = {
        int(found[1], 16): int(found[2], 16)
        for found in re.finditer(r"^(\w+)\s+\w+\s+R_\w+_RELATIVE\s+(\w+)", tool("readelf", "-rW", str(path)), re.M)
    }
    loads = [
        tuple(int(each, 16) for each in found)
        for found in re.findall(r"LOAD\s+(0x\w+)\s+(0x\w+)\s+0x\w+\s+(0x\w+)", tool("readelf", "-lW", str(path)))
    ]
    docs: dict[str, list[str]] = {}
    for line in tool("nm", str(path)).splitlines():
        found = re.match(r"(\w+) \w _ZN8tensorrt.*?DocL\d+(\w+?)E(?:\.|$)", line)
        address = addends.get(int(found[1], 16)) if found else None
        for offset, start, size in loads if address is not None else ():
            if start <= address < start + size:
                where = offset + address - start
                docs.setdefault(found[2], []).append(data[where : data.index(b"\0", where)].decode())
    return docs


def facts(wheel: Path) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(wheel).extract("tensorrt_bindings/tensorrt.so", folder)
        path = Path(folder) / "tensorrt_bindings/tensorrt.so"
        data = path.read_bytes()
        docs = docstrings(path, data)
    arguments = {
        name: sorted({tuple(re.findall(r":arg (\w+):", text)) for text in docs[name]})
        for name in FUNCTIONS
        if name in docs
    }
    there = {name: name.encode() + b"\0" in data for name in (*NAMES, *REMOVED_IN_11)}
    return {"names": [name for name, found in there.items() if found], "arguments": arguments}


if __name__ == "__main__":
    wheels = {Path(text).name.split("-")[0] + " " + Path(text).name.split("-")[1]: Path(text) for text in sys.argv[1:]}
    print(json.dumps({name: facts(wheel) for name, wheel in sorted(wheels.items())}, indent=1))
