"""Prices of tokens."""

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["BATCH_API_SHARE", "DOLLARS_PER_MILLION_TOKENS", "PRICES_FROM", "dollars"]

DOLLARS_PER_MILLION_TOKENS: Mapping[str, float] = MappingProxyType(
    {
        "text-embedding-3-small": 0.02,
        "text-embedding-3-large": 0.13,
        "text-embedding-ada-002": 0.10,
    }
)
"""OpenAI's list prices by model, from its pricing page at the date in `PRICES_FROM`."""

PRICES_FROM = "OpenAI's list price of November 2026"

BATCH_API_SHARE = 0.5
"""Share of these prices that OpenAI's Batch API costs, according to the same page.

The Batch API answers within 24 hours.
"""


def dollars(model: str | None, tokens: int, *, price: float | None = None) -> float | None:
    """Return the price of tokens in dollars; `None` for a model whose price is not known.

    Args:
        model: the model's name.
        tokens: tokens billed.
        price: dollars per million tokens; `None` uses OpenAI's price if the model is OpenAI's.
    """
    if price is None:
        price = DOLLARS_PER_MILLION_TOKENS.get(model or "")
    return None if price is None else tokens * price / 1_000_000
