"""Whatever stops an ingest also stops its requests, and the error says what is stored."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_openai import OpenAIEmbeddings

from langchain_batch_embed import BatchEmbeddings, OptionError
from langchain_batch_embed.clock import SYSTEM_CLOCK
from tests.stores.fakes import ListStore, documents, rows_of, texts_of
from tests.support import LocalServer, assert_right, wait_until
from tests.survival.support import holding

Batch = Callable[..., BatchEmbeddings]

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


class TestInterrupts:
    """Whatever stops an ingest also stops its requests, and the error says what is stored."""

    def test_ctrl_c_leaves_a_note_and_no_half_batch(
        self, batch: Batch, sqlite: Callable[..., Any]
    ) -> None:
        """After a KeyboardInterrupt within a batch, a later commit does not store its rows."""
        embeddings = batch()
        store = sqlite(embeddings)
        add = store.add_documents

        def add_documents(given: list[Document]) -> None:
            if given[0].page_content == "section 200":
                store._connection.execute(
                    "INSERT INTO documents (text, metadata, text_embedding) "
                    "SELECT 'half a batch', metadata, text_embedding FROM documents LIMIT 1"
                )
                raise KeyboardInterrupt
            add(given)

        store.add_documents = add_documents
        with pytest.raises(KeyboardInterrupt) as caught:
            embeddings.ingest(store, documents(1000), batch_size=100)
        assert caught.value.__notes__ == [
            "ingest stopped here: of its first 200 documents 200 are stored; 800 more were read, "
            "and are not"
        ]
        assert embeddings._pipeline.prefetches.opened == ()
        add([Document("later", metadata={"number": 200})])
        assert rows_of(store) == [*((f"section {i}", i) for i in range(200)), ("later", 200)]

    @pytest.mark.parametrize(
        ("count", "wrong"),
        [
            (500, sqlite3.OperationalError("cannot read")),
            (7, ValueError("7")),
            (0, OSError("none")),
        ],
    )
    def test_an_error_of_the_generator_gets_out(
        self, batch: Batch, server: LocalServer, count: int, wrong: Exception
    ) -> None:
        """A generator's error is raised only after all documents before it are stored.

        Their vectors are on the way and paid for.
        """

        def generate() -> Iterator[Document]:
            yield from documents(count)
            raise wrong

        embeddings = batch()
        store = ListStore(embeddings)
        with pytest.raises(type(wrong), match=str(wrong)) as caught:
            embeddings.ingest(store, generate(), batch_size=50, max_buffered=200)
        assert store.texts == texts_of(documents(count))
        assert server.stats()["inputs_billed"] == count
        assert caught.value.__notes__ == [
            f"ingest stopped here: of its first {count} documents {count} are stored; 0 more were "
            "read, and are not"
        ]

    def test_the_bar_counts_documents(
        self, batch: Batch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """One bar counts the documents of the ingest, and the store's calls show none."""
        for own, asked in ((True, None), (False, True)):
            embeddings = batch(show_progress=own)
            store = ListStore(embeddings)
            embeddings.ingest(store, documents(90), batch_size=20, show_progress=asked)
            shown = capsys.readouterr().err
            assert "90/90" in shown
            assert "90/90 documents [" in shown
            assert "texts" not in shown
            embeddings.ingest(store, documents(9), show_progress=False)
            assert capsys.readouterr().err == ""


class TestAsync:
    """`aingest` keeps the event loop free and can be cancelled."""

    def test_the_loop_goes_on_while_the_store_waits(self, batch: Batch) -> None:
        """The event loop runs while the store waits in its thread for something from the loop."""
        turn = threading.Event()
        embeddings = batch()
        store = ListStore(embeddings, lambda _: turn.wait(10))

        async def ingest() -> int:
            task = asyncio.create_task(embeddings.aingest(store, documents(300), batch_size=100))
            await asyncio.sleep(0)
            turn.set()
            return (await task).stored

        assert asyncio.run(ingest()) == 300
        assert turn.is_set()
        assert_right(store.vectors, texts_of(documents(300)))

    def test_cancelling_stops_it_after_the_batch(self, batch: Batch) -> None:
        """After cancelling, the batch that is being written is completed, and no other one."""
        writing = threading.Event()
        cancelled = threading.Event()

        def pause(_: list[str]) -> None:
            writing.set()
            cancelled.wait(10)

        embeddings = batch()
        store = ListStore(embeddings, pause)

        async def cancel() -> None:
            task = asyncio.create_task(embeddings.aingest(store, documents(1000), batch_size=100))
            while not writing.is_set():
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            cancelled.set()

        asyncio.run(cancel())
        wait_until(lambda: not [t for t in threading.enumerate() if "async" in t.name])
        assert store.texts == texts_of(documents(store.calls[0]))
        assert len(store.calls) == 1

    def test_cancelling_does_not_wait_for_a_request(
        self, batch: Batch, openai_embeddings: Callable[..., OpenAIEmbeddings]
    ) -> None:
        """Cancelling ends the thread even while the server holds its answer back."""

        async def cancel() -> None:
            task = asyncio.create_task(embeddings.aingest(ListStore(embeddings), documents(10)))
            while not endpoint.asked:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        with holding() as (endpoint, _):
            embeddings = batch(openai_embeddings(base_url=endpoint.url), _clock=SYSTEM_CLOCK)
            asyncio.run(cancel())
            wait_until(lambda: not [t for t in threading.enumerate() if "async" in t.name])
            assert endpoint.statuses == []

    def test_a_wrong_option_is_an_error_there_too(self, batch: Batch) -> None:
        """`aingest` checks its options as `ingest` does."""
        embeddings = batch()
        with pytest.raises(OptionError, match="batch_size"):
            asyncio.run(embeddings.aingest(ListStore(embeddings), documents(1), batch_size=0))
