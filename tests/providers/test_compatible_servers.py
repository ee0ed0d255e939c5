"""Servers that only resemble OpenAI's, with each of their differences on a real local server."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from langchain_core.embeddings import Embeddings
from langchain_openai import OpenAIEmbeddings
from pytest_mock import MockerFixture

from langchain_batch_embed import (
    BatchEmbeddings,
    DimensionsError,
    ModelError,
    PartialEmbeddingsError,
    ResponseError,
)
from langchain_batch_embed.calls.dimensions import Dimensions
from langchain_batch_embed.commands.offline import use_offline_tiktoken
from langchain_batch_embed.providers.decoding import read_answer
from tests.support import FakeClock, LocalServer, assert_right, prose

Batch = Callable[..., BatchEmbeddings]
OpenAI = Callable[..., OpenAIEmbeddings]

TEXTS = [f"section {i}" for i in range(500)]


def rewriting(mocker: MockerFixture, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the server's answers before they are read."""

    def read(body: bytes, **options: Any) -> object:
        answer = json.loads(body)
        change(answer)
        return read_answer(json.dumps(answer).encode(), **options)

    mocker.patch("langchain_batch_embed.providers.openai.read_answer", read)


def naming(mocker: MockerFixture, *models: str | None) -> None:
    """Make answers name these models one after the other, and then always the last one."""
    left = list(models)

    def name(answer: dict[str, Any]) -> None:
        answer["model"] = left.pop(0) if len(left) > 1 else left[0]

    rewriting(mocker, name)


class TestAnswersOfAnotherForm:
    """An answer is accepted in any form that leaves no doubt which vector belongs to which text."""

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
        """An unusual form is accepted, with every vector right and no request sent twice."""
        server.configure(**mood)
        embeddings = batch(max_batch_size=50)
        assert_right(embeddings.embed_numpy(TEXTS), TEXTS)
        assert_right([embeddings.embed_query("a question")], ["a question"])
        assert server.stats()["by_status"] == {"200": 11}

    def test_tokens_are_estimated_where_no_usage_comes(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Without a usage in the answer, the report estimates tokens as a quarter of the bytes."""
        server.configure(usage=False)
        embeddings = batch()
        embeddings.embed_numpy(["four" * 100])
        assert embeddings.last_report is not None
        assert embeddings.last_report.tokens == 100

    @pytest.mark.parametrize("told", [-5, True, "7", 1e3, 1_701])
    def test_a_usage_that_cannot_be_is_not_added_up(
        self, batch: Batch, mocker: MockerFixture, told: object
    ) -> None:
        """An impossible usage is replaced by the estimate.

        At most 1,700 tokens are possible here, four a character and a hundred.
        """

        def told_so(answer: dict[str, Any]) -> None:
            answer["usage"] = {"prompt_tokens": told}

        rewriting(mocker, told_so)
        embeddings = batch()
        embeddings.embed_numpy(["four" * 100])
        assert embeddings.last_report is not None
        assert embeddings.last_report.tokens == 100

    def test_lists_of_floats_are_as_exact_as_base64(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Lists of floats give exactly the same vectors as base64."""
        expected = batch().embed_documents(TEXTS[:50])
        server.configure(base64=False)
        assert batch().embed_documents(TEXTS[:50]) == expected


class TestDimensions:
    """A server that ignores `dimensions` would fill a store with vectors of the wrong width."""

    def test_other_dimensions_end_the_call_at_once(
        self, batch: Batch, server: LocalServer, openai_embeddings: OpenAI, clock: FakeClock
    ) -> None:
        """Vectors of another width than requested end the call after one round of requests.

        The error names both widths and the remedy, as no retry can help.
        """
        server.configure(honour_dimensions=False)
        embeddings = batch(openai_embeddings(dimensions=256), max_workers=4, max_batch_size=10)
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_documents(TEXTS)
        cause = caught.value.__cause__
        assert isinstance(cause, DimensionsError)
        assert (cause.expected, cause.received) == (256, 1536)
        assert str(cause) == (
            "dimensions=256 was requested, but the server ignored it and sent vectors with 1536 "
            "dimensions; leave dimensions out, or use a model that supports it"
        )
        assert caught.value.embeddings == [None] * len(TEXTS)
        assert server.stats()["requests"] <= 4
        assert clock.time == 0

    def test_other_dimensions_of_a_query_are_that_error_itself(
        self, batch: Batch, server: LocalServer, openai_embeddings: OpenAI
    ) -> None:
        """A query whose vector has the wrong width raises `DimensionsError` after one request."""
        server.configure(honour_dimensions=False)
        with pytest.raises(DimensionsError):
            batch(openai_embeddings(dimensions=256)).embed_query("a question")
        assert server.stats()["requests"] == 1

    def test_a_changed_model_is_paid_for_three_times_at_most(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """After a change of model at most three answers are lost, and no widths are mixed."""
        embeddings = batch()
        embeddings.embed_documents(["a", "b"])
        server.configure(dimensions=64)
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_documents(["c", "d"])
        cause = caught.value.__cause__
        assert isinstance(cause, DimensionsError)
        assert (cause.expected, cause.received, cause.asked) == (1536, 64, False)
        assert server.stats()["requests"] <= 4  # one may be the single word that probes the server
        # Either width may be right, so the next call is not held to one.
        assert_right(embeddings.embed_numpy(["c", "d"]), ["c", "d"])

    def test_a_call_without_an_answer_teaches_no_width(self, batch: Batch) -> None:
        """A call without an answer leaves the width unknown if another call has put it in doubt."""
        fetcher = batch()._pipeline.fetcher
        fetcher.learn_dimensions(Dimensions(8))
        assert fetcher.known_dimensions is None

    def test_a_journal_of_another_width_ends_the_call(
        self, batch: Batch, server: LocalServer, tmp_path: Path
    ) -> None:
        """Vectors in a journal and new ones of another width are never mixed, in either order."""
        journal = tmp_path / "journal"
        batch(journal=journal).embed_documents(["old"])
        server.configure(dimensions=64)
        embeddings = batch(journal=journal)
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_documents(["old", "new"])
        assert isinstance(caught.value.__cause__, DimensionsError)
        embeddings.embed_documents(["new"])
        sent = server.stats()["requests"]
        with pytest.raises(DimensionsError, match="sent vectors with 1536 dimensions"):
            embeddings.embed_documents(["old"])
        assert server.stats()["requests"] == sent
        assert_right(batch(journal=journal).embed_numpy(["old"]), ["old"])

    def test_the_models_own_width_may_be_asked_for(
        self, batch: Batch, server: LocalServer, openai_embeddings: OpenAI
    ) -> None:
        """Requesting the model's own width succeeds even if the server ignores the option."""
        server.configure(honour_dimensions=False)
        assert_right(batch(openai_embeddings(dimensions=1536)).embed_numpy(["a"]), ["a"])

    def test_dimensions_that_are_honoured_are_what_comes(
        self, batch: Batch, openai_embeddings: OpenAI
    ) -> None:
        """A server that supports `dimensions` sends vectors of the requested width."""
        wrapped = openai_embeddings(model="text-embedding-3-small", dimensions=256)
        got = batch(wrapped).embed_numpy(TEXTS)
        assert got.shape == (len(TEXTS), 256)
        assert_right(got, TEXTS)


class TestModels:
    """Vectors of another model are not comparable with the others, so their answer is refused."""

    def test_one_odd_answer_costs_a_retry(
        self, batch: Batch, server: LocalServer, mocker: MockerFixture
    ) -> None:
        """A single answer of another model is discarded, at the cost of a retry."""
        naming(mocker, "a", "b", "a")
        embeddings = batch(max_workers=1, max_batch_size=250)
        assert_right(embeddings.embed_numpy(TEXTS), TEXTS)
        assert server.stats()["requests"] == 3

    def test_a_model_that_changes_in_a_call_ends_it(
        self, batch: Batch, mocker: MockerFixture
    ) -> None:
        """A model that changes during a call ends it with an error that names both models.

        The vectors of the first model are returned.
        """
        naming(mocker, "a", "a", "b")
        embeddings = batch(max_workers=1, max_batch_size=1)
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_documents(TEXTS[:9])
        error = caught.value
        assert isinstance(error.__cause__, ModelError)
        assert (error.__cause__.expected, error.__cause__.received) == ("a", "b")
        lost = [failure.index for failure in error.failures]
        assert len(lost) == 7
        assert_right(
            [v for v in error.embeddings if v], [TEXTS[i] for i in range(9) if i not in lost]
        )

    def test_a_model_that_changes_between_calls_ends_the_next_one(
        self, batch: Batch, mocker: MockerFixture
    ) -> None:
        """A model that changes between calls ends the next call, after which either is accepted.

        A store that slices makes many calls for one corpus.
        """
        naming(mocker, "a", "b")
        embeddings = batch(max_workers=1)
        embeddings.embed_numpy(["first"])
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_numpy(["second"])
        assert isinstance(caught.value.__cause__, ModelError)
        assert_right(embeddings.embed_numpy(["second"]), ["second"])

    def test_a_query_is_held_to_the_model_of_the_documents(
        self, batch: Batch, mocker: MockerFixture
    ) -> None:
        """A query of another model than the documents fails, as a store cannot compare them."""
        naming(mocker, "a", "b")
        embeddings = batch()
        embeddings.embed_numpy(["a document"])
        with pytest.raises(ModelError):
            embeddings.embed_query("a question")

    @pytest.mark.parametrize("names", [(None,), ("a", None, "a", None), ("a", "openai/A", "a")])
    def test_names_that_are_missing_or_only_written_otherwise_cost_nothing(
        self,
        batch: Batch,
        server: LocalServer,
        mocker: MockerFixture,
        names: tuple[str | None, ...],
    ) -> None:
        """Missing model names, and other spellings of one, cost no request."""
        naming(mocker, *names)
        embeddings = batch(max_workers=1, max_batch_size=100)
        assert_right(embeddings.embed_numpy(TEXTS), TEXTS)
        assert server.stats()["requests"] == 5

    def test_what_a_failed_call_left_is_not_mixed_with_another_model(
        self, batch: Batch, server: LocalServer, mocker: MockerFixture
    ) -> None:
        """Vectors of a failed call are not mixed with another model's.

        They are dropped once more answers support the other model.
        """
        server.configure(refuse_marker="poison")
        naming(mocker, "a", "b")
        embeddings = batch(max_workers=1, max_batch_size=1)
        with pytest.raises(PartialEmbeddingsError):
            embeddings.embed_numpy(["kept", "poison"])
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_numpy(["kept", "new"])
        assert isinstance(caught.value.__cause__, ModelError)
        assert [failure.index for failure in caught.value.failures] == [1]
        server.configure()
        assert_right(embeddings.embed_numpy(["kept", "new"]), ["kept", "new"])
        assert server.stats()["inputs_billed"] == 2

    def test_what_is_kept_is_of_its_model_also_where_nobody_knows_which_is_right(
        self, batch: Batch, server: LocalServer, mocker: MockerFixture
    ) -> None:
        """Recalled vectors of one model exclude those of another, even if either may be right."""
        naming(mocker, *["a"] * 20, "b")
        embeddings = batch(max_workers=1, max_batch_size=1, max_retries=2)
        for expected in (ResponseError, ModelError):
            with pytest.raises(PartialEmbeddingsError) as caught:
                embeddings.embed_numpy(TEXTS[:21])
            assert len(caught.value.failures) == 1
            assert isinstance(caught.value.__cause__, expected)
        # More answers support the second model now, so the vectors of the first are dropped.
        server.configure()
        assert_right(embeddings.embed_numpy(TEXTS[:21]), TEXTS[:21])
        assert server.stats()["inputs_billed"] == 21

    def test_vectors_of_two_models_are_not_kept_beside_each_other(
        self, batch: Batch, server: LocalServer, mocker: MockerFixture
    ) -> None:
        """Vectors of two models are not kept side by side; the later failed call replaces them."""
        server.configure(refuse_marker="poison")
        naming(mocker, *["a"] * 20, "b")
        embeddings = batch(max_workers=1, max_batch_size=1, max_retries=2)
        for texts in (TEXTS[:21], ["new", "poison"]):
            with pytest.raises(PartialEmbeddingsError):
                embeddings.embed_numpy(texts)
        server.configure()
        texts = [*TEXTS[:20], "new"]
        assert_right(embeddings.embed_numpy(texts), texts)
        assert server.stats()["inputs_billed"] == 20


class ZerosFor(Embeddings):
    """An `Embeddings` that returns zeros for one text, as some do for text they cannot handle."""

    def __init__(self, text: str) -> None:
        self._text = text

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each text."""
        return [[0.0, float(text != self._text)] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of the text."""
        return self.embed_documents([text])[0]


class TestZeros:
    """A vector of zeros is treated as missing, whatever class returns it."""

    def test_zeros_cost_their_own_text_alone(self, batch: Batch) -> None:
        """A text whose vector stays all zeros is requested again and then fails alone."""
        embeddings = batch(ZerosFor(TEXTS[7]), max_retries=1)
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_documents(TEXTS[:20])
        (failure,) = caught.value.failures
        assert failure.index == 7
        assert isinstance(failure.error, ResponseError)
        assert str(failure.error) == "a vector is all zeros"

    def test_zeros_that_pass_cost_a_retry(self, batch: Batch, mocker: MockerFixture) -> None:
        """Zeros that occur once, as on a GPU short of memory, cost only a retry."""
        zeros = iter([True])

        def spoil(answer: dict[str, Any]) -> None:
            if next(zeros, False):
                answer["data"][3]["embedding"] = "A" * len(answer["data"][3]["embedding"])

        rewriting(mocker, spoil)
        embeddings = batch()
        assert_right(embeddings.embed_numpy(TEXTS), TEXTS)
        assert embeddings.last_report is not None
        assert embeddings.last_report.retries == 1


class TestErrorsInDisguise:
    """An error or a web page under status 200 is treated as an error."""

    @pytest.mark.parametrize("fault", ["error_200", "html"])
    def test_one_that_passes_costs_a_retry(
        self, batch: Batch, server: LocalServer, fault: str
    ) -> None:
        """A false answer under status 200 costs a retry, and none of it gets into the result."""
        server.configure(script=(fault, "ok", fault))
        embeddings = batch(max_workers=1, max_batch_size=250)
        assert_right(embeddings.embed_numpy(TEXTS), TEXTS)
        assert embeddings.last_report is not None
        # The second fault hits the same batch, which is then sent in two parts.
        assert embeddings.last_report.retries + embeddings.last_report.splits == 2

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
        """If false answers continue for `max_outage`, the error says what came instead."""
        server.configure(faults={fault: 1.0})
        with pytest.raises(ResponseError, match=said):
            batch(max_outage=30).embed_query("a question")
        assert 3 <= server.stats()["requests"] <= 30


class TestOtherLimits:
    """Servers that accept less than OpenAI, with smaller bodies, fewer texts or only strings."""

    def test_a_413_makes_the_requests_smaller(self, batch: Batch, server: LocalServer) -> None:
        """The limit of a proxy that refuses large bodies is learnt, so later calls get no 413."""
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
        """A single text that exceeds the proxy's limit fails alone."""
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
        """Only strings are sent, so a server that refuses token arrays works.

        The wrapped class alone fails with a 422.
        """
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
        """A model name that tiktoken does not know needs no download of a vocabulary."""
        server.configure(models=("nomic-embed-text",))
        embeddings = batch(openai_embeddings(model="nomic-embed-text"))
        texts = [prose(300, i) for i in range(500)]
        assert_right(embeddings.embed_numpy(texts), texts)
        assert "400" not in server.stats()["by_status"]
