"""All calls of one object and its servers: a state machine without threads or clock.

The sender connects the state of each server (`Deployment`) with the queues of the calls. It returns
the next request, or how long to wait for one, and receives how each request ended. Its driver does
the sending: the `Dispatcher` with threads, `rehearse` in simulated time.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from langchain_batch_embed.errors import DeadlineError
from langchain_batch_embed.pacing.diagnosis import Diagnosis, Kind
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.pacing.pacer import Pacer
from langchain_batch_embed.pacing.status import Status, status_of, together
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending.choice import Choice
from langchain_batch_embed.sending.copies import Copies, Copy
from langchain_batch_embed.sending.deployment import (
    OF_THE_SERVER,
    REFUSALS,
    Deployment,
    diagnosed,
)
from langchain_batch_embed.sending.flight import CANARY, PROBE, Flight
from langchain_batch_embed.sending.queue import Queue
from langchain_batch_embed.sending.turns import Turns
from langchain_batch_embed.sending.verdict import FINAL
from langchain_batch_embed.sending.work import Batch, Work

__all__ = ["Sender"]

FAILED_IN_A_ROW = 2
"""After this many failures of a batch, the canary probes a server that is away."""

FAILED_TOGETHER = 2
"""A small call that failed this often in a shared request is sent alone, as it may be the cause."""

AHEAD = 0.1
"""Seconds by which the clock of a socket may be ahead of ours at a call's deadline."""

PROBE_TIMEOUT = 30.0
"""Time-out in seconds of a probe: one that hangs must not hold up the others."""


class Sender:
    """The deployments of one object, and the calls that share them.

    Args:
        deployments: the state of each server.
        hedge: whether to send stragglers a second time.
    """

    def __init__(self, deployments: Sequence[Deployment], *, hedge: bool = False) -> None:
        self.deployments = tuple(deployments)
        self._hedge = hedge
        self._news: dict[Queue, None] = {}  # a set that keeps its order
        self._turns = Turns()
        self._choice = Choice(self.deployments)
        self._copies = Copies(self._turns, self._choice)

    @property
    def in_flight(self) -> int:
        """The number of requests in flight."""
        return sum(len(each.pacer.in_flight) for each in self.deployments)

    @property
    def pacers(self) -> list[Pacer]:
        """The pacers of the deployments that can be expected to answer, or else of all."""
        answering = [each for each in self.deployments if each.is_answering]
        return [each.pacer for each in answering or self.deployments]

    def queue(
        self,
        work: Work,
        tally: Tally,
        hedges: Hedges,
        *,
        deadline: float | None = None,
        since: float = 0.0,
    ) -> Queue:
        """Return the queue of a call, which `add` begins.

        Args:
            work: what to send.
            tally: counts requests, retries and tokens.
            hedges: the budget for stragglers of this call, perhaps shared with others.
            deadline: seconds after which everything that is not done is given up.
            since: the time from which they count.
        """
        if len(self.deployments) > 1:
            tally.share_among([each.server for each in self.deployments])
        return Queue(
            work,
            tally,
            hedges,
            deployments=self.deployments,
            deadline=deadline,
            end=math.inf if deadline is None else since + deadline,
            news=self._news,
        )

    def add(self, queue: Queue, now: float) -> None:
        """Begin a call."""
        if not self._turns.queues:
            for each in self.deployments:
                each.resume(now)
        queue.hedges.allow(queue.charge)
        self._turns.add(queue, now)
        self._choice.begin()

    def news(self) -> list[Queue]:
        """Return the calls that may have an outcome for their callers, each once."""
        news = list(self._news | self._turns.large)
        self._news.clear()
        return news

    def remove(self, queue: Queue) -> None:
        """End a call: send nothing more of it."""
        queue.stop()
        self._turns.remove(queue)

    def next(self, now: float) -> Flight | float:
        """Return a request to submit now, or the seconds until there may be one."""
        wait = self._end_late(now)
        if not self._turns.queues:
            return math.inf
        canary = self._next_canary(now)
        if isinstance(canary, Flight):
            return canary
        wait = min(wait, canary)
        order: Sequence[Deployment] = self.deployments
        if len(order) > 1:
            wait = min(wait, self._choice.open(now))
            left = 0
            for queue in self._turns.queues:
                queue.holds_last = not self._choice.is_open
                left += queue.left()
            order = self._choice.order(left, now)
            copy = self._copies.rescued(now, first=True) if self._hedge else wait
            if isinstance(copy, Copy):
                return self._copied(copy, now)  # first of all, or it may come too late
        elif order[0].is_canary_due:
            return wait
        for at in order:
            turn = self._turns.next(at, now)
            if not isinstance(turn, float):
                return self._fly(at, turn, now)
            wait = min(wait, turn)
        late = self._copies.next(now, wait) if self._hedge else wait
        return self._copied(late, now) if isinstance(late, Copy) else late

    def hold(self, flight: Flight) -> None:
        """Record that a request waits in its thread, so that no answer to it is awaited yet."""
        flight.ticket.is_held = True
        for _, batch in flight.parts:
            batch.is_awaited = False

    def restart(self, flight: Flight, now: float) -> None:
        """Record that a request starts only now, after waiting in its thread."""
        flight.ticket.sent, flight.ticket.is_held = now, False
        for _, batch in flight.parts:
            batch.sent, batch.is_awaited = now, True

    def status(self, now: float, *, left: float) -> Status:
        """Return what the calls wait for, given the tokens without an answer; changes nothing."""
        plans = [queue.planned() for queue in self._turns.queues]
        requests = sum(count for count, _ in plans)
        usual = sum(charge for _, charge in plans) / requests if requests else None
        if len(self.deployments) == 1:
            at = self.deployments[0]
            status = status_of(
                at.pacer,
                now,
                left=left,
                usual=usual,
                refusal=at.refusal,
                trip=at.limits.times.usual,
            )
            return replace(status, waits_for="server") if at.refuses_all else status
        answering = [each for each in self.deployments if each.is_answering] or self.deployments
        return together(
            [status_of(each.pacer, now, usual=usual, refusal=each.refusal) for each in answering],
            [each.pacer for each in answering],
            now,
            left=left,
            usual=usual,
        )

    def undo(self, flight: Flight) -> None:
        """Forget a request that could not be submitted; its batches wait again."""
        _note_end(flight)
        at = flight.at
        at.pacer.undo(flight.ticket)
        if not flight.parts:
            at.canaries -= 1
            flight.tally.request(at.number, -1)
        for queue, batch in flight.parts:
            queue.tally.request(at.number, -1)
            if flight.is_copy:
                queue.tally.copy(at.number, batch.charge, -1)
            if flight.is_hedge:
                queue.hedges.spend(-batch.charge)
            queue.put_back(batch, at)
            self._turns.come_back(queue, flight.ticket.sent, alone=False)

    def answered(
        self,
        flight: Flight,
        now: float,
        *,
        headers: Mapping[str, str],
        errors: Mapping[int, BaseException] | None = None,
    ) -> None:
        """Record that a request was answered.

        Args:
            flight: the request.
            now: the time.
            headers: the headers of the answer.
            errors: by position, why the answers of some parts cannot be used; position 0 also
                stands for a canary.
        """
        _note_end(flight)
        at = flight.at
        if at.answered(flight.ticket, flight.place, headers, now):
            for queue in self._turns.queues:
                queue.release_delayed()
        if not flight.parts:
            at.canaries -= 1
            if errors:
                self.give_up(errors[0])
                self._choice.reset()
            else:
                at.canary_passed(flight.ticket.sent)
                for queue in self._turns.queues:
                    queue.release_deferred()
        for position, (queue, batch) in enumerate(flight.parts):
            error = (errors or {}).get(position)
            if error is None:
                if not (at.is_alone or batch.is_settled):
                    queue.tally.count(at.number, texts=len(batch.rows))
                queue.answered(batch, at, now - flight.ticket.sent)
            else:
                self._settle((queue, batch), at, diagnosed(error, ()), error, now=now)

    def failed(self, flight: Flight, error: BaseException, now: float) -> None:
        """Record that a request failed, and handle its batches."""
        _note_end(flight)
        at, ticket = flight.at, flight.ticket
        batches = [batch for _, batch in flight.parts]
        diagnosis = at.diagnose(ticket, flight.texts, batches, error, now)
        kind = diagnosis.kind
        if kind is Kind.TIMED_OUT and now >= flight.deadline - AHEAD:
            self._cut_short(flight, now)
            return
        at.failed(ticket, flight.place, batches, diagnosis, error, now=now)
        flight.count_failure(is_throttled=kind is Kind.THROTTLED)
        if not flight.parts:
            at.canary_failed(now)
            if kind in REFUSALS:  # the texts are not the cause
                self._canary_refused(at, diagnosis, error, now)
                return
        is_doubtful = kind in (Kind.REFUSED, Kind.ACCOUNT) or diagnosis.by_words
        is_doubtful |= kind is Kind.TOO_LARGE and len(flight.texts) == 1
        if len(flight.parts) > 1 and (is_doubtful or kind is Kind.TOO_LARGE):
            self._separate(flight, now)
            return
        is_confirmation = any(batch.refused_again for batch in batches)
        for queue, batch in flight.parts:
            self._settle((queue, batch), at, diagnosis, error, now=now)
        if is_doubtful:
            if not is_confirmation:  # the same text in a row says nothing about others
                at.note_refusal(ticket, diagnosis, error)
            at.is_canary_due &= bool(self._turns.queues) or not at.is_alone
        elif at.gives_up(now) and self._choice.ends(now):
            error.add_note(at.why_given_up(now))
            self.give_up(error)
        if at.pacer.health.is_down and not at.is_alone:
            at.is_canary_due = True  # probe with the canary, so that texts go to others

    def _separate(self, flight: Flight, now: float) -> None:
        """Send the parts of a request again, each by itself, as one of them may be the cause."""
        for queue, batch in flight.parts:
            queue.tally.splits += 1
            queue.resend(batch, flight.at)
            self._turns.come_back(queue, now, alone=True)

    def _cut_short(self, flight: Flight, now: float) -> None:
        """Record that a call's deadline ended a request; the server did not fail.

        Calls with a later deadline send their part of the request again.
        """
        flight.at.pacer.dropped(flight.ticket)
        if not flight.parts:
            flight.at.canary_failed(now)
        for queue, batch in flight.parts:
            if queue.end <= flight.deadline:
                queue.end = min(queue.end, now)
            queue.put_back(batch, flight.at)
            self._turns.come_back(queue, flight.ticket.sent, alone=False)

    def give_up(self, error: BaseException, *, abandon: bool = False) -> None:
        """Give up all calls, but what is in flight only if it is to be abandoned."""
        for queue in self._turns.queues:
            queue.give_up(error, abandon=abandon)

    def abandon(self, flight: Flight, error: BaseException) -> None:
        """Give up the calls of a request whose end could not be recorded; for a canary, all."""
        flight.at.pacer.dropped(flight.ticket)
        for queue in [queue for queue, _ in flight.parts] or list(self._turns.queues):
            queue.give_up(error, abandon=True)

    def _settle(
        self,
        part: tuple[Queue, Batch],
        at: Deployment,
        diagnosis: Diagnosis,
        error: BaseException,
        *,
        now: float,
    ) -> None:
        queue, batch = part
        is_final = diagnosis.kind in FINAL and not diagnosis.by_words
        if is_final and diagnosis.kind is not Kind.MODEL and not at.is_alone:
            queue.hand_over(batch, at, error)
            self._leave_out(at, error, now, diagnosis.kind)
            self._turns.come_back(queue, now, alone=False)
            return
        queue.failed(batch, at, diagnosis, error, now)
        if queue.open:
            alone = diagnosis.kind in REFUSALS or batch.failures >= FAILED_TOGETHER
            self._turns.come_back(queue, now, alone=alone)
        if is_final:
            queue.give_up(error, concerns_all=True)
        elif diagnosis.kind in OF_THE_SERVER and batch.failures >= FAILED_IN_A_ROW:
            # The server or this batch? If nothing else is answered, the canary decides.
            is_alone = batch.is_alone and batch.failures > FAILED_IN_A_ROW
            at.is_canary_due |= at.pacer.health.is_down or is_alone

    def _canary_refused(
        self, at: Deployment, diagnosis: Diagnosis, error: BaseException, now: float
    ) -> None:
        if not at.asks_again(diagnosis, now):
            self._leave_out(at, at.canary_refused(error), now, diagnosis.kind)

    def _leave_out(self, at: Deployment, error: BaseException, now: float, kind: Kind) -> None:
        """Leave out a deployment that refuses everything; end all calls if all deployments do."""
        if at.is_alone or kind is Kind.MODEL:
            self.give_up(error)
            return
        at.leave_out(error, now)
        if self._choice.ends(now):
            self.give_up(error)

    def _next_canary(self, now: float) -> Flight | float:
        """Return a canary that is due, or the seconds until one is."""
        wait = math.inf
        if all(queue.is_given_up for queue in self._turns.queues):
            return wait
        for at in self.deployments:
            is_wanted = at.is_canary_due or at.is_in_doubt
            delay = at.canary_delay(now) if is_wanted else math.inf
            if delay <= 0:
                queue = next(iter(self._turns.queues))
                at.canary_sent(now)
                queue.tally.request(at.number)
                return self._fly(at, [], now, tally=queue.tally, work=queue.work)
            wait = min(wait, delay)
        return wait

    def _copied(self, copy: Copy, now: float) -> Flight:
        queue, batch = copy.queue, copy.batch
        queue.tally.copy(copy.at.number, batch.charge)
        if copy.is_hedge:
            queue.hedges.spend(batch.charge)
        queue.take(batch, copy.at, now)
        flight = self._fly(copy.at, [(queue, batch)], now)
        flight.is_copy, flight.is_hedge = True, copy.is_hedge
        return flight

    def _fly(
        self,
        at: Deployment,
        parts: Sequence[tuple[Queue, Batch]],
        now: float,
        *,
        tally: Tally | None = None,
        work: Work | None = None,
    ) -> Flight:
        work = work or parts[0][0].work
        ticket = at.pacer.start(
            sum(batch.charge for _, batch in parts) or 1,
            now,
            work=sum(batch.work for _, batch in parts) or 1,
        )
        place = at.odds.sent()
        end = min(queue.end for queue, _ in parts) if parts else self._turns.end
        for queue, batch in parts:
            queue.tally.request(at.number)
            batch.place, batch.number, batch.quiet = place, ticket.number, ticket.quiet
            if queue.work.budget is not None:
                queue.work.budget.sent(batch.tokens)
        usual = at.timeout
        if at.pacer.health.is_down or at.is_silent:
            usual = min(usual, PROBE_TIMEOUT)
        timeout = min(usual, max(0.001, end - now))
        texts = [queue.work.texts[row] for queue, batch in parts for row in batch.rows.tolist()]
        sends = work.sends if parts else work.canaries or work.sends
        return Flight(
            at=at,
            ticket=ticket,
            parts=parts,
            send=sends[at.number],
            timeout=timeout,
            deadline=end if timeout < usual else math.inf,
            context=work.context,
            place=place,
            tally=tally or parts[0][0].tally,
            texts=texts or (CANARY if at.is_alone else PROBE,),
        )

    def _end_late(self, now: float) -> float:
        """Give up calls whose deadline has passed; return the seconds until the next deadline."""
        wait = math.inf
        for queue in self._turns.with_deadline:
            if queue.open:
                if now >= queue.end:
                    # A call that only waited for another call's probe has no error of its own.
                    away = [each.last_error for each in self.deployments if not each.is_in_use(now)]
                    others = away[0] if len(away) == len(self.deployments) else None
                    cause = queue.last_error or others
                    queue.give_up(DeadlineError(queue.deadline or 0.0, cause), abandon=True)
                else:
                    wait = min(wait, queue.end - now)
        return wait


def _note_end(flight: Flight) -> None:
    """Tell the budgets of a request's calls that it has ended, however it did."""
    for queue, batch in flight.parts:
        if queue.work.budget is not None:
            queue.work.budget.ended(batch.tokens)
