"""Servers that only look like OpenAI's: each way in which they differ, on a real local server."""

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
    """Change what the server answered before it is read."""

    def read(body: bytes, **options: Any) -> object:
        answer = json.loads(body)
        change(answer)
        return read_answer(json.dumps(answer).encode(), **options)

    mocker.patch("langchain_batch_embed.providers.openai.read_answer", read)


def naming(mocker: MockerFixture, *models: str | None) -> None:
    """Let answers name these models one after the other, and the last one from then on."""
    left = list(models)

    def name(answer: dict[str, Any]) -> None:
        answer["model"] = left.pop(0) if len(left) > 1 else left[0]

    rewriting(mocker, name)


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

    @pytest.mark.parametrize("told", [-5, True, "7", 1e3, 1_701])
    def test_a_usage_that_cannot_be_is_not_added_up(
        self, batch: Batch, mocker: MockerFixture, told: object
    ) -> None:
        """The report counts the estimate then; 1,700 is four tokens a character, and a hundred."""

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
        assert server.stats()["requests"] <= 4  # one may be the canary's single word
        # Nobody knows which is right: the next call is not held to either.
        assert_right(embeddings.embed_numpy(["c", "d"]), ["c", "d"])

    def test_a_call_without_an_answer_teaches_no_width(self, batch: Batch) -> None:
        """What another call has found to be in doubt meanwhile stays so."""
        fetcher = batch()._pipeline.fetcher
        fetcher.learn_dimensions(Dimensions(8))
        assert fetcher.known_dimensions is None

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


class TestModels:
    """An answer of another model has vectors that are of no use beside the others."""

    def test_one_odd_answer_costs_a_retry(
        self, batch: Batch, server: LocalServer, mocker: MockerFixture
    ) -> None:
        """It is thrown away, whatever is in it."""
        naming(mocker, "a", "b", "a")
        embeddings = batch(max_workers=1, max_batch_size=250)
        assert_right(embeddings.embed_numpy(TEXTS), TEXTS)
        assert server.stats()["requests"] == 3

    def test_a_model_that_changes_in_a_call_ends_it(
        self, batch: Batch, mocker: MockerFixture
    ) -> None:
        """No vector of the second model is beside those of the first, and the error names both."""
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
        """A store that slices makes many calls for one corpus; after the error either may come."""
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
        """A store cannot compare it with vectors of another one."""
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
        """Nor does any name that is not the one that was asked for."""
        naming(mocker, *names)
        embeddings = batch(max_workers=1, max_batch_size=100)
        assert_right(embeddings.embed_numpy(TEXTS), TEXTS)
        assert server.stats()["requests"] == 5

    def test_what_a_failed_call_left_is_not_mixed_with_another_model(
        self, batch: Batch, server: LocalServer, mocker: MockerFixture
    ) -> None:
        """It is used for the same model alone, and dropped when more speaks for the other one."""
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
        """The second call recalls vectors of the first model, and takes none of the second."""
        naming(mocker, *["a"] * 20, "b")
        embeddings = batch(max_workers=1, max_batch_size=1, max_retries=2)
        for expected in (ResponseError, ModelError):
            with pytest.raises(PartialEmbeddingsError) as caught:
                embeddings.embed_numpy(TEXTS[:21])
            assert len(caught.value.failures) == 1
            assert isinstance(caught.value.__cause__, expected)
        # More speaks for the second one now, so the vectors of the first are dropped.
        server.configure()
        assert_right(embeddings.embed_numpy(TEXTS[:21]), TEXTS[:21])
        assert server.stats()["inputs_billed"] == 21

    def test_vectors_of_two_models_are_not_kept_beside_each_other(
        self, batch: Batch, server: LocalServer, mocker: MockerFixture
    ) -> None:
        """A later failed call of another model takes the place of an earlier one."""
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
    """An `Embeddings` that returns zeros for one text, as some do for what they cannot embed."""

    def __init__(self, text: str) -> None:
        self._text = text

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return vectors."""
        return [[0.0, float(text != self._text)] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return a vector."""
        return self.embed_documents([text])[0]


class TestZeros:
    """A vector of zeros is no vector, whichever class it comes from."""

    def test_zeros_cost_their_own_text_alone(self, batch: Batch) -> None:
        """Asked for again, and in the end the failure of that text."""
        embeddings = batch(ZerosFor(TEXTS[7]), max_retries=1)
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_documents(TEXTS[:20])
        (failure,) = caught.value.failures
        assert failure.index == 7
        assert isinstance(failure.error, ResponseError)
        assert str(failure.error) == "a vector is all zeros"

    def test_zeros_that_pass_cost_a_retry(self, batch: Batch, mocker: MockerFixture) -> None:
        """Such as a GPU's that was out of memory for a moment."""
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
        # The second time it is the same batch, which is then sent in two parts.
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
        """After `max_outage` without an answer the error says what came in place of vectors."""
        server.configure(faults={fault: 1.0})
        with pytest.raises(ResponseError, match=said):
            batch(max_outage=30).embed_query("a question")
        assert 3 <= server.stats()["requests"] <= 30


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
