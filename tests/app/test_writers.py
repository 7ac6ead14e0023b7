import csv
import json

import numpy as np
import pytest

from pstmo_edge.app import writers
from pstmo_edge.app.types import PersonPose
from pstmo_edge.app.writers import WriterSettings, open_writer
from pstmo_edge.errors import UsageError
from pstmo_edge.files import WriteError
from pstmo_edge.skeletons import HUMAN36M
from pstmo_edge.streaming import PoseResult


def pose(frame, person=0, bare=False, **flags):
    rng = np.random.default_rng(frame)
    missing = np.arange(17) == 3
    told = {"degraded": False, "stale": False, "gap": False} | flags
    values = rng.normal(size=(17, 3)).astype(np.float32)
    result = PoseResult(values, frame / 30, frame, 520.0, missing=missing, regained=missing, filled_frames=1, **told)
    if bare:
        return PersonPose(person, result, None, values)
    return PersonPose(person, result, np.ones((17, 3)), values, np.arange(17.0), True, np.array([0.1, 0.2, 4.0]))


POSES = [pose(0, degraded=True), pose(1, 3, bare=True, stale=True), pose(2, gap=True)]


def written(path, poses=POSES):
    writer = open_writer(path, WriterSettings(HUMAN36M))
    for each in poses:
        writer.write([each])
    writer.close()
    return writer


def test_lines_hold_every_pose_and_its_flags(tmp_path):
    written(tmp_path / "p.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [(line["frame"], line["person"], line["flag"]) for line in lines] == [
        (0, 0, "degraded"), (1, 3, "stale"), (2, 0, "gap"),
    ]  # fmt: skip
    for line, each in zip(lines, POSES, strict=True):
        assert np.allclose(line["pose"], each.pose, atol=1e-5)
        assert line["missing"] == ["RFoot"]
    assert lines[0]["root"] == [0.1, 0.2, 4.0]
    assert lines[1]["root"] is None
    assert lines[1]["doubt_mm"] is None
    assert lines[2]["doubt_mm"][16] == 16


def test_lines_are_whole_before_the_file_is_closed(tmp_path):
    writer = open_writer(tmp_path / "p.jsonl", WriterSettings())
    writer.write(POSES)
    assert len([json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]) == 3
    writer.close()


def test_csv_has_a_column_for_every_joint_and_axis(tmp_path):
    written(tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    assert float(rows[0]["RKnee_y"]) == pytest.approx(POSES[0].pose[2, 1], abs=1e-5)
    assert rows[1]["root_z"] == rows[1]["Hip_doubt_mm"] == ""
    assert rows[2]["flag"] == "gap"


def test_npz_holds_all_as_plain_arrays(tmp_path):
    written(tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz", allow_pickle=False) as found:
        assert found["pose"].shape == (3, 17, 3)
        assert [str(found["flags"][i]) for i in found["flag"]] == ["degraded", "stale", "gap"]
        assert np.isnan(found["root"][1]).all()
        assert found["missing"][:, 3].all()
        assert str(found["skeleton"]) == "human36m-17"


@pytest.mark.parametrize("suffix", [".npz", ".jsonl", ".csv"])
def test_a_run_without_poses_leaves_a_readable_file(tmp_path, suffix):
    path = tmp_path / f"p{suffix}"
    written(path, [])
    if suffix == ".npz":
        with np.load(path) as found:
            assert found["pose"].shape == (0, 17, 3)
    else:
        assert path.read_text().count("\n") == (suffix == ".csv")


def test_files_that_are_there_or_of_another_kind_are_refused(tmp_path):
    written(tmp_path / "p.csv")
    with pytest.raises(UsageError, match="--force"):
        open_writer(tmp_path / "p.csv", WriterSettings())
    with pytest.raises(UsageError, match=r"\.npz, \.jsonl"):
        open_writer(tmp_path / "p.txt", WriterSettings())
    with pytest.raises(UsageError, match="no folder"):
        open_writer(tmp_path / "a/p.csv", WriterSettings())


def test_what_does_not_fit_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "MOST_POSES", 2)
    assert written(tmp_path / "p.npz").lost == 1
    with np.load(tmp_path / "p.npz") as found:
        assert len(found["pose"]) == 2


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_full_disk_is_a_line_that_names_the_file(tmp_path, suffix):
    path = tmp_path / f"p{suffix}"
    path.symlink_to("/dev/full")
    writer = writers.open_writer(path, WriterSettings(HUMAN36M, force=True))
    for attempt in (lambda: writer.write(POSES), writer.close):
        with pytest.raises(WriteError, match=rf"cannot write .*p\{suffix}: no space left"):
            attempt()
    writer.close()
