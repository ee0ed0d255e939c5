"""The progress that a user sees while texts are embedded ahead and written to a store."""

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_batch_embed.calls.pipeline import Pipeline
from langchain_batch_embed.calls.prefetch import Prefetch
from langchain_batch_embed.calls.progress import Progress, View
from langchain_batch_embed.report import dollars, plural

__all__ = ["PrefetchProgress", "watched"]


class PrefetchProgress:
    """The progress bar and the log lines of one prefetch.

    Args:
        pipeline: embeds the texts.
        prefetch: holds the vectors that are not written yet.
        total: number of texts or documents; `None` if it is not known.
        unit: what is counted, `"text"` or `"document"`.
        shown: draw a bar.

    Attributes:
        progress: draws the bar and writes the log lines.
    """

    def __init__(
        self, pipeline: Pipeline, prefetch: Prefetch, *, total: int | None, unit: str, shown: bool
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
            unit=unit,
            shown=shown,
            logged=True,
        )

    def update(self, count: int) -> None:
        """Record that this many more texts or documents are written or have failed."""
        self._done += count
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
        """Estimate the tokens that are not embedded yet from the mean of those that are.

        Args:
            embedded: number of texts that are embedded.

        Returns:
            Tokens as the limiter charges them; `None` if there is nothing to estimate from.
        """
        if self._total is None or not embedded:
            return None
        charged = self._pipeline.dispatcher.status(0).charged - self._charged
        return max(0, self._total - embedded) * charged / embedded


@contextmanager
def watched(
    pipeline: Pipeline, prefetch: Prefetch, *, total: int | None, unit: str, shown: bool
) -> Iterator[PrefetchProgress]:
    """Show the progress of a prefetch while its vectors are written to a store.

    Args:
        pipeline: embeds the texts.
        prefetch: the prefetch to show.
        total: number of texts or documents; `None` if it is not known.
        unit: what is counted, `"text"` or `"document"`.
        shown: draw a bar.
    """
    what = f"{unit}s" if total is None else plural(total, unit)
    pipeline.logbook.announced(f"Embedding and storing {what}")
    watching = PrefetchProgress(pipeline, prefetch, total=total, unit=unit, shown=shown)
    with watching.progress:
        yield watching
