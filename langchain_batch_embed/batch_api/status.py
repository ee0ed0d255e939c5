"""The progress of a job, and its report."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from langchain_batch_embed.errors import Failure
from langchain_batch_embed.report import duration, html_table, money, plural

__all__ = ["JobReport", "JobStatus"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """The progress of a job, in texts; an over-long text counts as its windows.

    Attributes:
        texts: texts that the job has to embed, without those that were already in the journal.
        waiting: texts without a batch, because the queue is full or no batch was requested yet.
        running: texts in a batch.
        answered: running texts that the server reports as answered.
        finished: texts whose vectors are in the journal.
        failed: texts that were refused, or that the server could not embed; see the report.
        cancelled: texts that were in a batch, or waited for one, when the job was cancelled.
        has_ended: whether nothing is left to do.
    """

    texts: int
    waiting: int = 0
    running: int = 0
    answered: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    has_ended: bool = False

    def __str__(self) -> str:
        """Return one line with the counts that are not 0."""
        counts = {
            "waiting": self.waiting,
            "running": self.running,
            "finished": self.finished,
            "failed": self.failed,
            "cancelled": self.cancelled,
        }
        shown = [f"{count:,} {name}" for name, count in counts.items() if count]
        return f"{plural(self.texts, 'text')}: {', '.join(shown) or 'nothing to do'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReport:
    """What a job has done and cost so far.

    Attributes:
        texts: how many texts the caller gave.
        unique: how many of them are different.
        from_journal: unique texts whose vectors were already in the journal and cost nothing.
        batches: batches created.
        requests: ordinary requests, sent for late texts.
        half_price_tokens: tokens billed through the Batch API.
        full_price_tokens: tokens billed for ordinary requests.
        half_price_dollars: the cost of the half-price tokens; `None` if the price is not known.
        full_price_dollars: the cost of the full-price tokens; `None` if the price is not known.
        overtaken: texts sent by ordinary requests before their batch was known to have ended.
            OpenAI may bill some of them in the batch too.
        seconds: seconds from `submit` to the end, or until now.
        cancelled: texts that have no vector because the job was cancelled.
        failures: texts without a vector, cancelled ones included, by their index in the caller's
            list.
    """

    texts: int
    unique: int
    from_journal: int
    batches: int
    requests: int
    half_price_tokens: int
    full_price_tokens: int
    half_price_dollars: float | None
    full_price_dollars: float | None
    overtaken: int
    seconds: float
    cancelled: int = 0
    failures: tuple[Failure, ...] = field(default=(), repr=False)

    @property
    def dollars(self) -> float | None:
        """Dollars for all tokens; `None` if the price is not known."""
        if self.half_price_dollars is None or self.full_price_dollars is None:
            return None
        return self.half_price_dollars + self.full_price_dollars

    def __str__(self) -> str:
        """Return one line for a log or a print."""
        kept = f", {self.from_journal:,} kept from before" if self.from_journal else ""
        failed = len(self.failures) - self.cancelled
        lost = f", {failed:,} failed" if failed else ""
        lost += f", {self.cancelled:,} cancelled" if self.cancelled else ""
        texts = f"{plural(self.texts, 'text')} ({self.unique:,} unique{kept}{lost})"
        return (
            f"{texts} in {duration(self.seconds)}: {' and '.join(self._sent()) or 'nothing sent'}"
        )

    def _sent(self) -> Iterator[str]:
        if self.batches:
            tokens = plural(self.half_price_tokens, "token")
            price = _price(self.half_price_dollars)
            yield f"{plural(self.batches, 'batch', 'batches')} with {tokens} at half price{price}"
        if self.requests:
            tokens = plural(self.full_price_tokens, "token")
            price = _price(self.full_price_dollars)
            yield f"{plural(self.requests, 'request')} with {tokens} at full price{price}"

    def _repr_html_(self) -> str:
        """Return a small table, for notebooks."""
        rows: Mapping[str, str] = {
            "texts": f"{self.texts:,}",
            "unique": f"{self.unique:,}",
            "kept from before": f"{self.from_journal:,}",
            "batches": f"{self.batches:,}",
            "at half price": f"{self.half_price_tokens:,} tokens{_price(self.half_price_dollars)}",
            "requests": f"{self.requests:,}",
            "at full price": f"{self.full_price_tokens:,} tokens{_price(self.full_price_dollars)}",
            "overtaken": f"{self.overtaken:,}",
            "time": duration(self.seconds),
            "cancelled texts": f"{self.cancelled:,}",
            "failed texts": f"{len(self.failures) - self.cancelled:,}",
        }
        return html_table("Job", rows)


def _price(dollars: float | None) -> str:
    return "" if dollars is None else f" ({money(dollars)})"
