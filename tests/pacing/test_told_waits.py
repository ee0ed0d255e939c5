"""Waits and daily quotas in the words of many servers, and errors with status 200."""

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest

from langchain_batch_embed import ResponseError
from langchain_batch_embed.pacing.diagnosis import Kind, diagnose
from langchain_batch_embed.providers.decoding import read_answer

NOW = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC


class RefusalError(Exception):
    """An exception as an SDK raises it."""

    def __init__(
        self, text: str, status: int | None = 429, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(text)
        self.status_code = status
        self.headers = headers or {}


class TestText:
    """A server that says in words how long to wait, and would be asked again too early."""

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("Try again in 60 seconds", 60),
            ("Please wait 42 seconds before retrying", 42),
            ("Try again in 2 minutes", 120),
            ("Rate limit is exceeded. Try again in 1 minute.", 60),
            ("Please wait a minute and try again", 60),
            ("Try again in one minute", 60),
            ("Please slow down and retry in thirty seconds", 30),
            ("please wait 2 more minutes", 120),
            ("Please wait for 1 minute and 5 seconds", 65),
            ("retry in 1m30s", 90),
            ("You can retry in 0h1m12s", 72),
            ("try again in 1:30", 90),
            ("limit resets in 00:01:05", 65),
            ("in 20 seconds you may try again", 20),
            ("rate limited; 12 seconds remaining", 12),
            ("Cool down for 15 seconds", 15),
            ("Rate limit exceeded, wait: 30s", 30),
            ("Please wait up to 30 seconds", 30),
            ("try again in 1,200 seconds", 1200),
            ("Try again in 1,500 ms", 1.5),
            ("Request was throttled. Expected available in 42 seconds.", 42),
            ("Please retry your requests in 7.5s", 7.5),
            ("请在 30 秒后重试", 30),
            ("您的请求过于频繁\uff0c请60秒后重试", 60),
            ("Please try again at 2023-11-14T22:14:20Z", 60),
            ("Limit resets at: 2023-11-14 22:14:20 UTC", 60),
            ("retry after Tue, 14 Nov 2023 22:14:20 GMT", 60),
            ('{"retry_after_seconds": 5}', 5),
        ],
    )
    def test_a_wait_is_read(self, text: str, seconds: float) -> None:
        """A wait is read in any unit, form and language."""
        assert diagnose(RefusalError(text), now=NOW).after == pytest.approx(seconds)

    @pytest.mark.parametrize(
        "text",
        [
            "try again in -5 seconds",
            "try again in 0s",
            "try again in 999999999 seconds",
            "Please try again in NaN seconds",
            "try again in 1e9 seconds",
            "Please try again at 1990-01-01T00:00:00Z",
            "try again at 2023-13-45T99:00:00Z",
            "try again after a few seconds",
            "Please try again later",
            "the first 30 seconds are free",
        ],
    )
    def test_what_cannot_be_or_is_not_said_is_no_wait(self, text: str) -> None:
        """A wait that is impossible or vague is ignored, and the client chooses the delay."""
        assert diagnose(RefusalError(text), now=NOW).after is None

    @pytest.mark.parametrize(
        "text", ["1 s " * 5000, "1" * 20_000, "wait in " * 2500, "1:1:" * 5000, "in 1 s " * 2800]
    )
    def test_a_long_text_without_a_wait_ends(self, text: str) -> None:
        """A text of 20,000 characters without a wait takes less than a second.

        No wording takes a time that grows with the square of the text.
        """
        started = time.thread_time()
        assert diagnose(RefusalError(text), now=NOW).after is None
        assert time.thread_time() - started < 1


class TestHeader:
    """A `Retry-After` in a form that HTTP does not allow, or with an impossible value."""

    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            ("60", 60),
            (" 60 ", 60),
            ("0.5", 0.5),
            ("60s", 60),
            ("60 seconds", 60),
            ("2m", 120),
            ("1m30s", 90),
            ("60, 60", 60),
            ("1700000060", 60),
            ("1700000060000", 60),
            ("2023-11-14T22:14:20Z", 60),
            ("Tue, 14 Nov 2023 22:14:20 GMT", 60),
            ("Tuesday, 14-Nov-23 22:14:20 GMT", 60),
            ("Tue Nov 14 22:14:20 2023", 60),
        ],
    )
    def test_it_is_read(self, value: str, seconds: float) -> None:
        """`Retry-After` is read as a number, a duration, a date or a time since 1970."""
        got = diagnose(RefusalError("", headers={"Retry-After": value}), now=NOW)
        assert got.after == pytest.approx(seconds)

    @pytest.mark.parametrize(
        "value",
        [
            *("-5", "0", "nan", "inf", "1e300", "garbage", "", "9999999", "1_0", "\u0661", "0x10"),
            "Tue, 14 Nov 1990 22:14:20 GMT",
            "Tue, 99 Nov 2023 22:14:20 GMT",
            "60, 90",
        ],
    )
    def test_what_cannot_be_is_ignored(self, value: str) -> None:
        """An impossible `Retry-After` is ignored, and the text is read instead."""
        refusal = RefusalError("Try again in 7 seconds", headers={"retry-after": value})
        assert diagnose(refusal, now=NOW).after == 7


class TestDays:
    """A daily quota, for which a run would wait for hours."""

    @pytest.mark.parametrize(
        "text",
        [
            "Rate limit reached on requests per day (RPD): Limit 200, Used 200, Requested 1. "
            "Please try again in 7m12s.",
            "Quota exceeded for metric: generativelanguage.googleapis.com/embed_content, "
            "quotaId: EmbedContentRequestsPerDayPerProjectPerModel. Please retry in 35.1s.",
            "Rate limit of 150 per 86400s exceeded for UserByModelByDay. Please wait 12345 seconds "
            "before retrying.",
            "Too many tokens per day, please wait before trying again.",
            "you have used up your daily free allocation of 10,000 neurons",
            "You have reached your free tier limit for the day",
            "Limit exceeded: 1000 requests per 24 hours",
            "24-hour quota exceeded",
            "Quota exceeded for today",
            "You've hit the limit. Limit resets at midnight UTC.",
            "You are using a Trial key, which is limited to 1000 API calls / month.",
            "Rate limit exceeded: free-models-per-day",
            "今日额度已用完",
            "Your account reached TPD rate limit, current: 5001, limit: 5000",
        ],
    )
    def test_it_ends_at_once(self, text: str) -> None:
        """A daily quota counts as spent, in each provider's words and whatever wait they add."""
        assert diagnose(RefusalError(text), now=NOW).kind is Kind.SPENT

    @pytest.mark.parametrize(
        "text",
        [
            "Rate limit reached on tokens per min (TPM): Limit 1000000. Try again in 2s.",
            "Rate limit of 10 per 60s exceeded for UserByModelByMinute. Please wait 30 seconds.",
            "Too many requests. Upgrade today for higher limits.",
            "Too many requests. Contact us within 24 hours",
            "You can send 1000 requests per day and 10 per minute; slow down",
            "Have a nice day! Too many requests",
        ],
    )
    def test_a_quota_of_a_minute_is_waited_for(self, text: str) -> None:
        """A quota of a minute counts as throttling, even if an advertisement mentions days."""
        assert diagnose(RefusalError(text), now=NOW).kind is Kind.THROTTLED


class TestUnder200:
    """An error with status 200, which would be retried as a corrupt answer."""

    @pytest.mark.parametrize(
        ("answer", "kind", "after"),
        [
            (
                {"error": {"message": "Try again in 3 seconds", "code": "rate_limit_exceeded"}},
                Kind.THROTTLED,
                3,
            ),
            ({"error": {"message": "slow down", "code": 429}}, Kind.THROTTLED, None),
            ({"error": "Rate limit exceeded, try again in 3 seconds"}, Kind.THROTTLED, 3),
            ({"detail": "Rate limit exceeded"}, Kind.THROTTLED, None),
            ({"message": "Too many requests", "code": 429}, Kind.THROTTLED, None),
            (
                {"error_code": 18, "error_msg": "Open api qps request limit reached"},
                Kind.THROTTLED,
                None,
            ),
            (
                {"error_code": 17, "error_msg": "Open api daily request limit reached"},
                Kind.SPENT,
                None,
            ),
            ({"error": {"message": "No money", "code": "insufficient_quota"}}, Kind.SPENT, None),
            ({"error": {"message": "no", "code": "invalid_api_key"}}, Kind.ACCOUNT, None),
            ({"error": {"message": "no", "code": 401}}, Kind.ACCOUNT, None),
            ({"error": "Invalid API key"}, Kind.ACCOUNT, None),
            (
                {"error": {"message": "The model `x` does not exist", "code": "model_not_found"}},
                Kind.ACCOUNT,
                None,
            ),
            (
                {"object": "error", "message": "maximum context length is 512", "code": 400},
                Kind.REFUSED,
                None,
            ),
            (
                {"errors": [{"message": "Too many inputs. The max number of inputs is 16."}]},
                Kind.TOO_LARGE,
                None,
            ),
            ({"data": [], "error": {"message": "x", "code": 503}}, Kind.OVERLOADED, None),
            ({"error": {"message": "boom"}}, Kind.FAILED, None),
        ],
    )
    def test_it_is_that_error(
        self, answer: dict[str, Any], kind: Kind, after: float | None
    ) -> None:
        """An error with status 200 is diagnosed by its code, its inner status or its words."""
        with pytest.raises(ResponseError) as caught:
            read_answer(json.dumps(answer).encode(), expected=3)
        got = diagnose(caught.value, sent=["a", "b", "c"], now=NOW)
        assert (got.kind, got.after) == (kind, after)

    def test_an_answer_that_only_lacks_vectors_is_a_spoilt_one(self) -> None:
        """An answer that only lacks its vectors counts as a failure of the server."""
        with pytest.raises(ResponseError) as caught:
            read_answer(b'{"object": "list", "data": [], "error": null}', expected=3)
        assert diagnose(caught.value).kind is Kind.FAILED

    def test_a_warning_beside_vectors_is_no_error(self) -> None:
        """A message beside the vectors is no error, since some servers add one to every answer."""
        answer = {"data": [{"index": 0, "embedding": [1.0]}], "message": "ok", "detail": "fine"}
        vectors, _, _ = read_answer(json.dumps(answer).encode(), expected=1)
        assert vectors.tolist() == [[1.0]]
