"""The script for a Jetson, with a stand-in for the command: which steps it takes, and what it leaves."""

import json
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "examples/jetson_bench.sh"


def run(folder, compiled):
    command = folder / "bin" / "pstmo-edge"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "$1" >> {folder}/steps\necho "{{\\"step\\": \\"$1\\"}}"\n')
    command.chmod(0o755)
    (folder / "engine").mkdir()
    if compiled:
        (folder / "engine/model.plan").write_text("")
    path = f"{command.parent}:/usr/local/bin:/usr/bin:/bin"
    out = folder / "out.json"
    subprocess.run(["sh", str(SCRIPT), str(folder / "engine"), str(out)], env={"PATH": path}, check=True)
    return (folder / "steps").read_text().split(), json.loads(out.read_text())


def test_one_json_holds_every_step(tmp_path):
    steps, found = run(tmp_path, compiled=True)
    assert steps == ["doctor", "info", "eval", "bench"]
    assert {name: found[name]["step"] for name in ("doctor", "manifest", "error", "bench")} == {
        "doctor": "doctor", "manifest": "info", "error": "eval", "bench": "bench",
    }  # fmt: skip
    assert found["power_mode"]


def test_a_portable_bundle_is_compiled_first(tmp_path):
    assert run(tmp_path, compiled=False)[0][:2] == ["doctor", "compile"]
