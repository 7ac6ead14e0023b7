import dataclasses

import numpy as np
import pytest

from pstmo_edge.datasets import cmu_mocap, load_sequences
from pstmo_edge.errors import DataError
from pstmo_edge.skeletons import mirrored
from pstmo_edge.train.augmentation import MotionWindows
from pstmo_edge.train.batches import SHARD, Loader, SequenceWindows
from pstmo_edge.train.recipes import Augmentation
from pstmo_edge.windows import WindowSpec, extract_windows

SPEC = WindowSpec(9, 2)


def arrays(batch):
    return [getattr(batch, field.name) for field in dataclasses.fields(batch)]


@pytest.fixture(scope="module")
def views():
    return tuple(sorted(load_sequences(), key=len)[:4])


@pytest.fixture(scope="module")
def motion():
    return MotionWindows(cmu_mocap.takes("train"), SPEC, Augmentation())


def test_every_window_comes_plain_and_mirrored(views):
    windows = SequenceWindows(views, SPEC)
    assert len(windows) == 2 * sum(map(len, views))
    frame = len(views[0]) + 5
    batch = windows.sample(np.array([2 * frame, 2 * frame + 1]), np.random.default_rng(0))
    expected = extract_windows(views[1].keypoints, np.array([5]), SPEC)[0]
    np.testing.assert_array_equal(batch.keypoints[0], expected)
    np.testing.assert_array_equal(batch.keypoints[1], mirrored(expected))
    poses = extract_windows(views[1].poses, np.array([5]), SPEC)[0]
    np.testing.assert_array_equal(batch.poses[1], mirrored(poses))
    assert batch.depth[0] == batch.depth[1] == pytest.approx(views[1].root[5, 2])
    np.testing.assert_allclose(batch.intrinsics[1], views[1].intrinsics * [1, 1, -1, 1], rtol=1e-6)


def test_frames_that_are_not_valid_are_no_targets(views):
    valid = np.zeros(len(views[0]), bool)
    valid[[3, 7]] = True
    windows = SequenceWindows([dataclasses.replace(views[0], valid=valid)], SPEC)
    assert len(windows) == 4
    batch = windows.sample(np.arange(4), np.random.default_rng(0))
    np.testing.assert_array_equal(batch.keypoints[::2, SPEC.target], views[0].keypoints[[3, 7]])


def test_nothing_to_train_on_is_an_error():
    with pytest.raises(DataError, match="no sequences"):
        SequenceWindows([], SPEC)


@pytest.mark.parametrize("world", [2, 4, 5])
def test_the_shares_of_all_processes_make_the_batch_of_one(motion, world):
    size = 5 * 4 * SHARD // 8
    whole = arrays(Loader(motion, size, seed=3).make(1, 2))
    shares = [arrays(Loader(motion, size, 3, rank=rank, world=world).make(1, 2)) for rank in range(world)]
    for number, array in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([share[number] for share in shares]), array)


def test_batches_made_ahead_are_those_made_on_demand(motion):
    plain, ahead = Loader(motion, 8, seed=1), Loader(motion, 8, seed=1, threads=3)
    for step in range(7):
        epoch, within = divmod(step, 3)
        for one, other in zip(
            arrays(plain.batch(epoch, within, 3)), arrays(ahead.batch(epoch, within, 3)), strict=True
        ):
            np.testing.assert_array_equal(one, other)
    ahead.close()


def test_an_epoch_sees_every_window_once_in_an_order_of_its_own(views):
    windows = SequenceWindows(views[:1], SPEC)
    seen = []
    windows.sample = lambda items, rng: seen.extend(items) or SequenceWindows.sample(windows, items, rng)
    loader = Loader(windows, 10, seed=1)
    for within in range(loader.steps):
        loader.make(0, within)
    assert len(set(seen)) == len(seen) == len(windows) // 10 * 10
    first = list(seen)
    seen.clear()
    loader.make(1, 0)
    assert seen != first[:10]
