"""What the user sees of an ingest: documents in the store, and what the embedding waits for."""

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_batch_embed.calls.pipeline import Pipeline
from langchain_batch_embed.calls.prefetch import Prefetch
from langchain_batch_embed.calls.progress import Progress, View
from langchain_batch_embed.report import dollars, plural

__all__ = ["IngestProgress", "watched"]


class IngestProgress:
    """The bar and the log's lines of one ingest.

    Args:
        pipeline: embeds.
        prefetch: of the ingest.
        total: documents in all; `None`: not known.
        shown: draw a bar.
    """

    def __init__(
        self, pipeline: Pipeline, prefetch: Prefetch, *, total: int | None, shown: bool
    ) -> None:
        self._pipeline = pipeline
        self._prefetch = prefetch
        self._total = total
        self._done = 0
        self._charged = pipeline.dispatcher.status(0).charged  # by earlier calls
        self.progress = Progress(
            self._view,
            now=pipeline.dispatcher.clock.now,
            total=total,
            unit="document",
            shown=shown,
            logged=True,
        )

    def update(self, documents: int) -> None:
        """Note that this many more documents are stored or have failed."""
        self._done += documents
        self.progress.update()

    def _view(self) -> View:
        account = self._prefetch.account
        tally = account.total()
        left = self._charge_left(account.texts - account.missing.total())
        return View(
            done=self._done,
            tally=tally,
            dollars=dollars(self._pipeline.provider.model, tally.tokens),
            left=left,
            unwritten=None if self._total is None else self._total - self._done,
            status=self._pipeline.dispatcher.status(left or 0),
        )

    def _charge_left(self, embedded: int) -> float | None:
        """Return the tokens of what is not embedded, if it is as long as what is."""
        if self._total is None or not embedded:
            return None
        charged = self._pipeline.dispatcher.status(0).charged - self._charged
        return max(0, self._total - embedded) * charged / embedded


@contextmanager
def watched(
    pipeline: Pipeline, prefetch: Prefetch, *, total: int | None, shown: bool
) -> Iterator[IngestProgress]:
    """Show an ingest while it runs."""
    what = "documents" if total is None else plural(total, "document")
    pipeline.logbook.announced(f"Embedding and storing {what}")
    ingest = IngestProgress(pipeline, prefetch, total=total, shown=shown)
    with ingest.progress:
        yield ingest
