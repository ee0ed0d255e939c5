"""An ingest waits for a store that is away, longer each time, but not without end."""

import logging

import pytest

from langchain_batch_embed.stores.patience import Patience


class Clock:
    """A clock that only `pause` moves."""

    def __init__(self) -> None:
        self.time = 0.0
        self.pauses: list[float] = []

    def pause(self, seconds: float) -> None:
        """Advance the time."""
        self.time += seconds
        self.pauses.append(seconds)


def patience(clock: Clock, longest: float) -> Patience:
    """Return a patience whose random delays are as long as possible."""
    return Patience(longest, now=lambda: clock.time, pause=clock.pause, draw=lambda: 1.0)


def test_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    """Waiting ends after the limit, which a warning names; the result is the time it took."""
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
    """An answer resets the delays, so a store may be away any number of times."""
    clock = Clock()
    waiting = patience(clock, 10)
    for _ in range(20):
        assert waiting.is_over(ConnectionError()) is None
        waiting.wait()
        waiting.answered()
    assert set(clock.pauses) == {0.25}


def test_a_store_that_fails_now_and_then_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A store that fails again and again for five minutes is warned of once a minute."""
    clock = Clock()
    waiting = patience(clock, 10)
    with caplog.at_level(logging.WARNING):
        while clock.time < 300:
            assert waiting.is_over(TimeoutError()) is None
            waiting.wait()
            waiting.answered()
    assert len(clock.pauses) == 1200
    assert len(caplog.messages) == 5
