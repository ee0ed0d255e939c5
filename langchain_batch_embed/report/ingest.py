"""What an ingest did."""

from dataclasses import dataclass, field
from typing import Literal

from langchain_batch_embed.report.wording import duration, html_table, plural

__all__ = ["IngestFailure", "IngestReport"]


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
