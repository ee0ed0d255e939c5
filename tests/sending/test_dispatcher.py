"""Threads, locks and waiting: the dispatcher that drives the sender in real use."""

import asyncio
import concurrent.futures.thread
import contextvars
import itertools
import math
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.rate_limiters import BaseRateLimiter
from pytest_mock import MockerFixture

from langchain_batch_embed.clock import SYSTEM_CLOCK, Clock
from langchain_batch_embed.errors import BatchEmbeddingsError, NotSentError
from langchain_batch_embed.providers import Answer
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending import sender as sender_module
from langchain_batch_embed.sending.deployment import Deployment
from langchain_batch_embed.sending.dispatcher import SUBMIT_TRIES, Dispatcher
from langchain_batch_embed.sending.flight import CANARY, Flight
from langchain_batch_embed.sending.threads import submit_daemon
from langchain_batch_embed.sending.work import Done, Lost, Outcome, Rows, Work
from tests.sending.calls import answer, done, lost, make_sender, make_work, refusal
from tests.support import FakeClock, wait_until

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def make_dispatcher(
    *, max_workers: int = 8, clock: Clock | None = None, **options: Any
) -> Dispatcher:
    """Return a dispatcher whose clock never really waits."""
    sender = make_sender(max_workers=max_workers, **options)
    return Dispatcher(sender, max_workers=max_workers, clock=clock or FakeClock())


def sends(respond: Callable[[Sequence[str]], object]) -> Callable[..., Answer]:
    """Return a `send` that calls `respond` with the texts and then answers with ones."""

    def send(texts: Sequence[str], *, timeout: float) -> Answer:
        del timeout
        respond(texts)
        return answer(len(texts))

    return send


def call(dispatcher: Dispatcher, work: Work, **options: Any) -> list[Outcome]:
    """Run a call to its end."""
    return list(dispatcher.run(work, Tally(), **options))


class TestCalls:
    """Each caller receives the outcomes of its own call."""

    def test_every_row_has_one_outcome(self) -> None:
        """Every row has one outcome: a vector, or the provider's error if the row was refused."""
        error = refusal(400)

        def respond(texts: Sequence[str]) -> None:
            if "17" in texts:
                raise error

        dispatcher = make_dispatcher()
        outcomes = call(dispatcher, make_work(100, max_items=10, send=sends(respond)))
        assert lost(outcomes) == {17: error}
        assert done(outcomes) == [row for row in range(100) if row != 17]
        assert dispatcher.sender.deployments[0].pacer.in_flight == {}

    def test_nothing_to_send_starts_no_thread(self) -> None:
        """A call with nothing to send, because the journal had everything, starts no thread."""
        before = threading.active_count()
        assert call(make_dispatcher(), make_work(0)) == []
        assert threading.active_count() == before

    def test_outcomes_reach_only_the_callers_concerned(self) -> None:
        """With twenty calls at a time, each call receives its own rows and no others."""
        dispatcher = make_dispatcher()

        def one(number: int) -> list[int]:
            begin = 1000 * number
            count = 1 + 7 * (number % 5)
            outcomes = call(dispatcher, make_work(count, begin=begin, max_items=3))
            assert done(outcomes) == list(range(begin, begin + count))
            return done(outcomes)

        with ThreadPoolExecutor(20) as executor:
            rows = [row for rows in executor.map(one, range(60)) for row in rows]
        assert len(rows) == len(set(rows))

    def test_vectors_are_kept_before_the_outcome_is_seen(self) -> None:
        """`keep` has stored the vectors of a row before the caller sees the row's outcome.

        A worker thread stores them, not the thread of the caller.
        """
        kept: dict[int, int] = {}

        def keep(rows: Rows, part: Answer) -> None:
            assert len(part.vectors) == len(rows)
            kept.update(dict.fromkeys(rows.tolist(), threading.get_ident()))

        dispatcher = make_dispatcher()
        for outcome in dispatcher.run(make_work(50, max_items=5, keep=keep), Tally()):
            assert set(outcome.rows.tolist()) <= kept.keys()
        assert threading.get_ident() not in kept.values()

    def test_vectors_that_cannot_be_kept_are_an_error_of_their_texts(self) -> None:
        """An error that `keep` raises, as a journal can, becomes the error of its texts."""

        def keep(rows: Rows, part: Answer) -> None:
            del part
            if 3 in rows:
                raise OSError("disk full")

        dispatcher = make_dispatcher(max_retries=1)
        outcomes = call(dispatcher, make_work(10, max_items=1, keep=keep))
        assert [type(error) for error in lost(outcomes).values()] == [OSError]

    def test_the_callers_context_is_seen_in_send(self) -> None:
        """`send` runs in the caller's context, as tracing needs."""
        name = contextvars.ContextVar("name", default="nobody")
        name.set("caller")
        seen = set()
        work = make_work(20, max_items=1, send=sends(lambda _: seen.add(name.get())))
        call(make_dispatcher(), work)
        assert seen == {"caller"}

    def test_two_calls_share_the_quota(self) -> None:
        """Two calls that share a quota take together as long as one call with the work of both."""
        clock = FakeClock()
        dispatcher = make_dispatcher(clock=clock, tokens_per_minute=600)
        with ThreadPoolExecutor(2) as executor:
            for outcomes in executor.map(
                lambda begin: call(dispatcher, make_work(10, begin=begin, max_items=1, tokens=100)),
                (0, 10),
            ):
                assert len(done(outcomes)) == 10
        assert clock.time >= (20 * 100 - 600) / 10 * 0.99

    def test_no_more_are_in_flight_than_may_be(self) -> None:
        """With four workers, four requests are in flight, and never five.

        Each one is answered only when nothing more may start, and what may start is being sent.
        """
        lock, inside, seen = threading.Lock(), [0], set[int]()
        dispatcher = make_dispatcher(max_workers=4)

        def is_full() -> bool:
            with dispatcher.lock, lock:
                return dispatcher._alarm == math.inf and dispatcher.sender.in_flight == inside[0]

        def respond(texts: Sequence[str]) -> None:
            del texts
            with lock:
                inside[0] += 1
            wait_until(is_full)
            with lock:
                seen.add(inside[0])
                inside[0] -= 1

        call(dispatcher, make_work(40, max_items=1, send=sends(respond)))
        assert max(seen) == 4


class TestManySmallCalls:
    """Calls of one text that arrive while all places are taken share the next request.

    `test_turns.py` counts their requests in simulated time.
    """

    def test_from_threads(self) -> None:
        """Fifty calls from threads, as in a web server, need at most two requests."""
        sent: list[Sequence[str]] = []
        dispatcher = make_dispatcher(max_workers=1, clock=SYSTEM_CLOCK)

        def respond(texts: Sequence[str]) -> None:
            sent.append(texts)
            if len(sent) == 1:
                wait_until(lambda: len(dispatcher.sender._turns.queues) == 50)

        def one(row: int) -> list[int]:
            return done(call(dispatcher, make_work(1, begin=row, send=send)))

        send = sends(respond)
        with ThreadPoolExecutor(50) as executor:
            assert list(executor.map(one, range(50))) == [[row] for row in range(50)]
        assert len(sent) <= 2

    def test_from_one_event_loop(self) -> None:
        """Fifty calls from one event loop need at most two requests, and do not block the loop."""
        sent: list[Sequence[str]] = []
        dispatcher = make_dispatcher(max_workers=1, clock=SYSTEM_CLOCK)

        def respond(texts: Sequence[str]) -> None:
            sent.append(texts)
            if len(sent) == 1:
                wait_until(lambda: len(dispatcher.sender._turns.queues) == 50)

        send = sends(respond)

        async def one(row: int) -> list[int]:
            work = make_work(1, begin=row, send=send)
            run = dispatcher.arun(work, Tally(), deadline=None, since=0.0)
            return done([outcome async for outcome in run])

        async def all_of_them() -> list[list[int]]:
            return await asyncio.gather(*map(one, range(50)))

        assert asyncio.run(all_of_them()) == [[row] for row in range(50)]
        assert len(sent) <= 2


class TestAsync:
    """`arun` does the same as `run` without a thread that waits."""

    def test_the_loop_goes_on_while_it_waits(self) -> None:
        """The event loop runs other tasks during a call: the answers depend on one of them here."""
        go_on = threading.Event()
        work = make_work(5, max_items=1, send=sends(lambda _: go_on.wait(10)))

        async def both() -> list[Outcome]:
            async def let_go() -> None:
                await asyncio.sleep(0)
                go_on.set()

            task = asyncio.create_task(let_go())
            run = make_dispatcher().arun(work, Tally(), deadline=None, since=0.0)
            outcomes = [outcome async for outcome in run]
            await task
            return outcomes

        assert done(asyncio.run(both())) == list(range(5))

    def test_a_cancelled_task_sends_nothing_more(self) -> None:
        """A cancelled task sends nothing more, and the dispatcher works for later calls."""
        dispatcher = make_dispatcher(max_workers=1)
        started, go_on, sent = threading.Event(), threading.Event(), list[str]()

        def respond(texts: Sequence[str]) -> None:
            sent.extend(texts)
            started.set()
            assert go_on.wait(10)

        async def cancel() -> None:
            async def run() -> None:
                work = make_work(50, max_items=1, tokens=5000, send=sends(respond))
                async for _ in dispatcher.arun(work, Tally(), deadline=None, since=0.0):
                    pass

            task = asyncio.create_task(run())
            await asyncio.to_thread(started.wait, 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(cancel())
        go_on.set()
        wait_until(lambda: not dispatcher.sender.deployments[0].pacer.in_flight)
        assert len(sent) == 1
        assert len(done(call(dispatcher, make_work(5)))) == 5

    def test_an_event_loop_that_was_closed_holds_up_nobody(self) -> None:
        """A call whose event loop was closed does not hold up the next call.

        Its request in flight is settled without the loop.
        """
        dispatcher = make_dispatcher(max_workers=1)
        go_on = threading.Event()
        work = make_work(5, max_items=1, send=sends(lambda _: go_on.wait(10)))

        async def abandon() -> Any:
            run = dispatcher.arun(work, Tally(), deadline=None, since=0.0)
            step = asyncio.ensure_future(anext(run))
            await asyncio.sleep(0)
            assert not step.done()
            return step

        loop = asyncio.new_event_loop()
        step = loop.run_until_complete(abandon())
        loop.close()
        assert not step.done()
        go_on.set()
        assert len(done(call(dispatcher, make_work(5)))) == 5
        for queue in list(dispatcher._wake_up):
            dispatcher._end(queue)


class TestEnding:
    """A call can end early and leaves the dispatcher usable."""

    def test_a_keyboard_interrupt_while_waiting_ends_the_call(self, mocker: MockerFixture) -> None:
        """After a keyboard interrupt nothing new is sent, and the next call works.

        The vectors of requests in flight are kept.
        """
        go_on, kept, sent = threading.Event(), list[int](), list[str]()
        dispatcher = make_dispatcher(max_workers=2)

        def respond(texts: Sequence[str]) -> None:
            sent.extend(texts)
            assert go_on.wait(10)

        work = make_work(
            50,
            max_items=1,
            tokens=5000,
            send=sends(respond),
            keep=lambda rows, _: kept.extend(rows.tolist()),
        )
        real = threading.Condition.wait
        main = threading.main_thread()

        def wait(self: threading.Condition, timeout: float | None = None) -> bool:
            if threading.current_thread() is main and len(sent) == 2:
                raise KeyboardInterrupt
            return real(self, 0.01 if threading.current_thread() is main else timeout)

        mocker.patch.object(threading.Condition, "wait", wait)
        with pytest.raises(KeyboardInterrupt):
            call(dispatcher, work)
        mocker.stopall()
        assert dispatcher.sender._turns.queues == {}
        go_on.set()
        wait_until(lambda: not dispatcher.sender.deployments[0].pacer.in_flight)
        assert sorted(kept) == [0, 1]
        assert len(sent) <= 2
        assert len(done(call(dispatcher, make_work(100)))) == 100

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
    def test_a_send_that_ends_the_thread_leaves_no_batch_without_outcome(
        self, error: BaseException
    ) -> None:
        """A `KeyboardInterrupt` or `SystemExit` in a worker still gives each text an outcome."""

        def respond(texts: Sequence[str]) -> None:
            del texts
            raise error

        outcomes = call(make_dispatcher(max_retries=1), make_work(3, send=sends(respond)))
        assert len(lost(outcomes)) == 3

    def test_closing_the_iterator_ends_the_call(self) -> None:
        """Closing the iterator of a call stops it from sending anything new."""
        sent = list[str]()
        dispatcher = make_dispatcher(max_workers=1)
        second = threading.Event()

        def respond(texts: Sequence[str]) -> None:
            sent.extend(texts)
            if len(sent) > 1:
                assert second.wait(10)

        outcomes = dispatcher.run(
            make_work(50, max_items=1, tokens=5000, send=sends(respond)), Tally()
        )
        assert isinstance(next(outcomes), Done)
        wait_until(lambda: len(sent) == 2)
        outcomes.close()  # type: ignore[attr-defined]
        second.set()
        wait_until(lambda: not dispatcher.sender.in_flight)
        assert len(sent) <= 2
        assert dispatcher.sender._turns.queues == {}

    def test_it_can_be_cancelled_from_another_thread(self) -> None:
        """Another thread cancels a call by setting its event and calling `wake`."""
        dispatcher, cancelled = make_dispatcher(max_workers=1), threading.Event()
        go_on, started = threading.Event(), threading.Event()

        def respond(texts: Sequence[str]) -> None:
            del texts
            started.set()
            assert go_on.wait(10)

        def cancel() -> None:
            assert started.wait(10)
            cancelled.set()
            dispatcher.wake()

        other = threading.Thread(target=cancel)
        other.start()
        work = make_work(50, max_items=1, send=sends(respond))
        assert call(dispatcher, work, cancelled=cancelled) == []
        other.join(10)
        go_on.set()

    def test_a_call_cancelled_in_the_rate_limiter_frees_its_place(
        self, mocker: MockerFixture
    ) -> None:
        """A call that is cancelled while its request waits in the rate limiter frees its place.

        The next call takes it at once.
        """
        cancelled, waits, go_on = threading.Event(), threading.Event(), threading.Event()

        def acquire(*, blocking: bool) -> bool:
            assert blocking
            waits.set()
            return go_on.wait(10)

        limiter = mocker.create_autospec(BaseRateLimiter, instance=True)
        limiter.acquire.side_effect = acquire
        dispatcher = Dispatcher(make_sender(max_workers=1), max_workers=1, rate_limiter=limiter)
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(call, dispatcher, make_work(5), cancelled=cancelled)
            assert waits.wait(10)
            second = pool.submit(call, dispatcher, make_work(5))
            wait_until(lambda: len(dispatcher.sender._turns.queues) == 2)
            cancelled.set()
            dispatcher.wake()
            assert first.result(10) == []
            wait_until(lambda: dispatcher._alarm > dispatcher.clock.now() + 1)
            go_on.set()
            assert len(done(second.result(10))) == 5

    def test_a_deadline_ends_it(self) -> None:
        """The deadline ends a call without waiting for the requests in flight."""
        go_on = threading.Event()
        work = make_work(10, max_items=1, send=sends(lambda _: go_on.wait(10)))
        outcomes = call(make_dispatcher(max_workers=2), work, deadline=5.0)
        go_on.set()
        assert len(lost(outcomes)) == 10

    def test_a_deadline_counts_from_when_the_call_began(self) -> None:
        """The deadline counts from the beginning of the call, including the time to prepare it."""
        clock = FakeClock()
        clock.time = 100.0
        go_on = threading.Event()
        work = make_work(1, send=sends(lambda _: go_on.wait(10)))
        call(make_dispatcher(clock=clock), work, deadline=5.0, since=97.0)
        go_on.set()
        assert clock.time == pytest.approx(102)


class TestThreads:
    """Threads are started as they are needed, and no call waits for one that cannot start."""

    def test_a_thread_that_cannot_be_started_loses_no_place(self, mocker: MockerFixture) -> None:
        """A request whose thread cannot be started is submitted again a moment later."""
        real, failures = ThreadPoolExecutor.submit, itertools.count()

        def submit(self: ThreadPoolExecutor, *arguments: Any) -> Any:
            if next(failures) % 2 == 0:
                raise RuntimeError("can't start new thread")
            return real(self, *arguments)

        mocker.patch.object(ThreadPoolExecutor, "submit", submit)
        tally = Tally()
        dispatcher = make_dispatcher(max_workers=2)
        outcomes = list(dispatcher.run(make_work(20, max_items=1), tally))
        assert done(outcomes) == list(range(20))
        assert tally.requests == 20
        assert dispatcher.sender.deployments[0].pacer.in_flight == {}

    def test_a_request_that_was_queued_all_the_same_is_sent_once(
        self, mocker: MockerFixture
    ) -> None:
        """A request is sent once even if `submit` fails after it has put it into the queue.

        `submit` puts a request into the queue before it tries to start a thread. A thread takes it
        out later here, when the request has been undone.
        """
        real, failures = ThreadPoolExecutor.submit, itertools.count()

        def late(send: Callable[[Flight], None], flight: Flight) -> None:
            wait_until(lambda: flight.is_undone)
            send(flight)

        def submit(self: ThreadPoolExecutor, *arguments: Any) -> Any:
            if next(failures) % 3 == 0:
                real(self, late, *arguments)
                raise RuntimeError("can't start new thread")
            return real(self, *arguments)

        mocker.patch.object(ThreadPoolExecutor, "submit", submit)
        sent = list[str]()
        dispatcher = make_dispatcher(max_workers=2)
        outcomes = call(dispatcher, make_work(20, max_items=1, send=sends(sent.extend)))
        assert done(outcomes) == list(range(20))
        assert sorted(sent, key=int) == [str(row) for row in range(20)]
        assert next(failures) > 20
        assert dispatcher.sender.deployments[0].pacer.in_flight == {}

    def test_workers_that_ended_with_the_last_call_are_replaced(
        self, mocker: MockerFixture, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A request for workers that have just ended goes to new ones, without a warning."""
        dispatcher, failures = make_dispatcher(), iter([True])

        def submit(workers: ThreadPoolExecutor, *call: Any) -> None:
            if next(failures, False):
                with dispatcher.lock:  # as the timekeeper does when the last call ends
                    dispatcher._executor = None
                workers.shutdown(wait=False)
            submit_daemon(workers, *call)

        mocker.patch("langchain_batch_embed.sending.dispatcher.submit_daemon", submit)
        assert len(done(call(dispatcher, make_work(5)))) == 5
        assert "No thread" not in caplog.text

    def test_without_any_thread_the_call_ends(self, mocker: MockerFixture) -> None:
        """Where no thread can be started, the call ends after `SUBMIT_TRIES` tries.

        Its errors carry the reason.
        """
        error = RuntimeError("can't start new thread")
        submit = mocker.patch.object(ThreadPoolExecutor, "submit", side_effect=error)
        outcomes = call(make_dispatcher(), make_work(20))
        errors = lost(outcomes)
        assert len(errors) == 20
        reasons = [each.__cause__ for each in errors.values() if isinstance(each, NotSentError)]
        assert len(reasons) == 20
        assert all("max_workers" in str(each) for each in reasons)
        assert {each.__cause__ for each in reasons if each is not None} == {error}
        assert submit.call_count == SUBMIT_TRIES

    def test_at_the_end_of_python_the_call_ends_at_once(self, mocker: MockerFixture) -> None:
        """Where Python is exiting and refuses every thread, the call ends after the first try."""
        refused = RuntimeError("cannot schedule new futures after interpreter shutdown")
        mocker.patch.object(ThreadPoolExecutor, "submit", side_effect=refused)
        mocker.patch.object(concurrent.futures.thread, "_shutdown", new=True)
        real = threading.Thread.start

        def begin(self: threading.Thread) -> None:
            if self.name == "batch-embed-late":
                raise RuntimeError("can't create new thread at interpreter shutdown")
            real(self)

        mocker.patch.object(threading.Thread, "start", begin)
        clock = FakeClock()
        errors = lost(call(make_dispatcher(clock=clock), make_work(20)))
        assert len(errors) == 20
        assert all("Python is exiting" in str(each.__cause__) for each in errors.values())
        assert clock.waits == []

    def test_where_no_thread_runs_any_more_a_call_is_an_error(self, mocker: MockerFixture) -> None:
        """A call while Python is exiting is an error at once, even if the lock is never free again.

        A thread that Python has stopped may hold the lock.
        """
        dispatcher = make_dispatcher()
        mocker.patch.object(sys, "is_finalizing", return_value=True)
        mocker.patch.object(dispatcher, "lock", None)  # fails where it is taken
        with pytest.raises(BatchEmbeddingsError, match="Python is exiting"):
            call(dispatcher, make_work(5))

    def test_a_timekeeper_that_cannot_be_started_is_an_error_of_the_call(
        self, mocker: MockerFixture
    ) -> None:
        """A timekeeper that cannot be started fails the call, and the next call tries again."""
        dispatcher = make_dispatcher()
        mocker.patch.object(threading.Thread, "start", side_effect=RuntimeError("no thread"))
        with pytest.raises(RuntimeError, match="no thread"):
            call(dispatcher, make_work(5))
        mocker.stopall()
        assert len(done(call(dispatcher, make_work(5)))) == 5

    def test_the_timekeeper_ends_with_the_last_call(self) -> None:
        """The timekeeper ends with the last call, so an idle object costs no processor time."""
        dispatcher = make_dispatcher()
        call(dispatcher, make_work(5))
        wait_until(lambda: dispatcher._timekeeper is None)

    @pytest.mark.parametrize("method", ["answered", "failed", "next"])
    def test_a_mistake_of_ours_ends_the_call(
        self, method: str, mocker: MockerFixture, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A bug in this package ends the call with errors, and no caller waits forever.

        The next call of the same object works.
        """

        def respond(texts: Sequence[str]) -> None:
            if method == "failed":
                raise refusal(400, f"not {texts[0]}")

        dispatcher = make_dispatcher()
        mocker.patch.object(sender_module.Sender, method, side_effect=ZeroDivisionError)
        outcomes = call(dispatcher, make_work(20, max_items=5, send=sends(respond)))
        assert {type(outcome) for outcome in outcomes} == {Lost}
        assert len(lost(outcomes)) == 20
        assert "A bug in langchain_batch_embed" in caplog.text
        wait_until(lambda: not dispatcher.sender.in_flight)
        mocker.stopall()
        assert len(done(call(dispatcher, make_work(5)))) == 5

    def test_a_mistake_about_a_canary_ends_the_call(self, mocker: MockerFixture) -> None:
        """A bug that a canary's answer meets ends all calls, rather than send it for ever."""
        dispatcher, sent = make_dispatcher(), list[str]()
        dispatcher.sender.deployments[0].is_canary_due = True
        mocker.patch.object(Deployment, "canary_passed", side_effect=ZeroDivisionError)
        outcomes = call(dispatcher, make_work(20, max_items=5, send=sends(sent.extend)))
        assert len(lost(outcomes)) == 20
        assert sent == [CANARY]
