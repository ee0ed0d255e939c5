"""Vectors without a model are the same everywhere, and closer for texts that share words."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.simulator import vectors

TEXTS = st.lists(st.text(max_size=60), min_size=1, max_size=8)


@given(TEXTS, st.integers(1, 64))
def test_every_row_has_unit_length_and_finite_numbers(texts: list[str], dimensions: int) -> None:
    """Any text, even an empty one, gives a float32 row of length 1."""
    rows = vectors(texts, dimensions)

    assert rows.dtype == np.float32
    assert rows.shape == (len(texts), dimensions)
    np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float64), axis=1), 1, atol=1e-6)


@given(TEXTS)
def test_a_row_does_not_depend_on_the_batch(texts: list[str]) -> None:
    """A text's vector is the same bit for bit, alone and among others."""
    alone = [vectors([text], 32)[0].tobytes() for text in texts]

    assert alone == [row.tobytes() for row in vectors(texts, 32)]


@given(st.text(max_size=40), st.text(max_size=40))
def test_different_texts_have_different_vectors(first: str, second: str) -> None:
    """Different texts have different vectors, even if only order, case or punctuation differ."""
    one, other = vectors([first, second], 1536)

    assert (first == second) == bool((one == other).all())


def test_vectors_are_the_same_on_every_machine() -> None:
    """The bytes of known vectors never change, by process or by platform."""
    rows = vectors(["The quick brown fox", "", "naïve Σίσυφος 🧠 x_1"], 64)

    digest = hashlib.sha256(rows.astype("<f4").tobytes()).hexdigest()

    assert digest == "ca46faf90b00681cc813929db45416868899e8102a63e4a4375185c8bc485581"


@pytest.mark.parametrize("dimensions", [256, 1536, 3072])
def test_numbers_are_all_over_a_vector(dimensions: int) -> None:
    """As in a model's vectors no number stands out, so the size in JSON is realistic."""
    row = np.abs(vectors(["The quick brown fox jumps over the lazy dog"], dimensions)[0])

    assert np.count_nonzero(row) > 0.95 * dimensions
    assert row.max() < 6 / np.sqrt(dimensions)


def test_texts_that_share_words_lie_closer() -> None:
    """Texts that share words are closer, so a search by words finds the right text."""
    query, match, other = vectors(
        [
            "listen on a socket",
            "The server opens a socket, and begins to LISTEN.",
            "Parse a date and print the day of the week.",
        ],
        1536,
    )

    assert query @ match > 0.4
    assert query @ other < 0.1


def test_no_texts_give_no_rows() -> None:
    """An empty batch gives no rows but keeps the width."""
    assert vectors([], 8).shape == (0, 8)


@pytest.mark.parametrize("word", ["a" * 200_000, "🧠" * 50_000])
def test_a_very_long_word_is_one_word(word: str) -> None:
    """A word of any length is hashed as a whole."""
    one, other = vectors([word, word[:-1]], 1536)

    assert one @ other < 0.5
