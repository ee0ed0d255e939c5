"""Formats numbers and tables for people to read."""

from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["amount", "duration", "html_table", "money", "name_indices", "plural"]

_LEAST_SHOWN = 0.0001  # dollars
_THOUSAND = 1000
_MINUTE = 60
_HOUR = 3600

_INDICES_SHOWN = 10
"""A message lists at most this many indices; an attribute has all of them."""


def money(amount: float) -> str:
    """Format dollars with two decimals, or with four below one dollar: `$3.20`, `$0.0142`."""
    if 0 < amount < _LEAST_SHOWN:
        return f"<${_LEAST_SHOWN:.4f}"
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.4f}"


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """Format a count with its noun: `1 text`, `2,000 texts`, `2 retries`."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def amount(number: float) -> str:
    """Format a number, abbreviated from 10,000 on: `512`, `12k`, `1.2M`."""
    if number < 10 * _THOUSAND:
        return f"{number:,.0f}"
    if round(number / _THOUSAND) < _THOUSAND:
        return f"{number / _THOUSAND:.0f}k"
    return f"{number / _THOUSAND / _THOUSAND:,.1f}M"


def duration(seconds: float) -> str:
    """Format a duration in the unit that reads best: `0.4 s`, `84 s`, `12 min`, `3.5 h`."""
    if seconds < _MINUTE / 6:
        return f"{seconds:.1f} s"
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:,.1f} h"


def name_indices(indices: Sequence[int]) -> str:
    """Return the first indices as text for a message, and how many more there are."""
    shown = ", ".join(map(str, indices[:_INDICES_SHOWN]))
    more = len(indices) - _INDICES_SHOWN
    return f"{shown} and {more:,} more" if more > 0 else shown


def html_table(title: str, rows: Mapping[str, str]) -> str:
    """Return an HTML table with one row per value, for notebooks."""
    cells = "".join(
        f'<tr><th style="text-align: left">{escape(name)}</th>'
        f'<td style="text-align: left">{escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table><caption>{escape(title)}</caption>{cells}</table>"
