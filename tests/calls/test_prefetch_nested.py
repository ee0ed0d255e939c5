"""Prefetches can be nested or open side by side."""

from collections.abc import Callable

import pytest
from langchain_openai import OpenAIEmbeddings

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.clock import SYSTEM_CLOCK
from tests.calls.prefetches import TEXTS, slices, started
from tests.support import LocalServer, assert_right, wait_until
from tests.survival.support import holding

Batch = Callable[..., BatchEmbeddings]

Wrapped = Callable[..., OpenAIEmbeddings]

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


class TestNested:
    """Prefetches that are open at the same time pay for nothing twice."""

    @pytest.mark.parametrize("max_buffered", [100, 20_000])
    def test_one_within_another_pays_for_nothing_twice(
        self, batch: Batch, server: LocalServer, max_buffered: int
    ) -> None:
        """The inner prefetch uses texts that the outer one embeds, and neither has failures."""
        embeddings = batch()
        with embeddings.prefetch(TEXTS, max_buffered=max_buffered) as first:
            with embeddings.prefetch(TEXTS):
                for portion in slices(TEXTS, 100):
                    assert_right(embeddings.embed_documents(portion), portion)
                assert not first.ready  # texts that callers have received take no room there
            inner = embeddings.last_report
        outer = embeddings.last_report
        assert inner is not None
        assert outer is not None
        assert (inner.failures, outer.failures) == (0, 0)
        assert inner.tokens + outer.tokens >= server.stats()["tokens_billed"]
        assert server.stats()["inputs_billed"] == 1000

    def test_what_an_inner_one_embeds_is_no_failure_of_the_outer_one(self, batch: Batch) -> None:
        """Texts that an inner prefetch embedded are no failure of the outer one, even if unused."""
        embeddings = batch()
        with embeddings.prefetch(TEXTS, max_buffered=100), embeddings.prefetch(TEXTS) as inner:
            inner.go_ahead()
            wait_until(lambda: inner.ready == len(TEXTS))
        assert embeddings.last_report is not None
        assert (embeddings.last_report.texts, embeddings.last_report.failures) == (1000, 0)

    def test_an_inner_one_that_is_left_takes_nothing_away(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Vectors that an inner prefetch borrowed remain for the calls of the outer one."""
        embeddings = batch()
        with started(embeddings.prefetch(TEXTS)) as outer:
            with started(embeddings.prefetch(TEXTS)) as inner:
                wait_until(lambda: inner.ready == len(TEXTS))
            requests = server.stats()["requests"]
            for portion in slices(TEXTS, 100):
                assert_right(embeddings.embed_documents(portion), portion)
            assert not outer.ready
        assert server.stats()["requests"] == requests
        assert server.stats()["inputs_billed"] == 1000

    def test_what_the_outer_one_waits_for_holds_up_nothing_else(
        self, batch: Batch, openai_embeddings: Wrapped
    ) -> None:
        """The inner prefetch sends other texts while the outer one's answer is held back."""
        with holding() as (endpoint, _):
            embeddings = batch(openai_embeddings(base_url=endpoint.url), _clock=SYSTEM_CLOCK)
            with started(embeddings.prefetch(TEXTS[:1])) as outer:
                wait_until(lambda: len(endpoint.asked) == 1)
                with started(embeddings.prefetch(TEXTS[:2])):
                    assert_right(embeddings.embed_documents(TEXTS[1:2]), TEXTS[1:2])
                    assert outer.running

    def test_an_inner_one_that_ends_early_does_not_wait_for_the_outer_one(
        self, batch: Batch, openai_embeddings: Wrapped
    ) -> None:
        """The inner prefetch's threads end while the outer one's answers are still held back."""
        with holding(20) as (endpoint, _):
            embeddings = batch(openai_embeddings(base_url=endpoint.url), _clock=SYSTEM_CLOCK)
            with started(embeddings.prefetch(TEXTS)) as outer:
                with started(embeddings.prefetch(TEXTS)) as inner:
                    wait_until(lambda: inner.runs > 0)
                wait_until(lambda: inner.runs == 0)
                assert outer.running

    def test_two_prefetches_may_be_open(self, batch: Batch, server: LocalServer) -> None:
        """One call may be answered from two open prefetches."""
        embeddings = batch()
        with embeddings.prefetch(TEXTS[:50]), embeddings.prefetch(TEXTS[50:100]):
            assert_right(embeddings.embed_numpy(TEXTS[:100]), TEXTS[:100])
        assert server.stats()["inputs_billed"] == 100
