"""What an open prefetch has sent so far, all of its runs together."""

from collections import Counter
from dataclasses import dataclass, field

from langchain_batch_embed.report.call import Report
from langchain_batch_embed.report.counts import Tally

__all__ = ["Account"]


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
