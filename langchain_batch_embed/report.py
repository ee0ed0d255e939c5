"""What a call did, and what it cost."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from html import escape
from types import MappingProxyType
from typing import Literal

__all__ = [
    "BATCH_API_SHARE",
    "DOLLARS_PER_MILLION_TOKENS",
    "PRICES_FROM",
    "Account",
    "DeploymentReport",
    "IngestFailure",
    "IngestReport",
    "Report",
    "Tally",
    "Usage",
    "amount",
    "dollars",
    "duration",
    "html_table",
    "money",
    "plural",
]

DOLLARS_PER_MILLION_TOKENS: Mapping[str, float] = MappingProxyType(
    {
        "text-embedding-3-small": 0.02,
        "text-embedding-3-large": 0.13,
        "text-embedding-ada-002": 0.10,
    }
)
"""OpenAI's prices, from its pricing page as of `PRICES_FROM`."""

PRICES_FROM = "OpenAI's list price of November 2026"

BATCH_API_SHARE = 0.5
"""What OpenAI's Batch API costs of that; it answers within 24 hours. Same page."""

_LEAST_SHOWN = 0.0001  # dollars
_THOUSAND = 1000
_MINUTE = 60
_HOUR = 3600


@dataclass(slots=True, kw_only=True)
class Share:
    """The counts of one of several deployments; `DeploymentReport` explains them."""

    server: str
    requests: int = 0
    throttled: int = 0
    failed: int = 0
    hedged: int = 0
    texts: int = 0
    tokens: int = 0


@dataclass(slots=True)
class Tally:
    """The counts of a call under way; `Report` explains them."""

    requests: int = 0
    retries: int = 0
    throttled: int = 0
    splits: int = 0
    hedged: int = 0
    hedged_tokens: int = 0
    tokens: int = 0
    recalled: int = 0
    remembered: int = 0
    shares: list[Share] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Add the counts of another tally."""
        for count in fields(self):
            if count.name != "shares":
                setattr(self, count.name, getattr(self, count.name) + getattr(other, count.name))
        if other.shares:
            self.share_among([share.server for share in other.shares])
        for number, share in enumerate(other.shares):
            self.count(number, **{name: getattr(share, name) for name in _SHARED})

    def share_among(self, servers: Sequence[str]) -> None:
        """Count what each of these servers does, beside the sum."""
        if not self.shares:
            self.shares = [Share(server=server) for server in servers]

    def count(self, number: int, **counts: int) -> None:
        """Add to the counts of one of the servers, where there are several."""
        if self.shares:
            share = self.shares[number]
            for name, amount in counts.items():
                setattr(share, name, getattr(share, name) + amount)

    def answered(self, tokens: int | None, estimate: int, *, number: int = 0) -> None:
        """Count the tokens of an answer, or the estimate where the answer does not name them."""
        billed = estimate if tokens is None else tokens
        self.tokens += billed
        if self.shares:
            self.count(number, tokens=billed)


_SHARED = tuple(count.name for count in fields(Share) if count.name != "server")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentReport:
    """What one of several deployments did in one call.

    Attributes:
        server: its address.
        requests: requests sent to it, its probes among them.
        throttled: those that it refused because of a rate limit (429).
        failed: those that it refused or could not answer, throttled ones among them.
        hedged: those that were a second time for what was late elsewhere, or there.
        texts: texts whose vectors are its, windows of over-long ones among them.
        tokens: tokens billed by its count, or an estimate.
    """

    server: str
    requests: int
    throttled: int
    failed: int
    hedged: int
    texts: int
    tokens: int

    def plus(self, other: "DeploymentReport") -> "DeploymentReport":
        """Return what it did in two calls together."""
        return replace(
            self, **{name: getattr(self, name) + getattr(other, name) for name in _SHARED}
        )

    def __str__(self) -> str:
        """One line for a log or a print."""
        failed = f", {self.failed:,} failed ({self.throttled:,} throttled)" if self.failed else ""
        twice = f", {self.hedged:,} of them sent twice" if self.hedged else ""
        return (
            f"{self.server}: {plural(self.texts, 'text')} in "
            f"{plural(self.requests, 'request')}{twice}{failed}, {plural(self.tokens, 'token')}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one call did and cost.

    Attributes:
        texts: texts of the caller.
        unique: different texts among them; identical ones are sent once.
        from_journal: unique texts whose vectors were kept from before and cost nothing.
        from_memory: those of them that were in no journal, but left over by a call that failed.
        requests: requests sent, including those that failed.
        retries: requests sent again after an error.
        throttled: requests refused because of a rate limit (429).
        splits: requests that were sent again in parts.
        hedged: stragglers that were sent a second time.
        hedged_tokens: their tokens, which may be billed twice; an estimate.
        tokens: tokens billed by the server's count, or an estimate where it names none. Requests
            still in flight when the call ends, such as the slower copies of stragglers, are not in
            it.
        dollars: price of the tokens; `None` for a model whose price is not known.
        seconds: duration of the call.
        failures: texts without a vector.
        deployments: what each of several deployments did; empty with one alone.
    """

    texts: int
    unique: int
    from_journal: int
    requests: int
    retries: int
    throttled: int
    splits: int
    hedged: int
    hedged_tokens: int
    tokens: int
    dollars: float | None
    seconds: float
    failures: int
    from_memory: int = 0
    deployments: tuple[DeploymentReport, ...] = ()

    @classmethod
    def of(
        cls,
        tally: Tally,
        *,
        texts: int,
        unique: int,
        done: int,
        seconds: float,
        dollars: float | None,
    ) -> "Report":
        """Make the report of a call from its counts."""
        return cls(
            texts=texts,
            unique=unique,
            from_journal=tally.recalled,
            from_memory=tally.remembered,
            requests=tally.requests,
            retries=tally.retries,
            throttled=tally.throttled,
            splits=tally.splits,
            hedged=tally.hedged,
            hedged_tokens=tally.hedged_tokens,
            tokens=tally.tokens,
            dollars=dollars,
            seconds=seconds,
            failures=texts - done,
            deployments=tuple(
                DeploymentReport(
                    server=share.server, **{name: getattr(share, name) for name in _SHARED}
                )
                for share in tally.shares
            ),
        )

    def __str__(self) -> str:
        """One line for a log or a print."""
        cost = "" if self.dollars is None else f", {money(self.dollars)}"
        kept = "".join(
            f", {count} {where}" for where, count in self._kept().items() if count != "0"
        )
        twice = f", {self.hedged:,} sent twice" if self.hedged else ""
        lost = f", {self.failures:,} failed" if self.failures else ""
        return (
            f"{plural(self.texts, 'text')} ({self.unique:,} unique{kept}{lost}) in "
            f"{self.seconds:.2f} s: {plural(self.requests, 'request')}, "
            f"{plural(self.retries, 'retry', 'retries')} ({self.throttled:,} throttled){twice}, "
            f"{plural(self.tokens, 'token')}{cost}{self._parts()}"
        )

    def _parts(self) -> str:
        """Say how much each deployment did, in their order."""
        tokens = max(1, sum(part.tokens for part in self.deployments))
        parts = [f"{part.tokens / tokens:.0%}" for part in self.deployments]
        return f", by {len(parts)} deployments ({', '.join(parts)})" if parts else ""

    def _kept(self) -> dict[str, str]:
        """Say where vectors were kept that cost nothing."""
        kept = {"from the journal": f"{self.from_journal - self.from_memory:,}"}
        if self.from_memory:
            kept["from an earlier call"] = f"{self.from_memory:,}"
        return kept

    def _repr_html_(self) -> str:
        """Return a small table, for notebooks."""
        return html_table(
            "Report",
            {
                "texts": f"{self.texts:,}",
                "unique": f"{self.unique:,}",
                **self._kept(),
                "requests": f"{self.requests:,}",
                "retries": f"{self.retries:,} ({self.throttled:,} throttled)",
                "splits": f"{self.splits:,}",
                "sent twice": f"{self.hedged:,} ({self.hedged_tokens:,} tokens)",
                "tokens": f"{self.tokens:,}",
                "cost": "price not known" if self.dollars is None else money(self.dollars),
                "time": duration(self.seconds),
                "failed texts": f"{self.failures:,}",
                **{
                    f"deployment {number}": str(part)
                    for number, part in enumerate(self.deployments, 1)
                },
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one answer, or one line of a batch, has cost.

    Attributes:
        model: that the answer names, or else the wrapped object's; `None`: not known.
        texts: texts in the request.
        tokens: billed by the server's count, or an estimate where the answer names none.
        dollars: their price, half of it in a batch of `submit`; `None` for a model whose price is
            not known.
    """

    model: str | None
    texts: int
    tokens: int
    dollars: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestFailure:
    """A document that is not in the store.

    Attributes:
        index: its position among the documents that were given.
        id: its id, if it has one.
        stage: `"embedding"` or `"writing"`.
        error: why, without its traceback.
    """

    index: int
    id: str | None
    stage: Literal["embedding", "writing"]
    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport:
    """What `ingest` did.

    Attributes:
        documents: how many were read.
        tried: of how many of the first ones it is known what became of them, or that it is not
            known; all of them, unless an `IngestError` ended the ingest.
        stored: how many of them are in the store now, as far as the store tells.
        replaced: those whose place in the store a later document with the same id has taken.
        failures: those that could not be stored, in order.
        unknown: positions of those that are in the store or not: a call with them failed, or
            returned too few ids, and the store does not tell.
        ids: the ids that the store returned, in the order of the documents stored.
        keeps_ids: whether the store keeps the ids that it is given, so that another ingest of the
            same documents replaces rows. Otherwise it adds them again.
        retries: calls of the store that were made again, or in parts.
        seconds: duration of the ingest.
        waited: seconds that the store waited for vectors: nearly 0 where writing takes the time,
            and most of them where embedding does.
    """

    documents: int
    tried: int
    stored: int
    replaced: int = 0
    failures: tuple[IngestFailure, ...]
    unknown: tuple[int, ...] = ()
    ids: tuple[str, ...] = field(repr=False)  # long
    keeps_ids: bool = True
    retries: int = 0
    seconds: float
    waited: float

    def missing(self) -> str:
        """Say how many documents are not in the store, and why, without their texts."""
        kinds = sorted({f"{f.stage}: {type(f.error).__name__}" for f in self.failures})
        count = len(self.failures)
        is_not = "document is" if self.documents == 1 else "documents are"
        said = f"{count:,} of {self.documents:,} {is_not} not in the store ({', '.join(kinds)})"
        unsure = f"{len(self.unknown):,} may be in the store or not (report.unknown)"
        return " and ".join([said] * bool(count) + [unsure] * bool(self.unknown))

    def __str__(self) -> str:
        """One line for a log or a print."""
        lost = f", {len(self.failures):,} failed" if self.failures else ""
        unsure = f", {len(self.unknown):,} unknown" if self.unknown else ""
        replaced = f", {self.replaced:,} replaced by a later one" if self.replaced else ""
        again = f", {plural(self.retries, 'retry', 'retries')}" if self.retries else ""
        adds = (
            "" if self.keeps_ids else "; the store keeps no ids, so another ingest adds rows again"
        )
        return (
            f"{self.documents:,} documents ({self.stored:,} stored{replaced}{lost}{unsure}) in "
            f"{self.seconds:.2f} s, {self.waited:.2f} s of them waiting for vectors{again}{adds}"
        )

    def _repr_html_(self) -> str:
        """Return a small table, for notebooks."""
        return html_table(
            "IngestReport",
            {
                "documents": f"{self.documents:,}",
                "stored": f"{self.stored:,}",
                "replaced by a later one": f"{self.replaced:,}",
                "failed": f"{len(self.failures):,}",
                "unknown": f"{len(self.unknown):,}",
                "retries": f"{self.retries:,}",
                "another ingest": "replaces rows" if self.keeps_ids else "adds rows again",
                "time": duration(self.seconds),
                "waiting for vectors": duration(self.waited),
            },
        )


@dataclass(slots=True)
class Account:
    """The counts of an open prefetch.

    Attributes:
        started: when it was opened, in seconds.
        runs: what each of its runs has sent.
        calls: what other calls have sent since it was opened.
        texts: texts that were announced.
        unique: different ones among them.
        missing: texts without a vector, and how often each was announced since it last had one.
    """

    started: float
    runs: list[Tally] = field(default_factory=list)
    calls: Tally = field(default_factory=Tally)
    texts: int = 0
    unique: int = 0
    missing: Counter[str] = field(default_factory=Counter)

    def total(self) -> Tally:
        """Return the sum of everything that was sent."""
        total = Tally()
        for tally in (self.calls, *self.runs):
            total.add(tally)
        return total

    def report(self, *, now: float, dollars: float | None) -> Report:
        """Make the report of the prefetch."""
        return Report.of(
            self.total(),
            texts=self.texts,
            unique=self.unique,
            done=self.texts - self.missing.total(),
            seconds=now - self.started,
            dollars=dollars,
        )


def dollars(model: str | None, tokens: int, *, price: float | None = None) -> float | None:
    """Return the price of some tokens; `None` for a model whose price is not known.

    Args:
        model: the model's name.
        tokens: tokens billed.
        price: dollars for a million of them; `None`: OpenAI's, for its models.
    """
    if price is None:
        price = DOLLARS_PER_MILLION_TOKENS.get(model or "")
    return None if price is None else tokens * price / 1_000_000


def money(amount: float) -> str:
    """Write dollars: with cents where they matter, and with fractions of them below a dollar."""
    if 0 < amount < _LEAST_SHOWN:
        return f"<${_LEAST_SHOWN:.4f}"
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.4f}"


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """Write a number and what it counts: `1 text`, `2,000 texts`, `2 retries`."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def amount(number: float) -> str:
    """Write a large number in short: `512`, `12k`, `1.2M`."""
    if number < 10 * _THOUSAND:
        return f"{number:,.0f}"
    if round(number / _THOUSAND) < _THOUSAND:
        return f"{number / _THOUSAND:.0f}k"
    return f"{number / _THOUSAND / _THOUSAND:,.1f}M"


def duration(seconds: float) -> str:
    """Write a time in the unit that reads best: `0.4 s`, `84 s`, `12 min`, `3.5 h`."""
    if seconds < _MINUTE / 6:
        return f"{seconds:.1f} s"
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:,.1f} h"


def html_table(title: str, rows: Mapping[str, str]) -> str:
    """Return a table with one row a value, as a notebook shows it."""
    cells = "".join(
        f'<tr><th style="text-align: left">{escape(name)}</th>'
        f'<td style="text-align: left">{escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table><caption>{escape(title)}</caption>{cells}</table>"
