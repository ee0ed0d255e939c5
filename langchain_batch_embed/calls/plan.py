"""What a call will send, cost and take, before a cent is spent.

The texts are prepared and packed as in the real call. The seconds come from a rehearsal in
simulated time, in which the real `Sender` sends to a server that is a few lines of arithmetic.
Hours take milliseconds there.
"""

import heapq
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

import numpy as np

from langchain_batch_embed.calls.pipeline import Pipeline
from langchain_batch_embed.calls.results import Results
from langchain_batch_embed.errors import OptionError
from langchain_batch_embed.limits import AZURE, FIRST_REQUESTS, OPENAI
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.pacing.pacer import Pacer
from langchain_batch_embed.pacing.token_bucket import TokenBucket
from langchain_batch_embed.providers.provider import Answer
from langchain_batch_embed.report import (
    BATCH_API_SHARE,
    DOLLARS_PER_MILLION_TOKENS,
    PRICES_FROM,
    Tally,
    dollars,
    duration,
    html_table,
    money,
)
from langchain_batch_embed.sending.rehearsal import Reply, Request, rehearse
from langchain_batch_embed.sending.sender import Sender
from langchain_batch_embed.sending.work import Rows, Work
from langchain_batch_embed.texts.inputs import check_texts
from langchain_batch_embed.texts.tokens import ByteCounter

__all__ = [
    "OPENAIS_MODELS",
    "TIERS",
    "AccountQuota",
    "Plan",
    "check_plan",
    "keep_nothing",
    "known_quota",
    "make_plan",
    "merged",
    "rehearse_quota",
]

RUNS = 15
"""Rehearsals with different random numbers, of which the median counts. An answer takes 0.1 s to
several seconds, so where no quota binds single rehearsals differ by a fifth."""

OPENAIS_MODELS = frozenset({OPENAI.provider, AZURE.provider})
"""Providers whose latency and tokenizer are known well enough to predict seconds."""

COLD_SECONDS = 0.3
"""Extra seconds of a request on a new connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountQuota:
    """The quota of an account; `None`: no limit.

    Attributes:
        requests_per_minute: requests.
        tokens_per_minute: tokens as the limiter charges them, a quarter of the UTF-8 bytes.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    def __str__(self) -> str:
        """The quota in words."""
        limits = {"requests": self.requests_per_minute, "tokens": self.tokens_per_minute}
        parts = [f"{limit:,.0f} {kind}" for kind, limit in limits.items() if limit is not None]
        return f"{' and '.join(parts)} a minute" if parts else "no quota"


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
pages as of November 2026. Your own limits are on the limits page of your account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a call will send, cost and take.

    Attributes:
        texts: texts of the caller.
        unique: different texts among them; identical ones are sent once.
        from_journal: unique texts whose vectors are kept from before and cost nothing.
        requests: requests that will be sent, if none fails.
        tokens: tokens that will be billed, including the windows of over-long texts.
        is_exact: whether the model's own tokenizer counts them; else another one does, or they are
            UTF-8 bytes where no tokenizer is available.
        dollars: price of the tokens; `None` where it is not known.
        price: dollars for a million tokens; `None`: not known.
        price_from: source of the price.
        seconds: duration of the requests under `quota`, a median; `None` for a provider whose
            latency is not known. The work of this machine and of a vector store comes on top.
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
        """Two lines for a log or a print: requests and price, then the time."""
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
    check_plan(provider, tier, given, price)
    listed = check_texts(texts)
    inputs = pipeline.prepare(listed)
    results = Results(inputs, lists=False)
    recalled = pipeline.recovery.for_call(inputs, results, query=False).recall()
    work = pipeline.fetcher.work(inputs, results, keep=keep_nothing)
    rows = work.rows

    sender = pipeline.dispatcher.sender
    pacer = sender.pacer
    quota = merged(given, TIERS.get(tier or 0, AccountQuota()), known_quota(pacer))
    set_by_user = AccountQuota(
        requests_per_minute=_set_rate(pacer.requests), tokens_per_minute=_set_rate(pacer.tokens)
    )
    run = partial(
        rehearse_quota,
        work,
        set_by_user=set_by_user,
        max_workers=pipeline.limits.max_workers,
        first_requests=pipeline.limits.first_requests,
    )
    requests, seconds = run(quota=quota)
    by_tier = {}
    if provider == OPENAI.provider and quota == AccountQuota():
        by_tier = {number: run(quota=tiers_quota)[1] for number, tiers_quota in TIERS.items()}

    model = pipeline.provider.model
    tokens = int(inputs.tokens[rows].sum())
    return Plan(
        texts=len(listed),
        unique=inputs.unique,
        from_journal=recalled,
        requests=requests,
        tokens=tokens,
        is_exact=provider in OPENAIS_MODELS
        and not isinstance(pipeline.fetcher.counter, ByteCounter),
        dollars=dollars(model, tokens, price=price),
        price=DOLLARS_PER_MILLION_TOKENS.get(model or "") if price is None else price,
        price_from=PRICES_FROM if price is None else "as given",
        seconds=seconds if provider in OPENAIS_MODELS else None,
        quota=quota,
        seconds_by_tier=by_tier,
    )


def rehearse_quota(
    work: Work,
    *,
    quota: AccountQuota,
    max_workers: int,
    first_requests: int = FIRST_REQUESTS,
    set_by_user: AccountQuota | None = None,
    runs: int = RUNS,
) -> tuple[int, float]:
    """Send work in simulated time; return the number of requests, and seconds.

    Both are of the rehearsal with the median seconds. The same arguments give the same result.

    Args:
        work: what to send.
        quota: the server's, which its headers show.
        max_workers: requests in flight at most.
        first_requests: requests sent before anything is known of the quota.
        set_by_user: the quota among the user's options.
        runs: rehearsals, each with different random numbers.
    """
    set_by_user = set_by_user or AccountQuota()
    outcomes = []
    for seed in range(runs):
        draw = random.Random(seed).random  # noqa: S311  # random, not secret
        pacer = Pacer(
            max_workers=max_workers,
            first_requests=first_requests,
            is_known=True,
            requests_per_minute=set_by_user.requests_per_minute,
            tokens_per_minute=set_by_user.tokens_per_minute,
            draw=draw,
        )
        sender = Sender(pacer, max_retries=8, timeout=math.inf, draw=draw)
        queue = sender.queue(work, Tally(), Hedges())
        sender.add(queue, 0.0)
        server = _Server(quota, seed)
        seconds = rehearse(sender, [queue], server)
        outcomes.append((seconds, server.answered))
    seconds, requests = sorted(outcomes)[runs // 2]
    return requests, seconds


def keep_nothing(rows: Rows, answer: Answer) -> None:
    """Keep the answers of a rehearsal, which has none."""


class QuotaError(Exception):
    """A 429 of the rehearsal's server."""

    status_code = 429

    def __init__(self, message: str, headers: Mapping[str, str]) -> None:
        super().__init__(message)
        self.headers = headers
        self.response = self


class _Server:
    """OpenAI's side: a quota, which its headers show, and a latency."""

    def __init__(self, quota: AccountQuota, seed: int) -> None:
        self._requests = TokenBucket(quota.requests_per_minute)
        self._tokens = TokenBucket(quota.tokens_per_minute)
        self._dice = np.random.default_rng(seed)
        self._free: list[float] = []  # when each connection is free again
        self.answered = 0

    def receive(self, request: Request) -> Reply:
        """Answer a request, or refuse it."""
        now, charge = request.sent, request.charge
        # Network and server time, fitted to public recordings of OpenAI's endpoint. The few
        # requests that stall for many times as long are left out, as they hold up no others.
        after = float(self._dice.uniform(0.04, 0.15))
        if self._free and self._free[0] <= now:
            heapq.heappop(self._free)
        else:  # all connections are busy
            after += COLD_SECONDS
        wait = max(self._tokens.delay(charge, now), self._requests.delay(1, now))
        error: Exception | None = None
        if charge > self._tokens.capacity:
            limit = self._tokens.capacity
            error = QuotaError(
                f"Request too large on tokens per min (TPM): Limit {limit:.0f}, "
                f"Requested {charge}.",
                self._headers(),
            )
        elif wait:
            error = QuotaError("", {**self._headers(), "retry-after": f"{wait:.3f}"})
        else:
            self._tokens.take(charge, now)
            self._requests.take(1, now)
            after += (0.08 + 7e-6 * charge) * float(self._dice.lognormal(0, 0.85))
            self.answered += 1
        heapq.heappush(self._free, now + after)
        return Reply(after=after, headers=self._headers(), error=error)

    def _headers(self) -> dict[str, str]:
        headers = {}
        for kind, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            if bucket.rate is not None:
                reset = (bucket.capacity - bucket.level) / bucket.rate
                headers[f"x-ratelimit-limit-{kind}"] = str(bucket.capacity)
                headers[f"x-ratelimit-remaining-{kind}"] = str(max(0.0, bucket.level))
                headers[f"x-ratelimit-reset-{kind}"] = f"{reset:.3f}s"
        return headers


def check_plan(provider: str, tier: int | None, given: AccountQuota, price: float | None) -> None:
    """Raise `OptionError` for arguments that no plan can use."""
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


def merged(*quotas: AccountQuota) -> AccountQuota:
    """Return the first number of each kind that is known."""

    def first(numbers: Iterable[float | None]) -> float | None:
        return next((number for number in numbers if number is not None), None)

    return AccountQuota(
        requests_per_minute=first(quota.requests_per_minute for quota in quotas),
        tokens_per_minute=first(quota.tokens_per_minute for quota in quotas),
    )


def known_quota(pacer: Pacer) -> AccountQuota:
    """Return the quota that the user set or that earlier answers showed."""
    rates = pacer.requests.rate, pacer.tokens.rate
    requests, tokens = (None if rate is None else rate * 60 for rate in rates)
    return AccountQuota(requests_per_minute=requests, tokens_per_minute=tokens)


def _set_rate(bucket: TokenBucket) -> float | None:
    return bucket.rate * 60 if bucket.is_set and bucket.rate is not None else None
