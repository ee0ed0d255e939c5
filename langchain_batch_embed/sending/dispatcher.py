"""Sends requests in parallel: the only place that locks, waits and submits.

The `Sender` decides under the lock, and its decisions are carried out outside it: lock, ask,
unlock, submit, wait. Four kinds of threads take part:

- workers of one `ThreadPoolExecutor` send requests, report how they ended, and submit more; once
  the main thread has ended, the executor refuses work, and each request has a thread of its own;
- the timekeeper submits requests when a wait is over;
- the leaser of a shared quota talks to the ledger, and then wakes the timekeeper;
- callers wait for outcomes. They submit nothing, so a Ctrl-C never comes between a decision and its
  execution.
"""

import asyncio
import logging
import math
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from langchain_core.rate_limiters import BaseRateLimiter

from langchain_batch_embed.clock import SYSTEM_CLOCK, Clock
from langchain_batch_embed.errors import BatchEmbeddingsError
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.pacing.status import Status
from langchain_batch_embed.providers import Answer
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending.flight import Flight
from langchain_batch_embed.sending.queue import Queue
from langchain_batch_embed.sending.sender import Sender
from langchain_batch_embed.sending.threads import (
    check_threads_run,
    finishing,
    start,
    submit_daemon,
)
from langchain_batch_embed.sending.work import Outcome, Work
from langchain_batch_embed.shared.leaser import Leaser

__all__ = ["Dispatcher"]

logger = logging.getLogger(__name__)

SPARE_WORKERS = 1
"""Threads beyond `max_workers` for each deployment, for the probe of a server at which all other
threads hang."""

SUBMIT_AGAIN = 0.5
"""Seconds until a request for which no thread could be started is submitted again."""

SUBMIT_TRIES = 20
"""After this many failures to submit with nothing in flight, the calls end."""

_LOOK = 60.0
"""Longest wait of a caller in seconds, as on some systems an unbounded wait blocks Ctrl-C."""


class Dispatcher:
    """Drives the sender of one object with threads, for all its calls.

    Args:
        sender: decides what to send when.
        max_workers: most requests in flight at all deployments together.
        rate_limiter: the user's rate limiter, for which each request waits in its thread.
        clock: time and waiting.
        leasers: lease quotas that are shared with other processes; empty if none are.
        check: raises if the answer to a canary of the deployment with this number does not match
            those of the others; `None` if there are no others.
    """

    def __init__(
        self,
        sender: Sender,
        *,
        max_workers: int,
        rate_limiter: BaseRateLimiter | None = None,
        clock: Clock = SYSTEM_CLOCK,
        leasers: Sequence[Leaser] = (),
        check: Callable[[int, Answer], None] | None = None,
    ) -> None:
        self.sender = sender
        self._rate_limiter = rate_limiter
        self.clock = clock
        self.max_workers = max_workers
        self.lock = threading.RLock()  # guards the sender and everything below
        self._alarm_changed = threading.Condition(self.lock)
        self._alarm = math.inf  # when something may start next
        self._timekeeper: threading.Thread | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._wake_up: dict[Queue, Callable[[], object]] = {}  # how to wake each caller
        self._failed_submits = 0
        self._check = check
        self._leasers = leasers
        for leaser in leasers:
            leaser.attach(self.lock, clock, self._look_again)

    def run(
        self,
        work: Work,
        tally: Tally,
        hedges: Hedges | None = None,
        *,
        deadline: float | None = None,
        since: float | None = None,
        cancelled: threading.Event | None = None,
    ) -> Iterator[Outcome]:
        """Send everything; yield each outcome as it comes, or soon after (`Queue.hands_over`).

        Closing the iterator ends the call: nothing new is sent, and what is in flight is still
        given to `work.keep` when it arrives.

        Args:
            work: what to send.
            tally: counts requests, retries and tokens.
            hedges: the budget for stragglers, shared with other calls; `None` for one of its own.
            deadline: seconds after which everything that is not done is given up.
            since: the clock's time from which they count; `None` for now.
            cancelled: set it, and call `wake`, to end the call from another thread.
        """
        if not len(work.rows):
            return
        check_threads_run()
        outcome_ready = threading.Condition(self.lock)
        queue = self._queue(work, tally, hedges, deadline=deadline, since=since)
        try:
            self._begin(queue, outcome_ready.notify)
            while True:
                with self.lock:
                    while not self._has_news(queue, cancelled):
                        outcome_ready.wait(_LOOK)
                    if (cancelled is not None and cancelled.is_set()) or not queue.outcomes:
                        return
                    outcome = self._take(queue)
                yield outcome
        finally:
            self._end(queue)

    async def arun(
        self, work: Work, tally: Tally, *, deadline: float | None, since: float
    ) -> AsyncGenerator[Outcome, None]:
        """Do the same as `run` without blocking the event loop or a thread."""
        if not len(work.rows):
            return
        check_threads_run()
        outcome_ready, loop = asyncio.Event(), asyncio.get_running_loop()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(outcome_ready.set)
            except RuntimeError:  # the loop was closed, so nothing waits any more
                self._end(queue)

        queue = self._queue(work, tally, None, deadline=deadline, since=since)
        try:
            self._begin(queue, wake)
            while True:
                outcome = None
                with self.lock:
                    outcome_ready.clear()
                    if self._has_news(queue, None):
                        if not queue.outcomes:
                            return
                        outcome = self._take(queue)
                if outcome is None:
                    await outcome_ready.wait()
                else:
                    yield outcome
        finally:
            self._end(queue)

    def wake(self) -> None:
        """Make every waiting call check again."""
        with self.lock:
            for wake_up in list(self._wake_up.values()):
                wake_up()

    def status(self, left: float) -> Status:
        """Return what a call with this many tokens without an answer waits for."""
        with self.lock:
            return self.sender.status(self.clock.now(), left=left)

    def _queue(
        self,
        work: Work,
        tally: Tally,
        hedges: Hedges | None,
        *,
        deadline: float | None,
        since: float | None,
    ) -> Queue:
        begin = self.clock.now() if since is None else since
        return self.sender.queue(work, tally, hedges or Hedges(), deadline=deadline, since=begin)

    def _begin(self, queue: Queue, wake_up: Callable[[], object]) -> None:
        with self.lock:
            self._wake_up[queue] = wake_up
            self.sender.add(queue, self.clock.now())
            self._alarm = -math.inf
            if self._timekeeper is None:
                self._timekeeper = threading.Thread(
                    target=self._keep_time, name="batch-embed-time", daemon=True
                )
                try:
                    start(self._timekeeper)
                except BaseException:
                    self._timekeeper = None
                    raise
            for leaser in self._leasers:
                leaser.begin()
            self._alarm_changed.notify()

    def _look_again(self) -> None:
        """Make the timekeeper ask the sender again; called under the lock."""
        self._alarm = -math.inf
        self._alarm_changed.notify()

    def _end(self, queue: Queue) -> None:
        with self.lock:
            self.sender.remove(queue)
            self._wake_up.pop(queue, None)
            self._look_again()  # it may have been the turn of this call

    def _take(self, queue: Queue) -> Outcome:
        outcome = queue.outcomes.popleft()
        if any(each.pacer.concurrency.is_saturated for each in self.sender.deployments):
            # There is room for one more request.
            self._look_again()
        return outcome

    @staticmethod
    def _has_news(queue: Queue, cancelled: threading.Event | None) -> bool:
        return (
            not queue.open
            or (bool(queue.outcomes) and queue.hands_over())
            or (cancelled is not None and cancelled.is_set())
        )

    def _keep_time(self) -> None:
        """Submit requests as soon as they may start, until the last call has ended."""
        while True:
            self._advance()
            with self.lock:
                if not self._wake_up:
                    self._timekeeper = None
                    for leaser in self._leasers:
                        leaser.end()
                    workers, self._executor = self._executor, None
                    if workers is not None:
                        workers.shutdown(wait=False)  # each ends with its request
                    return
                wait = self._alarm - self.clock.now()
                if wait > 0:
                    self.clock.wait(self._alarm_changed, wait)

    def _advance(self) -> None:
        """Submit all that may start now, and wake the callers that have an outcome."""
        is_submitted = True
        while is_submitted:
            with self.lock:
                now = self.clock.now()
                turn = self._next(now)
                for leaser in self._leasers:
                    leaser.look(now)
                if not isinstance(turn, Flight):
                    self._wake_callers()
                    earlier = now + turn < self._alarm
                    self._alarm = now + turn
                    if earlier:
                        self._alarm_changed.notify()
                    return
            is_submitted = self._submit(turn)

    def _next(self, now: float) -> Flight | float:
        """Return the sender's next request or wait; called under the lock."""
        try:
            return self.sender.next(now)
        except Exception as mistake:  # noqa: BLE001  # ours; no caller may wait without end because of it
            _log_mistake()
            self.sender.give_up(mistake, abandon=True)
            return math.inf

    def _wake_callers(self) -> None:
        """Wake the callers that have an outcome; called under the lock."""
        for queue in self.sender.news():
            wake_up = self._wake_up.get(queue)
            if wake_up is not None and self._has_news(queue, None):
                wake_up()

    def _submit(self, flight: Flight) -> bool:
        """Hand a request to a worker; return whether that was possible."""
        workers: ThreadPoolExecutor | None = None
        try:
            with self.lock:
                if self._executor is None:
                    self._executor = ThreadPoolExecutor(
                        self.max_workers + SPARE_WORKERS * len(self.sender.deployments),
                        "batch-embed",
                    )
                workers = self._executor
                if self._rate_limiter is not None:
                    self.sender.hold(flight)
            submit_daemon(workers, self._send, flight)  # never from a caller's thread
        except Exception as error:  # noqa: BLE001  # "can't start new thread", or Python is exiting
            with self.lock:
                flight.is_undone = True  # the executor may have queued it all the same
                self.sender.undo(flight)
                if workers is not self._executor:
                    self._look_again()  # the last call ended meanwhile, and so did these workers
                    return False
                self._failed_submits += 1
                is_exiting = isinstance(error, BatchEmbeddingsError)
                logger.warning("No thread could be started for a request: %s", error)
                is_hopeless = is_exiting or self._failed_submits >= SUBMIT_TRIES
                if is_hopeless and not self.sender.in_flight:
                    self.sender.give_up(error if is_exiting else _no_thread(error))
                self._wake_callers()
                self._alarm = self.clock.now() + SUBMIT_AGAIN
                self._alarm_changed.notify()
            return False
        self._failed_submits = 0
        return True

    def _send(self, flight: Flight) -> None:
        """Send one request and report its outcome; runs in a worker thread."""
        with self.lock:
            if flight.is_undone:
                return
        logger.debug("Sending %d texts, %d tokens", len(flight.texts), flight.ticket.charge)
        try:
            if not self._is_permitted(flight):
                self._advance()  # another call may have the place
                return
            answer = flight.context.copy().run(flight.send, flight.texts, timeout=flight.timeout)
        except BaseException as error:  # noqa: BLE001  # every batch needs an outcome
            self._settle(flight, partial(self.sender.failed, flight, error, self.clock.now()))
        else:
            # Measured before the journal writes, which is not part of the round trip.
            now = self.clock.now()
            seconds, count = now - flight.ticket.sent, len(flight.texts)
            logger.debug(
                "Answered after %.3g s: %d texts, %s tokens", seconds, count, answer.tokens
            )
            with finishing():
                errors = self._keep(flight, answer)
            tell = partial(self.sender.answered, headers=answer.headers, errors=errors)
            self._settle(flight, partial(tell, flight, now))
        self._advance()

    def _is_permitted(self, flight: Flight) -> bool:
        """Wait for the user's rate limiter; return whether the request is still wanted then.

        This wait is not part of the round trip.
        """
        if self._rate_limiter is None:
            return True
        self._rate_limiter.acquire(blocking=True)
        with self.lock:
            if flight.parts and all(queue.is_stopped for queue, _ in flight.parts):
                flight.is_undone = True
                self.sender.undo(flight)
            else:
                self.sender.restart(flight, self.clock.now())
            return not flight.is_undone

    def _settle(self, flight: Flight, tell: Callable[[], None]) -> None:
        with self.lock:
            try:
                tell()
            except Exception as mistake:  # noqa: BLE001  # ours; no caller may wait without end because of it
                _log_mistake()
                self.sender.abandon(flight, mistake)

    def _keep(self, flight: Flight, answer: Answer) -> dict[int, BaseException]:
        """Give each call its vectors; return errors by position where they cannot be used."""
        errors: dict[int, BaseException] = {}
        if not flight.parts and self._check is not None:
            try:
                self._check(flight.at.number, answer)
            except Exception as error:  # noqa: BLE001  # the vectors do not match, or the journal failed
                errors[0] = error
        charged = sum(batch.charge for _, batch in flight.parts)
        begin = 0
        for position, (queue, batch) in enumerate(flight.parts):
            part = answer
            if len(flight.parts) > 1:
                end = begin + len(batch.rows)
                tokens = answer.tokens
                if tokens is not None:
                    tokens = round(tokens * batch.charge / max(1, charged))
                part = replace(answer, vectors=answer.vectors[begin:end].copy(), tokens=tokens)
                begin = end
            try:
                # Before the caller sees the vectors, as it may ask at once what they cost.
                with self.lock:
                    batch.is_awaited = False
                    queue.tally.answered(part.tokens, batch.charge, number=flight.at.number)
                    if queue.work.budget is not None:
                        queue.work.budget.billed(
                            batch.charge if part.tokens is None else part.tokens
                        )
                queue.work.keep(batch.rows, part)
            except BaseException as error:  # noqa: BLE001  # wrong dimensions, or any error of a journal
                errors[position] = error
        return errors


def _log_mistake() -> None:
    """Log the exception that is being handled, which nothing but a bug of ours can have raised."""
    logger.error("A bug in langchain_batch_embed ended the call; please report it")


def _no_thread(error: Exception) -> BatchEmbeddingsError:
    """Return the error of a call for which no thread could be started."""
    ours = BatchEmbeddingsError(
        "no thread could be started to send the requests; see `ulimit -u` and the memory limit, "
        "or send fewer at once with max_workers="
    )
    ours.__cause__ = error
    return ours
