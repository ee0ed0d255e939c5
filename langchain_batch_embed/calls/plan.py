"""Plans what a call will send and cost and how long it will take, before a cent is spent.

The texts are prepared and packed as in the real call. The seconds come from a rehearsal in
simulated time.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from langchain_batch_embed.calls.estimate import (
    OPENAIS_MODELS,
    AccountQuota,
    known_quota,
    rehearse_quota,
    set_by_user,
)
from langchain_batch_embed.calls.pipeline import Pipeline
from langchain_batch_embed.calls.results import Results
from langchain_batch_embed.errors import OptionError
from langchain_batch_embed.limits import OPENAI
from langchain_batch_embed.providers.provider import Answer
from langchain_batch_embed.report import (
    BATCH_API_SHARE,
    DOLLARS_PER_MILLION_TOKENS,
    PRICES_FROM,
    dollars,
    duration,
    html_table,
    money,
    plural,
)
from langchain_batch_embed.sending.work import Rows
from langchain_batch_embed.texts.inputs import Inputs, check_texts
from langchain_batch_embed.texts.tokens import ByteCounter

__all__ = [
    "BATCH_QUEUES",
    "TIERS",
    "Plan",
    "check_plan",
    "keep_nothing",
    "make_plan",
    "merged",
    "ordinary_seconds",
]

BATCH_ROUND_SECONDS = 3600.0
"""Seconds within which a batch is usually answered. Of 230,000 batches that OpenRouter sent to
several providers, half were answered in 7 minutes and 90 % within an hour (openrouter.ai,
announcement of its batch API, 2026)."""

BATCH_QUEUES: Mapping[int, int] = MappingProxyType(
    {1: 3_000_000, 2: 20_000_000, 3: 100_000_000, 4: 500_000_000, 5: 4_000_000_000}
)
"""For each tier, the tokens of text-embedding-3-small or -3-large that an account may have in
batches at a time, from the rate limits on OpenAI's model pages."""

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


NOISE = 0.1
"""Rehearsals of the same work differ by this share, so a smaller difference between tiers is
ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a call will send and cost, and how long it will take.

    Attributes:
        texts: the caller's texts.
        unique: different texts among them; identical ones are sent once.
        from_journal: unique texts whose vectors are kept from before and cost nothing.
        requests: requests that will be sent, if none fails.
        tokens: tokens that will be billed, including the windows of over-long texts.
        is_exact: whether the model's own tokenizer counts the tokens; otherwise another tokenizer
            does, or they are UTF-8 bytes if no tokenizer is available.
        dollars: price of the tokens; `None` if it is not known.
        price: dollars for a million tokens; `None` if it is not known.
        price_from: source of the price.
        seconds: median duration of the requests under `quota`; `None` for a provider whose latency
            is not known. The work of this machine and of a vector store comes on top.
        quota: the account's quota that `seconds` assumes.
        seconds_by_tier: the duration in each of OpenAI's tiers; empty if a quota is known or the
            provider is another.
        batch_dollars: price of the tokens through the Batch API, by `submit`; `None` if there is
            no such price.
        batch_rounds: how many times the account's batch queue must be filled, as it holds a limited
            number of tokens at a time. A round usually takes less than an hour, and at most 24
            hours. `None` without a tier.
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
    batch_dollars: float | None = None
    batch_rounds: int | None = None

    def __str__(self) -> str:
        """Return two or three lines: work and price, duration, and those of the Batch API."""
        kept = f", {self.from_journal:,} kept from before" if self.from_journal else ""
        tokens = "token" if self.tokens == 1 else "tokens"
        return (
            f"{plural(self.texts, 'text')} ({self.unique:,} unique{kept}): "
            f"{plural(self.requests, 'request')}, {self._tokens()} {tokens}, {self._cost()}\n"
            f"{self._time()}"
            + ("" if self.batch_dollars is None else f"\nby submit(): {self._batch()}")
        )

    def _repr_html_(self) -> str:
        """Return a small table, for notebooks."""
        rows = {
            "texts": f"{self.texts:,}",
            "unique": f"{self.unique:,}",
            "kept from before": f"{self.from_journal:,}",
            "requests": f"{self.requests:,}",
            "tokens": self._tokens(),
            "cost": self._cost(),
            "time": self._time(),
        }
        if self.batch_dollars is not None:
            rows["by submit()"] = self._batch()
        return html_table("Plan", rows)

    def _tokens(self) -> str:
        return f"{self.tokens:,}" if self.is_exact else f"about {self.tokens:,}"

    def _cost(self) -> str:
        if self.dollars is None:
            return "price not known (set price)"
        return f"{money(self.dollars)} (${self.price:g} a million, {self.price_from})"

    def _batch(self) -> str:
        rounds = self.batch_rounds or 1
        most = f"{24 * rounds:,} h"
        usual = duration(rounds * BATCH_ROUND_SECONDS)
        several = (
            f" in {rounds:,} rounds because of the account's queue limit," if rounds > 1 else ""
        )
        price = money(self.batch_dollars or 0.0)
        return f"{price} through the Batch API,{several} usually within {usual}, at most {most}"

    def _time(self) -> str:
        if self.seconds is None:
            return "time not known for this provider"
        if not self.seconds_by_tier:
            return f"about {duration(self.seconds)} with {self.quota}"
        free, slower = self._tiers(self.seconds)
        if not slower:
            return f"about {duration(self.seconds)} in every tier"
        tiers = [f"{_numbers(tiers)}: {time}" for time, tiers in slower.items()]
        where = f" (as in {_numbers(free)})" if free else ""
        return f"about {duration(self.seconds)} if no quota binds{where}; {', '.join(tiers)}"

    def _tiers(self, unbound: float) -> tuple[list[int], dict[str, list[int]]]:
        """Return the tiers whose quota does not bind, and the others grouped by duration."""
        free: list[int] = []
        slower: dict[str, list[int]] = {}
        for tier, seconds in self.seconds_by_tier.items():
            if seconds <= unbound * (1 + NOISE):
                free.append(tier)
            else:
                slower.setdefault(duration(seconds), []).append(tier)
        return free, slower


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

    pacers = pipeline.dispatcher.sender.pacers
    quota = merged(given, TIERS.get(tier or 0, AccountQuota()), known_quota(pacers))
    run = partial(
        rehearse_quota,
        work,
        user_quota=set_by_user(pacers),
        max_workers=pipeline.dispatcher.max_workers,
        first_requests=pipeline.limits.first_requests * len(pacers),
    )
    requests, seconds = run(quota=quota)
    by_tier = {}
    if provider == OPENAI.provider and quota == AccountQuota():
        by_tier = {number: run(quota=tiers_quota)[1] for number, tiers_quota in TIERS.items()}

    model = pipeline.provider.model
    tokens = int(inputs.tokens[rows].sum())
    full = dollars(model, tokens, price=price)
    # Azure's Batch API takes no embeddings, and no other provider's batch prices are known.
    is_halved = provider == OPENAI.provider and price is None and full is not None
    return Plan(
        texts=len(listed),
        unique=inputs.unique,
        from_journal=recalled,
        requests=requests,
        tokens=tokens,
        is_exact=provider in OPENAIS_MODELS
        and not isinstance(pipeline.fetcher.counter, ByteCounter),
        dollars=full,
        price=DOLLARS_PER_MILLION_TOKENS.get(model or "") if price is None else price,
        price_from=PRICES_FROM if price is None else "as given",
        seconds=seconds if provider in OPENAIS_MODELS else None,
        quota=quota,
        seconds_by_tier=by_tier,
        batch_dollars=BATCH_API_SHARE * (full or 0.0) if is_halved else None,
        batch_rounds=None if tier is None else max(1, -(-tokens // BATCH_QUEUES[tier])),
    )


def ordinary_seconds(pipeline: Pipeline, inputs: Inputs, rows: Rows) -> float:
    """Return how many seconds ordinary requests would take for some rows of inputs.

    If the account's quota is unknown, assume the quota of OpenAI's lowest paid tier.
    """
    results = Results(inputs, lists=False)
    results.done[:] = True
    results.done[rows] = False
    pacers = pipeline.dispatcher.sender.pacers
    _, seconds = rehearse_quota(
        pipeline.fetcher.work(inputs, results, keep=keep_nothing),
        quota=merged(known_quota(pacers), TIERS[1]),
        user_quota=set_by_user(pacers),
        max_workers=pipeline.dispatcher.max_workers,
        first_requests=pipeline.limits.first_requests * len(pacers),
    )
    return seconds


def _numbers(tiers: Sequence[int]) -> str:
    """Return the tiers in words, such as `tier 1`, `tier 1 and 2` or `tier 3 to 5`."""
    if len(tiers) > 2 and tiers[-1] - tiers[0] == len(tiers) - 1:  # noqa: PLR2004
        return f"tier {tiers[0]} to {tiers[-1]}"
    return f"tier {' and '.join(map(str, tiers))}"


def keep_nothing(rows: Rows, answer: Answer) -> None:
    """Do nothing: a rehearsal has no vectors to keep."""


def check_plan(provider: str, tier: int | None, given: AccountQuota, price: float | None) -> None:
    """Raise `OptionError` if a plan cannot use the arguments.

    Args:
        provider: the provider's name.
        tier: one of OpenAI's tiers, if given.
        given: the quota that the arguments give.
        price: dollars for a million tokens, if given.
    """
    if tier is not None and provider != OPENAI.provider:
        raise OptionError(
            f"tier= applies only to OpenAI, and this is {provider}; pass requests_per_minute= "
            "and tokens_per_minute= instead"
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
    """Return a quota that takes each limit from the first of the quotas that has it."""

    def first(numbers: Iterable[float | None]) -> float | None:
        return next((number for number in numbers if number is not None), None)

    return AccountQuota(
        requests_per_minute=first(quota.requests_per_minute for quota in quotas),
        tokens_per_minute=first(quota.tokens_per_minute for quota in quotas),
    )
