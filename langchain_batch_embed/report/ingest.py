"""The report of an ingest."""

from dataclasses import dataclass, field
from typing import Literal

from langchain_batch_embed.report.wording import duration, html_table, plural

__all__ = ["IngestFailure", "IngestReport"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestFailure:
    """A document that is not in the store.

    Attributes:
        index: position of the document among those passed in.
        id: id of the document, if it has one.
        stage: the stage that failed, `"embedding"` or `"writing"`.
        error: the cause, without its traceback.
    """

    index: int
    id: str | None
    stage: Literal["embedding", "writing"]
    error: BaseException

    def __repr__(self) -> str:
        """Return everything, but only the class of the error, whose message may quote the text."""
        return (
            f"{type(self).__name__}(index={self.index}, id={self.id!r}, stage={self.stage!r}, "
            f"error={type(self.error).__name__})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport:
    """What `ingest` did.

    Attributes:
        documents: number of documents read.
        tried: number of documents, counted from the first, that the ingest has dealt with. The
            report accounts for each of them as stored, replaced, failed or unknown. `tried` equals
            `documents` unless an `IngestError` ended the ingest.
        stored: number of documents in the store now, according to the store.
        replaced: number of documents that a later document with the same id has replaced.
        failures: documents that could not be stored, in order.
        unknown: positions of documents that may or may not be in the store, because a call with
            them failed or returned too few ids and the store does not report what it holds. In the
            second case `stored` counts the returned ids all the same.
        ids: the ids that the store returned, in the order of the documents stored.
        keeps_ids: whether the store keeps the ids that it is given, so that another ingest of the
            same documents replaces rows. Otherwise another ingest adds them again.
        retries: calls to the store that were repeated, whole or in parts.
        seconds: duration of the ingest.
        waited: seconds that the store waited for vectors. Nearly 0 if writing is the bottleneck,
            and most of `seconds` if embedding is.
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
        """Return how many documents are not in the store and why, without quoting their texts."""
        kinds = sorted({f"{f.stage}: {type(f.error).__name__}" for f in self.failures})
        count = len(self.failures)
        documents = plural(self.documents, "document")
        verb = "is" if count == 1 else "are"
        said = f"{count:,} of {documents} {verb} not in the store ({', '.join(kinds)})"
        unsure = f"{len(self.unknown):,} may be in the store or not (report.unknown)"
        return " and ".join([said] * bool(count) + [unsure] * bool(self.unknown))

    def __str__(self) -> str:
        """Return one line for a log or for print."""
        lost = f", {len(self.failures):,} failed" if self.failures else ""
        unsure = f", {len(self.unknown):,} unknown" if self.unknown else ""
        replaced = f", {self.replaced:,} replaced by a later one" if self.replaced else ""
        again = f", {plural(self.retries, 'retry', 'retries')}" if self.retries else ""
        adds = (
            "" if self.keeps_ids else "; the store keeps no ids, so another ingest adds rows again"
        )
        return (
            f"{plural(self.documents, 'document')} "
            f"({self.stored:,} stored{replaced}{lost}{unsure}) in "
            f"{self.seconds:.2f} s, {self.waited:.2f} s of them waiting for vectors{again}{adds}"
        )

    def _repr_html_(self) -> str:
        """Return a small HTML table, for notebooks."""
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
