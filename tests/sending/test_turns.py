"""Which call of one object may send next."""

import itertools
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.providers import Answer
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending.flight import Flight
from langchain_batch_embed.sending.queue import Queue
from langchain_batch_embed.sending.sender import Sender
from langchain_batch_embed.sending.turns import LINGER, LONGEST_LINGER, SHARED_TOKENS
from langchain_batch_embed.sending.work import Work
from tests.sending.calls import FakeServer, Rehearsal, answer, done, make_sender, make_work, refusal


def add(sender: Sender, work: Work, *, now: float = 0.0) -> Queue:
    """Begin a call."""
    queue = sender.queue(work, Tally(), Hedges(), since=now)
    sender.add(queue, now)
    return queue


def fly(sender: Sender, now: float = 0.0) -> Flight:
    """Return the request that may start now."""
    flight = sender.next(now)
    assert isinstance(flight, Flight)
    return flight


class TestLargeCalls:
    """Turns alternate between the oldest call and the one with the least work left."""

    def test_neither_waits_for_the_end_of_the_other(self) -> None:
        """A smaller call of 5 requests gets every other turn beside a corpus of 20."""
        sender = make_sender(max_workers=1)
        corpus = add(sender, make_work(20, max_items=1, tokens=5000))
        five = add(sender, make_work(5, max_items=1, tokens=5000))
        order = []
        for now in range(25):
            flight = fly(sender, now)
            order.append(flight.parts[0][0])
            sender.answered(flight, now + 0.5, headers={})
        assert [order[:10].count(queue) for queue in (corpus, five)] == [5, 5]
        assert order[10:] == [corpus] * 15

    def test_what_waits_for_quota_is_overtaken_by_no_more_than_itself(self) -> None:
        """Small requests may pass a large one that waits for quota, up to its own size."""
        server = FakeServer()
        rehearsal = Rehearsal(make_sender(max_workers=50, tokens_per_minute=60_000), server)
        rehearsal.add(make_work(3, max_items=1, tokens=30_000))
        rehearsal.add(make_work(300, begin=3, max_items=1, tokens=300))
        rehearsal.run()
        charges = [request.charge for request in server.requests]
        larges = [i for i, charge in enumerate(charges) if charge == 30_000]
        for before, after in itertools.pairwise(larges):
            assert sum(charges[before + 1 : after]) <= 30_000 + 300
        assert len(larges) == 3

    def test_a_call_that_has_ended_has_no_turn(self) -> None:
        """A call that has ended gets no more turns, and the rest of it is not sent."""
        sender = make_sender(max_workers=1)
        gone = add(sender, make_work(20, max_items=1, tokens=5000))
        other = add(sender, make_work(20, max_items=1, tokens=5000))
        sender.remove(gone)
        assert fly(sender).parts[0][0] is other


class TestSmallCalls:
    """Calls of one small batch share a request with others of their kind."""

    def test_a_single_query_is_sent_at_once(self) -> None:
        """A single query is sent at once and does not wait for others that may never come."""
        sender = make_sender()
        query = add(sender, make_work(1))
        assert [part[0] for part in fly(sender).parts] == [query]

    def test_those_that_come_together_share_a_request(self) -> None:
        """Ten calls that come together share one request, and each receives its own vectors."""
        sender = make_sender()
        calls = [add(sender, make_work(1, begin=i)) for i in range(10)]
        flight = fly(sender)
        assert [queue for queue, _ in flight.parts] == calls
        assert list(flight.texts) == [str(i) for i in range(10)]
        sender.answered(flight, 1, headers={})
        assert [done(queue.outcomes) for queue in calls] == [[i] for i in range(10)]

    def test_a_later_one_waits_a_moment_for_others(self) -> None:
        """While a request of small calls is in flight, a later call waits, 20 ms at most.

        Others may follow that can share its request.
        """
        sender = make_sender(max_workers=100)
        add(sender, make_work(1))
        fly(sender)
        for i in range(1, 50):
            now = float(i)
            query = add(sender, make_work(1, begin=i), now=now)
            delay = sender.next(now)
            assert isinstance(delay, float)
            assert 0 < delay <= LONGEST_LINGER + 1e-9
            assert [queue for queue, _ in fly(sender, now + delay).parts] == [query]
        assert LONGEST_LINGER == 0.02

    def test_several_wait_for_more_right_after_a_fast_answer(self) -> None:
        """Right after a fast answer, several calls wait a moment for more.

        Otherwise each answer of a nearby server would be followed by a request of very few calls.
        """
        sender = make_sender(max_workers=100)
        add(sender, make_work(1))
        sender.answered(fly(sender), 0.001, headers={})
        crowd = [add(sender, make_work(1, begin=1 + i), now=0.001) for i in range(2)]
        delay = sender.next(0.001)
        assert isinstance(delay, float)
        assert 0 < delay <= LINGER
        crowd.append(add(sender, make_work(1, begin=3), now=0.002))
        assert [queue for queue, _ in fly(sender, 0.001 + delay).parts] == crowd

    def test_queries_of_a_loop_are_sent_at_once(self) -> None:
        """Queries of a loop, each sent right after the answer to the one before, do not wait."""
        sender = make_sender(max_workers=100)
        for i in range(20):
            now = i / 1000
            query = add(sender, make_work(1, begin=i), now=now)
            flight = fly(sender, now)
            assert [queue for queue, _ in flight.parts] == [query]
            sender.answered(flight, now + 0.0005, headers={})

    @given(st.lists(st.tuples(st.integers(1, 64), st.integers(1, 200)), min_size=1, max_size=60))
    def test_a_shared_request_keeps_every_limit(self, sizes: list[tuple[int, int]]) -> None:
        """A shared request keeps the limits of texts and of tokens, and `SHARED_TOKENS`."""
        sender = make_sender(max_workers=100)
        calls, begin = [], 0
        for count, tokens in sizes:
            work = make_work(count, begin=begin, tokens=tokens, max_items=100, max_tokens=12_000)
            calls.append(add(sender, work))
            begin += count
        now, rows = 0.0, list[int]()
        for _ in range(1000):
            turn = sender.next(now)
            if not isinstance(turn, Flight):
                if turn == math.inf:
                    break
                now += turn
                continue
            batches = [batch for _, batch in turn.parts]
            assert sum(len(batch.rows) for batch in batches) <= 100
            assert sum(batch.tokens for batch in batches) <= min(12_000, SHARED_TOKENS)
            rows += [row for batch in batches for row in batch.rows.tolist()]
        assert sorted(rows) == list(range(begin))

    def test_calls_that_are_sent_in_different_ways_share_nothing(self) -> None:
        """Calls with different `send` functions share no request.

        A query that the provider embeds differently must not be sent as a document.
        """

        def send_query(texts: Sequence[str], *, timeout: float) -> Answer:
            del timeout
            return answer(len(texts))

        sender = make_sender()
        add(sender, make_work(1))
        add(sender, make_work(1, begin=1, send=send_query))
        assert len(fly(sender).parts) == 1

    def test_many_calls_need_few_requests(self) -> None:
        """A thousand calls of one text, 50 at a time, need at most a tenth as many requests."""
        server = FakeServer(seconds=0.1)
        sender = make_sender(max_workers=128, is_known=False)
        for begin in range(0, 1000, 50):
            rehearsal = Rehearsal(sender, server)
            for i in range(begin, begin + 50):
                rehearsal.add(make_work(1, begin=i), now=float(begin))
            rehearsal.run(now=float(begin))
            assert done(rehearsal.outcomes) == list(range(begin, begin + 50))
        assert len(server.requests) <= 100

    @pytest.mark.parametrize("status", [400, 413, 403])
    def test_one_that_is_refused_costs_the_others_a_request_each(self, status: int) -> None:
        """After a shared request is refused each call is sent by itself: only the bad one fails."""
        sender = make_sender()
        calls = [add(sender, make_work(1, begin=i)) for i in range(5)]
        sender.deployments[0].pacer.health.answered(0, 0)
        sender.failed(fly(sender), refusal(status), 1)
        now, sent = 1.0, 0
        while any(queue.open for queue in calls) and sent < 50:
            turn = sender.next(now)
            if not isinstance(turn, Flight):
                now += turn
                continue
            sent += 1
            if "3" in turn.texts:
                sender.failed(turn, refusal(status), now + 0.1)
            else:
                sender.answered(turn, now + 0.1, headers={})
        assert [done(queue.outcomes) for queue in calls] == [[0], [1], [2], [], [4]]
        assert sent <= 12

    def test_a_small_call_shares_the_turns_of_a_corpus(self) -> None:
        """A query gets one of the next two turns beside a large corpus."""
        sender = make_sender(max_workers=1)
        add(sender, make_work(1000, max_items=10, tokens=100))
        first = fly(sender)
        query = add(sender, make_work(1, begin=1000))
        turns, now = [], 0.0
        flight = first
        for _ in range(3):
            now += 1
            sender.answered(flight, now, headers={})
            flight = fly(sender, now)
            turns.append(flight.parts[0][0])
        assert query in turns[:2]
