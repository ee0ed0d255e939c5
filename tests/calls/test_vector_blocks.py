"""Vectors are stored in blocks of memory that are reused."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from langchain_batch_embed.calls import vector_blocks
from langchain_batch_embed.calls.vector_blocks import VectorBlocks


def _filled(texts: Sequence[str]) -> VectorBlocks:
    vectors = VectorBlocks()
    for text in texts:
        vectors.put(text, _vector(text))
    return vectors


def _vector(text: str) -> NDArray[np.float32]:
    return np.full(3, float(text), dtype=np.float32)


def test_each_vector_is_its_texts() -> None:
    """A text always returns its own vector, over several blocks and after others were dropped."""
    texts = [str(i) for i in range(2 * vector_blocks._BLOCK + 1)]
    vectors = _filled(texts)
    for text in texts[::3]:
        assert vectors.drop(text)
    later = [str(-i) for i in range(1, 1000)]
    for text in later:
        vectors.put(text, _vector(text))
    there = [text for text in texts if text in vectors] + later
    assert len(there) == len(vectors) == len(texts) - len(texts[::3]) + len(later)
    assert vectors.stack(there).tolist() == [[float(text)] * 3 for text in there]


def test_a_vector_that_comes_twice_takes_one_place() -> None:
    """The later vector of a text replaces the earlier."""
    vectors = _filled(["1"])
    vectors.put("1", _vector("2"))
    assert len(vectors) == 1
    assert vectors.stack(["1"]).tolist() == [[2.0] * 3]


def test_what_was_dropped_is_gone() -> None:
    """A dropped text is gone, and dropping it again returns false."""
    vectors = _filled(["1", "2"])
    assert vectors.drop("1")
    assert not vectors.drop("1")
    assert "1" not in vectors
    assert len(vectors) == 1
    with pytest.raises(KeyError):
        vectors.stack(["1"])


def test_places_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Places are reused, so memory follows the most vectors held at a time."""
    monkeypatch.setattr(vector_blocks, "_BLOCK", 4)
    vectors = _filled([str(i) for i in range(4)])
    for i in range(4, 100):
        vectors.drop(str(i - 4))
        vectors.put(str(i), _vector(str(i)))
    assert len(vectors._blocks) == 1


def test_vectors_are_copies() -> None:
    """A caller that changes a returned array does not change the stored vector."""
    vectors = _filled(["1"])
    vectors.stack(["1"])[:] = 0
    assert vectors.stack(["1"]).tolist() == [[1.0] * 3]
