"""Plans embedding with one machine or many, by arithmetic on the limits that bound the rate."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from langchain_batch_embed.calls.estimate import (
    NETWORK_SECONDS,
    OPENAIS_MODELS,
    REQUEST_SECONDS,
    SPREAD,
    TOKEN_SECONDS,
    AccountQuota,
    known_quota,
)
from langchain_batch_embed.calls.pipeline import Pipeline
from langchain_batch_embed.calls.plan import TIERS, check_plan, keep_nothing, merged
from langchain_batch_embed.calls.results import Results
from langchain_batch_embed.errors import OptionError
from langchain_batch_embed.limits import Limits
from langchain_batch_embed.report import dollars, duration, html_table, money, plural
from langchain_batch_embed.texts.inputs import check_texts

__all__ = ["Corpus", "FleetPlan", "make_fleet_plan", "plan_fleet"]

_MEAN = math.exp(SPREAD**2 / 2)  # of the lognormal factor of `plan`'s rehearsals

SECONDS_A_REQUEST = sum(NETWORK_SECONDS) / 2 + REQUEST_SECONDS * _MEAN
"""Seconds of network and server time for an empty request, the mean of `plan`'s rehearsals."""

SECONDS_A_TOKEN = TOKEN_SECONDS * _MEAN
"""Server seconds for each token, also the mean of `plan`'s rehearsals."""

WORK_A_TEXT, WORK_A_TOKEN = 10e-6, 0.32e-6
"""Processor seconds of a worker for each text and for each token. According to
tests/benchmarks/README.md, a text of ten tokens takes 10 microseconds, and a text of 125 tokens
with a vector of 1,536 numbers takes 50."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """The size of what is to be embedded.

    Attributes:
        texts: number of texts.
        tokens: tokens that will be billed.
        charge: tokens as the provider's limiter charges them.
        requests: requests needed.
    """

    texts: int
    tokens: int
    charge: float
    requests: int

    @classmethod
    def of(cls, count: int, tokens_each: float, limits: Limits, *, capacity: float) -> "Corpus":
        """Return the corpus for a number of texts of the same size.

        Args:
            count: number of texts.
            tokens_each: tokens in each text, on average.
            limits: the provider's limits.
            capacity: maximum number of tokens that the quota allows in one request.
        """
        tokens = min(limits.max_tokens_per_request or math.inf, capacity)
        each = max(1, math.floor(min(limits.max_batch_size, tokens / tokens_each)))
        total = round(count * tokens_each)
        return cls(texts=count, tokens=total, charge=total, requests=math.ceil(count / each))


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """What a corpus will cost, how long it takes, and which limit binds.

    Attributes:
        texts: texts to embed.
        tokens: tokens that will be billed.
        requests: requests that will be sent, if none fails.
        workers: number of processes, each with a processor core.
        quota: the account's quota.
        seconds: duration, the largest of `seconds_by_limit`; `None` if it is not known.
        seconds_by_limit: the duration under each limit alone: `"tokens a minute"`,
            `"requests a minute"`, `"connections"`, `"processors"`; unknown limits are left out.
        binds: the name of the limit with the longest duration; `None` if `seconds` is not known.
        dollars: price of the tokens; `None` if it is not known.
    """

    texts: int
    tokens: int
    requests: int
    workers: int
    quota: AccountQuota
    seconds: float | None
    seconds_by_limit: Mapping[str, float]
    binds: str | None
    dollars: float | None

    @property
    def useful_workers(self) -> int | None:
        """The number of processes that use the whole quota, so that more of them change nothing.

        `None` if no quota is known or there is nothing to embed.
        """
        own = max((self.seconds_by_limit.get(name, 0.0) for name in _OF_WORKERS), default=0.0)
        quota = max((self.seconds_by_limit.get(name, 0.0) for name in _OF_QUOTA), default=0.0)
        if not quota or not own:
            return None
        return max(1, math.ceil(own * self.workers / quota))

    def __str__(self) -> str:
        """Return three lines: the work and its cost, the duration, and what would shorten it."""
        return f"{self._what()}\n{self._time()}\n{self._change()}".strip()

    def _repr_html_(self) -> str:
        """Return a small table, for notebooks."""
        rows = {
            "texts": f"{self.texts:,}",
            "requests": f"{self.requests:,}",
            "tokens": f"{self.tokens:,}",
            "cost": self._cost(),
            "time": self._time(),
            "more": self._change(),
        }
        return html_table("Plan", rows)

    def _what(self) -> str:
        return (
            f"{self.texts:,} texts: {plural(self.requests, 'request')}, {self.tokens:,} tokens, "
            f"{self._cost()}"
        )

    def _cost(self) -> str:
        return "price not known (set price)" if self.dollars is None else money(self.dollars)

    def _time(self) -> str:
        if self.seconds is None:
            return "time not known (set the account's quota)"
        workers = "1 worker" if self.workers == 1 else f"{self.workers:,} workers"
        return (
            f"about {duration(self.seconds)} with {workers} and {self.quota}; limited by "
            f"{self.binds}"
        )

    def _change(self) -> str:
        useful = self.useful_workers
        if self.seconds is None or self.binds is None:
            return ""
        if self.binds in _OF_QUOTA:
            rest = [s for name, s in self.seconds_by_limit.items() if name != self.binds]
            twice = max(self.seconds / 2, *rest) if rest else self.seconds / 2
            more = f"with twice the {self.binds} it would take {duration(twice)}"
            if useful is not None:
                enough = "1 worker uses" if useful == 1 else f"{useful:,} workers use"
                return f"{enough} the whole quota, so more workers would not help; {more}"
            return more
        rest = [s for name, s in self.seconds_by_limit.items() if name in _OF_QUOTA]
        own = max(s for name, s in self.seconds_by_limit.items() if name in _OF_WORKERS)
        twice = max([own / 2, *rest])
        until = "" if useful is None else f" (up to {useful:,} workers help)"
        return (
            f"with twice the workers it would take {duration(twice)}{until}; more quota would "
            "not help"
        )


_OF_QUOTA = ("tokens a minute", "requests a minute")
_OF_WORKERS = ("connections", "processors")


def plan_fleet(
    corpus: Corpus,
    *,
    workers: int,
    quota: AccountQuota,
    limits: Limits,
    model: str | None,
    price: float | None = None,
) -> FleetPlan:
    """Plan embedding a corpus with workers that share one quota.

    Args:
        corpus: what is to be embedded.
        workers: number of processes, each with `limits.max_workers` connections and one processor
            core.
        quota: the account's quota.
        limits: the provider's limits.
        model: the model's name, for the price.
        price: dollars for a million tokens; if `None`, OpenAI's list price, for its models.
    """
    seconds: dict[str, float] = {}
    if quota.tokens_per_minute is not None:
        seconds["tokens a minute"] = 60 * corpus.charge / quota.tokens_per_minute
    if quota.requests_per_minute is not None:
        seconds["requests a minute"] = 60 * corpus.requests / quota.requests_per_minute
    seconds["processors"] = (WORK_A_TEXT * corpus.texts + WORK_A_TOKEN * corpus.tokens) / workers
    if limits.provider in OPENAIS_MODELS:
        busy = SECONDS_A_REQUEST * corpus.requests + SECONDS_A_TOKEN * corpus.charge
        seconds["connections"] = busy / (workers * limits.max_workers)
    is_known = limits.provider in OPENAIS_MODELS or quota != AccountQuota()
    binds = max(seconds, key=lambda name: seconds[name]) if is_known else None
    return FleetPlan(
        texts=corpus.texts,
        tokens=corpus.tokens,
        requests=corpus.requests,
        workers=workers,
        quota=quota,
        seconds=None if binds is None else seconds[binds],
        seconds_by_limit=seconds,
        binds=binds,
        dollars=dollars(model, corpus.tokens, price=price),
    )


def make_fleet_plan(
    pipeline: Pipeline,
    texts: Iterable[str] | None,
    *,
    count: int | None,
    tokens_each: float | None,
    workers: int,
    quota: AccountQuota | None,
    tier: int | None,
    requests_per_minute: float | None,
    tokens_per_minute: float | None,
    price: float | None,
) -> FleetPlan:
    """Plan a corpus, given as texts or as a count, for a fleet; see `BatchEmbeddings.plan`.

    Raises:
        InputError: a text can never be embedded.
        OptionError: an option cannot work.
        JournalError: the journal cannot be read.
    """
    limits = pipeline.limits
    given = AccountQuota(
        requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute
    )
    check_plan(limits.provider, tier, given, price)
    _check_size(texts, count, tokens_each, workers)
    if not isinstance(quota, AccountQuota | None):
        raise OptionError(
            "quota must be an AccountQuota(requests_per_minute=..., tokens_per_minute=...), not "
            f"{type(quota).__name__}"
        )
    known = merged(
        given,
        quota or AccountQuota(),
        TIERS.get(tier or 0, AccountQuota()),
        known_quota(pipeline.dispatcher.sender.pacers),
    )
    capacity = known.tokens_per_minute or math.inf
    if texts is None:
        corpus = Corpus.of(count or 0, tokens_each or 1.0, limits, capacity=capacity)
    else:
        corpus = _counted(pipeline, texts, capacity=capacity)
    return plan_fleet(
        corpus,
        workers=workers,
        quota=known,
        limits=replace(limits, max_workers=pipeline.dispatcher.max_workers),
        model=pipeline.provider.model,
        price=price,
    )


def _counted(pipeline: Pipeline, texts: Iterable[str], *, capacity: float) -> Corpus:
    """Return the corpus of those texts that would be sent, without those kept from before."""
    inputs = pipeline.prepare(check_texts(texts))
    results = Results(inputs, lists=False)
    pipeline.recovery.for_call(inputs, results, query=False).recall()
    work = pipeline.fetcher.work(inputs, results, keep=keep_nothing)
    rows = work.rows
    tokens, charge = int(inputs.tokens[rows].sum()), float(work.sizes.charges[rows].sum())
    largest = min(work.max_tokens, capacity)
    requests = max(math.ceil(len(rows) / work.max_items), math.ceil(max(tokens, charge) / largest))
    return Corpus(texts=len(rows), tokens=tokens, charge=charge, requests=requests)


def _check_size(texts: object, count: int | None, tokens_each: float | None, workers: int) -> None:
    if (texts is None) == (count is None) or (count is None) != (tokens_each is None):
        raise OptionError(
            "plan needs either texts, or count= and tokens_each= for texts that are not loaded"
        )
    for name, value in (("count", count), ("workers", workers)):
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or value < (name == "workers")
        ):
            least = int(name == "workers")
            raise OptionError(f"{name} must be a whole number of at least {least}, not {value!r}")
    if tokens_each is not None and (
        isinstance(tokens_each, bool)
        or not isinstance(tokens_each, int | float)
        or not 0 < tokens_each < math.inf
    ):
        raise OptionError(f"tokens_each must be a number above 0, not {tokens_each!r}")
