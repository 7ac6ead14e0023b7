"""`pstmo-edge run` as it is typed, on keypoints made from the bundled motion."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from native_build import native_bundle

from pstmo_edge.bundle import Accuracy, Errors, open_bundle, write_bundle
from pstmo_edge.manifest import LookaheadError
from pstmo_edge.skeletons import COCO, HUMAN36M

PROGRAM = str(Path(sys.executable).with_name("pstmo-edge"))


@pytest.fixture(scope="module")
def engine():
    return str(native_bundle("tiny"))


def keypoints(path, length=40, people=1, skeleton=HUMAN36M, fps=50.0):
    rng = np.random.default_rng(0)
    shapes = rng.uniform(-80, 80, (people, 17, 2)) + np.linspace(300, 700, people)[:, None, None]
    paths = shapes + rng.normal(0, 1.5, (length, people, 17, 2)).cumsum(0)
    full = np.concatenate([paths, np.full((length, people, 17, 1), 0.9)], axis=-1)
    np.savez(path, keypoints=full, image_size=(1000, 1002), skeleton=skeleton.name, fps=fps)
    return str(path)


def typed(*words, cwd=None):
    done = subprocess.run([PROGRAM, "run", *words], capture_output=True, text=True, check=False, cwd=cwd)
    return done.returncode, done.stdout, done.stderr


def test_keypoints_to_files_of_poses(engine, tmp_path):
    given = keypoints(tmp_path / "k.npz", people=2)
    out = [f"--save={tmp_path / name}" for name in ("p.jsonl", "p.csv", "p.npz", "p.bvh")]
    status, printed, _ = typed(given, "--engine", engine, *out)
    assert status == 0
    assert "40 frames" in printed
    assert "2 people, 80 poses" in printed
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 80
    assert sorted(path.name for path in tmp_path.glob("*.bvh")) == ["p-0.bvh", "p-1.bvh"]


def test_json_tells_exact_counters(engine, tmp_path):
    status, printed, _ = typed(keypoints(tmp_path / "k.npz"), "--engine", engine, "--json", "--lookahead", "0")
    found = json.loads(printed)
    assert status == 0
    assert (found["frames"], found["lifted"], found["poses"], found["failed"]) == (40, 40, 40, 0)
    assert found["flags"]["valid"] == 40
    assert found["latency_ms"]["lift"]["p99"] > 0


def test_of_several_engines_the_one_that_reads_the_joints(engine, tmp_path):
    given = keypoints(tmp_path / "k.npz", skeleton=COCO)
    status, _, told = typed(given, "--engine", engine)
    assert status == 1
    assert "p-stmo-s-27-coco" in told
    assert told.count("\n") == 1


def with_errors(source, path, frames, errors):
    """A copy of a bundle with so many frames of look-ahead and the errors by look-ahead that are given."""
    bundle = open_bundle(source)
    once = Errors(mpjpe_mm=50, p_mpjpe_mm=40, mpjve_mm=4)
    prices = tuple(LookaheadError(frames=frames, mpjpe_mm=error) for frames, error in errors.items())
    changed = {
        "input": bundle.manifest.input.model_copy(update={"lookahead_frames": frames}),
        "accuracy": Accuracy(data="test", keypoints="gt", before=once, after=once, lookahead=prices),
    }
    files = {entry.path: bundle.path / entry.path for entry in bundle.manifest.files}
    write_bundle(path, bundle.manifest.model_copy(update=changed), files)
    return str(path)


def test_the_engine_is_chosen_for_the_lookahead_and_its_price_is_told(engine, tmp_path):
    given = keypoints(tmp_path / "k.npz")
    centred = with_errors(engine, tmp_path / "centred", 4, {0: 55.0, 2: 51.0, 4: 50.0})
    causal = with_errors(engine, tmp_path / "causal", 0, {0: 52.0})
    words = [given, "--engine", centred, "--engine", causal]
    _, _, told = typed(*words, "--lookahead", "0")
    assert "through " + causal in told
    _, _, told = typed(*words, "--lookahead", "2")
    assert "through " + centred in told
    assert "wait 40 ms (--lookahead 2), which costs 1.0 mm against waiting 80 ms" in told
    _, _, told = typed(*words)
    assert "wait 80 ms (--lookahead 4); --lookahead 0 would cost 5.0 mm" in told


def test_the_bundled_motion_needs_no_file(engine):
    status, printed, _ = typed("cmu-mocap", "--engine", engine)
    assert status == 0
    assert "1 people" in printed


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        (["k.npz", "--engine", "ENGINE", "--lookahead", "9"], 2, "0 to 4 frames of look-ahead"),
        (["k.npz", "--engine", "ENGINE", "--detector", "mediapipe"], 2, "leave --detector out"),
        (["k.npz"], 2, "pstmo-edge build"),
        (["k.npz", "--engine", "ENGINE", "--save", "p.txt"], 2, ".npz, .jsonl"),
        (["k.npz", "--engine", "ENGINE", "--image-size", "big"], 2, "WIDTHxHEIGHT"),
        (["k.npz", "--engine", "ENGINE", "--view", "hologram"], 2, "hologram"),
        (["none.npz", "--engine", "ENGINE"], 1, "no such file"),
        (["k.npz", "--engine", "ENGINE", "--intrinsics", "1,2"], 2, "fx,fy,cx,cy"),
        (["k.npz", "--engine", "ENGINE", "--fps", "nan"], 2, "--fps is nan"),
        (["k.npz", "--engine", "ENGINE", "--fps", "0"], 2, "--fps is 0"),
        (["k.npz", "--engine", "ENGINE", "--min-confidence", "7"], 2, "--min-confidence"),
        (["k.npz", "--engine", "ENGINE", "--tilt", "400"], 2, "--tilt"),
        (["k.npz", "--engine", "ENGINE", "--tilt", "9", "--camera-height", "inf"], 2, "--camera-height is inf"),
    ],
)
def test_mistakes_are_one_line(engine, tmp_path, words, status, expected):
    keypoints(tmp_path / "k.npz", length=3)
    words = [engine if word == "ENGINE" else word for word in words]
    found, _, told = typed(*words, cwd=tmp_path)
    assert (found, told.count("\n")) == (status, 1), told
    assert expected in told


def test_a_viewer_that_is_refused_leaves_no_file_begun(engine, tmp_path):
    keypoints(tmp_path / "k.npz", length=3)
    status, _, told = typed("k.npz", "--engine", engine, "--save", "p.jsonl", "--view", "none/a.mp4", cwd=tmp_path)
    assert (status, "there is no folder none" in told) == (2, True)
    assert not (tmp_path / "p.jsonl").exists()


def test_pictures_need_a_detector_and_the_line_names_them(engine, tmp_path):
    pytest.importorskip("av")
    from videos import write_video

    write_video(tmp_path / "a.mp4", [0.0, 0.04])
    status, _, told = typed(str(tmp_path / "a.mp4"), "--engine", engine)
    assert status == 2
    assert "mediapipe" in told
    assert "rtmlib" in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_everything_written(engine, tmp_path, number):
    given = keypoints(tmp_path / "k.npz", length=3000)
    words = [PROGRAM, "run", given, "--engine", engine, "--pace", "--json", "--save", str(tmp_path / "p.jsonl")]
    app = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 20
    while not ((tmp_path / "p.jsonl").exists() and (tmp_path / "p.jsonl").stat().st_size > 5000):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(app.pid, number)
    printed, _ = app.communicate(timeout=20)
    assert app.returncode == 0
    found = json.loads(printed)
    assert 0 < found["lifted"] < 3000
    assert found["frames"] == found["lifted"] + found["dropped_before_lifting"]
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == found["poses"] == found["lifted"]


def test_a_second_signal_ends_what_hangs(engine, tmp_path):
    """A screen that hangs keeps the first one from ending the app."""
    given = keypoints(tmp_path / "k.npz", length=30)
    hanging = """
import time
from pstmo_edge import cli
from pstmo_edge.app import viewers
class Hanging:
    def show(self, view):
        print("hangs", flush=True)
        time.sleep(60)
    def close(self): pass
viewers.open_viewer = lambda *_: Hanging()
cli.main()
"""
    words = [sys.executable, "-c", hanging, "run", given, "--engine", engine, "--view", "web:0"]
    app = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert app.stdout.readline() == "hangs\n"
    app.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        app.wait(1)
    app.send_signal(signal.SIGINT)
    assert app.wait(10) == -signal.SIGINT
    app.stdout.close()


def test_systemd_is_told_that_frames_pass_and_that_it_ends(engine, tmp_path):
    given = keypoints(tmp_path / "k.npz", length=60)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
        words = [PROGRAM, "run", given, "--engine", engine, "--pace"]
        app = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | told)
        lines = [systemd.recv(4096).decode()]
        while lines[-1] != "STOPPING=1":
            lines.append(systemd.recv(4096).decode())
        assert app.wait(10) == 0
    assert lines[0] == "READY=1"
    alive = [line for line in lines if line.startswith("WATCHDOG=1")]
    assert 5 <= len(alive) <= 14  # 1.2 s, every 0.1 s
    assert "look-ahead 80 ms" in alive[-1]
