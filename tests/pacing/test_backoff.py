"""Exponential backoff with jitter."""

from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.pacing.backoff import Backoff


@given(attempt=st.integers(0, 10_000), luck=st.floats(0, 1))
def test_a_delay_is_between_half_and_all_of_its_bound(attempt: int, luck: float) -> None:
    """A delay is between half and all of a bound that doubles with each attempt up to 30 s."""
    bound = min(30.0, 0.5 * 2.0 ** min(attempt, 100))
    assert bound / 2 <= Backoff().delay(attempt, lambda: luck) <= bound


def test_luck_keeps_many_clients_apart() -> None:
    """Two clients that draw different random numbers do not come back at the same time."""
    backoff = Backoff(first=1.0, longest=8.0)
    assert backoff.delay(2, lambda: 0.0) == 2.0
    assert backoff.delay(2, lambda: 1.0) == 4.0
    assert backoff.delay(9, lambda: 1.0) == 8.0
