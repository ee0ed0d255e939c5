"""How long a server asks the client to wait, in a header or in its words."""

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.pacing.diagnosis import diagnose
from tests.pacing.answers.quotas import TOKENS_A_MINUTE
from tests.pacing.errors import NOW, OVERLOADED, Failed, body, check, refusal


class TestDelay:
    """How long a server asks the client to wait."""

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
            ({"Retry-After": "3"}, 3),
            ({"retry-after": "0.5"}, 0.5),
            ({"retry-after": "3600"}, 3600),
            ({"retry-after": "86400"}, 86_400),
            ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
            ({"retry-after-ms": "0", "retry-after": "9"}, 9),
            ({"x-ms-retry-after-ms": "1500"}, 1.5),
            ({"llm_provider-retry-after": "7"}, 7),
            ({"retry-after": formatdate(NOW + 90, usegmt=True)}, 90),
            ({"retry-after": formatdate(NOW + 90)}, 90),
        ],
    )
    def test_a_header_goes_before_the_text(self, headers: dict[str, str], seconds: float) -> None:
        """A header goes before the text, milliseconds before seconds, and dates are read.

        A date is compared with the clock.
        """
        error = refusal(429, body(TOKENS_A_MINUTE, "tokens"), headers)
        assert diagnose(error, now=NOW).after == pytest.approx(seconds)

    @pytest.mark.parametrize(
        "value",
        [
            *("", "soon", "nan", "inf", "-inf", "-3", "0", "0.0", "1e999", "86401", "9" * 400),
            *("Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 31 Dec 2999 23:59:59 GMT"),
            *("Fri, 99 Foo 2024 23:59:59 GMT", "Fri, 31 Dec 99999 23:59:59 GMT", "\x00"),
        ],
    )
    def test_what_is_no_sensible_time_is_not_said(self, value: str) -> None:
        """A `Retry-After` with no sensible time is ignored, and the text is read instead.

        Examples are nonsense, a past time, nothing and more than a day.
        """
        error = Failed(status_code=429, headers={"retry-after": value})
        assert diagnose(error, now=NOW).after is None
        error = Failed(status_code=429, headers={"retry-after": value}, body=TOKENS_A_MINUTE)
        assert diagnose(error, now=NOW).after == pytest.approx(2.812)

    def test_the_clock_is_the_default(self) -> None:
        """A date in a header is compared with the time of day if no time is passed in."""
        error = refusal(503, "", {"retry-after": formatdate(time.time() + 60, usegmt=True)})
        assert diagnose(error).after == pytest.approx(60, abs=5)

    def test_when_a_quota_refills_is_no_hint(self) -> None:
        """`x-ratelimit-reset-*` is no wait.

        It announces when a bucket is full, not when a request fits.
        """
        headers = {"x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-reset": "30"}
        assert diagnose(refusal(429, "", headers)).after is None

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("Please try again in 2.812s.", 2.812),
            ("try again in 1m30s", 90),
            ("try again in 1h2m3.5s", 3723.5),
            ("Please try again in 6m0s", 360),
            ("Please try again in 12ms.", 0.012),
            ("Please retry after 46 seconds.", 46),
            ("Please retry after 1 second", 1),
            ("Try again in 60 seconds. Passed model=x", 60),
            ("Please wait 42 seconds before retrying", 42),
            ("wait for at least 20s", 20),
            ("Please try again in 2 minutes", 120),
            ("The limit resets in 2 minutes", 120),
            ("Available again in about 1 minute and 30 seconds", 90),
            ("retry in 120 ms", 0.12),
            ("Please retry your request after 3 secs", 3),
            ("Please retry in 32.401s.", 32.401),
            ('"retryDelay": "30s"', 30),
            ("'retryDelay': '17.5s'", 17.5),
            ("retry_delay {\n  seconds: 46\n}", 46),
            ("retry_delay {\n  seconds: 1\n  nanos: 500000000\n}", 1.5),
            ("Retry-After: 30", 30),
            ('{"retry_after": 12.5}', 12.5),
            ("retry_after_ms=250", 0.25),
            ("try again in 24 hours", 86_400),
        ],
    )
    def test_a_time_in_the_text_is_read(self, text: str, seconds: float) -> None:
        """A wait in the text is converted to seconds from every known wording and unit."""
        got = diagnose(Failed(status_code=429, body=text)).after
        assert got == pytest.approx(seconds)

    @pytest.mark.parametrize(
        "text",
        [
            "You made 60 requests in 1 minute",
            "Please try again in a moment",
            "try again in 0s",
            "try again in 25 hours",
            "try again in 3 days",
            "try again in 3 more steps",
            "try again in -5s",
            "retry after . seconds",
            "try again in 1.2.3s",
            "the request waited 30 seconds",
            "retry_delay { }",
        ],
    )
    def test_anything_else_in_the_text_is_no_time(self, text: str) -> None:
        """A time in the text that is no request to wait, or is out of bounds, is ignored."""
        assert diagnose(Failed(status_code=429, body=text)).after is None

    def test_a_delay_counts_for_an_overloaded_server_too(self) -> None:
        """A wait in a 503 is read like one in a 429."""
        got = diagnose(refusal(503, "", {"retry-after": "5"}))
        check(got, {**OVERLOADED, "after": 5}, status=503)

    @given(st.floats() | st.integers().map(float))
    def test_a_time_is_never_out_of_bounds(self, seconds: float) -> None:
        """Whatever number a header holds, the wait is above 0 and at most a day, or `None`."""
        after = diagnose(Failed(status_code=429, headers={"retry-after": repr(seconds)})).after
        assert after == seconds if 0 < seconds <= 86_400 else after is None
