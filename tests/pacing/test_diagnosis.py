"""What is read in an error: the kind of each refusal, and sound values from any input."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn

import httpx
import pytest
import requests
from hypothesis import assume, example, given
from hypothesis import strategies as st

from langchain_batch_embed.pacing.diagnosis import Diagnosis, Kind, diagnose, unsendable
from tests.pacing.answers import ANSWERS, WORDED
from tests.pacing.errors import (
    ACCOUNT,
    FAILED,
    HTML,
    NOW,
    OVERLOADED,
    REFUSED,
    THROTTLED,
    Expected,
    Failed,
    StatusCode,
    body,
    cases,
    check,
    fails,
    refusal,
    wrapped,
)
from tests.support import examples


class TestAnswers:
    """Each refusal that OpenAI, Azure, other providers, gateways and proxies send."""

    @cases(ANSWERS)
    def test_a_refusal_is_understood(self, status: int, answer: object, expected: Expected) -> None:
        """Each recorded refusal gets the diagnosis recorded for it, with no other field set."""
        got = diagnose(refusal(status, answer), sent=["a"] * 8, now=NOW)
        check(got, expected, status=status)

    @cases(WORDED)
    def test_a_wrapping_class_hides_nothing(
        self, status: int, answer: object, expected: Expected
    ) -> None:
        """A `ValueError` that a LangChain class raises around a refusal hides nothing of it."""
        error = wrapped(wrapped(refusal(status, answer), how="careless"), how="from")
        check(diagnose(error, sent=["a"] * 8, now=NOW), expected, status=status)

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 502, 503])
    @pytest.mark.parametrize("answer", ["", " ", "null", "[]", "{}", '""', "0", HTML, "<html"])
    def test_without_words_the_status_decides(self, status: int, answer: str) -> None:
        """An empty body or a page of a firewall or proxy is diagnosed by its status alone."""
        kinds = {400: REFUSED, 429: THROTTLED, 500: FAILED, 502: FAILED, 503: OVERLOADED}
        check(diagnose(refusal(status, answer)), kinds.get(status, ACCOUNT), status=status)

    def test_an_index_counts_without_the_texts_too(self) -> None:
        """An index in an error is read even if the texts are not passed in.

        Their number would be a bound on it.
        """
        assert diagnose(refusal(400, body("…", param="input[8]"))).at == 8


class TestSignature:
    """A signature distinguishes equal errors from different ones."""

    @pytest.mark.parametrize(
        ("error", "signature"),
        [
            (refusal(400, body("…", code="invalid_value")), "400 invalid_value BadRequestError"),
            (refusal(429, body("…", "tokens")), "429 tokens RateLimitError"),
            (refusal(429, body("…", "", code="429")), "429 - RateLimitError"),
            (refusal(503, HTML), "503 - InternalServerError"),
            (wrapped(refusal(503, ""), how="from"), "503 - InternalServerError"),
            (KeyError("embedding"), "- - KeyError"),
            (
                refusal(400, body("…", code="sk-abc123")),
                "400 invalid_request_error BadRequestError",
            ),
            (refusal(400, body("…", "a b c", code="x" * 99)), "400 - BadRequestError"),
        ],
    )
    def test_it_is_status_code_and_class(self, error: Exception, signature: str) -> None:
        """A signature is the status, the code and the class.

        A code that could be a key or a sentence is left out.
        """
        assert diagnose(error).signature == signature

    def test_it_does_not_depend_on_which_text_it_was(self) -> None:
        """Two refusals of the same kind for different texts have the same signature."""
        first, second = (refusal(400, body(f"bad: {i}", param=f"input[{i}]")) for i in (1, 2))
        assert diagnose(first).signature == diagnose(second).signature

    def test_a_text_as_code_is_left_out(self) -> None:
        """A code that is a text of the caller is left out of the signature, even a single word."""
        got = diagnose(refusal(400, body("…", "secret", code="secret")), sent=["secret"])
        assert got.signature == "400 - BadRequestError"


PIECES = [
    *("on tokens per min", " Limit ", "Limit: ", "Used ", "Requested ", ", ", "."),
    *("try again in ", "retry after ", "5", "0", "1.5", "..", "s", "ms", "m", "retry_delay {"),
    *(" seconds", "input[", "]", " tokens, max ", " tokens per request", "per day", "\\u00", "\\"),
    *("array length must be ", " or less", "maximum allowed batch size ", "<html", "&#x", "9" * 30),
]


class TestUnsendable:
    """Requests that a library refuses to send for a reason that all of them share."""

    @pytest.mark.parametrize(
        ("error", "what"),
        [
            (requests.exceptions.MissingSchema("Invalid URL 'x'"), "address"),
            (requests.exceptions.InvalidSchema("No connection adapters"), "address"),
            (requests.exceptions.InvalidURL("no host supplied"), "address"),
            (requests.exceptions.InvalidHeader("Invalid leading whitespace, ..."), "header"),
            (ValueError("Invalid header value b'Bearer k\\n'"), "header"),
            (UnicodeEncodeError("latin-1", "Bearer “k”", 7, 8, "ordinal not in"), "header"),
            (UnicodeEncodeError("latin-1", "“a text”", 0, 1, "ordinal not in range(256)"), None),
            (UnicodeEncodeError("ascii", "größe", 2, 3, "ordinal not in range(128)"), None),
            (httpx.LocalProtocolError("Too little data for declared Content-Length"), None),
            (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), None),
            (ValueError("a text says Invalid header"), None),
        ],
    )
    def test_it_is_told_from_what_can_pass(self, error: Exception, what: str | None) -> None:
        """Errors about the address or a header are fatal, unlike errors that can pass.

        They are also kept apart from errors that one text can cause.
        """
        assert unsendable(error) == what
        assert (diagnose(error).kind is Kind.ACCOUNT) == (what is not None)


class Raising:
    """An object that raises an error on every use."""

    def __getattribute__(self, name: str) -> Any:
        """Raise an error, as a property can."""
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        raise RuntimeError

    def __str__(self) -> str:
        """Raise an error, as a careless class can."""
        raise ValueError

    def __call__(self) -> NoReturn:
        """Raise an error, as a stream can."""
        raise OSError


VALUES: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.binary(max_size=8)
    | st.sampled_from([429, "429", fails, Raising(), StatusCode.UNAVAILABLE, "insufficient_quota"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "type", "param", "code", "detail", "loc"]), inner
        )
    ),
    max_leaves=8,
)
ATTRIBUTES = (
    *("status_code", "status", "code", "http_status", "body", "details", "message", "param"),
    *("headers", "response", "error", "raw_response", "json_body", "text", "resp"),
)


def assert_sound(got: Diagnosis, sent: Sequence[str] = ()) -> None:
    """Assert the properties that every diagnosis has."""
    assert isinstance(got.kind, Kind)
    assert got.status is None or 400 <= got.status < 600
    assert got.after is None or 0 < got.after <= 86_400
    assert got.max_items is None or got.max_items >= 1
    assert got.share is None or 0 <= got.share <= 1
    assert got.at is None or got.at >= 0
    assert got.at is None or not sent or got.at < len(sent)
    assert got.measure is None or got.kind is Kind.TOO_LARGE
    assert got.quota is None or math.isfinite(got.quota.limit)
    assert len(got.signature) < 120


class TestAnything:
    """No answer stops the diagnosis, however odd: a request without a diagnosis would hang."""

    @examples(200)
    @given(
        st.sampled_from([400, 404, 413, 418, 422, 429, 500, 503]),
        st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
        st.sampled_from([None, "input", "input[1]", "model"]),
        st.sampled_from([None, 429, "rate_limit_exceeded"]),
        st.lists(st.sampled_from(PIECES), max_size=5),
    )
    @example(429, "on tokens per min. Limit 1.., Requested ..", None, None, [])
    @example(429, "try again in 1.2.3s", None, None, [])
    @example(429, "retry after . seconds", None, None, [])
    def test_every_message_gets_a_diagnosis(
        self, status: int, message: str, param: str | None, code: Any, sent: list[str]
    ) -> None:
        """Every message gets a diagnosis with a bounded wait and with possible figures."""
        got = diagnose(refusal(status, body(message, param=param, code=code)), sent=sent)
        assert_sound(got, sent)

    @given(VALUES, st.sampled_from([400, 401, 429, 500]))
    def test_every_body_gets_a_diagnosis(self, answer: Any, status: int) -> None:
        """A JSON body of any form gets the diagnosis that belongs to its status."""
        assume(not isinstance(answer, bytes))
        try:
            json.dumps(answer, allow_nan=False)
        except (TypeError, ValueError):
            answer = repr(type(answer))
        got = diagnose(refusal(status, answer))
        expected = {
            400: Kind.REFUSED,
            401: Kind.ACCOUNT,
            429: Kind.THROTTLED,
            500: Kind.FAILED,
        }
        assert got.kind in {expected[status], Kind.SPENT, Kind.OPTION}
        assert_sound(got)

    @examples(300)
    @given(
        st.dictionaries(st.sampled_from(ATTRIBUTES), VALUES, max_size=5),
        st.text(max_size=30),
        st.lists(st.text(max_size=30) | st.sampled_from(PIECES), max_size=4),
    )
    def test_every_attribute_gets_a_diagnosis(
        self, attributes: dict[str, Any], text: str, sent: list[str]
    ) -> None:
        """Attributes of any type, or ones that raise, do not stop the diagnosis."""
        assert_sound(diagnose(Failed(text, **attributes), sent=sent), sent)
        attributes = {"response": Failed(**attributes), "headers": attributes}
        assert_sound(diagnose(Failed(text, **attributes), sent=sent), sent)

    def test_an_exception_that_cannot_be_printed_is_read(self) -> None:
        """An exception that cannot be printed is still diagnosed by its status."""
        error = type("Odd", (Exception,), {"__str__": lambda _: fails(), "status_code": 429})()
        check(diagnose(error), THROTTLED, status=429)

    @examples(200)
    @given(
        st.lists(st.text(min_size=4, max_size=60), min_size=1, max_size=4),
        st.sampled_from(["code", "type", "param", "message", "detail", "Code", "reason", "status"]),
        st.sampled_from([400, 422, 429, 500]),
        st.booleans(),
    )
    def test_a_diagnosis_holds_no_text(
        self, sent: list[str], field: str, status: int, plain: bool
    ) -> None:
        """A diagnosis never contains a text, wherever a server puts it in its answer."""
        text = sent[0]
        words = {str(status), "Failed", "tokens", "items", "bytes", "None", "True", "False"}
        words |= {kind.name for kind in Kind} | {field.name for field in fields(Diagnosis)}
        assume(not any(text in word or word == text for word in words))
        answer: Any = text if plain else {"error": {field: text}}
        got = diagnose(Failed(text, status_code=status, body=answer, code=text), sent=sent)
        shown = " ".join(str(getattr(got, field.name)) for field in fields(Diagnosis))
        assert text not in shown

    def test_a_long_body_takes_no_time(self) -> None:
        """A body of a megabyte is diagnosed within 3 s, so no wording takes quadratic time."""
        for piece in (
            "on tokens per min ",
            "per day ",
            "model ",
            "1,000,000",
            "a" * 50,
            "exceeded ",
        ):
            message = piece * 20_000
            started = time.process_time()
            for status in (400, 429, 500):
                diagnose(Failed(message, status_code=status, body={"message": message}))
            assert time.process_time() - started < 3
