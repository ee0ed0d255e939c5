"""Vectors of two widths or models are never mixed, and a spoilt answer is no change of model."""

import pytest

from langchain_batch_embed import DimensionsError, ModelError, ResponseError
from langchain_batch_embed.calls.dimensions import Dimensions


def seen(width: Dimensions, numbers: int, times: int = 1, *, answer: bool = True) -> list[str]:
    """Check vectors of this width and return the verdict on each."""
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
    """Some wrong widths in a row count as spoilt answers, more of them after many right ones.

    With one more answer, the model counts as changed.
    """
    width = Dimensions(3)
    seen(width, 3, fits)
    assert seen(width, 4, tolerated) == ["ResponseError"] * tolerated
    assert seen(width, 4, 2) == ["DimensionsError"] * 2
    assert width.in_doubt
    assert width.number == 3


def test_a_right_answer_in_between_makes_it_start_anew() -> None:
    """A right answer resets the count, because only spoilt answers in a row are counted."""
    width = Dimensions()
    for _ in range(5):
        assert seen(width, 3) == ["fits"]
        assert not width.in_doubt
        assert seen(width, 4, 2) == ["ResponseError"] * 2
    assert not width.is_refuted


@pytest.mark.parametrize(("known", "fits"), [(3, 0), (None, 1)])
def test_a_width_is_refuted_by_more_than_spoke_for_it(known: int | None, fits: int) -> None:
    """A width is refuted once more answers contradict it than supported it.

    It may be the width of an earlier model, or of a spoilt first answer.
    """
    width = Dimensions(known)
    seen(width, 3, fits)
    seen(width, 4, 2)
    assert not width.is_refuted
    seen(width, 4)
    assert width.is_refuted


def test_a_model_that_changed_later_does_not_refute_what_came_before() -> None:
    """A later change of the model does not refute the width of the many vectors before it."""
    width = Dimensions()
    seen(width, 3, 20)
    assert seen(width, 4, 16)[-1] == "DimensionsError"
    assert not width.is_refuted


@pytest.mark.parametrize(("fits", "refuted"), [(0, True), (1, False)])
def test_vectors_that_were_kept_are_not_spoilt(fits: int, refuted: bool) -> None:
    """A stored vector of another width is not counted as spoilt; one refutes the expected width.

    It was checked when it was stored. An answer of the expected width outweighs it.
    """
    width = Dimensions(3)
    seen(width, 3, fits)
    assert seen(width, 4, answer=False) == ["DimensionsError"]
    assert width.is_refuted == refuted


def test_a_width_is_confirmed_by_what_comes() -> None:
    """A width is confirmed by vectors that arrive, not by what was known before."""
    width = Dimensions(3)
    seen(width, 4)
    assert not width.is_confirmed
    seen(width, 3, answer=False)
    assert width.is_confirmed


def named(
    width: Dimensions, *models: str | None, answer: bool = True, numbers: int = 3
) -> list[str]:
    """Check vectors whose answers name these models and return the verdict on each."""
    said = []
    for model in models:
        try:
            width.check(numbers, answer=answer, model=model)
        except (ResponseError, DimensionsError, ModelError) as error:
            said.append(type(error).__name__)
        else:
            said.append("fits")
    return said


@pytest.mark.parametrize(
    ("fits", "tolerated"), [(0, 2), (1, 2), (2, 2), (9, 9), (15, 15), (99, 15)]
)
def test_some_answers_in_a_row_may_name_another_model(fits: int, tolerated: int) -> None:
    """As many answers in a row may name another model as may have another width.

    With one more answer, the model counts as changed.
    """
    width = Dimensions()
    width.expect_model("a")
    named(width, *["a"] * fits)
    assert named(width, *["b"] * tolerated) == ["ResponseError"] * tolerated
    with pytest.raises(ModelError) as caught:
        width.check(3, answer=True, model="b")
    assert (caught.value.expected, caught.value.received) == ("a", "b")
    assert width.model_after("earlier") is None
    assert not width.in_doubt  # their width is right
    assert width.model == "a"


def test_the_right_model_in_between_starts_the_count_again() -> None:
    """An answer from the right model resets the count, and the odd answers' vectors are refused."""
    width = Dimensions()
    for _ in range(5):
        assert named(width, "a", "b", "c") == ["fits", "ResponseError", "ResponseError"]
    assert named(width, "a") == ["fits"]
    assert width.model_after("earlier") is not None


def test_an_answer_that_names_no_model_says_nothing() -> None:
    """An answer that names no model fits, and does not affect a row of answers of another model."""
    width = Dimensions()
    assert named(width, None, "a", None, "b", None, "b", None, "b", None) == (
        ["fits"] * 3 + ["ResponseError", "fits", "ResponseError", "fits", "ModelError", "fits"]
    )


@pytest.mark.parametrize("name", ["Text-Embedding-3-Small", "openai/text-embedding-3-small"])
def test_capitals_and_the_providers_name_make_no_other_model(name: str) -> None:
    """Model names are equal despite capitals or a provider prefix, which gateways vary."""
    for first, second in ((name, "text-embedding-3-small"), ("text-embedding-3-small", name)):
        assert named(Dimensions(), first, second, first) == ["fits"] * 3


@pytest.mark.parametrize("name", ["text-embedding-3-small-2024", "small", "other-model/a", ""])
def test_any_other_name_is_another_model(name: str) -> None:
    """Any other name, including a version of the model, counts as another model."""
    assert named(Dimensions(), "text-embedding-3-small", name)[1] == "ResponseError"


def test_what_is_expected_does_not_replace_what_is_known() -> None:
    """An expected model does not replace the model that an answer has named already."""
    width = Dimensions()
    width.expect_model(None)
    named(width, "a")
    width.expect_model("b")
    assert width.model == "a"


def test_a_model_is_refuted_by_more_than_spoke_for_it() -> None:
    """A model is refuted once more answers contradict it than supported it."""
    width = Dimensions()
    named(width, "a", "b", "b")
    assert not width.is_refuted
    named(width, "b")
    assert width.is_refuted


def test_kept_vectors_of_another_model_are_not_spoilt() -> None:
    """A stored vector of another model is not counted as spoilt, so one is enough to refute."""
    width = Dimensions()
    width.expect_model("b")
    assert named(width, "a", answer=False) == ["ModelError"]
    assert width.is_refuted


def test_of_another_width_the_model_is_not_looked_at() -> None:
    """If the width is wrong, the model is not checked, as one fault is enough."""
    width = Dimensions()
    named(width, "a")
    assert named(width, "b", numbers=4) == ["ResponseError"]
    assert width.model_after("earlier") is not None
