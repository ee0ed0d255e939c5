"""What a call, each of its deployments and each of its answers did and cost."""

from dataclasses import dataclass, replace

from langchain_batch_embed.report.counts import SHARED, Tally
from langchain_batch_embed.report.wording import duration, html_table, money, plural

__all__ = ["DeploymentReport", "Report", "Usage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentReport:
    """What one of several deployments did in one call.

    Attributes:
        server: address of the deployment.
        requests: requests sent to it, including probes.
        throttled: requests that it refused because of a rate limit (429).
        failed: requests that it refused or could not answer, including throttled ones.
        hedged: requests sent to it as a second copy of a late request, whichever deployment had
            the first copy.
        texts: texts for which it returned the vectors, including windows of over-long texts.
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
        """Return the sum of this report and another one of the same deployment."""
        return replace(
            self, **{name: getattr(self, name) + getattr(other, name) for name in SHARED}
        )

    def __str__(self) -> str:
        """Return one line for a log or for print."""
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
        texts: texts that the caller passed in.
        unique: distinct texts among them; identical texts are sent once.
        from_journal: unique texts whose vectors had been kept and cost nothing.
        from_memory: texts of `from_journal` that were in no journal, but left over from an earlier
            call that failed.
        requests: requests sent, including those that failed.
        retries: requests sent again after an error.
        throttled: requests refused because of a rate limit (429).
        splits: requests sent again in parts.
        hedged: late requests that were sent a second time.
        hedged_tokens: estimated tokens of the hedged requests, which may be billed twice.
        tokens: tokens billed by the server's count, or an estimate if the server gives none.
            Requests still in flight when the call ends, such as the slower copies of hedged
            requests, are not included.
        dollars: price of the tokens; `None` for a model whose price is not known.
        seconds: duration of the call.
        failures: texts without a vector.
        not_requested: announced texts of a prefetch that no call requested, and that were therefore
            not embedded.
        deployments: what each of several deployments did; empty if there is only one.
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
    not_requested: int = 0
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
        """Return the report of a call, made from its counts."""
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
                    server=share.server, **{name: getattr(share, name) for name in SHARED}
                )
                for share in tally.shares
            ),
        )

    def __str__(self) -> str:
        """Return one line for a log or for print."""
        cost = "" if self.dollars is None else f", {money(self.dollars)}"
        kept = "".join(
            f", {count} {where}" for where, count in self._kept().items() if count != "0"
        )
        twice = f", {self.hedged:,} sent twice" if self.hedged else ""
        lost = f", {self.failures:,} failed" if self.failures else ""
        lost += f", {self.not_requested:,} not requested" if self.not_requested else ""
        return (
            f"{plural(self.texts, 'text')} ({self.unique:,} unique{kept}{lost}) in "
            f"{self.seconds:.2f} s: {plural(self.requests, 'request')}, "
            f"{plural(self.retries, 'retry', 'retries')} ({self.throttled:,} throttled){twice}, "
            f"{plural(self.tokens, 'token')}{cost}{self._parts()}"
        )

    def _parts(self) -> str:
        """Return the part of the line that gives each deployment's share of the tokens."""
        tokens = max(1, sum(part.tokens for part in self.deployments))
        parts = [f"{part.tokens / tokens:.0%}" for part in self.deployments]
        return f", by {len(parts)} deployments ({', '.join(parts)})" if parts else ""

    def _kept(self) -> dict[str, str]:
        """Return how many texts had kept vectors, keyed by a phrase for where these were kept."""
        kept = {"from the journal": f"{self.from_journal - self.from_memory:,}"}
        if self.from_memory:
            kept["from an earlier call"] = f"{self.from_memory:,}"
        return kept

    def _repr_html_(self) -> str:
        """Return a small HTML table, for notebooks."""
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
                **({"not requested": f"{self.not_requested:,}"} if self.not_requested else {}),
                **{
                    f"deployment {number}": str(part)
                    for number, part in enumerate(self.deployments, 1)
                },
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one answer, or one line of a batch, cost.

    Attributes:
        model: the model that the answer names, or else the wrapped object's; `None` if neither is
            known.
        texts: texts in the request.
        tokens: tokens billed by the server's count, or an estimate if the answer gives none.
        dollars: price of the tokens, which is halved in a batch of `submit`; `None` for a model
            whose price is not known.
    """

    model: str | None
    texts: int
    tokens: int
    dollars: float | None
