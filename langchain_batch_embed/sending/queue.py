"""The batches of one call: a state machine without threads, clock or lock.

The queue receives events (answered, refused, failed) and the time. It returns what to send next,
what to hand over, or how long to wait. Unsent inputs wait in a line, from which the `Cutter` cuts
the next batch when it is due to start.

With several deployments, each one that has room asks for the next batch, which is cut for it. A
batch that one deployment has failed is offered to the others at once.
"""

import logging
from collections import deque
from collections.abc import Sequence

from langchain_batch_embed.errors import BudgetError, DeadlineError, NotSentError
from langchain_batch_embed.pacing.diagnosis import Diagnosis, Kind
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending.cutter import Cutter, parts_of, still_fits
from langchain_batch_embed.sending.deployment import Deployment
from langchain_batch_embed.sending.line import Line
from langchain_batch_embed.sending.routing import Routing
from langchain_batch_embed.sending.verdict import Cut, Defer, GiveUp, Hold, Park, Resend, divided
from langchain_batch_embed.sending.waiting import Waiting
from langchain_batch_embed.sending.work import Batch, Division, Done, Lost, Outcome, Rows, Work

__all__ = ["Queue"]

logger = logging.getLogger(__name__)

BACKLOG = 3
"""Most outcomes that may wait for the caller before a saturated server gets more requests. If this
process is the bottleneck, answers arrive faster than lists are made, and take up memory."""

AGAIN = 5
"""Weight of a batch that was refused for the rate, when deciding whether requests are scarce.
Cutting such batches again, in fewer pieces, costs less than sending each."""

SHARED_ROWS = 64
"""Most texts of a call that may share a request with other calls."""

SHARED_WORK = 16_000
"""The same limit as work, in tokens, which counts 20 tokens extra for each text."""


class Queue:
    """The batches of one call, from the line of inputs to their outcomes.

    Args:
        work: what to send.
        tally: counts requests, retries and tokens.
        hedges: the budget for stragglers.
        deployments: the state of each server.
        deadline: seconds for the call; `None` for no limit.
        end: the time at which the deadline passes.
        news: a set to which the queue adds itself when there is an outcome.

    Attributes:
        outcomes: outcomes that the caller has not taken yet.
        open: inputs without an outcome.
        in_flight: batches that have been sent.
        charge: tokens that the limiter charges for the whole call.
        last_error: the last error of a request of this call.
        full_at: numbers of the deployments at which the batch from `peek` waits for a free worker,
            and not for the quota.
        holds_last: whether the last batch waits until the vectors of several deployments are
            compared.
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
        self.full_at: set[int] = set()
        self.deployments = deployments
        self._news = news
        self._waiting = Waiting()  # batches that were sent before, or parts of these
        self._routing = Routing(deployments)
        self._line = Line(work.rows, work.sizes)  # unsent inputs
        self._cutter = Cutter(self._line, work, deployments)
        self.charge = self._line.charge

    # Questions.

    @property
    def is_small(self) -> bool:
        """Whether the call is one small unsent batch, which can share a request."""
        return (
            self.open == len(self.work.rows) > 0
            and self._waiting.are_few
            and len(self.work.rows) <= SHARED_ROWS
            and self._line.work <= SHARED_WORK
        )

    @property
    def has_unsent(self) -> bool:
        """Whether a batch that is not in flight could be sent now."""
        return bool(self._waiting.ready or self._line.count)

    @property
    def has_delayed(self) -> bool:
        """Whether a batch waits for a time at which to be sent again."""
        return bool(self._waiting.delayed)

    def left(self) -> int:
        """Return the work that has not been sent, in tokens."""
        return self._line.work_left + sum(batch.work for batch in self._waiting.ready)

    def planned(self) -> tuple[int, int]:
        """Return the planned number of requests for unsent inputs, and their charge."""
        return self._line.planned

    def peek(self, at: Deployment, now: float) -> Batch | None:
        """Return the next batch for a deployment, or `None` if none can start now."""
        waiting = self._waiting
        self.full_at.discard(at.number)
        if waiting.delayed:
            waiting.release_due(now)
        if self.is_stopped or now >= self.end or self._is_full(at):
            return None
        count = len(waiting.ready)
        if count > 1 and AGAIN * count > at.pacer.batch_sizes.spare_requests():
            self._return_to_line()
        while (ready := self._ready_for(at)) is not None:
            if still_fits(ready, at):
                return ready
            waiting.ready.remove(ready)
            self._replace(ready, at, now)
        if at.is_late:
            return None
        if waiting.delayed and len(self.deployments) > 1:
            delayed = (batch for _, _, batch in waiting.delayed)
            if (untried := self._routing.untried(delayed, at)) is not None:
                return untried
        return self._unsent_for(at)

    def take(self, batch: Batch, at: Deployment, now: float) -> None:
        """Record that the batch from `peek`, or a copy of one in flight, is sent."""
        if self._cutter.take(batch, at):
            batch.unpark = self._waiting.unpark
        elif batch in self._waiting.ready:
            self._waiting.ready.remove(batch)
            at.limits.retest_with(batch)
        elif not batch.at:
            self._waiting.remove_delayed(batch)
        if batch.trial is not None and self._routing.owner(batch) not in (None, at):
            self._drop(batch)  # the answer of another deployment says nothing about this limit
        batch.at.append(at.number)
        batch.sent, batch.is_awaited = now, True
        self.in_flight[id(batch)] = batch

    def put_back(self, batch: Batch, at: Deployment) -> None:
        """Undo a `take`: the batch could not be submitted."""
        _note_end(batch, at)
        batch.is_awaited = True  # if it was a copy, by the original
        if not batch.at and self.in_flight.pop(id(batch), None) is not None:
            self._waiting.ready.appendleft(batch)

    def due(self, now: float) -> float:
        """Return the seconds until a delayed batch is due; `inf` if there is none."""
        return self._waiting.due(now)

    def hands_over(self) -> bool:
        """Return whether to hand the caller's thread an outcome now.

        Making lists of floats holds the interpreter's lock, which sending and reading need too. So
        while batches wait for answers to free a worker, outcomes wait as well, but never more of
        them than requests in flight. Near the end, answers are few enough to leave time for lists.
        """
        answers_first = (
            self.work.makes_lists
            and len(self.full_at) == len(self.deployments)
            and not any(each.pacer.concurrency.is_saturated for each in self.deployments)
            and len(self.outcomes) <= len(self.in_flight)
        )
        return bool(self.outcomes) and not answers_first

    # Events.

    def answered(self, batch: Batch, at: Deployment, seconds: float) -> None:
        """Record that a deployment has answered a batch."""
        _note_end(batch, at)
        if batch.is_settled:
            return  # the other copy was faster, or the deadline has passed
        self.hedges.answered(seconds)
        self._settle(batch, Done(batch.rows))
        if self._waiting.deferred:
            self._waiting.release_deferred(batch.place.number)
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
        """Handle a batch that a deployment refused or could not answer."""
        _note_end(batch, at)
        self.tally.throttled += diagnosis.kind is Kind.THROTTLED
        if batch.is_settled or batch.at:
            return  # abandoned, answered as a copy, or a copy is still in flight
        self.in_flight.pop(id(batch), None)
        batch.error = self.last_error = error
        if self._is_too_late(batch, error):
            return
        match at.judge.verdict(batch, diagnosis, error, now):
            case GiveUp(released):
                batch.barred[at.number] = now
                if diagnosis.kind is Kind.MODEL or len(self.deployments) == 1:
                    self._settle(batch, Lost(batch.rows, error))
                else:
                    self._offer_to_others(batch, at)
                self._release(released)
            case Hold():
                self._waiting.ready.appendleft(batch)
            case Defer():
                self._defer(batch, at.odds.count)
            case Resend(after, released):
                batch.tried.add(at.number)
                self._resend(batch, error, after, now)
                self._release(released)
            case Cut(rows, after, released):
                self.tally.splits += 1
                self._put_parts(batch, rows, at, now, delay=after)
                self._release(released)
            case Park():
                self._waiting.park(batch)

    def resend(self, batch: Batch, at: Deployment) -> None:
        """Send a batch again by itself, as its shared request may have failed for other texts."""
        _note_end(batch, at)
        if not batch.is_settled and self.in_flight.pop(id(batch), None) is not None:
            batch.signature = batch.signature or "shared"
            self._waiting.ready.appendleft(batch)

    def hand_over(self, batch: Batch, at: Deployment, error: BaseException) -> None:
        """Send a batch to another deployment, as the one that had it is left out."""
        _note_end(batch, at)
        if batch.is_settled or batch.at:
            return
        self.in_flight.pop(id(batch), None)
        batch.error = self.last_error = error
        batch.tried.add(at.number)
        if self._is_too_late(batch, error):
            return
        self.tally.retries += 1
        self._waiting.ready.appendleft(batch)

    def give_up(
        self, error: BaseException, *, abandon: bool = False, concerns_all: bool = False
    ) -> None:
        """Give up everything that is not in flight.

        Batches that failed carry their own error, and unsent ones a `NotSentError`.

        Args:
            error: the error that ends the call.
            abandon: whether to give up batches in flight too.
            concerns_all: whether the error holds for all texts, even those with errors of their
                own.
        """
        self.is_given_up = True
        tried = self._waiting.all
        if abandon:
            tried = [*tried, *self.in_flight.values()]
            self.in_flight.clear()
            self.is_stopped = True
        rest = self._cutter.clear()
        self._waiting.clear()
        is_late = isinstance(error, DeadlineError | BudgetError)
        unsent = error if is_late else NotSentError(error)
        for batch in tried:
            own = error if is_late or (concerns_all and batch.error) else batch.error
            self._settle(batch, Lost(batch.rows, own or unsent))
            self._drop(batch)
        if len(rest):
            self._outcome(Lost(rest, unsent))

    def release_delayed(self) -> None:
        """Make all delayed batches ready, as the server is back."""
        self._waiting.release_delayed()

    def release_deferred(self) -> None:
        """Make all deferred batches ready."""
        self._waiting.release_deferred()

    def stop(self) -> None:
        """Start nothing more, and release batches of other calls that wait for this one."""
        self.is_stopped = self.is_given_up = True
        for batch in [*self._waiting.all, *self.in_flight.values()]:
            self._drop(batch)

    # Which batch can be sent, and where.

    def _return_to_line(self) -> None:
        """Put batches back that were only refused for the rate, to cut them into fewer pieces."""
        ready = self._waiting.ready
        fresh = [batch for batch in ready if not (batch.signature or batch.trial)]
        if len(fresh) < 2:  # noqa: PLR2004  # a single one stays as it is
            return
        for batch in fresh:
            ready.remove(batch)
            batch.is_settled = True
        self._cutter.put_back([batch.rows for batch in fresh])

    def _unsent_for(self, at: Deployment) -> Batch | None:
        """Return a batch of unsent inputs, or at their end a deferred batch."""
        if self._line.count:
            cut = self._cutter.next(at)
            return None if self.holds_last and len(cut.rows) == self._line.count else cut
        waiting = self._waiting
        if waiting.deferred and not (self.in_flight or waiting.delayed):
            waiting.release_deferred()
            return waiting.ready[0]
        return None

    def _is_full(self, at: Deployment) -> bool:
        return at.pacer.concurrency.is_saturated and len(self.outcomes) >= BACKLOG

    def _ready_for(self, at: Deployment) -> Batch | None:
        """Return the first ready batch that this deployment may be sent."""
        ready = self._waiting.ready
        if len(self.deployments) == 1:
            if ready and at.limits.is_trying:
                for batch in [each for each in ready if at.limits.parks(each)]:
                    ready.remove(batch)
                    self._waiting.park(batch)
            return ready[0] if ready else None
        for batch in tuple(ready):
            match self._routing.route(batch, at):
                case "here":
                    return batch
                case "nowhere":
                    ready.remove(batch)
                    self._settle(batch, Lost(batch.rows, batch.error or NotSentError()))
        return None

    def _drop(self, batch: Batch) -> None:
        """Release the batches that wait for the outcome of this one."""
        owner = self._routing.owner(batch) or self.deployments[0]
        self._release(owner.limits.dropped(batch))

    # Carrying out verdicts.

    def _offer_to_others(self, batch: Batch, at: Deployment) -> None:
        """Let the other deployments try a batch that this one has given up."""
        batch.trial = None
        at.is_in_doubt |= not self._routing.has_others(batch)
        self._waiting.ready.appendleft(batch)

    def _defer(self, batch: Batch, since: int) -> None:
        """Send a refused text again after a later answer; give it up if there can be none."""
        self._waiting.defer(batch, since)
        if self.open > len(self._waiting.deferred):
            self.tally.retries += 1
            return
        for each in self._waiting.take_deferred():
            self._settle(each, Lost(each.rows, each.error or NotSentError()))
            self._drop(each)

    def _resend(self, batch: Batch, error: BaseException, after: float, now: float) -> None:
        self.tally.retries += 1
        if not after:
            self._waiting.ready.appendleft(batch)
            return
        logger.debug(
            "%s: sending %d texts again in %.3g s", type(error).__name__, len(batch.rows), after
        )
        self._waiting.delay(batch, now + after)

    def _replace(self, batch: Batch, at: Deployment, now: float) -> None:
        """Cut a batch that exceeds limits learnt since it was cut."""
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
        """Replace a batch by smaller ones."""
        batch.is_settled = True
        parts = [self.work.batch(part) for part in rows]
        division = Division(batch, len(parts))
        for part in reversed(parts):
            part.unpark = self._waiting.unpark
            part.failed_at, part.failed_last = batch.failed_at, batch.failed_last
            part.part_of, part.refused_before = division, batch.refused_before
            part.signature, part.error = batch.signature, batch.error
            part.barred |= batch.barred
            if delay:
                part.tried.add(at.number)
                self._waiting.delay(part, now + delay)
            else:
                self._waiting.ready.appendleft(part)
        (self._routing.owner(batch) or at).limits.inherit(batch, parts)

    def _is_too_late(self, batch: Batch, error: BaseException) -> bool:
        """Return whether the call was given up; if so, give up this batch that failed later."""
        if self.is_given_up:
            self._settle(batch, Lost(batch.rows, error))
            self._drop(batch)
        return self.is_given_up

    def _settle(self, batch: Batch, outcome: Outcome) -> None:
        batch.is_settled = True
        self.in_flight.pop(id(batch), None)
        self._outcome(outcome)

    def _outcome(self, outcome: Outcome) -> None:
        self.open -= len(outcome.rows)
        self.outcomes.append(outcome)
        self._news[self] = None

    def _release(self, parked: Sequence[Batch]) -> None:
        """Make parked batches ready."""
        for batch in parked:
            if batch.unpark is not None:
                batch.unpark(batch)  # perhaps in another call's queue


def _note_end(batch: Batch, at: Deployment) -> None:
    """Record that a request ended, which may have been undone as not submitted before."""
    if at.number in batch.at:
        batch.at.remove(at.number)
