"""The wheel: what is in it, with and without a C++ compiler, and that it works where it is installed."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAPPED = {"pstmo_edge": "pstmo_edge", "train": "pstmo_edge/train", "calib": "pstmo_edge/calib"} | {
    "kernels": "pstmo_edge/kernels",
    "benchmarks": "pstmo_edge/benchmarks",
}

REPORT = """
import importlib
for name in ("train", "calib", "kernels", "benchmarks"):
    importlib.import_module("pstmo_edge." + name)
from pstmo_edge.kernels import native
from pstmo_edge.targets import detect_target
print(native.__file__, native.available(), detect_target(), native.why_unavailable(), sep="\\n")
"""

needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="needs CMake")


def build_wheel(folder: Path, **environment: str) -> tuple[Path, str]:
    """Build the wheel of this tree into `folder`; return it and what the build said."""
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    answer = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel, answer.stdout + answer.stderr


def install(wheel: Path, folder: Path) -> list[str]:
    """Unpack the wheel into `folder`, import it there, and return the lines of REPORT."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    # -S hides the editable install of this very environment; its other packages are put back by name.
    paths = os.pathsep.join([str(folder), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    environment = os.environ | {"PYTHONPATH": paths}
    answer = subprocess.run(
        [sys.executable, "-S", "-c", REPORT], env=environment, cwd=folder, check=True, capture_output=True, text=True
    )
    return answer.stdout.splitlines()


def expected_files() -> set[str]:
    """Return every Python and data file of the mapped folders, by its path in the wheel."""
    tracked = subprocess.run(["git", "ls-files", *MAPPED], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode != 0 or not tracked.stdout:
        pytest.skip("needs a git clone")
    names = [name for name in tracked.stdout.splitlines() if (ROOT / name).is_file()]
    paths = [f"{MAPPED[name.partition('/')[0]]}/{name.partition('/')[2]}" for name in names]
    compiled = ("pstmo_edge/kernels/runtime/", "pstmo_edge/kernels/cpu/")
    return {path for path in paths if not path.startswith(compiled) and not path.endswith(".cc")}


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@needs_cmake
def test_a_compiler_that_is_missing_costs_only_the_native_library(tmp_path: Path) -> None:
    wheel, said = build_wheel(tmp_path / "wheel", CXX=str(tmp_path / "no-such-compiler"))
    assert "WITHOUT its native library" in said
    assert wheel.name.endswith("-py3-none-any.whl")
    names = names_in(wheel)
    assert not {name for name in names if name.endswith((".so", ".dylib", ".dll"))}
    assert {f"{package}/__init__.py" for package in MAPPED.values()} <= names

    file, available, target, why = install(wheel, tmp_path / "site")
    assert Path(file).is_relative_to(tmp_path)
    assert available == "False"
    assert target
    assert "C++ compiler" in why


@needs_cmake
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler")
def test_the_wheel_is_complete_and_its_library_loads(tmp_path: Path) -> None:
    wheel, said = build_wheel(tmp_path / "wheel")
    assert "WITHOUT" not in said
    assert "-py3-none-" in wheel.name
    names = names_in(wheel)
    assert not expected_files() - names
    assert not {name for name in names if name.endswith(".cc")}
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"pstmo_edge"}

    _file, available, _target, why = install(wheel, tmp_path / "site")
    assert (available, why) == ("True", "None")
