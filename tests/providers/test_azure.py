"""The Azure class of OpenAI's SDK, against a real local server."""

from collections.abc import Callable
from typing import Any

import openai
import pytest
from langchain_openai import AzureOpenAIEmbeddings
from pytest_mock import MockerFixture

from langchain_batch_embed import (
    BatchEmbeddings,
)
from tests.support import FakeClock, LocalServer, assert_right

Azure = Callable[..., AzureOpenAIEmbeddings]


@pytest.fixture
def azure(server: LocalServer) -> Callable[..., AzureOpenAIEmbeddings]:
    """Return a maker of `AzureOpenAIEmbeddings` whose requests go to the local server."""

    def make(**options: Any) -> AzureOpenAIEmbeddings:
        defaults: dict[str, Any] = {
            "azure_endpoint": server.azure_endpoint,
            "api_key": "sk-test",
            "api_version": "2024-10-21",
            "model": "text-embedding-3-small",
        }
        return AzureOpenAIEmbeddings(**{**defaults, **options})

    return make


class TestAzure:
    """Azure gets the fast path of OpenAI, and its differences are understood."""

    @pytest.mark.parametrize("options", [{}, {"azure_deployment": "text-embedding-3-small"}])
    def test_takes_the_raw_path(
        self, azure: Azure, clock: FakeClock, mocker: MockerFixture, options: dict[str, str]
    ) -> None:
        """Azure's requests bypass the class's own `embed_documents`, and the vectors are right."""
        texts = [f"section {i}" for i in range(300)]
        embeddings = BatchEmbeddings(azure(**options), hedge=False, _clock=clock)
        slow = mocker.patch.object(AzureOpenAIEmbeddings, "embed_documents")
        assert embeddings.limits.provider == "Azure OpenAI"
        assert_right(embeddings.embed_numpy(texts), texts)
        slow.assert_not_called()

    def test_signs_in_with_a_token_provider(self, azure: Azure, server: LocalServer) -> None:
        """Requests carry the tokens of Microsoft Entra, which are renewed when they expire."""
        server.configure(api_key="a-token")
        wrapped = azure(api_key=None, azure_ad_token_provider=lambda: "a-token")
        assert_right(BatchEmbeddings(wrapped).embed_numpy(["a"]), ["a"])

    def test_learns_no_quota_from_headers_without_a_limit(
        self, azure: Azure, server: LocalServer, clock: FakeClock
    ) -> None:
        """Azure announces what remains but no limit, so no quota is learnt from its headers."""
        server.configure(tokens_per_minute=100_000_000, requests_per_minute=100_000)
        embeddings = BatchEmbeddings(azure(), max_batch_size=50, hedge=False, _clock=clock)
        texts = [f"section {i}" for i in range(1000)]
        assert_right(embeddings.embed_numpy(texts), texts)
        pacer = embeddings._pipeline.dispatcher.sender.deployments[0].pacer
        assert (pacer.tokens.rate, pacer.requests.rate, clock.time) == (None, None, 0.0)

    def test_waits_as_long_as_the_text_says(
        self, azure: Azure, server: LocalServer, clock: FakeClock
    ) -> None:
        """A wait that only the message announces, 46 seconds, is respected each time.

        After two refusals despite the full waits, the batch is sent in parts.
        """
        server.configure(script=("429_azure", "429_azure"), retry_after=46, refusal_hint="text")
        embeddings = BatchEmbeddings(
            azure(), max_workers=1, max_batch_size=100, hedge=False, _clock=clock
        )
        texts = [f"section {i}" for i in range(500)]
        assert_right(embeddings.embed_numpy(texts), texts)
        assert 92 <= clock.time < 100
        by_status = server.stats()["by_status"]
        assert by_status["429"] == 2
        assert by_status["200"] <= 10

    def test_an_old_deployment_teaches_its_limit(
        self, azure: Azure, server: LocalServer, clock: FakeClock
    ) -> None:
        """The limit in `The max number of inputs is 16.` is learnt from one refusal."""
        server.configure(max_inputs=16)
        embeddings = BatchEmbeddings(azure(), max_workers=1, hedge=False, _clock=clock)
        texts = [f"section {i}" for i in range(160)]
        assert_right(embeddings.embed_numpy(texts), texts)
        assert server.stats()["by_status"] == {"200": 10, "400": 1}

    def test_the_sdks_retries_are_off(
        self, azure: Azure, server: LocalServer, clock: FakeClock
    ) -> None:
        """The SDK's retries are turned off, so that every failure is counted here.

        The SDK's retries would hide four of five.
        """
        server.configure(script=("500",) * 5)
        wrapped = azure(max_retries=4)
        embeddings = BatchEmbeddings(wrapped, hedge=False, _clock=clock)
        assert_right(embeddings.embed_numpy(["a"]), ["a"])
        assert embeddings.last_report is not None
        assert server.stats()["by_status"]["500"] == 5
        assert embeddings.last_report.requests == server.stats()["requests"]
        assert wrapped.client._client.max_retries == 4

    def test_a_wrong_key_ends_the_call_at_once(
        self, azure: Azure, server: LocalServer, clock: FakeClock
    ) -> None:
        """A 401 ends the call at once, because no retry and no smaller batch can help."""
        server.configure(api_key="another")
        with pytest.raises(openai.AuthenticationError):
            BatchEmbeddings(azure(), hedge=False, _clock=clock).embed_query("a")
        assert server.stats()["requests"] <= 5
        assert clock.time <= 5
