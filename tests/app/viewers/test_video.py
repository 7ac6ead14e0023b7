"""The exported video: every pose in its own frame, timestamps kept, readable after a kill."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import av
import numpy as np
import pytest
from app.viewers.conftest import FRAMES, SIZE, poses_at

from pstmo_edge.app.types import Detections, Frame, View
from pstmo_edge.app.viewers import ViewerSettings, looks, open_viewer
from pstmo_edge.app.viewers import video as video_module
from pstmo_edge.app.viewers.aligned import Aligner
from pstmo_edge.app.viewers.canvas import Canvas
from pstmo_edge.errors import UsageError
from pstmo_edge.files import WriteError
from pstmo_edge.skeletons import COCO, HUMAN36M

NOBODY = Detections(np.zeros((0, 17, 3), np.float32), "human36m-17")


def read(path):
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def export(path, views, **settings):
    viewer = open_viewer(str(path), ViewerSettings(**settings))
    for view in views:
        viewer.show(view)
    viewer.close()
    viewer.close()
    return read(path)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_every_frame_is_in_the_video_with_its_time(tmp_path, views, suffix):
    times = np.cumsum(np.random.default_rng(1).uniform(0.01, 0.12, FRAMES))
    found = export(tmp_path / f"out{suffix}", views(timestamps=times))
    assert len(found) == FRAMES
    clock = 1e-3 if suffix == ".mkv" else 1e-4
    np.testing.assert_allclose([time for time, _ in found], times - times[0], atol=clock)
    assert found[0][1].shape == (480 + 24, 640 + 480, 3)


def test_a_pose_stands_in_its_own_frame_whatever_the_lookahead(tmp_path, views):
    live = export(tmp_path / "live.mp4", views(0))
    late = export(tmp_path / "late.mp4", views(6), lookahead=6 / 30)
    assert len(live) == len(late) == FRAMES
    panels = [[frame[60:480, 640:].astype(int) for _, frame in video] for video in (live, late)]
    for index in range(FRAMES - 6):
        assert np.abs(panels[0][index] - panels[1][index]).mean() < 0.6, f"frame {index}"
        assert np.abs(panels[0][index + 6] - panels[1][index]).mean() > 1.2, "the check above can fail"


def test_flags_are_seen(views):
    """Person 2 is degraded from frame 8, stale from 16: the frame around its pose has that colour."""
    made = views(0)
    canvas, aligner = Canvas(SIZE, HUMAN36M, HUMAN36M), Aligner(0)
    for view in made:
        (moment,) = aligner.push(view)
        drawn = canvas.draw(moment)
        index = view.frame.index
        expected = looks.FLAGS["stale"] if index >= 16 else looks.DOUBTFUL
        assert (drawn[1, 640 + 240 + 100] == expected).all()
        assert (drawn[1, 640 + 100] == looks.FLAGS["valid"]).all()


def test_poses_of_a_world_with_z_up_stand_upright_too(views):
    moment = Aligner(0).push(views()[10])[0]
    plain = Canvas(SIZE, HUMAN36M, HUMAN36M).draw(moment)
    world = {
        person: replace(pose, pose=pose.pose[:, [0, 2, 1]] * np.array([1, 1, -1]))
        for person, pose in moment.poses.items()
    }
    lying = Canvas(SIZE, HUMAN36M, HUMAN36M).draw(replace(moment, poses=world))
    standing = Canvas(SIZE, HUMAN36M, HUMAN36M, z_up=True).draw(replace(moment, poses=world))
    np.testing.assert_array_equal(standing, plain)
    assert (lying != plain).any()


def test_frames_that_the_models_clock_left_out_hold_the_last_pose(views):
    made = views(0)
    made[5] = View(made[5].frame, made[5].detections, ())
    made[12:] = [View(view.frame, view.detections, ()) for view in made[12:]]
    aligner = Aligner(0)
    moments = [moment for view in made for moment in aligner.push(view)]
    assert moments[5].poses[1] is made[4].poses[0]
    held = [index for index in range(12, FRAMES) if moments[index].poses]
    assert held == list(range(12, 19)), "a quarter of a second, then they are gone"


def test_the_aligner_forgets_what_it_cannot_hold(joints):
    aligner = Aligner(lookahead=100.0, most=10)
    frames = [Frame(index, index / 30, SIZE) for index in range(50)]
    ready = [moment for frame in frames for moment in aligner.push(View(frame, NOBODY, ()))]
    assert [moment.frame.index for moment in ready] == list(range(40))
    late = View(frames[-1], NOBODY, poses_at(joints, 3, 0.1, 0))
    assert aligner.push(late) == [], "the same frame again is no frame; a pose too late is none's"
    assert len(aligner.flush()) == 10


def test_a_clock_that_is_set_back_does_not_stop_the_video(tmp_path, views):
    times = np.concatenate([np.arange(12) / 30 + 100, np.arange(12) / 30])
    found = [time for time, _ in export(tmp_path / "out.mp4", views(timestamps=times))]
    assert len(found) == FRAMES
    np.testing.assert_allclose(np.diff(found), 1 / 30, atol=1e-4)


@pytest.mark.parametrize("size", [(100, 300), (317, 241)])
def test_portrait_odd_sizes_and_sources_without_pictures(tmp_path, size):
    views = [View(Frame(index, index / 30, size), NOBODY, ()) for index in range(4)]
    found = export(tmp_path / "out.mp4", views, keypoints=COCO)
    assert len(found) == 4
    width, height = found[0][1].shape[1], found[0][1].shape[0]
    assert width % 2 == height % 2 == 0
    assert abs((width - 480) / 480 - size[0] / size[1]) < 0.01


def test_a_killed_export_can_be_played(tmp_path):
    """Two seconds of every fragment at most are lost."""
    path = tmp_path / "out.mp4"
    code = f"""
import numpy as np, time
from pstmo_edge.app.types import Detections, Frame, View
from pstmo_edge.app.viewers import ViewerSettings, open_viewer
viewer = open_viewer({str(path)!r}, ViewerSettings())
nobody = Detections(np.zeros((0, 17, 3), np.float32), "coco-17")
for index in range(150):
    viewer.show(View(Frame(index, index / 30, (64, 48)), nobody, ()))
print("written", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout.readline().strip() == b"written"
        os.kill(child.pid, signal.SIGKILL)
    assert 60 <= len(read(path)) <= 150


def test_a_source_without_frames_leaves_no_file(tmp_path):
    viewer = open_viewer(str(tmp_path / "out.mp4"), ViewerSettings())
    viewer.close()
    assert list(tmp_path.iterdir()) == []


def test_files_are_not_replaced_unasked(tmp_path, views):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"precious")
    with pytest.raises(UsageError, match="exists already: give --force"):
        open_viewer(str(path), ViewerSettings())
    assert len(export(path, views(), force=True)) == FRAMES
    with pytest.raises(UsageError, match="there is no folder"):
        open_viewer(str(tmp_path / "nowhere" / "out.mp4"), ViewerSettings())


def test_a_disk_that_refuses_is_named(tmp_path, views, monkeypatch):
    def refuses(*_, **__):
        raise OSError(28, "No space left on device")

    viewer = open_viewer(str(tmp_path / "out.mp4"), ViewerSettings())
    monkeypatch.setattr(video_module.av, "open", refuses)
    with pytest.raises(WriteError, match=r"out\.mp4 cannot be written: .*No space left"):
        viewer.show(views()[0])


def test_drawing_is_fast_enough(views):
    """A frame with two people takes under a third of a 30 fps frame, on a busy machine too."""
    canvas, moment = Canvas(SIZE, HUMAN36M, HUMAN36M), Aligner(0).push(views()[10])[0]
    canvas.draw(moment)
    took = []
    for _ in range(9):
        begun = time.process_time()
        canvas.draw(moment)
        took.append(time.process_time() - begun)
    assert np.median(took) < 0.011
