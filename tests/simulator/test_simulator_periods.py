"""The times at which a server is away or slow, computed without a server."""

import pytest

from langchain_batch_embed.simulator.periods import seconds_away, seconds_to_outage, slowness

# The second begins within the first, and the last when the second ends.
OUTAGES = ((1.0, 2.0), (2.0, 3.0), (5.0, 1.0), (10.0, 1.0))


@pytest.mark.parametrize(
    ("now", "away"), [(0.0, 0), (1.0, 5), (2.5, 3.5), (4.0, 2), (5.5, 0.5), (6.0, 0), (10.5, 0.5)]
)
@pytest.mark.parametrize("outages", [OUTAGES, OUTAGES[::-1]])
def test_outages_that_touch_are_one(
    outages: tuple[tuple[float, float], ...], now: float, away: float
) -> None:
    """The server is away until the last of several touching outages ends, in any order."""
    assert seconds_away(outages, now) == away


@pytest.mark.parametrize(("now", "seconds"), [(0.0, 1), (1.0, 1), (6.0, 4), (10.0, None)])
def test_the_next_outage_is_the_one_to_come(now: float, seconds: float | None) -> None:
    """The next outage is one that has not begun."""
    assert seconds_to_outage(OUTAGES, now) == seconds


@pytest.mark.parametrize(("now", "factor"), [(0.0, 1), (1.0, 3), (2.0, 6), (3.0, 2), (4.0, 1)])
def test_slow_periods_multiply(now: float, factor: float) -> None:
    """Overlapping slow periods multiply, and outside them nothing is slower."""
    assert slowness(((1.0, 2.0, 3.0), (2.0, 2.0, 2.0)), now) == factor
