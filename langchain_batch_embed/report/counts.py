"""The counts kept during a call."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

__all__ = ["SHARED", "Share", "Tally"]


@dataclass(slots=True, kw_only=True)
class Share:
    """The counts of one of several deployments, explained in `DeploymentReport`."""

    server: str
    requests: int = 0
    throttled: int = 0
    failed: int = 0
    hedged: int = 0
    texts: int = 0
    tokens: int = 0


SHARED = tuple(count.name for count in fields(Share) if count.name != "server")
"""Names of the counts kept for each of several deployments."""


@dataclass(slots=True)
class Tally:
    """The counts of a running call, explained in `Report`.

    There `recalled` is called `from_journal`, `remembered` is called `from_memory`, and `shares` is
    called `deployments`.
    """

    requests: int = 0
    retries: int = 0
    throttled: int = 0
    splits: int = 0
    hedged: int = 0
    hedged_tokens: int = 0
    tokens: int = 0
    recalled: int = 0
    remembered: int = 0
    shares: list[Share] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Add the counts of another tally."""
        for count in fields(self):
            if count.name != "shares":
                setattr(self, count.name, getattr(self, count.name) + getattr(other, count.name))
        if other.shares:
            self.share_among([share.server for share in other.shares])
        for number, share in enumerate(other.shares):
            self.count(number, **{name: getattr(share, name) for name in SHARED})

    def share_among(self, servers: Sequence[str]) -> None:
        """Keep counts for each of these servers from now on, in addition to the sum."""
        if not self.shares:
            self.shares = [Share(server=server) for server in servers]

    def count(self, number: int, **counts: int) -> None:
        """Add to the counts of one server; do nothing unless there are several."""
        if self.shares:
            share = self.shares[number]
            for name, amount in counts.items():
                setattr(share, name, getattr(share, name) + amount)

    def request(self, number: int, count: int = 1) -> None:
        """Count a request to one server, or with -1 take it back."""
        self.requests += count
        if self.shares:
            self.count(number, requests=count)

    def copy(self, number: int, tokens: int, count: int = 1) -> None:
        """Count a request as a copy of another one, or with -1 take it back."""
        self.hedged += count
        self.hedged_tokens += count * tokens
        self.count(number, hedged=count)

    def answered(self, tokens: int | None, estimate: int, *, number: int = 0) -> None:
        """Count the tokens of an answer, or the estimate if the answer does not give them."""
        billed = estimate if tokens is None else tokens
        self.tokens += billed
        if self.shares:
            self.count(number, tokens=billed)
