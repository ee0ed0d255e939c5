"""A failing text costs only itself, and the error carries the other vectors."""

import pickle
from collections.abc import Callable

import numpy as np
import openai
import pytest
from langchain_core.embeddings import Embeddings
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr
from pytest_mock import MockerFixture

from langchain_batch_embed import BatchEmbeddings, PartialEmbeddingsError
from langchain_batch_embed.calls.pipeline import Pipeline
from tests.support import FakeClock, LocalServer, assert_right

Batch = Callable[..., BatchEmbeddings]

TEXTS = [f"section {i}" for i in range(5000)]
POISONED = (17, 2048, 4999)


def poisoned() -> list[str]:
    """Return the texts, three of which the server refuses."""
    return [f"poison {i}" if i in POISONED else text for i, text in enumerate(TEXTS)]


class TestPartialResults:
    """A failing text costs only itself, and the error carries the other vectors."""

    def test_three_refused_texts_cost_only_themselves(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Of 5,000 texts exactly the three refused ones fail, and at most 2 % are paid twice."""
        server.configure(refuse_marker="poison")
        embeddings = batch()
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_documents(poisoned())
        error = caught.value
        assert [failure.index for failure in error.failures] == list(POISONED)
        assert [i for i, vector in enumerate(error.embeddings) if vector is None] == list(POISONED)
        good = [vector for vector in error.embeddings if vector is not None]
        assert_right(good, [text for i, text in enumerate(TEXTS) if i not in POISONED])
        assert isinstance(error.__cause__, openai.BadRequestError)
        assert error.report.failures == 3
        stats = server.stats()
        assert stats["inputs_billed"] <= 1.02 * 4997
        # About 2 log2(n) requests for each bad text, not n.
        assert stats["by_status"]["400"] <= 3 * 13

    def test_the_same_instance_then_pays_for_the_three_alone(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """After the cause is fixed, a second call sends only the three texts."""
        server.configure(refuse_marker="poison")
        embeddings = batch()
        with pytest.raises(PartialEmbeddingsError):
            embeddings.embed_documents(poisoned())
        server.configure()
        assert_right(embeddings.embed_documents(poisoned()), poisoned())
        assert server.stats()["inputs_billed"] == 3
        # The kept vectors are then dropped, so a third call sends its texts again.
        embeddings.embed_documents(poisoned()[:100])
        assert server.stats()["inputs_billed"] == 103

    def test_the_message_says_how_many_and_how_to_go_on(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """The message gives the number and the indices of the failures, and contains no text."""
        server.configure(refuse_marker="poison")
        with pytest.raises(PartialEmbeddingsError) as caught:
            batch().embed_numpy(poisoned())
        message = str(caught.value)
        assert "3 of 5,000 texts" in message
        assert "17, 2048, 4999" in message
        assert "calling again" in message
        assert "poison " not in message

    def test_the_error_has_the_report_of_its_own_call(
        self, batch: Batch, server: LocalServer, mocker: MockerFixture
    ) -> None:
        """The error has its own call's report, even if another call ends at the same time."""
        embeddings = batch()
        embeddings.embed_query("another call")
        other = embeddings.last_report
        always_other = mocker.PropertyMock(return_value=other)
        mocker.patch.object(Pipeline, "last_report", always_other, create=True)
        server.configure(refuse_marker="poison")
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_documents(["a", "poison"])
        assert (caught.value.report.texts, caught.value.report.failures) == (2, 1)

    def test_numpy_callers_get_rows_not_lists(self, batch: Batch, server: LocalServer) -> None:
        """The error of `embed_numpy` carries float32 rows."""
        server.configure(refuse_marker="poison")
        with pytest.raises(PartialEmbeddingsError) as caught:
            batch().embed_numpy(["a", "poison", "b"])
        first, second, third = caught.value.embeddings
        assert second is None
        assert_right(np.array([first, third]), ["a", "b"])

    def test_nothing_stays_in_memory_after_a_success(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """After a success no vectors stay in memory, not even windows of over-long texts."""
        long = " ".join(f"word{i}" for i in range(9000))
        embeddings = batch()
        for number in range(3):
            server.configure(refuse_marker="poison")
            with pytest.raises(PartialEmbeddingsError):
                embeddings.embed_numpy([f"{number} {long}", "poison"])
            server.configure()
            embeddings.embed_numpy([f"{number} {long}", "poison"])
        assert embeddings.journal.stats().vectors == 0

    def test_a_querys_error_keeps_its_own_causes(self, batch: Batch, server: LocalServer) -> None:
        """A query raises the provider's exception as it was, not chained in a circle."""
        server.configure(faults={"reset": 1.0})
        with pytest.raises(openai.APIConnectionError) as caught:
            batch(max_retries=0).embed_query("a")
        assert caught.value.__cause__ is not None
        assert "PartialEmbeddingsError" not in repr(caught.value.__context__)

    def test_many_bad_texts_among_good_ones_do_not_end_the_call(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Bad texts among good ones do not end a call, because only failures in a row do."""
        server.configure(refuse_marker="poison")
        bad = set(range(5, 600, 30))
        texts = [f"poison {i}" if i in bad else f"section {i}" for i in range(600)]
        with pytest.raises(PartialEmbeddingsError) as caught:
            batch(max_workers=1, max_batch_size=30).embed_numpy(texts)
        assert {failure.index for failure in caught.value.failures} == bad
        assert len(bad) == 20

    def test_an_index_in_the_refusal_is_used(self, batch: Batch, server: LocalServer) -> None:
        """A refusal that names the input's index costs four requests instead of a bisection.

        If the text is refused before the others are answered, it is sent once more.
        """
        server.configure(max_tokens_per_input=100)
        texts = [*TEXTS[:60], "word " * 200, *TEXTS[60:100]]
        with pytest.raises(PartialEmbeddingsError) as caught:
            batch().embed_documents(texts)
        assert [failure.index for failure in caught.value.failures] == [60]
        assert 4 <= server.stats()["requests"] <= 5

    @pytest.mark.parametrize(
        ("fault", "kind", "most"),
        [
            ("401", openai.AuthenticationError, 2 + 11),
            ("404", openai.NotFoundError, 2 + 11),
            ("403", openai.PermissionDeniedError, 2 + 11),
            ("insufficient_quota", openai.RateLimitError, 1),
        ],
    )
    def test_an_error_of_the_account_ends_everything(
        self, batch: Batch, server: LocalServer, fault: str, kind: type[Exception], most: int
    ) -> None:
        """An error of the account ends the call early, and the finished part is returned.

        Two refusals in a row, and then refusals of a single word each second for ten seconds,
        distinguish a wrong key from a firewall, a bad replica or a gateway that is being restarted.
        A spent quota is recognised from the answer.
        """
        server.configure(script=("ok", "ok"), faults={fault: 1.0})
        with pytest.raises(PartialEmbeddingsError) as caught:
            batch(max_workers=1, max_batch_size=100).embed_documents(TEXTS)
        assert isinstance(caught.value.__cause__, kind)
        assert sum(vector is not None for vector in caught.value.embeddings) == 200
        assert server.stats()["requests"] <= 2 + most

    def test_a_wrong_option_is_not_bisected(self, batch: Batch, server: LocalServer) -> None:
        """A refusal of a parameter other than the input is not bisected, as it is general."""
        wrapped = OpenAIEmbeddings(
            model="text-embedding-ada-002",
            dimensions=99,
            base_url=server.url,
            api_key=SecretStr("x"),
        )
        with pytest.raises(PartialEmbeddingsError):
            batch(wrapped, max_workers=1).embed_documents(TEXTS)
        assert server.stats()["requests"] <= 2

    def test_a_refusal_of_everything_is_not_bisected_to_the_end(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A server that refuses even a single harmless word ends the call after a few requests."""
        server.configure(faults={"status_400": 1.0})
        with pytest.raises(PartialEmbeddingsError):
            batch(max_workers=1).embed_documents(TEXTS)
        assert server.stats()["requests"] < 40

    def test_a_text_that_the_server_stumbles_over_costs_only_itself(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A text whose vector is always invalid does not make its batch fail."""

        class Stumbling(Embeddings):
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                return [[float("nan") if text == "bad" else 1.0] for text in texts]

            def embed_query(self, text: str) -> list[float]:
                return self.embed_documents([text])[0]

        embeddings = batch(Stumbling(), max_batch_size=10, max_retries=2)
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_documents([*TEXTS[:25], "bad", *TEXTS[25:60]])
        assert [failure.index for failure in caught.value.failures] == [25]
        assert server.stats()["requests"] == 0

    def test_a_server_that_is_gone_is_not_bisected(
        self, batch: Batch, server: LocalServer, clock: FakeClock
    ) -> None:
        """If the server stops answering, all remaining texts are given up after `max_outage`."""
        server.configure(script=("ok",) * 2, faults={"500": 1.0})
        with pytest.raises(PartialEmbeddingsError) as caught:
            batch(max_workers=1, max_batch_size=500, max_outage=60).embed_documents(TEXTS)
        assert len(caught.value.failures) == 4000
        assert 60 <= clock.time < 90
        assert server.stats()["requests"] <= 40

    def test_the_error_can_be_pickled(self, batch: Batch, server: LocalServer) -> None:
        """A partial result can be pickled, so that a worker process can return it to its parent."""
        server.configure(faults={"401": 1.0})
        with pytest.raises(PartialEmbeddingsError) as caught:
            batch().embed_documents(["a"])
        error = PartialEmbeddingsError([[1.0], None], [], caught.value.report)
        assert pickle.loads(pickle.dumps(error)).embeddings == [[1.0], None]  # noqa: S301
