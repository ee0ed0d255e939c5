"""What a call did and cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["DOLLARS_PER_MILLION_TOKENS", "Report", "Tally", "dollars"]

DOLLARS_PER_MILLION_TOKENS: Mapping[str, float] = MappingProxyType(
    {
        "text-embedding-3-small": 0.02,
        "text-embedding-3-large": 0.13,
        "text-embedding-ada-002": 0.10,
    }
)
"""OpenAI's prices, from its pricing page as of November 2026. The Batch API costs half."""


@dataclass(slots=True)
class Tally:
    """Counts that a run keeps while it works; see `Report` for their meaning."""

    requests: int = 0
    retries: int = 0
    throttled: int = 0
    splits: int = 0
    tokens: int = 0
    recalled: int = 0

    def answered(self, tokens: int | None, estimate: int) -> None:
        """Count the tokens of an answer; the estimate where the answer does not say."""
        self.tokens += estimate if tokens is None else tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one call did and cost.

    Attributes:
        texts: texts that were given.
        unique: different texts among them; identical ones are sent once.
        from_journal: inputs whose vectors were there already and cost nothing.
        requests: requests sent, those that failed among them.
        retries: requests sent again after an error.
        throttled: requests refused because of a rate limit (429).
        splits: requests that were refused and sent again in parts.
        tokens: tokens billed, as the server counts them, or estimated where it does not say.
        dollars: what the tokens cost; `None` for a model whose price is not known.
        seconds: how long the call took.
        failures: texts without a vector.
    """

    texts: int
    unique: int
    from_journal: int
    requests: int
    retries: int
    throttled: int
    splits: int
    tokens: int
    dollars: float | None
    seconds: float
    failures: int

    @classmethod
    def of(
        cls,
        tally: Tally,
        *,
        texts: int,
        unique: int,
        done: int,
        seconds: float,
        dollars: float | None,
    ) -> "Report":
        """Make the report of a call from what was counted."""
        return cls(
            texts=texts,
            unique=unique,
            from_journal=tally.recalled,
            requests=tally.requests,
            retries=tally.retries,
            throttled=tally.throttled,
            splits=tally.splits,
            tokens=tally.tokens,
            dollars=dollars,
            seconds=seconds,
            failures=texts - done,
        )

    def __str__(self) -> str:
        """One line for a log or a print."""
        cost = "" if self.dollars is None else f", ${self.dollars:,.4f}"
        kept = f", {self.from_journal:,} from the journal" if self.from_journal else ""
        lost = f", {self.failures:,} failed" if self.failures else ""
        return (
            f"{self.texts:,} texts ({self.unique:,} unique{kept}{lost}) in {self.seconds:.2f} s: "
            f"{self.requests:,} requests, {self.retries:,} retries ({self.throttled:,} throttled), "
            f"{self.tokens:,} tokens{cost}"
        )


def dollars(model: str | None, tokens: int) -> float | None:
    """Return what so many tokens cost; `None` for a model whose price is not known."""
    price = DOLLARS_PER_MILLION_TOKENS.get(model or "")
    return None if price is None else tokens * price / 1_000_000
