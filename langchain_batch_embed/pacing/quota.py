"""Reads the rate-limit headers of answers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["HeaderQuota", "read_headers", "seconds"]

_NUMBER = r"\d+(?:\.\d+)?"
_DURATION = re.compile(rf"({_NUMBER})(ms|h|m|s)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderQuota:
    """One quota, as the headers of an answer announce it.

    Attributes:
        kind: `"tokens"` or `"requests"`.
        limit: how many a minute.
        remaining: how many are left now; `None` if not announced.
        reset: seconds until all are available again; `None` if not announced.
    """

    kind: str
    limit: float
    remaining: float | None
    reset: float | None


def read_headers(headers: Mapping[str, str]) -> list[HeaderQuota]:
    """Return the quotas that the headers announce in OpenAI's form."""
    found = []
    for kind in ("tokens", "requests"):
        limit = _number(headers.get(f"x-ratelimit-limit-{kind}"))
        if limit is not None and limit > 0:
            found.append(
                HeaderQuota(
                    kind=kind,
                    limit=limit,
                    remaining=_number(headers.get(f"x-ratelimit-remaining-{kind}")),
                    reset=seconds(headers.get(f"x-ratelimit-reset-{kind}") or ""),
                )
            )
    return found


def seconds(duration: str) -> float | None:
    """Return a Go duration such as `6m0s`, `1.5s` or `12ms` in seconds, else `None`."""
    parts = _DURATION.findall(duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration.strip():
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _number(text: str | None) -> float | None:
    try:
        number = None if text is None else float(text)
    except ValueError:
        return None
    return number if number is not None and 0 <= number < float("inf") else None
