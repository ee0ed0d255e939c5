"""`Results` gathers a call's vectors, even those that come at its very end."""

import numpy as np
import pytest

from langchain_batch_embed import ResponseError
from langchain_batch_embed.calls.recovery import CallRecovery, Recovery
from langchain_batch_embed.calls.results import Results
from langchain_batch_embed.journal import MemoryJournal, Space
from langchain_batch_embed.providers import Answer
from langchain_batch_embed.sending.work import Done, Lost
from langchain_batch_embed.texts.inputs import Inputs

INPUTS = Inputs(
    texts=["short", "long", "first half", "second half"],
    tokens=np.array([1, 20, 10, 10]),
    charges=np.array([1, 20, 10, 10]),
    octets=np.array([4, 80, 40, 40]),
    unique=2,
    row_of=np.array([0, 1]),
    windows={1: ([2, 3], [10, 10])},
)
"""A short text, and a long one that is sent as two windows."""


def results(*, lists: bool) -> Results:
    """Return empty results for the two texts."""
    return Results(INPUTS, lists=lists)


def rows(*numbers: int) -> "np.ndarray[tuple[int], np.dtype[np.intp]]":
    """Return rows as an index array."""
    return np.array(numbers, dtype=np.intp)


@pytest.mark.parametrize("lists", [True, False])
def test_one_answer_in_another_order_is_put_in_order(lists: bool) -> None:
    """An answer that holds all rows at once, but not in order, gives each row its own vector."""
    inputs = Inputs(
        texts=["a", "b", "c"],
        tokens=np.ones(3, dtype=np.int64),
        charges=np.ones(3, dtype=np.int64),
        octets=np.ones(3, dtype=np.int64),
        unique=3,
        row_of=np.arange(3),
        windows={},
    )
    found = Results(inputs, lists=lists)
    found.add(rows(2, 0, 1), np.array([[2.0], [0.0], [1.0]], dtype=np.float32))
    found.settle(Done(rows(2, 0, 1)))
    assert np.array_equal(found.lists() if lists else found.array(), [[0.0], [1.0], [2.0]])


@pytest.mark.parametrize("lists", [True, False])
def test_what_comes_after_the_partial_results_changes_nothing(lists: bool) -> None:
    """Vectors that come after the partial results are refused and raise no error."""
    found = results(lists=lists)
    found.add(rows(2), np.ones((1, 3), dtype=np.float32))
    found.settle(Done(rows(2)))
    found.settle(Lost(rows(0, 3), TimeoutError()))
    assert [failure.index for failure in found.finish()] == [0, 1]
    found.abandon()
    assert found.partial() == [None, None]
    assert found.add(rows(0, 3), np.ones((2, 3), dtype=np.float32)) is False
    assert found.partial() == [None, None]
    assert [failure.index for failure in found.failures()] == [0, 1]


def test_a_text_whose_answer_came_all_the_same_has_not_failed() -> None:
    """A text whose answer comes after its deadline, but before the call ended, has not failed."""
    found = results(lists=True)
    found.settle(Lost(rows(0), TimeoutError()))
    assert [failure.index for failure in found.failures()] == [0]
    found.add(rows(0), np.ones((1, 3), dtype=np.float32))
    assert found.failures() == []
    assert found.partial()[0] == [1.0, 1.0, 1.0]


def kept(found: Results, inputs: Inputs) -> CallRecovery:
    """Return the object that receives the answers of a call."""
    shared = Recovery(MemoryJournal(), Space(provider="test", model="test"))
    return shared.for_call(inputs, found, query=False)


def answer(count: int, dimensions: int, model: str | None = None) -> Answer:
    """Return an answer whose vectors consist of ones."""
    return Answer(vectors=np.ones((count, dimensions), dtype=np.float32), model=model)


def test_vectors_of_other_dimensions_are_not_saved() -> None:
    """Vectors of another width are not saved, and the next answer may fill their rows."""
    found = Results(INPUTS, lists=False)
    recovery = kept(found, INPUTS)
    recovery.keep(rows(0), answer(1, 3))
    with pytest.raises(ResponseError, match="vectors with 4 dimensions, but earlier ones have 3"):
        recovery.keep(rows(2, 3), answer(2, 4))
    assert found.done.tolist() == [True, False, False, False]
    recovery.keep(rows(2, 3), answer(2, 3))
    assert found.done.tolist() == [True, False, True, True]


def test_vectors_of_another_model_are_not_saved() -> None:
    """Vectors of another model are not saved, although they have the same width."""
    found = Results(INPUTS, lists=False)
    recovery = kept(found, INPUTS)
    recovery.keep(rows(0), answer(1, 3, "a"))
    with pytest.raises(ResponseError, match="another model"):
        recovery.keep(rows(2), answer(1, 3, "b"))
    assert found.done.tolist() == [True, False, False, False]
    recovery.keep(rows(2), answer(1, 3, "a"))
    assert found.done.tolist() == [True, False, True, False]
