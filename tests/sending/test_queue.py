"""The batches of one call: which is sent next, and what becomes of each."""

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from langchain_batch_embed.errors import DeadlineError, NotSentError, ResponseError
from langchain_batch_embed.pacing.batch_sizes import BatchSizes
from langchain_batch_embed.pacing.diagnosis import diagnose
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending.copies import straggler
from langchain_batch_embed.sending.queue import Queue
from langchain_batch_embed.sending.rehearsal import Request
from langchain_batch_embed.sending.sender import Sender
from langchain_batch_embed.sending.work import Batch, Done, Work
from tests.sending.calls import (
    FakeServer,
    Rehearsal,
    done,
    lost,
    make_sender,
    make_work,
    refusal,
)


def make_queue(work: Work, sender: Sender | None = None) -> Queue:
    """Return a queue without a dispatcher."""
    return (sender or make_sender()).queue(work, Tally(), Hedges())


def cut(queue: Queue, now: float = 0.0) -> list[Batch]:
    """Take all batches that can be sent."""
    batches = []
    while (batch := queue.peek(queue.deployments[0], now)) is not None:
        queue.take(batch, queue.deployments[0], now)
        batches.append(batch)
    return batches


def holds(*rows: int) -> Callable[[Request], bool]:
    """Return a function that returns whether a request holds one of the rows."""
    return lambda request: bool(np.isin(rows, request.rows).any())


class TestTaking:
    """The batch that is taken is the one that `peek` returned."""

    def test_what_could_not_be_submitted_is_first_again(self) -> None:
        """A batch that could not be submitted is the next one again."""
        queue = make_queue(make_work(100, max_items=10))
        first = queue.peek(queue.deployments[0], 0)
        assert first is not None
        queue.take(first, queue.deployments[0], 0)
        queue.put_back(first, queue.deployments[0])
        assert queue.peek(queue.deployments[0], 0) is first
        assert queue.in_flight == {}

    def test_looking_changes_nothing(self) -> None:
        """`peek` changes nothing: called twice, it returns the same batch."""
        queue = make_queue(make_work(100, max_items=10))
        assert queue.peek(queue.deployments[0], 0) is queue.peek(queue.deployments[0], 0)
        assert queue.left() == sum(batch.work for batch in cut(queue))
        assert queue.left() == 0


class TestHandingOver:
    """A caller that makes lists holds the interpreter's lock while it does so."""

    def queue(self, *, makes_lists: bool) -> Queue:
        """Return a queue with two outcomes and three batches in flight."""
        sender = make_sender(max_workers=5)
        queue = make_queue(make_work(100, max_items=10, makes_lists=makes_lists), sender)
        for batch in cut(queue)[:2]:
            queue.answered(batch, queue.deployments[0], 0.1)
        while len(queue.in_flight) > 3:
            queue.in_flight.popitem()
        queue.full_at.add(0)
        return queue

    def test_outcomes_wait_while_answers_make_room_for_further_requests(self) -> None:
        """Outcomes wait while answers make room for further requests: sending comes first."""
        assert not self.queue(makes_lists=True).hands_over()

    def test_a_caller_who_makes_no_lists_gets_them_at_once(self) -> None:
        """A caller that makes no lists receives its outcomes at once.

        Arrays, prefetches and stores take what has arrived.
        """
        assert self.queue(makes_lists=False).hands_over()

    def test_no_more_of_them_wait_than_requests_are_in_flight(self) -> None:
        """Outcomes are handed over once they outnumber the requests in flight.

        The last answers leave enough time for lists.
        """
        queue = self.queue(makes_lists=True)
        queue.in_flight.popitem()
        queue.in_flight.popitem()
        assert queue.hands_over()

    def test_they_do_not_wait_for_the_quota(self) -> None:
        """Outcomes are handed over while the call waits for quota, as there is time for lists."""
        queue = self.queue(makes_lists=True)
        queue.peek(queue.deployments[0], 0.0)  # the next batch waits for something else
        assert queue.hands_over()


class TestThrottled:
    """A rate-limit refusal reflects the server's state and is no fault of a batch."""

    def test_refusals_for_the_rate_use_up_no_retries(self) -> None:
        """Fifty rate-limit refusals do not fail a text, even where no retry is allowed."""
        throttles = iter([refusal(429)] * 50)
        server = FakeServer(error=lambda _: next(throttles, None))
        rehearsal = Rehearsal(make_sender(max_retries=0), server)
        rehearsal.add(make_work(1))
        rehearsal.run()
        assert done(rehearsal.outcomes) == [0]
        assert rehearsal.tally.throttled == 50

    def test_a_batch_above_the_whole_quota_is_cut(self) -> None:
        """A batch larger than the whole quota is cut once it is refused alone after every pause."""
        server = FakeServer(
            error=lambda request: refusal(429) if request.tokens > 300 else None, seconds=0.1
        )
        rehearsal = Rehearsal(make_sender(), server)
        rehearsal.add(make_work(100))
        rehearsal.run()
        assert done(rehearsal.outcomes) == list(range(100))

    def test_a_batch_little_larger_than_one_that_got_through_is_not_cut_at_once(
        self, mocker: MockerFixture
    ) -> None:
        """A batch slightly larger than an answered one is sent whole again after three refusals.

        It came too early, so no limit is learnt from its size.
        """
        # This rule holds while it is unknown whether the quota counts requests or tokens.
        mocker.patch.object(BatchSizes, "are_for_requests", new=False)
        sizes = [10, 12]
        throttles = iter([refusal(429)] * 3)
        server = FakeServer(
            error=lambda request: next(throttles, None) if request.tokens > 100 else None
        )
        sender = make_sender(max_workers=1)
        for count in sizes:
            rehearsal = Rehearsal(sender, server)
            rehearsal.add(make_work(count))
            rehearsal.run()
            assert done(rehearsal.outcomes) == list(range(count))
        assert [len(request.rows) for request in server.requests] == [10, 12, 12, 12, 12]
        assert sender.deployments[0].limits.tokens == math.inf


class TestRefused:
    """A refused batch is cut into parts, down to the text that is refused alone."""

    @settings(deadline=None)
    @given(bad=st.sets(st.integers(0, 99), max_size=10))
    def test_a_bad_text_costs_only_itself(self, bad: set[int]) -> None:
        """Each bad text fails alone, however many there are and wherever they stand."""
        server = FakeServer(error=lambda request: refusal(400) if holds(*bad)(request) else None)
        rehearsal = Rehearsal(make_sender(), server)
        rehearsal.add(make_work(100))
        rehearsal.run()
        assert list(lost(rehearsal.outcomes)) == sorted(bad)
        assert done(rehearsal.outcomes) == sorted(set(range(100)) - bad)

    def test_the_first_refused_texts_are_sent_again(self) -> None:
        """Four refused texts are sent again three times each, and then each refusal is believed."""
        server = FakeServer(error=lambda request: refusal(400) if holds(*bad)(request) else None)
        rehearsal = Rehearsal(make_sender(max_workers=1), server)
        bad = [3, 24, 35, 46, 57, 68, 79]
        rehearsal.add(make_work(100, max_items=10))
        rehearsal.run()
        assert sorted(lost(rehearsal.outcomes)) == bad
        alone = Counter(int(req.rows[0]) for req in server.requests if len(req.rows) == 1)
        assert [alone[row] for row in bad] == [4, 4, 4, 4, 1, 1, 1]

    def test_a_text_that_is_accepted_the_second_time_is_not_lost(self) -> None:
        """A refused text that is accepted the second time was refused by chance: none is lost."""
        refused: list[int] = []

        def error(request: Request) -> Exception | None:
            row = 42
            if row not in request.rows or (len(request.rows) == 1 and row in refused):
                return None
            refused.extend(request.rows.tolist() if len(request.rows) == 1 else ())
            return refusal(400)

        rehearsal = Rehearsal(make_sender(max_workers=1), FakeServer(error=error))
        rehearsal.add(make_work(100, max_items=10))
        rehearsal.run()
        assert refused == [42]
        assert not lost(rehearsal.outcomes)

    def test_a_refusal_that_names_the_text_is_believed(self) -> None:
        """A refusal that names `input[40]` costs three more requests, fewer than halving would.

        One holds that text alone, and two hold those before and after it.
        """

        def error(request: Request) -> Exception | None:
            place = np.flatnonzero(request.rows == 40)
            if not place.size:
                return None
            return refusal(400, "bad input", param=f"input[{place[0]}]")

        server = FakeServer(error=error)
        rehearsal = Rehearsal(make_sender(max_workers=1), server)
        rehearsal.add(make_work(100))
        rehearsal.run()
        assert list(lost(rehearsal.outcomes)) == [40]
        assert [len(request.rows) for request in server.requests] == [100, 40, 1, 59]

    def test_the_providers_own_error_is_the_cause(self) -> None:
        """A refused text carries the very error that the provider raised."""
        error = refusal(400)
        rehearsal = Rehearsal(
            make_sender(), FakeServer(error=lambda request: error if 3 in request.rows else None)
        )
        rehearsal.add(make_work(20))
        rehearsal.run()
        assert lost(rehearsal.outcomes) == {3: error}


class TestFailed:
    """A failure that can pass is retried as often as the user allows."""

    @pytest.mark.parametrize("error", [refusal(500), ConnectionError(), refusal(503)])
    def test_an_error_that_passes_costs_a_retry(self, error: Exception) -> None:
        """After a temporary error the same batch is sent again, which counts as one retry."""
        errors = iter([error])
        server = FakeServer(error=lambda _: next(errors, None))
        rehearsal = Rehearsal(make_sender(), server)
        rehearsal.add(make_work(100))
        rehearsal.run()
        assert done(rehearsal.outcomes) == list(range(100))
        assert len(server.requests) == 2
        assert rehearsal.tally.retries == 1

    @pytest.mark.parametrize("status", [500, 503])
    @pytest.mark.parametrize("max_retries", [0, 1, 5])
    def test_a_text_that_takes_the_server_down_costs_only_itself(
        self, status: int, max_retries: int
    ) -> None:
        """A text that makes the server fail is found by halving and fails alone.

        This holds with any number of `max_retries`, while others are answered.
        """
        server = FakeServer(error=lambda request: refusal(status) if 70 in request.rows else None)
        rehearsal = Rehearsal(make_sender(max_retries=max_retries), server)
        rehearsal.add(make_work(200, max_items=50))
        rehearsal.run()
        assert list(lost(rehearsal.outcomes)) == [70]
        assert len(done(rehearsal.outcomes)) == 199

    def test_a_text_alone_is_tried_a_few_times(self) -> None:
        """A text that gets an error 500 while all others are answered is tried 9 times at most."""
        server = FakeServer(error=lambda request: refusal(500) if 7 in request.rows else None)
        rehearsal = Rehearsal(make_sender(max_workers=1, max_retries=50), server)
        rehearsal.add(make_work(10, max_items=1))
        rehearsal.run()
        assert list(lost(rehearsal.outcomes)) == [7]
        assert server.rows().count(7) <= 9

    def test_an_answer_that_is_wrong_each_time_is_not_asked_for_for_ever(self) -> None:
        """A text whose vector the server always breaks is given up with a `ResponseError`."""
        server = FakeServer(
            error=lambda request: ResponseError("not finite") if 5 in request.rows else None
        )
        rehearsal = Rehearsal(make_sender(), server)
        rehearsal.add(make_work(50))
        rehearsal.run()
        (error,) = lost(rehearsal.outcomes).values()
        assert list(lost(rehearsal.outcomes)) == [5]
        assert isinstance(error, ResponseError)

    def test_what_is_not_answered_in_time_is_sent_in_parts(self) -> None:
        """Batches that a slow server does not answer in time are sent in parts; no text fails."""
        server = FakeServer(seconds=lambda request: 0.1 * len(request.rows))
        rehearsal = Rehearsal(make_sender(timeout=5.0), server)
        rehearsal.add(make_work(1000, max_items=200))
        rehearsal.run()
        assert done(rehearsal.outcomes) == list(range(1000))


class TestGivingUp:
    """What ends a call early, and which errors its texts carry then."""

    def test_a_deadline_gives_up_everything_that_is_not_done(self) -> None:
        """A deadline fails every unfinished text, in flight or not, with the deadline that passed.

        Vectors that have arrived are handed over.
        """
        server = FakeServer(seconds=lambda request: 1.0 if 0 in request.rows else 50.0)
        rehearsal = Rehearsal(make_sender(max_workers=2), server)
        rehearsal.add(make_work(50, max_items=10), deadline=10)
        assert rehearsal.run() == 10
        assert done(rehearsal.outcomes) == list(range(10))
        errors = lost(rehearsal.outcomes)
        assert list(errors) == list(range(10, 50))
        assert all(isinstance(e, DeadlineError) and e.deadline == 10 for e in errors.values())

    def test_no_request_is_given_more_time_than_the_call_has(self) -> None:
        """The time-out of a request ends with the deadline of its call."""
        server = FakeServer(seconds=100.0)
        rehearsal = Rehearsal(make_sender(), server)
        rehearsal.add(make_work(1), deadline=10)
        rehearsal.run()
        assert [request.timeout for request in server.requests] == [10]

    def test_what_was_tried_carries_its_error_and_what_was_not_says_so(self) -> None:
        """When a call ends, a text that was tried carries its own error, others a `NotSentError`.

        `NotSentError` is chained from the error that ended the call.
        """
        queue = make_queue(make_work(30, max_items=10))
        first = queue.peek(queue.deployments[0], 0)
        assert first is not None
        queue.take(first, queue.deployments[0], 0)
        queue.put_back(first, queue.deployments[0])
        first.error = error = refusal(500)
        end = refusal(401)
        queue.give_up(end)
        errors = lost(queue.outcomes)
        assert [errors[row] for row in range(10)] == [error] * 10
        assert all(isinstance(errors[row], NotSentError) for row in range(10, 30))
        assert errors[29].__cause__ is end
        assert queue.open == 0

    def test_what_is_in_flight_may_still_be_answered(self) -> None:
        """A request in flight when the call is given up may still deliver its vectors.

        They are paid for, so they are not thrown away.
        """
        queue = make_queue(make_work(30, max_items=10))
        first = queue.peek(queue.deployments[0], 0)
        assert first is not None
        queue.take(first, queue.deployments[0], 0)
        queue.give_up(refusal(401))
        assert queue.open == 10
        queue.answered(first, queue.deployments[0], 0.1)
        assert done(queue.outcomes) == list(range(10))
        assert queue.open == 0

    def test_an_answer_after_the_end_changes_nothing(self) -> None:
        """An answer to a batch that was abandoned at the deadline adds no second outcome."""
        queue = make_queue(make_work(10))
        batch = queue.peek(queue.deployments[0], 0)
        assert batch is not None
        queue.take(batch, queue.deployments[0], 0)
        queue.give_up(DeadlineError(1.0), abandon=True)
        queue.answered(batch, queue.deployments[0], 0.1)
        assert len(queue.outcomes) == 1
        assert queue.open == 0


class TestStragglers:
    """The last requests of a call are sent a second time if they are late."""

    def test_none_while_there_is_something_else_to_send(self) -> None:
        """No copy of a late request is sent while the call has texts that were never sent.

        A free place is better used for those.
        """
        queue = make_queue(make_work(100, max_items=10))
        queue.hedges.allow(1e9)
        first = queue.peek(queue.deployments[0], 0)
        assert first is not None
        queue.take(first, queue.deployments[0], 0)
        queue.hedges.answered(0.1)
        assert straggler(queue, 100) == math.inf

    def test_the_one_that_is_late_is_found(self) -> None:
        """`straggler` returns the late batch, or before that the seconds until it is late."""
        queue = make_queue(make_work(100, max_items=50))
        queue.hedges.allow(1e9)
        first, second = cut(queue)
        queue.answered(first, queue.deployments[0], 1.0)
        delay = straggler(queue, 1.0)
        assert isinstance(delay, float)
        assert 0 < delay < 10
        assert straggler(queue, 1.0 + delay) is second

    def test_one_copy_that_fails_is_no_failure(self) -> None:
        """If one of two copies fails, the batch stays in flight until the other one is answered.

        Nothing is sent a third time.
        """
        queue = make_queue(make_work(10))
        batch = queue.peek(queue.deployments[0], 0)
        assert batch is not None
        queue.take(batch, queue.deployments[0], 0)
        queue.take(batch, queue.deployments[0], 5)
        queue.failed(batch, queue.deployments[0], diagnose(ConnectionError()), ConnectionError(), 6)
        assert queue.open == 10
        queue.answered(batch, queue.deployments[0], 7)
        assert [type(outcome) for outcome in queue.outcomes] == [Done]
