"""Small calls are answered from the large requests of announced texts."""

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings
from pytest_mock import MockerFixture

from langchain_batch_embed import BatchEmbeddings, InputTypeError, OptionError
from langchain_batch_embed.clock import SYSTEM_CLOCK
from tests.calls.prefetches import TEXTS, slices, started, threads
from tests.support import LocalServer, assert_right, treat_as_known, wait_until
from tests.survival.support import holding

Batch = Callable[..., BatchEmbeddings]

Wrapped = Callable[..., OpenAIEmbeddings]

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


class TestCallers:
    """Every caller is answered, however few texts it asks for at a time."""

    def test_index_in_small_batches_sends_large_requests(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """`index(batch_size=100)` over 5,000 documents takes at most 60 requests."""
        documents = [Document(f"{'word ' * 120}{i}") for i in range(5000)]
        embeddings = treat_as_known(batch())
        store = InMemoryVectorStore(embeddings)
        records = InMemoryRecordManager("test")
        records.create_schema()
        with embeddings.prefetch(document.page_content for document in documents):
            result = index(documents, records, store, batch_size=100, key_encoder="sha256")
        assert result["num_added"] == 5000
        stats = server.stats()
        assert stats["requests"] <= 60
        assert stats["inputs_billed"] == stats["texts_billed_distinct"] == 5000
        rows = list(store.store.values())
        assert {row["text"] for row in rows} == {document.page_content for document in documents}
        assert_right([row["vector"] for row in rows], [row["text"] for row in rows])

    @pytest.mark.parametrize("size", [1, 64, 100, 999, 1000])
    def test_a_loop_gets_what_it_would_get_without(
        self, batch: Batch, server: LocalServer, size: int
    ) -> None:
        """Portions of any size get the right vectors, and each text is sent once.

        This holds for lists and for arrays.
        """
        embeddings = treat_as_known(batch(max_workers=4))
        with embeddings.prefetch(TEXTS):
            for portion in slices(TEXTS, size):
                assert_right(embeddings.embed_documents(portion), portion)
        with embeddings.prefetch(TEXTS):
            for portion in slices(TEXTS, size):
                assert_right(embeddings.embed_numpy(portion), portion)
        assert server.stats()["inputs_billed"] == 2000
        # With one text at a time, each question permits four times as many ahead.
        assert server.stats()["requests"] <= (12 if size == 1 else 8)

    def test_texts_that_were_not_announced_still_work(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A call may mix announced texts with others."""
        embeddings = batch()
        with embeddings.prefetch(TEXTS[:500]):
            for portion in slices(TEXTS[::-1], 100):
                assert_right(embeddings.embed_documents(portion), portion)
        assert server.stats()["inputs_billed"] == 1000

    @pytest.mark.parametrize("max_buffered", [1, 7, 300])
    @pytest.mark.parametrize("size", [3, 200])
    def test_another_order_than_announced_cannot_block(
        self, batch: Batch, server: LocalServer, max_buffered: int, size: int
    ) -> None:
        """Any order of questions is answered, even if the buffer is small and has other vectors."""
        texts = TEXTS[:600]
        embeddings = batch()
        for order in (texts[::-1], random.Random(0).sample(texts, len(texts)), texts):
            server.configure()
            with embeddings.prefetch(texts, max_buffered=max_buffered):
                for portion in slices(order, size):
                    assert_right(embeddings.embed_documents(portion), portion)
            assert server.stats()["texts_billed_distinct"] == 600
            assert server.stats()["inputs_billed"] == 600

    def test_several_threads_share_what_arrives(self, batch: Batch, server: LocalServer) -> None:
        """Eight threads share one prefetch, each gets its own texts, and each text is sent once."""
        embeddings = batch()

        def ask(portion: list[str]) -> None:
            assert_right(embeddings.embed_documents(portion), portion)

        with embeddings.prefetch(TEXTS), ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(ask, portion) for portion in slices(TEXTS, 25)]:
                done.result()
        assert server.stats()["inputs_billed"] == 1000

    def test_several_threads_may_need_the_same_text(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A text announced once for each thread is sent once and kept for all of them."""
        embeddings = batch()
        with embeddings.prefetch(TEXTS[:200] * 4), ThreadPoolExecutor(4) as pool:
            got = list(pool.map(embeddings.embed_numpy, [TEXTS[:200]] * 4))
        for vectors in got:
            assert_right(vectors, TEXTS[:200])
        assert server.stats()["inputs_billed"] == 200

    def test_async_callers_are_answered_too(self, batch: Batch, server: LocalServer) -> None:
        """Many concurrent tasks, each with a few texts, are answered from one prefetch."""
        embeddings = batch()

        async def ask_all() -> list[list[list[float]]]:
            with embeddings.prefetch(TEXTS):
                return await asyncio.gather(
                    *(embeddings.aembed_documents(portion) for portion in slices(TEXTS, 50))
                )

        assert_right([vector for part in asyncio.run(ask_all()) for vector in part], TEXTS)
        assert server.stats()["inputs_billed"] == 1000

    def test_a_cancelled_task_stops_waiting(self, batch: Batch, openai_embeddings: Wrapped) -> None:
        """The thread of a cancelled task ends while the answer that it waits for is held back."""

        async def cancel() -> None:
            task = asyncio.create_task(embeddings.aembed_documents(["a"]))
            while not threads("async"):
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        with holding() as (endpoint, _):
            embeddings = batch(openai_embeddings(base_url=endpoint.url), _clock=SYSTEM_CLOCK)
            with started(embeddings.prefetch(["a"])) as prefetch:
                wait_until(lambda: len(endpoint.asked) == 1)
                asyncio.run(cancel())
                wait_until(lambda: not threads("async"))
                assert prefetch.running

    def test_queries_are_not_taken_for_documents(self, batch: Batch, server: LocalServer) -> None:
        """A query with the words of an announced text is still sent as a query."""
        embeddings = batch()
        with embeddings.prefetch(["a"]):
            assert_right([embeddings.embed_query("a")], ["a"])
            assert_right(embeddings.embed_documents(["a"]), ["a"])
        assert server.stats()["inputs_billed"] == 2


class TestTexts:
    """Repeated and unusual texts are not sent twice either."""

    def test_a_text_announced_as_often_as_asked_for_is_sent_once(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A repeated text is sent once, within one call and over several calls."""
        texts = [f"section {i % 100}" for i in range(1000)]
        embeddings = batch()
        with embeddings.prefetch(texts):
            for portion in slices(texts, 130):
                assert_right(embeddings.embed_documents(portion), portion)
        assert server.stats()["inputs_billed"] == 100

    def test_a_text_announced_more_often_than_asked_for_makes_room(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Surplus vectors of a text are dropped to make room.

        So texts that `index()` skips do not fill the buffer.
        """
        texts = TEXTS[:400]
        embeddings = batch()
        with embeddings.prefetch([text for text in texts for _ in "ab"], max_buffered=100):
            for portion in slices(texts, 10):
                assert_right(embeddings.embed_documents(portion), portion)
        assert server.stats()["inputs_billed"] == 400
        assert server.stats()["requests"] < 25

    @pytest.mark.parametrize("long_inputs", ["average", "truncate"])
    def test_over_long_texts_and_lone_surrogates_are_prefetched(
        self, batch: Batch, server: LocalServer, long_inputs: str
    ) -> None:
        """The vector of a text is found even if the text was cut or cleaned before it was sent."""
        texts = ["short", " ".join(f"word{i}" for i in range(8000)), "half a \ud83d"]
        expected = batch(long_inputs=long_inputs).embed_numpy(texts)
        sent = server.stats()["inputs_billed"]
        server.configure()
        embeddings = batch(long_inputs=long_inputs)
        with embeddings.prefetch(texts):
            got = [embeddings.embed_numpy([text])[0] for text in texts]
        assert np.array(got).tobytes() == expected.tobytes()
        assert server.stats()["inputs_billed"] == sent

    def test_any_iterable_of_strings_will_do(self, batch: Batch) -> None:
        """A prefetch accepts any iterable of strings, but not a single string."""
        embeddings = batch()
        with embeddings.prefetch(text for text in TEXTS[:3]):
            assert_right(embeddings.embed_documents(TEXTS[:3]), TEXTS[:3])
        for wrong in ("one string", [1, 2]):
            with pytest.raises(InputTypeError):
                embeddings.prefetch(wrong)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match="max_buffered"):
            embeddings.prefetch(TEXTS, max_buffered=0)


class TestTokens:
    """The tokens of a text are counted once."""

    def test_a_call_does_not_count_what_a_run_has_counted(
        self, batch: Batch, mocker: MockerFixture
    ) -> None:
        """A call counts only the tokens of texts that were not announced."""
        embeddings = batch()
        count = mocker.spy(embeddings._pipeline.fetcher.counter, "count")
        with started(embeddings.prefetch(TEXTS[:100])) as prefetch:
            wait_until(lambda: prefetch.ready == 100)
            counted = [text for call in count.call_args_list for text in call.args[0]]
            assert sorted(counted) == sorted(TEXTS[:100])
            count.reset_mock()
            texts = [*TEXTS[:100], "another"]
            assert_right(embeddings.embed_numpy(texts), texts)
        count.assert_called_once_with(["another"])

    def test_counts_are_dropped_with_their_texts(self, batch: Batch) -> None:
        """Token counts are dropped with their texts, so a long prefetch needs no extra memory."""
        embeddings = batch()
        with embeddings.prefetch([*TEXTS[:100], "twice", "twice"]) as prefetch:
            for portion in slices([*TEXTS[:100], "twice"], 25):
                embeddings.embed_numpy(portion)
            wait_until(lambda: not prefetch.runs)
            assert [text for text in TEXTS[:100] if prefetch.tokens_of(text) is not None] == []
