"""One kind of a shared quota where the pacer expects a `TokenBucket`: pure arithmetic.

It holds what exchanges with the ledger have brought, and notes what it is short of for the next
one. It talks to nobody.
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
"""Seconds after which a lease that nobody uses is given back."""

OWN_SHARE = 0.95
"""A worker that is cut off uses this much of its part of the last known quota."""

OWN_SECONDS = 1.0
"""It can save up this many seconds' worth."""

LOOK = 60.0
"""A place whose time is not known is looked at again after this many seconds, if not before."""

_REMEMBERED = 512
"""Answers of the ledger that are kept: four minutes of heartbeats."""

_ROUNDING = 1e-9


@dataclass(slots=True, kw_only=True)
class _Heard:
    """What an answer of the server said, until the ledger hears of it."""

    limit: float
    remaining: float | None
    reset: float | None
    sent: float
    ended_then: float | None

    def told(self, now: float) -> Told:
        """Return what the ledger is told of it."""
        return Told(
            limit=self.limit,
            remaining=self.remaining,
            reset=self.reset,
            age=max(0.0, now - self.sent),
            ended_then=self.ended_then,
        )


class SharedBucket(TokenBucket):
    """What this process may use of one kind of a shared quota.

    While nobody knows the quota, it measures for itself as a `TokenBucket` does.

    Args:
        terms: what it has in common with the other kind.
        per_minute: the account's quota as the user sets it; `None`: learnt.

    Attributes:
        balance: amount that may be used at once.
        pending: amount that is reserved, and waits for its place.
        wanted: largest amount that was asked for and is not there.
    """

    def __init__(self, terms: Terms, per_minute: float | None = None) -> None:
        super().__init__(per_minute)
        self.balance = 0.0
        self.pending = 0.0
        self.wanted = 0.0
        self._terms = terms
        self._most = per_minute
        self._is_shared = False  # the ledger knows the quota
        self._place: float | None = None
        self._asked = 0.0  # in the exchange under way
        self._taken = 0.0
        self._spent = 0.0
        self._back = 0.0
        self._used_at = -math.inf
        self._heard: _Heard | None = None
        self._own: TokenBucket | None = None  # while cut off
        self._ended: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)

    @property
    def has_news(self) -> bool:
        """Whether an answer has told a quota that the ledger does not know."""
        return self._heard is not None and not self._is_shared

    @property
    def _is_free(self) -> bool:
        """Whether only the other kind of quota is known, so that this one needs no lease."""
        return self._terms.is_known and not self._is_shared

    def is_short(self, now: float) -> bool:
        """Tell whether something was asked for that is neither there nor reserved."""
        self._settle(now)
        return not self.pending and self.wanted > self.balance + _ROUNDING * self.wanted

    def delay(self, amount: float, now: float) -> float:
        """Return the seconds until this much can be taken; note if a lease is needed for it."""
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
        """Return the seconds until this much has been let through in all; changes nothing.

        Every worker is taken to get an equal part of the quota.
        """
        if self._own is not None:
            return self._own.flows_in(amount, now, pause=pause)
        if self.rate is None or not self._is_shared:
            return super().flows_in(amount, now, pause=pause)
        rate = self.rate * self._terms.share / self._terms.workers
        left = amount - max(0.0, self.balance)
        if left <= 0:
            return pause
        if self.pending:
            left -= self.pending
            pause = max(pause, self._terms.due - now)
        return pause + max(0.0, left) / rate

    def take(self, amount: float, now: float) -> None:
        """Take this much out, even where that leaves less than nothing."""
        self._taken += amount
        self._used_at = now
        if self._own is not None:
            self._own.take(amount, now)
            self._spent += amount
            return
        if not self._is_shared:
            super().take(amount, now)  # it measures
        if self._is_free or self._terms.is_cut_off(now):
            self._spent += amount
            return
        self.balance -= amount
        if amount >= self.wanted:
            self.wanted = 0.0

    def give_back(self, amount: float) -> None:
        """Put back what was taken for a request that was never sent."""
        self._taken -= amount
        if self._own is not None:
            self._own.give_back(amount)
            self._spent -= amount
            return
        if not self._is_shared:
            super().give_back(amount)
        if self._is_free:
            self._spent -= amount
        else:
            self.balance += amount

    def learn(
        self,
        *,
        limit: float,
        remaining: float | None,
        reset: float | None,
        unseen: float,  # noqa: ARG002  # the ledger knows it of all workers
        sent: float,
        now: float,
    ) -> None:
        """Note what an answer said; see `TokenBucket.learn`."""
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
        """Note a rate that the text of a refusal names: the bucket behind it is empty."""
        del holds
        if not 0 < limit < math.inf or self._is_shared:
            return
        self._heard = _Heard(limit=limit, remaining=-1.0, reset=None, sent=now, ended_then=None)
        if self._terms.is_cut_off(now):
            self._learn_alone(limit, 0.0, now)

    def refused(self, amount: float, now: float, *, paused: float = 0.0) -> None:
        """Note that this much was refused; the ledger hears of it with the pause."""
        if not self._is_shared:
            super().refused(amount, now, paused=paused)

    def claim(
        self, now: float, *, in_flight: float, lease: float, pieces: int, leaves: bool
    ) -> Claim:
        """Return what this worker reports and asks for.

        Args:
            now: the time.
            in_flight: of requests without an answer.
            lease: seconds' worth of the whole quota to ask for at least; 0: ask for nothing.
            pieces: where the quota is not known, how many times as much as is wanted.
            leaves: give everything back.
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

    def accept(self, balance: Balance, now: float, *, is_new: bool) -> None:
        """Take over what the ledger says.

        Args:
            balance: its answer.
            now: the time.
            is_new: it is another ledger, which knows nothing of what was reserved before.
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
        """Return what the ledger had counted as ended by then; `None`: not known."""
        position = bisect_right(self._ended, sent, key=lambda each: each[0])
        return self._ended[position - 1][1] if position else None

    def _go_on_alone(self, now: float) -> TokenBucket | None:
        """Return a bucket with this worker's part of the last known quota; `None`: not known."""
        if self._own is None and self.rate is not None and not self.is_measured:
            own = TokenBucket()
            own.take(0.0, now)  # it fills from now on
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
