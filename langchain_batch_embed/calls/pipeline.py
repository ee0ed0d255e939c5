"""The pipeline from texts to vectors.

texts -> inputs (unique, counted, over-long ones cut) -> inputs without a kept vector
-> batches -> paced, concurrent requests -> checked vectors (-> journal)
-> the caller's order
"""

import contextlib
import logging
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from langchain_batch_embed.calls.explanation import explain, what_ended
from langchain_batch_embed.calls.fetcher import Fetch, Fetcher
from langchain_batch_embed.calls.logbook import Logbook
from langchain_batch_embed.calls.open_prefetches import OpenPrefetches
from langchain_batch_embed.calls.prefetch import Prefetch
from langchain_batch_embed.calls.progress import Progress, View
from langchain_batch_embed.calls.queries import QueryCache
from langchain_batch_embed.calls.results import Results
from langchain_batch_embed.errors import Failure, PartialEmbeddingsError, root_of
from langchain_batch_embed.limits import positive
from langchain_batch_embed.providers.decoding import to_lists
from langchain_batch_embed.report import Report, Tally, dollars, plural
from langchain_batch_embed.sending.work import Work
from langchain_batch_embed.texts.inputs import Inputs, check_query, check_texts

__all__ = ["Pipeline"]

SMALL_CALL = 16
"""Maximum number of texts of an asynchronous call that runs in the event loop itself."""

SMALL_CALL_CHARACTERS = 32_000
"""Maximum number of characters of such a call: counting the tokens of this many takes 2 ms."""


@dataclass(slots=True, kw_only=True)
class _Call:
    """One call in progress.

    Attributes:
        started: when the call began, in seconds of the clock.
        given: the caller's texts.
        fetch: fetches the vectors that the call needs.
        level: the level of the call's log lines.
        failures: texts without a vector, set at the end of the call.
        report: what the call did, set at its end.
    """

    started: float
    given: list[str]
    fetch: Fetch
    level: int
    failures: list[Failure] = field(default_factory=list)
    report: Report | None = None

    def end(self, failures: list[Failure]) -> None:
        """Record the failures, and keep the finished vectors if there are any failures."""
        if failures:
            self.fetch.recovery.failed()
            failures = self.fetch.results.failures()  # without late arrivals
        self.failures = failures


class Pipeline:
    """The path that all calls of one `BatchEmbeddings` take.

    Args:
        fetcher: fetches vectors from the journal or the server.
        deadline: seconds for one call; `None` for no deadline.
        show_progress: show a bar that counts texts.
        query_cache_size: how many queries' vectors to keep in memory.

    Attributes:
        prefetches: the open prefetches.
        logbook: writes the first and the last log line of each call.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        *,
        deadline: float | None,
        show_progress: bool,
        query_cache_size: int = 0,
    ) -> None:
        self.fetcher = fetcher
        self.dispatcher = fetcher.dispatcher
        self.limits = fetcher.limits
        self.provider = fetcher.provider
        self.recovery = fetcher.recovery
        self.prefetches = OpenPrefetches(fetcher)
        self._deadline = deadline
        self._show_progress = show_progress
        self._queries = QueryCache(query_cache_size)
        self.logbook = Logbook(
            self.limits,
            model=self.provider.model,
            sender=self.dispatcher.sender,
            max_workers=self.dispatcher.max_workers,
        )

    @property
    def last_report(self) -> Report | None:
        """The report of the last call or prefetch, even if it failed."""
        return self.fetcher.last_report

    def embed(
        self,
        texts: Iterable[str],
        *,
        lists: bool = True,
        query: bool = False,
        cancelled: threading.Event | None = None,
    ) -> Results:
        """Embed the texts of one call, with all the guarantees that `BatchEmbeddings` gives.

        Args:
            texts: the caller's texts.
            lists: the caller wants lists of floats, which are made while other answers are awaited.
            query: the text is a query, which is not kept and is sent as the provider sends queries.
            cancelled: set it and call `wake` to stop from another thread.

        Returns:
            The complete results.

        Raises:
            InputError: a text can never be embedded; nothing was sent.
            PartialEmbeddingsError: some texts failed; it holds the vectors of all others.
            JournalError: the journal cannot be read; nothing was sent.
            DimensionsError: vectors kept for the texts have other dimensions than earlier vectors.
            asyncio.CancelledError: the call was cancelled.
        """
        return self._run(texts, lists=lists, query=query, cancelled=cancelled).fetch.results

    def embed_for_report(self, texts: Iterable[str]) -> Report:
        """Embed texts into the journal; return the report of this call.

        Raises:
            Exception: as `embed` does.
        """
        report = self._run(texts, lists=False, query=False, cancelled=None).report
        assert report is not None  # noqa: S101  # the call has ended
        return report

    def _run(
        self,
        texts: Iterable[str],
        *,
        lists: bool,
        query: bool,
        cancelled: threading.Event | None,
    ) -> _Call:
        """Embed the texts of one call; return the finished call."""
        call = self._begin(texts, lists=lists, query=query)
        fetch = call.fetch
        with self._reported(call):
            if not query:
                end = math.inf if self._deadline is None else call.started + self._deadline
                self.prefetches.answer(fetch, call.given, end=end, cancelled=cancelled)
            with self._progress(call) as progress:
                failures = self.fetcher.run(
                    fetch,
                    deadline=self._deadline,
                    since=call.started,
                    cancelled=cancelled,
                    begun=lambda work: self._note_start(call, work),
                    progress=progress.update,
                )
            call.end(failures)
        self._check_finished(call)
        return call

    async def aembed(self, texts: Sequence[str], *, query: bool = False) -> Results:
        """Embed a small call as `embed` does, but in the event loop itself."""
        call = self._begin(texts, lists=True, query=query)
        with self._reported(call):
            failures = await self.fetcher.arun(
                call.fetch,
                deadline=self._deadline,
                since=call.started,
                begun=lambda work: self._note_start(call, work),
            )
            call.end(failures)
        self._check_finished(call)
        return call.fetch.results

    def lists(
        self, texts: Iterable[str], *, cancelled: threading.Event | None = None
    ) -> list[list[float]]:
        """Return the vectors as lists of floats, from a running ingest if it holds them all.

        Otherwise the texts are embedded; see `embed`.
        """
        given = check_texts(texts)
        held = self.prefetches.held(given)
        return self.embed(given, cancelled=cancelled).lists() if held is None else to_lists(held)

    def query(self, text: str, *, cancelled: threading.Event | None = None) -> list[float]:
        """Return the vector of one query; raise the provider's error if it failed."""
        if (kept := self._kept_query(text)) is not None:
            return kept
        try:
            vector = self.embed([text], query=True, cancelled=cancelled).lists()[0]
        except PartialEmbeddingsError as error:
            cause = error.failures[0].error
            if type(error) is not PartialEmbeddingsError:  # it is an instance of the cause's class
                raise
        else:
            self._queries.put(text, vector)
            return vector
        raise cause  # outside the `except`, so that `error` does not become its context

    async def aquery(self, text: str) -> list[float]:
        """Return the vector of one query as `query` does, but in the event loop itself."""
        if (kept := self._kept_query(text)) is not None:
            return kept
        try:
            vector = (await self.aembed([text], query=True)).lists()[0]
        except PartialEmbeddingsError as error:
            cause = error.failures[0].error
            if type(error) is not PartialEmbeddingsError:  # it is an instance of the cause's class
                raise
        else:
            self._queries.put(text, vector)
            return vector
        raise cause

    def is_small(self, texts: Sequence[str]) -> bool:
        """Return whether a call is small enough to run in an event loop without blocking it."""
        return (
            not self.prefetches.opened
            and not self.recovery.journal.persistent
            and len(texts) <= SMALL_CALL
            and sum(map(len, texts)) <= SMALL_CALL_CHARACTERS
        )

    def prefetch(self, texts: Iterable[str], *, max_buffered: int) -> Prefetch:
        """Embed texts in the background; see `BatchEmbeddings.prefetch`."""
        max_buffered = positive("max_buffered", max_buffered)
        announced = check_texts(texts)
        self.logbook.announced(f"Embedding {plural(len(announced), 'text')} in the background")
        prefetch = self.prefetches.open(max_buffered=max_buffered)
        prefetch.announce(announced)
        return prefetch

    def prepare(self, texts: Sequence[str]) -> Inputs:
        """Return the inputs to send for some texts; see `Fetcher.prepare`."""
        return self.prefetches.prepare(texts)

    def wake(self) -> None:
        """Make every waiting call check again what it waits for."""
        self.dispatcher.wake()
        self.prefetches.wake()

    def _kept_query(self, text: str) -> list[float] | None:
        """Return the cached vector of a query and report that it cost nothing, or return `None`."""
        check_query(text)
        kept = self._queries.get(text)
        if kept is not None:
            self.fetcher.last_report = Report.of(
                Tally(recalled=1),
                texts=1,
                unique=1,
                done=1,
                seconds=0.0,
                dollars=dollars(self.provider.model, 0),
            )
        return kept

    def _begin(self, texts: Iterable[str], *, lists: bool, query: bool) -> _Call:
        started = self.dispatcher.clock.now()
        given = check_texts(texts)
        inputs = self.prepare(given)
        dimensions = self.prefetches.dimensions()
        fetch = self.fetcher.begin(inputs, dimensions, lists=lists, query=query)
        if not query and (opened := self.prefetches.opened):
            fetch.budget = opened[-1].budget
        # Queries, and small calls answered from a prefetch, come by the thousand.
        is_one_of_many = query or bool(self.prefetches.opened)
        level = logging.DEBUG if is_one_of_many else logging.INFO
        return _Call(started=started, given=given, fetch=fetch, level=level)

    def _note_start(self, call: _Call, work: Work) -> None:
        tokens = call.fetch.inputs.tokens
        self.logbook.started(len(call.given), work, tokens=tokens, level=call.level)

    def _progress(self, call: _Call) -> Progress:
        is_shown = self._show_progress and not call.fetch.query
        return Progress(
            lambda: self._view(call),
            now=self.dispatcher.clock.now,
            total=len(call.given),
            unit="text",
            shown=is_shown and not self.prefetches.is_ingesting,
            logged=call.level >= logging.INFO,
        )

    def _view(self, call: _Call) -> View:
        """Return a call's state for the progress bar."""
        fetch, left = call.fetch, call.fetch.charge_left()
        return View(
            done=fetch.results.texts_done(),
            tally=fetch.tally,
            dollars=dollars(self.provider.model, fetch.tally.tokens),
            left=left,
            status=self.dispatcher.status(left),
        )

    @contextlib.contextmanager
    def _reported(self, call: _Call) -> Iterator[None]:
        """Make the call's report at its end, and keep the paid vectors if the call fails."""
        fetch = call.fetch
        try:
            yield
        except BaseException as error:
            fetch.recovery.failed()
            if isinstance(error, KeyboardInterrupt) and not fetch.query:
                error.add_note(self._kept_note(call))
            raise
        finally:
            self.fetcher.learn_dimensions(fetch.results.dimensions)
            self.prefetches.note_call(fetch, call.given)
            call.report = self.fetcher.last_report = Report.of(
                fetch.tally,
                texts=len(call.given),
                unique=fetch.inputs.unique,
                done=fetch.results.texts_done(),
                seconds=self.dispatcher.clock.now() - call.started,
                dollars=dollars(self.provider.model, fetch.tally.tokens),
            )
            self.logbook.ended(call.report, level=call.level)

    def _kept_note(self, call: _Call) -> str:
        """Return what an interrupted call has finished, and how to continue."""
        done = f"{call.fetch.results.texts_done():,} of {plural(len(call.given), 'text')}"
        if self.recovery.journal.persistent:
            return f"{done} have a vector in the journal; the same program continues from there"
        return f"{done} have a vector, which this object keeps: call it again to continue"

    def _check_finished(self, call: _Call) -> None:
        """Raise `PartialEmbeddingsError` if some texts of a call failed."""
        results = call.fetch.results
        if call.failures and call.report is not None:
            errors = [failure.error for failure in call.failures]
            all_failed = len(call.failures) == len(call.given)
            ended = what_ended(errors, all_failed=all_failed, texts=call.given)
            cause = ended or root_of(errors)
            raise PartialEmbeddingsError.because_of(
                ended,
                results.partial(),
                call.failures,
                call.report,
                self._explained(cause, call),
            ) from cause
        call.fetch.recovery.succeeded()

    def _explained(self, cause: BaseException, call: _Call) -> str:
        """Return what went wrong; if no deployment can be used any more, for each of them."""
        deployments = self.dispatcher.sender.deployments
        errors = [each.left_out or each.last_error for each in deployments]
        names = [each.class_name for each in self.fetcher.providers]
        method = "embed_query" if call.fetch.query else "embed_documents"
        where = partial(
            explain,
            model=self.provider.model,
            texts=call.given,
            method=f"{names[0] if len(set(names)) == 1 else 'the wrapped class'}.{method}",
        )
        if len(deployments) > 1 and cause in errors and None not in errors:
            now = self.dispatcher.clock.now()
            if not any(each.is_in_use(now) for each in deployments):
                return f"none of the {len(deployments)} deployments can be used: " + "; ".join(
                    where(error, address=each.server)
                    for each, error in zip(deployments, errors, strict=True)
                    if error is not None
                )
        has_answered = call.fetch.tally.tokens > 0  # what the journal had needed no key
        return where(cause, address=self.provider.address, has_answered=has_answered)
