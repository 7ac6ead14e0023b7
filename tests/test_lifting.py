"""Archives of keypoint files: every file once, whatever happens."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from recordings import write_archive, write_recording

import pstmo_edge as pe
from pstmo_edge import lifting
from pstmo_edge.backends import installed_version
from pstmo_edge.datasets import keypoint_file
from pstmo_edge.errors import BackendError, UsageError
from pstmo_edge.evaluation import predict_all
from pstmo_edge.files import WriteError


@pytest.fixture(scope="session")
def engine(small_engine):
    return pe.load_engine(small_engine, threads=1)


def lifted(engine, pattern, out, **options):
    return lifting.lift(engine, lifting.find_jobs(str(pattern), out), out, **options)


def poses(path):
    with np.load(path) as found:
        return found["poses"]


def expected(engine, path):
    return predict_all(engine.infer, [keypoint_file.load(path)], engine.spec)


def test_each_recording_becomes_one_file_with_the_same_path(engine, tmp_path):
    recordings = [write_recording(tmp_path / "in" / name, 5 + n, n) for n, name in enumerate(("a.npz", "b/a.npz"))]
    summary = lifted(engine, tmp_path / "in", tmp_path / "out")
    assert (summary.lifted, summary.skipped, summary.poses, summary.failed) == (2, 0, 11, [])
    for path in recordings:
        target = tmp_path / "out" / path.relative_to(tmp_path / "in")
        np.testing.assert_allclose(poses(target), expected(engine, path), atol=1e-6)
        with np.load(target) as found:
            assert (float(found["fps"]), str(found["skeleton"]), str(found["units"])) == (50, "human36m-17", "metres")


def test_a_second_run_does_nothing_and_a_changed_recording_is_lifted_again(engine, tmp_path):
    first, _ = (write_recording(tmp_path / "in" / name, 5) for name in ("a.npz", "b.npz"))
    lifted(engine, tmp_path / "in", tmp_path / "out")
    known = {path: path.stat().st_ino for path in (tmp_path / "out").glob("*.npz")}
    summary = lifted(engine, tmp_path / "in", tmp_path / "out")
    assert (summary.lifted, summary.skipped) == (0, 2)
    write_recording(first, 7)
    os.utime(first, (time.time() + 1, time.time() + 1))
    summary = lifted(engine, tmp_path / "in", tmp_path / "out")
    assert (summary.lifted, summary.skipped) == (1, 1)
    assert len(poses(tmp_path / "out/a.npz")) == 7
    assert (tmp_path / "out/b.npz").stat().st_ino == known[tmp_path / "out/b.npz"]


def test_many_poses_a_forward(small_model, short_sequences, tmp_path):
    from pstmo_edge.building import build
    from pstmo_edge.preparing import prepare

    model = pe.emitting(small_model, 3)
    build(model, "fp32", out=tmp_path / "engine", prepared=prepare(model, held_out=short_sequences[:1]))
    engine = pe.load_engine(tmp_path / "engine", threads=1)
    path = write_recording(tmp_path / "in" / "a.npz", 20)
    assert lifted(engine, path, tmp_path / "out", batch=3).poses == 20
    np.testing.assert_allclose(poses(tmp_path / "out/a.npz"), expected(engine, path), atol=1e-6)


def test_a_recording_with_twice_the_rate_takes_every_second_frame(engine, tmp_path):
    path = write_recording(tmp_path / "a.npz", 20)
    with np.load(path) as file:
        keypoints = file["keypoints"]
    doubled = np.repeat(keypoints, 2, axis=0)
    write_recording(tmp_path / "b.npz", 40, fps=101.0, keypoints=doubled)  # within 2 % of 100
    lifted(engine, tmp_path / "a.npz", tmp_path / "one")
    lifted(engine, tmp_path / "b.npz", tmp_path / "two")
    np.testing.assert_allclose(poses(tmp_path / "two/b.npz")[::2], poses(tmp_path / "one/a.npz"), atol=1e-6)


@pytest.mark.parametrize("fps", [25.0, 30.0, 59.94, 7.3])
def test_another_rate_is_resampled_there_and_back(engine, tmp_path, fps):
    # A point that moves evenly is the same motion at every rate, so its poses at the same times are alike.
    start, speed = np.random.default_rng(0).uniform(300, 700, (2, 17, 2))
    path = {}
    for rate in (50.0, fps):
        times = np.arange(int(2 * rate) + 1) / rate
        keypoints = start + (speed - 500) * 0.1 * times[:, None, None]
        path[rate] = write_recording(tmp_path / f"{rate}.npz", fps=rate, keypoints=keypoints.astype(np.float32))
        lifted(engine, path[rate], tmp_path / "out")
    slow, fast = poses(tmp_path / f"out/{fps}.npz"), poses(tmp_path / "out/50.0.npz")
    inner = np.arange(int(0.3 * fps), int(1.6 * fps))  # windows that reach over an end repeat it
    at = inner / fps * 50
    between = fast[at.astype(int)] + (at % 1)[:, None, None] * (fast[at.astype(int) + 1] - fast[at.astype(int)])
    np.testing.assert_allclose(slow[inner], between, atol=2e-4)
    assert len(slow) == int(2 * fps) + 1


def test_missing_joints_are_filled_and_told(engine, tmp_path):
    """What a detector puts where it saw nothing does not reach the poses."""
    whole = np.load(write_recording(tmp_path / "whole.npz", 20))["keypoints"]
    missing = np.random.default_rng(0).random((20, 17)) < 0.3
    keypoints = np.concatenate([whole, ~missing[..., None]], axis=2)
    found = []
    for name, garbage in (("corner", 0.0), ("far", 5e5)):
        keypoints[missing, :2] = garbage
        write_recording(tmp_path / "in" / f"{name}.npz", 20, keypoints=keypoints)
    keypoints[..., 2] = 0.2
    write_recording(tmp_path / "in" / "nobody.npz", 20, keypoints=keypoints)
    summary = lifted(engine, tmp_path / "in", tmp_path / "out")
    for name in ("corner", "far"):
        with np.load(tmp_path / "out" / f"{name}.npz") as written:
            found.append(written["poses"])
            np.testing.assert_array_equal(written["missing"], missing)
    np.testing.assert_array_equal(*found)
    assert not np.array_equal(found[0], expected(engine, tmp_path / "whole.npz"))
    assert [("no joint of any frame has a confidence of 0.3" in each.error) for each in summary.failed] == [True]


def test_what_cannot_be_lifted_is_told_and_does_not_stop_the_rest(engine, tmp_path):
    source = tmp_path / "in"
    write_recording(source / "good.npz", 5)
    write_recording(source / "nan.npz", keypoints=np.full((5, 17, 2), np.nan, np.float32))
    write_recording(source / "coco.npz", 5, skeleton="coco-17")
    write_recording(source / "empty.npz", keypoints=np.empty((0, 17, 2), np.float32))
    (source / "text.npz").write_text("no archive")
    write_recording(source / "zz.npz", 6)
    heard = []
    summary = lifted(engine, source, tmp_path / "out", told=heard.append)
    assert (summary.lifted, summary.poses) == (2, 11)
    errors = {Path(each.source).stem: each.error for each in summary.failed}
    for name, word in {"nan": "not a finite", "coco": "coco-17", "empty": "no frames", "text": "no .npz"}.items():
        assert word in errors.pop(name)
    assert errors == {}
    assert len(heard) == 6
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.npz")) == ["good", "zz"]


def test_wrong_uses_are_refused(engine, tmp_path):
    source = write_recording(tmp_path / "in" / "a.npz", 5)
    shutil.copy(source, tmp_path / "in" / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    for pattern, out, words in (
        (tmp_path / "nothing", tmp_path / "out", "no file matches"),
        (tmp_path / "in", tmp_path / "in", "lies in --out"),
        (f"{tmp_path}/in/*", tmp_path / "out", "would both be"),
        (source, tmp_path / "full", "no lift.json"),
    ):
        with pytest.raises(UsageError, match=words):
            lifted(engine, pattern, out)
    lifted(engine, source, tmp_path / "out")
    record = json.loads((tmp_path / "out/lift.json").read_text())
    record["engine"]["files"] = {"model.onnx": "0" * 64}
    (tmp_path / "out/lift.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="another engine"):
        lifted(engine, source, tmp_path / "out")


def test_two_runs_do_not_share_a_folder(engine, tmp_path):
    source = write_recording(tmp_path / "in" / "a.npz", 5)
    with lifting.output_folder(tmp_path / "out", engine.bundle), pytest.raises(UsageError, match="another lift"):
        lifted(engine, source, tmp_path / "out")


def test_what_cannot_be_written_stops_the_run(engine, tmp_path):
    source = write_recording(tmp_path / "in" / "a.npz", 5)
    lifted(engine, write_recording(tmp_path / "in" / "b.npz", 5), tmp_path / "out")
    (tmp_path / "out/a.npz").mkdir()
    with pytest.raises(WriteError, match="it is a folder"):
        lifted(engine, source, tmp_path / "out")


def test_the_command_reports_and_fails_with_what_failed(small_engine, tmp_path):
    write_archive(tmp_path / "in", 3)
    (tmp_path / "in" / "bad.npz").write_text("")
    command = [sys.executable, "-m", "pstmo_edge", "lift", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, "--engine", str(small_engine), "--json"], capture_output=True, text=True)
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["lifted"], found["poses"], len(found["failed"])) == (3, 36, 1)
    assert done.stderr.startswith("pstmo-edge: not lifted: ")


def test_kills_lose_and_repeat_nothing(small_engine, tmp_path):
    script = Path(__file__).with_name("killed_lift.py")
    arguments = [str(small_engine), str(tmp_path), "100", "2", "1", "0.03"]
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["lost"], found["repeated"], found["left_over"]) == (0, 0, 0)
    assert found["last_run"]["lifted"] + found["last_run"]["skipped"] == 100
    assert found["run_again"] == {"lifted": 0, "skipped": 100}
    assert found["done_at_each_kill"][0] > 0  # the kills fell into the work


HAS_RAY = installed_version("ray") is not None


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed: the next test runs it")
def test_without_ray_the_way_out_is_told(small_engine, tmp_path):
    from pstmo_edge import lifting_ray

    jobs = lifting.find_jobs(str(write_recording(tmp_path / "in" / "a.npz", 5)), tmp_path / "out")
    with pytest.raises(BackendError, match=r"pip install 'pstmo-edge\[ray\]'"):
        lifting_ray.lift(small_engine, jobs, tmp_path / "out", "local")


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("127.0.0.1", UsageError, "give HOST:PORT"),
        ("head:port", UsageError, "give HOST:PORT"),
        ("", UsageError, "give HOST:PORT"),
        ("ray://127.0.0.1:10001", UsageError, "start lift there, with auto"),
        ("127.0.0.1:{closed}", BackendError, r"no Ray cluster answers at 127.0.0.1:\d+ \(connection refused\)"),
        ("nowhere.invalid:6379", BackendError, "no Ray cluster answers at nowhere.invalid:6379"),
    ],
)
def test_a_dead_address_of_a_cluster_is_told_at_once(monkeypatch, address, error, message):
    from pstmo_edge import lifting_ray

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        named = address.format(closed=free.getsockname()[1])
    started = time.monotonic()
    with pytest.raises(error, match=message):
        lifting_ray._reach(named)
    monkeypatch.setenv("RAY_ADDRESS", named)  # what "auto" follows
    with pytest.raises(error, match=message):
        lifting_ray._reach("auto")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import time; time.sleep(20)", "something listens there and says nothing"),
        ("raise SystemExit('ray.exceptions.RpcError: wrong token. Note: much more')", r"\(RpcError: wrong token\)"),
        ("raise SystemExit(2)", None),  # a Ray without the command: `ray.init` will see
        ("", None),
    ],
)
def test_who_listens_is_asked_whether_it_is_a_cluster(monkeypatch, script, message):
    from pstmo_edge import lifting_ray

    monkeypatch.setattr(lifting_ray, "_HEALTH", (sys.executable, "-c", script))
    monkeypatch.setattr(lifting_ray, "_PATIENCE", (1.0, 0.5 if message and "nothing" in message else 10.0))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if message is None:
            lifting_ray._reach(address)
        else:
            with pytest.raises(BackendError, match=message):
                lifting_ray._reach(address)


def test_what_stops_a_worker_comes_back_as_a_row(small_engine, tmp_path):
    from pstmo_edge import lifting_ray

    source, target = write_recording(tmp_path / "a.npz", 5), tmp_path / "out.npz"
    rows = {"source": [str(source)], "target": [str(target)]}
    done = lifting_ray._Worker(str(small_engine), 8, 1)(rows)
    assert (done["poses"], done["stops"]) == ([5], [""])
    target.unlink()
    target.mkdir()
    done = lifting_ray._Worker(str(small_engine), 8, 1)(rows)
    assert "it is a folder" in done["stops"][0]
    assert "no bundle" in lifting_ray._Worker(str(tmp_path), 8, 1)(rows)["stops"][0]


@pytest.mark.skipif(not HAS_RAY, reason="Ray is large and no part of `dev`: pip install '.[ray]'")
def test_a_cluster_of_two_lifts_the_same_poses(engine, small_engine, tmp_path):
    from pstmo_edge import lifting_ray

    recordings = write_archive(tmp_path / "in", 150)
    (tmp_path / "in" / "bad.npz").write_text("")
    jobs = lifting.find_jobs(str(tmp_path / "in"), tmp_path / "out")
    lifting.lift(engine, jobs[:70], tmp_path / "out")
    summary = lifting_ray.lift(small_engine, jobs, tmp_path / "out", "local", workers=2)
    assert (summary.lifted, summary.skipped, len(summary.failed)) == (80, 70, 1)
    for path in recordings:
        target = tmp_path / "out" / path.relative_to(tmp_path / "in")
        np.testing.assert_allclose(poses(target), expected(engine, path), atol=1e-5)
    target = tmp_path / "out" / recordings[0].relative_to(tmp_path / "in")
    target.unlink()
    target.mkdir()
    with pytest.raises(BackendError, match=r"a worker cannot go on: .*it is a folder"):
        lifting_ray.lift(small_engine, jobs, tmp_path / "out", "local", workers=2)
