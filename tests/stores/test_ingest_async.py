"""`aingest` awaits the store's own methods in the loop and reads asynchronous iterables."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_batch_embed import IngestError, IngestReport, InputTypeError, OptionError
from tests.stores.fakes import TableStore, batching, documents
from tests.support import FakeClock, wait_until


async def stream(given: list[Document]) -> AsyncIterator[Document]:
    """Yield documents asynchronously, as a crawler does."""
    for document in given:
        await asyncio.sleep(0)
        yield document


class AsyncStore(TableStore):
    """A store that has only asynchronous methods."""

    async_mode = True

    def add_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        """Raise an error, as PGVector does."""
        del documents, kwargs
        raise AssertionError("This method must be called without async_mode")

    async def aadd_documents(
        self, documents: list[Document], *, ids: list[str] | None = None, **kwargs: Any
    ) -> list[str]:
        """Add rows inside the event loop."""
        threads.add(threading.get_ident())
        texts = [document.page_content for document in documents]
        await self._embedding.aembed_documents(texts)
        await asyncio.sleep(0)
        return super().add_texts(texts, ids=ids, **kwargs)


threads: set[int] = set()


def run(store: Any, given: Any, **options: Any) -> IngestReport:
    """Run `aingest` in an event loop of its own."""
    report: IngestReport = asyncio.run(store.embeddings.aingest(store, given, **options))
    return report


class TestStores:
    """`aingest` works with asynchronous and with ordinary stores."""

    def test_a_store_that_is_asynchronous_only(self) -> None:
        """The coroutine of an asynchronous store runs in the caller's loop."""
        threads.clear()
        store = AsyncStore(batching())
        report = run(store, documents(2500))
        assert report.stored == len(store.rows) == 2500
        assert threads == {threading.get_ident()}

    def test_it_says_so_where_it_is_called_otherwise(self) -> None:
        """`ingest` refuses an asynchronous store and recommends `aingest`."""
        embeddings = batching()
        with pytest.raises(OptionError, match="await aingest"):
            embeddings.ingest(AsyncStore(embeddings), documents(3))

    @pytest.mark.parametrize("kind", [TableStore, InMemoryVectorStore])
    def test_other_stores(self, kind: Any) -> None:
        """A store whose `aadd_documents` runs the ordinary method in a thread works too."""
        store = kind(batching())
        report = run(store, documents(500), batch_size=100)
        assert report.stored == 500

    def test_what_passes_is_waited_for_and_what_is_bad_fails_alone(self) -> None:
        """As in `ingest`, a lost connection is waited for and a bad document fails alone."""

        def look(texts: list[str]) -> None:
            calls.append(len(texts))
            if len(calls) == 3:
                raise ConnectionError("reset")
            if "section 77" in texts:
                raise ValueError("NUL")

        calls: list[int] = []
        store = AsyncStore(batching(), look)
        report = run(store, documents(500), batch_size=100)
        assert [failure.index for failure in report.failures] == [77]
        assert report.stored == len(store.rows) == 499

    def test_errors_get_out(self) -> None:
        """A store that refuses everything raises an `IngestError`."""

        def look(texts: list[str]) -> None:
            raise PermissionError(f"{len(texts)} times no")

        with pytest.raises(IngestError, match="none is stored"):
            run(AsyncStore(batching(), look), documents(10))


class TestDocuments:
    """`aingest` takes documents from any iterable."""

    def test_an_asynchronous_generator(self) -> None:
        """An asynchronous generator is read in the loop, at most `max_buffered` documents ahead."""
        read: list[int] = []
        ahead: list[int] = []

        async def generate() -> AsyncIterator[Document]:
            async for document in stream(documents(1000)):
                read.append(threading.get_ident())
                ahead.append(len(read) - len(store.rows))
                yield document

        store = AsyncStore(batching())
        report = run(store, generate(), batch_size=30, max_buffered=100)
        assert report.stored == len(store.rows) == 1000
        assert set(read) == {threading.get_ident()}
        assert max(ahead) <= 100

    def test_what_came_before_its_error_is_stored(self) -> None:
        """The documents before a generator's error are stored, and then the error is raised."""

        async def generate() -> AsyncIterator[Document]:
            async for document in stream(documents(250)):
                yield document
            raise OSError("cannot read")

        store = AsyncStore(batching())
        with pytest.raises(OSError, match="cannot read"):
            run(store, generate())
        assert len(store.rows) == 250

    def test_it_is_for_aingest_only(self) -> None:
        """`ingest` refuses an asynchronous iterable and recommends `aingest`."""
        embeddings = batching()
        with pytest.raises(InputTypeError, match="await aingest"):
            embeddings.ingest(TableStore(embeddings), stream([]))  # type: ignore[arg-type]


class TestCancelling:
    """Cancelling the task ends an ingest, whatever it is waiting for."""

    def test_a_pause_ends_at_once(self) -> None:
        """Cancelling ends a pause for an unavailable store at once, not after ten minutes."""

        def look(texts: list[str]) -> None:
            del texts
            away.set()
            raise ConnectionError("gone")

        class Endless(FakeClock):
            def wait(self, condition: threading.Condition, timeout: float) -> None:
                condition.wait(min(timeout, 5))

        away = threading.Event()
        store = AsyncStore(batching(clock=Endless()), look)

        async def cancel() -> None:
            task = asyncio.create_task(store.embeddings.aingest(store, documents(10)))  # type: ignore[attr-defined]
            while not away.is_set():
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(cancel())
        wait_until(lambda: not [t for t in threading.enumerate() if "async" in t.name])

    def test_the_end_of_the_loop_ends_it(self) -> None:
        """A store that never answers holds up no thread after the task is cancelled."""
        writing = threading.Event()

        class Hanging(AsyncStore):
            async def aadd_documents(self, *args: Any, **kwargs: Any) -> list[str]:
                del args, kwargs
                writing.set()
                await asyncio.Event().wait()
                return []

        store = Hanging(batching())

        async def cancel() -> None:
            task = asyncio.create_task(store.embeddings.aingest(store, documents(10)))  # type: ignore[attr-defined]
            while not writing.is_set():
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(cancel())
        wait_until(lambda: not [t for t in threading.enumerate() if "async" in t.name])
