import numpy as np
import pytest
import torch

from pstmo_edge.errors import DataError
from pstmo_edge.models.zoo import create_model
from pstmo_edge.train.batches import Batch
from pstmo_edge.train.objectives import Finetune, Pretrain, Refinement, draw_masks


def make_batch(frames=9, count=3):
    rng = np.random.default_rng(0)
    return Batch(
        rng.normal(size=(count, frames, 17, 2)).astype(np.float32),
        rng.normal(size=(count, frames, 17, 3)).astype(np.float32),
        np.full(count, 4.0, np.float32),
        np.tile(np.array([2.3, 2.3, 0.1, -0.1], np.float32), (count, 1)),
    )


@pytest.mark.parametrize(("frames", "rate", "joints", "hidden"), [(243, 0.8, 7, 194), (27, 0.6, 2, 16), (9, 0.5, 0, 4)])
def test_masks_hide_as_many_as_published(frames, rate, joints, hidden):
    temporal, spatial = draw_masks(frames, rate, joints, np.random.default_rng(0))
    assert temporal.sum() == hidden == int(frames * rate)
    assert (spatial.sum(1) == joints).all()
    assert not spatial[:, 16].any()  # the published code draws from the first 16 joints
    again = draw_masks(frames, rate, joints, np.random.default_rng(1))[0]
    assert not np.array_equal(temporal, again)


def test_finetuning_adds_the_errors_of_the_target_and_of_all_frames():
    torch.manual_seed(0)
    model = create_model("p-stmo-s", 9, target_index=8).eval()
    objective, batch = Finetune(model), make_batch()
    with torch.no_grad():
        loss = objective(*objective.inputs(batch, np.random.default_rng(0)))
        one, every = model.forward_both(torch.from_numpy(batch.keypoints))
    expected = np.linalg.norm(every.numpy() - batch.poses, axis=-1).mean()
    expected += np.linalg.norm(one.numpy() - batch.poses[:, 8], axis=-1).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_pretraining_compares_visible_frames_first():
    torch.manual_seed(0)
    model = create_model("p-stmo-s-pretrain", 9).eval()
    objective, batch = Pretrain(model, 0.5, 2), make_batch()
    inputs = objective.inputs(batch, np.random.default_rng(0))
    with torch.no_grad():
        loss, rebuilt = objective(*inputs), model(*inputs).numpy()
    hidden = inputs[1].numpy()
    order = np.concatenate([np.flatnonzero(~hidden), np.flatnonzero(hidden)])
    assert float(loss) == pytest.approx(np.linalg.norm(rebuilt - batch.keypoints[:, order], axis=-1).mean(), rel=1e-5)


def test_refinement_rebuilds_the_true_pose_from_true_depths():
    """Exact keypoints and the true relative depths give the true pose back, whatever its x and y were."""
    refine = create_model("refine")
    rng = np.random.default_rng(0)
    pose = rng.normal(0, 0.4, (5, 17, 3)).astype(np.float32)
    pose[:, 0] = 0
    root = np.array([0.3, -0.2, 4.0], np.float32)
    focal, centre = np.array([2.3, 2.2], np.float32), np.array([0.05, -0.02], np.float32)
    points = pose + root
    keypoints = points[..., :2] / points[..., 2:] * focal + centre
    wrong = pose.copy()
    wrong[..., :2] += 0.5
    wrong[:, 0, 2] = 0.7  # what a lifter says of the root's own depth does not matter
    intrinsics = np.tile(np.concatenate([focal, centre]), (5, 1))
    tensors = [torch.from_numpy(a.astype(np.float32)) for a in (keypoints, wrong, np.full(5, 4.0), intrinsics)]
    np.testing.assert_allclose(refine.rebuild(*tensors).numpy(), pose, atol=1e-5)


def test_refinement_without_cameras_is_refused():
    objective = Refinement(create_model("p-stmo-s", 9), create_model("refine"))
    batch = make_batch()
    batch.depth[1] = np.nan
    with pytest.raises(DataError, match="intrinsics"):
        objective.inputs(batch, np.random.default_rng(0))
