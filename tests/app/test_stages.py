import threading

import numpy as np
import pytest

from pstmo_edge.app.stages import BoundedQueue, Latency


def test_a_full_queue_drops_its_oldest_and_counts_it():
    queue = BoundedQueue(3, drops=True)
    for item in range(10):
        queue.put(item)
    queue.close()
    queue.put(10)
    assert list(queue) == [7, 8, 9]
    assert (queue.received, queue.dropped) == (11, 8)


def test_a_queue_that_waits_loses_nothing_and_keeps_the_order():
    queue = BoundedQueue(2, drops=False)

    def give():
        for item in range(500):
            queue.put(item)
        queue.close()

    thread = threading.Thread(target=give)
    thread.start()
    assert list(queue) == list(range(500))
    thread.join()
    assert queue.dropped == 0


def test_closing_frees_a_giver_that_waits_and_a_taker():
    queue = BoundedQueue(1, drops=False)
    queue.put(0)
    giver = threading.Thread(target=queue.put, args=(1,))
    giver.start()
    queue.close()
    giver.join(5)
    assert not giver.is_alive()
    assert list(queue) == [0]
    assert (queue.received, queue.dropped) == (2, 1)


@pytest.mark.parametrize("drops", [True, False])
def test_many_givers_and_one_taker_account_for_everything(drops):
    queue = BoundedQueue(4, drops)
    givers = [threading.Thread(target=lambda: [queue.put(i) for i in range(300)]) for _ in range(4)]
    taken = []
    taker = threading.Thread(target=lambda: taken.extend(queue))
    for thread in (*givers, taker):
        thread.start()
    for thread in givers:
        thread.join()
    queue.close()
    taker.join()
    assert queue.received == 1200 == len(taken) + queue.dropped
    assert drops or queue.dropped == 0


def test_percentiles_are_within_two_per_cent_over_seven_decades():
    rng = np.random.default_rng(0)
    seconds = np.exp(rng.uniform(np.log(2e-6), np.log(20), 20_000))
    latency = Latency()
    for value in seconds:
        latency.add(value)
    for share in (0.01, 0.5, 0.9, 0.99):
        assert latency.percentile(share) == pytest.approx(np.quantile(seconds, share) * 1000, rel=0.03)
    assert latency.summary()["max"] == pytest.approx(seconds.max() * 1000, abs=1e-3)
    assert Latency().percentile(0.99) == 0


def test_a_duration_beyond_the_bins_is_counted_in_the_last():
    latency = Latency()
    for value in (-1.0, 0.0, 1e9):
        latency.add(value)
    assert latency.count == 3
    assert latency.percentile(0.5) == pytest.approx(1e-3, rel=0.03)
