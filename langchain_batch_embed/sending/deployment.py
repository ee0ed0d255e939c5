"""Everything learnt about one server. Pure decisions, without threads or clock.

Each of several deployments of one model, or of several keys, has one of these. A failure at one of
them says nothing about the others.
"""

import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from langchain_batch_embed.pacing.diagnosis import Diagnosis, Kind, diagnose
from langchain_batch_embed.pacing.health import IDLE
from langchain_batch_embed.pacing.load import Load
from langchain_batch_embed.pacing.pacer import Pacer
from langchain_batch_embed.pacing.speed import Speed
from langchain_batch_embed.pacing.throttle import LOOK_AGAIN
from langchain_batch_embed.pacing.ticket import Ticket
from langchain_batch_embed.sending.odds import Odds, Place
from langchain_batch_embed.sending.server_log import ServerLog
from langchain_batch_embed.sending.size_limits import SizeLimits
from langchain_batch_embed.sending.verdict import Judge
from langchain_batch_embed.sending.work import Batch

__all__ = ["Deployment", "diagnosed"]

logger = logging.getLogger(__name__)

REFUSED_IN_A_ROW = 8
"""Refusals in a row after which the canary is sent. Each canary that passes doubles the number for
the next one."""

FORBIDDEN_IN_A_ROW = 2
"""The same for refusals of the account, such as 401, 403 and 404. They are rarely about a text, and
a text with two of them is given up."""

REFUSES_ALL = 10.0
"""Seconds for which a server may refuse even the canary before the call ends, if it has answered or
still may. A gateway that restarts, or one bad replica of several, does so for a while."""

ASK_AGAIN = 1.0
"""Seconds between two canaries while the server refuses everything."""

CANARY_AGAIN = 0.5
"""Seconds after which the first canary of one of several deployments is sent again: at hosted
services one answer in a hundred takes many times as long as the others."""

MOST_CANARIES = 3
"""Most canaries in flight at one of several deployments."""

GATEWAY_TIMEOUT = 504
GATEWAY_WAITED = 1.0
"""A gateway that answers with 504 after this many seconds has waited for a slow server, which is
therefore not away. A gateway that limits the rate answers at once."""

REFUSALS = frozenset(
    {Kind.REFUSED, Kind.ACCOUNT, Kind.OPTION, Kind.TOO_LARGE, Kind.MODEL, Kind.SPENT}
)
MOST_REFUSED = 11
"""If more of 16 requests are refused at once, in a way that was by chance before, there are too
many. One bad replica of two refuses 12 of 16 in 4 % of all windows, and one of four in 4 of
100,000 (binomial distribution)."""

_MAY_PASS = frozenset({Kind.REFUSED, Kind.ACCOUNT, Kind.TOO_LARGE})
OF_THE_SERVER = frozenset({Kind.TIMED_OUT, Kind.UNREACHABLE, Kind.OVERLOADED, Kind.FAILED})


class Deployment:
    """The state of one server, and what its answers and errors mean.

    Args:
        pacer: the pacer of the server.
        max_retries: how often a batch may fail while others are answered.
        timeout: seconds for one request.
        server: its name in messages, which is its address without a key.
        number: its position among several.
        is_alone: whether there are no other deployments.
        is_rehearsal: whether nothing is really sent, so that nothing is logged.
        draw: a source of random numbers, uniform in 0 to 1.

    Attributes:
        limits: the learnt limits of one request.
        judge: decides what to do with failed batches.
        speed: the speed of its answers.
        refusal: the HTTP status of the last rate-limit refusal.
        is_canary_due: whether the canary has to test if anything is answered.
        is_late: whether others will have answered everything before it can, so that it gets only
            what they refuse.
        is_silent: whether it answers none of its requests in flight, so that it gets no texts
            until it does.
        is_in_doubt: whether to send the canary along with texts, some of which only this
            deployment refuses.
        canaries: the number of canaries in flight.
        confirmed_at: when the last answered canary was sent.
        canary_from: when the next canary may be sent.
        is_proven: whether its vectors match those of the others; one alone needs no proof.
        left_out: why it gets no texts while others do; `None` if it does get some.
        last_error: the error of the last failed request.
    """

    def __init__(
        self,
        pacer: Pacer,
        *,
        max_retries: int,
        timeout: float,
        server: str = "the server",
        number: int = 0,
        is_alone: bool = True,
        is_rehearsal: bool = False,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.pacer = pacer
        self.timeout = pacer.concurrency.timeout = timeout
        self.server = server
        self.number = number
        self.limits = SizeLimits()
        self.odds = Odds()
        self.judge = Judge(
            pacer,
            self.limits,
            self.odds,
            max_retries=max_retries,
            is_only_server=is_alone,
            draw=draw,
        )
        self.speed = Speed()
        self._load = Load()
        self._load_by_refusals = Load(MOST_REFUSED)
        self.refusal = ""
        self.is_alone = self.is_proven = is_alone
        self.is_canary_due, self.is_in_doubt, self.canaries = not is_alone, False, 0
        self.confirmed_at = -math.inf
        self.canary_from = -math.inf
        self.is_late = self.is_silent = False
        self.left_out: BaseException | None = None
        self.last_error: BaseException | None = None
        self._refused_in_a_row = 0
        self._forgiven = 1  # doubled by each canary that passes
        self._refuses_all_since = math.inf
        self._refuses_all_from = 0  # the number of the first request after that
        self._last_refusal: BaseException | None = None
        self._is_unreachable = False  # whether no server of embeddings caused the last failure
        self._unconfirmed: Diagnosis | None = None  # a refusal that claims to concern every request
        self._log = ServerLog(server, is_alone=is_alone, is_off=is_rehearsal)

    @property
    def is_answering(self) -> bool:
        """Whether texts sent to it are likely to be answered."""
        return not (self.is_silent or self.left_out or self.pacer.health.is_down)

    @property
    def refuses_all(self) -> bool:
        """Whether it refuses even the canary, which is sent again for some seconds."""
        return self._refuses_all_since < math.inf

    def is_in_use(self, now: float) -> bool:
        """Return whether it gets texts: it is neither left out nor away."""
        return self.left_out is None and not self.pacer.is_away(now)

    def resume(self, now: float) -> None:
        """Begin a call after a time without any, in which the server may have recovered."""
        self.pacer.health.resume(now)
        self.pacer.throttle.resume(now)
        if now - self._refuses_all_since > IDLE:
            self._refuses_all_since = math.inf

    def gives_up(self, now: float) -> bool:
        """Return whether it has given no answer for too long, or refuses everything."""
        return self.left_out is not None or self.pacer.gives_up(
            now, unreachable=self._is_unreachable
        )

    def why_given_up(self, now: float) -> str:
        """Return what it did for so long that it was given up, for the user."""
        if now - self.pacer.throttle.since >= self.pacer.health.patience:
            return f"{self.server} accepted no request for {self.pacer.health.patience:g} s"
        return f"{self.server} gave no answer for {self.pacer.health.away_for(now):.0f} s"

    def canary_delay(self, now: float) -> float:
        """Return the seconds until a canary is due; `inf` while one is in flight.

        A slow first answer would keep one of several deployments from its work, so a second canary
        may follow.
        """
        if self.canaries and (self.is_alone or self.is_proven or self.canaries >= MOST_CANARIES):
            return math.inf
        return max(self.canary_from - now, self.pacer.delay(1, now))

    def canary_sent(self, now: float) -> None:
        """Record that a canary was sent."""
        self.canaries += 1
        self.canary_from = -math.inf if self.is_alone else now + CANARY_AGAIN

    def canary_failed(self, now: float) -> None:
        """Record that a canary failed without a result; the next one is due at once."""
        self.canaries -= 1
        self.canary_from = -math.inf if self.left_out is None else now + LOOK_AGAIN

    def leave_out(self, error: BaseException, now: float) -> None:
        """Send it no more texts, as it refuses them all. A canary asks again now and then."""
        if self.left_out is None:
            self._log.left_out(diagnosed(error, ()))
        self.left_out = error
        self.is_canary_due, self.canary_from = True, now + LOOK_AGAIN

    def take_back(self) -> None:
        """Let the canary test again whether it answers."""
        self.left_out, self.canary_from = None, -math.inf

    def answered(
        self, ticket: Ticket, place: Place, headers: Mapping[str, str], now: float
    ) -> bool:
        """Record an answer; return whether it ends an outage."""
        self._refused_in_a_row = 0
        if self.refuses_all and place.number >= self._refuses_all_from:
            self._refuses_all_since = math.inf
            self._log.accepts_again()
        self.is_silent = False
        for load in (self._load, self._load_by_refusals):
            if load.has_failed:
                load.answered()
        place.answered()
        if not self.is_alone:
            self.speed.answered(ticket.charge, now - ticket.sent, now)
        is_back = self.pacer.answered(ticket, headers, now)
        if is_back:
            self._log.back()
        return is_back

    def canary_passed(self, sent: float) -> None:
        """Record that a canary was answered: earlier refusals were about texts."""
        self.confirmed_at, self.is_in_doubt = sent, False
        if self.left_out is not None:
            self._log.used_again()
        self.left_out, self.canary_from = None, -math.inf
        self.is_canary_due, self.is_proven = False, True
        if self._last_refusal is not None:  # and not after an outage
            self._forgiven *= 2
            self._last_refusal = None
        if self._unconfirmed is not None:
            self.judge.denied(self._unconfirmed)
            self._unconfirmed = None

    def asks_again(self, diagnosis: Diagnosis, now: float) -> bool:
        """Record that a canary was refused; return whether to send it again in a second."""
        # While requests are in flight, an answer may yet come: one bad replica may have refused it.
        may_answer = self.pacer.health.has_answered or self.pacer.in_flight
        if not (self.is_alone and may_answer and diagnosis.kind in _MAY_PASS):
            return False
        if not self.refuses_all:
            self._refuses_all_since = now
            self._refuses_all_from = self.odds.count  # answers to earlier requests may still come
            self._log.refuses_all(diagnosis, REFUSES_ALL)
        self.is_canary_due, self.canary_from = True, now + ASK_AGAIN
        return now < self._refuses_all_since + REFUSES_ALL

    def canary_refused(self, error: BaseException) -> BaseException:
        """Record that the texts are not the cause; return why everything is refused."""
        self.is_canary_due = self.is_in_doubt = False
        self._unconfirmed = None
        return self._last_refusal or error

    def diagnose(
        self,
        ticket: Ticket,
        texts: Sequence[str],
        batches: Sequence[Batch],
        error: BaseException,
        now: float,
    ) -> Diagnosis:
        """Diagnose a failed request."""
        self.last_error = error
        found = diagnosed(error, texts)
        if found.status == GATEWAY_TIMEOUT and now - ticket.sent >= GATEWAY_WAITED:
            found = replace(found, kind=Kind.TIMED_OUT)
        self._is_unreachable = found.kind is Kind.UNREACHABLE or found.is_page
        if self._is_about_load(found, batches, now - ticket.sent):
            found = replace(found, kind=Kind.OVERLOADED)
        elif found.kind is not Kind.OVERLOADED:
            return found
        if (
            self.judge.is_about_texts(found)
            and batches
            and not all(map(_is_fresh, batches))
            and not self.pacer.is_overload_random
        ):
            return found  # the server may break down at one of these texts, as it did before
        refusals = max((batch.refusals for batch in batches), default=0)
        kind = self.pacer.overloaded(ticket, now, after=found.after, refusals=refusals)
        return replace(found, kind=kind)

    def _is_about_load(
        self, diagnosis: Diagnosis, batches: Sequence[Batch], seconds: float
    ) -> bool:
        """Return whether a failure of any kind means that there are too many requests."""
        is_broken = diagnosis.kind is Kind.UNREACHABLE and diagnosis.reached
        is_status = diagnosis.kind is Kind.FAILED and diagnosis.status is not None
        usual = self.limits.times.usual
        if diagnosis.kind in _MAY_PASS and self.judge.is_by_chance(diagnosis):
            return self._load_by_refusals.failed(seconds, usual=usual, is_plain=True)
        return (is_broken or is_status) and self._load.failed(
            seconds,
            usual=usual,
            is_plain=all(
                batch.part_of is None and self.limits.has_passed_in_size(batch) for batch in batches
            ),
        )

    def failed(
        self,
        ticket: Ticket,
        place: Place,
        batches: Sequence[Batch],
        diagnosis: Diagnosis,
        error: BaseException,
        *,
        now: float,
    ) -> None:
        """Record a failed request, and why it failed."""
        begins = self._tell_pacer(ticket, place, batches, diagnosis, error, now=now)
        pacer = self.pacer
        texts = sum(len(batch.rows) for batch in batches) or 1
        self._log.failed(diagnosis, now - ticket.sent, texts, chance=pacer.refuses_at_random)
        if begins:
            self._log.paused(diagnosis, pacer.throttle.delay(now), now)
        if pacer.is_away(now):
            patience = pacer.health.patience_for(unreachable=self._is_unreachable)
            self._log.away(diagnosis, error, patience)

    def note_refusal(self, ticket: Ticket, diagnosis: Diagnosis, error: BaseException) -> None:
        """Send the canary if it is unclear whether texts are refused, or everything."""
        health = self.pacer.health
        self._last_refusal = error
        if ticket.sent >= health.answered_at:
            self._refused_in_a_row += 1
        is_doubtful = diagnosis.kind is Kind.ACCOUNT and not health.has_answered
        if self.judge.is_to_be_confirmed(diagnosis):
            self._unconfirmed, is_doubtful = diagnosis, True
        enough = FORBIDDEN_IN_A_ROW if diagnosis.kind is Kind.ACCOUNT else REFUSED_IN_A_ROW
        if is_doubtful or self._refused_in_a_row >= enough * self._forgiven:
            self.is_canary_due = True
            self._refused_in_a_row = 0

    def _tell_pacer(
        self,
        ticket: Ticket,
        place: Place,
        batches: Sequence[Batch],
        diagnosis: Diagnosis,
        error: BaseException,
        *,
        now: float,
    ) -> bool:
        kind, quota = diagnosis.kind, diagnosis.quota
        if kind in REFUSALS:
            place.refused()
        elif kind in OF_THE_SERVER and all(map(_is_fresh, batches)):
            place.failed()
        if kind is Kind.THROTTLED:
            self.refusal = str(diagnosis.status or "")
            return self.pacer.throttled(
                ticket, now, after=diagnosis.after, headers=_headers(error), quota=quota
            )
        if diagnosis.whole_quota:
            self.pacer.undo(ticket)  # no limiter charges what it can never accept
        elif kind in OF_THE_SERVER and (
            ticket.is_refused or not self._is_of_the_texts(batches, diagnosis)
        ):
            self.pacer.failed(
                ticket,
                now,
                timed_out=kind is Kind.TIMED_OUT,
                overloaded=kind is Kind.OVERLOADED,
                reached=diagnosis.reached,
            )
        else:
            self.pacer.passed(ticket, now)
        return False

    def _is_of_the_texts(self, batches: Sequence[Batch], diagnosis: Diagnosis) -> bool:
        """Return whether batches failed in the same way before, while others were answered."""
        answered_at = self.pacer.health.answered_at
        kind = diagnosis.kind
        may_be = kind in (Kind.FAILED, Kind.TIMED_OUT) or (
            kind is Kind.OVERLOADED and self.judge.is_about_texts(diagnosis)
        )
        return (
            may_be
            and bool(batches)
            and all(
                (batch.failures or (batch.part_of is not None and kind is not Kind.FAILED))
                and batch.signature == diagnosis.signature
                and answered_at >= batch.failed_at
                for batch in batches
            )
        )


def diagnosed(error: BaseException, texts: Sequence[str]) -> Diagnosis:
    """Diagnose an error, even if our own diagnosis fails: every batch needs an outcome."""
    try:
        return diagnose(error, sent=texts)
    except Exception as mistake:  # noqa: BLE001  # reading an SDK's exception may raise anything
        names = type(error).__name__, type(mistake).__name__
        logger.error("%s could not be diagnosed (%s), so its request is not sent again", *names)
        return Diagnosis(kind=Kind.MODEL, signature=names[0])


def _headers(error: BaseException) -> Mapping[str, str]:
    response: Any = getattr(error, "response", None)
    headers: Mapping[str, str] = getattr(response, "headers", None) or {}
    return headers


def _is_fresh(batch: Batch) -> bool:
    """Return whether nothing in a batch has failed before, or else its texts may be the cause."""
    return not (batch.setbacks or batch.part_of)
