"""The camera examples run: in Python, behind GStreamer, and in C++ as far as a compiler can tell."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from app import figures

from pstmo_edge.app import detectors
from pstmo_edge.app.types import Detections
from pstmo_edge.datasets import load_sequences
from pstmo_edge.skeletons import HUMAN36M

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SIZE = (160, 120)


@pytest.fixture(scope="module")
def joints():
    take = next(sequence for sequence in load_sequences() if sequence.action == "Walking 1001")
    return figures.joints_of(take)[:40]


class Knowing:
    """A detector that knows where everybody is, and loses them for a while."""

    name, skeleton = "knowing", HUMAN36M.name

    def __init__(self, joints, lost):
        self.keypoints, self.lost = figures.pixels_of(joints, SIZE), lost

    def detect(self, frame):
        assert frame.image.shape == (SIZE[1], SIZE[0], 3)
        people = 0 if frame.index in self.lost else 1
        points = np.concatenate([self.keypoints[frame.index], np.full((17, 1), 0.9)], axis=1)
        return Detections(points[None][:people].astype(np.float32), self.skeleton)


def test_the_python_loop(joints, small_engine, tmp_path, monkeypatch, capsys):
    script = EXAMPLES / "camera.py"
    assert len(script.read_text().splitlines()) <= 30
    video = figures.film(tmp_path / "walk.mp4", joints, SIZE)
    options = {}

    def opened(name, **given):
        options[name] = given
        return Knowing(joints, range(12, 15))

    monkeypatch.setattr(detectors, "open_detector", opened)
    monkeypatch.setattr(sys, "argv", [str(script), str(video), str(small_engine), "rtmlib", "mode=lightweight"])
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert options == {"rtmlib": {"mode": "lightweight"}}
    assert printed.err.startswith("40 frames, ")
    assert len(lines) == int(printed.err.split()[2]) >= 30
    assert any(" valid " in line for line in lines)
    assert any(" stale " in line for line in lines), "nobody was seen, and it says so"
    assert all("right hand [" in line for line in lines)


RECEIVER = """
import sys
from pstmo_edge.app.sources import open_source
source, times = open_source(sys.argv[1]), []
for frame, _ in source:
    times.append(frame.timestamp)
    if len(times) == 20:
        break
source.close()
print(frame.image.shape, 1 if 0.01 < (times[-1] - times[5]) / 14 < 0.1 else times)
"""


@pytest.mark.skipif(
    shutil.which("gst-launch-1.0") is None, reason="no GStreamer here: apt-get install gstreamer1.0-tools"
)
def test_the_gstreamer_pipeline():
    command = [EXAMPLES / "gstreamer.sh", "videotestsrc is-live=true", sys.executable, "-c", RECEIVER, "SOURCE"]
    settings = {"WIDTH": "320", "HEIGHT": "180", "RATE": "30", "PORT": "5127"}
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=60)
    assert done.stdout == "(180, 320, 3) 1\n", done.stderr


def test_the_gstreamer_script_explains_itself():
    done = subprocess.run([EXAMPLES / "gstreamer.sh"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "SOURCE in the command is replaced by the pipeline's address." in done.stderr


def opencv_flags():
    if shutil.which("pkg-config") is None:
        return None
    done = subprocess.run(["pkg-config", "--cflags", "opencv4"], capture_output=True, text=True)
    return done.stdout.split() if done.returncode == 0 else None


@pytest.mark.skipif(opencv_flags() is None, reason="no OpenCV for C++ here (100 MB): apt-get install libopencv-dev")
def test_the_opencv_loop_compiles():
    source = EXAMPLES / "cpp_opencv" / "camera.cc"
    strict = ["-std=c++17", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsyntax-only"]
    includes = [flag.replace("-I", "-isystem") for flag in opencv_flags()]
    subprocess.run(["c++", *strict, *includes, f"-I{ROOT / 'kernels/include'}", source], check=True)
