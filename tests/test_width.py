"""Vectors of two widths never get mixed, and a spoilt answer is not taken for a changed model."""

import pytest

from langchain_batch_embed import DimensionsError, ResponseError
from langchain_batch_embed.width import Width


def seen(width: Width, numbers: int, times: int = 1, *, answer: bool = True) -> list[str]:
    """Let vectors of so many numbers come; return what was said to each."""
    said = []
    for _ in range(times):
        try:
            width.check(numbers, answer=answer)
        except (ResponseError, DimensionsError) as error:
            said.append(type(error).__name__)
        else:
            said.append("fits")
    return said


@pytest.mark.parametrize(
    ("fits", "tolerated"), [(0, 2), (1, 2), (2, 2), (9, 9), (15, 15), (99, 15)]
)
def test_some_answers_in_a_row_may_be_spoilt(fits: int, tolerated: int) -> None:
    """The more were right before, the more; with the next one the model has changed."""
    width = Width(3)
    seen(width, 3, fits)
    assert seen(width, 4, tolerated) == ["ResponseError"] * tolerated
    assert seen(width, 4, 2) == ["DimensionsError"] * 2
    assert width.in_doubt
    assert width.numbers == 3


def test_a_right_answer_in_between_makes_it_start_anew() -> None:
    """Only those in a row are counted."""
    width = Width()
    for _ in range(5):
        assert seen(width, 3) == ["fits"]
        assert not width.in_doubt
        assert seen(width, 4, 2) == ["ResponseError"] * 2
    assert not width.is_refuted


@pytest.mark.parametrize(("known", "fits"), [(3, 0), (None, 1)])
def test_a_width_is_refuted_by_more_than_spoke_for_it(known: int | None, fits: int) -> None:
    """Such as that of an earlier model, or of a first answer that was spoilt."""
    width = Width(known)
    seen(width, 3, fits)
    seen(width, 4, 2)
    assert not width.is_refuted
    seen(width, 4)
    assert width.is_refuted


def test_a_model_that_changed_later_does_not_refute_what_came_before() -> None:
    """Its vectors were right when they came."""
    width = Width()
    seen(width, 3, 20)
    assert seen(width, 4, 16)[-1] == "DimensionsError"
    assert not width.is_refuted


@pytest.mark.parametrize(("fits", "refuted"), [(0, True), (1, False)])
def test_vectors_that_were_kept_are_not_spoilt(fits: int, refuted: bool) -> None:
    """They were checked when they came, so one is enough, unless an answer says otherwise."""
    width = Width(3)
    seen(width, 3, fits)
    assert seen(width, 4, answer=False) == ["DimensionsError"]
    assert width.is_refuted == refuted


def test_a_width_is_confirmed_by_what_comes() -> None:
    """And not by what was only known before."""
    width = Width(3)
    seen(width, 4)
    assert not width.is_confirmed
    seen(width, 3, answer=False)
    assert width.is_confirmed
