"""What is done about an error: every refusal that providers are known to send, and the waiting.

The exceptions are those that the OpenAI SDK makes of such an answer.
"""

import enum
import importlib
import math
from email.message import Message
from http import HTTPStatus
from typing import Any
from urllib.error import HTTPError

import openai
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from langchain_batch_embed.errors import DimensionsError, ResponseError
from langchain_batch_embed.quota import Quota
from langchain_batch_embed.quota import seconds as go_seconds
from langchain_batch_embed.retry import Backoff, Decision, GiveUp, Retry, Split, decide

# Version 2 of the SDK is built on httpx, version 3 on httpx2.
http: Any = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.split(".")[0])

CLIENT = openai.OpenAI(api_key="sk-test", base_url="http://127.0.0.1:9/v1")
REQUEST = http.Request("POST", "http://127.0.0.1:9/v1/embeddings")
BACKOFF = Backoff(first=2.0, longest=30.0)
WAIT = 1.0  # what BACKOFF gives the first time when the random number is 0.5
MAX_RETRIES = 3

GIVE_UP_ALL = GiveUp(everything=True)

no_deadline = settings(deadline=None)


def refusal(
    status: int, body: object, headers: dict[str, str] | None = None
) -> openai.APIStatusError:
    """Return the exception that the SDK makes of an answer; `body` is JSON, or text as it is."""
    content = {"text": body} if isinstance(body, str) else {"json": body}
    response = http.Response(status, headers=headers, request=REQUEST, **content)
    return CLIENT._make_status_error_from_response(response)


def body(
    message: str, kind: str = "invalid_request_error", param: str | None = None, code: Any = None
) -> dict[str, object]:
    """Return an error as OpenAI writes it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def decision(error: BaseException, *, attempt: int = 0, inputs: int = 8) -> Decision:
    """Decide about a batch of eight texts that was sent for the first time."""
    return decide(
        error,
        attempt=attempt,
        inputs=inputs,
        max_retries=MAX_RETRIES,
        backoff=BACKOFF,
        draw=lambda: 0.5,
    )


def told(seconds: float) -> float:
    """Return how long is waited when the server names a time: that, and up to a tenth more."""
    return seconds + 0.1 * min(WAIT, seconds)


TOKENS_A_MINUTE = (
    "Rate limit reached for text-embedding-3-small in organization org-x on tokens per min (TPM): "
    "Limit 1000000, Used 976163, Requested 70716. Please try again in 2.812s. Visit "
    "https://platform.openai.com/account/rate-limits to learn more."
)
REQUESTS_A_MINUTE = (
    "Rate limit reached for text-embedding-3-small in organization org-x on requests per min "
    "(RPM): Limit 3000, Used 3000, Requested 1. Please try again in 20ms."
)
ABOVE_THE_QUOTA = (
    "Request too large for text-embedding-3-small in organization org-x on tokens per min (TPM): "
    "Limit 1000000, Requested 1003160. The input or output tokens must be reduced in order to run "
    "successfully."
)
SPENT = "You exceeded your current quota, please check your plan and billing details."

# Every row of the table of OpenAI's errors, in both wordings where there are two.
SPLITS = {
    "input too long": (
        400,
        body(
            "Invalid 'input[3]': maximum input length is 8192 tokens.",
            param="input[3]",
            code="invalid_value",
        ),
        Split(at=3),
    ),
    "input too long, named in the text alone": (
        400,
        body("Invalid 'input[3]': maximum input length is 8192 tokens."),
        Split(at=3),
    ),
    "input too long, before 2025": (
        400,
        body(
            "This model's maximum context length is 8192 tokens, however you requested 9000 tokens "
            "(9000 in your prompt; 0 for the completion). Please reduce your prompt."
        ),
        Split(),
    ),
    "input too long, vLLM": (
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 8192 tokens, however you requested "
            "9000 tokens in the input for embedding generation.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
        Split(),
    ),
    "an index that cannot be": (
        400,
        body("Invalid 'input[8]': maximum input length is 8192 tokens.", param="input[8]"),
        Split(),
    ),
    "request over 300k": (
        400,
        body(
            "Requested 468160 tokens, max 300000 tokens per request",
            "max_tokens_per_request",
            code="max_tokens_per_request",
        ),
        Split(shrink=300_000 / 468_160, learn=True),
    ),
    "request over 300k, newer": (
        400,
        body("Invalid 'input': maximum request size is 300000 tokens per request.", param="input"),
        Split(learn=True),
    ),
    "over 2,048 inputs": (
        400,
        body("Invalid 'input': array length must be 2048 or less.", param="input"),
        Split(max_items=2048, learn=True),
    ),
    "over 16 inputs, Azure": (
        400,
        body("Too many inputs. The max number of inputs is 16. We hope to increase the number."),
        Split(max_items=16, learn=True),
    ),
    "an empty string": (
        400,
        body("Invalid 'input[0]': input cannot be an empty string.", param="input[0]"),
        Split(at=0),
    ),
    "an empty array": (
        400,
        body("Invalid 'input': input cannot be an empty array.", param="input"),
        Split(),
    ),
    "invalid, before 2025": (
        400,
        body(
            "'$.input' is invalid. Please check the API reference: "
            "https://platform.openai.com/docs/api-reference."
        ),
        Split(),
    ),
    "over 32 inputs, TEI": (
        413,
        {"error": "batch size 64 > maximum allowed batch size 32", "error_type": "Validation"},
        Split(max_items=32, learn=True),
    ),
    "over 32 inputs, TEI as OpenAI": (
        422,
        {
            "message": "batch size 64 > maximum allowed batch size 32",
            "type": "Validation",
            "code": 422,
        },
        Split(max_items=32, learn=True),
    ),
    "over 32 inputs, plain text": (
        422,
        "batch size 64 > maximum allowed batch size 32",
        Split(max_items=32, learn=True),
    ),
    "body too large": (413, "<html>413 Request Entity Too Large</html>", Split(learn=True)),
    "body too large, Starlette": (400, "Request body too large", Split(learn=True)),
    "unprocessable, FastAPI": (
        422,
        {"detail": [{"loc": ["body", "input", 3], "msg": "str type expected"}]},
        Split(),
    ),
    "one request above the whole quota": (
        429,
        body(ABOVE_THE_QUOTA, "tokens", code="rate_limit_exceeded"),
        Split(shrink=1_000_000 / 1_003_160, learn=True),
    ),
    "one request above the whole quota, unnamed": (
        429,
        body("Request too large for gateway.", "tokens", code="rate_limit_exceeded"),
        Split(learn=True),
    ),
}

RETRIES = {
    "tokens a minute": (
        429,
        body(TOKENS_A_MINUTE, "tokens", code="rate_limit_exceeded"),
        Retry(
            after=told(2.812),
            throttled=True,
            quota=Quota(kind="tokens", limit=1_000_000, used=976_163),
        ),
    ),
    "requests a minute": (
        429,
        body(REQUESTS_A_MINUTE, "requests", code="rate_limit_exceeded"),
        Retry(
            after=told(0.02),
            throttled=True,
            quota=Quota(kind="requests", limit=3000, used=3000),
        ),
    ),
    "requests a day": (
        429,
        body(
            "Rate limit reached on requests per day (RPD): Limit 200, Used 200, Requested 1. "
            "Please try again in 7m12s.",
            "requests",
            code="rate_limit_exceeded",
        ),
        Retry(after=told(432), throttled=True),
    ),
    "Azure": (
        429,
        body(
            "Requests to the Embeddings_Create Operation under Azure OpenAI API version 2024-02-01 "
            "have exceeded call rate limit of your current OpenAI S0 pricing tier. "
            "Please retry after 46 seconds.",
            "",
            code="429",
        ),
        Retry(after=told(46), throttled=True),
    ),
    "Azure, one second": (
        429,
        body("Please retry after 1 second.", "", code="429"),
        Retry(after=told(1), throttled=True),
    ),
    "milliseconds": (
        429,
        body("Please retry after 500 milliseconds."),
        Retry(after=told(0.5), throttled=True),
    ),
    "no time named": (429, "", Retry(after=WAIT, throttled=True)),
    "overloaded": (
        503,
        body("Overloaded", "service_unavailable_error", code="server_is_overloaded"),
        Retry(after=WAIT, overloaded=True),
    ),
    "overloaded, older": (
        503,
        body("Overloaded", "server_error"),
        Retry(after=WAIT, overloaded=True),
    ),
    "overloaded, Anthropic's number": (529, "", Retry(after=WAIT, overloaded=True)),
    "gateway timed out": (504, "<html>504</html>", Retry(after=WAIT, overloaded=True)),
    "server error": (500, body("The server had an error", "server_error"), Retry(after=WAIT)),
    "bad gateway": (502, "<html>502 Bad Gateway</html>", Retry(after=WAIT)),
    "request timed out": (408, "", Retry(after=WAIT)),
    "conflict": (409, "", Retry(after=WAIT)),
    "too early": (425, "", Retry(after=WAIT)),
}

ACCOUNT = {
    "bad key": (
        401,
        body("Incorrect API key provided: sk-…", code="invalid_api_key"),
    ),
    "unknown model": (
        404,
        body(
            "The model `x` does not exist or you do not have access to it.",
            code="model_not_found",
        ),
    ),
    "no money left": (429, body(SPENT, "insufficient_quota", code="insufficient_quota")),
    "no money left, in the type alone": (429, body(SPENT, "insufficient_quota")),
    **{
        code: (429, body(SPENT, "invalid_request_error", code=code))
        for code in (
            "credit_balance_exhausted",
            "organization_spend_limit_exceeded",
            "project_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
            "billing_hard_limit_reached",
        )
    },
    "payment required": (402, ""),
    "forbidden": (403, body("Country, region, or territory not supported")),
    "wrong address": (405, "Method Not Allowed"),
    "dimensions the model cannot": (
        400,
        body("This model does not support specifying dimensions."),
    ),
    "another parameter": (
        400,
        body("Invalid value: 'bas64'.", param="encoding_format", code="invalid_value"),
    ),
}


class TestOpenAIErrors:
    """Each refusal that OpenAI, Azure and compatible servers send."""

    @pytest.mark.parametrize(("status", "answer", "expected"), SPLITS.values(), ids=SPLITS)
    def test_a_request_that_is_too_much_is_split(
        self, status: int, answer: object, expected: Split
    ) -> None:
        """What the refusal says about the limit, or about which input it is, is kept."""
        assert decision(refusal(status, answer)) == expected

    @pytest.mark.parametrize(("status", "answer", "_"), SPLITS.values(), ids=SPLITS)
    def test_a_text_that_is_refused_alone_is_given_up(
        self, status: int, answer: object, _: Split
    ) -> None:
        """There is nothing left to split, and no other text is concerned."""
        assert decision(refusal(status, answer), inputs=1) == GiveUp()

    @pytest.mark.parametrize(("status", "answer", "expected"), RETRIES.values(), ids=RETRIES)
    def test_an_error_that_passes_is_retried(
        self, status: int, answer: object, expected: Retry
    ) -> None:
        """It waits as long as the server says, or for the backoff where it says nothing."""
        got = decision(refusal(status, answer))
        assert isinstance(got, Retry)
        assert got.after == pytest.approx(expected.after)
        assert (got.throttled, got.overloaded, got.quota) == (
            expected.throttled,
            expected.overloaded,
            expected.quota,
        )

    @pytest.mark.parametrize("inputs", [1, 8])
    @pytest.mark.parametrize(("status", "answer", "_"), RETRIES.values(), ids=RETRIES)
    def test_retries_come_to_an_end(
        self, status: int, answer: object, _: Retry, inputs: int
    ) -> None:
        """After `max_retries` the batch is given up, and only that batch."""
        last = decision(refusal(status, answer), attempt=MAX_RETRIES - 1, inputs=inputs)
        assert isinstance(last, Retry)
        last = decision(refusal(status, answer), attempt=MAX_RETRIES, inputs=inputs)
        assert last == GiveUp(exhausted=True)

    @pytest.mark.parametrize("inputs", [1, 8])
    @pytest.mark.parametrize(("status", "answer"), ACCOUNT.values(), ids=ACCOUNT)
    def test_an_error_of_the_account_or_the_request_ends_everything(
        self, status: int, answer: object, inputs: int
    ) -> None:
        """Neither waiting nor splitting helps, and no other batch can succeed."""
        assert decision(refusal(status, answer), inputs=inputs) == GIVE_UP_ALL

    def test_a_request_within_the_quota_is_not_split(self) -> None:
        """A refusal that asks for less than the limit only has to wait."""
        just = TOKENS_A_MINUTE.replace("70716", "1000000")
        assert isinstance(decision(refusal(429, body(just, "tokens"))), Retry)

    def test_a_limit_of_nothing_does_not_stop_the_decision(self) -> None:
        """Nonsense figures in a refusal are no division by zero and no empty batch."""
        requested = body("Requested 0 tokens, max 300000 tokens per request")
        assert decision(refusal(400, requested)) == Split(shrink=1.0, learn=True)
        size = {"error": "batch size 64 > maximum allowed batch size 0"}
        assert decision(refusal(422, size)) == Split(max_items=1, learn=True)


class TestDelay:
    """How long is waited."""

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
            ({"Retry-After": "3"}, 3),
            ({"retry-after": "0.5"}, 0.5),
            ({"retry-after": "3600"}, 3600),
            ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
            ({"retry-after": "0"}, 0),
        ],
    )
    def test_a_header_is_honoured(self, headers: dict[str, str], seconds: float) -> None:
        """`retry-after-ms` goes before `retry-after`, and both before the text."""
        got = decision(refusal(429, body(TOKENS_A_MINUTE, "tokens"), headers))
        assert isinstance(got, Retry)
        assert got.after == pytest.approx(told(seconds))

    @pytest.mark.parametrize(
        "value", ["Fri, 31 Dec 1999 23:59:59 GMT", "", "soon", "nan", "inf", "-3", "1e999"]
    )
    def test_what_is_no_number_of_seconds_is_ignored(self, value: str) -> None:
        """A date, or nonsense, leaves it to the text, and else to the backoff."""
        headers = {"retry-after": value}
        assert decision(refusal(429, "", headers)) == Retry(after=WAIT, throttled=True)
        named = decision(refusal(429, body(TOKENS_A_MINUTE, "tokens"), headers))
        assert isinstance(named, Retry)
        assert named.after == pytest.approx(told(2.812))

    def test_a_delay_counts_for_an_overloaded_server_too(self) -> None:
        """A 503 that names a time is asked again after that time."""
        got = decision(refusal(503, "", {"retry-after": "5"}))
        assert got == Retry(after=told(5), overloaded=True)

    @no_deadline
    @given(
        st.floats(0, 1e5, allow_subnormal=False), st.floats(0, 1, exclude_max=True), st.integers(0)
    )
    def test_nobody_comes_back_early(self, seconds: float, drawn: float, attempt: int) -> None:
        """A time that was named is kept, and exceeded by no more than a tenth."""
        got = decide(
            refusal(429, "", {"retry-after": repr(seconds)}),
            attempt=attempt,
            inputs=8,
            max_retries=attempt + 1,
            backoff=BACKOFF,
            draw=lambda: drawn,
        )
        assert isinstance(got, Retry)
        assert seconds <= got.after <= 1.1 * seconds

    @no_deadline
    @given(st.floats(0, 100), st.floats(0, 1e4), st.integers(0, 10_000), st.floats(0, 1))
    def test_full_jitter_is_between_nothing_and_the_bound(
        self, first: float, longest: float, attempt: int, drawn: float
    ) -> None:
        """The wait is the drawn share of `first` doubled each time, which `longest` bounds."""
        wait = Backoff(first=first, longest=longest).wait(attempt, lambda: drawn)
        bound = min(longest, first * 2.0 ** min(attempt, 30))
        assert 0 <= wait <= bound
        assert wait == pytest.approx(drawn * bound)

    def test_the_bound_doubles_up_to_the_longest(self) -> None:
        """0.5 s, 1 s, 2 s and so on, and never more than 30 s."""
        bounds = [Backoff().wait(attempt, lambda: 1.0) for attempt in range(9)]
        assert bounds == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]

    def test_a_later_retry_waits_longer(self) -> None:
        """The backoff is that of the batch's own attempt."""
        waits = [decision(refusal(500, ""), attempt=attempt) for attempt in range(3)]
        assert waits == [Retry(after=1.0), Retry(after=2.0), Retry(after=4.0)]


class TestGoDurations:
    """The durations in OpenAI's headers and messages."""

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("0s", 0.0),
            ("12ms", 0.012),
            ("1.5s", 1.5),
            ("6m0s", 360.0),
            ("1h2m3.5s", 3723.5),
            (" 7s ", 7.0),
        ],
    )
    def test_a_duration_is_read(self, text: str, seconds: float) -> None:
        """Every form that was seen is turned into seconds."""
        assert go_seconds(text) == pytest.approx(seconds)

    @pytest.mark.parametrize(
        "text", ["", "5", "s", "1.2.3s", ".s", "-5s", "5 s", "5s and more", "tomorrow", "1d"]
    )
    def test_anything_else_is_none(self, text: str) -> None:
        """What is no duration is not guessed at, and is no error either."""
        assert go_seconds(text) is None

    @no_deadline
    @given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59_999))
    def test_what_go_writes_is_read(self, hours: int, minutes: int, milliseconds: int) -> None:
        """Hours, minutes and a fraction of seconds come together."""
        text = f"{hours}h{minutes}m{milliseconds / 1000}s"
        expected = hours * 3600 + minutes * 60 + milliseconds / 1000
        assert go_seconds(text) == pytest.approx(expected)

    @no_deadline
    @given(st.text("0123456789.hms ", max_size=12))
    def test_no_text_is_an_error(self, text: str) -> None:
        """Whatever a header holds gives a number that can be waited for, or nothing."""
        seconds = go_seconds(text)
        assert seconds is None or 0 <= seconds < math.inf


def wrapped(error: Exception, *, how: str) -> Exception:
    """Return what a class raises that hides the provider's exception behind its own."""
    try:
        try:
            raise error
        except Exception as caught:
            if how == "from":
                raise ValueError("Error embedding content") from caught
            if how == "from none":
                raise ValueError("Error embedding content") from None
            raise ValueError("Error embedding content")  # noqa: B904  # as careless code does
    except ValueError as outer:
        return outer


class ClientError(Exception):
    """As botocore's: the answer is a mapping, and the status is deep inside."""

    def __init__(self, code: str, status: int) -> None:
        super().__init__(f"An error occurred ({code}) when calling the InvokeModel operation: …")
        self.response = {
            "Error": {"Code": code, "Message": "…"},
            "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}},
        }


class ResourceExhausted(Exception):  # noqa: N818  # the name that it has at Google's
    """As google-api-core's, which is made of gRPC's: the code is an HTTP status."""

    code = HTTPStatus.TOO_MANY_REQUESTS


class StatusCode(enum.Enum):
    """As gRPC's."""

    RESOURCE_EXHAUSTED = (8, "resource exhausted")
    UNAVAILABLE = (14, "unavailable")


class _InactiveRpcError(Exception):
    """As gRPC's own: the code is a method."""

    def __init__(self, code: StatusCode) -> None:
        super().__init__(f"<_InactiveRpcError of RPC that terminated with: status = {code}>")
        self._code = code

    def code(self) -> StatusCode:
        return self._code


class Failed(Exception):  # noqa: N818  # stands for many
    """An exception with whatever attributes an SDK gives it."""

    def __init__(self, **attributes: object) -> None:
        super().__init__("…")
        vars(self).update(attributes)


class TestOtherExceptions:
    """Exceptions of other SDKs, and of classes that wrap one."""

    @pytest.mark.parametrize("how", ["from", "from none", "careless"])
    @pytest.mark.parametrize(
        ("status", "answer", "expected"),
        [
            (429, "", Retry(after=WAIT, throttled=True)),
            (401, "", GIVE_UP_ALL),
            (429, body(SPENT, code="insufficient_quota"), GIVE_UP_ALL),
            (400, body("Invalid 'input[2]': too long", param="input[2]"), Split(at=2)),
        ],
    )
    def test_a_wrapped_exception_is_looked_into(
        self, status: int, answer: object, expected: Decision, how: str
    ) -> None:
        """A class that raises a `ValueError` over the provider's own is seen through."""
        error = wrapped(wrapped(refusal(status, answer), how=how), how=how)
        assert decision(error) == expected

    def test_exceptions_that_cause_one_another_are_no_endless_loop(self) -> None:
        """A chain of causes that bites its tail is read once."""
        first, second = ValueError("first"), refusal(429, "")
        first.__cause__, second.__cause__ = second, first
        assert decision(first) == Retry(after=WAIT, throttled=True)

    @pytest.mark.parametrize(
        ("code", "status", "expected"),
        [
            ("ThrottlingException", 429, Retry(after=WAIT, throttled=True)),
            ("ServiceUnavailableException", 503, Retry(after=WAIT, overloaded=True)),
            ("ModelTimeoutException", 408, Retry(after=WAIT)),
            ("InternalServerException", 500, Retry(after=WAIT)),
            ("AccessDeniedException", 403, GIVE_UP_ALL),
            ("ValidationException", 400, Split()),
        ],
    )
    def test_botocore(self, code: str, status: int, expected: Decision) -> None:
        """The status is found in the answer's metadata, also through LangChain's `ValueError`."""
        assert decision(ClientError(code, status)) == expected
        assert decision(wrapped(ClientError(code, status), how="careless")) == expected

    def test_google_api_core(self) -> None:
        """An HTTP status as the exception's code is understood."""
        assert decision(ResourceExhausted()) == Retry(after=WAIT, throttled=True)
        assert decision(wrapped(ResourceExhausted(), how="from")) == Retry(
            after=WAIT, throttled=True
        )

    @pytest.mark.parametrize(
        ("code", "expected"),
        [
            (StatusCode.RESOURCE_EXHAUSTED, Retry(after=WAIT, throttled=True)),
            (StatusCode.UNAVAILABLE, Retry(after=WAIT, overloaded=True)),
        ],
    )
    def test_grpc(self, code: StatusCode, expected: Decision) -> None:
        """What passes is told by the code where gRPC's own exceptions have no HTTP status."""
        assert decision(_InactiveRpcError(code)) == expected

    @pytest.mark.parametrize(
        "error",
        [
            Failed(status_code=429, headers={"retry-after": "7"}),  # Cohere
            Failed(http_status=429, headers={"retry-after": "7"}),  # Voyage
            Failed(code="429", headers={"retry-after": "7"}),
            Failed(status=429, headers={"retry-after": "7"}),  # aiohttp
            Failed(response=http.Response(429, headers={"retry-after": "7"})),  # httpx, requests
        ],
    )
    def test_status_and_headers_are_found_where_sdks_put_them(self, error: Exception) -> None:
        """The status has many names, and the headers are the answer's or the exception's."""
        assert decision(error) == Retry(after=told(7), throttled=True)

    def test_headers_that_give_none_for_what_is_absent_are_read(self) -> None:
        """As those of urllib, whose exceptions some classes let out."""
        error = HTTPError("http://localhost", 503, "Service Unavailable", Message(), None)
        assert decision(error) == Retry(after=WAIT, overloaded=True)

    @pytest.mark.parametrize("attributes", [{"code": 7}, {"status": True}, {"code": "E429"}, {}])
    def test_a_number_that_is_no_error_status_is_none(self, attributes: dict[str, Any]) -> None:
        """Only 400 to 599 is a status; other numbers and names mean something else."""
        assert decision(Failed(**attributes)) == Split()

    @pytest.mark.parametrize(
        "name",
        ["RateLimitError", "ThrottlingError", "TooManyRequestsException", "ResourceExhausted"],
    )
    def test_a_telling_name_stands_for_a_missing_status(self, name: str) -> None:
        """An exception that is named after throttling is throttling."""
        error = type(name, (Exception,), {})("…")
        assert decision(error) == Retry(after=WAIT, throttled=True)

    @pytest.mark.parametrize(
        "error",
        [
            openai.APIConnectionError(request=REQUEST),
            http.ConnectError("…"),
            http.ReadError("…"),
            http.RemoteProtocolError(
                "peer closed connection without sending complete message body"
            ),
            http.DecodingError("incorrect header check"),
            ConnectionResetError("…"),
            BrokenPipeError("…"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_a_lost_connection_is_retried(self, error: Exception) -> None:
        """Nothing is wrong with the texts, and not with the server either."""
        assert decision(error) == Retry(after=WAIT)
        assert decision(error, attempt=MAX_RETRIES) == GiveUp(exhausted=True)

    @pytest.mark.parametrize(
        "error",
        [
            openai.APITimeoutError(REQUEST),
            http.ReadTimeout("…"),
            http.PoolTimeout("…"),
            TimeoutError("…"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_a_time_out_is_retried_once_as_it_is_and_then_in_parts(self, error: Exception) -> None:
        """A stalled request is often only bad luck; the second time the batch may be too much."""
        assert decision(error) == Retry(after=WAIT, overloaded=True)
        assert decision(error, attempt=1) == Split()
        assert decision(error, attempt=1, inputs=1) == Retry(after=2 * WAIT, overloaded=True)
        assert decision(error, attempt=MAX_RETRIES, inputs=1) == GiveUp(exhausted=True)

    def test_an_unknown_exception_is_split(self) -> None:
        """Perhaps one of the texts is the cause, so it is found; alone, it is given up."""
        assert decision(KeyError("embedding")) == Split()
        assert decision(KeyError("embedding"), inputs=1) == GiveUp()

    def test_an_answer_that_cannot_be_believed_is_asked_for_again(self) -> None:
        """A wrong answer is retried like an error of the server."""
        assert decision(ResponseError("8 texts were sent, but 7 vectors came back")) == Retry(
            after=WAIT
        )
        assert decision(ResponseError("…"), attempt=MAX_RETRIES) == GiveUp(exhausted=True)

    def test_no_money_left_is_seen_under_status_200_too(self) -> None:
        """Some gateways send every error under 200."""
        error = ResponseError("…", body=body(SPENT, "insufficient_quota"))
        assert decision(error) == GIVE_UP_ALL

    def test_vectors_of_another_width_end_everything(self) -> None:
        """A server that ignores `dimensions` ignores it each time."""
        assert decision(DimensionsError(expected=256, received=1536)) == GIVE_UP_ALL


class TestAnything:
    """No answer, however odd, stops the decision: a batch without one would wait for ever."""

    @settings(deadline=None, max_examples=150)
    @given(
        st.sampled_from([400, 404, 413, 418, 422, 429, 500, 503]),
        st.lists(
            st.sampled_from(
                [
                    *("on tokens per min", " Limit ", "Limit: ", "Used ", "Requested ", ", ", "."),
                    *("try again in ", "retry after ", "5", "0", "1.5", "..", "s", "ms", "m"),
                    *(" seconds", "input[", "]", " tokens, max ", " tokens per request"),
                    *("array length must be ", " or less", "maximum allowed batch size "),
                ]
            ),
            max_size=12,
        ).map("".join),
        st.sampled_from([None, "input", "input[1]", "model"]),
        st.sampled_from([None, 429, "rate_limit_exceeded"]),
        st.integers(0, 5),
        st.integers(1, 5),
    )
    @example(429, "on tokens per min. Limit 1.., Requested ..", None, None, 0, 5)
    @example(429, "try again in 1.2.3s", None, None, 0, 5)
    @example(429, "retry after . seconds", None, None, 0, 5)
    def test_every_message_gets_a_decision(
        self, status: int, message: str, param: str | None, code: Any, attempt: int, inputs: int
    ) -> None:
        """A retry has a time that ends, and a split names only what the batch has."""
        got = decision(
            refusal(status, body(message, param=param, code=code)), attempt=attempt, inputs=inputs
        )
        if isinstance(got, Retry):
            assert attempt < MAX_RETRIES
            assert 0 <= got.after < math.inf
        elif isinstance(got, Split):
            assert inputs > 1
            assert got.at is None or 0 <= got.at < inputs
            assert got.max_items is None or got.max_items >= 1
            assert got.shrink is None or 0 <= got.shrink <= 1
        else:
            assert isinstance(got, GiveUp)

    @no_deadline
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["error", "message", "type", "param", "code", "detail"]), inner
                )
            ),
            max_leaves=8,
        ),
        st.sampled_from([400, 401, 429, 500]),
    )
    def test_every_body_gets_a_decision(self, answer: object, status: int) -> None:
        """A body of any form leads to what its status asks for."""
        expected = {400: Split, 401: GiveUp, 429: Retry, 500: Retry}[status]
        assert type(decision(refusal(status, answer))) in (expected, GiveUp)
