"""One call's batches: which is sent next, and what becomes of each."""

import math
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
    """Return a queue that nobody drives."""
    return (sender or make_sender()).queue(work, Tally(), Hedges())


def cut(queue: Queue, now: float = 0.0) -> list[Batch]:
    """Take all that can be sent."""
    batches = []
    while (batch := queue.peek(queue.deployments[0], now)) is not None:
        queue.take(batch, queue.deployments[0], now)
        batches.append(batch)
    return batches


def holds(*rows: int) -> Callable[[Request], bool]:
    """Tell of a request whether it holds one of the rows."""
    return lambda request: bool(np.isin(rows, request.rows).any())


class TestTaking:
    """What is taken is what `peek` returned."""

    def test_what_could_not_be_submitted_is_first_again(self) -> None:
        """Its place in the order is kept."""
        queue = make_queue(make_work(100, max_items=10))
        first = queue.peek(queue.deployments[0], 0)
        assert first is not None
        queue.take(first, queue.deployments[0], 0)
        queue.put_back(first, queue.deployments[0])
        assert queue.peek(queue.deployments[0], 0) is first
        assert queue.in_flight == {}

    def test_looking_changes_nothing(self) -> None:
        """Asked twice, it returns the same batch."""
        queue = make_queue(make_work(100, max_items=10))
        assert queue.peek(queue.deployments[0], 0) is queue.peek(queue.deployments[0], 0)
        assert queue.left() == sum(batch.work for batch in cut(queue))
        assert queue.left() == 0


class TestHandingOver:
    """A caller who makes lists holds the interpreter's lock."""

    def queue(self, *, makes_lists: bool) -> Queue:
        """Return a queue with two outcomes and three batches in flight."""
        sender = make_sender(max_workers=5)
        queue = make_queue(make_work(100, max_items=10, makes_lists=makes_lists), sender)
        for batch in cut(queue)[:2]:
            queue.answered(batch, queue.deployments[0], 0.1)
        while len(queue.in_flight) > 3:
            queue.in_flight.popitem()
        queue.waits_for_answers = True
        return queue

    def test_outcomes_wait_while_answers_make_room_for_further_requests(self) -> None:
        """Sending comes before lists."""
        assert not self.queue(makes_lists=True).hands_over()

    def test_a_caller_who_makes_no_lists_gets_them_at_once(self) -> None:
        """Arrays, prefetches and stores take what is there."""
        assert self.queue(makes_lists=False).hands_over()

    def test_no_more_of_them_wait_than_requests_are_in_flight(self) -> None:
        """The last answers leave time enough for lists."""
        queue = self.queue(makes_lists=True)
        queue.in_flight.popitem()
        queue.in_flight.popitem()
        assert queue.hands_over()

    def test_they_do_not_wait_for_the_quota(self) -> None:
        """While the quota refills there is time for lists."""
        queue = self.queue(makes_lists=True)
        queue.waits_for_answers = False
        assert queue.hands_over()


class TestThrottled:
    """A rate limit is the server's state, and no fault of a batch."""

    def test_refusals_for_the_rate_use_up_no_retries(self) -> None:
        """Fifty of them, where not one retry is allowed."""
        throttles = iter([refusal(429)] * 50)
        server = FakeServer(error=lambda _: next(throttles, None))
        rehearsal = Rehearsal(make_sender(max_retries=0), server)
        rehearsal.add(make_work(1))
        rehearsal.run()
        assert done(rehearsal.outcomes) == [0]
        assert rehearsal.tally.throttled == 50

    def test_a_batch_above_the_whole_quota_is_cut(self) -> None:
        """Refused alone after every pause, it is larger than what the quota can save up."""
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
        """Refused three times, it came too early: nothing is learnt of its size."""
        # As long as nobody knows what is counted.
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
        """However many there are, and wherever they stand."""
        server = FakeServer(error=lambda request: refusal(400) if holds(*bad)(request) else None)
        rehearsal = Rehearsal(make_sender(), server)
        rehearsal.add(make_work(100))
        rehearsal.run()
        assert list(lost(rehearsal.outcomes)) == sorted(bad)
        assert done(rehearsal.outcomes) == sorted(set(range(100)) - bad)

    def test_a_refusal_that_names_the_text_is_believed(self) -> None:
        """`input[40]` costs two more requests, not as many as halving would."""

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
        assert len(server.requests) == 4

    def test_the_providers_own_error_is_the_cause(self) -> None:
        """It is handed on as it was raised."""
        error = refusal(400)
        rehearsal = Rehearsal(
            make_sender(), FakeServer(error=lambda request: error if 3 in request.rows else None)
        )
        rehearsal.add(make_work(20))
        rehearsal.run()
        assert lost(rehearsal.outcomes) == {3: error}


class TestFailed:
    """What can pass is tried again, as often as the user allows."""

    @pytest.mark.parametrize("error", [refusal(500), ConnectionError(), refusal(503)])
    def test_an_error_that_passes_costs_a_retry(self, error: Exception) -> None:
        """The batch is sent again as it was."""
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
        """While others are answered it is found by halving, and then given up."""
        server = FakeServer(error=lambda request: refusal(status) if 70 in request.rows else None)
        rehearsal = Rehearsal(make_sender(max_retries=max_retries), server)
        rehearsal.add(make_work(200, max_items=50))
        rehearsal.run()
        assert list(lost(rehearsal.outcomes)) == [70]
        assert len(done(rehearsal.outcomes)) == 199

    def test_a_text_alone_is_tried_a_few_times(self) -> None:
        """An error 500 that stays is about the text, if all others are answered."""
        server = FakeServer(error=lambda request: refusal(500) if 7 in request.rows else None)
        rehearsal = Rehearsal(make_sender(max_workers=1, max_retries=50), server)
        rehearsal.add(make_work(10, max_items=1))
        rehearsal.run()
        assert list(lost(rehearsal.outcomes)) == [7]
        assert server.rows().count(7) <= 9

    def test_an_answer_that_is_wrong_each_time_is_not_asked_for_for_ever(self) -> None:
        """The server breaks one text's vector, however often it is asked."""
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
        """A slow server answers smaller batches, and the texts are all right."""
        server = FakeServer(seconds=lambda request: 0.1 * len(request.rows))
        rehearsal = Rehearsal(make_sender(timeout=5.0), server)
        rehearsal.add(make_work(1000, max_items=200))
        rehearsal.run()
        assert done(rehearsal.outcomes) == list(range(1000))


class TestGivingUp:
    """What ends a call early, and what its texts carry."""

    def test_a_deadline_gives_up_everything_that_is_not_done(self) -> None:
        """In flight or not, each text says which deadline passed; what is done is handed over."""
        server = FakeServer(seconds=lambda request: 1.0 if 0 in request.rows else 50.0)
        rehearsal = Rehearsal(make_sender(max_workers=2), server)
        rehearsal.add(make_work(50, max_items=10), deadline=10)
        assert rehearsal.run() == 10
        assert done(rehearsal.outcomes) == list(range(10))
        errors = lost(rehearsal.outcomes)
        assert list(errors) == list(range(10, 50))
        assert all(isinstance(e, DeadlineError) and e.deadline == 10 for e in errors.values())

    def test_no_request_is_given_more_time_than_the_call_has(self) -> None:
        """Its time-out ends with the deadline."""
        server = FakeServer(seconds=100.0)
        rehearsal = Rehearsal(make_sender(), server)
        rehearsal.add(make_work(1), deadline=10)
        rehearsal.run()
        assert [request.timeout for request in server.requests] == [10]

    def test_what_was_tried_carries_its_error_and_what_was_not_says_so(self) -> None:
        """`NotSentError` is chained from what ended the call."""
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
        """It is paid for, so its vectors are not thrown away."""
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
        """Abandoned at the deadline, a batch has its outcome already."""
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
        """A place is better used for what was never sent."""
        queue = make_queue(make_work(100, max_items=10))
        queue.hedges.allow(1e9)
        first = queue.peek(queue.deployments[0], 0)
        assert first is not None
        queue.take(first, queue.deployments[0], 0)
        queue.hedges.answered(0.1)
        assert queue.straggler(100) == (None, math.inf)

    def test_the_one_that_is_late_is_found(self) -> None:
        """And before that, the seconds until it is."""
        queue = make_queue(make_work(100, max_items=50))
        queue.hedges.allow(1e9)
        first, second = cut(queue)
        queue.answered(first, queue.deployments[0], 1.0)
        batch, delay = queue.straggler(1.0)
        assert batch is None
        assert 0 < delay < 10
        assert queue.straggler(1.0 + delay) == (second, 0.0)

    def test_one_copy_that_fails_is_no_failure(self) -> None:
        """The other one may still be answered, so nothing is sent a third time."""
        queue = make_queue(make_work(10))
        batch = queue.peek(queue.deployments[0], 0)
        assert batch is not None
        queue.take(batch, queue.deployments[0], 0)
        queue.take(batch, queue.deployments[0], 5)
        queue.failed(batch, queue.deployments[0], diagnose(ConnectionError()), ConnectionError(), 6)
        assert queue.open == 10
        queue.answered(batch, queue.deployments[0], 7)
        assert [type(outcome) for outcome in queue.outcomes] == [Done]
