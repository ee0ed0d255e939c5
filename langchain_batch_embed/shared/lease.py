"""Decides when to talk to the ledger, what to send, and what follows from its answer.

A lease is a few tenths of a second's worth of the quota. One exchange therefore covers many
requests, and a worker that dies holds only a little. Pure arithmetic: no clock, thread or I/O.
"""

import logging
import math
from collections.abc import Callable, Mapping

from langchain_batch_embed.limits import FIRST_REQUESTS
from langchain_batch_embed.pacing.meters import Meters
from langchain_batch_embed.shared.bucket import SharedBucket
from langchain_batch_embed.shared.exchange import Exchange, Reply
from langchain_batch_embed.shared.terms import Terms
from langchain_batch_embed.shared.throttle import SharedThrottle

__all__ = ["Lease"]

logger = logging.getLogger(__name__)

SECONDS = 0.25
"""All leases together hold this many seconds' worth of the quota."""

TRIPS = 4
"""All leases together hold at least what flows in during this many round trips, so that a slow
ledger delays nobody."""

MOST_SECONDS = 2.0
"""All leases together never hold more than this many seconds' worth of the quota."""

HEARTBEAT = 0.5
"""Longest time between two exchanges, in seconds. The ledger gives up a worker after four times as
long."""

OPENING = 0.1
"""Seconds until the ledger is asked again if it does not know yet when this worker's turn comes."""

PIECES = 4
"""While the quota is not known, a lease covers one request for every `PIECES` in flight."""

RETRY = 0.5
"""Seconds until the ledger is tried again after a second failure in a row, up to twice as long."""

_REFUSALS = frozenset({"AuthenticationError", "AuthorizationError", "ResponseError"})
"""Classes of redis-py for answers that waiting does not change; others derive from these."""

FAILURES = 2
"""After this many failed exchanges in a row, a worker continues without the ledger."""


class Lease:
    """Keeps one process's part of a shared quota.

    Args:
        worker: a name that no other worker has.
        draw: a source of random numbers, uniform in 0 to 1.
        tokens_per_minute: the account's quota as the user sets it; `None` if it is to be learnt.
        requests_per_minute: the same for requests.
        first_requests: how many requests all workers together may have in flight before anything
            is known of the quota.
        workers: how many processes are assumed to share the quota until the ledger reports it.

    Attributes:
        tokens: the pacer's bucket of tokens.
        requests: the pacer's bucket of requests.
        throttle: the pacer's throttle.
        meters: these three together, for the pacer.
    """

    def __init__(
        self,
        worker: str,
        *,
        draw: Callable[[], float],
        tokens_per_minute: float | None = None,
        requests_per_minute: float | None = None,
        first_requests: int = FIRST_REQUESTS,
        workers: int = 1,
    ) -> None:
        self._terms = Terms(workers=workers)
        self.tokens = SharedBucket(self._terms, tokens_per_minute)
        self.requests = SharedBucket(self._terms, requests_per_minute)
        self.throttle = SharedThrottle(draw, self._terms)
        self.meters = Meters(requests=self.requests, tokens=self.tokens, throttle=self.throttle)
        self._worker = worker
        self._first_requests = first_requests
        self._draw = draw
        self._epoch: float | None = None
        self._begun_at: float | None = None  # when the exchange under way began
        self._last = -math.inf
        self._retry_at = -math.inf
        self._failures = 0
        self._trip = 0.0  # seconds of a round trip, averaged
        self._reported: tuple[int, float | None] = 0, None  # in the exchange under way
        self._is_told = False  # whether a warning said that the ledger does not answer

    @property
    def _buckets(self) -> Mapping[str, SharedBucket]:
        return {"tokens": self.tokens, "requests": self.requests}

    @property
    def workers(self) -> int:
        """How many processes share the quota, according to the ledger's last answer."""
        return self._terms.workers

    def delay(self, now: float) -> float:
        """Return the seconds until the next exchange; `inf` while one is under way."""
        if self._begun_at is not None:
            return math.inf
        if now < self._retry_at:
            return self._retry_at - now
        terms = self._terms
        is_urgent = (
            not terms.has_joined
            or (terms.refused_sent is not None and self.throttle.own_delay(now) > 0)
            or any(bucket.has_news or bucket.is_short(now) for bucket in self._buckets.values())
        )
        pause = OPENING if terms.due == math.inf else HEARTBEAT
        return 0.0 if is_urgent else max(0.0, self._last + pause - now)

    def begin(
        self, now: float, *, in_flight: Mapping[str, float], leaves: bool = False
    ) -> Exchange:
        """Begin an exchange, and return what to send to the ledger.

        Args:
            now: the time.
            in_flight: amounts of the requests without an answer, by kind.
            leaves: whether this worker has nothing more to do, and gives everything back.
        """
        terms, buckets = self._terms, self._buckets
        self._begun_at = now
        is_short = any(bucket.is_short(now) for bucket in buckets.values())
        seconds = min(MOST_SECONDS, max(SECONDS, TRIPS * self._trip))
        lease = 0.0 if leaves or not is_short else seconds / terms.workers
        pieces = max(1, int(in_flight["requests"]) // PIECES)
        passed, terms.passed = terms.passed, 0
        pause, sent = self.throttle.own_delay(now), terms.refused_sent
        terms.refused_sent = None
        self._reported = passed, sent
        if leaves:
            terms.has_joined = False
        return Exchange(
            worker=self._worker,
            epoch=self._epoch,
            leaves=leaves,
            passed=passed,
            refused_ago=None if sent is None or pause <= 0 else now - sent,
            pause=pause,
            opening=self._first_requests,
            claims={
                kind: bucket.claim(
                    now, in_flight=in_flight[kind], lease=lease, pieces=pieces, leaves=leaves
                )
                for kind, bucket in buckets.items()
            },
        )

    def accept(self, reply: Reply, now: float) -> None:
        """Take over the ledger's answer to the exchange under way."""
        terms = self._terms
        begun_at = now if self._begun_at is None else self._begun_at
        trip = now - begun_at
        self._trip += (trip - self._trip) / 8 if self._trip else trip
        is_new = reply.epoch != self._epoch
        self._epoch, self._begun_at, self._last = reply.epoch, None, now
        if self._is_told:
            logger.warning("The shared quota's server answers again")
        self._failures, self._is_told = 0, False
        terms.is_failing, terms.answer_by, terms.has_joined = False, math.inf, True
        terms.workers, terms.share = reply.workers, reply.share
        if reply.pause > 0:
            if now >= terms.pause_until:
                terms.paused_at = now
            terms.pause_until = now + reply.pause
        terms.is_known = any(balance.rate for balance in reply.balances.values())
        for kind, bucket in self._buckets.items():
            bucket.accept(reply.balances[kind], now, is_new=is_new)
        # If the reservation came due during the exchange, nothing is pending: no effect.
        terms.due = now + reply.delay if reply.delay >= 0 else math.inf

    def left(self) -> None:
        """Record that this worker has left: its last exchange has ended."""
        self._begun_at = None
        self._terms.has_joined, self._terms.answer_by = False, math.inf

    def failed(self, error: BaseException, now: float) -> None:
        """Record that an exchange failed, and decide when to try the ledger again."""
        self._begun_at = None
        self._report_again()
        self._failures += 1
        self._retry_at = now + (RETRY * (1 + self._draw()) if self._failures > 1 else 0.0)
        if self._failures < FAILURES:
            return
        terms = self._terms
        terms.is_failing = True
        if not self._is_told:
            self._is_told = True
            what, advice = "does not answer", ""
            if _refuses(error):
                what = "does not accept this process"
                advice = "; check the URL, the password and the permissions"
            logger.warning(
                "The shared quota's server %s (%s)%s: this process goes on with 1/%d of the last "
                "known quota until it does",
                what,
                type(error).__name__,
                advice,
                terms.workers,
            )

    def _report_again(self) -> None:
        """Keep what the failed exchange was to report for the next one.

        If only its answer was lost, some requests count twice, which hardly matters.
        """
        passed, sent = self._reported
        self._reported = 0, None
        self._terms.passed += passed
        if self._terms.refused_sent is None:
            self._terms.refused_sent = sent
        for bucket in self._buckets.values():
            bucket.report_again()


def _refuses(error: BaseException) -> bool:
    """Return whether the ledger's server answered, but not with a reply of the script."""
    names = {each.__name__ for each in type(error).__mro__}
    return isinstance(error, TypeError | ValueError) or bool(names & _REFUSALS)
