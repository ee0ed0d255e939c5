"""Documents get into a store, whatever happens to some of them, in bounded memory."""

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from pytest_mock import MockerFixture

from langchain_batch_embed import (
    BatchEmbeddings,
    IngestError,
    InputError,
    InputTypeError,
    OptionError,
)
from langchain_batch_embed.stores.sqlite import PAGE_CACHE
from tests.stores.callers import CALLERS
from tests.support import (
    FakeClock,
    LocalServer,
    assert_right,
    no_thread_left,
    treat_as_known,
    wait_until,
)

Batch = Callable[..., BatchEmbeddings]


class ListStore(VectorStore):
    """Keeps rows in a list, in the order in which they were written.

    Args:
        embedding: makes the vectors.
        before: called with the texts of each call before they are embedded.
    """

    def __init__(
        self, embedding: Embeddings, before: Callable[[list[str]], object] = lambda _: None
    ) -> None:
        self._embedding = embedding
        self._before = before
        self.texts: list[str] = []
        self.vectors: list[list[float]] = []
        self.ids: list[str | None] = []
        self.calls: list[int] = []

    @property
    def embeddings(self) -> Embeddings:
        """Tell what makes the vectors."""
        return self._embedding

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add rows; all or, where `before` raises, none."""
        del metadatas, kwargs
        listed = list(texts)
        self._before(listed)
        self.calls.append(len(listed))
        self.vectors += self._embedding.embed_documents(listed)
        self.texts += listed
        names = ids or [f"row {len(self.ids) + i}" for i in range(len(listed))]
        self.ids += names
        return names

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Find nothing; no test searches."""
        raise NotImplementedError

    @classmethod
    def from_texts(cls, *_: Any, **__: Any) -> "ListStore":
        """Refuse; no test makes a store so."""
        raise NotImplementedError


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """Wait for the end of every thread that a test started."""
    with no_thread_left():
        yield


@pytest.fixture
def sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Open an empty SQLiteVec, in a file."""
    pytest.importorskip("sqlite_vec")
    monkeypatch.setenv("STORE_FOLDER", str(tmp_path))
    made: list[Any] = []

    def make(embeddings: Embeddings) -> Any:
        made.append(CALLERS["sqlite_vec"]([], embeddings))
        return made[-1]

    yield make
    for store in made:
        store._connection.close()


def documents(count: int) -> list[Document]:
    """Return documents that differ."""
    return [Document(f"section {i}", metadata={"number": i}) for i in range(count)]


def texts_of(given: Iterable[Document]) -> list[str]:
    """Return the texts of documents."""
    return [document.page_content for document in given]


def rows_of(store: Any) -> list[tuple[str, int]]:
    """Return the text and the number of each row of a SQLiteVec, in order."""
    found = store._connection.execute("SELECT text, metadata FROM documents ORDER BY rowid")
    return [(row["text"], json.loads(row["metadata"])["number"]) for row in found]


class TestStoring:
    """All documents get in, in order, in large requests."""

    def test_rows_are_in_order_with_the_servers_vectors(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Written in batches, embedded in large requests, each text once."""
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

    def test_batches_are_full_where_embedding_is_ahead(self, batch: Batch) -> None:
        """While the store is busy the next documents arrive, and are written a batch at a time."""

        def wait_for_the_rest(_: list[str]) -> None:
            (prefetch,) = embeddings._pipeline.prefetches.opened
            wait_until(lambda: not prefetch.running)

        embeddings = batch()
        store = ListStore(embeddings, wait_for_the_rest)
        embeddings.ingest(store, documents(2500))
        first, *others = np.cumsum(store.calls).tolist()
        assert first <= 1024
        assert others[-3:] == [1024, 2048, 2500][-len(others) :]

    @pytest.mark.parametrize("max_workers", [1, 8])
    @pytest.mark.parametrize(("late", "written"), [(100, 100), (200, 200), (230, 200)])
    def test_an_idle_store_gets_what_is_there(
        self, late: int, written: int, max_workers: int
    ) -> None:
        """An answer that is late holds up what comes after it, and nothing that came before."""
        released = threading.Event()

        class Late(DeterministicFakeEmbedding):
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                if f"section {late}" in texts:
                    assert released.wait(10)
                return super().embed_documents(texts)

        calls: list[int] = []

        def note(texts: list[str]) -> None:
            calls.append(len(texts))
            if sum(calls) == written:
                released.set()

        # Of a class that is not known 100 texts are sent in a request.
        embeddings = BatchEmbeddings(Late(size=4), max_workers=max_workers)
        store = ListStore(embeddings, note)
        report = embeddings.ingest(store, documents(400), batch_size=400)
        assert released.is_set()
        assert report.stored == 400

    @pytest.mark.parametrize(("chunk_size", "call"), [(500, 500), (0, 1024), (None, 1024)])
    def test_a_stores_own_chunk_size_is_kept_to(
        self, batch: Batch, chunk_size: int | None, call: int
    ) -> None:
        """A call that the store writes in one statement is all or nothing."""
        embeddings = batch(max_workers=2)
        store = ListStore(embeddings)
        store.chunk_size = chunk_size  # type: ignore[attr-defined]
        embeddings.ingest(store, documents(2 * call))
        assert max(store.calls) <= call
        assert {call, 2 * call} <= set(np.cumsum(store.calls).tolist())  # none goes beyond

    def test_sqlite_gets_every_row(
        self, batch: Batch, server: LocalServer, sqlite: Callable[..., Any]
    ) -> None:
        """SQLiteVec holds text, metadata and, through its search, the right vectors."""
        embeddings = batch()
        store = sqlite(embeddings)
        server.configure()
        report = embeddings.ingest(store, iter(documents(700)), batch_size=64)
        assert rows_of(store) == [(f"section {i}", i) for i in range(700)]
        assert report.stored == 700
        assert server.stats()["inputs_billed"] == 700
        (found,) = store.similarity_search_with_score("section 345", k=1)
        assert (found[0].metadata, found[1]) == ({"number": 345}, 0)

    def test_sqlite_keeps_a_chunk_of_vectors_in_memory_meanwhile(
        self, batch: Batch, sqlite: Callable[..., Any]
    ) -> None:
        """Its page cache is large while it writes, and then what it was."""

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

    def test_the_store_asks_for_what_is_counted_already(
        self, batch: Batch, mocker: MockerFixture
    ) -> None:
        """Its calls are looked up: nothing is counted, packed or waited for a second time."""
        embeddings = batch()
        count = mocker.spy(embeddings._pipeline.fetcher.counter, "count")
        embeddings.ingest(ListStore(embeddings), documents(100), batch_size=30)
        counted = [text for call in count.call_args_list for text in call.args[0]]
        assert sorted(counted) == sorted(texts_of(documents(100)))

    def test_a_prefetch_around_it_learns_what_is_asked_for(self, batch: Batch) -> None:
        """It makes room for what is still to come, and reports no failures."""
        embeddings = batch()
        given = documents(300)
        with embeddings.prefetch(texts_of(given), max_buffered=50):
            report = embeddings.ingest(ListStore(embeddings), given, batch_size=30)
        assert report.failures == ()
        assert embeddings.last_report is not None
        assert (embeddings.last_report.texts, embeddings.last_report.failures) == (300, 0)

    @pytest.mark.parametrize("max_buffered", [50, 20_000])
    def test_what_a_prefetch_around_it_has_is_not_paid_for_again(
        self, batch: Batch, server: LocalServer, max_buffered: int
    ) -> None:
        """Each text is sent once, however much of it the prefetch has on its way."""
        embeddings = batch()
        given = documents(300)
        store = ListStore(embeddings)
        with embeddings.prefetch(texts_of(given), max_buffered=max_buffered):
            report = embeddings.ingest(store, given, batch_size=30)
        assert report.stored == 300
        assert_right(store.vectors, texts_of(given))
        assert server.stats()["inputs_billed"] == 300

    def test_a_refused_text_that_a_prefetch_around_it_had_fails_alone(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """It is reported as one that could not be embedded, and no other is."""
        server.configure(refuse_marker="poison")
        embeddings = batch()
        given = [*documents(50), Document("poison"), *documents(100)[50:]]
        with embeddings.prefetch(texts_of(given)):
            report = embeddings.ingest(ListStore(embeddings), given, batch_size=30)
        assert report.stored == 100
        assert [(failure.index, failure.stage) for failure in report.failures] == [
            (50, "embedding")
        ]

    def test_a_prefetch_within_it_takes_nothing_away(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """What is kept for the store stays, though a caller asks for it before."""

        def ask(texts: list[str]) -> None:
            with embeddings.prefetch(texts):
                assert_right(embeddings.embed_documents(texts), texts)

        embeddings = batch()
        store = ListStore(embeddings, ask)
        report = embeddings.ingest(store, documents(100), batch_size=30)
        assert report.failures == ()
        assert_right(store.vectors, texts_of(documents(100)))
        assert server.stats()["inputs_billed"] == 100

    def test_the_report_knows_all_that_was_billed(
        self, batch: Batch, server: LocalServer, tmp_path: Path, mocker: MockerFixture
    ) -> None:
        """Also for an answer that is still being written to the journal when the ingest ends."""
        embeddings = batch(journal=tmp_path / "journal.db", max_batch_size=10)
        put = embeddings.journal.put
        ended = threading.Event()
        first = threading.Lock()

        def slow(*arguments: Any, **options: Any) -> None:
            if first.acquire(blocking=False):
                ended.wait(30)
            put(*arguments, **options)

        mocker.patch.object(embeddings.journal, "put", slow)
        embeddings.ingest(ListStore(embeddings), documents(300))
        assert embeddings.last_report is not None
        assert embeddings.last_report.tokens == server.stats()["tokens_billed"]
        ended.set()

    def test_other_calls_are_not_held_up_by_what_an_ingest_keeps(self, batch: Batch) -> None:
        """A call for more than it keeps is answered as always."""

        def look(texts: list[str]) -> None:
            more = [*texts, f"another one, with {texts[0]}"]
            assert_right(embeddings.embed_documents(more), more)
            assert embeddings.embed_documents([]) == []

        embeddings = batch()
        store = ListStore(embeddings, look)
        report = embeddings.ingest(store, documents(30))
        assert report.failures == ()
        assert_right(store.vectors, texts_of(documents(30)))

    def test_a_generator_is_read_as_far_ahead_as_promised(self, batch: Batch) -> None:
        """Never more than `max_buffered` documents beyond those that are written."""
        read = []
        ahead = []

        def generate() -> Iterator[Document]:
            for document in documents(1000):
                read.append(document)
                ahead.append(len(read) - len(store.texts))
                yield document

        embeddings = batch(max_workers=2)
        store = ListStore(embeddings)
        embeddings.ingest(store, generate(), batch_size=30, max_buffered=100)
        assert len(store.texts) == 1000
        assert max(ahead) <= 100

    def test_no_more_than_max_buffered_is_embedded_ahead(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A request until the store has taken something; then all that there is room for."""

        def look(texts: list[str]) -> None:
            written = int(texts[0].split()[1])
            if not seen:
                wait_until(lambda: server.stats()["inputs_billed"] == 100)
            elif len(seen) == 1:
                wait_until(lambda: server.stats()["inputs_billed"] > written + 150)
            wait_until(lambda: server.stats()["in_flight"] == 0)
            seen.append(server.stats()["inputs_billed"] - written)

        seen: list[int] = []
        embeddings = batch()
        embeddings.ingest(
            ListStore(embeddings, look), documents(1000), batch_size=50, max_buffered=200
        )
        assert seen[0] == 100
        assert 150 < seen[1] <= max(seen) <= 200

    def test_a_small_store_call_does_not_make_small_requests(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """What is written makes room for runs of a quarter of `max_buffered`."""
        embeddings = treat_as_known(batch(max_workers=1))
        documents = [Document(f"document {i}") for i in range(1000)]
        report = embeddings.ingest(
            ListStore(embeddings), documents, batch_size=10, max_buffered=200
        )
        assert report.stored == 1000
        assert server.stats()["requests"] <= 1000 / 50

    @pytest.mark.parametrize(("batch_size", "max_buffered"), [(1, 1), (7, 3), (50, 50), (64, 100)])
    def test_any_sizes_will_do(
        self, batch: Batch, server: LocalServer, batch_size: int, max_buffered: int
    ) -> None:
        """A buffer smaller than a batch is as large as the batch."""
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
        """Within a batch and in several ones, as long as they are buffered together."""
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
        """Apart from what the writing took."""

        def write(_: list[str]) -> None:
            clock.time += 3

        server.configure(script=("500",))  # sent again some time later
        embeddings = batch()
        report = embeddings.ingest(ListStore(embeddings, write), documents(20))
        assert report.waited > 0
        assert report.seconds == pytest.approx(report.waited + 3)

    def test_the_embeddings_report_is_of_all_of_it(self, batch: Batch, server: LocalServer) -> None:
        """What the runs ahead sent and cost, not what the store's last call did."""
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
        """An empty iterable gives an empty report."""
        embeddings = batch()
        report = embeddings.ingest(ListStore(embeddings), iter([]))
        assert (report.documents, report.stored, report.ids) == (0, 0, ())
        assert server.stats()["requests"] == 0

    def test_a_second_run_with_the_journal_pays_for_nothing(
        self, batch: Batch, server: LocalServer, tmp_path: Path
    ) -> None:
        """What was embedded before the store broke down is not sent again."""

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
    """The store gets the ids that there are."""

    def test_given_ids_are_passed_on(self, batch: Batch) -> None:
        """One a document, from any iterable, also past their own."""
        embeddings = batch()
        store = ListStore(embeddings)
        given = [Document("a", id="own"), *documents(9)]
        report = embeddings.ingest(store, given, ids=(f"id {i}" for i in range(10)), batch_size=4)
        assert store.ids == [f"id {i}" for i in range(10)]
        assert report.ids == tuple(store.ids)

    def test_documents_own_ids_are_taken(self, batch: Batch) -> None:
        """As `add_documents` does; running again replaces the rows where the store does."""
        embeddings = batch()
        store = InMemoryVectorStore(embeddings)
        given = [Document(f"section {i}", id=str(i)) for i in range(20)]
        for _ in "ab":
            report = embeddings.ingest(store, given, batch_size=6)
            assert report.ids == tuple(store.store) == tuple(map(str, range(20)))

    def test_without_ids_the_store_makes_its_own(self, batch: Batch) -> None:
        """They are in the report."""
        embeddings = batch()
        store = InMemoryVectorStore(embeddings)
        report = embeddings.ingest(store, documents(20), batch_size=6)
        assert len(set(report.ids)) == 20
        assert set(report.ids) == set(store.store)

    @pytest.mark.parametrize("count", [9, 11])
    def test_ids_must_be_one_a_document(self, batch: Batch, count: int) -> None:
        """Too few and too many are an error that says where they end."""
        embeddings = batch()
        with pytest.raises(OptionError, match=f"only {min(count, 10)} "):
            embeddings.ingest(ListStore(embeddings), documents(10), ids=map(str, range(count)))


class TestFailures:
    """A failing document costs only itself."""

    def test_one_is_refused_by_the_api_and_one_by_the_store(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Of 3,000 documents 2,998 are stored, and two are reported with their causes."""

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
        """What SQLite had inserted of the refused call is not there twice."""
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
        """The provider would refuse its whole request, so it is not sent."""
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
        """Twenty in a row without a text, ten scattered ones that are refused."""
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
        """Others of their batch were good, and were written before these were refused."""
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
        """Twenty, with good ones in between: only failures in a row tell that it is the store."""

        def refuse(texts: list[str]) -> None:
            if any(int(text.split()[1]) % 50 == 7 for text in texts):
                raise ValueError("refused")

        embeddings = batch()
        report = embeddings.ingest(ListStore(embeddings, refuse), documents(1000), batch_size=50)
        assert [failure.index for failure in report.failures] == list(range(7, 1000, 50))
        assert (report.tried, report.stored) == (1000, 980)

    def test_a_stores_errors_may_be_chained_in_a_circle(self, batch: Batch) -> None:
        """Each raised from the other, as careless code does it: it is a failure as any other."""
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
        """When nothing can be embedded, nothing more is read or sent."""
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
        """After minutes; the report of the error tells what was stored before."""

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
        """Also where later documents of the batch were refused before the store refused all."""
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
        """An error in the report has no traceback, whose frames would hold vectors."""
        server.configure(refuse_marker="poison")
        embeddings = batch()
        report = embeddings.ingest(ListStore(embeddings), [*documents(9), Document("poison")])
        error: BaseException | None = report.failures[0].error
        while error is not None:
            assert error.__traceback__ is None
            error = error.__cause__ or error.__context__


class TestMistakes:
    """What cannot work is an error at once."""

    def test_a_store_with_other_embeddings_is_refused(
        self, batch: Batch, sqlite: Callable[..., Any]
    ) -> None:
        """Whether the store tells them or, as SQLiteVec, keeps them to itself."""
        others = DeterministicFakeEmbedding(size=3)
        for store in (InMemoryVectorStore(others), sqlite(others), ListStore(batch())):
            with pytest.raises(OptionError, match="does not use these embeddings"):
                batch().ingest(store, documents(1))

    @pytest.mark.parametrize("options", [{"batch_size": 0}, {"max_buffered": -1}])
    def test_sizes_must_be_positive(self, batch: Batch, options: dict[str, int]) -> None:
        """The error names the option."""
        embeddings = batch()
        with pytest.raises(OptionError, match=next(iter(options))):
            embeddings.ingest(ListStore(embeddings), documents(1), **options)  # type: ignore[arg-type]

    def test_something_else_than_documents_is_refused(self, batch: Batch) -> None:
        """Strings are, with a word on what to pass."""
        embeddings = batch()
        with pytest.raises(InputTypeError, match="number 0 is a str") as caught:
            embeddings.ingest(ListStore(embeddings), ["a text"])  # type: ignore[list-item]
        assert "a text" not in str(caught.value)


class TestInterrupts:
    """What stops it stops its requests, and what is stored is told."""

    def test_ctrl_c_leaves_a_note_and_no_half_batch(
        self, batch: Batch, sqlite: Callable[..., Any]
    ) -> None:
        """After a KeyboardInterrupt within a batch, its rows are not there later either."""
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
        """After all that came before it is stored, for it is on its way, and paid for."""

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
        """One bar for all, and none for the calls of the store."""
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
    """The same for event loops."""

    def test_the_loop_goes_on_meanwhile(self, batch: Batch) -> None:
        """The store waits, in its thread, for something that the loop has to do."""
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
        """The batch that is being written is written; everything else ends."""
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
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Also where the answer never comes the thread ends."""
        server.configure(script=("hang",), hang_seconds=1)
        embeddings = batch(timeout=60)

        async def cancel() -> None:
            task = asyncio.create_task(embeddings.aingest(ListStore(embeddings), documents(10)))
            while server.stats()["in_flight"] == 0:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(cancel())
        wait_until(lambda: not [t for t in threading.enumerate() if "async" in t.name])

    def test_a_wrong_option_is_an_error_there_too(self, batch: Batch) -> None:
        """It takes and refuses what `ingest` does."""
        embeddings = batch()
        with pytest.raises(OptionError, match="batch_size"):
            asyncio.run(embeddings.aingest(ListStore(embeddings), documents(1), batch_size=0))
