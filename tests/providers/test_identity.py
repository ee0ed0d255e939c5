"""Whose vectors they are: objects whose vectors differ have different spaces."""

from typing import Any

from langchain_core.embeddings import Embeddings

from langchain_batch_embed import (
    BatchEmbeddings,
)


class TestSpaces:
    """Vectors that are not the same are not the same in a journal."""

    class Server(Embeddings):
        """One that can be told how to make its vectors."""

        def __init__(self, *, api_key: str = "k", **options: Any) -> None:
            self.model = "m"
            self.api_key = api_key
            self.options = options
            self.client = object()

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            """Return what does not matter."""
            return [[1.0] for _ in texts]

        def embed_query(self, text: str) -> list[float]:
            """Return what does not matter."""
            return [float(len(text))]

    def space(self, **options: Any) -> object:
        """Return the space of an object with these options."""
        return BatchEmbeddings(self.Server(**options))._pipeline.provider.space

    def test_options_of_a_wrapped_object_tell_its_vectors_apart(self) -> None:
        """Whatever it has in plain attributes, such as a prefix or the server's address."""
        assert self.space(normalize=True) == self.space(normalize=True)
        assert self.space(normalize=True) != self.space(normalize=False)
        assert self.space(encode={"prompt": "query: "}) != self.space(encode={"prompt": ""})
        assert self.space(base_url="http://a") != self.space(base_url="http://b")

    def test_what_is_not_plain_hides_nothing_beside_it(self) -> None:
        """An object among the options is left out, alone."""
        one = {"prompt": "query: ", "pool": object(), "sizes": [1, object()]}
        assert self.space(encode=one) == self.space(encode={**one, "pool": object()})
        assert self.space(encode=one) != self.space(encode={**one, "prompt": ""})
        assert self.space(encode=one) != self.space(encode={**one, "sizes": [2, object()]})

    def test_a_new_key_is_no_other_space(self) -> None:
        """It changes no vector, and is nothing to be told of, even as a digest."""
        assert self.space(api_key="old") == self.space(api_key="new")
