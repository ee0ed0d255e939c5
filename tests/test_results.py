"""What comes of a call is gathered, also at its very end."""

import numpy as np
import pytest

from langchain_batch_embed import DimensionsError, ResponseError
from langchain_batch_embed.inputs import Inputs
from langchain_batch_embed.results import Results
from langchain_batch_embed.work import Done, Lost


def results(*, lists: bool) -> Results:
    """Return those of a short text, and a long one that is sent as two windows."""
    inputs = Inputs(
        texts=["short", "long", "first half", "second half"],
        tokens=np.array([1, 20, 10, 10]),
        charges=np.array([1, 20, 10, 10]),
        unique=2,
        row_of=np.array([0, 1]),
        windows={1: ([2, 3], [10, 10])},
    )
    return Results(inputs, lists=lists)


def rows(*numbers: int) -> "np.ndarray[tuple[int], np.dtype[np.intp]]":
    """Return rows."""
    return np.array(numbers, dtype=np.intp)


@pytest.mark.parametrize("lists", [True, False])
def test_what_comes_after_the_partial_results_changes_nothing(lists: bool) -> None:
    """It is told to be unwanted, and raises nothing in the thread that brought it."""
    found = results(lists=lists)
    found.add(rows(2), np.ones((1, 3), dtype=np.float32))
    found.take(Done(rows(2)))
    found.take(Lost(rows(0, 3), TimeoutError()))
    assert [failure.index for failure in found.finish()] == [0, 1]
    found.abandon()
    assert found.partial() == [None, None]
    assert found.add(rows(0, 3), np.ones((2, 3), dtype=np.float32)) is False
    assert found.partial() == [None, None]
    assert [failure.index for failure in found.failures()] == [0, 1]


def test_a_text_whose_answer_came_all_the_same_has_not_failed() -> None:
    """Given up at the deadline, and answered before the call had ended."""
    found = results(lists=True)
    found.take(Lost(rows(0), TimeoutError()))
    assert [failure.index for failure in found.failures()] == [0]
    found.add(rows(0), np.ones((1, 3), dtype=np.float32))
    assert found.failures() == []
    assert found.partial()[0] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("confirmed", "tolerated"), [(False, 2), (True, 15)])
def test_answers_of_another_width_in_a_row_are_a_change_and_else_an_accident(
    confirmed: bool, tolerated: int
) -> None:
    """More of them may be accidents where an answer of this call has confirmed the width."""
    found = results(lists=False)
    right, wrong = np.ones((1, 3), dtype=np.float32), np.ones((1, 4), dtype=np.float32)
    found.add(rows(0), right, answer=confirmed)
    for _ in range(3 if confirmed else 1):
        for _ in range(tolerated):
            with pytest.raises(ResponseError, match="vectors of 4 numbers came, and 3 before"):
                found.add(rows(2), wrong, answer=True)
        assert found.in_doubt
        if confirmed:  # which makes it start anew
            found.add(rows(3), right, answer=True)
            assert not found.in_doubt
    for _ in range(tolerated if confirmed else 0):
        with pytest.raises(ResponseError):
            found.add(rows(2), wrong, answer=True)
    with pytest.raises(DimensionsError, match="vectors of 4 numbers came, but earlier ones"):
        found.add(rows(2), wrong, answer=True)
    assert found.is_refuted
    assert found.done.tolist() == [True, False, False, confirmed]


def test_kept_vectors_of_another_width_are_no_accident() -> None:
    """What a journal or a prefetch holds was checked when it came."""
    found = results(lists=False)
    found.add(rows(0), np.ones((1, 3), dtype=np.float32))
    with pytest.raises(DimensionsError, match="vectors of 4 numbers came, but earlier ones"):
        found.add(rows(2), np.ones((1, 4), dtype=np.float32))
    found.add(rows(2), np.ones((1, 3), dtype=np.float32))
    with pytest.raises(ResponseError):  # it counts as one of those in a row
        found.add(rows(3), np.ones((1, 4), dtype=np.float32), answer=True)
    with pytest.raises(DimensionsError):
        found.add(rows(3), np.ones((1, 4), dtype=np.float32), answer=True)
