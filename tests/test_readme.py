"""What the README tells a reader to type is typed here, and what it shows in Python is run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands():
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


MAKE = [command for command in commands() if command.startswith("make ")]
TYPED = [command for command in commands() if not command.startswith(("make ", "git ", "pip "))]


def test_ci_calls_the_two_commands_of_the_readme():
    assert MAKE[:2] == ["make demo", "make test"]
    steps = (ROOT / ".ci/run").read_text()
    assert all(command in steps for command in MAKE)


RUN = """
import sys
import numpy as np
import pstmo_edge as pe
engine = pe.load_engine(sys.argv[1])
assert np.isfinite(engine.infer(np.zeros((2, engine.spec.frames, 17, 2), np.float32))).all()
assert "torch" not in sys.modules
"""


@pytest.mark.slow
def test_what_the_readme_installs_on_a_device_runs_an_engine_without_torch(small_engine, tmp_path):
    (command,) = [command for command in commands() if command.startswith("pip ")]
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    words = [*shlex.split(command), "--quiet", "-c", "constraints.txt"]
    subprocess.run([python, "-m", *words], cwd=ROOT, check=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    missing = subprocess.run([python, "-c", "import torch"], env=environment, capture_output=True, check=False)
    assert b"No module named 'torch'" in missing.stderr
    subprocess.run([python, "-c", RUN, small_engine], cwd=tmp_path, env=environment, check=True)
    subprocess.run([tmp_path / "venv/bin/pstmo-edge", "info", small_engine], env=environment, check=True)


def of_the_demo(command):
    """Whether `make demo` types the same, but for --force and the folder it writes to by default."""
    recipe = (ROOT / "Makefile").read_text().split("demo: ")[1].split("\n\n")[0]
    steps = [line.split("pstmo-edge ")[1].removesuffix(" --force") for line in recipe.splitlines() if "--force" in line]
    return command.removeprefix("pstmo-edge ").removesuffix(" --out report") in steps


def test_the_demo_builds_and_measures_what_the_readme_types():
    assert [command.split()[1] for command in TYPED if of_the_demo(command)] == ["build", "bench"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_command_and_python_block_runs(tmp_path):
    """In order, in one empty folder, as a reader would; what the demo has just done (CI says so) is not done twice."""
    assert len(TYPED) >= 6
    demo = os.environ.get("PSTMO_EDGE_DEMO")  # the folder in which it ran
    if demo:
        shutil.copytree(Path(demo) / "engine", tmp_path / "engine")
    program = str(Path(sys.executable).with_name("pstmo-edge"))
    assert shutil.which(program), "the project is not installed beside this Python"
    # One thread: where another process has the other core, two of OpenMP wait for each other longer than they work.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for command in TYPED:
        if demo and of_the_demo(command):
            continue
        words = shlex.split(command)
        assert words[0] == "pstmo-edge", command
        done = subprocess.run(
            [program, *words[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    code = blocks("python")
    assert code
    for block in code:
        done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stderr}"
