"""Errors and deadlines in a prefetch reach only the call whose text is affected."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence

import numpy as np
import openai
import pytest
from langchain_openai import OpenAIEmbeddings
from pytest_mock import MockerFixture

from langchain_batch_embed import (
    BatchEmbeddings,
    DeadlineError,
    DimensionsError,
    InputError,
    PartialEmbeddingsError,
)
from langchain_batch_embed.calls.prefetch import RUNS, Prefetch
from langchain_batch_embed.clock import SYSTEM_CLOCK
from langchain_batch_embed.texts.inputs import Inputs
from tests.calls.prefetches import TEXTS, slices, started, threads
from tests.support import FakeClock, LocalServer, SpoiltFirst, assert_right, wait_until
from tests.survival.support import holding

Batch = Callable[..., BatchEmbeddings]

Wrapped = Callable[..., OpenAIEmbeddings]

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


class TestErrors:
    """An error reaches only the caller whose text is affected."""

    def test_a_refused_text_fails_in_its_own_call(self, batch: Batch, server: LocalServer) -> None:
        """A refused text fails in its own call, and no other text is sent twice."""
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
        """An announced empty text fails alone, and the other texts are sent without it."""
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
        """After the model changed, no wrong vector is handed out, and few requests are wasted."""
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
        if known:  # three answers of each run and call in progress are lost
            assert max(failed, default=0) < 3
            assert server.stats()["inputs_billed"] <= 400 + 5 * 3 * 10
        else:
            assert failed == list(range(min(failed), 20))  # a store must have vectors of one width
            assert min(failed) > 10  # vectors that had arrived before are still handed out
        assert_right(embeddings.embed_numpy(TEXTS[:20]), TEXTS[:20])

    def test_a_vector_of_another_width_leaves_the_others_as_they_are(self) -> None:
        """A vector of another width is refused before any of it is stored."""
        prefetch = Prefetch(lambda *_: None, max_buffered=100, on_close=lambda _: None)
        with prefetch:
            prefetch.announce(["a", "b"])
            prefetch.add(["a"], np.ones((1, 2), dtype=np.float32))
            with pytest.raises(DimensionsError, match="sent vectors with 3 dimensions"):
                prefetch.add(["b"], np.ones((1, 3), dtype=np.float32))
            assert prefetch.wait_for_all(["a", "b"]) == ["b"]

    def test_a_spoilt_first_answer_is_not_held_against_all_others(self, batch: Batch) -> None:
        """Texts from a spoilt first answer are dropped, and nearly all others are prefetched."""
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
        """After the model has changed no further run begins, as its vectors would be useless."""
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
            wait_until(lambda: not prefetch.runs)
            assert len(calls) <= 1 + RUNS

    def test_an_error_of_the_account_reaches_every_caller(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """With a wrong key every call fails at once, and none waits."""
        server.configure(faults={"401": 1.0})
        embeddings = batch()
        with embeddings.prefetch(TEXTS[:300]):
            for portion in slices(TEXTS[:300], 100):
                with pytest.raises(PartialEmbeddingsError) as caught:
                    embeddings.embed_documents(portion)
                assert isinstance(caught.value.__cause__, openai.AuthenticationError)
        assert server.stats()["requests"] <= 12

    def test_a_deadline_counts_the_wait_for_a_prefetch(
        self, batch: Batch, openai_embeddings: Wrapped
    ) -> None:
        """A call ends at its deadline even if it waits for a request of the prefetch."""
        with holding() as (endpoint, _):
            wrapped = openai_embeddings(base_url=endpoint.url)
            embeddings = batch(wrapped, deadline=0.3, timeout=60, _clock=SYSTEM_CLOCK)
            with started(embeddings.prefetch(["a"])):
                wait_until(lambda: len(endpoint.asked) == 1)
                with pytest.raises(PartialEmbeddingsError) as caught:
                    embeddings.embed_documents(["a"])
        assert isinstance(caught.value.__cause__, DeadlineError)
        assert caught.value.__cause__.deadline == 0.3
        assert len(endpoint.asked) == 1

    def test_a_deadline_counts_from_the_calls_start(
        self, batch: Batch, openai_embeddings: Wrapped, clock: FakeClock, mocker: MockerFixture
    ) -> None:
        """A deadline includes the time in which a call's texts are counted."""

        def slowly(texts: Sequence[str]) -> Inputs:
            clock.time += 2
            return prepare(texts)

        with holding() as (endpoint, _):
            embeddings = batch(openai_embeddings(base_url=endpoint.url), deadline=5)
            prepare = embeddings._pipeline.prepare
            with started(embeddings.prefetch(["a"])):
                wait_until(lambda: len(endpoint.asked) == 1)
                mocker.patch.object(embeddings._pipeline, "prepare", slowly)
                with pytest.raises(PartialEmbeddingsError):
                    embeddings.embed_documents(["a"])
        assert clock.time == 5

    def test_what_a_call_left_at_its_deadline_is_there_for_the_next_one(
        self, batch: Batch, openai_embeddings: Wrapped
    ) -> None:
        """An answer that comes after a call's deadline serves the next call, so it is paid once."""
        with holding() as (endpoint, let_go):
            wrapped = openai_embeddings(base_url=endpoint.url)
            embeddings = batch(wrapped, deadline=0.2, timeout=60, _clock=SYSTEM_CLOCK)
            with started(embeddings.prefetch(["a"])) as prefetch:
                wait_until(lambda: len(endpoint.asked) == 1)
                with pytest.raises(PartialEmbeddingsError):
                    embeddings.embed_documents(["a"])
                let_go.set()
                wait_until(lambda: prefetch.ready == 1)
                assert_right(embeddings.embed_documents(["a"]), ["a"])
        assert len(endpoint.asked) == 1

    def test_what_was_left_at_a_deadline_makes_room(self) -> None:
        """Vectors that a call left at its deadline make room for texts announced later."""
        came: list[str] = []
        let_go = threading.Event()

        def embed(prefetch: Prefetch, texts: Sequence[str], cancelled: threading.Event) -> None:
            del cancelled
            assert let_go.wait(60)
            prefetch.add(texts, np.ones((len(texts), 2), dtype=np.float32))
            came.extend(texts)

        prefetch = Prefetch(embed, max_buffered=2, on_close=lambda _: None)
        with started(prefetch):
            prefetch.announce(["a", "b", "c", "d"])
            wait_until(lambda: len(threads("prefetch")) == 2)
            assert list(prefetch.receive(["a", "b"], end=0.0)) == []
            let_go.set()
            wait_until(lambda: sorted(came) == ["a", "b", "c", "d"])

    def test_one_that_fails_ends_only_when_its_runs_have_kept_what_they_have(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A prefetch that fails ends only after its runs have stored their vectors.

        So the next call finds the vectors and does not pay again.
        """
        monkeypatch.setattr("langchain_batch_embed.calls.prefetch.LAST_RUNS", 60.0)
        kept: list[str] = []
        is_closed = threading.Event()

        def embed(_: Prefetch, texts: Sequence[str], cancelled: threading.Event) -> None:
            assert cancelled.wait(60)
            assert is_closed.wait(60)  # the run is still storing vectors
            kept.extend(texts)

        prefetch = started(Prefetch(embed, max_buffered=4, on_close=lambda _: is_closed.set()))
        prefetch.announce(["a", "b"])
        prefetch.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        assert sorted(kept) == ["a", "b"]


class TestStopped:
    """A prefetch that is closed stops its runs."""

    def test_a_run_that_is_stopped_has_not_failed(self, caplog: pytest.LogCaptureFixture) -> None:
        """Stopping a run is not a failure, so nothing is logged."""
        begun, ended = threading.Event(), threading.Event()

        def embed(_: Prefetch, __: Sequence[str], stopped: threading.Event) -> None:
            begun.set()
            stopped.wait(30)
            ended.set()
            raise asyncio.CancelledError

        caplog.set_level(logging.DEBUG, "langchain_batch_embed")
        with started(Prefetch(embed, max_buffered=9, on_close=lambda _: None)) as prefetch:
            prefetch.announce(["a text"])
            assert begun.wait(30)
        assert ended.wait(30)
        wait_until(lambda: not prefetch.runs)
        assert not caplog.messages
