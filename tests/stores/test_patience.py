"""A store that is away is waited for, each time longer, and not for ever."""

import logging

import pytest

from langchain_batch_embed.stores.patience import Patience


class Clock:
    """Time that passes by waiting alone."""

    def __init__(self) -> None:
        self.time = 0.0
        self.pauses: list[float] = []

    def pause(self, seconds: float) -> None:
        """Let time pass."""
        self.time += seconds
        self.pauses.append(seconds)


def patience(clock: Clock, longest: float) -> Patience:
    """Return a patience with the longest delays that chance may draw."""
    return Patience(longest, now=lambda: clock.time, pause=clock.pause, draw=lambda: 1.0)


def test_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    """It says at first how long it will take, and in the end how long it took."""
    clock = Clock()
    waiting = patience(clock, 60)
    with caplog.at_level(logging.WARNING):
        while (away := waiting.is_over(ConnectionError())) is None:
            waiting.wait()
    assert clock.pauses == [0.25, 0.5, 1, 2, 4, 8, 15, 15, 15]
    assert away == clock.time == 60.75
    assert caplog.messages == [
        "the store is away or busy (ConnectionError): trying again for up to 60 s"
    ]


def test_after_an_answer_it_starts_again() -> None:
    """A store that is away now and then is waited for each time."""
    clock = Clock()
    waiting = patience(clock, 10)
    for _ in range(20):
        assert waiting.is_over(ConnectionError()) is None
        waiting.wait()
        waiting.answered()
    assert set(clock.pauses) == {0.25}
