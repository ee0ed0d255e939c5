"""What one round trip to the ledger carries, there and back: values and their wire format."""

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from typing import Self

__all__ = ["Balance", "Claim", "Exchange", "Reply", "Told"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the headers of an answer, or the text of a refusal, said about one kind of quota.

    Attributes:
        limit: the amount a minute.
        remaining: what the server's bucket held; `None`: not told; -1: empty, as it refused.
        reset: seconds until it is full again; `None`: not told.
        age: seconds since the request was sent.
        ended_then: what the ledger had counted as ended when it was sent; `None`: not known.
    """

    limit: float
    remaining: float | None
    reset: float | None
    age: float
    ended_then: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a worker reports and asks for of one kind of quota.

    `back`, `spent` and `ended` count since the worker began, so that a report that arrives twice
    changes nothing.

    Attributes:
        ask: the amount to reserve; 0: none.
        back: given back unused.
        spent: used without a reservation: while cut off, or where only the other kind is known.
        held: reserved and not used, with what waits for its place.
        in_flight: of requests without an answer.
        ended: of requests that have ended.
        place: of a reservation that waits; `None`: none does.
        most: the limit that the user has set; `None`: none.
        known: the limit as this worker last knew it; `None`: not known.
        capacity: of the bucket, likewise.
        told: what the latest answer said; `None`: nothing new.
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
        """Return the numbers in the script's order."""
        own = (self.ask, self.back, self.spent, self.held, self.in_flight, self.ended, self.place)
        told: tuple[float | None, ...] = (None,) * 5 if self.told is None else astuple(self.told)
        return (*own, self.most, self.known, self.capacity, *told)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One report and request of a worker.

    Attributes:
        worker: its name.
        epoch: of the ledger that it knows; `None`: it knows none.
        leaves: it has nothing to do any more.
        passed: requests let through since its last report.
        refused_ago: seconds since a request was sent that was refused; `None`: none was.
        pause: seconds for which everybody is to wait for that.
        opening: requests that may be in flight before anything is known, of all workers.
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
        """Return the script's arguments."""
        numbers: list[float | None] = [self.passed, self.refused_ago, self.pause, self.opening]
        for kind in ("tokens", "requests"):
            numbers += self.claims[kind].fields()
        first = [self.worker, _text(self.epoch), str(int(self.leaves))]
        return first + [_text(number) for number in numbers]


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What the ledger says of one kind of quota.

    Attributes:
        rate: amount that flows in a second; `None`: not known.
        capacity: amount that the bucket can hold.
        level: what is not reserved; below 0 while a line waits.
        ended: counted as ended, of all workers, since the epoch.
        place: of the worker's reservation; 0: it has none.
    """

    rate: float | None
    capacity: float
    level: float
    ended: float
    place: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the ledger answers.

    Attributes:
        epoch: when this ledger began; another one knows nothing of what was reserved before.
        now: the server's time.
        workers: how many share the quota.
        share: of the rate that is used.
        pause: seconds for which everybody waits after a refusal.
        delay: seconds until what is reserved may be used; -1: not known, ask again.
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
        """Read the script's answer."""
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
