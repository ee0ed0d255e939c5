"""Objects whose vectors differ have different spaces."""

import functools
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_openai import AzureOpenAIEmbeddings, OpenAIEmbeddings
from pydantic import SecretStr
from pytest_mock import MockerFixture

from langchain_batch_embed import (
    BatchEmbeddings,
)
from langchain_batch_embed.providers.identity import embeds_its_own_way


class TestSpaces:
    """Different vectors are kept apart in a journal."""

    class Server(Embeddings):
        """An `Embeddings` with options that affect its vectors."""

        def __init__(self, *, api_key: str = "k", **options: Any) -> None:
            self.model = "m"
            self.api_key = api_key
            self.options = options
            self.client = object()

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            """Return vectors that do not matter."""
            return [[1.0] for _ in texts]

        def embed_query(self, text: str) -> list[float]:
            """Return a vector that does not matter."""
            return [float(len(text))]

    def space(self, **options: Any) -> object:
        """Return the space of an object with these options."""
        return BatchEmbeddings(self.Server(**options))._pipeline.provider.space

    def test_options_of_a_wrapped_object_tell_its_vectors_apart(self) -> None:
        """Plain options of a wrapped object, such as a prefix, distinguish its vectors."""
        assert self.space(normalize=True) == self.space(normalize=True)
        assert self.space(normalize=True) != self.space(normalize=False)
        assert self.space(encode={"prompt": "query: "}) != self.space(encode={"prompt": ""})
        assert self.space(base_url="http://a") != self.space(base_url="http://b")

    def test_what_is_not_plain_hides_nothing_beside_it(self) -> None:
        """An object among the options is left out, but the options beside it still count."""
        one = {"prompt": "query: ", "pool": object(), "sizes": [1, object()]}
        assert self.space(encode=one) == self.space(encode={**one, "pool": object()})
        assert self.space(encode=one) != self.space(encode={**one, "prompt": ""})
        assert self.space(encode=one) != self.space(encode={**one, "sizes": [2, object()]})

    def test_a_new_key_is_no_other_space(self) -> None:
        """A new API key does not change the space, because it changes no vector.

        The key is not stored either, not even as a digest.
        """
        assert self.space(api_key="old") == self.space(api_key="new")


class TestReplacedMethods:
    """Methods that a test or a tracer has replaced in `OpenAIEmbeddings` itself are called."""

    @pytest.fixture
    def wrapped(self) -> OpenAIEmbeddings:
        """Return an object whose server answers nothing."""
        return OpenAIEmbeddings(
            model="text-embedding-3-small",
            base_url="http://127.0.0.1:1/v1",
            api_key=SecretStr("key"),
        )

    @pytest.mark.parametrize("options", [{}, {"autospec": True}], ids=["plain", "autospec"])
    def test_a_mock_of_the_class_is_called(
        self, wrapped: OpenAIEmbeddings, mocker: MockerFixture, options: dict[str, Any]
    ) -> None:
        """No request goes out while `unittest.mock.patch` replaces the methods of the class."""
        documents = mocker.patch.object(
            OpenAIEmbeddings, "embed_documents", return_value=[[1.0, 2.0]], **options
        )
        query = mocker.patch.object(
            OpenAIEmbeddings, "embed_query", return_value=[3.0, 4.0], **options
        )
        embeddings = BatchEmbeddings(wrapped)
        assert embeddings.embed_documents(["a"]) == [[1.0, 2.0]]
        assert embeddings.embed_query("b") == [3.0, 4.0]
        assert (documents.call_count, query.call_count) == (1, 1)

    @pytest.mark.parametrize("wraps", [False, True])
    def test_a_function_in_place_of_the_method_is_called(
        self, wrapped: OpenAIEmbeddings, monkeypatch: pytest.MonkeyPatch, *, wraps: bool
    ) -> None:
        """A function that replaces the method is called, even if it has the original's name."""

        def embed_documents(self: OpenAIEmbeddings, texts: list[str], *_: Any) -> list[list[float]]:
            del self
            return [[1.0, 2.0] for _ in texts]

        if wraps:
            embed_documents = functools.wraps(OpenAIEmbeddings.embed_documents)(embed_documents)
        monkeypatch.setattr(OpenAIEmbeddings, "embed_documents", embed_documents)
        assert BatchEmbeddings(wrapped).embed_documents(["a"]) == [[1.0, 2.0]]

    def test_a_class_without_replaced_methods_is_sent_for(self, wrapped: OpenAIEmbeddings) -> None:
        """`OpenAIEmbeddings`, and a subclass that overrides neither method, use the fast path."""

        class Named(OpenAIEmbeddings):
            """A subclass with nothing of its own."""

        assert not embeds_its_own_way(wrapped)
        assert not embeds_its_own_way(Named(api_key=SecretStr("key")))
        assert not embeds_its_own_way(
            AzureOpenAIEmbeddings(
                azure_endpoint="http://127.0.0.1:1",
                api_version="2024-02-01",
                api_key=SecretStr("key"),
            )
        )
