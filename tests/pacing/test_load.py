"""Whether failures of any kind come from too many requests."""

import pytest

from langchain_batch_embed.pacing.load import FAST, MOST, WINDOW, Load

USUAL = 1.0
AT_ONCE = 0.01


def after(history: str) -> Load:
    """Return the state after answers (`a`), failures at once (`f`) and slow failures (`s`)."""
    load = Load()
    for event in history:
        if event == "a":
            load.answered()
        else:
            load.failed(AT_ONCE if event == "f" else USUAL, usual=USUAL, is_plain=True)
    return load


def test_most_requests_fail_at_once_while_others_are_answered() -> None:
    """If most requests fail at once and the others are answered, there are too many."""
    assert after("af" * 3 + "f" * MOST).is_cause
    assert after("f" * MOST + "a" + "f").is_cause


@pytest.mark.parametrize(
    "history",
    [
        "a" * 100,
        "f" * 100,
        ("a" * 9 + "f") * 20,
        "af" * 50,
        "as" * 8 + "s" * 50,
    ],
)
def test_anything_else_says_nothing(history: str) -> None:
    """An outage, chance, and failures that take as long as answers have other causes."""
    assert not after(history).is_cause


def test_it_ends_with_a_window_of_answers() -> None:
    """Once all the latest requests are answered, failures may mean anything again."""
    load = after("a" + "f" * (MOST + 1))
    assert load.is_cause
    for _ in range(WINDOW):
        load.answered()
    assert not load.is_cause


def test_parts_and_large_batches_are_no_evidence() -> None:
    """A part of a failed batch may hold a bad text, and a large batch may be too large."""
    load = after("a")
    for _ in range(WINDOW):
        assert not load.failed(AT_ONCE, usual=USUAL, is_plain=False)
    for _ in range(MOST):
        load.answered()
        load.failed(AT_ONCE, usual=USUAL, is_plain=True)
    assert load.failed(AT_ONCE, usual=USUAL, is_plain=True)
    assert load.failed(AT_ONCE, usual=USUAL, is_plain=False)  # now it is known
    assert not load.failed(FAST * USUAL, usual=USUAL, is_plain=True)


def test_before_any_answer_nothing_comes_at_once() -> None:
    """Without an answer to compare with, a failure says nothing."""
    load = Load()
    for _ in range(WINDOW):
        assert not load.failed(0.0, usual=0.0, is_plain=True)
    assert not load.has_failed
