"""Texts that break the server do not slow down the rest of a call by much."""

import math

import pytest

from tests.sending.calls import FakeServer, Rehearsal, lost, make_sender, make_work, refusal

TEXTS = 5_000
TIMEOUT = 60.0


def run(bad: set[int], *, hangs: bool, workers: int = 128) -> float:
    """Return the seconds of a call in which just these texts fail."""
    server = FakeServer(
        error=lambda request: refusal(503) if bad & {*request.rows.tolist()} else None, seconds=0.1
    )
    if hangs:
        server = FakeServer(
            seconds=lambda request: math.inf if bad & {*request.rows.tolist()} else 0.1
        )
    sender = make_sender(max_workers=workers, is_known=False, timeout=TIMEOUT, max_retries=8)
    rehearsal = Rehearsal(sender, server)
    rehearsal.add(make_work(TEXTS, tokens=100, max_tokens=300_000))
    seconds = rehearsal.run()
    assert {*lost(rehearsal.outcomes)} == bad
    return seconds


@pytest.mark.parametrize("count", [5, 20])
def test_texts_that_never_get_an_answer_are_found_side_by_side(count: int) -> None:
    """Late parts of a batch that was late before do not lower the number in flight.

    Each text needs several time-outs in a row until it is certain; they overlap.
    """
    bad = set(range(TEXTS // count // 2, TEXTS, TEXTS // count))
    assert run(bad, hangs=True) <= 20 * TIMEOUT


def test_texts_that_get_a_503_are_no_rate_limit() -> None:
    """Once a text was given up for its 503, resent parts with a 503 say nothing about a rate."""
    assert run(set(range(125, TEXTS, 250)), hangs=False) <= 900


@pytest.mark.parametrize(
    ("bad", "seconds"),
    [
        pytest.param({2_200}, 120, id="a single one"),
        pytest.param(set(range(2_200, 2_210)), 400, id="a row"),
        pytest.param(set(range(40)), 1_500, id="a row at the beginning"),
    ],
)
def test_texts_that_get_a_503_are_found_in_time(bad: set[int], seconds: float) -> None:
    """A text with a 503 gets no more tries because others are answered after its pauses.

    The pauses are our own, so such answers are no sign of a rate limit.
    """
    assert run(bad, hangs=False, workers=32) <= seconds
