"""`ingest` writes documents to a store in order and embeds them in large requests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_batch_embed import BatchEmbeddings, InputTypeError, OptionError
from langchain_batch_embed.stores.sqlite import PAGE_CACHE
from tests.stores.fakes import ListStore, documents, rows_of, texts_of
from tests.support import FakeClock, LocalServer, assert_right, wait_until

Batch = Callable[..., BatchEmbeddings]

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


class TestStoring:
    """All documents reach the store, in order, and are embedded in large requests."""

    def test_rows_are_in_order_with_the_servers_vectors(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Rows are in order with the right vectors, and each text is sent once."""
        embeddings = batch(max_workers=4)
        store = ListStore(embeddings)
        given = documents(3210)
        report = embeddings.ingest(store, given, max_buffered=2000)
        assert store.texts == texts_of(given)
        assert_right(store.vectors, store.texts)
        assert (report.documents, report.tried) == (3210, 3210)
        assert (report.stored, report.failures) == (3210, ())
        assert report.ids == tuple(store.ids)
        assert server.stats()["inputs_billed"] == 3210
        assert server.stats()["requests"] <= 4 * 7

    @pytest.mark.parametrize(("chunk_size", "call"), [(500, 500), (0, 1024), (None, 1024)])
    def test_a_stores_own_chunk_size_is_kept_to(
        self, batch: Batch, chunk_size: int | None, call: int
    ) -> None:
        """No call exceeds the store's own `chunk_size`.

        The store writes such a call in one statement, so the call is all or nothing.
        """
        embeddings = batch(max_workers=2)
        store = ListStore(embeddings)
        store.chunk_size = chunk_size  # type: ignore[attr-defined]
        embeddings.ingest(store, documents(2 * call))
        assert max(store.calls) <= call
        assert {call, 2 * call} <= set(np.cumsum(store.calls).tolist())  # no call crosses them

    def test_sqlite_gets_every_row(
        self, batch: Batch, server: LocalServer, sqlite: Callable[..., Any]
    ) -> None:
        """SQLiteVec holds text and metadata and finds documents by the right vectors."""
        embeddings = batch()
        store = sqlite(embeddings)
        server.configure()
        report = embeddings.ingest(store, iter(documents(700)), batch_size=64)
        assert rows_of(store) == [(f"section {i}", i) for i in range(700)]
        assert report.stored == 700
        assert server.stats()["inputs_billed"] == 700
        (found,) = store.similarity_search_with_score("section 345", k=1)
        assert (found[0].metadata, found[1]) == ({"number": 345}, 0)

    def test_sqlite_keeps_a_chunk_of_vectors_in_memory_while_it_writes(
        self, batch: Batch, sqlite: Callable[..., Any]
    ) -> None:
        """SQLite's page cache is large while an ingest writes, and is restored afterwards."""

        def generate() -> Iterator[Document]:
            for document in documents(50):
                seen.add(cache())
                yield document

        def cache() -> int:
            return int(store._connection.execute("PRAGMA cache_size").fetchall()[0][0])

        seen: set[int] = set()
        embeddings = batch()
        store = sqlite(embeddings)
        before = cache()
        embeddings.ingest(store, generate(), batch_size=10, max_buffered=20)
        assert seen == {-PAGE_CACHE}
        assert cache() == before > -PAGE_CACHE

    @pytest.mark.parametrize(("batch_size", "max_buffered"), [(1, 1), (7, 3), (50, 50), (64, 100)])
    def test_any_sizes_will_do(
        self, batch: Batch, server: LocalServer, batch_size: int, max_buffered: int
    ) -> None:
        """Any `batch_size` works with any `max_buffered`, even with a smaller one."""
        embeddings = batch()
        store = ListStore(embeddings)
        given = documents(150)
        embeddings.ingest(store, given, batch_size=batch_size, max_buffered=max_buffered)
        assert store.texts == texts_of(given)
        assert_right(store.vectors, store.texts)
        assert max(store.calls) <= batch_size
        assert server.stats()["inputs_billed"] == 150

    def test_identical_documents_are_all_stored_and_sent_once(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Identical documents are all stored, but their text is sent once, even across batches."""
        embeddings = batch()
        store = ListStore(embeddings)
        given = documents(50) * 4
        embeddings.ingest(store, given, batch_size=30)
        assert store.texts == texts_of(given)
        assert_right(store.vectors, store.texts)
        assert server.stats()["inputs_billed"] == 50

    def test_the_report_tells_how_long_the_store_waited(
        self, batch: Batch, server: LocalServer, clock: FakeClock
    ) -> None:
        """The report separates the time spent waiting for vectors from the time spent writing."""

        def write(_: list[str]) -> None:
            clock.time += 3

        server.configure(script=("500",))  # the request is repeated after a pause
        embeddings = batch()
        report = embeddings.ingest(ListStore(embeddings, write), documents(20))
        assert report.waited > 0
        assert report.seconds == pytest.approx(report.waited + 3)

    def test_the_embeddings_report_is_of_all_of_it(self, batch: Batch, server: LocalServer) -> None:
        """The embeddings report covers the whole ingest, not only the store's last call."""
        embeddings = batch()
        given = [*documents(300), *documents(10), Document("")]
        report = embeddings.ingest(ListStore(embeddings), given, batch_size=50)
        found = embeddings.last_report
        assert found is not None
        assert (found.texts, found.unique, found.failures) == (311, 301, 1)
        assert found.requests == server.stats()["requests"] > 0
        assert found.tokens == server.stats()["tokens_billed"] > 0
        assert found.dollars is not None
        assert "row 0" not in repr(report)

    def test_no_documents_are_no_work(self, batch: Batch, server: LocalServer) -> None:
        """An empty iterable gives an empty report and sends no request."""
        embeddings = batch()
        report = embeddings.ingest(ListStore(embeddings), iter([]))
        assert (report.documents, report.stored, report.ids) == (0, 0, ())
        assert server.stats()["requests"] == 0

    def test_a_second_run_with_the_journal_pays_for_nothing(
        self, batch: Batch, server: LocalServer, tmp_path: Path
    ) -> None:
        """With a journal, a second run does not send again what an interrupted run embedded."""

        def break_down(texts: list[str]) -> None:
            if texts[0] == "section 200":
                wait_until(lambda: server.stats()["inputs_billed"] == 1000)
                raise KeyboardInterrupt

        embeddings = batch(journal=tmp_path / "j")
        with pytest.raises(KeyboardInterrupt):
            embeddings.ingest(ListStore(embeddings, break_down), documents(1000), batch_size=100)
        again = batch(journal=tmp_path / "j")
        store = ListStore(again)
        again.ingest(store, documents(1000), batch_size=100)
        assert_right(store.vectors, texts_of(documents(1000)))
        assert server.stats()["inputs_billed"] == 1000


class TestIds:
    """The store receives the ids that the caller or the documents provide."""

    def test_given_ids_are_passed_on(self, batch: Batch) -> None:
        """Ids from any iterable, one a document, reach the store and replace the documents' own."""
        embeddings = batch()
        store = ListStore(embeddings)
        given = [Document("a", id="own"), *documents(9)]
        report = embeddings.ingest(store, given, ids=(f"id {i}" for i in range(10)), batch_size=4)
        assert store.ids == [f"id {i}" for i in range(10)]
        assert report.ids == tuple(store.ids)

    def test_documents_own_ids_are_taken(self, batch: Batch) -> None:
        """The documents' own ids are used, as in `add_documents`, so a rerun replaces the rows."""
        embeddings = batch()
        store = InMemoryVectorStore(embeddings)
        given = [Document(f"section {i}", id=str(i)) for i in range(20)]
        for _ in "ab":
            report = embeddings.ingest(store, given, batch_size=6)
            assert report.ids == tuple(store.store) == tuple(map(str, range(20)))

    def test_without_ids_the_store_makes_its_own(self, batch: Batch) -> None:
        """Without given ids, the report lists the ids under which the store keeps the rows."""
        embeddings = batch()
        store = InMemoryVectorStore(embeddings)
        report = embeddings.ingest(store, documents(20), batch_size=6)
        assert len(set(report.ids)) == 20
        assert set(report.ids) == set(store.store)

    @pytest.mark.parametrize("count", [9, 11])
    def test_ids_must_be_one_a_document(self, batch: Batch, count: int) -> None:
        """Too few or too many ids raise an error that says where they end."""
        embeddings = batch()
        with pytest.raises(OptionError, match=f"only {min(count, 10)} "):
            embeddings.ingest(ListStore(embeddings), documents(10), ids=map(str, range(count)))

    def test_one_number_is_no_ids(self, batch: Batch) -> None:
        """A number in place of ids raises an error that says what `ids` accepts."""
        embeddings = batch()
        with pytest.raises(OptionError, match="ids must be one a document, or 'content', not int"):
            embeddings.ingest(ListStore(embeddings), documents(10), ids=5)  # type: ignore[arg-type]


class TestMistakes:
    """A call that cannot work raises an error at once."""

    def test_a_store_with_other_embeddings_is_refused(
        self, batch: Batch, sqlite: Callable[..., Any]
    ) -> None:
        """A store with other embeddings is refused, even if it hides them, as SQLiteVec does."""
        others = DeterministicFakeEmbedding(size=3)
        for store in (InMemoryVectorStore(others), sqlite(others), ListStore(batch())):
            with pytest.raises(OptionError, match="does not use these embeddings"):
                batch().ingest(store, documents(1))

    @pytest.mark.parametrize("options", [{"batch_size": 0}, {"max_buffered": -1}])
    def test_sizes_must_be_positive(self, batch: Batch, options: dict[str, int]) -> None:
        """A size that is not positive raises an error that names the option."""
        embeddings = batch()
        with pytest.raises(OptionError, match=next(iter(options))):
            embeddings.ingest(ListStore(embeddings), documents(1), **options)  # type: ignore[arg-type]

    def test_something_else_than_documents_is_refused(self, batch: Batch) -> None:
        """Strings in place of documents are refused with a message that does not quote them."""
        embeddings = batch()
        with pytest.raises(InputTypeError, match="number 0 is a str") as caught:
            embeddings.ingest(ListStore(embeddings), ["a text"])  # type: ignore[list-item]
        assert "a text" not in str(caught.value)
