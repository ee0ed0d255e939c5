"""Many processes share one account, in simulated time."""

from collections.abc import Callable

import pytest

from langchain_batch_embed.shared.terms import PATIENCE

from .fleet import EPOCH, Fleet, Worker
from .model import Ledger

PER_SECOND = 10_000_000 / 60
TEXT = 500  # tokens


def texts(seconds: float, workers: int = 8) -> int:
    """Return the texts of one worker for this many seconds of the whole quota, after the bucket."""
    return int(PER_SECOND * (seconds + 1) / workers / TEXT)


def start(fleet: Fleet, seconds: float, workers: int = 8) -> list[Worker]:
    """Start the workers at the same time."""
    return [fleet.add(texts(seconds, workers), tokens=TEXT) for _ in range(workers)]


def everything_is_done(fleet: Fleet) -> bool:
    """Return whether each living worker has all its vectors."""
    return all(
        len(worker.queue.work.rows) == worker.done for worker in fleet.workers if worker.is_alive
    )


def lowest(fleet: Fleet, begin: float, end: float) -> float:
    """Return the smallest share of the quota that was used in any two seconds of a period."""
    return min(
        fleet.used(at / 10, at / 10 + 2) for at in range(int(10 * begin), int(10 * end) - 20)
    )


@pytest.mark.parametrize("bucket_seconds", [1.0, 60.0])
def test_eight_processes_use_one_quota_to_the_full(bucket_seconds: float) -> None:
    """Eight processes finish within 1.05 of the ideal time, with at most 2 % refused."""
    fleet = Fleet(bucket_seconds=bucket_seconds)
    for _ in range(8):
        fleet.add(int(PER_SECOND * (20 + bucket_seconds) / 8 / TEXT), tokens=TEXT)
    assert fleet.run() <= 1.05 * 20
    assert len(fleet.refused) <= 0.02 * fleet.requests
    assert everything_is_done(fleet)


def test_without_a_shared_quota_they_refuse_one_another() -> None:
    """Without a shared quota the same processes are slow and refused often.

    So the simulation can show the difference.
    """
    fleet = Fleet(shares=False)
    start(fleet, 20)
    assert fleet.run() > 1.2 * 20
    assert len(fleet.refused) > 0.3 * fleet.requests


def test_one_that_joins_late_gets_its_share_at_once() -> None:
    """A process that joins late gets its share at once, and 95 % of the quota stays in use."""
    fleet = Fleet()
    start(fleet, 20)
    joined: list[Worker] = []
    fleet.at(8.0, lambda: joined.append(fleet.add(100, tokens=TEXT)))
    fleet.run()
    assert everything_is_done(fleet)
    # With a tenth of the quota, 50,000 tokens take 3 s.
    assert joined[0].ended_at < 8 + 4
    assert lowest(fleet, 1, 19) >= 0.95
    assert len(fleet.refused) <= 0.02 * fleet.requests


def test_the_others_use_what_a_killed_one_leaves() -> None:
    """Two seconds after a process is killed, the others use 95 % of the quota again."""
    fleet = Fleet()
    workers = start(fleet, 20)
    fleet.at(8.0, lambda: fleet.kill(workers[3]))
    fleet.run()
    assert everything_is_done(fleet)
    assert workers[3].done < len(workers[3].queue.work.rows)
    assert lowest(fleet, 8, 17) >= 0.95
    assert workers[0].lease is not None
    assert workers[0].lease.workers <= 7
    assert len(fleet.refused) <= 0.02 * fleet.requests


def is_lost(fleet: Fleet) -> None:
    """Replace the ledger by an empty one."""
    fleet.ledger = Ledger(epoch=EPOCH + fleet.now)


@pytest.mark.parametrize("act", [lambda _: None, is_lost], ids=["stopped", "lost"])
def test_a_ledger_that_is_away_for_ten_seconds(act: Callable[[Fleet], None]) -> None:
    """While the ledger is away each process uses its part, at most 110 % of the quota together."""
    fleet = Fleet(ledger_is_down=lambda now: 8 <= now < 18)
    start(fleet, 30)
    fleet.at(18.0, lambda: act(fleet))
    end = fleet.run()
    assert everything_is_done(fleet)
    for begin in range(1, 21):
        assert fleet.used(begin, begin + 10) <= 1.10
    assert fleet.used(11, 18) >= 0.9
    assert lowest(fleet, 20, 30) >= 0.93
    assert end <= 30 * 1.15
    assert len(fleet.refused) <= 0.02 * fleet.requests


def test_a_ledger_that_never_answers_does_not_stop_anybody() -> None:
    """A ledger that never answers stops nobody for longer than `PATIENCE`.

    Each process then follows the answers' headers.
    """
    fleet = Fleet(ledger_is_down=lambda _: True, bucket_seconds=60)
    start(fleet, 5)
    assert fleet.run() < PATIENCE + 1
    assert everything_is_done(fleet)
    assert len(fleet.refused) <= 0.02 * fleet.requests


def test_large_requests_among_small_ones_are_not_starved() -> None:
    """A process with requests of 100,000 tokens waits in line like those with 2,500."""
    fleet = Fleet()
    large = fleet.add(20, tokens=50_000, max_items=1)
    for _ in range(7):
        fleet.add(5_000, tokens=TEXT, max_items=5)
    fleet.run(until=40)
    assert large.done == 20
    # There are 20 places of 50,000, each with 7 leases of 5,200 before it.
    assert large.ended_at < 1.2 * (20 * (50_000 + 7 * 5_200) / PER_SECOND)
    assert len(fleet.refused) <= 0.02 * fleet.requests


def test_a_quota_of_requests_is_shared_too() -> None:
    """A quota of requests is shared along with the tokens, in the same exchange."""
    fleet = Fleet(requests_per_minute=1200, latency=lambda draw: 0.05 + 0.05 * draw.random())
    for _ in range(4):
        fleet.add(2000, tokens=10, max_items=20)
    end = fleet.run()
    assert everything_is_done(fleet)
    assert end <= 1.1 * (fleet.requests / 20 - 1) + 1
    assert len(fleet.refused) <= 0.02 * fleet.requests


def test_a_text_above_the_whole_quota_is_an_error_and_no_wait_for_ever() -> None:
    """A text larger than the quota fails in the end, and all other texts get their vectors."""
    fleet = Fleet(tokens_per_minute=60_000, bucket_seconds=1.0)
    sizes = [100] * 9 + [2000] + [100] * 9
    worker = fleet.add(19, tokens=sizes, max_items=1)  # type: ignore[arg-type]
    other = fleet.add(19, tokens=100)
    fleet.run()
    assert (worker.done, other.done) == (18, 19)
    assert not worker.queue.open


def test_nobody_polls() -> None:
    """While all wait in line, exchanges are few: at most one a request and one a second."""
    fleet = Fleet()
    start(fleet, 20)
    end = fleet.run()
    for worker in fleet.workers:
        assert worker.exchanges <= fleet.requests / 8 + end


def test_one_round_trip_is_paid_for_many_small_requests() -> None:
    """One round trip pays for many small requests, because a lease covers a quarter of a second."""
    fleet = Fleet()
    for _ in range(8):
        fleet.add(1500, tokens=150, max_items=5)
    end = fleet.run()
    exchanges = sum(worker.exchanges for worker in fleet.workers)
    assert fleet.requests == 2400
    assert exchanges < 8 * 8 * end


def test_a_slow_ledger_costs_little() -> None:
    """A slow ledger costs little, because leases grow with the round trip."""
    fleet = Fleet(trip=0.2)
    start(fleet, 20)
    assert fleet.run() <= 1.1 * 20
    assert everything_is_done(fleet)


def test_without_headers_all_stop_for_one_refusal() -> None:
    """Without headers each process measures its rate, and one's refusal pauses the others."""
    fleet = Fleet(says=False)
    start(fleet, 20)
    assert fleet.run() <= 1.15 * 20
    assert len(fleet.refused) <= 0.15 * fleet.requests
    assert everything_is_done(fleet)


def test_a_quota_that_changes_is_found_by_all() -> None:
    """All processes notice a changed quota, and those in line wait accordingly."""
    fleet = Fleet()
    start(fleet, 20)

    def halve() -> None:
        for bucket in fleet.quota.buckets.values():
            bucket.rate /= 2
            bucket.capacity /= 2
            bucket.limit_per_minute /= 2

    fleet.at(8.0, halve)
    fleet.run()
    assert everything_is_done(fleet)
    assert 0.475 <= fleet.used(12, 20) <= 0.51
    assert len(fleet.refused) <= 0.05 * fleet.requests
