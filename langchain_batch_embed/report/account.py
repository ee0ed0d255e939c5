"""The counts of an open prefetch, summed over all of its runs."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from langchain_batch_embed.report.call import Report
from langchain_batch_embed.report.counts import Tally

__all__ = ["Account"]


@dataclass(slots=True)
class Account:
    """The counts of an open prefetch.

    Attributes:
        started: when the prefetch was opened, in seconds of the clock.
        runs: one tally per run of the prefetch.
        calls: the sum of what other calls have sent since the prefetch was opened.
        texts: number of texts announced.
        unique: number of distinct texts among them.
        missing: texts without a vector, and how often each was announced since it last had one.
        tried: texts that a call requested, or that a run failed to embed. If they are still
            missing at the end, they have failed; nobody missed the others.
    """

    started: float
    runs: list[Tally] = field(default_factory=list)
    calls: Tally = field(default_factory=Tally)
    texts: int = 0
    unique: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    tried: set[str] = field(default_factory=set)

    def has_vector(self, text: str) -> None:
        """Record that a text has a vector."""
        self.missing.pop(text, None)
        self.tried.discard(text)

    def try_all(self, texts: Iterable[str]) -> None:
        """Record that texts were requested, or could not be embedded."""
        self.tried.update(text for text in texts if text in self.missing)

    def total(self) -> Tally:
        """Return the sum of the counts of all runs and calls."""
        total = Tally()
        for tally in (self.calls, *self.runs):
            total.add(tally)
        return total

    def report(self, *, now: float, dollars: float | None) -> Report:
        """Return the report of the prefetch."""
        failures = sum(self.missing[text] for text in self.tried)
        report = Report.of(
            self.total(),
            texts=self.texts,
            unique=self.unique,
            done=self.texts - failures,
            seconds=now - self.started,
            dollars=dollars,
        )
        return replace(report, not_requested=self.missing.total() - failures)
