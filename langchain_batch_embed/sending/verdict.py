"""What becomes of a batch that failed: sent again, cut into parts, kept waiting, or given up.

Pure: a batch, what is wrong and the time go in, a verdict comes out. The queue carries it out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from langchain_batch_embed.pacing.backoff import Backoff
from langchain_batch_embed.pacing.diagnosis import Diagnosis, Kind
from langchain_batch_embed.pacing.pacer import Pacer
from langchain_batch_embed.sending.size_limits import SizeLimits
from langchain_batch_embed.sending.work import Batch, Rows

__all__ = ["FINAL", "Cut", "GiveUp", "Hold", "Judge", "Park", "Resend", "Verdict", "divided"]

FINAL = frozenset({Kind.SPENT, Kind.OPTION, Kind.MODEL})
"""Errors that end a call: they are about all of its texts, and no waiting helps."""

OVERLOADED = 4
"""An overloaded server allows this many times `max_retries`: where it refuses 6 requests of 10 at
random, 8 retries become 32, and a text is lost once in 20 million (0.6 to the power of 33)."""

SURE = 8
"""That is at least this many failures together: with one request in ten that fails by chance, they
would come together once in 100 million."""

SOON = 3.0
"""While others are answered, a batch that failed once is sent again after this many round trips at
the latest: more time would not help."""

SAME_ERROR = 2
"""A batch that fails this often in the same way, while others are answered, is halved."""

REFUSED_ALONE = 4
"""A batch that is refused for the rate this often with nothing else in flight and no answer in
between, after pauses of up to 10 s, is more than the whole quota allows at once: it is cut."""

REFUSED_ALONE_AS_TOLD = 2
"""The same where the server said each time how long to wait."""

ALONE = 3
"""One text that fails this often with a 5xx, after all that it was a part of, is given up."""

BY_CHANCE = 3
"""A batch that could not be delivered, or met an overloaded server, this often while others are
answered is halved: perhaps one of its texts is what takes the server down."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep the batch as the next of its call: the canary finds out whether anything is let in."""


@dataclass(frozen=True, slots=True)
class Resend:
    """Send the batch again.

    Attributes:
        after: seconds; 0: as the next of its call.
    """

    after: float = 0.0


@dataclass(frozen=True, slots=True)
class Cut:
    """Send these rows as batches of their own instead, after this many seconds."""

    rows: Sequence[Rows]
    after: float = 0.0


@dataclass(frozen=True, slots=True)
class Park:
    """Keep the batch until the parts of another one have told what is wrong."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The batch has no vectors.

    Attributes:
        released: batches that were parked until this was known, perhaps of other calls.
    """

    released: Sequence[Batch]


Verdict = Hold | Resend | Cut | Park | GiveUp


class Judge:
    """Says what becomes of batches that failed.

    Args:
        pacer: the server's state.
        limits: what one request may hold, as far as it was learnt.
        max_retries: how often a batch may fail while others are answered.
        draw: a source of random numbers, uniform in 0 to 1.
    """

    def __init__(
        self, pacer: Pacer, limits: SizeLimits, *, max_retries: int, draw: Callable[[], float]
    ) -> None:
        self._pacer = pacer
        self._limits = limits
        self._max_retries = max_retries
        self._draw = draw
        self._backoff = Backoff()

    def verdict(
        self, batch: Batch, diagnosis: Diagnosis, error: BaseException, now: float
    ) -> Verdict:
        """Say what becomes of a batch, and note in it how it failed."""
        match diagnosis.kind:
            case kind if kind in FINAL:
                return GiveUp(self._limits.dropped(batch))
            case Kind.THROTTLED:
                return self._throttled(batch, diagnosis)
            case Kind.REFUSED | Kind.TOO_LARGE:
                return self._refused(batch, diagnosis)
            case Kind.ACCOUNT:
                return self._forbidden(batch, diagnosis)
            case _:
                return self._failed(batch, diagnosis, error, now)

    def _throttled(self, batch: Batch, diagnosis: Diagnosis) -> Verdict:
        """Wait for the quota; but cut what is refused alone after every wait: it is above it."""
        batch.refusals += not self._pacer.in_flight
        most = REFUSED_ALONE if diagnosis.after is None else REFUSED_ALONE_AS_TOLD
        if (
            batch.refusals >= most
            and self._pacer.throttle.in_a_row >= most
            and len(batch.rows) > 1
            and not self._pacer.explains(batch.charge)
            and not self._limits.has_passed(batch)
        ):
            self._limits.refused_for_quota(batch)
            batch.refusals = 0
            return _cut(batch, self._limits.parts(batch))
        return Resend()

    def _forbidden(self, batch: Batch, diagnosis: Diagnosis) -> Verdict:
        """One bad replica, or a firewall that dislikes one text, if others are answered."""
        if not self._pacer.health.has_answered:
            return Hold()
        if batch.signature == diagnosis.signature:
            return self._refused(batch, diagnosis)
        batch.signature = diagnosis.signature
        return Resend(self._backoff.delay(0, self._draw))

    def _refused(self, batch: Batch, diagnosis: Diagnosis) -> Verdict:
        """Cut a refused batch into parts, down to the text that is refused alone."""
        batch.signature = diagnosis.signature
        count = len(batch.rows)
        if count == 1:
            batch.failures += 1
            return GiveUp(self._limits.ended_at_one(batch))
        at = diagnosis.at
        if at is not None and at < count and diagnosis.kind is not Kind.TOO_LARGE:
            around = (batch.rows[:at], batch.rows[at : at + 1], batch.rows[at + 1 :])
            return Cut([rows for rows in around if len(rows)])
        parts, waits = self._limits.refused(batch, diagnosis)
        return Park() if waits else _cut(batch, parts)

    def _failed(
        self, batch: Batch, diagnosis: Diagnosis, error: BaseException, now: float
    ) -> Verdict:
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
            if self._is_to_be_cut(batch, kind, same=same, others_answered=others_answered):
                if same and getattr(error, "received", None):  # one vector for several texts
                    return self._refused(batch, diagnosis)
                waits = kind in (Kind.TIMED_OUT, Kind.OVERLOADED)
                delay = self._backoff.delay(batch.failures, self._draw) if waits else 0.0
                return _cut(batch, 2, after=delay)
        elif self._is_to_be_lost(batch, diagnosis) and (
            others_answered or (self._max_retries == 0 and diagnosis.status is not None)
        ):
            return GiveUp(self._limits.dropped(batch))
        return Resend(self._delay(batch, diagnosis))

    def _is_to_be_cut(self, batch: Batch, kind: Kind, *, same: bool, others_answered: bool) -> bool:
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

    def _delay(self, batch: Batch, diagnosis: Diagnosis) -> float:
        """Return the seconds until a batch that failed is sent again."""
        delay = self._backoff.delay(max(0, batch.failures - 1), self._draw)
        if batch.failures == 1 and self._pacer.health.failures <= 1 and self._limits.pace:
            delay = min(delay, SOON * self._limits.pace)  # others are answered
        return delay if diagnosis.after is None else max(diagnosis.after, 0.1 * delay)


def _cut(batch: Batch, parts: int, *, after: float = 0.0) -> Cut:
    return Cut(divided(batch, parts), after)


def divided(batch: Batch, parts: int) -> Sequence[Rows]:
    """Return the rows of a batch in this many parts, at least 2, or one a row."""
    return np.array_split(batch.rows, max(2, min(parts, len(batch.rows))))
