"""What becomes of a batch that failed: sent again, cut into parts, kept waiting, or given up.

Pure: a batch, what is wrong and the time go in, a verdict comes out. The queue carries it out.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from langchain_batch_embed.pacing.backoff import Backoff
from langchain_batch_embed.pacing.diagnosis import Diagnosis, Kind
from langchain_batch_embed.pacing.pacer import Pacer
from langchain_batch_embed.pacing.which_quota import LEAST_QUOTA
from langchain_batch_embed.sending.odds import Odds, Place, evidence
from langchain_batch_embed.sending.size_limits import PARTS, SizeLimits
from langchain_batch_embed.sending.work import Batch, Rows

__all__ = ["FINAL", "Cut", "GiveUp", "Hold", "Judge", "Park", "Resend", "Verdict", "divided"]

FINAL = frozenset({Kind.SPENT, Kind.OPTION, Kind.MODEL})
"""Errors that end a call: they are about all of its texts, and no waiting helps."""

CERTAIN = 9.0
"""A text is given up when chance explains its failures once in 10 to the power of this: a million
texts at a server that fails requests at random lose one in 1,000 calls."""

SUSPECTED = 1.5
"""A batch of several texts is cut sooner, at 1 in 30: that costs a request, and no text."""

SOON = 3.0
"""While others are answered, a batch that failed once is sent again after this many round trips at
the latest: more time would not help."""

LATE = 2
"""A batch that was not answered in time this often is halved, even where nobody is answered."""

LONGEST = 4.0
"""While others are answered, no batch waits longer than this many seconds to be sent again."""

REFUSED_ALONE = 2
"""A batch that is refused for the rate this often with nothing else in flight and no answer in
between, after pauses of up to 10 s, is more than the whole quota allows at once: it is cut."""

OVERLOADED_FOR = 20.0
"""A batch that is refused for overload is suspected of its size only after this many seconds."""

QUIET = 15.0
"""A suspected batch is cut only when it is refused again as the first request after this many
seconds without any. A proxy that lets one request in ten seconds through would let it through."""

LONGEST_SEARCH = 120.0
"""Seconds after its first failure in which everybody waits for such a quiet time. Where other calls
send something after each of them, it would never come."""

USUAL = 0.5
"""A batch of which this share got through in one request is of a usual size."""

REFUSED_USUAL = 4
"""A batch of a usual size is cut only when it was refused this often, as it was probably sent too
early each time. A refusal of another batch for which as much got through before counts as well."""

HOPELESS = 75.0
"""Where nothing was let through for this many seconds, batches are cut, whatever is known of the
quota: even one that is counted in fixed minutes has been there again."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep the batch as the next of its call: the canary finds out whether anything is let in."""


@dataclass(frozen=True, slots=True)
class Resend:
    """Send the batch again.

    Attributes:
        after: seconds; 0: as the next of its call.
        released: batches that were parked until what is known by now, perhaps of other calls.
    """

    after: float = 0.0
    released: Sequence[Batch] = ()


@dataclass(frozen=True, slots=True)
class Cut:
    """Send these rows as batches of their own instead.

    Attributes:
        rows: of each batch.
        after: seconds.
        released: batches that were parked until what is known by now, perhaps of other calls.
    """

    rows: Sequence[Rows]
    after: float = 0.0
    released: Sequence[Batch] = ()


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
        odds: how likely it is that a request fails by chance.
        max_retries: how often a batch may fail while others are answered.
        draw: a source of random numbers, uniform in 0 to 1.
    """

    def __init__(
        self,
        pacer: Pacer,
        limits: SizeLimits,
        odds: Odds,
        *,
        max_retries: int,
        draw: Callable[[], float],
    ) -> None:
        self._pacer = pacer
        self._limits = limits
        self._max_retries = max_retries
        self._odds = odds
        self._about_texts: set[str] = set()  # signatures of failures that were a text's
        self._usual_refused = 0  # refusals, since an answer, of what had got through before
        self._draw = draw
        self._backoff = Backoff()

    def verdict(
        self, batch: Batch, diagnosis: Diagnosis, error: BaseException, now: float
    ) -> Verdict:
        """Say what becomes of a batch, and note in it how it failed."""
        match diagnosis.kind:
            case kind if kind in FINAL and not diagnosis.by_words:
                return GiveUp(self._limits.dropped(batch))
            case Kind.SPENT | Kind.OPTION if self.is_to_be_confirmed(diagnosis):
                return Hold()
            case Kind.SPENT | Kind.OPTION:
                return self._refused(batch, diagnosis)
            case Kind.THROTTLED:
                return self._throttled(batch, diagnosis, now)
            case Kind.REFUSED | Kind.TOO_LARGE:
                return self._refused(batch, diagnosis)
            case Kind.ACCOUNT:
                return self._forbidden(batch, diagnosis)
            case _:
                return self._failed(batch, diagnosis, error, now)

    def is_to_be_confirmed(self, diagnosis: Diagnosis) -> bool:
        """Tell whether the canary has to find out if a refusal is about every request."""
        return diagnosis.by_words and diagnosis.signature not in self._about_texts

    def denied(self, diagnosis: Diagnosis) -> None:
        """Note that the canary was answered: the words of a refusal are those of a text."""
        self._about_texts.add(diagnosis.signature)

    def answered(self, batch: Batch) -> None:
        """Note that a batch is answered: it was by chance that it, or what it is of, failed."""
        self._usual_refused = 0
        while True:
            division = batch.part_of
            for place in batch.setbacks:
                place.failed()
            if batch.failures == 1:
                self._odds.retried(recovered=True)
            if division is None:
                return
            division.open -= 1
            if division.open:
                return
            batch = division.batch

    def _throttled(self, batch: Batch, diagnosis: Diagnosis, now: float) -> Verdict:
        """Wait for the quota; but cut what is refused alone after every wait: it is above it."""
        is_refused_alone = not self._pacer.in_flight
        has_passed = self._limits.has_passed(batch)
        batch.refusals += is_refused_alone
        if len(batch.rows) > 1 and diagnosis.after is None and self._is_hopeless(now):
            self._limits.refused_for_long(batch)
            self._pacer.forget_rates()
            return _cut(batch, self._limits.parts(batch))
        self._usual_refused += is_refused_alone and has_passed
        enough = REFUSED_USUAL if self._is_usual(batch) else REFUSED_ALONE
        if (
            batch.refusals >= enough + self._usual_refused
            and self._pacer.throttle.in_a_row >= REFUSED_ALONE
            and len(batch.rows) > 1
            and not self._pacer.batch_sizes.explains(batch.charge)
            and not self._pacer.batch_sizes.are_for_requests
            and not has_passed
        ):
            self._limits.refused_for_quota(batch)
            batch.refusals = 0
            return _cut(batch, self._limits.parts(batch))
        return Resend()

    def _is_hopeless(self, now: float) -> bool:
        """Tell whether nothing was let through for longer than any quota is counted."""
        throttle = self._pacer.throttle
        return throttle.in_a_row >= REFUSED_USUAL and now - throttle.since >= HOPELESS

    def _is_usual(self, batch: Batch) -> bool:
        """Tell whether a batch is more likely refused for the time than for its size."""
        sizes = self._pacer.batch_sizes
        return (
            self._limits.has_passed(batch, USUAL)
            or batch.tokens <= LEAST_QUOTA
            or (sizes.is_dry and batch.charge <= sizes.largest())
        )

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
            return GiveUp(self._limits.ended_at_one(batch, diagnosis))
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
        batch.signature = diagnosis.signature
        is_first_retry = batch.failures == (batch.part_of is None)
        batch.is_alone = health.answered_at < batch.failed_last
        if is_first_retry and kind is Kind.FAILED and not batch.is_alone:
            self._odds.retried(recovered=False)
        batch.failed_at, batch.failed_last = min(batch.failed_at, now), now
        batch.failures += 1
        batch.setbacks = (*batch.setbacks, batch.place)
        if kind is Kind.TIMED_OUT:
            self._limits.timed_out(batch)
        if same and (verdict := self._for_its_size(batch, diagnosis, now)) is not None:
            return verdict
        released = self._limits.is_not_the_size(batch)
        if len(batch.rows) > 1:
            is_late = kind is Kind.TIMED_OUT and (
                batch.failures >= LATE or (health.answered_at > batch.sent and not health.is_down)
            )
            if is_late or self._is_suspected(batch, diagnosis):
                if same and getattr(error, "received", None):  # one vector for several texts
                    return self._refused(batch, diagnosis)
                waits = kind in (Kind.TIMED_OUT, Kind.OVERLOADED)
                delay = self._backoff.delay(batch.failures, self._draw) if waits else 0.0
                is_large = not waits and len(batch.rows) > PARTS**2
                return _cut(batch, PARTS if is_large else 2, after=delay, released=released)
        elif not batch.is_alone and self._is_guilty(batch, diagnosis):
            self._about_texts.add(diagnosis.signature)
            _setbacks(batch)[0].explained()
            return GiveUp((*released, *self._limits.dropped(batch)))
        return Resend(self._delay(batch, diagnosis), released)

    def _for_its_size(self, batch: Batch, diagnosis: Diagnosis, now: float) -> Verdict | None:
        """Return what becomes of a batch that may fail for its size; `None`: it does not."""
        if not self._may_be_too_large(batch):
            return None
        if diagnosis.kind is not Kind.OVERLOADED or batch.trial is not None:
            return None if batch.is_alone else self._refused(batch, diagnosis)
        failing_for = now - batch.failed_at
        if failing_for < OVERLOADED_FOR:
            return None
        if batch.quiet >= QUIET:
            self._pacer.forget_overload(now)
            return self._refused(batch, diagnosis)
        if failing_for > LONGEST_SEARCH:
            return None
        self._pacer.throttle.hold(now, QUIET)
        return Resend()

    def _may_be_too_large(self, batch: Batch) -> bool:
        """Tell whether a batch fails each time, and smaller ones were answered in between.

        A proxy that breaks connections for what is too long, and a server that runs out of memory,
        do not say that it is the size.
        """
        is_again = batch.failures > (batch.part_of is None)  # parts have failed together before
        return (
            len(batch.rows) > 1
            and is_again
            and self._pacer.health.answered_at >= batch.failed_at
            and not self._limits.has_passed_in_size(batch)
        )

    def _is_suspected(self, batch: Batch, diagnosis: Diagnosis) -> bool:
        """Tell whether one of several texts is likely to be the cause, and not the server."""
        weights = evidence(_setbacks(batch), unknown=1.0, is_error=diagnosis.kind is Kind.FAILED)
        weights[-1] = self._of_the_last(weights[-1], diagnosis)
        enough = 1.0 if batch.signature in self._about_texts else SUSPECTED
        return sum(weights) >= enough or _count(weights) >= self._max_retries + 1

    def _is_guilty(self, batch: Batch, diagnosis: Diagnosis) -> bool:
        """Tell whether it is certain that this one text is the cause."""
        weights = evidence(_setbacks(batch), unknown=0.0, is_error=diagnosis.kind is Kind.FAILED)
        weights = weights[-len(_setbacks(batch, alone=True)) :]
        if len(weights) == 1:
            weights[-1] = weights[-1] or 1.0  # so that with max_retries=0 it is not tried again
        weights[-1] = self._of_the_last(weights[-1], diagnosis)
        return sum(weights) >= CERTAIN or _count(weights) >= self._max_retries + 1

    def _of_the_last(self, weight: float, diagnosis: Diagnosis) -> float:
        """Return what the last failure counts for, as long as nobody knows what comes after it.

        A connection breaks for everybody, but what the server told is about this request.
        """
        return weight if diagnosis.status is not None else 0.0

    def _delay(self, batch: Batch, diagnosis: Diagnosis) -> float:
        """Return the seconds until a batch that failed is sent again."""
        health = self._pacer.health
        delay = self._backoff.delay(batch.failures - 1, self._draw)
        if batch.failures == 1 and health.failures <= 1 and self._limits.times.usual:
            delay = min(delay, SOON * self._limits.times.usual)  # others are answered
        if not health.is_down and diagnosis.kind is not Kind.OVERLOADED:
            delay = min(delay, LONGEST)
        return delay if diagnosis.after is None else max(diagnosis.after, 0.1 * delay)


def _setbacks(batch: Batch, *, alone: bool = False) -> list[Place]:
    """Return the failures of a batch, and of those that it is a part of, the first ones first.

    Args:
        batch: the batch.
        alone: only where all the rest of what failed is answered: else it may be the cause.
    """
    setbacks = list(batch.setbacks)
    while (division := batch.part_of) is not None and (division.open == 1 or not alone):
        batch = division.batch
        setbacks[:0] = batch.setbacks
    return setbacks


def _count(weights: Sequence[float]) -> float:
    """Return how many failures these are, where one that says little is not a whole one."""
    return math.fsum(min(1.0, weight) for weight in weights) + 1e-9


def _cut(batch: Batch, parts: int, *, after: float = 0.0, released: Sequence[Batch] = ()) -> Cut:
    return Cut(divided(batch, parts), after, released)


def divided(batch: Batch, parts: int) -> Sequence[Rows]:
    """Return the rows of a batch in this many parts, at least 2, or one a row."""
    return np.array_split(batch.rows, max(2, min(parts, len(batch.rows))))
