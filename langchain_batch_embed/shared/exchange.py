"""The values that a round trip to the ledger carries in both directions, and their wire format."""

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from typing import Self

__all__ = ["Balance", "Claim", "Exchange", "Reply", "Told"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the headers of an answer, or the text of a refusal, announced about a kind of quota.

    Attributes:
        limit: the amount a minute.
        remaining: the amount in the server's bucket; `None` if the server does not announce it; -1
            if the bucket is empty because it refused a request.
        reset: seconds until the bucket is full again; `None` if the server does not announce it.
        age: seconds since the request was sent.
        ended_then: the amount that the ledger had counted as ended when the request was sent;
            `None` if not known.
    """

    limit: float
    remaining: float | None
    reset: float | None
    age: float
    ended_then: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a worker reports and requests for one kind of quota.

    `back`, `spent` and `ended` are totals since the worker began, so a report that arrives twice
    changes nothing.

    Attributes:
        ask: the amount to reserve; 0 for none.
        back: the amount given back unused.
        spent: the amount used without a reservation, while cut off or while only the other kind of
            quota is known.
        held: the amount reserved and not used yet, including a reservation that still waits.
        in_flight: the amount of the requests without an answer.
        ended: the amount of the requests that have ended.
        place: the ledger's `reserved` right after the reservation that still waits; `None` if none
            waits.
        most: the limit a minute that the user has set; `None` if there is none.
        known: the limit a minute as this worker last knew it; `None` if not known.
        capacity: the bucket's capacity as this worker last knew it; `None` if not known.
        told: what the latest answer announced; `None` if there is nothing new.
    """

    ask: float = 0.0
    back: float = 0.0
    spent: float = 0.0
    held: float = 0.0
    in_flight: float = 0.0
    ended: float = 0.0
    place: float | None = None
    most: float | None = None
    known: float | None = None
    capacity: float | None = None
    told: Told | None = None

    def fields(self) -> tuple[float | None, ...]:
        """Return the numbers in the order in which the script reads them."""
        own = (self.ask, self.back, self.spent, self.held, self.in_flight, self.ended, self.place)
        told: tuple[float | None, ...] = (None,) * 5 if self.told is None else astuple(self.told)
        return (*own, self.most, self.known, self.capacity, *told)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One message of a worker to the ledger, with its reports and requests.

    Attributes:
        worker: the worker's name.
        epoch: the epoch of the ledger that answered the worker last; `None` if none has.
        leaves: whether the worker has nothing more to do.
        passed: how many requests the server let through since the last report.
        refused_ago: seconds since the sending of the latest refused request that is not reported
            yet; `None` if there is none.
        pause: seconds for which all workers have to pause after that refusal.
        opening: how many requests all workers together may have in flight before anything is known
            of the quota.
        claims: by kind, `"tokens"` and `"requests"`.
    """

    worker: str
    epoch: float | None = None
    leaves: bool = False
    passed: int = 0
    refused_ago: float | None = None
    pause: float = 0.0
    opening: int = 8
    claims: Mapping[str, Claim] = field(
        default_factory=lambda: {"tokens": Claim(), "requests": Claim()}
    )

    def arguments(self) -> list[str]:
        """Return the arguments of the script; an empty string stands for `None`."""
        numbers: list[float | None] = [self.passed, self.refused_ago, self.pause, self.opening]
        for kind in ("tokens", "requests"):
            numbers += self.claims[kind].fields()
        first = [self.worker, _text(self.epoch), str(int(self.leaves))]
        return first + [_text(number) for number in numbers]


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """The state of one kind of quota in the ledger.

    Attributes:
        rate: amount that flows in per second; `None` if not known.
        capacity: the most that the bucket can hold.
        level: amount in the bucket that is not reserved; below 0 while reservations wait.
        ended: amount counted as ended since the epoch, for all workers.
        place: the ledger's `reserved` right after the worker's reservation; 0 if it has none.
    """

    rate: float | None
    capacity: float
    level: float
    ended: float
    place: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The ledger's answer to an exchange.

    Attributes:
        epoch: the server's time at which this ledger began. A ledger with another epoch knows of no
            earlier reservation.
        now: the server's time, in seconds.
        workers: how many processes share the quota.
        share: the share of the rate that is used, from 0.8 to 1.
        pause: seconds for which all workers still pause after a refusal.
        delay: seconds until the worker's reservation may be used; -1 if that is not known, and the
            worker has to ask again.
        balances: by kind, `"tokens"` and `"requests"`.
    """

    epoch: float
    now: float
    workers: int
    share: float
    pause: float
    delay: float
    balances: Mapping[str, Balance]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the reply that the script's answer contains."""
        epoch, now, workers, share, pause, delay, *rest = map(float, text.split())
        balances = {}
        for kind, numbers in (("tokens", rest[:5]), ("requests", rest[5:])):
            rate, capacity, level, ended, place = numbers
            balances[kind] = Balance(
                rate=rate or None, capacity=capacity, level=level, ended=ended, place=place
            )
        return cls(
            epoch=epoch,
            now=now,
            workers=round(workers),
            share=share,
            pause=pause,
            delay=delay,
            balances=balances,
        )


def _text(number: float | None) -> str:
    return "" if number is None else repr(number)
