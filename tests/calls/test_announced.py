"""`Announced` tracks every announced text until it is handed out, without a thread."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.calls.announced import Announced, Run
from tests.support import examples

VECTOR = np.ones(2, dtype=np.float32)


def announced(*texts: str, most: int = 100, until_released: bool = False) -> Announced:
    """Announce the texts and mark all of them as needed."""
    made = Announced(max_buffered=most, max_runs=4, until_released=until_released, first=0)
    for place, text in enumerate(texts, 1):
        made.announce(text, place)
    made.need_all()
    return made


def begin(texts: Announced) -> list[Run]:
    """Begin all runs for which there is room."""
    runs = []
    while (run := texts.next_run()) is not None:
        runs.append(run)
    return runs


def finish(texts: Announced, run: Run) -> None:
    """Let all texts of a run arrive, and end the run."""
    for text in run.texts:
        texts.add(text, VECTOR)
    texts.end_run(run, useless=False)


def test_no_more_than_four_runs_are_under_way() -> None:
    """At most four runs are in progress, and the next one begins when one has ended."""
    texts = announced(*map(str, range(100)))
    runs = begin(texts)
    assert [len(run.texts) for run in runs] == [25] * 4
    texts.announce("one more", 101)
    assert texts.next_run() is None
    finish(texts, runs[0])
    assert texts.next_run() is None  # its vector has no room yet
    texts.drop("0")
    assert [run.texts for run in begin(texts)] == [["one more"]]


def test_a_text_that_somebody_asks_for_is_not_in_a_later_run() -> None:
    """A text that a call embeds itself is in no later run, so it is paid for once."""
    texts = announced("a", "b")
    texts.take_from_line("a")
    assert [run.texts for run in begin(texts)] == [["b"]]


def test_texts_that_questions_pass_over_are_embedded_only_on_request() -> None:
    """Skipped texts are not embedded ahead, but stay in line in case a question asks for them."""
    texts = Announced(max_buffered=100, max_runs=4, until_released=False, first=0)
    for place, text in enumerate(["skipped", "asked", "next"], 1):
        texts.announce(text, place)
    assert texts.ask(["asked"])
    assert texts.in_line(["asked"]) == ["asked"]
    texts.pass_over()
    runs = [texts.next_run(["asked"])]
    assert [run.texts for run in runs if run is not None] == [["asked"]]
    assert texts.in_line(["skipped"]) == ["skipped"]
    assert begin(texts) == []  # half of the texts were skipped, so nothing is embedded ahead


def test_what_a_caller_waits_for_makes_no_room() -> None:
    """Vectors that a caller waits for are not dropped to make room.

    A caller that gave up at a deadline and asks again receives its vectors first.
    """
    texts = announced("a", "b", "c", "d", most=2)
    runs = begin(texts)
    assert [run.texts for run in runs] == [["a"], ["b"]]
    texts.hand_out(["a", "b"], Counter("ab"))  # at a deadline, while they are being embedded
    texts.want(["a", "b"])
    for run in runs:
        finish(texts, run)
    assert texts.next_run() is None
    texts.want_no_more(["a", "b"])
    assert [run.texts for run in begin(texts)] == [["c"], ["d"]]
    assert len(texts.ready) == 0


def test_vectors_that_are_kept_until_they_are_released_make_no_room() -> None:
    """Vectors of an ingest make no room until they are released, as it needs every one."""
    texts = announced("a", "a", "b", most=1, until_released=True)
    (run,) = begin(texts)
    finish(texts, run)
    texts.drop("a")
    assert texts.next_run() is None
    texts.drop("a")
    assert [run.texts for run in begin(texts)] == [["b"]]


def test_a_run_that_ends_leaves_another_ones_texts_alone() -> None:
    """A run that ends does not affect a text that another run embeds again.

    The text was handed out and then announced a second time.
    """
    texts = announced("twice", "other")
    (first,) = begin(texts)
    texts.add("twice", VECTOR)
    texts.hand_out(["twice"], Counter(["twice"]))
    texts.announce("twice", 3)
    (second,) = begin(texts)
    texts.end_run(first, useless=False)
    assert texts.is_running("twice")
    assert not texts.is_running("other")
    finish(texts, second)
    assert list(texts.ready) == ["twice"]


def test_a_run_whose_vectors_are_useless_is_the_last() -> None:
    """After a run with useless vectors no other run begins.

    The vectors of each further run would be useless too.
    """
    texts = announced(*map(str, range(200)))
    run, *_ = begin(texts)
    texts.end_run(run, useless=True)
    assert texts.next_run() is None


def test_a_vector_that_a_caller_has_made_is_kept_only_where_it_is_expected() -> None:
    """A vector that a caller computed is kept only if it is expected and there is room."""
    texts = announced("a", "b", "c", most=2)
    texts.keep(["another", "a", "b", "c"], np.ones((4, 2), dtype=np.float32))
    assert list(texts.ready) == ["a", "b"]


def test_token_counts_go_with_their_texts() -> None:
    """Token counts are dropped with their texts, so they take no more memory than the texts."""
    texts = announced("a", "b")
    texts.note_tokens(["a", "another"], [7, 8])
    assert (texts.tokens_of("a"), texts.tokens_of("another")) == (7, None)
    texts.drop("a")
    assert texts.tokens_of("a") is None


@examples(200)
@given(
    st.lists(st.integers(0, 30), max_size=80),
    st.integers(1, 40),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_never_more_vectors_are_held_and_it_ends(
    numbers: list[int], most: int, until_released: bool, seed: int
) -> None:
    """The limits on vectors and runs hold, and every text is settled, in any order of events.

    Vectors arrive, runs fail and callers ask in random order.
    """
    draw = random.Random(seed)
    texts = Announced(max_buffered=most, max_runs=4, until_released=until_released, first=5)
    left = [str(number) for number in numbers]
    for place, text in enumerate(left, 1):
        texts.announce(text, place)
    runs: list[Run] = []
    for _ in range(4 * len(left) + 10):
        question = list(dict.fromkeys(left[:3]))
        asked = texts.in_line(question) if texts.ask(question) and not runs else []
        while (run := texts.next_run(asked)) is not None:
            asked = []
            runs.append(run)
        texts.pass_over()
        assert texts.running + len(texts.ready) <= most
        assert len(runs) == texts.runs <= 4
        assert all(len(set(run.texts)) == len(run.texts) <= max(1, most // 4) for run in runs)
        if runs:
            run = runs.pop(draw.randrange(len(runs)))
            if draw.random() < 0.8:
                finish(texts, run)
            else:
                texts.end_run(run, useless=False)
        if left and not texts.is_running(left[0]):
            text = left.pop(0)
            texts.take_from_line(text)  # the caller embeds it, unless its vector has arrived
            if until_released:
                texts.drop(text)
            else:
                texts.hand_out([text], Counter([text]))
    for run in runs:
        texts.end_run(run, useless=False)
    assert (left, texts.running, len(texts.ready)) == ([], 0, 0)


@pytest.mark.parametrize("until_released", [True, False])
def test_clearing_forgets_everything(until_released: bool) -> None:
    """After `clear` nothing is expected, and the vectors of runs in progress are discarded."""
    texts = announced("a", "b", until_released=until_released)
    (run,) = begin(texts)
    texts.clear()
    assert not texts.is_expected("a")
    finish(texts, run)
    assert (texts.running, len(texts.ready), texts.runs) == (0, 0, 0)
