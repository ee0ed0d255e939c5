"""When requests start and when their outcomes are handed over: the dispatcher on its own."""

import itertools
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_mock import MockerFixture

from langchain_batch_embed import run
from langchain_batch_embed.clock import SYSTEM_CLOCK
from langchain_batch_embed.dispatch import Dispatcher
from langchain_batch_embed.nearness import FIRST_ANSWERS, NEAR_USEFUL
from langchain_batch_embed.pacing import Pacer
from langchain_batch_embed.providers import Answer
from langchain_batch_embed.report import Tally
from langchain_batch_embed.run import BACKLOG
from langchain_batch_embed.work import Done, Lost, Work
from tests.support import FakeClock, wait_until

Rows = NDArray[np.intp]


def work(
    batches: int, answer: Callable[[int], object], *, lists: bool = True, charge: int = 10
) -> Work:
    """Return batches of one row and so many tokens; `answer` is called with each that is sent."""

    def send(rows: Rows, timeout: float) -> Answer:  # noqa: ARG001
        answer(int(rows[0]))
        return Answer(vectors=np.ones((len(rows), 2), dtype=np.float32))

    return Work(
        batches=[np.array([row]) for row in range(batches)],
        max_items=1,
        max_tokens=10,
        weights=np.full(batches, charge),
        charges=np.full(batches, charge),
        send=send,
        keep=lambda rows, vectors: None,  # noqa: ARG005
        lists=lists,
    )


def near_pacer() -> Pacer:
    """Return one that takes the server for near."""
    pacer = Pacer(max_workers=128)
    pacer.window.nearness.is_near = True
    return pacer


class TestHandingOver:
    """The caller's thread makes lists of what it is handed, and that holds up sending."""

    def test_outcomes_wait_while_each_answer_lets_another_request_start(self) -> None:
        """With two workers and four batches, the first outcome comes when all four are sent."""
        tally, caller_waits = Tally(), threading.Event()

        class Watched(FakeClock):
            def wait(self, condition: threading.Condition, timeout: float) -> None:
                if tally.requests == 3:  # the first is answered, the third is sent
                    caller_waits.set()
                super().wait(condition, timeout)

        def answer(row: int) -> None:
            if row:
                assert caller_waits.wait(10)

        dispatcher = Dispatcher(
            Pacer(max_workers=2), max_workers=2, max_retries=0, timeout=60, clock=Watched()
        )
        seen = [
            (tally.requests, type(outcome)) for outcome in dispatcher.run(work(4, answer), tally)
        ]
        assert seen == [(4, Done)] * 4

    def test_outcomes_do_not_wait_for_a_caller_who_makes_no_lists(self) -> None:
        """Arrays, prefetches and stores take what is there at once, with one worker too."""
        tally, handed_over = Tally(), threading.Event()

        def answer(row: int) -> None:
            if row:
                assert handed_over.wait(10)

        dispatcher = Dispatcher(Pacer(max_workers=1), max_workers=1, max_retries=0, timeout=60)
        outcomes = dispatcher.run(work(4, answer, lists=False), tally)
        assert isinstance(next(outcomes), Done)
        handed_over.set()
        assert [type(outcome) for outcome in outcomes] == [Done] * 3

    def test_no_more_outcomes_wait_than_requests_are_in_flight(self) -> None:
        """One worker's second outcome is not waited for, however many batches are left."""
        tally, handed_over = Tally(), threading.Event()

        def answer(row: int) -> None:
            if row == 2:
                assert handed_over.wait(10)

        dispatcher = Dispatcher(Pacer(max_workers=1), max_workers=1, max_retries=0, timeout=60)
        outcomes = dispatcher.run(work(9, answer), tally)
        assert isinstance(next(outcomes), Done)
        assert tally.requests == 3
        handed_over.set()
        assert [type(outcome) for outcome in outcomes] == [Done] * 8

    def test_outcomes_do_not_wait_for_the_quota(self) -> None:
        """While the quota refills there is time for lists, so what is answered is handed over."""
        tally, handed_over, clock = Tally(), threading.Event(), FakeClock()
        clock.patience = 10.0  # no jump to when the quota has refilled

        def answer(row: int) -> None:
            if row == 1:
                assert handed_over.wait(10)

        dispatcher = Dispatcher(
            Pacer(max_workers=8, tokens_per_minute=20),
            max_workers=8,
            max_retries=0,
            timeout=60,
            clock=clock,
        )
        outcomes = dispatcher.run(work(4, answer), tally)
        assert isinstance(next(outcomes), Done)
        assert tally.requests == 2
        clock.patience = 0.02
        handed_over.set()
        assert [type(outcome) for outcome in outcomes] == [Done] * 3

    def test_a_near_server_does_not_keep_outcomes_waiting(self) -> None:
        """Where this process never waits, lists put off would only be lists to make later."""
        tally, handed_over = Tally(), threading.Event()

        def answer(row: int) -> None:
            if row:
                assert handed_over.wait(10)

        dispatcher = Dispatcher(near_pacer(), max_workers=128, max_retries=0, timeout=60)
        outcomes = dispatcher.run(work(9, answer), tally)
        assert isinstance(next(outcomes), Done)
        assert tally.requests < 9
        handed_over.set()
        assert [type(outcome) for outcome in outcomes] == [Done] * 8


class TestSeveralCalls:
    """Calls of several threads share one quota, and wait for each other no longer than need be."""

    def test_turns_alternate_between_the_oldest_call_and_the_one_with_least_left(self) -> None:
        """A query is not behind a whole corpus, nor does a corpus wait for all small calls."""
        sent: list[str] = []
        dispatcher = Dispatcher(Pacer(max_workers=1), max_workers=1, max_retries=0, timeout=60)

        def call(name: str, batches: int) -> threading.Thread:
            def answer(row: int) -> None:
                sent.append(name)
                if name == "corpus" and row == 2:
                    wait_until(lambda: len(dispatcher._runs) == 3)

            def run() -> None:
                outcomes = list(dispatcher.run(work(batches, answer, lists=False), Tally()))
                assert [type(outcome) for outcome in outcomes] == [Done] * batches

            thread = threading.Thread(target=run)
            thread.start()
            return thread

        threads = [call("corpus", 20)]
        wait_until(lambda: len(sent) == 3)
        threads += [call("query", 1), call("five", 5)]
        for thread in threads:
            thread.join(10)
        assert sent[:3] == ["corpus"] * 3
        assert "query" in sent[3:5]
        assert sent[3:9].count("corpus") == 3
        assert sent[3:15].count("corpus") == 6
        assert sent[15:] == ["corpus"] * 11
        assert dispatcher._runs == []

    def test_a_deadline_is_not_over_because_others_are_in_flight(self) -> None:
        """No place is free now, but one will be as soon as they are answered."""
        looked = threading.Event()

        class Watched(FakeClock):
            def wait(self, condition: threading.Condition, timeout: float) -> None:
                if threading.current_thread() is threading.main_thread():
                    looked.set()
                condition.wait(min(timeout, 10))

        dispatcher = Dispatcher(
            Pacer(max_workers=1), max_workers=1, max_retries=0, timeout=60, clock=Watched()
        )
        other = threading.Thread(
            target=lambda: list(dispatcher.run(work(1, lambda _: looked.wait(10)), Tally()))
        )
        other.start()
        wait_until(lambda: dispatcher.pacer.in_flight == 1)
        outcomes = list(dispatcher.run(work(1, lambda _: None), Tally(), deadline=30))
        other.join(10)
        assert [type(outcome) for outcome in outcomes] == [Done]

    def test_what_waits_for_quota_is_overtaken_by_no_more_than_it_is_itself(self) -> None:
        """Of a bucket of 47, four tens are sent; the fifth waits, and smaller ones need not."""
        dispatcher = Dispatcher(
            Pacer(max_workers=9, tokens_per_minute=47), max_workers=9, max_retries=0, timeout=60
        )

        def sent(charge: int) -> bool:
            small = work(1, lambda _: None, charge=charge)
            (outcome,) = dispatcher.run(small, Tally(), deadline=2)
            return isinstance(outcome, Done)

        tally = Tally()
        large = dispatcher.run(work(9, lambda _: None, lists=False), tally)
        assert [type(next(large)) for _ in range(4)] == [Done] * 4
        assert tally.requests == 4
        assert sent(4)  # in its turn
        assert sent(1)  # in the turn of the large one
        dispatcher._overtaken = 10
        assert not sent(1)
        assert isinstance(large, Generator)
        large.close()
        assert dispatcher._runs == []


class TestNearServer:
    """One that answers at once: this process is what everything waits for."""

    def test_it_is_not_asked_for_more_than_the_caller_takes(self) -> None:
        """What waits for the caller takes memory, and so the next requests do."""
        tally = Tally()
        dispatcher = Dispatcher(near_pacer(), max_workers=128, max_retries=0, timeout=60)
        outcomes = dispatcher.run(work(40, lambda _: None), tally)
        assert isinstance(next(outcomes), Done)
        wait_until(lambda: dispatcher.pacer.in_flight == 0)
        assert tally.requests <= 1 + BACKLOG + NEAR_USEFUL
        assert len(list(outcomes)) == 39
        assert tally.requests == 40

    @pytest.mark.parametrize(("share", "near"), [(0.01, False), (1.0, True)])
    def test_its_own_threads_tell_whether_requests_wait(self, share: float, near: bool) -> None:
        """That this process is busy otherwise does not matter."""

        class Shared(FakeClock):
            def now(self) -> float:
                return SYSTEM_CLOCK.now()

            def worked(self) -> float:
                return self.now()

            def worked_here(self) -> float:
                return share * self.now()

        pacer = Pacer(max_workers=128)
        for _ in range(FIRST_ANSWERS):
            pacer.window.nearness.answered(process=1.0, requests=1.0, sent=0.0, now=0.0)
        dispatcher = Dispatcher(pacer, max_workers=128, max_retries=0, timeout=60, clock=Shared())
        outcomes = list(dispatcher.run(work(20, lambda _: time.sleep(0.001)), Tally()))
        assert len(outcomes) == 20
        assert pacer.window.nearness.is_near == near

    def test_what_is_tried_again_is_sent_as_it_was(self) -> None:
        """Batches are put together, but not with one that was refused before."""
        sent: list[tuple[int, ...]] = []

        class TooManyError(Exception):
            status_code = 429

        def send(rows: Rows, timeout: float) -> Answer:
            del timeout
            sent.append(tuple(rows.tolist()))
            if sent.count(sent[-1]) == 1:
                raise TooManyError
            return Answer(vectors=np.ones((len(rows), 2), dtype=np.float32))

        many = replace(work(30, lambda _: None), max_items=10, max_tokens=1000, send=send)
        dispatcher = Dispatcher(
            near_pacer(), max_workers=128, max_retries=3, timeout=60, clock=FakeClock()
        )
        assert {type(outcome) for outcome in dispatcher.run(many, Tally())} == {Done}
        assert max(map(len, sent)) > 1
        assert sorted(sent) == sorted([*dict.fromkeys(sent)] * 2)
        assert sorted(row for rows in dict.fromkeys(sent) for row in rows) == list(range(30))


class TestRetries:
    """A batch is tried again as often as it may be, and not much oftener in parts."""

    def test_a_part_of_a_batch_that_was_tried_often_is_tried_twice(self) -> None:
        """Once, and once more: a text that cannot be sent costs few requests beside its batch."""
        sent: list[tuple[int, ...]] = []

        def send(rows: Rows, timeout: float) -> Answer:
            del timeout
            sent.append(tuple(rows.tolist()))
            if 3 in rows:
                raise ConnectionError
            return Answer(vectors=np.ones((len(rows), 2), dtype=np.float32))

        one = replace(work(4, lambda _: None), batches=[np.arange(4)], max_items=4, send=send)
        dispatcher = Dispatcher(
            Pacer(max_workers=1), max_workers=1, max_retries=5, timeout=60, clock=FakeClock()
        )
        outcomes = list(dispatcher.run(one, Tally()))
        assert [outcome.rows.tolist() for outcome in outcomes if isinstance(outcome, Lost)] == [[3]]
        assert [sent.count(rows) for rows in ((0, 1, 2, 3), (2, 3), (3,))] == [6, 2, 2]
        assert [sent.count(rows) for rows in ((0, 1), (2,))] == [1, 1]

    def test_a_hedged_batch_has_not_failed_as_long_as_one_copy_may_be_answered(self) -> None:
        """The error of the other one is passed over: nothing is sent a third time."""
        copies, failed, tally = itertools.count(), threading.Event(), Tally()

        def answer(row: int) -> None:
            if row < 39:
                return
            if next(copies) == 0:
                wait_until(lambda: tally.hedged > 0 and dispatcher.pacer.in_flight > 1)
                failed.set()
                raise ConnectionError
            assert failed.wait(10)
            wait_until(lambda: dispatcher.pacer.in_flight == 1)

        dispatcher = Dispatcher(
            Pacer(max_workers=2),
            max_workers=2,
            max_retries=3,
            timeout=60,
            hedge=True,
            clock=FakeClock(),
        )
        outcomes = list(dispatcher.run(work(40, answer, lists=False), tally))
        assert [type(outcome) for outcome in outcomes] == [Done] * 40
        assert tally.retries == 0
        assert 1 <= tally.hedged <= 2


class TestEnds:
    """Every call comes to its end, whatever happens."""

    def test_an_error_that_nobody_can_understand_is_a_failure(
        self, mocker: MockerFixture, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A mistake of ours in what is made of an error must not leave the call waiting."""
        mocker.patch.object(run, "decide", side_effect=TypeError("secret"))

        def answer(row: int) -> None:
            raise ValueError(f"secret {row}")

        dispatcher = Dispatcher(Pacer(max_workers=2), max_workers=2, max_retries=5, timeout=60)
        outcomes = list(dispatcher.run(work(3, answer), Tally()))
        assert [type(outcome) for outcome in outcomes] == [Lost] * 3
        assert dispatcher.pacer.in_flight == 0
        assert "ValueError is not understood (TypeError)" in caplog.text
        assert "secret" not in caplog.text

    @pytest.mark.parametrize("deadline", [None, 5.0])
    def test_a_slow_caller_is_stopped_as_well(self, deadline: float | None) -> None:
        """Cancelled, or at the deadline, no answer lets another request start."""
        clock, cancelled, go_on, tally = FakeClock(), threading.Event(), threading.Event(), Tally()

        def answer(row: int) -> None:
            if row > 1:
                assert go_on.wait(10)

        dispatcher = Dispatcher(
            Pacer(max_workers=2), max_workers=2, max_retries=0, timeout=60, clock=clock
        )
        outcomes = dispatcher.run(
            work(50, answer, lists=False), tally, deadline=deadline, cancelled=cancelled
        )
        assert isinstance(next(outcomes), Done)
        wait_until(lambda: tally.requests == 4)
        if deadline is None:
            cancelled.set()
        else:
            clock.time = deadline
        go_on.set()
        wait_until(lambda: dispatcher.pacer.in_flight == 0)
        left = [type(outcome) for outcome in outcomes]
        assert tally.requests == 4
        assert left == ([] if deadline is None else [Done] * 3 + [Lost] * 46)
