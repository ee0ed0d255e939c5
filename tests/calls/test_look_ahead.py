"""`LookAhead` limits how many texts are embedded ahead of the questions."""

import pytest

from langchain_batch_embed.calls.look_ahead import LookAhead


def announced(count: int = 1000, *, most: int = 1000, credit: float = 0.0) -> LookAhead:
    """Return a look-ahead over this many announced texts, with four runs."""
    look_ahead = LookAhead(most, 4, credit=credit)
    for i in range(count):
        look_ahead.announce(str(i), i + 1)
    return look_ahead


def ask(look_ahead: LookAhead, start: int, stop: int, step: int = 1) -> bool:
    """Ask for a range of the texts."""
    return look_ahead.ask([str(i) for i in range(start, stop, step)])


def test_nothing_is_embedded_before_the_first_question() -> None:
    """Nothing is embedded before the first question, because `index()` may skip every text."""
    assert announced().run_size(1000, 0) == 0


def test_the_first_question_allows_four_times_as_much() -> None:
    """The first question permits four times as many texts ahead, in addition to its own.

    Runs have at most a quarter of what may be buffered.
    """
    look_ahead = announced()
    assert ask(look_ahead, 0, 10)
    assert look_ahead.run_size(1000, 0, asked=10) == 50
    assert look_ahead.run_size(1000, 40, asked=10) == 10


def test_questions_that_follow_on_one_another_soon_fill_the_buffer() -> None:
    """After a few consecutive questions a run is as long as the buffer permits."""
    look_ahead = announced()
    for start in range(0, 50, 10):
        ask(look_ahead, start, start + 10)
    assert look_ahead.run_size(1000, 0) == look_ahead.longest_run == 250


def test_runs_are_not_shorter_than_a_quarter_of_the_credit() -> None:
    """Runs are at least a quarter of the credit, so a slow caller does not cause small requests."""
    look_ahead = announced()
    ask(look_ahead, 0, 10)  # 40 may be ahead
    assert look_ahead.run_size(1000, 31) == 0
    assert look_ahead.run_size(1000, 30) == 10
    assert look_ahead.run_size(3, 30) == 3  # all that remain


@pytest.mark.parametrize(("step", "least", "most"), [(2, 5, 20), (4, 0, 1), (10, 0, 0)])
def test_what_is_skipped_is_not_trusted(step: int, least: int, most: int) -> None:
    """Skipped texts reduce the look-ahead.

    If every second text is asked for, runs go ahead by a quarter of a question.
    """
    look_ahead = announced()
    for start in range(0, 600, 40):
        ask(look_ahead, start, start + 40, step)
    assert least <= look_ahead.run_size(1000, 0) <= most


def test_a_text_that_was_asked_for_before_is_no_new_question() -> None:
    """Repeated texts, and texts that were not announced, count as no new question."""
    look_ahead = announced()
    assert ask(look_ahead, 0, 10)
    assert not ask(look_ahead, 0, 10)
    assert not look_ahead.ask(["another"])


def test_texts_before_the_last_question_are_behind() -> None:
    """Texts before the last question are behind, because callers ask in order."""
    look_ahead = announced()
    ask(look_ahead, 50, 60)
    assert look_ahead.is_behind("49")
    assert not look_ahead.is_behind("60")


def test_a_question_forgives_the_texts_whose_runs_failed() -> None:
    """A question resets the count of lost texts, which until then count as being ahead.

    So runs that fail do not follow one another.
    """
    look_ahead = announced()
    look_ahead.lost = 40
    ask(look_ahead, 0, 10)
    assert look_ahead.lost == 0


def test_texts_that_are_all_needed_are_embedded_as_far_as_there_is_room() -> None:
    """An ingest starts with little and embeds as much as there is room for once all is needed."""
    look_ahead = announced(credit=100)
    assert look_ahead.run_size(1000, 0) == 100
    assert look_ahead.run_size(1000, 100) == 0
    look_ahead.need_all()
    assert look_ahead.run_size(1000, 100) == 250


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_tiny_buffer_has_runs_of_one(most: int) -> None:
    """Even the smallest buffer permits runs of one text."""
    look_ahead = announced(most=most)
    look_ahead.need_all()
    assert look_ahead.run_size(1000, 0) == 1
