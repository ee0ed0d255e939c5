"""One call's batches: a state machine without threads, clock or lock.

The queue is told what happened (answered, refused, failed) and what time it is, and returns what to
send next, what to hand over, or how long to wait. Inputs that were never sent stand in a line, and
the next batch is cut from it when it is due to start: so whatever has been learnt by then (a quota,
a limit of texts, how many requests share the work) shapes what is left.

Where there are several deployments, whichever has room asks for the next batch, and it is cut for
that one. What one has failed is offered to the others at once.
"""

import heapq
import itertools
import logging
import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence

from langchain_batch_embed.errors import BudgetError, DeadlineError, NotSentError
from langchain_batch_embed.pacing.concurrency import FIRST_WORK
from langchain_batch_embed.pacing.diagnosis import Diagnosis, Kind
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending.deployment import Deployment
from langchain_batch_embed.sending.line import Line
from langchain_batch_embed.sending.verdict import Cut, GiveUp, Hold, Park, Resend, divided
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
        self._line = Line(work.rows, work.sizes)
        # The next batch of the line, cut but not taken, for each deployment that asked for it.
        self._cuts: dict[int, tuple[Batch, bool]] = {}  # and whether it tests a limit again
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
        if len(self._ready) > 1 and requests_are_scarce(
            AGAIN * len(self._ready), at.pacer.rate_of_requests()
        ):
            self._return_to_line()
        while (ready := self._ready_for(at)) is not None:
            if at.limits.fits(ready) and _is_within_quota(ready, at):
                return ready
            self._ready.remove(ready)
            self._replace(ready, at, now)
        if at.is_late:
            return None
        if (elsewhere := self._failed_elsewhere(at)) is not None:
            return elsewhere
        return self._next_in_line(at)

    def take(self, batch: Batch, at: Deployment, now: float) -> None:
        """Note that the batch that `peek` returned, or a copy of one in flight, is sent."""
        if batch is self._cuts.get(at.number, (None,))[0]:
            self._line.take(len(batch.rows))
            self._cuts.clear()
        elif batch in self._ready:
            self._ready.remove(batch)
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
            case Resend(after):
                batch.tried.add(at.number)
                self._resend(batch, error, after, now)
            case Cut(rows, after):
                self.tally.splits += 1
                self._put_parts(batch, rows, at, now, delay=after)
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
        rest = self._line.clear()
        self._cuts.clear()
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
        self._cuts.clear()

    def _is_full(self, at: Deployment) -> bool:
        return at.pacer.concurrency.is_saturated and len(self.outcomes) >= BACKLOG

    def _ready_for(self, at: Deployment) -> Batch | None:
        """Return the first batch that was sent before, or is part of one, and may go there."""
        if len(self.deployments) == 1:
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
            and at.limits.fits(batch)
            and _is_within_quota(batch, at)
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

    def _next_in_line(self, at: Deployment) -> Batch | None:
        if not self._line.count:
            return None
        most = self._most(at)
        if self._plan({at.number: most}):
            self._cuts.clear()
        limits = at.limits
        budget = self.work.budget
        affordable = math.inf if budget is None else budget.left
        cut, is_test = self._cuts.get(at.number, (None, False))
        if cut is None or cut.tokens > affordable or not (is_test or self._still_fits(cut, at)):
            items, tokens = most
            rows = self._line.next(
                items=items,
                tokens=min(tokens, affordable),
                octets=limits.octets,
                work=self._most_work(at),
                # The plan is for all: where requests are scarce, they are as large as possible.
                is_planned=len(self.deployments) == 1 or not self._are_scarce(at),
            )
            cut, is_test = self._batch(rows), limits.is_retesting
            self._cuts[at.number] = cut, is_test
            if is_test:
                limits.retest_with(cut)
        return None if self.holds_last and len(cut.rows) == self._line.count else cut

    def _are_scarce(self, at: Deployment) -> bool:
        """Tell whether one of several deployments has a quota of requests that binds."""
        pacer = at.pacer
        if not (pacer.requests.is_known or pacer.counts_requests()):
            return False  # what is measured with the tokens may be about these
        share = self._line.planned[0] // len(self.deployments)
        return requests_are_scarce(share, pacer.rate_of_requests())

    def _still_fits(self, cut: Batch, at: Deployment) -> bool:
        """Tell whether a batch keeps what one of several has taught since it was cut."""
        return len(self.deployments) == 1 or (at.limits.fits(cut) and _is_within_quota(cut, at))

    def _plan(self, known: Mapping[int, tuple[float, float]]) -> bool:
        """Decide where the rest is cut, for all that share it; return whether that has changed.

        Args:
            known: what `_most` says, by the number of the deployment.
        """
        sharing: Sequence[Deployment] = self.deployments
        if len(sharing) > 1:
            sharing = [each for each in sharing if each.is_answering] or sharing
        most = [known.get(each.number) or self._most(each) for each in sharing]
        rates = [each.pacer.rate_of_requests() for each in sharing]
        return self._line.plan(
            items=int(max(items for items, _ in most)),
            tokens=max(tokens for _, tokens in most),
            workers=sum(each.pacer.concurrency.useful for each in sharing),
            per_minute=None if None in rates else sum(rate for rate in rates if rate is not None),
            # While nothing is known of the quota, what comes next waits for the first answers.
            smallest_first=any(each.pacer.concurrency.is_opening for each in sharing),
        )

    def _most(self, at: Deployment) -> tuple[float, float]:
        """Return how many inputs and tokens a batch for a deployment may hold."""
        concurrency = at.pacer.concurrency
        items = min(self.work.max_items, at.limits.items)
        if concurrency.is_saturated and concurrency.most > 1:
            items = min(items, MERGED)
        return items, min(self.work.max_tokens, at.limits.tokens, at.pacer.largest())

    def _most_work(self, at: Deployment) -> float:
        """Return the most work that a batch may hold, in tokens, so that it is answered in time."""
        most = at.limits.work
        concurrency = at.pacer.concurrency
        # A quota of requests that nobody tells says nothing of how fast the server is.
        if concurrency.is_known or concurrency.most == 1 or at.pacer.requests.is_known:
            return most
        if concurrency.is_starting:
            harmless = WAVE_LEAST * min(1.0, at.timeout / HARMLESS_TIMEOUT)
            first = FIRST_WORK * min(1.0, at.timeout / FIRST_TIMEOUT)
            if (in_time := at.limits.in_time(at.timeout)) < math.inf:
                first = min(FIRST_WORK, max(first, in_time))
            return min(most, first) if self._line.work > harmless else most
        number = concurrency.limit() if concurrency.is_saturated else None
        return min(most, at.limits.in_time(at.timeout, number))

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
        parts = at.limits.parts(batch)
        if not _is_within_quota(batch, at):
            parts = max(parts, math.ceil(batch.charge / max(1.0, at.pacer.largest())))
        self._put_parts(batch, divided(batch, parts), at, now)

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
        parts = [self._batch(part) for part in rows]
        division = Division(batch, len(parts))
        for part in reversed(parts):
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


def _is_within_quota(batch: Batch, at: Deployment) -> bool:
    return len(batch.rows) == 1 or batch.charge <= at.pacer.largest()


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
