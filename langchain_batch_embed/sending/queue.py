"""One call's batches: a state machine without threads, clock or lock.

The queue is told what happened (answered, refused, failed) and what time it is, and returns what to
send next, what to hand over, or how long to wait. Inputs that were never sent stand in a line, from
which the `Cutter` cuts the next batch when it is due to start.

Where there are several deployments, whichever has room asks for the next batch, and it is cut for
that one. What one has failed is offered to the others at once.
"""

import heapq
import itertools
import logging
import math
from collections import deque
from collections.abc import Collection, Sequence

from langchain_batch_embed.errors import BudgetError, DeadlineError, NotSentError
from langchain_batch_embed.pacing.diagnosis import Diagnosis, Kind
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending.cutter import Cutter, parts_of, still_fits
from langchain_batch_embed.sending.deployment import Deployment
from langchain_batch_embed.sending.line import Line
from langchain_batch_embed.sending.verdict import Cut, GiveUp, Hold, Park, Resend, divided
from langchain_batch_embed.sending.work import Batch, Division, Done, Lost, Outcome, Rows, Work

__all__ = ["Queue"]

logger = logging.getLogger(__name__)

BACKLOG = 3
"""Outcomes that may wait for the caller before a saturated server is asked for more: where this
process is what everything waits for, answers come faster than lists are made, and take memory."""

MOST_COPIES = 2
"""Copies of a request in flight, at most: the copy of one in a hundred is late as well."""

AGAIN = 5
"""Batches that were refused for the rate count this many times: putting them together costs less
than sending each."""

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
        deployments: what is known of each server.
        deadline: seconds for the call; `None`: any time.
        end: the time at which they are over.
        news: where the queue puts itself when there is an outcome.

    Attributes:
        outcomes: what the caller has not been given yet.
        open: inputs without an outcome.
        in_flight: batches that have been sent.
        charge: tokens that the limiter charges for all of it.
        last_error: of a request of this call.
        holds_last: the last batch waits until the vectors of several deployments were compared.
    """

    def __init__(
        self,
        work: Work,
        tally: Tally,
        hedges: Hedges,
        *,
        deployments: Sequence[Deployment],
        deadline: float | None,
        end: float,
        news: dict["Queue", None],
    ) -> None:
        self.work = work
        self.tally = tally
        self.hedges = hedges
        self.end = end
        self.deadline = deadline
        self.outcomes: deque[Outcome] = deque()
        self.open = len(work.rows)
        self.in_flight: dict[int, Batch] = {}
        self.is_stopped = self.is_given_up = False
        self.last_error: BaseException | None = None
        self.holds_last = False
        self.waits_for_answers = False  # its next batch waits for a place, not for the quota
        self.deployments = deployments
        self._news = news
        self._ready: deque[Batch] = deque()  # sent before, or parts of what was
        self._delayed: list[tuple[float, int, Batch]] = []  # a heap by due time
        self._number = itertools.count()  # keeps the heap from comparing batches
        self._parked: dict[int, Batch] = {}  # wait for what another batch's parts will tell
        self._line = Line(work.rows, work.sizes)  # never sent
        self._cutter = Cutter(self._line, work, deployments)
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

    def peek(self, at: Deployment, now: float) -> Batch | None:
        """Return the batch that a deployment is to be sent next; `None`: none can start now."""
        while self._delayed and self._delayed[0][0] <= now:
            batch = heapq.heappop(self._delayed)[2]
            batch.tried.clear()
            self._ready.appendleft(batch)
        if self.is_stopped or now >= self.end or self._is_full(at):
            return None
        count = len(self._ready)
        if count > 1 and AGAIN * count > at.pacer.batch_sizes.spare_requests():
            self._return_to_line()
        while (ready := self._ready_for(at)) is not None:
            if still_fits(ready, at):
                return ready
            self._ready.remove(ready)
            self._replace(ready, at, now)
        if at.is_late:
            return None
        if (elsewhere := self._failed_elsewhere(at)) is not None:
            return elsewhere
        if not self._line.count:
            return None
        cut = self._cutter.next(at)
        return None if self.holds_last and len(cut.rows) == self._line.count else cut

    def take(self, batch: Batch, at: Deployment, now: float) -> None:
        """Note that the batch that `peek` returned, or a copy of one in flight, is sent."""
        if self._cutter.take(batch, at):
            batch.unpark = self._unpark
        elif batch in self._ready:
            self._ready.remove(batch)
            at.limits.retest_with(batch)
        elif not batch.at:
            self._delayed = [each for each in self._delayed if each[2] is not batch]
            heapq.heapify(self._delayed)
        if self._owner(batch) not in (None, at):
            self._drop(batch)  # whoever tries it out learns nothing from another's answer
        batch.at.append(at.number)
        batch.sent = now
        self.in_flight[id(batch)] = batch

    def put_back(self, batch: Batch, at: Deployment) -> None:
        """Undo a `take`: the batch could not be submitted."""
        _note_end(batch, at)
        if not batch.at and self.in_flight.pop(id(batch), None) is not None:
            self._ready.appendleft(batch)

    def due(self, now: float) -> float:
        """Return the seconds until a delayed batch is due; `inf`: there is none."""
        return max(0.0, self._delayed[0][0] - now) if self._delayed else math.inf

    def straggler(self, now: float) -> tuple[Batch | None, float]:
        """Return a batch to send a second time, or the seconds until there may be one."""
        if self.is_given_up or self._ready or self._delayed or self._line.count:
            return None, math.inf
        silent = {each.number for each in self.deployments if each.is_silent}
        late = [(each, _copies(each, silent)) for each in self.in_flight.values()]
        patience = self.hedges.patience(sum(batch.charge for batch, n in late if n <= 1))
        wait = math.inf
        for batch, copies in late:
            if copies > MOST_COPIES:
                continue
            if not self.hedges.affords(batch.charge):
                continue
            left = batch.sent + patience - now
            if left <= 0:
                return batch, 0.0
            wait = min(wait, left)
        return None, wait

    def stuck_charge(self, at: Collection[int]) -> int:
        """Return the tokens of all that waits only for some of the deployments."""
        return sum(batch.charge for batch in self.in_flight.values() if _is_only(batch, at))

    def affords(self, copy: Batch) -> bool:
        """Tell whether a copy of a batch is within what the call may cost."""
        budget = self.work.budget
        return budget is None or copy.tokens <= budget.left

    def hands_over(self) -> bool:
        """Tell whether the caller's thread is given an outcome now.

        Where it makes lists of floats, that holds the interpreter's lock, which sending and reading
        need too. While batches wait for answers to make room for them, outcomes wait too, but no
        more of them than requests are in flight: the last answers leave time enough for lists.
        """
        answers_first = (
            self.work.makes_lists
            and self.waits_for_answers
            and not any(each.pacer.concurrency.is_saturated for each in self.deployments)
            and len(self.outcomes) <= len(self.in_flight)
        )
        return bool(self.outcomes) and not answers_first

    # What it is told.

    def answered(self, batch: Batch, at: Deployment, seconds: float) -> None:
        """Note that a batch's vectors are there, from a deployment."""
        _note_end(batch, at)
        if batch.is_settled:
            return  # the other copy was faster, or it was abandoned at the deadline
        self.hedges.answered(seconds)
        self._settle(batch, Done(batch.rows))
        at.judge.answered(batch)
        self._release(at.limits.answered(batch, seconds, at.timeout))

    def failed(
        self,
        batch: Batch,
        at: Deployment,
        diagnosis: Diagnosis,
        error: BaseException,
        now: float,
    ) -> None:
        """Do what is right with a batch that a deployment refused, or could not answer."""
        _note_end(batch, at)
        if batch.is_settled or batch.at:
            return  # abandoned, answered by its copy, or the copy may still be answered
        self.in_flight.pop(id(batch), None)
        batch.error = self.last_error = error
        if diagnosis.kind is Kind.THROTTLED:
            self.tally.throttled += 1
        if self.is_given_up:
            self._settle(batch, Lost(batch.rows, error))
            self._drop(batch)
            return
        match at.judge.verdict(batch, diagnosis, error, now):
            case GiveUp(released):
                batch.barred[at.number] = now
                if diagnosis.kind is not Kind.MODEL and len(self.deployments) > 1:
                    batch.trial = None
                    at.is_in_doubt |= not self._has_others(batch)
                    self._ready.appendleft(batch)
                else:
                    self._settle(batch, Lost(batch.rows, error))
                self._release(released)
            case Hold():
                self._ready.appendleft(batch)
            case Resend(after, released):
                batch.tried.add(at.number)
                self._resend(batch, error, after, now)
                self._release(released)
            case Cut(rows, after, released):
                self.tally.splits += 1
                self._put_parts(batch, rows, at, now, delay=after)
                self._release(released)
            case Park():
                self._parked[id(batch)] = batch

    def resend(self, batch: Batch, at: Deployment) -> None:
        """Send a batch again by itself: it shared a request that failed for another's texts."""
        _note_end(batch, at)
        if not batch.is_settled and self.in_flight.pop(id(batch), None) is not None:
            batch.signature = batch.signature or "shared"
            self._ready.appendleft(batch)

    def hand_over(self, batch: Batch, at: Deployment, error: BaseException) -> None:
        """Send a batch to another deployment: the one that had it is left out."""
        _note_end(batch, at)
        if batch.is_settled or batch.at:
            return
        self.in_flight.pop(id(batch), None)
        batch.error = self.last_error = error
        batch.tried.add(at.number)
        if self.is_given_up:
            self._settle(batch, Lost(batch.rows, error))
            self._drop(batch)
            return
        self.tally.retries += 1
        self._ready.appendleft(batch)

    def stuck(self, at: Collection[int], *, first: bool) -> Batch | None:
        """Return a batch that waits only for deployments that answer no more; `None`: none.

        Args:
            at: the numbers of the deployments.
            first: before what was not sent yet.
        """
        if self.is_given_up or (not first and (self._ready or self._line.count)):
            return None
        return next((batch for batch in self.in_flight.values() if _is_only(batch, at)), None)

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
        rest = self._cutter.clear()
        self._ready.clear()
        self._delayed.clear()
        self._parked.clear()
        is_late = isinstance(error, DeadlineError | BudgetError)
        unsent = error if is_late else NotSentError(error)
        for batch in tried:
            own = error if is_late or (concerns_all and batch.error) else batch.error
            self._settle(batch, Lost(batch.rows, own or unsent))
            self._drop(batch)
        if len(rest):
            self._outcome(Lost(rest, unsent))

    def release_delayed(self) -> None:
        """Make ready all that waits for the server to come back: it is back.

        What failed most often goes first, or at a server that restarts again and again it would
        always be in what is broken next.
        """
        batches = sorted((batch for _, _, batch in self._delayed), key=lambda each: each.failures)
        for batch in batches:
            batch.tried.clear()
        self._delayed.clear()
        self._ready.extendleft(batches)

    def stop(self) -> None:
        """Start nothing more, and hold up no other call that waits for what is found out here."""
        self.is_stopped = self.is_given_up = True
        here = [*self._ready, *(batch for _, _, batch in self._delayed), *self.in_flight.values()]
        for batch in here:
            self._drop(batch)

    # What of it can be sent, and where.

    def _return_to_line(self) -> None:
        """Put batches that were only refused for the rate back, to be cut in fewer pieces."""
        fresh = [batch for batch in self._ready if not (batch.signature or batch.trial)]
        if len(fresh) < 2:  # noqa: PLR2004  # one is cut already
            return
        for batch in fresh:
            self._ready.remove(batch)
            batch.is_settled = True
        self._cutter.put_back([batch.rows for batch in fresh])

    def _is_full(self, at: Deployment) -> bool:
        return at.pacer.concurrency.is_saturated and len(self.outcomes) >= BACKLOG

    def _ready_for(self, at: Deployment) -> Batch | None:
        """Return the first batch that was sent before, or is part of one, and may go there."""
        if len(self.deployments) == 1:
            if self._ready and at.limits.is_trying:
                for batch in [each for each in self._ready if at.limits.parks(each)]:
                    self._ready.remove(batch)
                    self._parked[id(batch)] = batch
            return self._ready[0] if self._ready else None
        for batch in tuple(self._ready):
            owner = self._owner(batch)
            if owner is not None and owner is not at and owner.is_answering:
                continue  # it tries out how much it takes
            if at.number not in batch.barred:
                if at.is_late and not batch.barred:
                    continue
                return batch
            if self._has_others(batch):
                continue
            if at.confirmed_at < batch.barred[at.number]:
                at.is_in_doubt = True  # perhaps it refuses everything
            else:
                self._ready.remove(batch)
                self._settle(batch, Lost(batch.rows, batch.error or NotSentError()))
        return None

    def _failed_elsewhere(self, at: Deployment) -> Batch | None:
        """Return a batch that waits to be sent again, but need not wait for this deployment."""
        if len(self.deployments) == 1:
            return None
        untried = (
            batch
            for _, _, batch in self._delayed
            if at.number not in batch.tried
            and at.number not in batch.barred
            and still_fits(batch, at)
        )
        return next(untried, None)

    def _has_others(self, batch: Batch) -> bool:
        """Tell whether a deployment that has not refused a batch can be expected to answer."""
        return any(
            each.is_proven and each.is_answering and each.number not in batch.barred
            for each in self.deployments
        )

    def _owner(self, batch: Batch) -> Deployment | None:
        """Return the deployment at which a size is tried out with a batch; `None`: none."""
        if batch.trial is None:
            return None
        owners = (each for each in self.deployments if each.limits.owns(batch.trial))
        return next(owners, None)

    def _drop(self, batch: Batch) -> None:
        """Release what waits for what a batch was to tell."""
        owner = self._owner(batch) or self.deployments[0]
        self._release(owner.limits.dropped(batch))

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

    def _replace(self, batch: Batch, at: Deployment, now: float) -> None:
        """Cut a batch that is larger than what has been learnt since it was cut."""
        self._put_parts(batch, divided(batch, parts_of(batch, at)), at, now)

    def _put_parts(
        self,
        batch: Batch,
        rows: Sequence[Rows],
        at: Deployment,
        now: float,
        *,
        delay: float = 0.0,
    ) -> None:
        """Put smaller batches into the place of one."""
        batch.is_settled = True
        parts = [self.work.batch(part) for part in rows]
        division = Division(batch, len(parts))
        for part in reversed(parts):
            part.unpark = self._unpark
            part.failed_at, part.failed_last = batch.failed_at, batch.failed_last
            part.part_of = division
            part.signature, part.error = batch.signature, batch.error
            part.barred |= batch.barred
            if delay:
                part.tried.add(at.number)
                heapq.heappush(self._delayed, (now + delay, next(self._number), part))
            else:
                self._ready.appendleft(part)
        (self._owner(batch) or at).limits.inherit(batch, parts)

    def _unpark(self, batch: Batch) -> None:
        if self._parked.pop(id(batch), None) is not None:
            self._ready.append(batch)

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


def _note_end(batch: Batch, at: Deployment) -> None:
    """Note that a request ended. What could not be submitted may have been sent all the same."""
    if at.number in batch.at:
        batch.at.remove(at.number)


def _is_only(batch: Batch, at: Collection[int]) -> bool:
    """Tell whether a batch is in flight at these deployments and at no others."""
    return all(number in at for number in batch.at)


def _copies(batch: Batch, silent: Collection[int]) -> int:
    """Return how many requests for a batch are in flight where they may be answered soon."""
    return sum(number not in silent for number in batch.at)
