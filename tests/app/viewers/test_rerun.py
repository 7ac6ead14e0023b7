"""Recordings for rerun, read back with rerun's own tools."""

import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from app.viewers.conftest import FRAMES

pytest.importorskip("rerun", reason="rerun is not installed here: pip install '.[view]'")
from pstmo_edge.app.viewers import ViewerSettings, open_viewer, rerun_window
from pstmo_edge.errors import BackendError, UsageError

DELAY = 6


def record(path, views):
    viewer = open_viewer(str(path), ViewerSettings(lookahead=DELAY / 30))
    for view in views:
        viewer.show(view)
    viewer.close()
    viewer.close()
    viewer.show(views[0])  # after the end: nothing
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory, joints, pictures):
    from app.viewers.conftest import views as make_views

    made = make_views.__wrapped__(joints, pictures)(DELAY)
    made[-1] = replace(made[-1], left=(2,))
    return record(tmp_path_factory.mktemp("rerun") / "out.rrd", made)


@pytest.fixture(scope="module")
def rows(recording):
    """`rows(entity, component)`: (seconds, frame, value) of everything logged there, in the order of time."""
    from rerun.chunk import RrdReader

    batches = [(chunk.entity_path, chunk.to_record_batch()) for chunk in RrdReader(recording).stream().to_chunks()]

    def read(entity, component):
        found = []
        for path, batch in batches:
            columns = [name for name in batch.schema.names if name.endswith(component)]
            if path == entity and columns and "time" in batch.schema.names:
                seconds = [at.value / 1e9 for at in batch["time"]]
                found += zip(seconds, batch["frame"].to_pylist(), batch[columns[0]].to_pylist(), strict=True)
        return sorted((row for row in found if row[2] is not None), key=lambda row: row[:2])

    return read


def test_reruns_own_tool_reads_the_recording(recording):
    rerun_command = [sys.executable, "-m", "rerun", "rrd"]
    subprocess.run([*rerun_command, "verify", str(recording)], check=True, capture_output=True)
    printed = subprocess.run(
        [*rerun_command, "print", str(recording)], check=True, capture_output=True, text=True
    ).stdout
    for entity in (
        "/camera/image", "/camera/image/found", "/camera/image/people/1/bones", "/world/people/1/joints",
        "/world/people/2/bones", "/flag/2", "/doubt_mm/2", "/camera/image/edge",
        "/latency_ms/total", "/events", "/status",
    ):  # fmt: skip
        assert entity in printed, entity


def test_pictures_and_latencies_stand_at_the_frames_time(rows):
    found = rows("/camera/image", "blob")
    assert [frame for _, frame, _ in found] == list(range(FRAMES))
    np.testing.assert_allclose([at for at, _, _ in found], np.arange(FRAMES) / 30, atol=1e-6)
    assert bytes(np.asarray(found[0][2][0], np.uint8))[:2] == b"\xff\xd8", "a JPEG"
    totals = rows("/latency_ms/total", "scalars")
    assert [value[0] for _, _, value in totals] == [14.0 + index for index in range(FRAMES)]


def test_a_pose_stands_at_its_own_time_not_at_that_of_the_newest_frame(rows, joints):
    found = rows("/world/people/1/joints", "positions")
    assert [frame for _, frame, _ in found] == list(range(FRAMES - DELAY))
    np.testing.assert_allclose([at for at, _, _ in found], np.arange(FRAMES - DELAY) / 30, atol=1e-6)
    np.testing.assert_allclose(np.array(found[5][2]), joints[5], atol=1e-5)


def test_flags_doubt_and_events_are_told(rows):
    flags = [value[0] for _, _, value in rows("/flag/2", "scalars")]
    assert flags == [0] * 8 + [1] * 8 + [2] * (FRAMES - DELAY - 16)
    assert {value[0] for _, _, value in rows("/doubt_mm/2", "scalars")} == {40}
    told = [text for _, _, values in rows("/events", "text") for text in values]
    assert "person 2 is degraded, doubtful" in told
    assert "person 2 is stale, doubtful" in told
    assert "person 1 came" in told
    assert "person 2 left" in told
    assert told.count("person 1 is valid") == 1, "changes only"


def test_people_without_a_place_stand_side_by_side_and_give_it_back(tmp_path, views):
    viewer = open_viewer(str(tmp_path / "out.rrd"), ViewerSettings())
    first, second = (replace(pose, root=None) for pose in views()[3].poses)
    third = replace(first, person=9)
    assert [viewer._place(pose)[0] for pose in (first, second, first)] == [0.0, 1.2, 0.0]
    viewer._forget(first.person)
    assert viewer._place(third)[0] == 0.0
    assert viewer._place(views()[3].poses[0])[2] > 1, "a known root is the place"
    viewer.close()


@pytest.fixture
def free_port(monkeypatch):
    with socket.socket() as free:
        free.bind((rerun_window.HOST, 0))
        monkeypatch.setattr(rerun_window, "PORT", free.getsockname()[1])
    return rerun_window.PORT


def test_without_a_display_the_way_out_is_told_at_once(monkeypatch, free_port):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "WAYLAND_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BackendError, match=r"rerun cannot open its window: .* is set; record a file\.rrd"):
        open_viewer("rerun", ViewerSettings())


def test_a_window_that_listens_and_dies_is_no_window(monkeypatch, free_port):
    script = (
        f"import socket, sys; socket.create_server(('127.0.0.1', {free_port})).accept(); sys.exit('Error: no GPU.')"
    )
    monkeypatch.setattr(rerun_window, "_COMMAND", (sys.executable, "-c", script))
    with pytest.raises(OSError, match=r"^no GPU$"):
        rerun_window.open_window()


def test_a_window_that_is_open_is_used_again(monkeypatch, free_port):
    monkeypatch.setattr(rerun_window, "_COMMAND", ("/no/such/program",))
    with socket.create_server((rerun_window.HOST, free_port)):
        assert rerun_window.open_window() == f"rerun+http://127.0.0.1:{free_port}/proxy"
    with pytest.raises(BackendError, match="rerun cannot open its window"):
        open_viewer("rerun", ViewerSettings())


def test_a_recording_that_could_not_be_written_is_one_line(tmp_path, views, monkeypatch):
    viewer = open_viewer(str(tmp_path / "out.rrd"), ViewerSettings())

    def fails(*_, **__):
        raise RuntimeError("File-writer thread shut down prematurely")

    monkeypatch.setattr(type(viewer._recording), "flush", fails)
    with pytest.raises(BackendError, match="rerun did not get everything: file-writer"):
        viewer.close()
    viewer.close()


def test_the_window_listens_on_this_machine_alone():
    assert "--bind=127.0.0.1" in rerun_window._COMMAND


@pytest.mark.parametrize("z_up", [False, True])
def test_the_eye_is_before_the_person_and_the_floor_at_the_feet(tmp_path, views, z_up):
    viewer = open_viewer(str(tmp_path / "out.rrd"), ViewerSettings(z_up=z_up))
    pose = views()[3].poses[0]
    if z_up:
        pose = replace(pose, pose=pose.pose[:, [0, 2, 1]] * [1, 1, -1], root=pose.root[[0, 2, 1]] * [1, 1, -1])
    view = viewer._view_of(pose)
    viewer.close()
    eye, up = (
        np.array(view["eye_controls"].__getattribute__(name).pa_array.to_pylist()[0]) for name in ("position", "eye_up")
    )
    ahead = np.array([0, 1, 0] if z_up else [0, 0, 1])
    assert (pose.root - eye) @ ahead > 2, "from the camera's side"
    assert (eye - pose.root) @ up > 0.5, "from above"
    plane = np.array(view["line_grid"].plane.pa_array.to_pylist()[0])
    feet = (pose.pose + pose.root) @ plane[:3] - plane[3]
    assert abs(feet.min()) < 1e-5
    assert feet[0] > 0.6, "the hip is above the floor"


@pytest.mark.parametrize(
    ("spec", "message"),
    [("reruns", "unknown viewer 'reruns': did you mean 'rerun'"), ("out.avi", "Known: rerun, web, FILE.rrd, FILE.mp4")],
)
def test_unknown_viewers_are_told_the_nearest(spec, message):
    with pytest.raises(UsageError, match=message):
        open_viewer(spec, ViewerSettings())
