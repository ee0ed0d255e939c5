"""Decides what to do with a failed batch: send it again, cut it, keep it waiting, or give it up.

Pure: a batch, a diagnosis and the time go in, a verdict comes out. The queue carries it out.
"""

import math
from collections import Counter
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

__all__ = [
    "FINAL",
    "Cut",
    "Defer",
    "GiveUp",
    "Hold",
    "Judge",
    "Park",
    "Resend",
    "Verdict",
    "divided",
]

FINAL = frozenset({Kind.SPENT, Kind.OPTION, Kind.MODEL})
"""Errors that end a call: they concern all of its texts, and waiting does not help."""

CERTAIN = 9.0
"""A text is given up when the probability that its failures are chance is 10 to the power of minus
this. With a million texts and a server that fails at random, one call in 1,000 loses a text."""

SUSPECTED = 1.5
"""A batch of several texts is cut at 1 in 30 already, as that costs a request and no text."""

SOON = 3.0
"""While others are answered, a batch that failed once is sent again within this many round trips:
waiting longer would not help."""

LATE = 2
"""A batch that timed out this often is halved, even if no other request is answered."""

LONGEST = 4.0
"""While others are answered, no batch waits longer than this many seconds to be sent again."""

REFUSED_ALONE = 2
"""A batch that is refused for the rate this often, alone and after pauses of up to 10 s without an
answer in between, exceeds the whole quota and is cut."""

OVERLOADED_FOR = 20.0
"""A batch that is refused for overload may be too large only after this many seconds."""

QUIET = 15.0
"""Such a batch is cut only if it is refused again as the first request after this many seconds
without any. A proxy that accepts one request in ten seconds would accept it."""

LONGEST_SEARCH = 120.0
"""Seconds after its first failure in which everything waits for such a quiet time, which may never
come if other calls keep sending."""

USUAL = 0.5
"""A batch has a usual size if a request with this share of its tokens has passed."""

REFUSED_USUAL = 4
"""A batch of a usual size is cut only after this many refusals, as it was probably sent too early
each time. Refusals of other batches of a size that has passed count as well."""

CONFIRMED = 4
"""After this many refused texts were refused again, a refusal of one text is believed at once. A
replica that refuses a quarter of all requests does so four times in a row in one case of 256."""

CONFIRMATIONS = 3
"""Each of them is sent again this often: at once, and after one and two usual round trips. A server
that refuses what comes while it is busy accepts one of them."""

CONFIRMED_WITHIN = 0.5
"""The longest round trip in seconds for that, as the round trips of a long queue take minutes."""

HOPELESS = 75.0
"""After this many seconds without an accepted request, batches are cut whatever the known quota is:
even a quota that is counted in fixed minutes has been renewed."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep the batch as the next of its call while the canary is sent."""


@dataclass(frozen=True, slots=True)
class Defer:
    """Send the batch again once a later request is answered, or when nothing else can be sent."""


@dataclass(frozen=True, slots=True)
class Resend:
    """Send the batch again.

    Attributes:
        after: seconds until then; 0 to send it as the next of its call.
        released: parked batches, perhaps of other calls, that need not wait any more.
    """

    after: float = 0.0
    released: Sequence[Batch] = ()


@dataclass(frozen=True, slots=True)
class Cut:
    """Send these rows as batches of their own instead.

    Attributes:
        rows: the rows of each batch.
        after: seconds until they are sent.
        released: parked batches, perhaps of other calls, that need not wait any more.
    """

    rows: Sequence[Rows]
    after: float = 0.0
    released: Sequence[Batch] = ()


@dataclass(frozen=True, slots=True)
class Park:
    """Keep the batch until the parts of another one have shown what is wrong."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Give the batch up: it gets no vectors.

    Attributes:
        released: parked batches, perhaps of other calls, that need not wait any more.
    """

    released: Sequence[Batch]


Verdict = Hold | Defer | Resend | Cut | Park | GiveUp


class Judge:
    """Decides what to do with failed batches.

    Args:
        pacer: the server's state.
        limits: the learnt limits of one request.
        odds: the probability that a request fails by chance.
        max_retries: how often a batch may fail while others are answered.
        is_only_server: whether no other server can be asked.
        draw: a source of random numbers, uniform in 0 to 1.
    """

    def __init__(
        self,
        pacer: Pacer,
        limits: SizeLimits,
        odds: Odds,
        *,
        max_retries: int,
        is_only_server: bool = True,
        draw: Callable[[], float],
    ) -> None:
        self._is_only_server = is_only_server
        self._refused_alone: set[str] = set()  # signatures with which single texts were refused
        self._pacer = pacer
        self._limits = limits
        self._max_retries = max_retries
        self._odds = odds
        self._about_texts: set[str] = set()  # signatures of failures that a text caused
        self._confirmed: Counter[str] = Counter()  # texts refused each time, by signature
        self._fickle: set[str] = set()  # signatures of refusals of texts that were accepted later
        self._usual_refused = 0  # refusals since an answer, of sizes that had passed
        self._draw = draw
        self._backoff = Backoff()

    def verdict(
        self, batch: Batch, diagnosis: Diagnosis, error: BaseException, now: float
    ) -> Verdict:
        """Return what to do with a batch, and record in it how it failed."""
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
        """Return whether the canary has to test if a refusal concerns every request."""
        return diagnosis.by_words and diagnosis.signature not in self._about_texts

    def is_about_texts(self, diagnosis: Diagnosis) -> bool:
        """Return whether a text was given up before because of such a failure."""
        return diagnosis.signature in self._about_texts

    def is_by_chance(self, diagnosis: Diagnosis) -> bool:
        """Return whether the server accepted what it had refused in this way before."""
        return diagnosis.signature in self._fickle

    def denied(self, diagnosis: Diagnosis) -> None:
        """Record that the canary was answered: the words of the refusal came from a text."""
        self._about_texts.add(diagnosis.signature)

    def answered(self, batch: Batch) -> None:
        """Record an answer: earlier failures of the batch, or of its whole, were chance."""
        self._usual_refused = 0
        while True:
            if batch.refused_with and batch.refused_with not in self._fickle:
                self._fickle.add(batch.refused_with)
                self._limits.forget_refusals(batch.refused_with)
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
        """Wait for the quota, but cut a batch that is refused alone after every wait."""
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
            self._pacer.measure_anew(now)
            batch.refusals = 0
            return _cut(batch, self._limits.parts(batch))
        return Resend()

    def _is_hopeless(self, now: float) -> bool:
        """Return whether nothing was accepted for longer than the period of any quota."""
        throttle = self._pacer.throttle
        return throttle.in_a_row >= REFUSED_USUAL and now - throttle.since >= HOPELESS

    def _is_usual(self, batch: Batch) -> bool:
        """Return whether a batch was more likely refused for the time than for its size."""
        sizes = self._pacer.batch_sizes
        return (
            self._limits.has_passed(batch, USUAL)
            or batch.tokens <= LEAST_QUOTA
            or (sizes.is_dry and batch.charge <= sizes.largest())
        )

    def _forbidden(self, batch: Batch, diagnosis: Diagnosis) -> Verdict:
        """Resend once, then cut: one bad replica, or a firewall, may refuse a text."""
        if not self._pacer.health.has_answered:
            return Hold()
        if batch.signature == diagnosis.signature:
            return self._refused(batch, diagnosis)
        batch.signature = batch.refused_with = diagnosis.signature
        return Resend(self._backoff.delay(0, self._draw))

    def _refused(self, batch: Batch, diagnosis: Diagnosis) -> Verdict:
        """Cut a refused batch into parts, down to the single text that is refused."""
        batch.signature = diagnosis.signature
        batch.refused_before = min(batch.refused_before, self._odds.count)
        count = len(batch.rows)
        if self._limits.has_passed_in_size(batch):  # otherwise it may just be too large
            batch.refused_with = diagnosis.signature
        if count == 1:
            if diagnosis.signature in self._fickle and batch.refused_again < self._max_retries:
                batch.refused_again += 1
                return Resend(self._backoff.delay(0, self._draw))
            if self._is_to_be_confirmed(batch, diagnosis):
                batch.refused_again += 1
                trip = min(CONFIRMED_WITHIN, self._limits.times.usual)
                return Resend((batch.refused_again - 1) * trip)
            if self._may_refuse_all(batch, diagnosis):
                batch.is_doubted = True
                return Defer()
            batch.failures += 1
            self._confirmed[diagnosis.signature] += batch.refused_again > 0
            self._refused_alone.add(diagnosis.signature)
            return GiveUp(self._limits.ended_at_one(batch, diagnosis))
        at = diagnosis.at
        if at is not None and at < count and diagnosis.kind is not Kind.TOO_LARGE:
            around = (batch.rows[:at], batch.rows[at : at + 1], batch.rows[at + 1 :])
            return Cut([rows for rows in around if len(rows)])
        parts, waits = self._limits.refused(batch, diagnosis)
        return Park() if waits else _cut(batch, parts)

    def _is_to_be_confirmed(self, batch: Batch, diagnosis: Diagnosis) -> bool:
        """Return whether to send a refused text again, as one bad replica may have refused it.

        The first few are, until a server has shown that it refuses a text each time. A text that
        the refusal names, or that is all of its call, is given up at once.
        """
        return (
            self._confirmed[diagnosis.signature] < CONFIRMED
            and batch.refused_again < min(CONFIRMATIONS, self._max_retries)
            and self._pacer.health.has_answered
            and diagnosis.at is None
            and not batch.is_only
        )

    def _may_refuse_all(self, batch: Batch, diagnosis: Diagnosis) -> bool:
        """Return whether the server may refuse everything, and not this one text.

        Usually a request was sent and answered between the refusal of a batch with this text and
        that of the text alone, so the text is the cause. A text that is all of its call is given up
        at once.
        """
        if not self._is_only_server or not self._pacer.health.has_answered:
            return False
        if batch.is_only or batch.is_doubted:
            return False
        if batch.place.newest_answer >= batch.refused_before:
            return False
        return batch.part_of is not None or diagnosis.signature not in self._refused_alone

    def _failed(
        self, batch: Batch, diagnosis: Diagnosis, error: BaseException, now: float
    ) -> Verdict:
        """Send a batch again later, in parts if it alone fails, or give its text up."""
        health, kind = self._pacer.health, diagnosis.kind
        same = batch.signature == diagnosis.signature
        batch.is_mixed |= batch.failures > 0 and not same
        batch.signature = diagnosis.signature
        is_first_retry = batch.failures == (batch.part_of is None)
        batch.is_alone = health.answered_at < batch.failed_last
        # A server that is shutting down answers only requests from before the first failure.
        accepts_others = health.answered_sent >= batch.failed_at or batch.failed_at == math.inf
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
                if same and getattr(error, "received", None):  # e.g. one vector for several texts
                    return self._refused(batch, diagnosis)
                waits = kind in (Kind.TIMED_OUT, Kind.OVERLOADED)
                delay = self._backoff.delay(batch.failures, self._draw) if waits else 0.0
                is_large = not waits and len(batch.rows) > PARTS**2
                return _cut(batch, PARTS if is_large else 2, after=delay, released=released)
        elif accepts_others and not batch.is_alone and self._is_guilty(batch, diagnosis):
            if not batch.is_mixed:  # otherwise the last error may have had another cause
                self._about_texts.add(diagnosis.signature)
            _setbacks(batch)[0].explained()
            return GiveUp((*released, *self._limits.dropped(batch)))
        return Resend(self._delay(batch, diagnosis), released)

    def _for_its_size(self, batch: Batch, diagnosis: Diagnosis, now: float) -> Verdict | None:
        """Return what to do with a batch that may be too large; `None` if it is not."""
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
        """Return whether a batch fails each time while smaller ones are answered.

        A proxy that resets the connection of a long request, or a server that runs out of memory,
        does not say that the size is the cause.
        """
        is_again = batch.failures > (batch.part_of is None)  # parts have failed in their whole
        return (
            len(batch.rows) > 1
            and is_again
            and self._pacer.health.answered_at >= batch.failed_at
            and not self._limits.has_passed_in_size(batch)
        )

    def _is_suspected(self, batch: Batch, diagnosis: Diagnosis) -> bool:
        """Return whether one of the texts, and not the server, is likely to be the cause."""
        weights = evidence(_setbacks(batch), unknown=1.0, is_error=diagnosis.kind is Kind.FAILED)
        weights[-1] = self._of_the_last(weights[-1], diagnosis)
        enough = 1.0 if batch.signature in self._about_texts else SUSPECTED
        return sum(weights) >= enough or _count(weights) >= self._max_retries + 1

    def _is_guilty(self, batch: Batch, diagnosis: Diagnosis) -> bool:
        """Return whether this one text is certainly the cause."""
        weights = evidence(_setbacks(batch), unknown=0.0, is_error=diagnosis.kind is Kind.FAILED)
        weights = weights[-len(_setbacks(batch, alone=True)) :]
        if len(weights) == 1:
            weights[-1] = weights[-1] or 1.0  # so that with max_retries=0 it is not tried again
        weights[-1] = self._of_the_last(weights[-1], diagnosis)
        return sum(weights) >= CERTAIN or _count(weights) >= self._max_retries + 1

    def _of_the_last(self, weight: float, diagnosis: Diagnosis) -> float:
        """Return the weight of the last failure, before the fate of later requests is known.

        A broken connection may concern all requests, but an error status is about this one.
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
    """Return the failures of a batch and of the batches that it is a part of, the oldest first.

    Args:
        batch: the batch.
        alone: leave out failures of a whole of which another part is still without an answer.
    """
    setbacks = list(batch.setbacks)
    while (division := batch.part_of) is not None and (division.open == 1 or not alone):
        batch = division.batch
        setbacks[:0] = batch.setbacks
    return setbacks


def _count(weights: Sequence[float]) -> float:
    """Return the number of failures, where one that proves little counts as a fraction."""
    return math.fsum(min(1.0, weight) for weight in weights) + 1e-9


def _cut(batch: Batch, parts: int, *, after: float = 0.0, released: Sequence[Batch] = ()) -> Cut:
    return Cut(divided(batch, parts), after, released)


def divided(batch: Batch, parts: int) -> Sequence[Rows]:
    """Return the rows of a batch in this many parts, at least 2, or one a row."""
    return np.array_split(batch.rows, max(2, min(parts, len(batch.rows))))
