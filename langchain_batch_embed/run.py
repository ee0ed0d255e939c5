"""One call's batches on their way: sent, answered, tried again, split, sent twice or given up.

The only module with threads for requests; see `dispatch` for who does what.
"""

import heapq
import itertools
import logging
import math
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.errors import DeadlineError
from langchain_batch_embed.hedging import Hedges
from langchain_batch_embed.pacing import Ticket
from langchain_batch_embed.packing import guided
from langchain_batch_embed.report import Tally
from langchain_batch_embed.retry import Decision, GiveUp, Retry, Split, decide
from langchain_batch_embed.work import Batch, Done, Lost, Outcome, Work, halves, parts

if TYPE_CHECKING:
    from langchain_batch_embed.dispatch import Dispatcher

__all__ = ["Run"]

logger = logging.getLogger(__name__)

FAILED_IN_A_ROW = 8
"""So many given up with not one answer in between: it is not the texts, and nothing more is sent.

Counted are texts that failed alone, and batches that were retried as often as they may be.
"""

BACKLOG = 3
"""Answers that may wait for the caller's thread before a near server is asked for more: it answers
faster than lists are made, and what waits takes memory."""

MERGED = 1024
"""Texts in batches that are put together, at most: an answer with twice as many is no faster to
read, and takes twice the memory while it is."""


class Run:
    """One call's batches on their way."""

    def __init__(
        self,
        shared: "Dispatcher",
        work: Work,
        tally: Tally,
        hedges: Hedges,
        *,
        deadline: float | None,
        since: float | None,
        cancelled: threading.Event | None,
    ) -> None:
        self._shared = shared
        self._work = work
        self._tally = tally
        self._cancelled = cancelled or threading.Event()
        self._allowed = deadline
        begin = shared.clock.now() if since is None else since
        self._end = math.inf if deadline is None else begin + deadline
        self._ready = deque(self._batch(rows) for rows in work.batches)
        self._delayed: list[tuple[float, int, Batch]] = []  # a heap by due time
        self._number = itertools.count()  # keeps the heap from comparing batches
        self._outcomes: deque[Outcome] = deque()
        self._open = len(self._ready)  # batches without an outcome
        self._in_flight: dict[int, Batch] = {}
        self._answered = False
        self._waits_for_answers = False  # the first of those that are ready does
        self._hedges = hedges
        self.charge = sum(batch.charge for batch in self._ready)  # tokens of all of it
        self._stopped = False
        self._failed_in_a_row = 0  # given up, or tried often enough, since the last answer
        self._fatal: BaseException | None = None  # concerns every text: nothing more is sent
        self._executor = ThreadPoolExecutor(shared.max_workers, "batch-embed")

    def outcomes(self) -> Iterator[Outcome]:
        """Yield outcomes until every batch has one, the deadline passes, or it is cancelled."""
        changed = self._shared.changed
        while True:
            with changed:
                while not self._cancelled.is_set():
                    now = self._shared.clock.now()
                    wait = self._pump(now)
                    left = self._end - now
                    # With nothing in flight, no quota that comes after the deadline is waited for.
                    hopeless = left <= 0 or (left <= wait < math.inf and not self._in_flight)
                    if self._open and self._allowed is not None and hopeless:
                        self._lose_the_rest(DeadlineError(self._allowed), abandon=True)
                    if not self._open or self._hands_over():
                        break
                    self._shared.clock.wait(changed, min(wait, left))
                if self._cancelled.is_set() or not self._outcomes:
                    return
                outcome = self._outcomes.popleft()
                self._pump(self._shared.clock.now())  # there is room for one more
            yield outcome

    def stop(self) -> None:
        """Start nothing more. Threads end when their request does."""
        with self._shared.changed:
            self._stopped = True
        self._executor.shutdown(wait=False)

    # All below runs with `changed` held, except `_request`.

    def has_next(self, now: float) -> bool:
        """Tell whether there is a batch to start as soon as the pacer lets it through.

        For that, what is to be tried again by now comes first, and is split where it no longer
        keeps the limits that were learnt.
        """
        while self._delayed and self._delayed[0][0] <= now:
            self._ready.appendleft(heapq.heappop(self._delayed)[2])
        narrowed = self._shared.pacer.window.is_narrowed
        full = narrowed and len(self._outcomes) >= BACKLOG
        if not self._ready or self._stopped or full or self._cancelled.is_set() or now >= self._end:
            return False
        while not self._shared.fits(self._ready[0]):
            batch = self._ready.popleft()
            self._replace(batch, halves(batch.rows))
        return True

    def left(self) -> int:
        """Return how many batches have not been started."""
        return len(self._ready)

    def next_charge(self) -> int:
        """Return the tokens that the limiter will charge for the next batch."""
        return self._ready[0].charge

    def start_next(self, now: float) -> float:
        """Start a batch if the pacer lets it through; return the seconds to wait else."""
        wait = self._wait(self._ready[0], now)
        if wait <= 0:
            batch = self._ready.popleft()
            self._start(self._enlarged(batch, now), now)
        return wait

    def _hands_over(self) -> bool:
        """Tell whether the caller's thread is given an outcome now.

        Where it makes lists of floats, that holds the interpreter's lock, which sending and reading
        need too. What is sent late ends late, and the last answers leave time enough for lists:
        so while batches wait for answers to make room for them, outcomes wait too, but no more of
        them than requests are in flight.
        """
        answers_first = (
            self._work.lists
            and self._waits_for_answers
            and not self._shared.pacer.window.is_narrowed  # a near server never waits
            and len(self._outcomes) <= len(self._in_flight)
        )
        return bool(self._outcomes) and not answers_first

    def _pump(self, now: float) -> float:
        """Start what may start now; return the seconds until something more of this run may."""
        turn = self._shared.start(now)
        self._waits_for_answers = False
        due = self._delayed[0][0] - now if self._delayed else math.inf
        if self.has_next(now):
            wait = self._wait(self._ready[0], now) or turn
            self._waits_for_answers = wait == math.inf
            return min(wait, due)
        if self._stopped or self._ready or self._delayed or self._cancelled.is_set():
            return due
        return self._hedge(now) if self._shared.hedge else math.inf

    def _enlarged(self, batch: Batch, now: float) -> Batch:
        """Add the batches that follow, where fewer requests are better than many.

        They are where the server is near: there this process is what everything waits for, and
        each request has its cost here.
        """
        window = self._shared.pacer.window
        if not window.is_narrowed or not self._ready:
            return batch
        left = batch.weight + sum(other.weight for other in self._ready)
        target = min(guided(left, window.useful), self._work.max_tokens)
        most = min(MERGED, self._work.max_items)
        while self._ready and not batch.attempt and not self._ready[0].attempt:
            both = self._batch(np.concatenate((batch.rows, self._ready[0].rows)))
            fits = both.weight <= target and len(both.rows) <= most
            if not (fits and self._shared.fits(both) and not self._wait(both, now)):
                break
            batch = both
            self._ready.popleft()
            self._open -= 1
        return batch

    def _wait(self, batch: Batch, now: float) -> float:
        return self._shared.pacer.wait(batch.charge, now)

    def _start(self, batch: Batch, now: float) -> None:
        ticket = self._shared.pacer.start(batch.charge, now, worked=self._shared.clock.worked())
        batch.sent = now
        batch.copies += 1
        self._in_flight[id(batch)] = batch
        self._tally.requests += 1
        self._executor.submit(self._request, batch, ticket)

    def _hedge(self, now: float) -> float:
        """Send stragglers a second time; return the seconds until there may be another one."""
        if self._stopped:
            return math.inf
        patience = self._hedges.patience(sum(batch.charge for batch in self._in_flight.values()))
        wait = math.inf
        for batch in list(self._in_flight.values()):
            left = batch.sent + patience - now
            if batch.copies > 1 or not self._hedges.affords(batch.charge):
                continue
            if left <= 0 and self._wait(batch, now) == 0:
                self._hedges.spend(batch.charge)
                self._tally.hedged += 1
                self._start(batch, now)
            elif left > 0:
                wait = min(wait, left)
        return wait

    def _request(self, batch: Batch, ticket: Ticket) -> None:
        """Send one batch and settle its outcome; runs in a worker thread."""
        shared = self._shared
        timeout = min(shared.timeout, max(0.001, self._end - shared.clock.now()))
        began = shared.clock.worked_here()
        try:
            answer = self._work.send(batch.rows, timeout)
            # Before anybody sees the vectors: who has the last of them may ask what they cost.
            with shared.changed:
                self._tally.answered(answer.tokens, batch.charge)
            self._work.keep(batch.rows, answer)
        except BaseException as error:  # noqa: BLE001  # nothing may leave a batch without outcome
            with shared.changed:
                self._settle_error(batch, ticket, error)
                self._settled(batch)
        else:
            with shared.changed:
                now = shared.clock.now()
                shared.pacer.succeeded(
                    ticket,
                    answer.headers,
                    now,
                    worked=shared.clock.worked(),
                    own=shared.clock.worked_here() - began,
                )
                self._hedges.answered(now - ticket.sent)
                self._failed_in_a_row = 0
                self._answered = True
                self._finish(batch, Done(batch.rows))
                self._settled(batch)

    def _settled(self, batch: Batch) -> None:
        batch.copies -= 1
        if not batch.copies:
            self._in_flight.pop(id(batch), None)
        self._pump(self._shared.clock.now())
        self._shared.changed.notify_all()

    def _settle_error(self, batch: Batch, ticket: Ticket, error: BaseException) -> None:
        """Tell the pacer of a failed request, and do with its batch what was decided."""
        shared = self._shared
        now = shared.clock.now()
        decision = self._decide(batch, error)
        self._tell_pacer(ticket, decision, error, now)
        if id(batch) not in self._in_flight or batch.copies > 1:
            return  # abandoned at the deadline, answered already, or it may be answered yet
        if self._fatal is not None:
            self._finish(batch, Lost(batch.rows, self._fatal))
        elif isinstance(decision, Retry):
            self._retry(batch, decision, error, now)
        elif isinstance(decision, Split):
            shared.learn(batch, decision)
            self._tally.splits += 1
            self._replace(batch, parts(batch.rows, decision))
        else:
            self._give_up(batch, decision, error)

    def _decide(self, batch: Batch, error: BaseException) -> Decision:
        shared = self._shared
        try:
            return decide(
                error,
                attempt=batch.attempt,
                inputs=len(batch.rows),
                max_retries=shared.max_retries,
                backoff=shared.backoff,
                draw=shared.draw,
            )
        except Exception as mistake:  # noqa: BLE001  # it must not be waited for for ever
            names = type(error).__name__, type(mistake).__name__
            logger.error("%s is not understood (%s), so it is not tried again", *names)
            return GiveUp()

    def _tell_pacer(
        self, ticket: Ticket, decision: Decision, error: BaseException, now: float
    ) -> None:
        pacer = self._shared.pacer
        if isinstance(decision, Retry) and decision.throttled:
            pacer.refused(
                ticket,
                now,
                after=decision.after,
                headers=_headers(error),
                quota=decision.quota,
            )
            self._tally.throttled += 1
        else:
            overloaded = isinstance(decision, Retry) and decision.overloaded
            pacer.failed(ticket, now, overloaded=overloaded)

    def _retry(self, batch: Batch, decision: Retry, error: BaseException, now: float) -> None:
        # A server that was never heard of may be down, or its address wrong: that is not to
        # be found out after minutes of silence.
        silent = not (self._answered or self._tally.retries or decision.throttled)
        logger.log(
            logging.WARNING if silent else logging.INFO,
            "%s: sending %d texts again %.3g s later (retry %d of %d)",
            type(error).__name__,
            len(batch.rows),
            decision.after,
            batch.attempt + 1,
            self._shared.max_retries,
        )
        batch.attempt += 1
        self._tally.retries += 1
        if decision.throttled:  # the pacer holds everybody back for that long
            self._ready.appendleft(batch)
        else:
            heapq.heappush(self._delayed, (now + decision.after, next(self._number), batch))

    def _give_up(self, batch: Batch, decision: GiveUp, error: BaseException) -> None:
        alone = len(batch.rows) == 1
        self._failed_in_a_row += alone or decision.exhausted
        fatal = decision.everything or self._failed_in_a_row >= FAILED_IN_A_ROW
        if decision.exhausted and not alone and not fatal:
            # Perhaps one of these texts is what the server stumbles over.
            self._replace(batch, halves(batch.rows))
            return
        self._finish(batch, Lost(batch.rows, error))
        if fatal:
            # What is in flight is paid for, so its answer is waited for.
            self._fatal = error
            self._lose_the_rest(error, abandon=False)

    def _lose_the_rest(self, error: BaseException, *, abandon: bool) -> None:
        """Give up every batch that is not in flight, and with `abandon` those too."""
        rest = [*self._ready, *(batch for _, _, batch in self._delayed)]
        self._ready.clear()
        self._delayed.clear()
        if abandon:
            rest += self._in_flight.values()
            self._in_flight.clear()
            self._stopped = True
        for batch in rest:
            self._open -= 1
            self._outcomes.append(Lost(batch.rows, error))

    def _finish(self, batch: Batch, outcome: Outcome) -> None:
        # Where it is not in there, it was abandoned at the deadline, or the other copy was faster.
        if self._in_flight.pop(id(batch), None) is not None:
            self._open -= 1
            self._outcomes.append(outcome)

    def _replace(self, batch: Batch, parts: Sequence[NDArray[np.intp]]) -> None:
        """Put smaller batches into the place of one."""
        self._open += len(parts) - 1
        for rows in reversed(parts):
            part = self._batch(rows)
            # One more try at least for what was tried often as a part of something larger.
            part.attempt = min(batch.attempt, max(0, self._shared.max_retries - 1))
            self._ready.appendleft(part)

    def _batch(self, rows: NDArray[np.intp]) -> Batch:
        return Batch(
            rows=rows,
            weight=int(self._work.weights[rows].sum()),
            charge=int(self._work.charges[rows].sum()),
        )


def _headers(error: BaseException) -> Mapping[str, str]:
    response: Any = getattr(error, "response", None)
    headers: Mapping[str, str] = getattr(response, "headers", None) or {}
    return headers
