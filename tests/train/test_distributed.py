"""Processes under torchrun compute what one process does."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent


def gradients(tmp_path, processes, mode):
    out = tmp_path / f"{processes}-{mode}.npz"
    script = [str(HERE / "worker_gradients.py"), str(out), mode]
    launch = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    done = subprocess.run([sys.executable, *launch, *script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(out) as file:
        return dict(file)


@pytest.mark.parametrize("mode", ["shared", "frozen"])
def test_two_processes_have_the_gradients_of_one(tmp_path, mode):
    """BatchNorm's statistics shared, and frozen."""
    one, two = gradients(tmp_path, 1, mode), gradients(tmp_path, 2, mode)
    assert one.keys() == two.keys()
    assert len(one) > 100
    for name, gradient in one.items():
        # Biases before a BatchNorm have no gradient but rounding: an absolute limit serves them.
        assert np.abs(two[name] - gradient).max() <= max(1e-5 * np.abs(gradient).max(), 1e-6), name
    assert max(np.abs(gradient).max() for gradient in one.values()) > 1e-3


def test_two_processes_train_to_the_end_and_one_of_them_reports(tmp_path):
    options = ["--recipe", "tiny", "--epochs", "1", "--threads", "1", "--set", "steps_per_epoch=3"]
    entry = "from pstmo_edge.cli import main; main()"
    script = tmp_path / "entry.py"
    script.write_text(entry)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    command = [*launch, "train", "finetune", *options, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Warning" not in done.stderr
    assert done.stderr.count("held-out") == 1
    assert (tmp_path / "run/finetune/weights.safetensors").is_file()
    assert len((tmp_path / "run/finetune/log.csv").read_text().splitlines()) == 2
