"""The demo's table, which compares the ways to embed."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Way", "rounded", "table"]

_ROUND_FROM = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to embed all sections, and its cost.

    Attributes:
        name: its name in the table.
        requests: the number of requests sent.
        tokens: the number of tokens billed.
        seconds: how long it took.
    """

    name: str
    requests: int
    tokens: int
    seconds: float


def table(ways: Sequence[Way]) -> str:
    """Return a table of at most 80 columns that compares each way with the first."""
    lines = [f"{'way':<26}{'requests':>10}{'tokens':>14}{'seconds':>12}{'times faster':>16}"]
    for way in ways:
        faster = ways[0].seconds / way.seconds
        lines.append(
            f"{way.name:<26}{way.requests:>10,}{way.tokens:>14,}"
            f"{rounded(way.seconds):>12}{rounded(faster):>16}"
        )
    return "\n".join(lines)


def rounded(number: float) -> str:
    """Format a number with two decimals, or with none from 100 on."""
    return f"{number:,.0f}" if number >= _ROUND_FROM else f"{number:.2f}"
