"""Questions decide how far ahead texts are embedded."""

from collections.abc import Callable
from functools import partial

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.vectorstores import InMemoryVectorStore
from pytest_mock import MockerFixture

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.calls import prefetch_runs
from tests.calls.prefetches import TEXTS, slices
from tests.support import LocalServer, assert_right, treat_as_known, wait_until

Batch = Callable[..., BatchEmbeddings]

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


class TestQuestions:
    """Runs go no further ahead than the questions justify."""

    def test_nothing_is_paid_for_before_the_first_question(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A prefetch without a question sends nothing, as when `index()` skips all texts."""
        embeddings = batch()
        documents = [Document(text) for text in TEXTS]
        store, records = InMemoryVectorStore(embeddings), InMemoryRecordManager("test")
        records.create_schema()
        index(documents, records, store, batch_size=100, key_encoder="sha256")
        server.configure()
        with embeddings.prefetch(TEXTS) as prefetch:
            result = index(documents, records, store, batch_size=100, key_encoder="sha256")
            assert prefetch.runs == 0
        assert result["num_skipped"] == 1000
        assert server.stats()["requests"] == 0

    @pytest.mark.parametrize(
        ("step", "most"), [(100, 16), (50, 30), (10, 130), (4, 400), (2, 800), (1, 1000)]
    )
    def test_of_what_is_skipped_little_is_paid_for(
        self, batch: Batch, server: LocalServer, step: int, most: int
    ) -> None:
        """If each portion asks for every n-th text, few of the skipped texts are paid for."""
        embeddings = batch()
        with embeddings.prefetch(TEXTS):
            for portion in slices(TEXTS, 100):
                asked = portion[::step]
                assert_right(embeddings.embed_documents(asked), asked)
        assert server.stats()["inputs_billed"] <= most
        assert server.stats()["inputs_billed"] == server.stats()["texts_billed_distinct"]

    def test_new_texts_behind_many_old_ones_are_embedded_ahead(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Skipped old texts cost nothing, and the new texts behind them take few requests."""
        embeddings = treat_as_known(batch(max_workers=2))
        with embeddings.prefetch(TEXTS):
            for portion in slices(TEXTS[600:], 10):
                assert_right(embeddings.embed_documents(portion), portion)
        assert server.stats()["inputs_billed"] == 400
        assert server.stats()["requests"] <= 12

    def test_the_first_question_is_answered_by_a_run(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """The first question's texts share requests with those ahead, so its call sends nothing."""
        embeddings = treat_as_known(batch(max_workers=1))
        with embeddings.prefetch(TEXTS):
            assert_right(embeddings.embed_documents(TEXTS[:100]), TEXTS[:100])
            assert embeddings.last_report is not None
            assert embeddings.last_report.requests == 0
            wait_until(lambda: server.stats()["in_flight"] == 0)
        assert 100 < server.stats()["inputs_billed"] <= 500

    def test_a_text_that_a_call_has_embedded_is_there_for_the_next_one(
        self, batch: Batch, server: LocalServer, mocker: MockerFixture
    ) -> None:
        """If no thread can be started for a run, a call embeds its own texts.

        It keeps their vectors for the second time that they were announced.
        """
        no_thread = RuntimeError("can't start new thread")
        mocker.patch.object(prefetch_runs, "submit_daemon", side_effect=no_thread)
        embeddings = batch(max_workers=1)
        with embeddings.prefetch([*TEXTS, *TEXTS]) as prefetch:
            for _ in "ab":
                assert_right(embeddings.embed_documents(TEXTS[:10]), TEXTS[:10])
            assert not prefetch.ready
            assert not prefetch.runs
        assert server.stats()["inputs_billed"] == 10

    def test_a_run_that_got_no_thread_at_first_is_not_sent_later(
        self, batch: Batch, server: LocalServer, mocker: MockerFixture
    ) -> None:
        """A run that the executor keeps although it could start no thread sends nothing later.

        The calls have embedded its texts themselves.
        """
        kept: list[Callable[[], object]] = []

        def submit(_: object, work: Callable[..., object], *args: object) -> None:
            kept.append(partial(work, *args))
            raise RuntimeError("can't start new thread")

        mocker.patch.object(prefetch_runs, "submit_daemon", side_effect=submit)
        embeddings = batch(max_workers=1)
        with embeddings.prefetch(TEXTS[:10]):
            assert_right(embeddings.embed_documents(TEXTS[:10]), TEXTS[:10])
            for run in kept:
                run()
        assert kept
        assert server.stats()["inputs_billed"] == 10
