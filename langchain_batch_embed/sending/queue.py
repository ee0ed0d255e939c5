"""One call's batches: a state machine without threads, clock or lock.

The queue is told what happened (answered, refused, failed) and what time it is, and returns what to
send next, what to hand over, or how long to wait. Inputs that were never sent stand in a line, and
the next batch is cut from it when it is due to start: so whatever has been learnt by then (a quota,
a limit of texts, how many requests share the work) shapes what is left.
"""

import heapq
import itertools
import logging
import math
from collections import deque
from collections.abc import Sequence

from langchain_batch_embed.errors import BudgetError, DeadlineError, NotSentError
from langchain_batch_embed.pacing.concurrency import FIRST_WORK
from langchain_batch_embed.pacing.diagnosis import Diagnosis, Kind
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.pacing.pacer import Pacer
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending.line import Line
from langchain_batch_embed.sending.size_limits import SizeLimits
from langchain_batch_embed.sending.verdict import Cut, GiveUp, Hold, Judge, Park, Resend, divided
from langchain_batch_embed.sending.work import Batch, Division, Done, Lost, Outcome, Rows, Work
from langchain_batch_embed.texts.packing import WAVE_LEAST, requests_are_scarce

__all__ = ["Queue"]

logger = logging.getLogger(__name__)

BACKLOG = 3
"""Outcomes that may wait for the caller before a saturated server is asked for more: where this
process is what everything waits for, answers come faster than lists are made, and take memory."""

MOST_COPIES = 2
"""Copies of a request in flight, at most: the copy of one in a hundred is late as well."""

MERGED = 1024
"""Texts in a batch for a saturated server, at most: an answer with twice as many is no faster to
read, and takes twice the memory."""

AGAIN = 5
"""Batches that were refused for the rate count this many times: putting them together costs less
than sending each."""

FIRST_TIMEOUT = 15.0
"""With a shorter time-out than this many seconds the first requests hold less: in one line before
a processor that takes 40 ms for a short text, the last of 8 times 26 is answered after 8 s."""

HARMLESS_TIMEOUT = 60.0
"""With a time-out of this many seconds, `WAVE_LEAST` tokens in the first request do no harm: at 40
ms for a text of some 70 tokens that takes 9 s."""

SHARED_ROWS = 64
"""Texts of a call that may share a request with other calls, at most."""

SHARED_WORK = 16_000
"""The same in tokens, with 20 for each text."""


class Queue:
    """One call's batches on their way.

    Args:
        work: what to send.
        tally: where requests, retries and tokens are counted.
        hedges: what may be spent on stragglers.
        pacer: the server's state.
        limits: what one request may hold, as far as it was learnt.
        judge: says what becomes of batches that failed.
        timeout: seconds for one request.
        deadline: seconds for the call; `None`: any time.
        end: the time at which they are over.
        news: where the queue puts itself when there is an outcome.

    Attributes:
        outcomes: what the caller has not been given yet.
        open: inputs without an outcome.
        in_flight: batches that have been sent.
        charge: tokens that the limiter charges for all of it.
        last_error: of a request of this call.
    """

    def __init__(
        self,
        work: Work,
        tally: Tally,
        hedges: Hedges,
        *,
        pacer: Pacer,
        limits: SizeLimits,
        judge: Judge,
        timeout: float,
        deadline: float | None,
        end: float,
        news: dict["Queue", None],
    ) -> None:
        self.work = work
        self.tally = tally
        self.hedges = hedges
        self.end = end
        self.deadline = deadline
        self.timeout = timeout
        self.outcomes: deque[Outcome] = deque()
        self.open = len(work.rows)
        self.in_flight: dict[int, Batch] = {}
        self.is_stopped = self.is_given_up = False
        self.last_error: BaseException | None = None
        self.waits_for_answers = False  # its next batch waits for a place, not for the quota
        self._pacer = pacer
        self._limits = limits
        self._judge = judge
        self._news = news
        self._ready: deque[Batch] = deque()  # sent before, or parts of what was
        self._delayed: list[tuple[float, int, Batch]] = []  # a heap by due time
        self._number = itertools.count()  # keeps the heap from comparing batches
        self._parked: dict[int, Batch] = {}  # wait for what another batch's parts will tell
        self._line = Line(work.rows, work.sizes)
        self._cut: Batch | None = None  # the next batch of the line, cut but not taken
        self.charge = self._line.charge

    # What is asked of it.

    @property
    def is_small(self) -> bool:
        """Whether it is one small batch that was never sent, and so can share a request."""
        return (
            self.open == len(self.work.rows) > 0
            and len(self._ready) + len(self._delayed) <= 1
            and not self._parked
            and len(self.work.rows) <= SHARED_ROWS
            and self._line.work <= SHARED_WORK
        )

    def left(self) -> int:
        """Return how much work has not been started, in tokens."""
        return self._line.work_left + sum(batch.work for batch in self._ready)

    def planned(self) -> tuple[int, int]:
        """Return how many requests are planned for what was never sent, and their charge."""
        return self._line.planned

    def peek(self, now: float) -> Batch | None:
        """Return the batch that is to start next; `None`: nothing can start now."""
        while self._delayed and self._delayed[0][0] <= now:
            self._ready.appendleft(heapq.heappop(self._delayed)[2])
        if self.is_stopped or now >= self.end or self._is_full():
            return None
        if len(self._ready) > 1 and requests_are_scarce(
            AGAIN * len(self._ready), self._pacer.rate_of_requests()
        ):
            self._return_to_line()
        while self._ready:
            batch = self._ready[0]
            if self._limits.fits(batch) and self._within_quota(batch):
                return batch
            self._ready.popleft()
            self._replace(batch, now)
        return self._next_in_line()

    def take(self, batch: Batch, now: float) -> None:
        """Note that the batch that `peek` returned, or a copy of one in flight, is sent."""
        if batch is self._cut:
            self._line.take(len(batch.rows))
            self._cut = None
        elif self._ready and batch is self._ready[0]:
            self._ready.popleft()
        batch.sent = now
        batch.copies += 1
        self.in_flight[id(batch)] = batch

    def put_back(self, batch: Batch) -> None:
        """Undo a `take`: the batch could not be submitted."""
        batch.copies -= 1
        if not batch.copies and self.in_flight.pop(id(batch), None) is not None:
            self._ready.appendleft(batch)

    def due(self, now: float) -> float:
        """Return the seconds until a delayed batch is due; `inf`: there is none."""
        return max(0.0, self._delayed[0][0] - now) if self._delayed else math.inf

    def straggler(self, now: float) -> tuple[Batch | None, float]:
        """Return a batch to send a second time, or the seconds until there may be one."""
        if self.is_given_up or self._ready or self._delayed or self._line.count:
            return None, math.inf
        late = [batch for batch in self.in_flight.values() if batch.copies <= MOST_COPIES]
        patience = self.hedges.patience(sum(batch.charge for batch in late if batch.copies == 1))
        wait = math.inf
        for batch in late:
            if not self.hedges.affords(batch.charge):
                continue
            left = batch.sent + patience - now
            if left <= 0:
                return batch, 0.0
            wait = min(wait, left)
        return None, wait

    def hands_over(self) -> bool:
        """Tell whether the caller's thread is given an outcome now.

        Where it makes lists of floats, that holds the interpreter's lock, which sending and reading
        need too. While batches wait for answers to make room for them, outcomes wait too, but no
        more of them than requests are in flight: the last answers leave time enough for lists.
        """
        answers_first = (
            self.work.makes_lists
            and self.waits_for_answers
            and not self._pacer.concurrency.is_saturated
            and len(self.outcomes) <= len(self.in_flight)
        )
        return bool(self.outcomes) and not answers_first

    # What it is told.

    def answered(self, batch: Batch, seconds: float) -> None:
        """Note that a batch's vectors are there."""
        batch.copies -= 1
        if batch.is_settled:
            return  # the other copy was faster, or it was abandoned at the deadline
        self.hedges.answered(seconds)
        self._settle(batch, Done(batch.rows))
        self._judge.answered(batch)
        self._release(self._limits.answered(batch, seconds, self.timeout))

    def failed(self, batch: Batch, diagnosis: Diagnosis, error: BaseException, now: float) -> None:
        """Do what is right with a batch that was refused, or could not be answered."""
        batch.copies -= 1
        if batch.is_settled or batch.copies:
            return  # abandoned, answered by its copy, or the copy may still be answered
        self.in_flight.pop(id(batch), None)
        batch.error = self.last_error = error
        if diagnosis.kind is Kind.THROTTLED:
            self.tally.throttled += 1
        if self.is_given_up:
            self._settle(batch, Lost(batch.rows, error))
            self._release(self._limits.dropped(batch))
            return
        match self._judge.verdict(batch, diagnosis, error, now):
            case GiveUp(released):
                self._settle(batch, Lost(batch.rows, error))
                self._release(released)
            case Hold():
                self._ready.appendleft(batch)
            case Resend(after):
                self._resend(batch, error, after, now)
            case Cut(rows, after):
                self.tally.splits += 1
                self._put_parts(batch, rows, now, delay=after)
            case Park():
                self._parked[id(batch)] = batch

    def resend(self, batch: Batch) -> None:
        """Send a batch again by itself: it shared a request that failed for another's texts."""
        batch.copies -= 1
        if not batch.is_settled and self.in_flight.pop(id(batch), None) is not None:
            batch.signature = batch.signature or "shared"
            self._ready.appendleft(batch)

    def give_up(
        self, error: BaseException, *, abandon: bool = False, concerns_all: bool = False
    ) -> None:
        """Give up all that is not in flight.

        What was sent and failed carries its own error; what was never sent says so.

        Args:
            error: what ends the call.
            abandon: give up what is in flight too.
            concerns_all: the error is about all texts, whatever else was wrong with some.
        """
        self.is_given_up = True
        tried = [*self._ready, *(batch for _, _, batch in self._delayed), *self._parked.values()]
        if abandon:
            tried += self.in_flight.values()
            self.in_flight.clear()
            self.is_stopped = True
        rest, self._cut = self._line.clear(), None
        self._ready.clear()
        self._delayed.clear()
        self._parked.clear()
        is_late = isinstance(error, DeadlineError | BudgetError)
        unsent = error if is_late else NotSentError(error)
        for batch in tried:
            own = error if is_late or (concerns_all and batch.error) else batch.error
            self._settle(batch, Lost(batch.rows, own or unsent))
            self._release(self._limits.dropped(batch))
        if len(rest):
            self._outcome(Lost(rest, unsent))

    def release_delayed(self) -> None:
        """Make ready all that waits for the server to come back: it is back.

        What failed most often goes first, or at a server that restarts again and again it would
        always be in what is broken next.
        """
        batches = sorted((batch for _, _, batch in self._delayed), key=lambda each: each.failures)
        self._delayed.clear()
        self._ready.extendleft(batches)

    def stop(self) -> None:
        """Start nothing more, and hold up no other call that waits for what is found out here."""
        self.is_stopped = self.is_given_up = True
        here = [*self._ready, *(batch for _, _, batch in self._delayed), *self.in_flight.values()]
        for batch in here:
            self._release(self._limits.dropped(batch))

    # How batches are cut.

    def _return_to_line(self) -> None:
        """Put batches that were only refused for the rate back, to be cut in fewer pieces."""
        fresh = [batch for batch in self._ready if not (batch.signature or batch.trial)]
        if len(fresh) < 2:  # noqa: PLR2004  # one is cut already
            return
        for batch in fresh:
            self._ready.remove(batch)
            batch.is_settled = True
        self._line.put_back([batch.rows for batch in fresh])
        self._cut = None

    def _is_full(self) -> bool:
        return self._pacer.concurrency.is_saturated and len(self.outcomes) >= BACKLOG

    def _within_quota(self, batch: Batch) -> bool:
        return len(batch.rows) == 1 or batch.charge <= self._pacer.largest()

    def _next_in_line(self) -> Batch | None:
        if not self._line.count:
            return None
        limits, concurrency = self._limits, self._pacer.concurrency
        items = min(self.work.max_items, limits.items)
        tokens = min(self.work.max_tokens, limits.tokens, self._pacer.largest())
        if concurrency.is_saturated and concurrency.most > 1:
            items = min(items, MERGED)
        has_changed = self._line.plan(
            items=int(items),
            tokens=tokens,
            workers=concurrency.useful,
            per_minute=self._pacer.rate_of_requests(),
            # While nothing is known of the quota, what comes next waits for the first answers.
            smallest_first=concurrency.is_opening,
        )
        budget = self.work.budget
        affordable = math.inf if budget is None else budget.left
        if has_changed or self._cut is None or self._cut.tokens > affordable:
            tokens = min(tokens, affordable)
            rows = self._line.next(
                items=items, tokens=tokens, octets=limits.octets, work=self._most_work()
            )
            self._cut = self._batch(rows)
            if limits.is_retesting:
                limits.retest_with(self._cut)
        return self._cut

    def _most_work(self) -> float:
        """Return the most work that a batch may hold, in tokens, so that it is answered in time."""
        most = self._limits.work
        concurrency = self._pacer.concurrency
        # A quota of requests that nobody tells says nothing of how fast the server is.
        if concurrency.is_known or concurrency.most == 1 or self._pacer.requests.is_known:
            return most
        if concurrency.is_starting:
            harmless = WAVE_LEAST * min(1.0, self.timeout / HARMLESS_TIMEOUT)
            first = FIRST_WORK * min(1.0, self.timeout / FIRST_TIMEOUT)
            if (in_time := self._limits.in_time(self.timeout)) < math.inf:
                first = min(FIRST_WORK, max(first, in_time))
            return min(most, first) if self._line.work > harmless else most
        number = concurrency.limit() if concurrency.is_saturated else None
        return min(most, self._limits.in_time(self.timeout, number))

    # What is carried out of what the judge says.

    def _resend(self, batch: Batch, error: BaseException, after: float, now: float) -> None:
        self.tally.retries += 1
        if not after:
            self._ready.appendleft(batch)
            return
        logger.debug(
            "%s: sending %d texts again in %.3g s", type(error).__name__, len(batch.rows), after
        )
        heapq.heappush(self._delayed, (now + after, next(self._number), batch))

    def _replace(self, batch: Batch, now: float) -> None:
        """Cut a batch that is larger than what has been learnt since it was cut."""
        parts = self._limits.parts(batch)
        if not self._within_quota(batch):
            parts = max(parts, math.ceil(batch.charge / max(1.0, self._pacer.largest())))
        self._put_parts(batch, divided(batch, parts), now)

    def _put_parts(
        self, batch: Batch, rows: Sequence[Rows], now: float, *, delay: float = 0.0
    ) -> None:
        """Put smaller batches into the place of one."""
        batch.is_settled = True
        parts = [self._batch(part) for part in rows]
        division = Division(batch, len(parts))
        for part in reversed(parts):
            part.failed_at, part.failed_last = batch.failed_at, batch.failed_last
            part.part_of = division
            part.signature, part.error = batch.signature, batch.error
            if delay:
                heapq.heappush(self._delayed, (now + delay, next(self._number), part))
            else:
                self._ready.appendleft(part)
        self._limits.inherit(batch, parts)

    def _unpark(self, batch: Batch) -> None:
        if self._parked.pop(id(batch), None) is not None:
            self._ready.append(batch)

    def _batch(self, rows: Rows) -> Batch:
        batch = self.work.batch(rows)
        batch.unpark = self._unpark
        return batch

    def _settle(self, batch: Batch, outcome: Outcome) -> None:
        batch.is_settled = True
        self.in_flight.pop(id(batch), None)
        self._outcome(outcome)

    def _outcome(self, outcome: Outcome) -> None:
        self.open -= len(outcome.rows)
        self.outcomes.append(outcome)
        self._news[self] = None

    def _release(self, parked: Sequence[Batch]) -> None:
        """Make ready what waited for what has been found out by now."""
        for batch in parked:
            if batch.unpark is not None:
                batch.unpark(batch)  # perhaps into another call's queue
