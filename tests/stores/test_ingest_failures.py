"""A refused document costs only itself, and a cause that affects all documents ends the ingest."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_batch_embed import BatchEmbeddings, IngestError, InputError
from tests.stores.fakes import ListStore, documents, rows_of, texts_of
from tests.support import FakeClock, LocalServer, assert_right

Batch = Callable[..., BatchEmbeddings]

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


class TestFailures:
    """A failing document costs only itself."""

    def test_one_is_refused_by_the_api_and_one_by_the_store(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """If the API refuses one of 3,000 documents and the store another, 2,998 are stored."""

        def refuse(texts: list[str]) -> None:
            if "section 2345" in texts:
                raise RuntimeError("refused by the store")

        server.configure(refuse_marker="poison")
        given = documents(3000)
        given[1234] = Document("poison", id="p")
        embeddings = batch(max_workers=4)
        store = ListStore(embeddings, refuse)
        report = embeddings.ingest(store, given)
        expected = [text for text in texts_of(given) if text not in ("poison", "section 2345")]
        assert store.texts == expected
        assert_right(store.vectors, store.texts)
        assert (report.documents, report.stored) == (3000, 2998)
        by_api, by_store = report.failures
        assert (by_api.index, by_api.id, by_api.stage) == (1234, "p", "embedding")
        assert isinstance(by_api.error, openai.BadRequestError)
        assert (by_store.index, by_store.id, by_store.stage) == (2345, None, "writing")
        assert str(by_store.error) == "refused by the store"
        assert server.stats()["inputs_billed"] == 2999

    def test_one_is_refused_by_the_api_and_one_by_sqlite(
        self, batch: Batch, server: LocalServer, sqlite: Callable[..., Any]
    ) -> None:
        """Rows that SQLite had inserted in the refused call are not doubled."""
        embeddings = batch(max_workers=4)
        store = sqlite(embeddings)
        store._connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON documents WHEN new.text = 'section 777'"
            " BEGIN SELECT RAISE(ABORT, 'refused by the database'); END"
        )
        server.configure(refuse_marker="poison")
        given = documents(3000)
        given[2999] = Document("poison")
        report = embeddings.ingest(store, given)
        assert rows_of(store) == [(f"section {i}", i) for i in range(2999) if i != 777]
        assert [(f.index, f.stage) for f in report.failures] == [
            (777, "writing"),
            (2999, "embedding"),
        ]
        assert "refused by the database" in str(report.failures[0].error)
        assert server.stats()["inputs_billed"] == 2999

    def test_an_empty_text_is_a_failure_of_its_own(self, batch: Batch, server: LocalServer) -> None:
        """An empty text fails alone and is not sent, as the provider would refuse its request."""
        given = documents(100)
        given[3] = given[70] = Document("")
        embeddings = batch()
        store = ListStore(embeddings)
        report = embeddings.ingest(store, given, batch_size=40)
        assert len(store.texts) == report.stored == 98
        assert [failure.index for failure in report.failures] == [3, 70]
        assert all(isinstance(failure.error, InputError) for failure in report.failures)
        assert server.stats()["inputs_billed"] == 98
        assert "400" not in server.stats()["by_status"]

    @pytest.mark.parametrize("batch_size", [4, 100])
    def test_many_bad_documents_do_not_stop_it(
        self, batch: Batch, server: LocalServer, batch_size: int
    ) -> None:
        """Twenty empty texts in a row and ten scattered refused ones do not stop an ingest."""
        server.configure(refuse_marker="poison")
        given = documents(300)
        empty = range(40, 60)
        refused = range(100, 200, 10)
        for index in empty:
            given[index] = Document("")
        for index in refused:
            given[index] = Document(f"poison {index}")
        embeddings = batch(max_workers=2)
        store = ListStore(embeddings)
        report = embeddings.ingest(store, given, batch_size=batch_size)
        assert [failure.index for failure in report.failures] == [*empty, *refused]
        assert report.stored == 270
        assert_right(store.vectors, store.texts)

    def test_refused_documents_at_the_end_of_a_batch_do_not_stop_it(self) -> None:
        """Twenty refused documents at the end of a batch do not stop an ingest.

        Earlier documents of that batch were good, and were written before these were refused.
        """
        written = threading.Event()
        calls: list[int] = []

        class Refusing(DeterministicFakeEmbedding):
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                if any(int(text.split()[1]) in range(380, 400) for text in texts):
                    assert written.wait(10)
                    raise ValueError("refused")
                return super().embed_documents(texts)

        def note(texts: list[str]) -> None:
            calls.append(len(texts))
            if sum(calls) >= 340:
                written.set()

        embeddings = BatchEmbeddings(Refusing(size=4), max_batch_size=20, max_retries=0)
        store = ListStore(embeddings, note)
        report = embeddings.ingest(store, documents(500), batch_size=400)
        assert [failure.index for failure in report.failures] == list(range(380, 400))
        assert report.stored == 480

    def test_many_refused_by_the_store_do_not_stop_it(self, batch: Batch) -> None:
        """Twenty scattered refusals do not stop an ingest; only failures in a row do."""

        def refuse(texts: list[str]) -> None:
            if any(int(text.split()[1]) % 50 == 7 for text in texts):
                raise ValueError("refused")

        embeddings = batch()
        report = embeddings.ingest(ListStore(embeddings, refuse), documents(1000), batch_size=50)
        assert [failure.index for failure in report.failures] == list(range(7, 1000, 50))
        assert (report.tried, report.stored) == (1000, 980)

    def test_a_stores_errors_may_be_chained_in_a_circle(self, batch: Batch) -> None:
        """A document fails normally even if the store's errors are chained in a circle."""
        first, second = ValueError("first"), ValueError("second")
        first.__cause__, second.__cause__ = second, first

        def refuse(texts: list[str]) -> None:
            if "document 3" in texts:
                raise first

        embeddings = batch()
        documents = [Document(f"document {i}") for i in range(10)]
        report = embeddings.ingest(ListStore(embeddings, refuse), documents)
        assert [(failure.index, failure.error) for failure in report.failures] == [(3, first)]

    def test_a_wrong_key_ends_it_at_once(self, batch: Batch, server: LocalServer) -> None:
        """A wrong key ends an ingest at once, before more documents are read or sent."""
        server.configure(faults={"401": 1.0})
        embeddings = batch()
        read = []

        def generate() -> Iterator[Document]:
            for document in documents(5000):
                read.append(document)
                yield document

        with pytest.raises(IngestError) as caught:
            embeddings.ingest(ListStore(embeddings), generate(), batch_size=100, max_buffered=1000)
        assert isinstance(caught.value.__cause__, openai.AuthenticationError)
        assert caught.value.report.stored == 0
        assert [failure.index for failure in caught.value.report.failures] == list(range(100))
        assert len(read) <= 1000
        assert server.stats()["requests"] <= 16

    def test_a_store_that_breaks_down_ends_it(self, batch: Batch, clock: FakeClock) -> None:
        """A store that stays away for ten minutes ends an ingest.

        The error's report tells what was stored before.
        """

        def break_down(texts: list[str]) -> None:
            if len(store.texts) >= 300:
                raise ConnectionError("the database is gone")
            calls.append(len(texts))

        calls: list[int] = []
        embeddings = batch()
        store = ListStore(embeddings, break_down)
        with pytest.raises(
            IngestError,
            match=r"300 are stored: the store did not answer for 6[0-9][0-9] s.*unknown",
        ) as caught:
            embeddings.ingest(store, documents(1000), batch_size=100)
        assert isinstance(caught.value.__cause__, ConnectionError)
        report = caught.value.report
        assert report.stored == len(store.texts) == 300
        assert report.failures == ()
        assert report.unknown == tuple(range(300, report.tried))
        assert 601 > clock.time - 30 >= 570

    def test_what_was_neither_stored_nor_failed_is_from_tried_on(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """If the store refuses all, documents from `tried` on are neither stored nor failed.

        This holds even if later documents of the batch were refused by the provider before.
        """
        server.configure(refuse_marker="poison")
        given = documents(200)
        for position in (20, 25, 30):
            given[position] = Document(f"poison {position}")

        def break_down(_: list[str]) -> None:
            raise PermissionError("no rights")

        embeddings = batch(max_workers=1)
        with pytest.raises(IngestError) as caught:
            embeddings.ingest(ListStore(embeddings, break_down), given)
        report = caught.value.report
        assert (report.documents, report.tried, report.stored) == (200, 2, 0)
        assert [f.index for f in report.failures] == [*range(2), 20, 25, 30]

    def test_failures_keep_no_batches_in_memory(self, batch: Batch, server: LocalServer) -> None:
        """An error in the report has no traceback, because its frames would keep vectors alive."""
        server.configure(refuse_marker="poison")
        embeddings = batch()
        report = embeddings.ingest(ListStore(embeddings), [*documents(9), Document("poison")])
        error: BaseException | None = report.failures[0].error
        while error is not None:
            assert error.__traceback__ is None
            error = error.__cause__ or error.__context__
