"""The counts of an open prefetch, summed over all of its runs."""

from collections import Counter
from dataclasses import dataclass, field

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
    """

    started: float
    runs: list[Tally] = field(default_factory=list)
    calls: Tally = field(default_factory=Tally)
    texts: int = 0
    unique: int = 0
    missing: Counter[str] = field(default_factory=Counter)

    def total(self) -> Tally:
        """Return the sum of the counts of all runs and calls."""
        total = Tally()
        for tally in (self.calls, *self.runs):
            total.add(tally)
        return total

    def report(self, *, now: float, dollars: float | None) -> Report:
        """Return the report of the prefetch."""
        return Report.of(
            self.total(),
            texts=self.texts,
            unique=self.unique,
            done=self.texts - self.missing.total(),
            seconds=now - self.started,
            dollars=dollars,
        )
