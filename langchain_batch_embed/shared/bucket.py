"""A `TokenBucket` for one kind of a shared quota, either tokens or requests.

It holds the amount that the ledger has leased to this process, and records how much the next
exchange with the ledger has to request. Pure arithmetic: no clock, thread or I/O.
"""

import math
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass

from langchain_batch_embed.pacing.token_bucket import TokenBucket
from langchain_batch_embed.shared.exchange import Balance, Claim, Told
from langchain_batch_embed.shared.terms import Terms

__all__ = ["SharedBucket"]

UNUSED = 2.0
"""A lease that has not been used for this many seconds is given back."""

OWN_SHARE = 0.95
"""A worker that is cut off from the ledger uses this share of its part of the last known quota."""

OWN_SECONDS = 1.0
"""While cut off, a worker can save up this many seconds' worth of its part."""

LOOK = 60.0
"""Look at a reservation again after this many seconds at the latest, if its time is not known."""

_REMEMBERED = 512
"""How many answers of the ledger are kept: four minutes of heartbeats."""

_ROUNDING = 1e-9


@dataclass(slots=True, kw_only=True)
class _Heard:
    """The headers of a server's answer, kept until the next exchange reports them to the ledger."""

    limit: float
    remaining: float | None
    reset: float | None
    sent: float
    ended_then: float | None

    def told(self, now: float) -> Told:
        """Return the values to report to the ledger."""
        return Told(
            limit=self.limit,
            remaining=self.remaining,
            reset=self.reset,
            age=max(0.0, now - self.sent),
            ended_then=self.ended_then,
        )


class SharedBucket(TokenBucket):
    """The amount of one kind of a shared quota that this process may use.

    While the ledger does not know the quota, the bucket measures a rate of its own, as a
    `TokenBucket` does.

    Args:
        terms: the state that it shares with the bucket of the other kind.
        per_minute: the account's quota as the user sets it; `None` if it is to be learnt.

    Attributes:
        balance: amount that may be used at once; below 0 after a request larger than the balance.
        pending: amount that is reserved, and may be used from `terms.due` on.
        wanted: largest amount that was requested while it was not available.
    """

    def __init__(self, terms: Terms, per_minute: float | None = None) -> None:
        super().__init__(per_minute)
        self.balance = 0.0
        self.pending = 0.0
        self.wanted = 0.0
        self._terms = terms
        self._most = per_minute
        self._is_shared = False  # whether the ledger knows this kind of quota
        self._place: float | None = None
        self._asked = 0.0  # requested in the exchange under way
        self._taken = 0.0
        self._is_leased = True  # whether the last amount was taken from the balance
        self._spent = 0.0
        self._back = 0.0
        self._used_at = -math.inf
        self._heard: _Heard | None = None
        self._reported: _Heard | None = None  # in the exchange under way
        self._own: TokenBucket | None = None  # used while cut off
        self._ended: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)

    @property
    def has_news(self) -> bool:
        """Whether an answer has announced a quota that the ledger does not know."""
        return self._heard is not None and not self._is_shared

    @property
    def _is_free(self) -> bool:
        """Whether only the other kind of quota is known, so that this one needs no lease."""
        return self._terms.is_known and not self._is_shared

    @property
    def usable_rate(self) -> float | None:
        """The amount that this process may take a second; `None` if no limit is known.

        It assumes that every worker gets an equal part of the quota.
        """
        if self._own is not None:
            return self._own.usable_rate
        if self.rate is None or not self._is_shared:
            return super().usable_rate
        return self.rate * self._terms.share / self._terms.workers

    def held(self, now: float) -> float:
        """Return how much may be taken at once; changes nothing."""
        if self._own is not None:
            return self._own.held(now)
        if self.rate is None or not self._is_shared:
            return super().held(now)
        return max(0.0, self.balance + (self.pending if now >= self._terms.due else 0.0))

    def is_short(self, now: float) -> bool:
        """Return whether an amount was requested that is neither available nor reserved."""
        self._settle(now)
        return not self.pending and self.wanted > self.balance + _ROUNDING * self.wanted

    def delay(self, amount: float, now: float) -> float:
        """Return the seconds until this amount can be taken; record what needs a lease."""
        self._settle(now)
        terms = self._terms
        if terms.is_cut_off(now):
            own = self._go_on_alone(now)
            return super().delay(amount, now) if own is None else own.delay(amount, now)
        if not terms.has_joined:
            return terms.await_answer(now)
        measured = 0.0 if self._is_shared else super().delay(amount, now)
        if self._is_free or measured > 0 or amount - self.balance <= _ROUNDING * amount:
            return measured
        self.wanted = max(self.wanted, amount)
        return min(terms.due - now, LOOK) if self.pending else terms.await_answer(now)

    def flows_in(self, amount: float, now: float, *, pause: float = 0.0) -> float:
        """Return the seconds until this amount has been let through in total; change nothing."""
        if self._own is not None:
            return self._own.flows_in(amount, now, pause=pause)
        rate = self.usable_rate
        if rate is None or not self._is_shared:
            return super().flows_in(amount, now, pause=pause)
        left = amount - max(0.0, self.balance)
        if left <= 0:
            return pause
        if self.pending:
            left -= self.pending
            pause = max(pause, self._terms.due - now)
        return pause + max(0.0, left) / rate

    def take(self, amount: float, now: float) -> None:
        """Take this amount out, even if the balance becomes negative."""
        self._taken += amount
        self._used_at = now
        if self._own is not None:
            self._own.take(amount, now)
            self._spent += amount
            return
        if not self._is_shared:
            super().take(amount, now)  # to measure a rate
        self._is_leased = not (self._is_free or self._terms.is_cut_off(now))
        if not self._is_leased:
            self._spent += amount
            return
        self.balance -= amount
        if amount >= self.wanted:
            self.wanted = 0.0

    def give_back(self, amount: float) -> None:
        """Put back the amount that was taken for a request that was never sent."""
        self._taken -= amount
        if self._own is not None:
            self._own.give_back(amount)
            self._spent -= amount
            return
        if not self._is_shared:
            super().give_back(amount)
        if self._is_leased:
            self.balance += amount
        else:
            self._spent -= amount

    def learn(
        self,
        *,
        limit: float,
        remaining: float | None,
        reset: float | None,
        unseen: float,  # noqa: ARG002  # the ledger knows it for all workers
        sent: float,
        now: float,
    ) -> None:
        """Record the quota that an answer announced; see `TokenBucket.learn` for the arguments."""
        if not 0 < limit < math.inf:
            return
        if self._heard is None or sent >= self._heard.sent:
            self._heard = _Heard(
                limit=limit,
                remaining=remaining,
                reset=reset,
                sent=sent,
                ended_then=self._ended_by(sent),
            )
        if self._terms.is_cut_off(now):
            self._learn_alone(limit, remaining, now)

    def name(self, limit: float, now: float, *, holds: float = math.inf) -> None:
        """Record a limit that the text of a refusal names; the server's bucket is empty then."""
        del holds
        if not 0 < limit < math.inf or self._is_shared:
            return
        self._heard = _Heard(limit=limit, remaining=-1.0, reset=None, sent=now, ended_then=None)
        if self._terms.is_cut_off(now):
            self._learn_alone(limit, 0.0, now)

    def refused(self, amount: float, now: float, *, paused: float = 0.0) -> None:
        """Record that this amount was refused; the report of the pause tells the ledger."""
        if not self._is_shared:
            super().refused(amount, now, paused=paused)

    def claim(
        self, now: float, *, in_flight: float, lease: float, pieces: int, leaves: bool
    ) -> Claim:
        """Return what this worker reports and requests in the next exchange.

        Args:
            now: the time.
            in_flight: amount of the requests without an answer.
            lease: how many seconds' worth of the whole quota to request at least; 0 to request
                nothing.
            pieces: how many times the wanted amount to request while the quota is not known.
            leaves: whether the worker leaves, and gives everything back.
        """
        self._settle(now)
        if self.balance > 0 and (leaves or now - self._used_at > UNUSED):
            self._back += self.balance
            self.balance = 0.0
        if leaves:
            self.wanted = 0.0
        rate = self.rate if self._is_shared else None
        self._asked = 0.0
        if lease > 0 and not self.pending and not self._is_free:
            amount = self.wanted * pieces
            if rate is not None:
                amount = max(self.wanted, lease * rate * self._terms.share)
            self._asked = max(0.0, amount - self.balance)
            self.wanted = 0.0
        heard, self._heard = self._heard, None
        self._reported = heard
        return Claim(
            ask=self._asked,
            back=self._back,
            spent=self._spent,
            held=max(0.0, self.balance) + self.pending,
            in_flight=in_flight,
            ended=self._taken - in_flight,
            place=self._place,
            most=self._most,
            known=None if rate is None else rate * 60,
            capacity=None if rate is None else self.capacity,
            told=None if heard is None else heard.told(now),
        )

    def report_again(self) -> None:
        """Report in the next exchange what a failed one was to report, unless there is news."""
        self._heard, self._reported = self._heard or self._reported, None

    def accept(self, balance: Balance, now: float, *, is_new: bool) -> None:
        """Take over the ledger's answer.

        Args:
            balance: the answer for this kind of quota.
            now: the time.
            is_new: whether this is another ledger, which knows of no earlier reservation.
        """
        self._own = None
        if is_new:
            self.balance = min(self.balance, 0.0)
            self.pending, self._place = 0.0, None
            self._ended.clear()
        if balance.rate is not None:
            self._is_shared, self.is_measured = True, False
            self.rate, self.capacity = balance.rate, balance.capacity
        if self._asked:
            self.pending, self._place = self._asked, balance.place
            self._asked = 0.0
            self._used_at = now
        if self._is_free:
            self.wanted = 0.0
        self._ended.append((now, balance.ended))

    def _settle(self, now: float) -> None:
        if self.pending and now >= self._terms.due and not self._terms.is_cut_off(now):
            self.balance += self.pending
            self.pending, self._place = 0.0, None
            self._used_at = now

    def _ended_by(self, sent: float) -> float | None:
        """Return the amount that the ledger had counted as ended at `sent`; `None` if not known."""
        position = bisect_right(self._ended, sent, key=lambda each: each[0])
        return self._ended[position - 1][1] if position else None

    def _go_on_alone(self, now: float) -> TokenBucket | None:
        """Return a bucket with this worker's part of the last known quota, or `None` if unknown."""
        if self._own is None and self.rate is not None and not self.is_measured:
            own = TokenBucket()
            own.take(0.0, now)  # so that it fills from now on
            own.rate = OWN_SHARE * self.rate * self._terms.share / self._terms.workers
            own.capacity = OWN_SECONDS * own.rate
            own.level = 0.0
            self._own = own
        return self._own

    def _learn_alone(self, limit: float, remaining: float | None, now: float) -> None:
        if not self._is_shared:
            limit = min(limit, self._most or math.inf)
            self.rate, self.capacity, self.is_measured = limit / 60, limit, False
        own = self._go_on_alone(now)
        if own is not None and remaining is not None:
            own.level = min(own.level, remaining / self._terms.workers)
