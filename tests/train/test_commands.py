"""Training as its users start it: the road from nothing to an engine, and one clear line for every mistake."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from human36m_files import write_dataset
from mpi_inf_3dhp_files import write_published, write_release

from pstmo_edge import cli
from pstmo_edge.datasets import human36m, mat_file
from pstmo_edge.models.checkpoints import load_weights, save_weights

COMMAND = [sys.executable, "-c", "from pstmo_edge.cli import main; main()"]
SHORT = ["--epochs", "1", "--batch", "4", "--threads", "1", "--set", "steps_per_epoch=2"]


def command(folder, *arguments):
    done = subprocess.run([*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture
def fails(monkeypatch, capsys):
    """Runs a command that must fail with one line of standard error; returns that line."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["pstmo-edge", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code in (1, 2)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("pstmo-edge: error: ")
        return line

    return call


def test_the_road_from_nothing_to_an_engine(tmp_path):
    """Each command with no argument but a recipe and a folder: the README's promise to a new user."""
    first = command(tmp_path, "train", "pretrain", "--recipe", "tiny", "--out", "run")
    assert first.stderr.count("held-out") == 2
    second = command(tmp_path, "train", "finetune", "--recipe", "tiny", "--out", "run")
    assert "run/pretrain/weights.safetensors" in second.stderr
    found = json.loads(command(tmp_path, "eval", "--checkpoint", "run", "--json").stdout)
    assert 100 < found["mpjpe_mm"] < 500  # forty steps: better than nothing, worse than anything of use
    # What the demo builds is INT8, which takes a minute more.
    words = ["--checkpoint", "run", "--precision", "fp32", "--out", "engine", "--json"]
    built = json.loads(command(tmp_path, "build", *words).stdout)
    assert built["accuracy"]["after"]["mpjpe_mm"] < 500
    assert (tmp_path / "engine/manifest.json").is_file()


def test_human36m_files_go_through_the_published_recipe(tmp_path):
    write_dataset(tmp_path)
    recipe = ["--recipe", "p-stmo-s-gt", "--data", ".", *SHORT, "--set", "frames=9"]
    command(tmp_path, "train", "finetune", *recipe, "--out", "run")
    command(tmp_path, "train", "refine", *recipe, "--out", "run")
    found = json.loads(
        command(
            tmp_path, "eval", "--checkpoint", "run/finetune", "--refine", "run", "--data", ".", "--flip", "--json"
        ).stdout
    )
    assert set(found["actions"]) == {"Sitting"}


def test_mpi_inf_3dhp_from_its_mat_files_to_its_own_scores(tmp_path):
    """Convert, train, evaluate by activity, write the predictions; then a published checkpoint, in millimetres."""
    write_release(tmp_path / "release")
    command(tmp_path, "data", "convert", "mpi-inf-3dhp", "release", "--out", "data")
    recipe = ["--recipe", "p-stmo-s-3dhp", "--data", "data", *SHORT, "--set", "frames=9"]
    command(tmp_path, "train", "finetune", *recipe, "--out", "run")
    test = ["--data", "data", "--protocol", "3dhp", "--json"]
    ours = json.loads(
        command(tmp_path, "eval", "--checkpoint", "run", "--predictions", "inference_data.mat", *test).stdout
    )
    assert set(ours["sequences"]) == {f"TS{number}" for number in range(1, 7)}
    assert ours["activities"]
    assert (tmp_path / "inference_data.mat").stat().st_size > 1000
    weights, _ = load_weights(tmp_path / "run/finetune/weights.safetensors")
    heads = ("fcn.1.", "fcn_1.1.")
    millimetres = {
        name: array.astype(np.float32) * 1000 if name.startswith(heads) else array for name, array in weights.items()
    }
    save_weights(tmp_path / "published.safetensors", millimetres, {})
    published = ["--checkpoint", "published.safetensors", "--frames", "9", "--trained-on", "mpi-inf-3dhp"]
    theirs = json.loads(command(tmp_path, "eval", *published, *test).stdout)
    assert theirs["mpjpe_mm"] == pytest.approx(ours["mpjpe_mm"], abs=0.01)


def test_bad_human36m_files_are_one_line(tmp_path, fails, monkeypatch):
    recipe = ["train", "finetune", "--recipe", "p-stmo-s-gt", "--out", tmp_path / "run", "--data", tmp_path]
    assert "neither data_3d_h36m.npz" in fails(*recipe)
    write_dataset(tmp_path)
    assert "data_2d_h36m_cpn_ft_h36m_dbb.npz" in fails(*recipe, "--keypoints", "cpn_ft_h36m_dbb")
    write_dataset(tmp_path, extra_frames=-2)
    assert "frames" in fails(*recipe)
    write_dataset(tmp_path)
    path = tmp_path / "data_2d_h36m_gt.npz"
    path.write_bytes(path.read_bytes()[:1000])
    assert f"{path}" in fails(*recipe)
    write_dataset(tmp_path, takes={("S2", "Walking"): 30}, cameras_of="S1")
    monkeypatch.setitem(human36m.SUBJECTS, "train", ("S2",))
    assert "S2 has no published cameras" in fails(*recipe)


def test_a_mat_file_that_kills_its_reader_is_one_line(tmp_path, fails, monkeypatch):
    write_release(tmp_path)
    child = tmp_path / "child.py"
    child.write_text(f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})")
    monkeypatch.setattr(mat_file, "CHILD", child)
    line = fails("data", "convert", "mpi-inf-3dhp", tmp_path, "--out", tmp_path / "data")
    assert "its reader died of SIGSEGV" in line
    assert not list((tmp_path / "data").glob("*"))


def test_a_changed_recipe_and_a_run_in_the_way_are_one_line(tmp_path, fails):
    write_dataset(tmp_path)
    out = tmp_path / "run"
    recipe = ["train", "finetune", "--recipe", "p-stmo-s-gt", "--data", tmp_path, "--set", "frames=9", "--out", out]
    command(tmp_path, *map(str, recipe), *SHORT)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert "go on with --resume" in fails(*recipe, *SHORT)
    assert "lr (0.5, was 0.001)" in fails(*recipe, *SHORT, "--set", "lr=0.5", "--resume")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_one_line(tmp_path, fails):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert str(locked) in fails("train", "finetune", "--recipe", "tiny", "--out", locked / "run")


def test_published_files_of_mpi_inf_3dhp_are_inspected(tmp_path):
    write_published(tmp_path)
    found = json.loads(
        command(tmp_path, "data", "inspect", str(tmp_path), "--skeleton", "mpi-inf-3dhp-17", "--json").stdout
    )
    assert found["test"]["views"] == 6
