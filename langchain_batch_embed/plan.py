"""What a call will send, cost and take, before a cent is spent.

The texts go through the same preparing and packing as in the real call. The seconds come from a
rehearsal: the real `Pacer` sends the packed batches to a server that is three lines of
arithmetic, in simulated time, so that hours take milliseconds.
"""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.budget import Budget
from langchain_batch_embed.errors import OptionError
from langchain_batch_embed.inputs import check_texts
from langchain_batch_embed.limits import AZURE, FIRST_REQUESTS, OPENAI
from langchain_batch_embed.pacing import Pacer, Ticket
from langchain_batch_embed.pipeline import Pipeline
from langchain_batch_embed.report import (
    BATCH_API_SHARE,
    DOLLARS_PER_MILLION_TOKENS,
    PRICES_FROM,
    dollars,
    duration,
    html_table,
    money,
)
from langchain_batch_embed.results import Results
from langchain_batch_embed.tokens import ByteCounter

__all__ = ["TIERS", "AccountQuota", "Plan", "make_plan", "rehearse"]

RUNS = 15
"""Rehearsals with other luck, of which the median counts: answers take from 0.1 to many times 1 s,
so single ones differ by a fifth where no quota binds."""

OPENAIS_MODELS = frozenset({OPENAI.provider, AZURE.provider})
"""Providers whose latency is known well enough to tell seconds, and whose tokenizer is known."""

COLD_SECONDS = 0.3
"""What a request on a new connection takes longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountQuota:
    """What an account may send in a minute; `None`: no limit.

    Attributes:
        requests_per_minute: requests.
        tokens_per_minute: tokens, as the limiter charges them: a quarter of the UTF-8 bytes.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    def __str__(self) -> str:
        """Say it in words."""
        limits = {"requests": self.requests_per_minute, "tokens": self.tokens_per_minute}
        told = [f"{limit:,.0f} {kind}" for kind, limit in limits.items() if limit is not None]
        return f"{' and '.join(told)} a minute" if told else "no quota"


TIERS: Mapping[int, AccountQuota] = MappingProxyType(
    {
        1: AccountQuota(requests_per_minute=3_000, tokens_per_minute=1_000_000),
        2: AccountQuota(requests_per_minute=5_000, tokens_per_minute=1_000_000),
        3: AccountQuota(requests_per_minute=5_000, tokens_per_minute=5_000_000),
        4: AccountQuota(requests_per_minute=10_000, tokens_per_minute=5_000_000),
        5: AccountQuota(requests_per_minute=10_000, tokens_per_minute=10_000_000),
    }
)
"""OpenAI's usage tiers for text-embedding-3-small and -3-large, from the rate limits on its model
pages as of November 2026. Your own are on the limits page of your account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a call will send, cost and take.

    Attributes:
        texts: texts that were given.
        unique: different texts among them; identical ones are sent once.
        from_journal: inputs whose vectors are there already and cost nothing.
        requests: requests that will be sent, if none fails.
        tokens: tokens that will be billed, the windows of over-long texts among them.
        is_exact: whether the tokens are counted with the model's own tokenizer; else they are
            estimated with another one, or are UTF-8 bytes where none is at hand.
        dollars: what the tokens cost; `None` where no price is known.
        price: dollars for a million tokens; `None`: not known.
        price_from: where the price is from.
        seconds: how long the requests will take under `quota`, the median of what luck makes of
            it; `None` for a provider whose latency is not known. The work of this machine and of
            a vector store comes on top.
        quota: the account's quota that `seconds` assumes.
        seconds_by_tier: the same for each of OpenAI's tiers, where no quota is known.
    """

    texts: int
    unique: int
    from_journal: int
    requests: int
    tokens: int
    is_exact: bool
    dollars: float | None
    price: float | None
    price_from: str
    seconds: float | None
    quota: AccountQuota
    seconds_by_tier: Mapping[int, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """Two lines for a log or a print: what is sent and its price, and how long it takes."""
        kept = f", {self.from_journal:,} from the journal" if self.from_journal else ""
        return (
            f"{self.texts:,} texts ({self.unique:,} unique{kept}): {self.requests:,} requests, "
            f"{self._tokens()} tokens, {self._cost()}\n{self._time()}"
        )

    def _repr_html_(self) -> str:
        """Return a small table, for notebooks."""
        rows = {
            "texts": f"{self.texts:,}",
            "unique": f"{self.unique:,}",
            "from the journal": f"{self.from_journal:,}",
            "requests": f"{self.requests:,}",
            "tokens": self._tokens(),
            "cost": self._cost(),
            "time": self._time(),
        }
        return html_table("Plan", rows)

    def _tokens(self) -> str:
        return f"{self.tokens:,}" if self.is_exact else f"about {self.tokens:,}"

    def _cost(self) -> str:
        if self.dollars is None:
            return "price not known: give one as price"
        half = ""
        if self.price_from == PRICES_FROM:
            half = f"; {money(self.dollars * BATCH_API_SHARE)} through its Batch API, within 24 h"
        return f"{money(self.dollars)} (${self.price:g} a million, {self.price_from}{half})"

    def _time(self) -> str:
        if self.seconds is None:
            return "time not known for this provider"
        if not self.seconds_by_tier:
            return f"about {duration(self.seconds)} with {self.quota}"
        tiers = [f"tier {tier}: {duration(s)}" for tier, s in self.seconds_by_tier.items()]
        return f"about {duration(self.seconds)} if no quota binds; {', '.join(tiers)}"


def make_plan(
    pipeline: Pipeline,
    texts: Iterable[str],
    *,
    tier: int | None = None,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
    price: float | None = None,
) -> Plan:
    """Plan one call of a pipeline; see `BatchEmbeddings.plan`.

    Raises:
        InputError: a text can never be embedded.
        OptionError: an option cannot work.
        JournalError: the journal cannot be read.
    """
    provider = pipeline.limits.provider
    given = AccountQuota(
        requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute
    )
    _check(provider, tier, given, price)
    listed = check_texts(texts)
    inputs = pipeline.prepare(listed)
    results = Results(inputs, lists=False)
    recalled = pipeline.recovery.begin(inputs, results, query=False).recall()
    rows = inputs.missing(results.done)
    batches = [inputs.charges[batch] for batch in pipeline.batches(inputs, rows)]

    pacer = pipeline.dispatcher.pacer
    quota = _merged(given, TIERS.get(tier or 0, AccountQuota()), _known(pacer))
    told = AccountQuota(
        requests_per_minute=_told(pacer.requests), tokens_per_minute=_told(pacer.tokens)
    )
    limits = pipeline.limits
    window = {"max_workers": limits.max_workers, "first_requests": limits.first_requests}
    requests, seconds = rehearse(batches, quota=quota, told=told, **window)
    by_tier = {}
    if provider == OPENAI.provider and quota == AccountQuota():
        for number, tiers_quota in TIERS.items():
            run = rehearse(batches, quota=tiers_quota, told=told, **window)
            by_tier[number] = run[1]

    model = pipeline.provider.model
    tokens = int(inputs.tokens[rows].sum())
    return Plan(
        texts=len(listed),
        unique=inputs.unique,
        from_journal=recalled,
        requests=requests,
        tokens=tokens,
        is_exact=provider in OPENAIS_MODELS and not isinstance(pipeline.counter, ByteCounter),
        dollars=dollars(model, tokens, price=price),
        price=DOLLARS_PER_MILLION_TOKENS.get(model or "") if price is None else price,
        price_from=PRICES_FROM if price is None else "as given",
        seconds=seconds if provider in OPENAIS_MODELS else None,
        quota=quota,
        seconds_by_tier=by_tier,
    )


def rehearse(
    batches: Sequence[NDArray[np.int64]],
    *,
    quota: AccountQuota,
    max_workers: int,
    first_requests: int = FIRST_REQUESTS,
    told: AccountQuota | None = None,
    runs: int = RUNS,
) -> tuple[int, float]:
    """Send batches in simulated time; return how many requests that takes, and seconds.

    Both are those of the run with the median of the seconds. The same arguments give the same
    result.

    Args:
        batches: what the limiter charges for each input of each batch, in tokens.
        quota: what the server lets through, and tells in its headers.
        max_workers: requests in flight at most.
        first_requests: requests that are sent before anything is known of the quota.
        told: the quota that the sender is told beforehand.
        runs: how many times, each with other luck.
    """
    told = told or AccountQuota()
    outcomes = []
    for seed in range(runs):
        pacer = Pacer(
            max_workers=max_workers,
            first_requests=first_requests,
            requests_per_minute=told.requests_per_minute,
            tokens_per_minute=told.tokens_per_minute,
        )
        outcomes.append(_send(batches, pacer, _Server(quota, seed)))
    seconds, requests = sorted(outcomes)[runs // 2]
    return requests, seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    """What comes back, `after` seconds: an answer, or a refusal that says how long to wait."""

    after: float
    wait: float
    headers: Mapping[str, str]


class _Server:
    """OpenAI's side: a quota that is told in headers, and a latency."""

    def __init__(self, quota: AccountQuota, seed: int) -> None:
        self._requests = Budget(quota.requests_per_minute)
        self._tokens = Budget(quota.tokens_per_minute)
        self._dice = np.random.default_rng(seed)
        self._connections = 0

    def receive(self, charge: int, now: float, *, in_flight: int) -> _Reply:
        """Let a request in, or refuse it."""
        cold = in_flight > self._connections  # all connections are busy
        self._connections = max(self._connections, in_flight)
        # Network, and server: a fit to public recordings of OpenAI's endpoint. Their few requests
        # that stall for many times that are left out: they hold up no others.
        after = self._dice.uniform(0.04, 0.15) + COLD_SECONDS * cold
        wait = max(self._tokens.wait(charge, now), self._requests.wait(1, now))
        if charge > self._tokens.capacity:
            wait = math.inf
        if not wait:
            self._tokens.take(charge, now)
            self._requests.take(1, now)
            after += (0.08 + 7e-6 * charge) * self._dice.lognormal(0, 0.85)
        return _Reply(after=after, wait=wait, headers=self._headers())

    def _headers(self) -> dict[str, str]:
        headers = {}
        for kind, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            if bucket.rate is not None:
                reset = (bucket.capacity - bucket.level) / bucket.rate
                headers[f"x-ratelimit-limit-{kind}"] = str(bucket.capacity)
                headers[f"x-ratelimit-remaining-{kind}"] = str(bucket.level)
                headers[f"x-ratelimit-reset-{kind}"] = f"{reset:.3f}s"
        return headers


def _send(batches: Sequence[NDArray[np.int64]], pacer: Pacer, server: _Server) -> tuple[float, int]:
    """Send batches as the dispatcher does; return the seconds, and the requests answered."""
    ready = deque(batches)
    number = itertools.count()  # keeps the heap from comparing anything else
    under_way: list[tuple[float, int, NDArray[np.int64], Ticket, _Reply]] = []
    now, answered = 0.0, 0
    while ready or under_way:
        wait = math.inf
        while ready:
            batch, charge = ready[0], int(ready[0].sum())
            if len(batch) > 1 and charge > pacer.largest():
                ready.popleft()
                ready.extendleft(reversed(np.array_split(batch, 2)))
                continue
            wait = pacer.wait(charge, now)
            if wait > 0:
                break
            ready.popleft()
            ticket = pacer.start(charge, now)
            reply = server.receive(charge, now, in_flight=pacer.in_flight)
            heapq.heappush(under_way, (now + reply.after, next(number), batch, ticket, reply))
        if not under_way or now + wait < under_way[0][0]:
            now += wait
            continue
        now, _, batch, ticket, reply = heapq.heappop(under_way)
        if reply.wait == 0:
            pacer.succeeded(ticket, reply.headers, now)
            answered += 1
        elif reply.wait < math.inf:
            pacer.refused(ticket, now, after=reply.wait, headers=reply.headers)
            ready.appendleft(batch)
        else:  # more than the whole bucket: it is cut, and a single text given up
            pacer.failed(ticket, now, overloaded=False)
            if len(batch) > 1:
                ready.extendleft(reversed(np.array_split(batch, 2)))
    return now, answered


def _check(provider: str, tier: int | None, given: AccountQuota, price: float | None) -> None:
    """Raise `OptionError` for what cannot be planned with."""
    if tier is not None and provider != OPENAI.provider:
        raise OptionError(
            f"tier= is OpenAI's, and this is {provider}: pass requests_per_minute= and "
            "tokens_per_minute= instead"
        )
    if tier is not None and tier not in TIERS:
        raise OptionError(f"tier must be one of {', '.join(map(str, TIERS))}, not {tier!r}")
    numbers = {
        "requests_per_minute": given.requests_per_minute,
        "tokens_per_minute": given.tokens_per_minute,
        "price": price,
    }
    for name, value in numbers.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise OptionError(f"{name} must be a number, not {type(value).__name__}")
        if not 0 <= value < math.inf or (name != "price" and value == 0):
            raise OptionError(f"{name} must be more than 0, not {value}")


def _merged(*quotas: AccountQuota) -> AccountQuota:
    """Return the first number of each kind that is known."""

    def first(numbers: Iterable[float | None]) -> float | None:
        return next((number for number in numbers if number is not None), None)

    return AccountQuota(
        requests_per_minute=first(quota.requests_per_minute for quota in quotas),
        tokens_per_minute=first(quota.tokens_per_minute for quota in quotas),
    )


def _known(pacer: Pacer) -> AccountQuota:
    """Return the quota that was told, or learnt by earlier calls."""
    rates = pacer.requests.rate, pacer.tokens.rate
    requests, tokens = (None if rate is None else rate * 60 for rate in rates)
    return AccountQuota(requests_per_minute=requests, tokens_per_minute=tokens)


def _told(budget: Budget) -> float | None:
    return budget.rate * 60 if budget.told and budget.rate is not None else None
