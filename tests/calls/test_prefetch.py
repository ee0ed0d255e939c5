"""Small calls are answered from large ones that were announced."""

import asyncio
import itertools
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.vectorstores import InMemoryVectorStore
from pytest_mock import MockerFixture

from langchain_batch_embed import (
    BatchEmbeddings,
    DeadlineError,
    DimensionsError,
    InputError,
    InputTypeError,
    OptionError,
    PartialEmbeddingsError,
)
from langchain_batch_embed.calls.prefetch import RUNS, Prefetch
from langchain_batch_embed.clock import SYSTEM_CLOCK
from langchain_batch_embed.texts.inputs import Inputs
from tests.support import (
    FakeClock,
    LocalServer,
    SpoiltFirst,
    assert_right,
    no_thread_left,
    treat_as_known,
    wait_until,
)

Batch = Callable[..., BatchEmbeddings]

TEXTS = [f"section {i}" for i in range(1000)]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """Wait for the end of every thread that a test started."""
    with no_thread_left():
        yield


def threads(name: str) -> list[threading.Thread]:
    """Return the threads that run whose names hold this one."""
    return [thread for thread in threading.enumerate() if name in thread.name]


def started(prefetch: Prefetch) -> Prefetch:
    """Return a prefetch that embeds as far ahead as it may, without a question."""
    prefetch.go_ahead()
    return prefetch


def slices(texts: Sequence[str], size: int) -> list[list[str]]:
    """Cut texts into portions, as a store does."""
    return [list(texts[start : start + size]) for start in range(0, len(texts), size)]


class TestCallers:
    """Whoever asks, and however little at a time, it is answered."""

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

    @pytest.mark.parametrize("max_buffered", [100, 20_000])
    def test_one_within_another_pays_for_nothing_twice(
        self, batch: Batch, server: LocalServer, max_buffered: int
    ) -> None:
        """The inner one takes what the outer one has on its way; neither reports a failure."""
        embeddings = batch()
        with embeddings.prefetch(TEXTS, max_buffered=max_buffered) as first:
            with embeddings.prefetch(TEXTS):
                for portion in slices(TEXTS, 100):
                    assert_right(embeddings.embed_documents(portion), portion)
                assert not first._ready  # what callers have got takes no room there
            inner = embeddings.last_report
        outer = embeddings.last_report
        assert inner is not None
        assert outer is not None
        assert (inner.failures, outer.failures) == (0, 0)
        assert inner.tokens + outer.tokens >= server.stats()["tokens_billed"]
        assert server.stats()["inputs_billed"] == 1000

    def test_what_an_inner_one_embeds_is_no_failure_of_the_outer_one(self, batch: Batch) -> None:
        """Also where nobody asks for it in the end."""
        embeddings = batch()
        with embeddings.prefetch(TEXTS, max_buffered=100), embeddings.prefetch(TEXTS) as inner:
            inner.go_ahead()
            wait_until(lambda: len(inner._ready) == len(TEXTS))
        assert embeddings.last_report is not None
        assert (embeddings.last_report.texts, embeddings.last_report.failures) == (1000, 0)

    def test_an_inner_one_that_is_left_takes_nothing_away(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """What it borrowed is still there for the calls that the outer one was for."""
        embeddings = batch()
        with started(embeddings.prefetch(TEXTS)) as outer:
            with started(embeddings.prefetch(TEXTS)) as inner:
                wait_until(lambda: len(inner._ready) == len(TEXTS))
            requests = server.stats()["requests"]
            for portion in slices(TEXTS, 100):
                assert_right(embeddings.embed_documents(portion), portion)
            assert not outer._ready
        assert server.stats()["requests"] == requests
        assert server.stats()["inputs_billed"] == 1000

    def test_what_the_outer_one_waits_for_holds_up_nothing_else(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """The inner one sends the other texts meanwhile."""
        server.configure(script=("hang",), hang_seconds=2)
        embeddings = batch(_clock=SYSTEM_CLOCK)
        with started(embeddings.prefetch(TEXTS[:1])) as outer:
            wait_until(lambda: server.stats()["requests"] == 1)
            with started(embeddings.prefetch(TEXTS[:2])):
                assert_right(embeddings.embed_documents(TEXTS[1:2]), TEXTS[1:2])
                assert outer._running

    def test_an_inner_one_that_ends_early_does_not_wait_for_the_outer_one(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Its threads end while the outer one's answers are still waited for."""
        server.configure(script=("hang",) * 20, hang_seconds=2)
        embeddings = batch(_clock=SYSTEM_CLOCK)
        with started(embeddings.prefetch(TEXTS)) as outer:
            with started(embeddings.prefetch(TEXTS)) as inner:
                wait_until(lambda: inner._runs > 0)
            wait_until(lambda: inner._runs == 0)
            assert outer._running

    @pytest.mark.parametrize("size", [1, 64, 100, 999, 1000])
    def test_a_loop_gets_what_it_would_get_without(
        self, batch: Batch, server: LocalServer, size: int
    ) -> None:
        """Portions of any size, lists and arrays: the same vectors, each text sent once."""
        embeddings = treat_as_known(batch(max_workers=4))
        with embeddings.prefetch(TEXTS):
            for portion in slices(TEXTS, size):
                assert_right(embeddings.embed_documents(portion), portion)
        with embeddings.prefetch(TEXTS):
            for portion in slices(TEXTS, size):
                assert_right(embeddings.embed_numpy(portion), portion)
        assert server.stats()["inputs_billed"] == 2000
        # One text at a time: each question allows four times as many ahead.
        assert server.stats()["requests"] <= (12 if size == 1 else 8)

    def test_texts_that_were_not_announced_still_work(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A call may mix announced texts and others."""
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
        """With room for few vectors, and those not the ones that are asked for."""
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
        """Eight threads in one prefetch: each gets its own texts, each text is sent once."""
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
        """A text that is announced once for each thread is sent once and kept for all."""
        embeddings = batch()
        with embeddings.prefetch(TEXTS[:200] * 4), ThreadPoolExecutor(4) as pool:
            got = list(pool.map(embeddings.embed_numpy, [TEXTS[:200]] * 4))
        for vectors in got:
            assert_right(vectors, TEXTS[:200])
        assert server.stats()["inputs_billed"] == 200

    def test_async_callers_are_answered_too(self, batch: Batch, server: LocalServer) -> None:
        """Many tasks at once, each with a few texts."""
        embeddings = batch()

        async def ask_all() -> list[list[list[float]]]:
            with embeddings.prefetch(TEXTS):
                return await asyncio.gather(
                    *(embeddings.aembed_documents(portion) for portion in slices(TEXTS, 50))
                )

        assert_right([vector for part in asyncio.run(ask_all()) for vector in part], TEXTS)
        assert server.stats()["inputs_billed"] == 1000

    def test_a_cancelled_task_stops_waiting(self, batch: Batch, server: LocalServer) -> None:
        """Its thread ends, although the answer that it waits for never comes."""
        server.configure(script=("hang",), hang_seconds=1)
        embeddings = batch(timeout=60)

        async def cancel() -> None:
            task = asyncio.create_task(embeddings.aembed_documents(["a"]))
            while server.stats()["in_flight"] == 0:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        with started(embeddings.prefetch(["a"])):
            asyncio.run(cancel())
            wait_until(lambda: not threads("async"))

    def test_queries_are_not_taken_for_documents(self, batch: Batch, server: LocalServer) -> None:
        """A query with the words of an announced text is sent as a query."""
        embeddings = batch()
        with embeddings.prefetch(["a"]):
            assert_right([embeddings.embed_query("a")], ["a"])
            assert_right(embeddings.embed_documents(["a"]), ["a"])
        assert server.stats()["inputs_billed"] == 2

    def test_two_prefetches_may_be_open(self, batch: Batch, server: LocalServer) -> None:
        """One call may be answered from both."""
        embeddings = batch()
        with embeddings.prefetch(TEXTS[:50]), embeddings.prefetch(TEXTS[50:100]):
            assert_right(embeddings.embed_numpy(TEXTS[:100]), TEXTS[:100])
        assert server.stats()["inputs_billed"] == 100

    def test_the_report_is_the_callers_and_then_the_blocks(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """`last_report` tells of a small call, which sent nothing itself; later, of the block."""
        embeddings = batch()
        with embeddings.prefetch([*TEXTS, *TEXTS[:50]]):
            embeddings.embed_documents(TEXTS)
            small = embeddings.last_report
        whole = embeddings.last_report
        assert small is not None
        assert whole is not None
        assert (small.texts, small.requests, small.tokens) == (1000, 0, 0)
        assert (whole.texts, whole.unique, whole.failures) == (1050, 1000, 0)
        stats = server.stats()
        assert (whole.requests, whole.tokens) == (stats["requests"], stats["tokens_billed"])

    def test_the_blocks_report_counts_what_its_calls_sent(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Texts that are asked for before their turn are sent by the call that asks.

        A request that several calls share is counted by each of them.
        """
        embeddings = batch()
        with embeddings.prefetch(TEXTS, max_buffered=100):
            for portion in slices(TEXTS[::-1], 50):
                embeddings.embed_documents(portion)
        report, stats = embeddings.last_report, server.stats()
        assert report is not None
        assert report.tokens == stats["tokens_billed"]
        assert stats["requests"] <= report.requests <= 2 * stats["requests"]

    def test_the_blocks_report_counts_each_text_without_a_vector(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """One refused text that was announced three times is three; one embedded later is none."""
        server.configure(refuse_marker="section 7")
        embeddings = batch(max_retries=0)
        announced = [*TEXTS[:10], "section 7", "section 7"]
        with embeddings.prefetch(announced), pytest.raises(PartialEmbeddingsError):
            embeddings.embed_documents(TEXTS[:10])
        assert embeddings.last_report is not None
        assert embeddings.last_report.failures == 3
        with embeddings.prefetch(["section 7"]) as prefetch:
            assert prefetch.wait_for_all(["section 7"]) == ["section 7"]
            server.configure()
            embeddings.embed_documents(["section 7"])
        assert embeddings.last_report.failures == 0
        server.configure(refuse_marker="section 7")
        # Asked for before its turn, it is the call that fails and not a run.
        announced = ["section 8", "section 7"]
        block = embeddings.prefetch(announced, max_buffered=1)
        with block, pytest.raises(PartialEmbeddingsError):
            embeddings.embed_documents(announced)
        assert embeddings.last_report.failures == 1

    def test_the_report_of_a_block_that_was_left_early_counts_what_is_missing(
        self, batch: Batch
    ) -> None:
        """Texts that nobody waited for have no vector."""
        embeddings = batch(max_workers=1)
        with started(embeddings.prefetch(TEXTS, max_buffered=100)) as prefetch:
            assert prefetch.wait_for_all(TEXTS[:100]) == []
        report = embeddings.last_report
        assert report is not None
        assert (report.texts, report.failures) == (1000, 900)


class TestQuestions:
    """Runs go no further ahead than the questions bear out."""

    def test_nothing_is_paid_for_before_the_first_question(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Nor where there is none: `index()` asks for nothing that it skips."""
        embeddings = batch()
        documents = [Document(text) for text in TEXTS]
        store, records = InMemoryVectorStore(embeddings), InMemoryRecordManager("test")
        records.create_schema()
        index(documents, records, store, batch_size=100, key_encoder="sha256")
        server.configure()
        with embeddings.prefetch(TEXTS) as prefetch:
            result = index(documents, records, store, batch_size=100, key_encoder="sha256")
            assert prefetch._runs == 0
        assert result["num_skipped"] == 1000
        assert server.stats()["requests"] == 0

    @pytest.mark.parametrize(
        ("step", "most"), [(100, 16), (50, 30), (10, 130), (4, 400), (2, 800), (1, 1000)]
    )
    def test_of_what_is_skipped_little_is_paid_for(
        self, batch: Batch, server: LocalServer, step: int, most: int
    ) -> None:
        """Of each portion every so many texts are asked for, and the others never."""
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
        """Nothing of the old ones is paid for, and the others take few requests."""
        embeddings = treat_as_known(batch(max_workers=2))
        with embeddings.prefetch(TEXTS):
            for portion in slices(TEXTS[600:], 10):
                assert_right(embeddings.embed_documents(portion), portion)
        assert server.stats()["inputs_billed"] == 400
        assert server.stats()["requests"] <= 12

    def test_the_first_question_is_answered_by_a_run(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Its texts and those ahead share requests, and its own call sends nothing."""
        embeddings = treat_as_known(batch(max_workers=1))
        with embeddings.prefetch(TEXTS):
            assert_right(embeddings.embed_documents(TEXTS[:100]), TEXTS[:100])
            assert embeddings.last_report is not None
            assert embeddings.last_report.requests == 0
            wait_until(lambda: server.stats()["in_flight"] == 0)
        assert 100 < server.stats()["inputs_billed"] <= 500

    def test_a_text_that_a_call_has_embedded_is_there_for_the_next_one(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """It was announced twice, and asked for before its turn."""
        embeddings = batch(max_workers=1)
        with embeddings.prefetch([*TEXTS, *TEXTS]) as prefetch:
            prefetch._runs = RUNS  # as many as there may be, so that a call has to help itself
            for _ in "ab":
                assert_right(embeddings.embed_documents(TEXTS[:10]), TEXTS[:10])
            assert not prefetch._ready
            prefetch._runs = 0
        assert server.stats()["inputs_billed"] == 10


class TestTexts:
    """Texts that are special are not sent twice either."""

    def test_a_text_announced_as_often_as_asked_for_is_sent_once(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Within one call and in several ones."""
        texts = [f"section {i % 100}" for i in range(1000)]
        embeddings = batch()
        with embeddings.prefetch(texts):
            for portion in slices(texts, 130):
                assert_right(embeddings.embed_documents(portion), portion)
        assert server.stats()["inputs_billed"] == 100

    def test_a_text_announced_more_often_than_asked_for_makes_room(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """What `index()` skips because it has it already does not clog the buffer."""
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
        """What is sent is not what was announced, but the vector finds its text."""
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
        """A generator will, one string or something else than strings will not."""
        embeddings = batch()
        with embeddings.prefetch(text for text in TEXTS[:3]):
            assert_right(embeddings.embed_documents(TEXTS[:3]), TEXTS[:3])
        for wrong in ("one string", [1, 2]):
            with pytest.raises(InputTypeError):
                embeddings.prefetch(wrong)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match="max_buffered"):
            embeddings.prefetch(TEXTS, max_buffered=0)


class TestErrors:
    """An error reaches the caller whose text it is, and nobody else."""

    def test_a_refused_text_fails_in_its_own_call(self, batch: Batch, server: LocalServer) -> None:
        """All other calls are answered, and no good text is sent twice."""
        server.configure(refuse_marker="poison")
        texts = [*TEXTS[:123], "poison", *TEXTS[123:999]]
        embeddings = batch(max_workers=4)
        with embeddings.prefetch(texts):
            for number, portion in enumerate(slices(texts, 50)):
                if number == 2:
                    with pytest.raises(PartialEmbeddingsError) as caught:
                        embeddings.embed_documents(portion)
                    assert [failure.index for failure in caught.value.failures] == [23]
                    assert isinstance(caught.value.__cause__, openai.BadRequestError)
                else:
                    assert_right(embeddings.embed_documents(portion), portion)
        assert server.stats()["inputs_billed"] == 999

    @pytest.mark.parametrize("size", [2, 30, 500])
    def test_a_text_that_can_never_be_embedded_costs_the_others_nothing(
        self, batch: Batch, server: LocalServer, size: int
    ) -> None:
        """An empty text among the announced: the run does without it."""
        texts = [*TEXTS[:100], "", *TEXTS[100:499]]
        embeddings = batch(max_workers=2)
        with embeddings.prefetch(texts):
            for portion in slices(texts, size):
                if "" in portion:
                    with pytest.raises(InputError) as caught:
                        embeddings.embed_documents(portion)
                    assert caught.value.indices == (portion.index(""),)
                    portion.remove("")
                assert_right(embeddings.embed_documents(portion), portion)
        assert server.stats()["requests"] <= 4
        assert server.stats()["inputs_billed"] == 499

    @pytest.mark.parametrize("known", [False, True])
    def test_vectors_of_another_width_are_never_handed_out(
        self, batch: Batch, server: LocalServer, known: bool
    ) -> None:
        """After the model has changed no text gets another's vector, and little is paid in vain."""
        embeddings = batch(max_workers=1, max_batch_size=10)
        if known:
            embeddings.embed_query("of the old width")
            server.configure(dimensions=64)
        failed = []
        with embeddings.prefetch(TEXTS[:400], max_buffered=80):
            for number, portion in enumerate(slices(TEXTS[:400], 20)):
                try:
                    assert_right(embeddings.embed_documents(portion), portion)
                except PartialEmbeddingsError as error:
                    assert isinstance(error.__cause__, DimensionsError)
                    failed.append(number)
                if number == 10 and not known:
                    server.configure(dimensions=64)
        if known:  # lost are three answers of each run and call that was under way
            assert max(failed, default=0) < 3
            assert server.stats()["inputs_billed"] <= 400 + 5 * 3 * 10
        else:
            assert failed == list(range(min(failed), 20))  # a store has all of one width
            assert min(failed) > 10  # what had come before is handed out still
        assert_right(embeddings.embed_numpy(TEXTS[:20]), TEXTS[:20])

    def test_a_vector_of_another_width_leaves_the_others_as_they_are(self) -> None:
        """It is refused before anything of it is kept."""
        prefetch = Prefetch(lambda *_: None, max_buffered=100, on_close=lambda _: None)
        with prefetch:
            prefetch.announce(["a", "b"])
            prefetch.add(["a"], np.ones((1, 2), dtype=np.float32))
            with pytest.raises(DimensionsError, match="vectors of 3 numbers came"):
                prefetch.add(["b"], np.ones((1, 3), dtype=np.float32))
            assert prefetch.wait_for_all(["a", "b"]) == ["b"]

    def test_a_spoilt_first_answer_is_not_held_against_all_others(self, batch: Batch) -> None:
        """What came of it is dropped, and nearly everything is prefetched all the same."""
        wrapped = SpoiltFirst(3)
        embeddings = batch(wrapped, max_batch_size=10, max_workers=1)
        failed = 0
        with embeddings.prefetch(TEXTS, max_buffered=80):
            for portion in slices(TEXTS, 10):
                try:
                    assert len(embeddings.embed_numpy(portion)) == 10
                except PartialEmbeddingsError:
                    failed += 1
        assert failed <= 5
        assert sum(wrapped.sent) <= 1.2 * len(TEXTS)

    @pytest.mark.parametrize(("asked", "known"), [(False, True), (True, False)])
    def test_a_changed_model_ends_the_runs(self, asked: bool, known: bool) -> None:
        """Each further one would be paid for, and thrown away."""
        calls = []

        def embed(prefetch: Prefetch, texts: Sequence[str], cancelled: threading.Event) -> None:
            del cancelled
            calls.append(texts)
            if known and texts == ["0"]:
                prefetch.add(texts, np.ones((1, 2), dtype=np.float32))
            elif texts != ["0"]:
                raise DimensionsError(expected=2, received=3, asked=asked)

        prefetch = Prefetch(embed, max_buffered=2, on_close=lambda _: None)
        with prefetch:
            prefetch.announce([str(i) for i in range(100)])
            wait_until(lambda: not prefetch._runs)
            assert len(calls) <= 1 + RUNS

    def test_an_error_of_the_account_reaches_every_caller(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """With a wrong key every call fails at once, and none waits for ever."""
        server.configure(faults={"401": 1.0})
        embeddings = batch()
        with embeddings.prefetch(TEXTS[:300]):
            for portion in slices(TEXTS[:300], 100):
                with pytest.raises(PartialEmbeddingsError) as caught:
                    embeddings.embed_documents(portion)
                assert isinstance(caught.value.__cause__, openai.AuthenticationError)
        assert server.stats()["requests"] <= 12

    def test_a_deadline_counts_the_wait_for_a_prefetch(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A call is left at its deadline, also when it is not its own request that hangs."""
        server.configure(script=("hang",), hang_seconds=1)
        embeddings = batch(deadline=0.3, timeout=60, _clock=SYSTEM_CLOCK)
        with started(embeddings.prefetch(["a"])):
            wait_until(lambda: server.stats()["in_flight"] == 1)
            with pytest.raises(PartialEmbeddingsError) as caught:
                embeddings.embed_documents(["a"])
        assert isinstance(caught.value.__cause__, DeadlineError)
        assert caught.value.__cause__.deadline == 0.3
        assert server.stats()["requests"] == 1

    def test_a_deadline_counts_from_the_calls_start(
        self, batch: Batch, server: LocalServer, clock: FakeClock, mocker: MockerFixture
    ) -> None:
        """The time in which texts are counted is part of it, before any wait."""
        server.configure(script=("hang",), hang_seconds=1)
        embeddings = batch(deadline=5)
        prepare = embeddings._pipeline.prepare

        def slowly(texts: Sequence[str]) -> Inputs:
            clock.time += 2
            return prepare(texts)

        with started(embeddings.prefetch(["a"])):
            wait_until(lambda: server.stats()["in_flight"] == 1)
            mocker.patch.object(embeddings._pipeline, "prepare", slowly)
            with pytest.raises(PartialEmbeddingsError):
                embeddings.embed_documents(["a"])
        assert clock.time == 5

    def test_what_a_call_left_at_its_deadline_is_there_for_the_next_one(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """It was on its way, and so it is paid for once."""
        server.configure(script=("drip",), drip_seconds=0.002, dimensions=64)
        embeddings = batch(deadline=0.2, timeout=60, _clock=SYSTEM_CLOCK)
        with started(embeddings.prefetch(["a"])):
            wait_until(lambda: server.stats()["in_flight"] == 1)
            with pytest.raises(PartialEmbeddingsError):
                embeddings.embed_documents(["a"])
            wait_until(lambda: server.stats()["in_flight"] == 0)
            assert_right(embeddings.embed_documents(["a"]), ["a"])
        assert server.stats()["requests"] == 1

    def test_what_was_left_at_a_deadline_makes_room(self) -> None:
        """Where nobody asks for it again, the texts that were announced later are embedded."""
        came: list[str] = []
        let_go = threading.Event()

        def embed(prefetch: Prefetch, texts: Sequence[str], cancelled: threading.Event) -> None:
            del cancelled
            assert let_go.wait(10)
            prefetch.add(texts, np.ones((len(texts), 2), dtype=np.float32))
            came.extend(texts)

        prefetch = Prefetch(embed, max_buffered=2, on_close=lambda _: None)
        with started(prefetch):
            prefetch.announce(["a", "b", "c", "d"])
            wait_until(lambda: len(threads("prefetch")) == 2)
            assert list(prefetch.receive(["a", "b"], end=0.0)) == []
            let_go.set()
            wait_until(lambda: sorted(came) == ["a", "b", "c", "d"])

    def test_one_that_fails_ends_only_when_its_runs_have_kept_what_they_have(self) -> None:
        """The next call finds it, and does not pay for it again."""
        kept: list[str] = []

        def embed(_: Prefetch, texts: Sequence[str], cancelled: threading.Event) -> None:
            assert cancelled.wait(10)
            threading.Event().wait(0.05)  # it is still writing
            kept.extend(texts)

        prefetch = started(Prefetch(embed, max_buffered=4, on_close=lambda _: None))
        prefetch.announce(["a", "b"])
        prefetch.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        assert sorted(kept) == ["a", "b"]


class TestTokens:
    """The tokens of a text are counted once."""

    def test_a_call_does_not_count_what_a_run_has_counted(
        self, batch: Batch, mocker: MockerFixture
    ) -> None:
        """Only a text that was not announced is counted in the call."""
        embeddings = batch()
        count = mocker.spy(embeddings._pipeline.fetcher.counter, "count")
        with started(embeddings.prefetch(TEXTS[:100])) as prefetch:
            wait_until(lambda: len(prefetch._ready) == 100)
            counted = [text for call in count.call_args_list for text in call.args[0]]
            assert sorted(counted) == sorted(TEXTS[:100])
            count.reset_mock()
            texts = [*TEXTS[:100], "another"]
            assert_right(embeddings.embed_numpy(texts), texts)
        count.assert_called_once_with(["another"])

    def test_counts_are_dropped_with_their_texts(self, batch: Batch) -> None:
        """A long prefetch holds no more of them than it has texts."""
        embeddings = batch()
        with embeddings.prefetch([*TEXTS[:100], "twice", "twice"]) as prefetch:
            for portion in slices([*TEXTS[:100], "twice"], 25):
                embeddings.embed_numpy(portion)
            wait_until(lambda: not prefetch._runs)
            assert set(prefetch._tokens) <= {"twice"}


class TestBounds:
    """Vectors are few, and end with the block."""

    def test_no_more_than_max_buffered_is_sent_ahead(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Nobody asks, so it stops when the buffer is full, and goes on when there is room."""
        embeddings = batch(max_workers=2)
        with started(embeddings.prefetch(TEXTS, max_buffered=100)):
            wait_until(lambda: server.stats()["inputs_billed"] == 100)
            wait_until(lambda: server.stats()["in_flight"] == 0)
            embeddings.embed_documents(TEXTS[:60])  # makes room for two runs
            wait_until(lambda: server.stats()["inputs_billed"] == 150)
            wait_until(lambda: server.stats()["in_flight"] == 0)
        assert server.stats()["inputs_billed"] == 150

    @pytest.mark.parametrize("max_buffered", [1, 2, 10, 33, 5000])
    def test_never_more_vectors_are_held(self, max_buffered: int) -> None:
        """Here and on their way together, whenever a run starts or a vector comes."""
        held: list[int] = []
        runs: list[int] = []

        def embed(prefetch: Prefetch, texts: Sequence[str], cancelled: threading.Event) -> None:
            del cancelled
            runs.append(len(texts))
            for text in texts:
                with prefetch._state_changed:
                    prefetch.add([text], np.full((1, 2), float(text), dtype=np.float32))
                    held.append(len(prefetch._ready) + len(prefetch._running))

        prefetch = Prefetch(embed, max_buffered=max_buffered, on_close=lambda _: None)
        texts = [str(i) for i in range(500)]
        with prefetch:
            prefetch.announce(texts)
            for portion in slices(texts, 20):
                for names, vectors in prefetch.receive(portion):
                    assert vectors[:, 0].tolist() == [float(name) for name in names]
            wait_until(lambda: prefetch._runs == 0)
            assert len(prefetch._ready) + len(prefetch._running) + len(prefetch._waiting) == 0
            assert not prefetch._expected
        assert max(held) <= max_buffered
        assert max(runs) <= max(1, max_buffered // 4)

    @pytest.mark.parametrize("attempt", range(10))
    def test_what_a_caller_waits_for_makes_no_room(self, attempt: int) -> None:
        """Left at a deadline and asked for again, it is handed over before anything is dropped."""
        del attempt  # whether a thread is in time for it is chance
        let_go = threading.Event()

        def embed(prefetch: Prefetch, texts: Sequence[str], cancelled: threading.Event) -> None:
            del cancelled
            assert let_go.wait(10)
            prefetch.add(texts, np.ones((len(texts), 2), dtype=np.float32))

        def take() -> list[str]:
            return [text for texts, _ in prefetch.receive(["a", "b"]) for text in texts]

        prefetch = Prefetch(embed, max_buffered=2, on_close=lambda _: None)
        with prefetch, ThreadPoolExecutor(1) as caller:
            prefetch.announce(["a", "b", "c", "d"])
            assert list(prefetch.receive(["a", "b"], end=0.0)) == []
            taken = caller.submit(take)
            wait_until(lambda: prefetch._wanted.total() == 2)
            let_go.set()
            assert sorted(taken.result(10)) == ["a", "b"]
        assert not prefetch._wanted

    def test_a_run_that_ends_leaves_another_ones_texts_alone(self) -> None:
        """A text that was handed out and announced again is on its way a second time."""
        numbers, started = itertools.count(), threading.Event()
        first, second = threading.Event(), threading.Event()

        def embed(prefetch: Prefetch, texts: Sequence[str], cancelled: threading.Event) -> None:
            del cancelled
            if next(numbers):
                started.set()
                assert second.wait(10)
                prefetch.add(texts, np.full((len(texts), 2), 2, dtype=np.float32))
            else:
                prefetch.add(["twice"], np.ones((1, 2), dtype=np.float32))
                assert first.wait(10)

        prefetch = Prefetch(embed, max_buffered=100, on_close=lambda _: None)
        with prefetch:
            prefetch.announce(["twice", "other"])
            assert [texts for texts, _ in prefetch.receive(["twice"])] == [["twice"]]
            prefetch.announce(["twice"])
            assert started.wait(10)
            first.set()
            wait_until(lambda: prefetch._runs == 1)
            threading.Timer(0.05, second.set).start()
            ((_, vectors),) = prefetch.receive(["twice"])
            assert vectors.tolist() == [[2, 2]]

    def test_a_vector_that_nobody_expects_any_more_is_not_kept(self) -> None:
        """Released while it was on its way, it would stay for good."""
        go_on = threading.Event()

        def embed(prefetch: Prefetch, texts: Sequence[str], cancelled: threading.Event) -> None:
            del cancelled
            assert go_on.wait(10)
            prefetch.add(texts, np.ones((len(texts), 2), dtype=np.float32))

        prefetch = Prefetch(embed, max_buffered=8, until_released=True, on_close=lambda _: None)
        with prefetch:
            prefetch.announce(["a", "b"])
            prefetch.release(["a"])
            go_on.set()
            assert prefetch.wait_for_all(["a", "b"]) == ["a"]

    def test_what_is_settled_is_told_without_waiting_for_the_rest(self) -> None:
        """Ready or failed, up to the first that is on its way once there are enough."""
        go_on = threading.Event()

        def embed(prefetch: Prefetch, texts: Sequence[str], cancelled: threading.Event) -> None:
            del cancelled
            for text in texts:
                if text == "late":
                    assert go_on.wait(10)
                elif text != "bad":
                    prefetch.add([text], np.zeros((1, 2), dtype=np.float32))

        texts = ["a", "b", "bad", "c", "late", "d"]
        prefetch = Prefetch(embed, max_buffered=4, on_close=lambda _: None)  # runs of one
        with started(prefetch):
            prefetch.announce(texts)
            assert prefetch.wait_for_some(texts[:4], least=10) == 4
            assert prefetch.wait_for_some(texts, least=3) == 4
            assert prefetch.wait_for_some(["a", "d"], least=1) == 1  # there is no room for "d" yet
            go_on.set()
            assert prefetch.wait_for_some(texts[:5], least=10) == 5

    def test_a_slow_caller_does_not_make_small_requests(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """With one caller that asks for a few at a time, runs wait until there is enough room."""
        embeddings = batch(max_workers=1)
        with embeddings.prefetch(TEXTS, max_buffered=400):
            for portion in slices(TEXTS, 5):
                wait_until(lambda: server.stats()["in_flight"] == 0)
                assert_right(embeddings.embed_documents(portion), portion)
        assert server.stats()["requests"] <= 1000 / 100 + 1
        assert server.stats()["inputs_billed"] == 1000

    def test_closing_early_stops_requests_and_threads(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """What is in flight ends, nothing more is sent, and nothing is kept."""
        server.configure(latency=0.2)
        embeddings = batch(max_workers=2, max_batch_size=10)
        with embeddings.prefetch(TEXTS):
            assert_right(embeddings.embed_documents(TEXTS[:15]), TEXTS[:15])
        wait_until(lambda: server.stats()["in_flight"] == 0 and not threads("prefetch"))
        paid = server.stats()["inputs_billed"]
        assert paid < 500
        assert embeddings._pipeline.recovery.memory.stats().vectors == 0
        assert embeddings._pipeline.prefetches.opened == ()
        assert_right(embeddings.embed_documents(["after"]), ["after"])
        assert server.stats()["inputs_billed"] == paid + 1

    def test_an_exception_in_the_block_gets_out(self, batch: Batch, server: LocalServer) -> None:
        """The caller's own error ends the prefetch, and is not replaced by another."""
        server.configure(latency=0.2)
        embeddings = batch(max_workers=2, max_batch_size=10)
        with pytest.raises(ZeroDivisionError), embeddings.prefetch(TEXTS):
            raise ZeroDivisionError
        wait_until(lambda: server.stats()["in_flight"] == 0 and not threads("prefetch"))
        assert server.stats()["inputs_billed"] < 500

    def test_what_is_paid_for_outlives_an_exception(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Without a journal too: what is here, and what is on its way."""
        server.configure(latency=0.2)
        embeddings = batch(max_workers=2, max_batch_size=10)

        def use() -> None:
            with started(embeddings.prefetch(TEXTS[:200])) as prefetch:
                assert_right(embeddings.embed_documents(TEXTS[:10]), TEXTS[:10])
                wait_until(lambda: len(prefetch._ready) >= 20)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            use()
        wait_until(lambda: server.stats()["in_flight"] == 0 and not threads("prefetch"))
        paid = server.stats()["inputs_billed"]
        wait_until(lambda: embeddings._pipeline.recovery.memory.stats().vectors == paid - 10)
        assert_right(embeddings.embed_numpy(TEXTS[10:200]), TEXTS[10:200])
        assert server.stats()["inputs_billed"] == 200

    def test_closing_lets_go_of_those_who_wait(self, batch: Batch, server: LocalServer) -> None:
        """A call in another thread then embeds its texts itself."""
        server.configure(script=("hang",), hang_seconds=1)
        embeddings = batch(timeout=60)
        with ThreadPoolExecutor(1) as thread:
            with started(embeddings.prefetch(["a"])):
                wait_until(lambda: server.stats()["in_flight"] == 1)
                answer = thread.submit(embeddings.embed_documents, ["a"])
            assert_right(answer.result(), ["a"])

    def test_the_journal_keeps_what_is_prefetched(
        self, batch: Batch, server: LocalServer, tmp_path: Path
    ) -> None:
        """Also what nobody asked for, so that it is paid for once."""
        embeddings = batch(journal=tmp_path / "j")
        with started(embeddings.prefetch(TEXTS)):
            embeddings.embed_documents(TEXTS[:10])
            wait_until(lambda: embeddings.journal.stats().vectors == 1000)
        again = batch(journal=tmp_path / "j")
        with again.prefetch([*TEXTS, "new"]):
            for portion in slices([*TEXTS, "new"], 90):
                assert_right(again.embed_documents(portion), portion)
        assert server.stats()["inputs_billed"] == 1001
