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
from collections.abc import Callable, Sequence

import numpy as np

from langchain_batch_embed.errors import DeadlineError, NotSentError
from langchain_batch_embed.pacing.backoff import Backoff
from langchain_batch_embed.pacing.concurrency import FIRST_WORK
from langchain_batch_embed.pacing.diagnosis import Diagnosis, Kind
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.pacing.pacer import Pacer
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending.line import Line
from langchain_batch_embed.sending.size_limits import SizeLimits
from langchain_batch_embed.sending.work import Batch, Done, Lost, Outcome, Rows, Work
from langchain_batch_embed.texts.packing import WAVE_LEAST, requests_are_scarce

__all__ = ["FINAL", "Queue"]

FINAL = frozenset({Kind.SPENT, Kind.OPTION, Kind.MODEL})
"""Errors that end a call: they are about all of its texts, and no waiting helps."""

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

OVERLOADED = 4
"""An overloaded server allows this many times `max_retries`: where it refuses 6 requests of 10 at
random, 8 retries become 32, and a text is lost once in 20 million (0.6 to the power of 33)."""

SURE = 8
"""That is at least this many failures together: with one request in ten that fails by chance, they
would come together once in 100 million."""

FIRST_TIMEOUT = 15.0
"""With a shorter time-out than this many seconds the first requests hold less: in one line before
a processor that takes 40 ms for a short text, the last of 8 times 26 is answered after 8 s."""

HARMLESS_TIMEOUT = 60.0
"""With a time-out of this many seconds, `WAVE_LEAST` tokens in the first request do no harm: at 40
ms for a text of some 70 tokens that takes 9 s."""

SOON = 3.0
"""While others are answered, a batch that failed once is sent again after this many round trips at
the latest: more time would not help."""

SAME_ERROR = 2
"""A batch that fails this often in the same way, while others are answered, is halved."""

REFUSED_ALONE = 2
"""A batch that is refused for the rate this often with nothing else in flight and no answer in
between, after pauses of up to 10 s, is more than the whole quota allows at once: it is cut."""

ALONE = 3
"""One text that fails this often with a 5xx, after all that it was a part of, is given up."""

BY_CHANCE = 3
"""A batch that could not be delivered, or met an overloaded server, this often while others are
answered is halved: perhaps one of its texts is what takes the server down."""

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
        max_retries: how often a batch may fail while others are answered.
        timeout: seconds for one request.
        deadline: seconds for the call; `None`: any time.
        end: the time at which they are over.
        draw: a source of random numbers, uniform in 0 to 1.
        news: where the queue puts itself when there is an outcome.

    Attributes:
        outcomes: what the caller has not been given yet.
        open: inputs without an outcome.
        in_flight: batches that have been sent.
        charge: tokens that the limiter charges for all of it.
    """

    def __init__(
        self,
        work: Work,
        tally: Tally,
        hedges: Hedges,
        *,
        pacer: Pacer,
        limits: SizeLimits,
        max_retries: int,
        timeout: float,
        deadline: float | None,
        end: float,
        draw: Callable[[], float],
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
        self.waits_for_answers = False  # its next batch waits for a place, not for the quota
        self._pacer = pacer
        self._limits = limits
        self._max_retries = max_retries
        self._backoff = Backoff()
        self._draw = draw
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
            self._replace(batch, self._limits.parts(batch), now)
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
        self._release(self._limits.answered(batch, seconds, self.timeout))

    def failed(self, batch: Batch, diagnosis: Diagnosis, error: BaseException, now: float) -> None:
        """Do what is right with a batch that was refused, or could not be answered."""
        batch.copies -= 1
        if batch.is_settled or batch.copies:
            return  # abandoned, answered by its copy, or the copy may still be answered
        self.in_flight.pop(id(batch), None)
        batch.error = error
        if diagnosis.kind in FINAL or self.is_given_up:
            self._settle(batch, Lost(batch.rows, error))
            self._release(self._limits.dropped(batch))
        elif diagnosis.kind is Kind.THROTTLED:
            self._throttled(batch)
        elif diagnosis.kind in (Kind.REFUSED, Kind.TOO_LARGE):
            self._refused(batch, diagnosis, error, now)
        elif diagnosis.kind is Kind.ACCOUNT:
            # One bad replica, or a firewall that dislikes one text, if others are answered.
            if not self._pacer.health.has_answered:
                self._ready.appendleft(batch)
            elif batch.signature == diagnosis.signature:
                self._refused(batch, diagnosis, error, now)
            else:
                self._again(batch, diagnosis, error, now, after=self._backoff.delay(0, self._draw))
        else:
            self._failed(batch, diagnosis, error, now)

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
        is_late = isinstance(error, DeadlineError)
        unsent = error if is_late else NotSentError(error)
        for batch in tried:
            own = error if is_late or (concerns_all and batch.error) else batch.error
            self._settle(batch, Lost(batch.rows, own or unsent))
            self._release(self._limits.dropped(batch))
        if len(rest):
            self._outcome(Lost(rest, unsent))

    def release_delayed(self) -> None:
        """Make ready all that waits for the server to come back: it is back."""
        while self._delayed:
            self._ready.append(heapq.heappop(self._delayed)[2])

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
        if has_changed or self._cut is None:
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
        return min(most, self._limits.in_time(self.timeout))

    # What is done with a batch that failed.

    def _throttled(self, batch: Batch) -> None:
        """Wait for the quota; but cut what is refused alone after every wait: it is above it."""
        self.tally.throttled += 1
        self.tally.retries += 1
        batch.refusals += not self._pacer.in_flight
        if (
            batch.refusals >= REFUSED_ALONE
            and self._pacer.throttle.in_a_row >= REFUSED_ALONE
            and len(batch.rows) > 1
            and not self._pacer.explains(batch.charge)
            and not self._pacer.counts_requests()
            and not self._limits.has_passed(batch)
        ):
            self._limits.refused_for_quota(batch)
            batch.refusals = 0
            self._split(batch, self._limits.parts(batch), -math.inf)
        else:
            self._ready.appendleft(batch)

    def _refused(
        self, batch: Batch, diagnosis: Diagnosis, error: BaseException, now: float
    ) -> None:
        """Cut a refused batch into parts, down to the text that is refused alone."""
        batch.signature = diagnosis.signature
        count = len(batch.rows)
        if count == 1:
            batch.failures += 1
            self._settle(batch, Lost(batch.rows, error))
            self._release(self._limits.ended_at_one(batch))
            return
        self.tally.splits += 1
        at = diagnosis.at
        if at is not None and at < count and diagnosis.kind is not Kind.TOO_LARGE:
            around = (batch.rows[:at], batch.rows[at : at + 1], batch.rows[at + 1 :])
            self._put_parts(batch, [rows for rows in around if len(rows)], now)
            return
        parts, waits = self._limits.refused(batch, diagnosis)
        if waits:
            self._parked[id(batch)] = batch
        else:
            self._split(batch, parts, now)

    def _failed(self, batch: Batch, diagnosis: Diagnosis, error: BaseException, now: float) -> None:
        """Send a batch again later, in parts where it alone fails, or give its text up."""
        health, kind = self._pacer.health, diagnosis.kind
        same = batch.signature == diagnosis.signature
        batch.failed_at = min(batch.failed_at, now)
        batch.signature = diagnosis.signature
        others_answered = health.answered_at >= batch.failed_at or (
            health.answered_at > batch.sent and not health.is_down
        )
        batch.failures += 1
        batch.in_a_row += 1
        if kind is Kind.TIMED_OUT:
            self._limits.timed_out(batch)
        if len(batch.rows) > 1:
            if self._is_to_be_split(batch, kind, same=same, others_answered=others_answered):
                if same and getattr(error, "received", None):  # one vector for several texts
                    self._refused(batch, diagnosis, error, now)
                    return
                self.tally.splits += 1
                waits = kind in (Kind.TIMED_OUT, Kind.OVERLOADED)
                delay = self._backoff.delay(batch.failures, self._draw) if waits else 0.0
                self._split(batch, 2, now, delay=delay)
                return
        elif self._is_to_be_lost(batch, diagnosis) and (
            others_answered or (self._max_retries == 0 and diagnosis.status is not None)
        ):
            self._settle(batch, Lost(batch.rows, error))
            self._release(self._limits.dropped(batch))
            return
        self._again(batch, diagnosis, error, now)

    def _is_to_be_split(
        self, batch: Batch, kind: Kind, *, same: bool, others_answered: bool
    ) -> bool:
        """Tell whether a batch of several texts has failed often enough to be sent in parts."""
        if kind is Kind.TIMED_OUT:
            return others_answered or batch.failures >= SAME_ERROR
        if kind in (Kind.OVERLOADED, Kind.UNREACHABLE):  # more likely the server than a text
            return others_answered and batch.failures >= min(BY_CHANCE, self._max_retries + 1)
        return same and batch.failures >= SAME_ERROR

    def _is_to_be_lost(self, batch: Batch, diagnosis: Diagnosis) -> bool:
        """Tell whether one text has failed often enough, while others are answered."""
        most = self._max_retries
        if diagnosis.kind is Kind.OVERLOADED:  # most often it is the server, and not the text
            most *= OVERLOADED
        if batch.failures > most:
            return True
        # A 5xx each time for it and for all that it was a part of: it is the text.
        is_known = batch.failures >= ALONE and batch.in_a_row >= SURE
        return diagnosis.kind is Kind.FAILED and diagnosis.status is not None and is_known

    def _again(
        self,
        batch: Batch,
        diagnosis: Diagnosis,
        error: BaseException,
        now: float,
        *,
        after: float | None = None,
    ) -> None:
        delay = self._backoff.delay(max(0, batch.failures - 1), self._draw)
        if batch.failures == 1 and self._pacer.health.failures <= 1 and self._limits.pace:
            delay = min(delay, SOON * self._limits.pace)  # others are answered
        if after is None:
            after = delay if diagnosis.after is None else max(diagnosis.after, 0.1 * delay)
        batch.signature = diagnosis.signature
        self.tally.retries += 1
        logger.info(
            "%s: sending %d texts again in %.3g s", type(error).__name__, len(batch.rows), after
        )
        heapq.heappush(self._delayed, (now + after, next(self._number), batch))

    def _split(self, batch: Batch, parts: int, now: float, *, delay: float = 0.0) -> None:
        rows = np.array_split(batch.rows, max(2, min(parts, len(batch.rows))))
        self._put_parts(batch, rows, now, delay=delay)

    def _replace(self, batch: Batch, parts: int, now: float) -> None:
        if not self._within_quota(batch):
            parts = max(parts, math.ceil(batch.charge / max(1.0, self._pacer.largest())))
        self._split(batch, parts, now)

    def _put_parts(
        self, batch: Batch, rows: Sequence[Rows], now: float, *, delay: float = 0.0
    ) -> None:
        """Put smaller batches into the place of one."""
        batch.is_settled = True
        parts = [self._batch(part) for part in rows]
        for part in reversed(parts):
            part.failures, part.failed_at = min(batch.failures, 1), batch.failed_at
            part.in_a_row = batch.in_a_row
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
