"""What providers say about a quota, in headers and in refusals: two small things to read.

Below `retry`, which reads refusals, and `pacing`, which reads headers.
"""

import re
from dataclasses import dataclass

__all__ = ["Quota", "seconds"]

_NUMBER = r"\d+(?:\.\d+)?"
_DURATION = re.compile(rf"({_NUMBER})(ms|h|m|s)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What a refusal said about the quota.

    Attributes:
        kind: `"tokens"` or `"requests"`, both a minute.
        limit: how many a minute.
        used: how many of them are in use.
    """

    kind: str
    limit: float
    used: float


def seconds(duration: str) -> float | None:
    """Return a Go duration such as `6m0s`, `1.5s` or `12ms` in seconds; `None`: not one."""
    parts = _DURATION.findall(duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration.strip():
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)
