"""Classes that embed in their own way are called themselves, with the user's settings."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr
from pytest_mock import MockerFixture

from langchain_batch_embed import (
    BatchEmbeddings,
)
from tests.providers.fakes import Prefixed, Service, fake
from tests.support import FakeClock, LocalServer, assert_right

Batch = Callable[..., BatchEmbeddings]


def test_another_class_of_openais_name_goes_through_its_own_methods() -> None:
    """Another class named `OpenAIEmbeddings`, as in langchain-community, uses its own methods."""
    service = Service()
    embeddings = BatchEmbeddings(fake("OpenAIEmbeddings", service))
    assert embeddings.limits.provider == "OpenAI"
    assert_right(embeddings.embed_numpy(["a", "b"]), ["a", "b"])
    assert sorted(service.answered) == ["a", "b"]


def test_a_users_subclass_of_openais_class_keeps_the_raw_path(
    server: LocalServer, mocker: MockerFixture
) -> None:
    """A plain subclass of `OpenAIEmbeddings` keeps the fast path."""

    class Mine(OpenAIEmbeddings):
        """A user's own subclass."""

    embeddings = BatchEmbeddings(Mine(base_url=server.url, api_key=SecretStr("sk-test")))
    slow = mocker.patch.object(OpenAIEmbeddings, "embed_documents")
    assert_right(embeddings.embed_numpy(["a"]), ["a"])
    slow.assert_not_called()


def test_queries_at_the_same_time_each_get_their_own_vector() -> None:
    """Concurrent queries do not share a request where the class embeds one query at a time."""
    service = Service()
    embeddings = BatchEmbeddings(fake("HuggingFaceEmbeddings", service))
    queries = [f"query {i}" for i in range(50)]

    async def ask() -> list[list[float]]:
        return await asyncio.gather(*map(embeddings.aembed_query, queries))

    assert_right(asyncio.run(ask()), queries)


class TestOwnMethods:
    """A subclass that overrides the methods of OpenAI's class is called itself."""

    @pytest.fixture
    def wrapped(self, server: LocalServer) -> Prefixed:
        """Return an object that sends strings and therefore needs no vocabulary."""
        return Prefixed(
            base_url=server.url, api_key=SecretStr("sk-test"), check_embedding_ctx_length=False
        )

    def test_its_vectors_are_those_that_it_makes_itself(self, wrapped: Prefixed) -> None:
        """The prefixes that the class adds, to documents or a query, are in the vectors."""
        embeddings = BatchEmbeddings(wrapped)
        assert embeddings.limits.provider == "OpenAI"
        assert_right(embeddings.embed_numpy(["a", "b"]), ["passage: a", "passage: b"])
        assert_right([embeddings.embed_query("a")], ["query: a"])

    def test_they_are_others_in_a_journal(self, wrapped: Prefixed, tmp_path: Path) -> None:
        """In a journal, the plain class's vectors are not used for the subclass."""
        plain = OpenAIEmbeddings(base_url=wrapped.openai_api_base, api_key=SecretStr("sk-test"))
        journal = tmp_path / "journal.db"
        assert_right(BatchEmbeddings(plain, journal=journal).embed_numpy(["a"]), ["a"])
        own = BatchEmbeddings(wrapped, journal=journal)
        assert_right(own.embed_numpy(["a"]), ["passage: a"])

    def test_one_call_is_one_request_and_none_is_sent_twice(
        self, wrapped: Prefixed, server: LocalServer, clock: FakeClock
    ) -> None:
        """The subclass does not slice or retry by itself, and the user's object is unchanged."""
        embeddings = BatchEmbeddings(
            wrapped, max_workers=1, max_retries=0, hedge=False, _clock=clock
        )
        texts = [f"section {i}" for i in range(1100)]
        assert_right(embeddings.embed_numpy(texts), [f"passage: {text}" for text in texts])
        assert server.stats()["requests"] == 1
        server.configure(script=("503",))
        with pytest.raises(openai.InternalServerError):
            embeddings.embed_query("a")
        assert server.stats()["requests"] == 1
        assert (wrapped.chunk_size, wrapped.client._client.max_retries) == (1000, 2)


def test_the_time_out_holds_for_a_subclass_that_is_asked_itself(server: LocalServer) -> None:
    """The time-out applies to a subclass that sends requests itself, in a copy of the object."""
    server.configure(script=("hang",), hang_seconds=60)
    wrapped = Prefixed(
        base_url=server.url, api_key=SecretStr("k"), check_embedding_ctx_length=False
    )
    embeddings = BatchEmbeddings(wrapped, timeout=0.3, deadline=30)
    assert_right(embeddings.embed_numpy(["a"]), ["passage: a"])
    assert embeddings.last_report is not None
    assert embeddings.last_report.retries >= 1


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(2, 2), (2.5, 2.5), ((2.0, 3.0), 3), (openai.Timeout(4), 4), (openai.Timeout(None), 120)],
)
def test_the_wrapped_objects_time_out_is_kept(
    batch: Batch,
    openai_embeddings: Callable[..., OpenAIEmbeddings],
    given: Any,
    seconds: float,
) -> None:
    """The time-out is taken from every form that the SDK accepts, and is otherwise 120 seconds."""
    embeddings = batch(openai_embeddings(timeout=given))
    assert embeddings._pipeline.dispatcher.sender.deployments[0].timeout == seconds


def test_the_wrapped_objects_context_length_is_kept(
    batch: Batch,
    openai_embeddings: Callable[..., OpenAIEmbeddings],
    server: LocalServer,
) -> None:
    """The wrapped object's shorter context length is kept, unless our option replaces it."""
    server.configure(max_tokens_per_input=512)
    wrapped = openai_embeddings(embedding_ctx_length=512)
    assert batch(wrapped).embed_numpy(["word " * 2000, "a"]).shape[0] == 2
    assert batch(wrapped, max_tokens_per_input=300).limits.max_tokens_per_input == 300


def test_an_unknown_class_works() -> None:
    """Any `Embeddings` can be wrapped, even one that names no model."""
    wrapped = DeterministicFakeEmbedding(size=3)
    texts = [f"section {i}" for i in range(250)]
    got = BatchEmbeddings(wrapped).embed_documents(texts)
    np.testing.assert_allclose(got, wrapped.embed_documents(texts), rtol=1e-6)
