"""Names and arguments of cuda-python and pycuda, read out of the published packages without importing them.

Usage: `python read_cuda.py FILE ... > cuda.json`, with what `pip download --no-deps` gives: wheels of cuda-bindings,
those of cuda-python before 12.8, which held the bindings, and sdists of pycuda, which has no wheels. The wheels'
extension holds each function's signature at the start of its docstring; pycuda's sources define theirs through
Boost.Python.
"""

import ast
import json
import re
import sys
import tarfile
import zipfile
from pathlib import Path

BUFFERS = Path(__file__).parents[2] / "pstmo_edge/trt/buffers.py"
PYCUDA_CLASSES = ("Device", "Context", "Stream", "DeviceAllocation", "PagelockedHostAllocation")


def adapter(name: str) -> ast.ClassDef:
    """The source of one of the adapters."""
    tree = ast.parse(BUFFERS.read_text())
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)


def used_by_cuda_python() -> tuple[dict[str, int], set[str]]:
    """The functions that `CudaPython` calls with the number of arguments, and the module's other names it reads."""
    functions: dict[str, int] = {}
    names = set()
    for node in ast.walk(adapter("CudaPython")):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "_call":
            if isinstance(node.args[0], ast.Constant):
                functions[node.args[0].value] = len(node.args) - 1
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("self.api."):
            names |= set(ast.unparse(node).split(".")[2:])
        elif isinstance(node, ast.Tuple) and isinstance(node.elts[0], ast.Constant):  # close()'s table
            functions[str(node.elts[0].value)] = 1
    return functions, names


def used_by_pycuda() -> dict[str, set[str]]:
    """The names of `pycuda.driver` and of its objects that `PyCuda` uses, by what they are read of."""
    owners = (
        "self.driver",
        "self._gpu",
        "self._context",
        "self._stream",
        "self.driver.Context",
        "memory",
        "array.base",
    )
    used: dict[str, set[str]] = {}
    for node in ast.walk(adapter("PyCuda")):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in owners:
            used.setdefault(ast.unparse(node.value), set()).add(node.attr)
    return used


def of_wheel(path: Path) -> dict[str, object]:
    with zipfile.ZipFile(path) as wheel:
        name = next(each for each in wheel.namelist() if re.match(r"cuda/bindings/runtime\.cpython.*\.so$", each))
        data = wheel.read(name)
    functions, names = used_by_cuda_python()
    signatures = {}
    for each in functions:
        found = re.search(rb"\0" + each.encode() + rb"\(([^()]*)\)", data)
        if found:
            arguments = [part.split(":")[0].split()[-1] for part in found[1].decode().split(",") if part.strip()]
            signatures[each] = arguments
    there = {each for each in names | {"name", "major", "minor"} if re.search(rb"\b" + each.encode() + rb"\b", data)}
    return {"functions": signatures, "names": sorted(there)}


def of_sdist(path: Path) -> dict[str, object]:
    with tarfile.open(path) as sdist:
        member = next(each for each in sdist.getmembers() if each.name.endswith("src/wrapper/wrap_cudadrv.cpp"))
        source = sdist.extractfile(member).read().decode()
    functions = {}
    for name in used_by_pycuda()["self.driver"]:
        if found := re.search(rf'py::def\("{name}",(.*?);', source, re.S):
            functions[name] = re.findall(r'"(\w+)"', found[1])
    classes = {}
    for block in re.split(r"py::class_<", source)[1:]:
        name = re.search(r'\(\s*"(\w+)"', block)
        if name and name[1] in PYCUDA_CLASSES:
            body = block.split("\n  }\n")[0]
            found = re.findall(r'DEF_SIMPLE_METHOD\((\w+)\)|\.def\("(\w+)"|add_property\("(\w+)"', body)
            classes[name[1]] = sorted({next(filter(None, each)) for each in found})
    classes["module"] = sorted({*classes, *re.findall(r"DECLARE_EXC\((\w+), ", source)} - {"NAME"})
    return {"functions": dict(sorted(functions.items())), "classes": classes}


if __name__ == "__main__":
    facts = {}
    for text in sys.argv[1:]:
        package, version = re.match(r"(\w+)-(.+?)(?:-cp|\.tar)", Path(text).name).groups()
        facts[f"{package} {version}"] = (of_sdist if text.endswith(".tar.gz") else of_wheel)(Path(text))
    print(json.dumps(dict(sorted(facts.items())), indent=1))
