"""How far ahead of the store documents are read and embedded, in bounded memory."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore
from pytest_mock import MockerFixture

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.stores.ahead import FIRST
from tests.stores.fakes import ListStore, documents, texts_of
from tests.support import LocalServer, assert_right, treat_as_known, wait_until

Batch = Callable[..., BatchEmbeddings]

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


class TestAhead:
    """While the store is busy the next documents are embedded, up to a bound."""

    def test_batches_are_full_where_embedding_is_ahead(self, batch: Batch) -> None:
        """Documents that are embedded while the store is busy are then written in full batches."""

        def wait_for_the_rest(_: list[str]) -> None:
            (prefetch,) = embeddings._pipeline.prefetches.opened
            wait_until(lambda: not prefetch.running)

        embeddings = batch()
        store = ListStore(embeddings, wait_for_the_rest)
        embeddings.ingest(store, documents(2500))
        first, *others = np.cumsum(store.calls).tolist()
        assert first <= 1024
        assert others[-3:] == [1024, 2048, 2500][-len(others) :]

    def test_a_store_that_changes_the_texts_is_not_embedded_for(
        self, batch: Batch, server: LocalServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A store that asks for other texts than the documents' own pays for few texts twice."""

        class Titled(InMemoryVectorStore):
            def add_documents(
                self, documents: list[Document], ids: list[str] | None = None, **kwargs: Any
            ) -> list[str]:
                titled = [Document(f"Title: {each.page_content}") for each in documents]
                return super().add_documents(titled, ids, **kwargs)

        embeddings = batch()
        report = embeddings.ingest(Titled(embeddings), documents(3000))
        assert report.stored == 3000
        assert 3000 <= server.stats()["inputs_billed"] <= 3000 + FIRST
        assert "does not ask for the vectors of the documents' own texts" in caplog.text

    def test_a_store_whose_texts_are_kept_already_is_not_taken_for_one(
        self, batch: Batch, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A store that asks for texts of the journal, within a prefetch, does ask for them."""
        embeddings = batch(journal=tmp_path / "vectors.db")
        embeddings.embed_numpy(texts_of(documents(300)))
        with embeddings.prefetch(texts_of(documents(10))):
            embeddings.ingest(ListStore(embeddings, lambda _: None), documents(300))
        assert "does not ask" not in caplog.text

    @pytest.mark.parametrize("max_workers", [1, 8])
    @pytest.mark.parametrize(("late", "written"), [(100, 100), (200, 200), (230, 200)])
    def test_an_idle_store_gets_what_is_there(
        self, late: int, written: int, max_workers: int
    ) -> None:
        """A late answer delays only the documents after it; an idle store gets the earlier ones."""
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

        # With an unknown class, 100 texts are sent in a request.
        embeddings = BatchEmbeddings(Late(size=4), max_workers=max_workers)
        store = ListStore(embeddings, note)
        report = embeddings.ingest(store, documents(400), batch_size=400)
        assert released.is_set()
        assert report.stored == 400

    def test_the_store_asks_for_what_is_counted_already(
        self, batch: Batch, mocker: MockerFixture
    ) -> None:
        """The store's calls only look up vectors, so no text is counted a second time."""
        embeddings = batch()
        count = mocker.spy(embeddings._pipeline.fetcher.counter, "count")
        embeddings.ingest(ListStore(embeddings), documents(100), batch_size=30)
        counted = [text for call in count.call_args_list for text in call.args[0]]
        assert sorted(counted) == sorted(texts_of(documents(100)))

    def test_a_prefetch_around_it_learns_what_is_asked_for(self, batch: Batch) -> None:
        """A prefetch around an ingest frees room for its later texts and reports no failures."""
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
        """Each text is sent once, even if a prefetch around the ingest is embedding it already."""
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
        """A refused text of a surrounding prefetch is reported as an embedding failure, alone."""
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
        """A prefetch inside the store's call does not use up the vectors that the store needs."""

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
        """The report counts the tokens of an answer that is still being written to the journal."""
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
        """A call for more texts than the ingest keeps is answered as usual."""

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
        """A generator is read at most `max_buffered` documents ahead of those that are written."""
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
        """At most `max_buffered` texts are embedded ahead, and one request before any write."""

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
        """With a small `batch_size`, requests still hold a quarter of `max_buffered` texts."""
        embeddings = treat_as_known(batch(max_workers=1))
        documents = [Document(f"document {i}") for i in range(1000)]
        report = embeddings.ingest(
            ListStore(embeddings), documents, batch_size=10, max_buffered=200
        )
        assert report.stored == 1000
        assert server.stats()["requests"] <= 1000 / 50
