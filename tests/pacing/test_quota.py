"""What the headers of an answer say about a quota."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.pacing.quota import HeaderQuota, read_headers, seconds
from langchain_batch_embed.simulator.quota import go_duration


def test_openais_headers_are_read() -> None:
    """OpenAI's headers give both quotas, with what remains and the time until each is full."""
    headers = {
        "x-ratelimit-limit-requests": "3000",
        "x-ratelimit-remaining-requests": "2999",
        "x-ratelimit-reset-requests": "20ms",
        "x-ratelimit-limit-tokens": "1000000",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "1m0s",
    }
    assert read_headers(headers) == [
        HeaderQuota(kind="tokens", limit=1_000_000, remaining=0, reset=60),
        HeaderQuota(kind="requests", limit=3000, remaining=2999, reset=0.02),
    ]


def test_a_limit_alone_is_enough() -> None:
    """A limit without other headers is read, and missing values are `None`."""
    assert read_headers({"x-ratelimit-limit-tokens": "600"}) == [
        HeaderQuota(kind="tokens", limit=600, remaining=None, reset=None)
    ]


@pytest.mark.parametrize("limit", ["", "many", "nan", "inf", "-5", "0"])
def test_a_limit_that_is_no_amount_is_passed_over(limit: str) -> None:
    """A limit that is no amount is ignored, so a gateway's 0 for "no limit" stops nothing."""
    assert read_headers({"x-ratelimit-limit-tokens": limit}) == []


@pytest.mark.parametrize(
    ("duration", "expected"),
    [("6m0s", 360), ("1.5s", 1.5), ("12ms", 0.012), ("1h2m3s", 3723), ("0s", 0), (" 1s ", 1)],
)
def test_a_go_duration_is_read(duration: str, expected: float) -> None:
    """A Go duration is read in all its units, which add up."""
    assert seconds(duration) == pytest.approx(expected)


@pytest.mark.parametrize("duration", ["", "soon", "5", "1s later", "-1s", "1d"])
def test_what_is_no_go_duration_is_none(duration: str) -> None:
    """Text that is not entirely a Go duration gives `None`, since half of one would be wrong."""
    assert seconds(duration) is None


@given(st.floats(0, 100_000))
def test_what_the_simulator_writes_is_read_back(delay: float) -> None:
    """A duration that the simulator writes is read back to within 2 ms, its rounding."""
    assert seconds(go_duration(delay)) == pytest.approx(delay, abs=0.002)


@given(
    st.text(max_size=20)
    | st.text(alphabet="0123456789.e-hms ", max_size=8)
    | st.floats().map(str)
    | st.integers().map(lambda number: f"{number}s")
)
def test_no_header_is_an_error(text: str) -> None:
    """Reading headers raises no error and gives possible amounts, whatever a server sends."""
    names = ("limit", "remaining", "reset")
    same = read_headers({f"x-ratelimit-{name}-tokens": text for name in names})
    (right,) = read_headers(
        {f"x-ratelimit-{name}-tokens": text for name in names} | {"x-ratelimit-limit-tokens": "60"}
    )
    assert right.limit == 60
    for quota in [*same, right]:
        assert 0 < quota.limit < math.inf
        assert quota.remaining is None or 0 <= quota.remaining < math.inf
        assert quota.reset is None or 0 <= quota.reset < math.inf
