"""LangChain's test suites for every `Embeddings`, with all of their tests unchanged."""

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_openai import OpenAIEmbeddings

from langchain_batch_embed import BatchEmbeddings

pytest.importorskip("langchain_tests", reason="langchain-tests needs langchain-core 1.4 or newer")

from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

# Their async tests run on anyio's plugin, which comes with the openai SDK.
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio alone, as LangChain does."""
    return "asyncio"


class TestUnit(EmbeddingsUnitTests):
    """The unit tests, around a class that needs no server."""

    @property
    def embeddings_class(self) -> type[BatchEmbeddings]:
        """Return the class under test."""
        return BatchEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        """Return the options for the object under test."""
        return {"embeddings": DeterministicFakeEmbedding(size=8)}


class TestIntegration(EmbeddingsIntegrationTests):
    """The integration tests, around `OpenAIEmbeddings` and the local server."""

    @pytest.fixture(autouse=True)
    def _wrapped(self, openai_embeddings: Callable[..., OpenAIEmbeddings]) -> None:
        self.wrapped = openai_embeddings()

    @property
    def embeddings_class(self) -> type[BatchEmbeddings]:
        """Return the class under test."""
        return BatchEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        """Return the options for the object under test."""
        return {"embeddings": self.wrapped}
