"""Content keys identify vectors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.journal import (
    Space,
    content_keys,
)
from tests.journal.support import SPACE, keys


class TestContentKeys:
    """Keys distinguish texts and spaces, and contain neither."""

    def test_same_text_and_space_give_the_same_key(self) -> None:
        """A text's key in a space is the same in every process and release of this version."""
        expected = ["1c452b4cbf", "69727f1ada"]
        actual = [key.hex()[:10] for key in keys("one", "two")]
        assert expected == actual

    @pytest.mark.parametrize(
        "other",
        [
            Space(provider="azure", model="m"),
            Space(provider="openai", model="n"),
            Space(provider="openai", model="m", dimensions=8),
            Space(provider="openai", model="m", endpoint="http://localhost:8080"),
            Space(provider="openai", model="m", variant="query"),
            Space(provider="openaim", model=""),
        ],
        ids=["provider", "model", "dimensions", "endpoint", "variant", "moved border"],
    )
    def test_another_space_gives_another_key(self, other: Space) -> None:
        """Everything that changes a vector changes its key."""
        space = Space(provider="openai", model="m")
        assert keys("text", space=space) != keys("text", space=other)

    def test_keys_have_at_least_128_bits(self) -> None:
        """Keys have at least 128 bits, so that they can stand for the text."""
        assert all(len(key) * 8 >= 128 for key in keys("", "text", "x" * 10_000))

    @given(st.lists(st.text(st.characters(codec=None)), unique=True))
    def test_different_texts_have_different_keys(self, texts: list[str]) -> None:
        """Different Python strings have different keys, even with lone surrogates."""
        assert len(texts) == len(set(content_keys(texts, SPACE)))

    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ("https://user:sk-secret@Example.com:8443/v1/", "https://example.com:8443/v1"),
            ("https://example.com/v1?api-key=sk-secret#sk-secret", "https://example.com/v1"),
            ("user:sk-secret@example.com/v1", "example.com/v1"),
            ("user:sk-secret@example.com?to=https://other", "example.com"),
            ("localhost:8080/v1", "localhost:8080/v1"),
            ("", ""),
        ],
    )
    def test_endpoint_keeps_no_secret(self, given: str, kept: str) -> None:
        """Of an endpoint's address only the part that names the server is kept."""
        assert kept == Space(provider="openai", model="m", endpoint=given).endpoint

    def test_name_says_what_made_the_vectors(self) -> None:
        """The space's name is readable and omits the endpoint's path."""
        space = Space(
            provider="azure",
            model="m",
            dimensions=256,
            endpoint="https://me.openai.azure.com/account/17",
            variant="average",
        )
        assert space.name == "azure m, 256 dimensions, me.openai.azure.com, average"
