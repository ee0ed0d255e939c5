"""The servers that the sending engine has to handle, as a grid of cells."""

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

__all__ = [
    "DIMENSIONS",
    "Cell",
    "Outage",
    "Says",
    "bad_luck_at",
    "cell_of",
    "cells",
    "choice_of",
    "pairwise",
    "sample",
]

Says = Literal["all", "hint", "used", "nothing", "zero"]
"""What a refusal tells the client.

- `"all"`: OpenAI's headers on 200 and 429, its retry headers, its text.
- `"hint"`: the exact delay in `retry-after`, and nothing on 200.
- `"used"`: OpenAI's text, with the `Used` of the bucket instead of the minute.
- `"nothing"`: a bare 429.
- `"zero"`: `retry-after: 0`, whatever the delay is.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A period in which the server answers nothing.

    Attributes:
        start: in seconds.
        length: in seconds.
        kind: `"reset"` breaks all connections at the start and refuses new ones; `"503"` answers
            new requests with 503.
    """

    start: float
    length: float
    kind: Literal["reset", "503"] = "reset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One server of the grid; the default has no limit and no bad luck.

    Attributes:
        name: for people; ignored in comparisons.
        requests_per_minute: the quota of requests, or `None` if there is none.
        tokens_per_minute: the quota of `Request.charge`, or `None` if there is none.
        limiter: a bucket that refills continuously, or fixed windows.
        limiter_seconds: seconds' worth that the bucket or window holds; at least one request.
        refused_share: share of its amount, 0 to 1, that a refused request is charged.
        says: what a refusal for the quota tells the client.
        latency: typical seconds of a small request, a share of 0.2 of them in the network.
        computed_at_once: requests that the server works on while others queue, or `None` for all.
        notices_gone: whether a request whose client gave up before its turn costs nothing.
        seconds_per_text: time to compute a text, or `None` for the latency's share.
        refuses_above: requests in flight above which further ones are refused at once, without a
            hint.
        refuses_with: the status of that refusal.
        outages: in order, not overlapping.
        slow: start and end of a period in which everything takes `slow_factor` times as long.
        slow_factor: see `slow`.
        refused_rows: a request that holds one of these gets a 400 that does not name it.
        failing_rows: a request that holds one of these gets a 500.
        max_texts: a request with more gets a 400.
        max_bytes: a request with more, at 4 bytes a charged token, gets a 413.
    """

    name: str = field(default="", compare=False)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    limiter: Literal["bucket", "windows"] = "bucket"
    limiter_seconds: float = 60.0
    refused_share: float = 1.0
    says: Says = "all"
    latency: float = 0.3
    computed_at_once: int | None = None
    notices_gone: bool = True
    seconds_per_text: float | None = None
    refuses_above: int | None = None
    refuses_with: Literal[429, 503] = 503
    outages: tuple[Outage, ...] = ()
    slow: tuple[float, float] | None = None
    slow_factor: float = 8.0
    refused_rows: frozenset[int] = frozenset()
    failing_rows: frozenset[int] = frozenset()
    max_texts: int | None = None
    max_bytes: int | None = None


def _scattered() -> frozenset[int]:
    return frozenset(range(61, 20_000, 397))


def _in_rows() -> frozenset[int]:
    return frozenset(range(300, 340))


DIMENSIONS: Final[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {
    "quota": {
        "no quota": {},
        "60 requests": {"requests_per_minute": 60},
        "1M": {"tokens_per_minute": 1_000_000},
        "5M": {"tokens_per_minute": 5_000_000},
        "20M": {"tokens_per_minute": 20_000_000},
        "40M": {"tokens_per_minute": 40_000_000},
    },
    "limiter": {
        "bucket 60 s": {},
        "bucket 10 s": {"limiter_seconds": 10.0},
        "bucket 3 s": {"limiter_seconds": 3.0},
        "bucket 1 s": {"limiter_seconds": 1.0},
        "bucket 0.5 s": {"limiter_seconds": 0.5},
        "windows 60 s": {"limiter": "windows"},
        "windows 1 s": {"limiter": "windows", "limiter_seconds": 1.0},
    },
    "refused share": {
        "refused charged": {},
        "refused free": {"refused_share": 0.0},
    },
    "says": {
        "says all": {},
        "says hint": {"says": "hint"},
        "says used": {"says": "used"},
        "says nothing": {"says": "nothing"},
        "says zero": {"says": "zero"},
    },
    "latency": {
        "0.3 s": {},
        "5 ms": {"latency": 0.005},
        "50 ms": {"latency": 0.05},
        "2 s": {"latency": 2.0},
    },
    "concurrency": {
        "unbounded": {},
        "1 at once": {"computed_at_once": 1},
        "4 at once": {"computed_at_once": 4},
        "32 at once": {"computed_at_once": 32},
        "blind worker": {"computed_at_once": 1, "notices_gone": False, "seconds_per_text": 0.04},
        "8 or 429": {"refuses_above": 8, "refuses_with": 429},
        "8 or 503": {"refuses_above": 8, "refuses_with": 503},
    },
    "luck": {
        "no bad luck": {},
        "5 s reset": {"outages": (Outage(start=5.0, length=5.0),)},
        "5 min reset": {"outages": (Outage(start=5.0, length=300.0),)},
        "5 s of 503": {"outages": (Outage(start=5.0, length=5.0, kind="503"),)},
        "5 min of 503": {"outages": (Outage(start=5.0, length=300.0, kind="503"),)},
        "restarts": {"outages": tuple(Outage(start=t, length=1.0) for t in (5.0, 15.0, 25.0))},
        "slow minute": {"slow": (5.0, 65.0)},
        "refused scattered": {"refused_rows": _scattered()},
        "refused in rows": {"refused_rows": _in_rows()},
        "failing scattered": {"failing_rows": _scattered()},
    },
    "limits": {
        "no limits": {},
        "10 texts": {"max_texts": 10},
        "256 kB": {"max_bytes": 256_000},
    },
}
"""Each dimension's values by name, with the fields of a `Cell` that they set.

The first value is the default.
"""

_ABSENT: Final = ""
_OF_QUOTA: Final = ("limiter", "refused share", "says")

_Choice = dict[str, str]
_Pair = tuple[tuple[str, str], tuple[str, str]]


def cells() -> Iterator[Cell]:
    """Yield every cell of the grid, some 350,000, leaving out those that behave identically."""
    seen = set()
    for values in itertools.product(*DIMENSIONS.values()):
        choice = _normalised(dict(zip(DIMENSIONS, values, strict=True)))
        key = tuple(choice.values())
        if key not in seen:
            seen.add(key)
            yield _cell(choice)


def sample(count: int, seed: int = 0) -> list[Cell]:
    """Return `count` different cells, each value of a dimension being equally likely."""
    dice = random.Random(seed)
    chosen: dict[str, Cell] = {}
    while len(chosen) < count:
        cell = _cell(_drawn(dice))
        chosen[cell.name] = cell
    return list(chosen.values())


def pairwise(seed: int = 0, count: int = 150) -> list[Cell]:
    """Return a sample in which every two compatible values occur together at least once.

    Greedy: each cell starts from a pair that is still missing, and takes in each other dimension
    the
    value that adds most of the missing pairs. Random cells fill up the rest.

    Args:
        seed: the same seed gives the same sample.
        count: at least this many cells.
    """
    dice = random.Random(seed)
    missing = dict.fromkeys(_possible_pairs())  # a set would have no fixed order
    chosen: dict[str, Cell] = {}
    while missing:
        choice = _greedy(next(iter(missing)), missing, dice)
        for pair in _pairs(choice):
            missing.pop(pair, None)
        cell = _cell(choice)
        chosen[cell.name] = cell
    while len(chosen) < count:
        cell = _cell(_drawn(dice))
        chosen[cell.name] = cell
    return list(chosen.values())


def choice_of(cell: Cell) -> dict[str, str]:
    """Return the value of each dimension in a cell's name, or "" if the name has none."""
    values = cell.name.split(", ")
    return {
        name: next((value for value in values if value in DIMENSIONS[name]), _ABSENT)
        for name in DIMENSIONS
    }


def cell_of(choice: Mapping[str, str]) -> Cell:
    """Return the cell with these values; missing dimensions have their default."""
    full = {name: choice.get(name) or next(iter(DIMENSIONS[name])) for name in DIMENSIONS}
    return _cell(_normalised(full))


def bad_luck_at(cell: Cell, start: float) -> Cell:
    """Return the cell with its outages and its slow period moved to begin at `start`."""
    shift = start - min((outage.start for outage in cell.outages), default=0.0)
    slow = cell.slow and (start, start + cell.slow[1] - cell.slow[0])
    moved = (replace(outage, start=outage.start + shift) for outage in cell.outages)
    return replace(cell, outages=tuple(moved), slow=slow)


def _greedy(first: _Pair, missing: dict[_Pair, None], dice: random.Random) -> _Choice:
    choice = dict(first)
    rest = [name for name in DIMENSIONS if name not in choice]
    dice.shuffle(rest)
    if any(name in choice for name in _OF_QUOTA) and "quota" in rest:
        rest.remove("quota")
        rest.insert(0, "quota")
    for name in rest:
        values = [value for value in DIMENSIONS[name] if _survives({**choice, name: value})]
        dice.shuffle(values)
        gains = {
            value: sum(_pair((name, value), other) in missing for other in choice.items())
            for value in values
        }
        # If no value survives, the dimension has none, as without a quota.
        choice[name] = max(values, key=lambda value: gains[value], default=_ABSENT)
    return _normalised({name: choice[name] for name in DIMENSIONS})


def _survives(choice: _Choice) -> bool:
    """Return whether these values are compatible: normalising leaves them unchanged."""
    quotas = DIMENSIONS["quota"] if "quota" not in choice else [choice["quota"]]
    for quota in quotas:
        full = {name: choice.get(name, next(iter(DIMENSIONS[name]))) for name in DIMENSIONS}
        full["quota"] = quota
        normalised = _normalised(full)
        if all(normalised[name] == value for name, value in choice.items()):
            return True
    return False


def _possible_pairs() -> Iterator[_Pair]:
    for (a, values_a), (b, values_b) in itertools.combinations(DIMENSIONS.items(), 2):
        for value_a, value_b in itertools.product(values_a, values_b):
            if _survives({a: value_a, b: value_b}):
                yield _pair((a, value_a), (b, value_b))


def _pairs(choice: _Choice) -> Iterator[_Pair]:
    return (_pair(*two) for two in itertools.combinations(choice.items(), 2))


def _pair(a: tuple[str, str], b: tuple[str, str]) -> _Pair:
    return (a, b) if a < b else (b, a)


def _drawn(dice: random.Random) -> _Choice:
    choice = {name: dice.choice(list(values)) for name, values in DIMENSIONS.items()}
    return _normalised(choice)


def _normalised(choice: _Choice) -> _Choice:
    """Drop values that make no difference to the server."""
    if choice["quota"] == "no quota":
        return {**choice, **dict.fromkeys(_OF_QUOTA, _ABSENT)}
    if choice["quota"] == "60 requests" and choice["limiter"] == "bucket 0.5 s":
        # Half a request would never be let in, so both buckets hold one.
        return {**choice, "limiter": "bucket 1 s"}
    return choice


def _cell(choice: _Choice) -> Cell:
    fields: dict[str, Any] = {}
    for name, value in choice.items():
        if value != _ABSENT:
            fields |= DIMENSIONS[name][value]
    return Cell(name=", ".join(value for value in choice.values() if value), **fields)
