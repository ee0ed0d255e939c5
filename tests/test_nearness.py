"""Where a server is, as its answers tell."""

import pytest

from langchain_batch_embed.nearness import FIRST_ANSWERS, Nearness


def after(processes: list[float], requests: list[float] | None = None) -> Nearness:
    """Return what is known after answers that came with such shares of a core, one a second."""
    nearness = Nearness()
    both = requests or [1.0] * len(processes)
    for now, (process, own) in enumerate(zip(processes, both, strict=True), start=1):
        nearness.answered(process=process, requests=own, sent=now - 0.5, now=now)
    return nearness


def test_a_busy_process_tells_that_the_server_is_near() -> None:
    """It is after the first answers that this is known, and not before."""
    assert not after([0.9] * (FIRST_ANSWERS - 1)).is_near
    assert after([0.9] * FIRST_ANSWERS).is_near


@pytest.mark.parametrize(
    ("shares", "near"),
    [
        ([0.0] + [0.8] * 7, True),
        ([0.2] * 3 + [0.9] * 5, True),
        ([2.0] * 3 + [0.3] * 5, False),
        ([0.65] * 8, False),
    ],
)
def test_a_few_answers_do_not_tell_where_a_server_is(shares: list[float], near: bool) -> None:
    """The median of the first answers does: some are always late, or come at a busy moment."""
    assert len(shares) == FIRST_ANSWERS
    assert after(shares).is_near == near


def test_a_process_that_is_busy_later_does_not_bring_a_server_nearer() -> None:
    """Later on it makes lists."""
    assert not after([0.3] * FIRST_ANSWERS + [1.0] * 100).is_near


@pytest.mark.parametrize(
    ("requests", "near"),
    [
        ([0.05] * 4, True),
        ([0.05] * 5, False),
        ([0.05] * 2 + [0.5] * 100, True),
        ([0.3] * 2 + [0.05] * 3, False),
        ([0.3] * 100 + [0.05] * 3, False),
        ([0.12] * 100, True),
    ],
)
def test_requests_that_wait_tell_that_it_was_something_else_that_kept_the_process_busy(
    requests: list[float], near: bool
) -> None:
    """The median of the last answers tells it, however busy the process is."""
    before = [1.0] * FIRST_ANSWERS
    found = after([1.0] * (FIRST_ANSWERS + len(requests)), before + requests)
    assert found.is_near == near


def test_requests_that_were_sent_before_tell_nothing() -> None:
    """Many were in flight then, and all waited for one another."""
    nearness = after([1.0] * FIRST_ANSWERS)
    for _ in range(100):
        nearness.answered(process=1.0, requests=0.01, sent=FIRST_ANSWERS - 0.1, now=99)
    assert nearness.is_near
