"""Live streams: losses as announced, truth where it is, and a page that shows what was measured."""

import json
from pathlib import Path

import numpy as np
import pytest

from pstmo_edge.benchmarks import readme, streams, streams_picture, streams_tables
from pstmo_edge.benchmarks.streams_motion import RUN_SECONDS, Losses, cameras, record
from pstmo_edge.datasets import cmu_mocap

ROOT = Path(__file__).parents[2]
TAKE = cmu_mocap.takes("test")[2]


@pytest.mark.parametrize("kind", ["single", "runs"])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_as_many_joints_are_lost_as_announced_and_as_long(share, kind):
    missing = Losses(share, kind).draw((20000, 17), 30.0, np.random.default_rng(0))
    assert missing.mean() == pytest.approx(share, abs=0.01)
    starts = (missing[1:] & ~missing[:-1]).sum()
    frames = RUN_SECONDS * 30 if kind == "runs" else 1 / (1 - share)
    assert missing.sum() / starts == pytest.approx(frames, rel=0.1)


def test_recordings_are_the_motion_at_another_rate_and_always_the_same():
    camera = cameras(TAKE, 2)[0]
    exact = record(TAKE, camera, fps=50.0, detected=False)
    np.testing.assert_allclose(exact.truth(exact.times), exact.body, atol=1e-9)
    np.testing.assert_allclose(exact.truth(np.array([0.01]))[0], exact.body[:2].mean(0), atol=1e-9)
    slow = record(TAKE, camera, losses=Losses(0.3))
    assert len(slow.times) == int((len(TAKE.positions) - 1) / 50 * 30) + 1
    np.testing.assert_array_equal(slow.keypoints, record(TAKE, camera, losses=Losses(0.3)).keypoints)
    np.testing.assert_array_equal(slow.mirrored().mirrored().keypoints[..., 2], slow.keypoints[..., 2])


def test_flagged_shares():
    real = np.arange(100.0)
    found = streams.flagged(np.where(real >= 85, 50.0, 10.0), real, 20.0)
    assert found["worst"] == 1
    assert found["rest"] == pytest.approx(5 / 90)


def test_the_page_shows_what_was_measured():
    path = Path("docs/streams.md")
    page = (ROOT / path).read_text()
    assert readme.page(path, page, ROOT) == page, "run python -m pstmo_edge.benchmarks.readme"


def test_what_was_measured_is_what_is_asked_for():
    results = json.loads((ROOT / streams.RESULTS).read_text())
    for pool in results["doubt"].values():
        for kind in ("plain", "mirrored"):
            assert all(
                pool[kind][part]["worst"] >= 3 * pool[kind][part]["rest"] for part in ("all", "0", "0.1", "0.3", "0.5")
            )
    cost = {
        (row["lookahead"], row["share"], row["kind"]): row["mpjpe_mm"]
        for row in results["losses"]
        if row["weights"] == streams.CENTRED
    }
    for share in (0.1, 0.3, 0.5):
        for kind in ("single", "runs"):
            alone = [cost[wait, share, kind] - cost[wait, 0, "single"] for wait in (0, 13)]
            assert alone[1] < 0.6 * alone[0], "look-ahead takes two fifths off what missing joints cost, or more"
    assert all(row["median_percent"] < 5 for row in results["root"] if row["setting"] == "true intrinsics")
    assert set(streams_tables.BLOCKS) == set(readme.PAGES[Path("docs/streams.md")])


def test_the_picture_is_drawn_from_results():
    pytest.importorskip("matplotlib")
    results = json.loads((ROOT / streams.RESULTS).read_text())
    assert streams_picture.draw(results).startswith(b"\x89PNG")
