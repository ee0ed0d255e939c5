"""Servers that only look like OpenAI's: each way in which they differ, on a real local server."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from langchain_openai import OpenAIEmbeddings

from langchain_batch_embed import (
    BatchEmbeddings,
    DimensionsError,
    PartialEmbeddingsError,
    ResponseError,
)
from langchain_batch_embed.offline import use_offline_tiktoken
from langchain_batch_embed.width import Width
from tests.support import FakeClock, LocalServer, assert_right, prose

Batch = Callable[..., BatchEmbeddings]
OpenAI = Callable[..., OpenAIEmbeddings]

TEXTS = [f"section {i}" for i in range(500)]


class TestAnswersOfAnotherForm:
    """What leaves no doubt which vector is whose is taken, whatever form it has."""

    @pytest.mark.parametrize(
        "mood",
        [
            pytest.param({"base64": False}, id="floats where base64 was asked"),
            pytest.param({"index": False}, id="no index"),
            pytest.param({"usage": False}, id="no usage"),
            pytest.param({"rate_limit_headers": False}, id="no rate limit headers"),
            pytest.param({"models": ()}, id="any model"),
            pytest.param(
                {"base64": False, "index": False, "usage": False, "rate_limit_headers": False},
                id="all of it",
            ),
        ],
    )
    def test_is_accepted(self, batch: Batch, server: LocalServer, mood: dict[str, Any]) -> None:
        """Every vector is right to the last bit, and no request is sent twice."""
        server.configure(**mood)
        embeddings = batch(max_batch_size=50)
        assert_right(embeddings.embed_numpy(TEXTS), TEXTS)
        assert_right([embeddings.embed_query("a question")], ["a question"])
        assert server.stats()["by_status"] == {"200": 11}

    def test_tokens_are_estimated_where_no_usage_comes(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """The report then counts what a limiter would charge: a quarter of the bytes."""
        server.configure(usage=False)
        embeddings = batch()
        embeddings.embed_numpy(["four" * 100])
        assert embeddings.last_report is not None
        assert embeddings.last_report.tokens == 100

    def test_lists_of_floats_are_as_exact_as_base64(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """The same texts give the same lists, digit for digit, in both forms."""
        expected = batch().embed_documents(TEXTS[:50])
        server.configure(base64=False)
        assert batch().embed_documents(TEXTS[:50]) == expected


class TestDimensions:
    """A server that ignores `dimensions` would fill a store with vectors of the wrong width."""

    def test_other_dimensions_end_the_call_at_once(
        self, batch: Batch, server: LocalServer, openai_embeddings: OpenAI, clock: FakeClock
    ) -> None:
        """No retry can help: the error names both widths and what to do, after one round."""
        server.configure(honour_dimensions=False)
        embeddings = batch(openai_embeddings(dimensions=256), max_workers=4, max_batch_size=10)
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_documents(TEXTS)
        cause = caught.value.__cause__
        assert isinstance(cause, DimensionsError)
        assert (cause.expected, cause.received) == (256, 1536)
        assert str(cause) == (
            "dimensions=256 was asked for, but the server sent vectors of 1536: it ignores the "
            "option; leave dimensions out, or use a model that supports it"
        )
        assert caught.value.embeddings == [None] * len(TEXTS)
        assert server.stats()["requests"] <= 4
        assert clock.time == 0

    def test_other_dimensions_of_a_query_are_that_error_itself(
        self, batch: Batch, server: LocalServer, openai_embeddings: OpenAI
    ) -> None:
        """`embed_query` raises `DimensionsError`, after a single request."""
        server.configure(honour_dimensions=False)
        with pytest.raises(DimensionsError):
            batch(openai_embeddings(dimensions=256)).embed_query("a question")
        assert server.stats()["requests"] == 1

    def test_a_changed_model_is_paid_for_three_times_at_most(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """No text gets a vector of another width than the others, and no more than that is lost."""
        embeddings = batch()
        embeddings.embed_documents(["a", "b"])
        server.configure(dimensions=64)
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_documents(["c", "d"])
        cause = caught.value.__cause__
        assert isinstance(cause, DimensionsError)
        assert (cause.expected, cause.received, cause.asked) == (1536, 64, False)
        assert server.stats()["requests"] == 3
        # Nobody knows which is right: the next call is not held to either.
        assert_right(embeddings.embed_numpy(["c", "d"]), ["c", "d"])

    def test_a_call_without_an_answer_teaches_no_width(self, batch: Batch) -> None:
        """What another call has found to be in doubt meanwhile stays so."""
        pipeline = batch()._pipeline
        pipeline._learn_width(Width(8))
        assert pipeline._width is None

    def test_a_journal_of_another_width_ends_the_call(
        self, batch: Batch, server: LocalServer, tmp_path: Path
    ) -> None:
        """The vectors that it holds and new ones are never mixed, whichever comes first."""
        journal = tmp_path / "journal"
        batch(journal=journal).embed_documents(["old"])
        server.configure(dimensions=64)
        embeddings = batch(journal=journal)
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_documents(["old", "new"])
        assert isinstance(caught.value.__cause__, DimensionsError)
        embeddings.embed_documents(["new"])
        sent = server.stats()["requests"]
        with pytest.raises(DimensionsError, match="vectors of 1536 numbers came"):
            embeddings.embed_documents(["old"])
        assert server.stats()["requests"] == sent
        assert_right(batch(journal=journal).embed_numpy(["old"]), ["old"])

    def test_the_models_own_width_may_be_asked_for(
        self, batch: Batch, server: LocalServer, openai_embeddings: OpenAI
    ) -> None:
        """Where the option names what the server sends anyway, nobody is the worse for it."""
        server.configure(honour_dimensions=False)
        assert_right(batch(openai_embeddings(dimensions=1536)).embed_numpy(["a"]), ["a"])

    def test_dimensions_that_are_honoured_are_what_comes(
        self, batch: Batch, openai_embeddings: OpenAI
    ) -> None:
        """A server that knows the option sends the width that was asked for."""
        wrapped = openai_embeddings(model="text-embedding-3-small", dimensions=256)
        got = batch(wrapped).embed_numpy(TEXTS)
        assert got.shape == (len(TEXTS), 256)
        assert_right(got, TEXTS)


class TestErrorsInDisguise:
    """Status 200 with an error in it, or with a web page, is an error all the same."""

    @pytest.mark.parametrize("fault", ["error_200", "html"])
    def test_one_that_passes_costs_a_retry(
        self, batch: Batch, server: LocalServer, fault: str
    ) -> None:
        """Nothing of the false answer gets into the result."""
        server.configure(script=(fault, "ok", fault))
        embeddings = batch(max_workers=1, max_batch_size=250)
        assert_right(embeddings.embed_numpy(TEXTS), TEXTS)
        assert embeddings.last_report is not None
        assert embeddings.last_report.retries == 2

    @pytest.mark.parametrize(
        ("fault", "said"),
        [
            ("error_200", "the server sent an error under status 200"),
            ("html", "the answer is not JSON"),
        ],
    )
    def test_one_that_stays_is_named(
        self, batch: Batch, server: LocalServer, fault: str, said: str
    ) -> None:
        """After all retries the error says what came in place of vectors."""
        server.configure(faults={fault: 1.0})
        with pytest.raises(ResponseError, match=said):
            batch(max_retries=2).embed_query("a question")
        assert server.stats()["requests"] == 3


class TestOtherLimits:
    """Servers that take less than OpenAI: smaller bodies, fewer texts, strings alone."""

    def test_a_413_makes_the_requests_smaller(self, batch: Batch, server: LocalServer) -> None:
        """A proxy that takes bodies of 40 KB is learnt: later calls are refused nothing."""
        server.configure(max_body_bytes=40_000)
        embeddings = batch(max_workers=1)
        texts = [prose(100, i) for i in range(400)]
        assert_right(embeddings.embed_numpy(texts[:300]), texts[:300])
        refused = server.stats()["by_status"]["413"]
        assert refused <= 4
        assert_right(embeddings.embed_numpy(texts[300:]), texts[300:])
        assert server.stats()["by_status"]["413"] == refused

    def test_a_text_that_is_over_a_413_alone_fails_alone(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A single text that the proxy does not take costs nobody else a vector."""
        server.configure(max_body_bytes=10_000)
        texts = [*TEXTS[:20], prose(5000), *TEXTS[20:40]]
        with pytest.raises(PartialEmbeddingsError) as caught:
            batch().embed_documents(texts)
        assert [failure.index for failure in caught.value.failures] == [20]
        others = [vector for vector in caught.value.embeddings if vector is not None]
        assert_right(np.array(others, dtype=np.float32), TEXTS[:40])

    def test_no_token_array_is_ever_sent(
        self, batch: Batch, server: LocalServer, openai_embeddings: OpenAI
    ) -> None:
        """A server that answers them with 422 fails the wrapped class, and embeds all for us."""
        use_offline_tiktoken()
        server.configure(token_arrays=False)
        wrapped = openai_embeddings()
        with pytest.raises(openai.UnprocessableEntityError):
            wrapped.embed_documents(["short"])
        got = batch(wrapped).embed_documents([prose(9000), "short"])  # one of them over-long
        assert len(got) == 2
        assert server.stats()["by_status"] == {"200": 1, "422": 1}

    def test_a_model_of_the_servers_own_needs_no_vocabulary(
        self, batch: Batch, server: LocalServer, openai_embeddings: OpenAI
    ) -> None:
        """A name that tiktoken does not know is counted all the same, without a download."""
        server.configure(models=("nomic-embed-text",))
        embeddings = batch(openai_embeddings(model="nomic-embed-text"))
        texts = [prose(300, i) for i in range(500)]
        assert_right(embeddings.embed_numpy(texts), texts)
        assert "400" not in server.stats()["by_status"]
