import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import pstmo_edge as pe
from pstmo_edge.errors import CheckpointError, PstmoEdgeError, UsageError
from pstmo_edge.models.checkpoints import load_weights
from pstmo_edge.train import checkpoints, stages
from pstmo_edge.train.recipes import get_recipe, overridden

TINY = overridden(
    get_recipe("tiny"), ["pretrain_epochs=1", "refine_epochs=1"], epochs=1, steps_per_epoch=4, batch=4, threads=1
)

KILLS = int(os.environ.get("PSTMO_EDGE_KILLS", "2"))  # 20 of them were run by hand


@pytest.fixture(scope="module")
def held_out(short_sequences):
    """Validation on a few hundred frames instead of seven thousand."""
    patch = pytest.MonkeyPatch()
    patch.setattr(stages, "one_camera_a_take", lambda sequences: short_sequences)
    yield
    patch.undo()


@pytest.mark.parametrize("name", ["poseformer", "anatomy3d", "videopose3d", "strided-transformer", "p-stmo"])
def test_every_architecture_is_trained_by_the_same_recipe(name, held_out, tmp_path):
    recipe = overridden(TINY, model=name)
    stages.train("finetune", recipe, tmp_path)
    trained = pe.load_model(checkpoint=tmp_path)
    assert trained.lifter.name == name
    before = stages.state_arrays(pe.models.zoo.create_model(name, 9))
    after = stages.state_arrays(trained)
    assert {key: value.shape for key, value in before.items()} == {key: value.shape for key, value in after.items()}
    (line,) = (tmp_path / "finetune" / "log.csv").read_text().splitlines()[1:]
    assert 0 < float(line.split(",")[5]) < 3000  # the error on held-out motion, millimetres


@pytest.fixture(scope="module")
def run(held_out, tmp_path_factory):
    """A whole run: its folder, and what each stage told about transferred tensors."""
    out, told = tmp_path_factory.mktemp("runs") / "tiny", {}
    for stage in stages.STAGES:
        hooks = stages.Hooks(transferred=lambda moved, stage=stage: told.setdefault(stage, []).append(moved))
        stages.train(stage, TINY, out, hooks=hooks)
    return out, told


def test_stage_two_takes_the_encoder_of_stage_one(run):
    out, told = run
    assert "pretrain" not in told
    (moved,) = told["finetune"]
    before, _ = load_weights(out / "pretrain/weights.safetensors")
    lifter = pe.create_model("p-stmo-s", 9)
    names = set(lifter.state_dict())
    assert set(moved.transferred) == names & set(before)
    assert set(moved.transferred) | set(moved.fresh) == names
    assert {"encoder.fc_1.weight", "Transformer.pos_embedding"} <= set(moved.transferred)
    assert all(name.startswith(("encoder.", "Transformer.")) for name in moved.transferred)
    assert all(name.startswith(("Transformer_reduce.", "fcn")) for name in moved.fresh)
    assert "mask_token" in moved.left_out
    written = json.loads((out / "finetune/transfer.json").read_text())
    assert tuple(written["fresh"]) == moved.fresh


def test_a_run_leaves_what_a_user_looks_for(run):
    out, _ = run
    for stage in stages.STAGES:
        names = {path.name for path in (out / stage).iterdir()}
        assert {"log.csv", "curve.png", "weights.safetensors", "best-weights.safetensors"} <= names
        assert len(checkpoints.found(out / stage)) == 1
    assert (out / "refine/refine.safetensors").stat().st_size < 400_000


def test_a_run_is_loaded_by_its_folder(run):
    out, _ = run
    model = pe.load_model(checkpoint=out)
    assert (model.lifter.name, model.lifter.frames, model.lifter.weights) == ("p-stmo-s", 9, "weights.safetensors")
    state, notes = load_weights(out / "refine/weights.safetensors")
    assert json.loads(notes["recipe"])["model"] == "p-stmo-s"
    np.testing.assert_array_equal(model.state_dict()["fcn.1.bias"].numpy(), state["fcn.1.bias"].astype(np.float32))
    with pytest.raises(CheckpointError, match="no folder of a finished training run"):
        pe.load_model(checkpoint=out.parent)


def test_refined_poses_are_measured(run, short_sequences):
    from pstmo_edge.backends.torch import TorchSession
    from pstmo_edge.models.refine import refiner

    out, _ = run
    model = pe.load_model(checkpoint=out)
    refine = refiner(pe.load_model("refine", checkpoint=out / "refine/refine.safetensors"))
    plain = pe.evaluate(TorchSession(model).run, short_sequences, model.lifter.window)
    refined = pe.evaluate(TorchSession(model).run, short_sequences, model.lifter.window, refine=refine)
    assert refined.mpjpe_mm < plain.mpjpe_mm  # keypoints and true depth help an untrained lifter


def test_look_ahead_reaches_the_weights_and_the_manifest(held_out, tmp_path, small_prepared):
    recipe = overridden(TINY, lookahead=2)
    model = pe.load_model(checkpoint=stages.train("finetune", recipe, tmp_path / "run"))
    assert model.lifter.window.target == 6
    bundle = pe.build(model, "fp32", out=tmp_path / "engine", held_out=small_prepared.held_out)
    given = bundle.manifest.input
    assert (given.target_index, given.lookahead_frames) == (6, 2)
    assert given.lookahead_ms == 40


def test_coco_keypoints_reach_the_weights_and_the_manifest(held_out, tmp_path, monkeypatch):
    views = tuple(sorted(pe.load_sequences(skeleton="coco-17"), key=len)[:2])
    monkeypatch.setattr(stages, "one_camera_a_take", lambda sequences: views)
    recipe = overridden(TINY, skeleton="coco-17")
    model = pe.load_model(checkpoint=stages.train("finetune", recipe, tmp_path / "run"))
    bundle = pe.build(model, "fp32", out=tmp_path / "engine", held_out=views)
    assert bundle.manifest.input.skeleton == "coco-17"
    assert bundle.manifest.input.joints[0] == "Nose"
    assert bundle.manifest.output.joints[0] == "Hip"
    with pytest.raises(PstmoEdgeError, match="coco-17"):
        pe.build(model, "fp32", out=tmp_path / "other", held_out=pe.load_sequences()[:1])


def test_weights_used_at_another_step_have_another_rate(held_out, tmp_path):
    recipe = overridden(TINY, ["t_downsample=2", "use_t_downsample=1"])
    model = pe.load_model(checkpoint=stages.train("finetune", recipe, tmp_path))
    assert (model.lifter.t_downsample, model.lifter.frame_rate) == (1, 25.0)


def test_other_weights_to_start_from(held_out, run, tmp_path):
    out, _ = run
    told = []
    hooks = stages.Hooks(transferred=told.append)
    stages.train("finetune", TINY, tmp_path / "a", initial=str(out / "finetune"), hooks=hooks)
    assert told[0].fresh == ()
    stages.train("finetune", TINY, out.parent / "b", initial="none", hooks=hooks)
    assert len(told) == 1
    with pytest.raises(CheckpointError, match="nothing that fits"):
        stages.train("finetune", TINY, tmp_path / "c", initial=str(out / "refine/refine.safetensors"))


def test_refinement_without_a_lifter_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--from"):
        stages.train("refine", TINY, tmp_path)


def test_a_folder_in_use_and_missing_data_are_refused(run, tmp_path):
    out, _ = run
    with pytest.raises(UsageError, match="--resume"):
        stages.train("finetune", TINY, out)
    with pytest.raises(UsageError, match="--data"):
        stages.train("finetune", overridden(get_recipe("p-stmo-s")), tmp_path / "x")
    assert not (tmp_path / "x").exists()
    with pytest.raises(PstmoEdgeError, match="did you mean"):
        stages.train("finetune", overridden(TINY, data="cmu-mocab"), tmp_path / "x")


SCRIPT = """
import sys
from pathlib import Path
from pstmo_edge.datasets import load_sequences
from pstmo_edge.train import stages
from pstmo_edge.train.recipes import get_recipe, overridden
stages.one_camera_a_take = lambda sequences: tuple(sorted(sequences, key=len)[:1])
recipe = overridden(get_recipe("tiny"), ["checkpoint_steps=3", "epochs=3", "steps_per_epoch=8"], batch=4, threads=1)
print("ready", flush=True)
stages.train("finetune", recipe, Path(sys.argv[1]), resume=True)
"""


def final_weights(out):
    state, notes = load_weights(out / "finetune/weights.safetensors")
    newest, _ = load_weights(checkpoints.found(out / "finetune")[-1])
    return {**state, **newest}, notes


def train_apart(out):
    """A run in a process of its own, which has just begun its work."""
    child = subprocess.Popen([sys.executable, "-c", SCRIPT, str(out)], stdout=subprocess.PIPE)
    child.stdout.readline()
    child.stdout.close()
    return child


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The weights of a whole run, and how many seconds it took."""
    out = tmp_path_factory.mktemp("whole")
    child, started = train_apart(out), time.monotonic()
    assert child.wait() == 0
    return final_weights(out), time.monotonic() - started


@pytest.mark.parametrize("number", range(KILLS))
def test_a_killed_run_ends_bit_equal(tmp_path, uninterrupted, number):
    """SIGKILL at a random moment, and again at another after it has gone on."""
    (whole, notes), seconds = uninterrupted
    moments = random.Random(number)
    for _ in range(2):
        child = train_apart(tmp_path)
        time.sleep(moments.uniform(0, 0.6 * seconds))
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert train_apart(tmp_path).wait() == 0
    found, notes_too = final_weights(tmp_path)
    assert found.keys() == whole.keys()
    assert all(np.array_equal(found[name], whole[name]) for name in whole)
    assert notes == notes_too


LIMITED = """
import resource, sys
from pathlib import Path
from pstmo_edge.cli import main
# The next file that grows beyond this fails as on a full disk; SIGXFSZ is ignored by Python.
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
sys.argv = ["pstmo-edge", "train", "finetune", "--recipe", "tiny", "--resume", "--out", sys.argv[1],
            "--set", "checkpoint_steps=5", "--set", "steps_per_epoch=10", "--threads", "1"]
main()
"""


def test_a_full_disk_leaves_the_last_checkpoint(held_out, tmp_path):
    recipe = overridden(get_recipe("tiny"), ["checkpoint_steps=5", "steps_per_epoch=10"], threads=1)
    half = stages.Run(recipe, "finetune", tmp_path)
    half.hooks = stages.Hooks(progress=lambda now: os.kill(os.getpid(), signal.SIGTERM) if now.step == 4 else None)
    with pytest.raises(PstmoEdgeError, match="step 5"):
        half.train()
    (before,) = checkpoints.found(tmp_path / "finetune")
    kept = before.read_bytes()
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "limit on file sizes" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert before.read_bytes() == kept
    assert checkpoints.found(tmp_path / "finetune") == [before]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="denied"):
        stages.train("finetune", TINY, tmp_path / "run")
