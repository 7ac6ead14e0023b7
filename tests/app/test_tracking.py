import numpy as np
import pytest

from pstmo_edge.app.tracking import Tracker, TrackerSettings, shares_apart


def body(x=500.0, y=400.0, size=300.0, confidence=0.9):
    """(17, 3): a fixed body of `size` pixels at (x, y)."""
    shape = np.random.default_rng(1).uniform(-0.5, 0.5, (17, 2)) * [0.5, 1.0]
    return np.concatenate([shape * size + [x, y], np.full((17, 1), confidence)], axis=-1)


def walk(tracker, frames, fps=30.0):
    """The persons of each frame of lists of bodies, in the order given (None: not kept)."""
    found = []
    for number, bodies in enumerate(frames):
        tracked = tracker.update(number / fps, np.array(bodies).reshape(-1, 17, 3))
        persons = dict(zip(tracked.kept, tracked.persons, strict=True))
        found.append([persons.get(i) for i in range(len(bodies))])
    return found


def test_two_people_who_cross_keep_their_numbers_whatever_their_order():
    rng = np.random.default_rng(0)
    frames, orders = [], []
    for number in range(60):
        bodies = [body(200 + 12 * number), body(900 - 12 * number, 430)]
        orders.append(list(rng.permutation(2)))
        frames.append([bodies[i] for i in orders[-1]])
    for order, persons in zip(orders, walk(Tracker(), frames), strict=True):
        named = dict(zip(order, persons, strict=True))
        first = named if not named.keys() - {0, 1} else {}
        assert first
    told = [
        dict(zip(order, persons, strict=True)) for order, persons in zip(orders, walk(Tracker(), frames), strict=True)
    ]
    assert all(each == told[0] for each in told)


def test_who_is_away_for_a_moment_comes_back_as_the_same_and_later_as_another():
    for missed, same in ((10, True), (20, False)):  # of 30 a second; the memory is half a second
        frames = [[body(300)]] * 5 + [[]] * missed + [[body(310)]] * 3
        persons = walk(Tracker(), frames)
        assert (persons[-1] == persons[0]) is same


def test_a_teleport_is_another_person_and_the_old_one_leaves():
    tracker = Tracker()
    walk(tracker, [[body(300)]] * 5)
    jumped = tracker.update(5 / 30, body(900)[None])
    assert jumped.persons == (1,)
    gone = [tracker.update(time, body(900)[None]).left for time in (0.4, 0.7, 0.8)]
    assert gone == [(), (0,), ()]


def test_twins_unsure_and_crowds_are_counted_and_not_tracked():
    tracker = Tracker(TrackerSettings(most_people=2))
    twin = body(302, 402, confidence=0.5)
    vague = body(1500)
    vague[3:, 2] = 0.1
    bodies = np.array([twin, body(300), body(700), body(1100), vague])
    tracked = tracker.update(0.0, bodies)
    assert (tracked.twins, tracked.unsure, tracked.crowded) == (1, 1, 1)
    assert tracked.kept == (1, 2)
    tracked = tracker.update(1 / 30, bodies[[3, 2]])  # the third is still one too many
    assert tracked.persons == (1,)
    assert tracked.crowded == 1


def test_a_fast_runner_is_followed_by_its_speed():
    step = 0.3 * 300  # 0.3 heights a frame, more than the gate allows anyone who stood still
    frames = [[body(100 + step * sum(min(k / 6, 1.0) for k in range(number)))] for number in range(20)]
    assert {person for persons in walk(Tracker(), frames) for person in persons} == {0}


def test_missing_joints_do_not_matter_while_enough_are_left():
    rng = np.random.default_rng(2)
    frames = []
    for number in range(30):
        here = body(300 + 5 * number)
        here[rng.random(17) < 0.5, 2] = 0.0
        here[:5, 2] = 0.9
        here[here[:, 2] == 0, :2] = 0  # where detectors put what they did not find
        frames.append([here])
    assert {person for persons in walk(Tracker(), frames) for person in persons} == {0}


def test_no_number_is_given_twice():
    tracker = Tracker()
    seen = [tracker.update(float(t), body(300 if t % 2 else 900)[None]).persons[0] for t in range(20)]
    assert seen == list(range(20))


@pytest.mark.parametrize("shift", [0.0, 30.0, 300.0])
def test_shares_apart(shift):
    extent = np.linalg.norm(np.ptp(body()[:, :2], axis=0))
    assert shares_apart(body(), body(500 + shift), 0.3) == pytest.approx(shift / extent)
    assert shares_apart(body(confidence=0.1), body(), 0.3) == 0
