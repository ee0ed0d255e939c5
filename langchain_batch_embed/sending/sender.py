"""All calls of one object on their way to one server: a state machine without threads or clock.

The sender joins what belongs to the server (`Pacer`, `SizeLimits`) and the calls' queues. It is
asked for the next request, or how long to wait for it, and told how each request ended. Whoever
drives it does the sending: the `Dispatcher` with threads, `rehearse` in simulated time.
"""

import contextvars
import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from langchain_batch_embed.errors import DeadlineError
from langchain_batch_embed.pacing.diagnosis import Diagnosis, Kind, diagnose
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.pacing.pacer import Pacer, Ticket
from langchain_batch_embed.pacing.status import Status, status_of
from langchain_batch_embed.pacing.throttle import LOOK_AGAIN
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending.odds import Odds
from langchain_batch_embed.sending.queue import Queue
from langchain_batch_embed.sending.size_limits import SizeLimits
from langchain_batch_embed.sending.turns import Turns
from langchain_batch_embed.sending.verdict import FINAL, Judge
from langchain_batch_embed.sending.work import Batch, Send, Work

__all__ = ["CANARY", "Flight", "Sender"]

logger = logging.getLogger(__name__)

CANARY = "text"
"""What is sent to find out whether it is the texts that a server refuses. It costs one token."""

REFUSED_IN_A_ROW = 8
"""Refusals without an answer in between after which the canary is sent. Each time that it passes,
twice as many are needed for the next one."""

FAILED_IN_A_ROW = 2
"""Failures of a batch after which the next probe of a server that is away is the canary."""

FAILED_TOGETHER = 2
"""A small call that failed this often in a request with others goes alone: it may be the cause."""

PROBE_TIMEOUT = 30.0
"""Seconds for a request to a server that is away: one that hangs must not hold up the others."""

PAUSE_LOGGED = 30.0
"""Seconds after a line about a pause in which the next ones are for DEBUG: some servers refuse a
few requests every second."""

_REFUSALS = frozenset(
    {Kind.REFUSED, Kind.ACCOUNT, Kind.OPTION, Kind.TOO_LARGE, Kind.MODEL, Kind.SPENT}
)
_OF_THE_SERVER = frozenset({Kind.TIMED_OUT, Kind.UNREACHABLE, Kind.OVERLOADED, Kind.FAILED})


@dataclass(slots=True, kw_only=True, eq=False)
class Flight:
    """One request.

    Attributes:
        ticket: of the pacer.
        parts: the batches in it, with their queues; none for the canary.
        send: how it is sent.
        timeout: seconds for it.
        texts: what is in it.
        context: in which it is sent, of the caller.
        is_copy: a batch in it was sent before, and is still waited for.
        place: among all requests, in the `Odds`.
        is_undone: it could not be submitted, so it must not be sent.
    """

    ticket: Ticket
    parts: Sequence[tuple[Queue, Batch]]
    send: Send
    timeout: float
    context: contextvars.Context
    place: int
    is_copy: bool = False
    is_undone: bool = False
    texts: Sequence[str] = field(default=(CANARY,))


class Sender:
    """What all calls of one object share: the server's state, learnt limits, and whose turn it is.

    Args:
        pacer: the server's state.
        max_retries: how often a batch may fail while others are answered.
        timeout: seconds for one request.
        hedge: whether stragglers are sent a second time.
        server: what messages call it: its address, without a key.
        is_rehearsal: nothing is sent, so the log says nothing.
        draw: a source of random numbers, uniform in 0 to 1.

    Attributes:
        limits: what one request may hold, as far as it was learnt.
    """

    def __init__(
        self,
        pacer: Pacer,
        *,
        max_retries: int,
        timeout: float,
        hedge: bool = False,
        server: str = "the server",
        is_rehearsal: bool = False,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.pacer = pacer
        self.timeout = pacer.concurrency.timeout = timeout
        self.limits = SizeLimits()
        self._hedge = hedge
        self._server = server
        self._odds = Odds()
        self._judge = Judge(pacer, self.limits, self._odds, max_retries=max_retries, draw=draw)
        self._news: dict[Queue, None] = {}  # a set that keeps its order
        self._turns = Turns(pacer, self.limits)
        self._refused_in_a_row = 0
        self._refusals_allowed = REFUSED_IN_A_ROW
        self._last_refusal: BaseException | None = None
        self._last_error: BaseException | None = None
        self._unconfirmed: Diagnosis | None = None  # it says that it is about every request
        self._is_outage_told = is_rehearsal
        self._is_rehearsal = is_rehearsal
        self._refusal = ""  # the status of the last one for the rate
        self._pause_told = -math.inf
        self._is_canary_due = False
        self._canary: Flight | None = None

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
            tally: where requests, retries and tokens are counted.
            hedges: what may be spent on stragglers, by this call and others.
            deadline: seconds after which all that is not done is given up.
            since: the time from which they count.
        """
        return Queue(
            work,
            tally,
            hedges,
            pacer=self.pacer,
            limits=self.limits,
            judge=self._judge,
            timeout=self.timeout,
            deadline=deadline,
            end=math.inf if deadline is None else since + deadline,
            news=self._news,
        )

    def add(self, queue: Queue, now: float) -> None:
        """Begin a call."""
        queue.hedges.allow(queue.charge)
        self._turns.add(queue, now)

    def news(self) -> list[Queue]:
        """Return the calls that may have an outcome for their callers, each once."""
        news = list(self._news | self._turns.large)
        self._news.clear()
        return news

    def remove(self, queue: Queue) -> None:
        """End a call: nothing more of it is sent."""
        queue.stop()
        self._turns.remove(queue)

    def next(self, now: float) -> Flight | float:
        """Return a request to submit now, or the seconds until there may be one."""
        wait = self._end_late(now)
        if not self._turns.queues:
            return math.inf
        if self._is_canary_due:
            canary = self._send_canary(now)
            return canary if isinstance(canary, Flight) else min(wait, canary)
        turn = self._turns.next(now)
        if not isinstance(turn, float):
            return self._fly(turn, now)
        if self._hedge and self.pacer.has_room():
            for queue in self._turns.large:
                batch, delay = queue.straggler(now)
                if batch is None:
                    wait = min(wait, delay)
                elif self._may_start(queue, batch, now):
                    queue.hedges.spend(batch.charge)
                    queue.tally.hedged += 1
                    queue.tally.hedged_tokens += batch.charge
                    queue.take(batch, now)
                    return self._fly([(queue, batch)], now, is_copy=True)
        return min(wait, turn)

    def restart(self, flight: Flight, now: float) -> None:
        """Note that a request starts only now: it had to wait in its thread."""
        flight.ticket.sent = now
        for _, batch in flight.parts:
            batch.sent = now

    def status(self, now: float, *, left: float) -> Status:
        """Return what is waited for, with this many tokens without an answer; changes nothing."""
        plans = [queue.planned() for queue in self._turns.queues]
        requests = sum(count for count, _ in plans)
        usual = sum(charge for _, charge in plans) / requests if requests else None
        return status_of(self.pacer, now, left=left, usual=usual, refusal=self._refusal)

    def undo(self, flight: Flight) -> None:
        """Forget a request that could not be submitted; its batches wait again."""
        _note_end(flight)
        self.pacer.undo(flight.ticket)
        if flight is self._canary:
            self._canary = None
        for queue, batch in flight.parts:
            queue.tally.requests -= 1
            queue.put_back(batch)
            self._turns.come_back(queue, flight.ticket.sent, alone=False)

    def answered(
        self,
        flight: Flight,
        now: float,
        *,
        headers: Mapping[str, str],
        errors: Mapping[int, BaseException] | None = None,
    ) -> None:
        """Note that a request was answered.

        Args:
            flight: the request.
            now: the time.
            headers: of the answer.
            errors: why the answers of some of its parts, by position, cannot be used.
        """
        _note_end(flight)
        self._refused_in_a_row = 0
        self._odds.answered(flight.place)
        if self.pacer.answered(flight.ticket, headers, now):
            if self._is_outage_told and not self._is_rehearsal:
                logger.warning("%s answers again", self._server)
            self._is_outage_told = self._is_rehearsal
            for queue in self._turns.queues:
                queue.release_delayed()
        if flight is self._canary:
            self._canary, self._is_canary_due = None, False
            self._refusals_allowed *= 2
            if self._unconfirmed is not None:
                self._judge.denied(self._unconfirmed)
                self._unconfirmed = None
        for position, (queue, batch) in enumerate(flight.parts):
            error = (errors or {}).get(position)
            if error is None:
                queue.answered(batch, now - flight.ticket.sent)
            else:
                self._settle(queue, batch, _diagnosed(error, ()), error, now)

    def failed(self, flight: Flight, error: BaseException, now: float) -> None:
        """Note that a request failed, and do with its batches what is right."""
        _note_end(flight)
        diagnosis = self._diagnosis(flight, error)
        self._last_error = error
        begins = self._tell_pacer(flight, diagnosis, error, now)
        if not self._is_rehearsal:
            self._log_failure(flight, diagnosis, now, begins=begins)
        if self.pacer.is_away(now) and not self._is_outage_told:
            self._log_outage(diagnosis)
        kind = diagnosis.kind
        if flight is self._canary:
            self._canary = None
            if kind in _REFUSALS:  # it is not the texts
                self._is_canary_due, self._unconfirmed = False, None
                self.give_up(self._last_refusal or error)
                return
        is_doubtful = kind in (Kind.REFUSED, Kind.ACCOUNT) or diagnosis.by_words
        is_doubtful |= kind is Kind.TOO_LARGE and len(flight.texts) == 1
        if len(flight.parts) > 1 and (is_doubtful or kind is Kind.TOO_LARGE):
            for queue, batch in flight.parts:  # each by itself: it may be about one of them
                queue.tally.splits += 1
                queue.resend(batch)
                self._turns.come_back(queue, now, alone=True)
            return
        for queue, batch in flight.parts:
            self._settle(queue, batch, diagnosis, error, now)
        if is_doubtful:
            self._note_refusal(flight, diagnosis, error)
        elif self.pacer.gives_up(now, unreachable=kind is Kind.UNREACHABLE):
            error.add_note(f"{self._server} gave no answer")
            self.give_up(error)

    def _diagnosis(self, flight: Flight, error: BaseException) -> Diagnosis:
        found = _diagnosed(error, flight.texts)
        if found.kind is not Kind.OVERLOADED:
            return found
        refusals = max((batch.refusals for _, batch in flight.parts), default=0)
        is_rate = self.pacer.overloaded(flight.ticket, refusals=refusals)
        return replace(found, kind=Kind.THROTTLED) if is_rate else found

    def _settle(
        self,
        queue: Queue,
        batch: Batch,
        diagnosis: Diagnosis,
        error: BaseException,
        now: float,
    ) -> None:
        queue.failed(batch, diagnosis, error, now)
        if queue.open:
            alone = diagnosis.kind in _REFUSALS or batch.failures >= FAILED_TOGETHER
            self._turns.come_back(queue, now, alone=alone)
        if diagnosis.kind in FINAL and not diagnosis.by_words:
            queue.give_up(error, concerns_all=True)
        elif diagnosis.kind in _OF_THE_SERVER and batch.failures >= FAILED_IN_A_ROW:
            # Is it the server, or this batch? Where nobody else is answered, the canary tells.
            is_alone = batch.is_alone and batch.failures > FAILED_IN_A_ROW
            self._is_canary_due |= self.pacer.health.is_down or is_alone

    def _note_refusal(self, flight: Flight, diagnosis: Diagnosis, error: BaseException) -> None:
        """Find out whether it is the texts that are refused, or everything."""
        health = self.pacer.health
        self._last_refusal = error
        if flight.ticket.sent >= health.answered_at:
            self._refused_in_a_row += 1
        is_doubtful = diagnosis.kind is Kind.ACCOUNT and not health.has_answered
        if self._judge.is_to_be_confirmed(diagnosis):
            self._unconfirmed, is_doubtful = diagnosis, True
        if is_doubtful or self._refused_in_a_row >= self._refusals_allowed:
            self._is_canary_due = bool(self._turns.queues)
            self._refused_in_a_row = 0

    def give_up(self, error: BaseException) -> None:
        """Give up all calls, but for what is in flight."""
        for queue in self._turns.queues:
            queue.give_up(error)

    def _tell_pacer(
        self, flight: Flight, diagnosis: Diagnosis, error: BaseException, now: float
    ) -> bool:
        kind, quota = diagnosis.kind, diagnosis.quota
        if kind in _REFUSALS:
            self._odds.answered(flight.place)
        elif kind in _OF_THE_SERVER and all(map(_is_fresh, flight.parts)):
            self._odds.failed(flight.place)
        if kind is Kind.THROTTLED:
            self._refusal = str(diagnosis.status or "")
            return self.pacer.throttled(
                flight.ticket,
                now,
                after=diagnosis.after,
                headers=_headers(error),
                quota=quota,
            )
        if diagnosis.whole_quota:
            self.pacer.undo(flight.ticket)  # no limiter charges what it can never let through
        elif kind in _OF_THE_SERVER and not self._is_of_the_texts(flight, diagnosis):
            self.pacer.failed(
                flight.ticket,
                now,
                timed_out=kind is Kind.TIMED_OUT,
                overloaded=kind is Kind.OVERLOADED,
                reached=diagnosis.reached,
            )
        else:
            self.pacer.passed(flight.ticket, now)
        return False

    def _is_of_the_texts(self, flight: Flight, diagnosis: Diagnosis) -> bool:
        """Tell whether batches have failed in the same way before, while others were answered."""
        answered_at = self.pacer.health.answered_at
        return (
            diagnosis.kind is Kind.FAILED
            and bool(flight.parts)
            and all(
                batch.failures
                and batch.signature == diagnosis.signature
                and answered_at >= batch.failed_at
                for _, batch in flight.parts
            )
        )

    def _log_failure(
        self, flight: Flight, diagnosis: Diagnosis, now: float, *, begins: bool
    ) -> None:
        """Tell of a failed request; where it `begins` a pause, tell of that, but not of each."""
        name = _named(diagnosis)
        seconds, count = now - flight.ticket.sent, len(flight.texts)
        logger.debug("Failed after %.3g s (%s): %d texts", seconds, name, count)
        if not begins:
            return
        pause = self.pacer.throttle.delay(now)
        level = logging.WARNING if pause > LOOK_AGAIN else logging.INFO
        if level == logging.INFO and now < self._pause_told + PAUSE_LOGGED:
            level = logging.DEBUG
        else:
            self._pause_told = now
        logger.log(level, "Throttled (%s): waiting %.3g s", name, pause)

    def _log_outage(self, diagnosis: Diagnosis) -> None:
        self._is_outage_told = True
        logger.warning(
            "%s does not answer (%s): one request at a time tries again, everything else "
            "waits, for %g s at most",
            self._server,
            _named(diagnosis),
            self.pacer.health.patience_for(unreachable=diagnosis.kind is Kind.UNREACHABLE),
        )

    def _send_canary(self, now: float) -> Flight | float:
        if self._canary is not None:
            return math.inf  # what it tells is waited for
        delay = self.pacer.delay(1, now)
        if delay > 0:
            return delay
        queue = next(iter(self._turns.queues))
        self._canary = self._fly([], now, work=queue.work)
        queue.tally.requests += 1
        return self._canary

    def _fly(
        self,
        parts: Sequence[tuple[Queue, Batch]],
        now: float,
        *,
        work: Work | None = None,
        is_copy: bool = False,
    ) -> Flight:
        work = work or parts[0][0].work
        ticket = self.pacer.start(
            sum(batch.charge for _, batch in parts) or 1,
            now,
            work=sum(batch.work for _, batch in parts) or 1,
        )
        end = min(queue.end for queue, _ in parts) if parts else self._turns.end
        place = self._odds.sent()
        for queue, batch in parts:
            queue.tally.requests += 1
            batch.place, batch.number = place, ticket.number
            if queue.work.budget is not None:
                queue.work.budget.sent(batch.tokens)
        timeout = min(self.timeout, max(0.001, end - now))
        if self.pacer.health.is_down:
            timeout = min(timeout, PROBE_TIMEOUT)
        texts = [queue.work.texts[row] for queue, batch in parts for row in batch.rows.tolist()]
        return Flight(
            ticket=ticket,
            parts=parts,
            send=work.send,
            timeout=timeout,
            context=work.context,
            place=place,
            is_copy=is_copy,
            texts=texts or (CANARY,),
        )

    def _may_start(self, queue: Queue, copy: Batch, now: float) -> bool:
        budget = queue.work.budget
        is_affordable = budget is None or copy.tokens <= budget.left
        return is_affordable and self.pacer.delay(copy.charge, now) == 0

    def _end_late(self, now: float) -> float:
        """Give up the calls whose deadline has passed; return the seconds until the next one."""
        wait = math.inf
        for queue in self._turns.with_deadline:
            if queue.open:
                if now >= queue.end:
                    # A call that only waited for another's probe has no error of its own.
                    away = self._last_error if self.pacer.is_away(now) else None
                    cause = queue.last_error or away
                    queue.give_up(DeadlineError(queue.deadline or 0.0, cause), abandon=True)
                else:
                    wait = min(wait, queue.end - now)
        return wait


def _note_end(flight: Flight) -> None:
    for queue, batch in flight.parts:
        if queue.work.budget is not None:
            queue.work.budget.ended(batch.tokens)


def _diagnosed(error: BaseException, texts: Sequence[str]) -> Diagnosis:
    """Say what is wrong; a mistake of ours in that must not leave a batch without an outcome."""
    try:
        return diagnose(error, sent=texts)
    except Exception as mistake:  # noqa: BLE001  # whatever an SDK's exception does when it is read
        names = type(error).__name__, type(mistake).__name__
        logger.error("%s cannot be understood (%s), so it is not tried again", *names)
        return Diagnosis(kind=Kind.MODEL, signature=names[0])


def _named(diagnosis: Diagnosis) -> str:
    """Return the status, code and class of an error, as far as it has them."""
    return " ".join(part for part in diagnosis.signature.split(" ") if part != "-")


def _headers(error: BaseException) -> Mapping[str, str]:
    response: Any = getattr(error, "response", None)
    headers: Mapping[str, str] = getattr(response, "headers", None) or {}
    return headers


def _is_fresh(part: tuple[Queue, Batch]) -> bool:
    """Tell whether nothing that a batch holds has failed before: its texts may be the cause."""
    _, batch = part
    return not (batch.setbacks or batch.part_of)
