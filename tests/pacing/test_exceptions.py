"""What is read in exceptions of other SDKs, and of classes that wrap one."""

import json
from email.message import Message
from typing import Any
from urllib.error import HTTPError

import aiohttp
import openai
import pytest
import requests

from langchain_batch_embed.errors import (
    BatchEmbeddingsError,
    DimensionsError,
    ResponseError,
)
from langchain_batch_embed.pacing.diagnosis import Kind, diagnose
from tests.pacing.answers.quotas import A_DAY, A_MINUTE, NO_MONEY, gemini
from tests.pacing.answers.sizes import TOO_MANY
from tests.pacing.errors import (
    ACCOUNT,
    FAILED,
    OVERLOADED,
    REFUSED,
    REQUEST,
    SPENT,
    THROTTLED,
    ClientError,
    Expected,
    Failed,
    InactiveRpcError,
    ResourceExhausted,
    StatusCode,
    body,
    check,
    http,
    named,
    refusal,
    wrapped,
)

ITEMS = {"kind": Kind.TOO_LARGE, "measure": "items", "max_items": 32}
"""The diagnosis expected for `TOO_MANY`."""


class TestOtherExceptions:
    """Exceptions of other SDKs, and of classes that wrap one."""

    @pytest.mark.parametrize("how", ["from", "from none", "careless"])
    @pytest.mark.parametrize(
        ("status", "answer", "expected"),
        [
            (429, "", THROTTLED),
            (401, "", ACCOUNT),
            (429, body(NO_MONEY, code="insufficient_quota"), SPENT),
            (400, body("Invalid 'input[2]': too long", param="input[2]"), {**REFUSED, "at": 2}),
        ],
    )
    def test_a_wrapped_exception_is_looked_into(
        self, status: int, answer: object, expected: Expected, how: str
    ) -> None:
        """A provider's exception is found behind two `ValueError`s, however they were raised."""
        error = wrapped(wrapped(refusal(status, answer), how=how), how=how)
        check(diagnose(error), expected, status=status)

    def test_exceptions_that_cause_one_another_are_no_endless_loop(self) -> None:
        """A chain of causes that forms a loop is read once."""
        first, second = ValueError("first"), refusal(429, "")
        first.__cause__, second.__cause__ = second, first
        check(diagnose(first), THROTTLED, status=429)

    @pytest.mark.parametrize(
        ("code", "status", "message", "expected"),
        [
            ("ThrottlingException", 429, "Too many requests, please wait", THROTTLED),
            ("ThrottlingException", 400, "Rate exceeded", THROTTLED),
            ("ThrottlingException", 429, "Too many tokens, please wait before trying", THROTTLED),
            ("ThrottlingException", 429, "Too many tokens per day, please wait before", SPENT),
            ("ServiceQuotaExceededException", 400, "Resubmit your request later", THROTTLED),
            ("ModelNotReadyException", 429, "…", THROTTLED),
            ("ServiceUnavailableException", 503, "…", OVERLOADED),
            ("ModelTimeoutException", 408, "…", FAILED),
            ("ModelErrorException", 424, "…", FAILED),
            ("InternalServerException", 500, "…", FAILED),
            ("AccessDeniedException", 403, "…", ACCOUNT),
            ("AccessDeniedException", 400, "…", ACCOUNT),
            ("ValidationException", 400, "…", REFUSED),
        ],
    )
    def test_botocore(self, code: str, status: int, message: str, expected: Expected) -> None:
        """The status of a botocore error is found in its metadata, even behind a `ValueError`."""
        error = ClientError(code, status, message)
        check(diagnose(error), expected, status=status)
        check(diagnose(wrapped(error, how="careless")), expected, status=status)
        assert diagnose(error).signature == f"{status} {code} ClientError"

    def test_headers_of_botocore(self) -> None:
        """The headers of a botocore error are found in the answer's metadata."""
        error = ClientError("ThrottlingException", 429, headers={"Retry-After": "7"})
        check(diagnose(error), {**THROTTLED, "after": 7}, status=429)

    def test_google_api_core(self) -> None:
        """For google-api-core, an HTTP status as the code and printed details are both read."""
        check(diagnose(ResourceExhausted()), THROTTLED, status=429)
        check(diagnose(wrapped(ResourceExhausted(), how="from")), THROTTLED, status=429)
        printed = (
            f'429 {NO_MONEY} [violations {{\n  quota_id: "%s"\n}}\n'
            ", retry_delay {\n  seconds: 46\n}\n]"
        )
        minute = ResourceExhausted(printed % A_MINUTE)
        check(diagnose(minute), {**THROTTLED, "after": 46}, status=429)
        day = ResourceExhausted(printed % A_DAY)
        check(diagnose(day), {**SPENT, "after": 46}, status=429)

    @pytest.mark.parametrize(
        ("quota", "expected"), [(A_MINUTE, THROTTLED), (A_DAY, SPENT)], ids=["minute", "day"]
    )
    def test_google_genai(self, quota: str, expected: Expected) -> None:
        """For google-genai the body is found in `details`, even behind LangChain's exception."""
        error = Failed(
            NO_MONEY, code=429, status="RESOURCE_EXHAUSTED", message=NO_MONEY, details=gemini(quota)
        )
        check(diagnose(error), {**expected, "after": 32}, status=429)
        check(diagnose(wrapped(error, how="from")), {**expected, "after": 32}, status=429)

    @pytest.mark.parametrize(
        ("code", "status", "expected"),
        [
            (StatusCode.RESOURCE_EXHAUSTED, 429, THROTTLED),
            (StatusCode.UNAVAILABLE, 503, OVERLOADED),
            (StatusCode.DEADLINE_EXCEEDED, 504, OVERLOADED),
            (StatusCode.INTERNAL, 500, FAILED),
            (StatusCode.CANCELLED, 499, FAILED),
            (StatusCode.UNAUTHENTICATED, 401, ACCOUNT),
            (StatusCode.INVALID_ARGUMENT, 400, REFUSED),
        ],
    )
    def test_grpc(self, code: StatusCode, status: int, expected: Expected) -> None:
        """A gRPC code stands for the status, since gRPC's own exceptions have no HTTP status."""
        check(diagnose(InactiveRpcError(code)), expected, status=status)

    @pytest.mark.parametrize(
        "error",
        [
            Failed(status_code=429, headers={"retry-after": "7"}),  # Cohere
            Failed(http_status=429, headers={"retry-after": "7"}),  # Voyage
            Failed(code="429", headers={"retry-after": "7"}),
            Failed(status=429, headers={"Retry-After": "7"}),  # aiohttp
            Failed(response=http.Response(429, headers={"retry-after": "7"})),  # httpx, requests
            Failed(status_code=429, raw_response=http.Response(429, headers={"retry-after": "7"})),
        ],
    )
    def test_status_and_headers_are_found_where_sdks_put_them(self, error: Exception) -> None:
        """The status is found under all its names, and headers in the answer or the exception."""
        check(diagnose(error), {**THROTTLED, "after": 7}, status=429)

    @pytest.mark.parametrize(
        "error",
        [
            Failed(status_code=400, body={"message": TOO_MANY}),  # Cohere
            Failed(status_code=400, body=json.dumps({"message": TOO_MANY})),  # mistralai
            Failed(http_status=400, json_body={"detail": TOO_MANY}),  # Voyage
            Failed(http_status=400, http_body=f'{{"detail": "{TOO_MANY}"}}'),
            Failed(status_code=400, body=[{"error": {"message": TOO_MANY}}]),  # Gemini as OpenAI
            Failed(status_code=400, body=TOO_MANY.encode()),
            Failed(status_code=400, message=TOO_MANY),  # Azure
            Failed(TOO_MANY, status_code=400),  # Ollama
            Failed(response=http.Response(400, json={"error": TOO_MANY})),  # httpx, requests
            Failed(status_code=400, response=Failed(text=lambda: TOO_MANY)),  # Azure
            Failed(f"Client error '422': {TOO_MANY}", response=http.Response(400)),
        ],
    )
    def test_the_message_is_found_where_sdks_put_it(self, error: Exception) -> None:
        """The message is found in bodies that are objects, JSON or text, under all their names."""
        check(diagnose(error), ITEMS, status=400)

    def test_requests(self) -> None:
        """The exception that `raise_for_status` of `requests` raises is read through its answer."""
        response = requests.Response()
        response.status_code, response._content = 429, b'{"detail": "Insufficient balance."}'
        with pytest.raises(requests.HTTPError) as caught:
            response.raise_for_status()
        check(diagnose(caught.value), SPENT, status=429)

    def test_azure(self) -> None:
        """For Azure the code is found in an object inside the exception."""
        inner = Failed(code="insufficient_quota")
        error = Failed("(insufficient_quota) …", status_code=429, error=inner)
        check(diagnose(error), SPENT, status=429)

    def test_headers_that_give_none_for_what_is_absent_are_read(self) -> None:
        """Headers that return `None` for a missing name are read without an error.

        Those of urllib do, and some classes let its exceptions out.
        """
        error = HTTPError("http://localhost", 503, "Service Unavailable", Message(), None)
        check(diagnose(error), OVERLOADED, status=503)

    @pytest.mark.parametrize(
        "attributes",
        [
            *({"code": 7}, {"status": True}, {"code": "E429"}, {}, {"code": "9" * 5000}),
            *(
                {"status_code": 200},
                {"status_code": 600},
                {"code": "\uff14\uff12\uff19"},
                {"code": 429.0},
            ),
        ],
    )
    def test_a_number_that_is_no_error_status_is_none(self, attributes: dict[str, Any]) -> None:
        """Only a number from 400 to 599 is a status; other numbers and names are not."""
        check(diagnose(Failed(**attributes)), REFUSED)

    @pytest.mark.parametrize(
        "name",
        ["RateLimitError", "ThrottlingError", "TooManyRequestsException", "ResourceExhausted"],
    )
    def test_a_telling_name_stands_for_a_missing_status(self, name: str) -> None:
        """An exception without a status that is named after throttling counts as throttling."""
        check(diagnose(named(name)), THROTTLED)

    @pytest.mark.parametrize(
        ("text", "status", "expected"),
        [
            (
                "Infinity returned an unexpected response with status 503: overloaded",
                503,
                OVERLOADED,
            ),
            ("Infinity returned an unexpected response with status 422: too many", 422, REFUSED),
            ("[429] Too Many Requests\n", 429, THROTTLED),
            ("[422] batch size 64 is over 50", 422, REFUSED),
            (
                "[400] Bad Request\nInput length 548 exceeds maximum allowed token size",
                400,
                REFUSED,
            ),
            ("Error code: 401 - {'error': 'no'}", 401, ACCOUNT),
            ("Client error '429 Too Many Requests' for url 'http://x'", 429, THROTTLED),
            ("429 Client Error: Too Many Requests for url: http://x", 429, THROTTLED),
            ("500 Server Error: Internal Server Error for url: http://x", 500, FAILED),
            ("API error occurred: Status 429\nBody: {}", 429, THROTTLED),
            ("failed (status code: 503)", 503, OVERLOADED),
            ('HTTP 429: {"error":{"code":"RateLimitReached"}}', 429, THROTTLED),
            ("Rate limit exceeded", None, THROTTLED),  # Jina
            ("CUDA out of memory at 512 texts", None, REFUSED),
            ("512 is more than 500 texts", None, REFUSED),
            (TOO_MANY, None, ITEMS),
        ],
    )
    def test_plain_exceptions_tell_it_in_their_text(
        self, text: str, status: int | None, expected: Expected
    ) -> None:
        """The status and kind of plain exceptions are read from their text.

        infinity, NVIDIA, Jina and others raise such exceptions.
        """
        check(diagnose(Exception(text)), expected, status=status)
        check(diagnose(wrapped(Exception(text), how="from")), expected, status=status)

    @pytest.mark.parametrize(
        "error",
        [
            openai.APIConnectionError(request=REQUEST),
            http.ConnectError("…"),
            http.ReadError("…"),
            http.RemoteProtocolError(
                "peer closed connection without sending complete message body"
            ),
            http.ConnectTimeout("…"),
            ConnectionResetError("…"),
            ConnectionRefusedError("…"),
            BrokenPipeError("…"),
            requests.ConnectionError("…"),
            requests.exceptions.SSLError("…"),
            requests.ConnectTimeout("…"),
            requests.exceptions.ChunkedEncodingError("…"),
            aiohttp.ServerDisconnectedError("…"),
            named("EndpointConnectionError"),  # botocore
            named("ConnectTimeoutError"),
            named("TransportError"),  # google-auth
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_without_an_answer_the_server_is_unreachable(self, error: Exception) -> None:
        """An error without an answer means an unreachable server, not bad or too many texts."""
        check(diagnose(error), {"kind": Kind.UNREACHABLE})

    def test_a_connection_that_timed_out_is_unreachable_behind_the_sdk_too(self) -> None:
        """A time-out of the connection counts as unreachable, even behind the SDK's time-out error.

        The SDK uses one class for every time-out, and only the cause distinguishes them.
        """
        error = openai.APITimeoutError(REQUEST)
        error.__cause__ = http.ConnectTimeout("…")
        check(diagnose(error), {"kind": Kind.UNREACHABLE})

    @pytest.mark.parametrize(
        "error",
        [
            openai.APITimeoutError(REQUEST),
            http.ReadTimeout("…"),
            http.WriteTimeout("…"),
            http.PoolTimeout("…"),
            TimeoutError("…"),
            requests.ReadTimeout("…"),
            aiohttp.ServerTimeoutError("…"),
            named("ReadTimeoutError"),  # botocore, urllib3
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_a_time_out_is_one(self, error: Exception) -> None:
        """An exception for an answer that did not arrive in time has the kind `TIMED_OUT`."""
        check(diagnose(error), {"kind": Kind.TIMED_OUT})

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (named("AuthenticationError"), Kind.ACCOUNT),
            (named("NoCredentialsError"), Kind.ACCOUNT),
            (named("ServiceUnavailable"), Kind.OVERLOADED),
            (named("OverloadedError"), Kind.OVERLOADED),
            (named("InternalServerError"), Kind.FAILED),
            (http.DecodingError("incorrect header check"), Kind.FAILED),
            (requests.JSONDecodeError("Expecting value", "<html>", 0), Kind.FAILED),
        ],
    )
    def test_other_names_tell_too(self, error: Exception, kind: Kind) -> None:
        """Without a status, the name of the exception's class decides its kind."""
        check(diagnose(error), {"kind": kind})

    def test_an_unknown_exception_is_perhaps_a_texts(self) -> None:
        """An unknown exception may be caused by a text, so it counts as a refusal.

        The text is then found by sending fewer at a time.
        """
        check(diagnose(KeyError("embedding")), REFUSED)
        check(diagnose(BaseException()), REFUSED)

    def test_an_answer_that_cannot_be_believed_can_be_asked_for_again(self) -> None:
        """A wrong answer counts as a failure of the server and may be requested again."""
        check(diagnose(ResponseError("8 texts were sent, but 7 vectors came back")), FAILED)

    @pytest.mark.parametrize(
        ("answer", "status", "expected"),
        [
            (body(NO_MONEY, "insufficient_quota"), None, SPENT),
            (body("Overloaded", "server_error"), None, FAILED),
            (body("Rate limit reached"), None, THROTTLED),
            (body("Please retry after 2 seconds.", code=429), 429, {**THROTTLED, "after": 2}),
            (body("no such key", code="401"), 401, ACCOUNT),
        ],
    )
    def test_an_error_under_status_200_is_read(
        self, answer: dict[str, object], status: int | None, expected: Expected
    ) -> None:
        """The error inside an answer with status 200, as some gateways send, is diagnosed."""
        check(diagnose(ResponseError("…", body=answer)), expected, status=status)

    def test_vectors_of_another_width_end_everything(self) -> None:
        """Vectors of another width are an error of the model that ends everything.

        A server that ignores `dimensions` ignores it each time.
        """
        check(diagnose(DimensionsError(expected=256, received=1536)), {"kind": Kind.MODEL})

    def test_only_our_own_error_of_the_model_ends_everything(self) -> None:
        """Only this package's `ModelError` ends everything.

        SageMaker has an exception of that name that can pass.
        """
        ours = type("ModelError", (BatchEmbeddingsError,), {})("…")
        check(diagnose(ours), {"kind": Kind.MODEL})
        sagemaker = type("ModelError", (ClientError,), {})("ModelError", 424)
        check(diagnose(sagemaker), FAILED, status=424)
