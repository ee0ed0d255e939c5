"""Exceptions that SDKs raise for a refusal, and the diagnosis expected for each.

The exceptions are those that the OpenAI SDK makes of an answer, or have the attributes that another
SDK gives its own.
"""

import enum
import importlib
from dataclasses import fields
from http import HTTPStatus
from typing import Any, NoReturn

import openai
import pytest

from langchain_batch_embed.pacing.diagnosis import Diagnosis, Kind

# Version 2 of the SDK is built on httpx, version 3 on httpx2.
http: Any = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.split(".")[0])
CLIENT = openai.OpenAI(api_key="sk-test", base_url="http://127.0.0.1:9/v1")
REQUEST = http.Request("POST", "http://127.0.0.1:9/v1/embeddings")
NOW = 1_700_000_000.0
HTML = "<!DOCTYPE html><html><head><title>Error</title></head><body>{}</body></html>"

SPENT = {"kind": Kind.SPENT}
THROTTLED = {"kind": Kind.THROTTLED}
ACCOUNT = {"kind": Kind.ACCOUNT}
OPTION = {"kind": Kind.OPTION}
REFUSED = {"kind": Kind.REFUSED}
FAILED = {"kind": Kind.FAILED}
OVERLOADED = {"kind": Kind.OVERLOADED}

Expected = dict[str, Any]
Case = tuple[int, object, Expected]
"""Status, answer and expected diagnosis."""
Row = tuple[str, int, object, Expected]
"""A case with a name before it, and without the kind, which its table supplies."""


def refusal(
    status: int, body: object, headers: dict[str, str] | None = None
) -> openai.APIStatusError:
    """Return the exception that the SDK makes of an answer; `body` is JSON or plain text."""
    content = {"text": body} if isinstance(body, str) else {"json": body}
    response = http.Response(status, headers=headers, request=REQUEST, **content)
    return CLIENT._make_status_error_from_response(response)


def body(
    message: str, kind: str = "invalid_request_error", param: str | None = None, code: Any = None
) -> dict[str, object]:
    """Return an error in the form that OpenAI writes."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def check(got: Diagnosis, expected: Expected, *, status: int | None = None) -> None:
    """Assert that a diagnosis has the expected fields and defaults in all others."""
    nothing = {field.name: field.default for field in fields(Diagnosis)} | {"status": status}
    nothing["reached"] = got.reached  # tested in test_health.py
    found = {name: getattr(got, name) for name in nothing if name != "signature"}
    wanted = nothing | {"after": None} | expected
    wanted.pop("signature")
    for name in ("after", "share"):
        assert found.pop(name) == (None if wanted[name] is None else pytest.approx(wanted[name])), (
            name
        )
        wanted.pop(name)
    assert found == wanted


def row(name: str, status: int, answer: object, /, **found: Any) -> Row:
    """Return a recorded answer and the diagnosis expected for it, apart from its kind."""
    return name, status, answer, found


def table(kind: Kind, *rows: Row) -> dict[str, Case]:
    """Return the recorded answers of one kind under names that no other kind uses."""
    made = {
        f"{kind.value}: {name}": (status, answer, {"kind": kind, **found})
        for name, status, answer, found in rows
    }
    assert len(made) == len(rows), "of two rows with one name only one would be tested"
    return made


def cases(table: dict[str, Case]) -> pytest.MarkDecorator:
    """Parametrize a test by a table of status, answer and diagnosis."""
    return pytest.mark.parametrize(("status", "answer", "expected"), table.values(), ids=table)


def wrapped(error: Exception, *, how: str) -> Exception:
    """Return the error of a class that hides the provider's exception behind its own."""
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
    """An exception like botocore's: the answer is a mapping, and the status is deep inside it."""

    def __init__(
        self, code: str, status: int, message: str = "…", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(f"An error occurred ({code}) when calling the InvokeModel: {message}")
        self.response = {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}},
        }


class ResourceExhausted(Exception):  # noqa: N818  # the name that it has at Google's
    """An exception like google-api-core's, made from gRPC's: the code is an HTTP status."""

    code = HTTPStatus.TOO_MANY_REQUESTS


class StatusCode(enum.Enum):
    """Status codes like gRPC's."""

    CANCELLED = (1, "cancelled")
    DEADLINE_EXCEEDED = (4, "deadline exceeded")
    INTERNAL = (13, "internal")
    INVALID_ARGUMENT = (3, "invalid argument")
    RESOURCE_EXHAUSTED = (8, "resource exhausted")
    UNAUTHENTICATED = (16, "unauthenticated")
    UNAVAILABLE = (14, "unavailable")


class InactiveRpcError(Exception):
    """An exception like gRPC's own `_InactiveRpcError`: the code is a method."""

    def __init__(self, code: StatusCode, details: str = "…") -> None:
        super().__init__(f'<_InactiveRpcError with: status = {code}\n\tdetails = "{details}">')
        self._code = code
        self._details = details

    def code(self) -> StatusCode:
        """Return the code that takes the place of a status."""
        return self._code

    def details(self) -> str:
        """Return the server's words."""
        return self._details


class Failed(Exception):  # noqa: N818  # stands for many
    """An exception with any attributes that an SDK may give it."""

    def __init__(self, text: str = "…", /, **attributes: object) -> None:
        super().__init__(text)
        vars(self).update(attributes)


def named(name: str, text: str = "…") -> Exception:
    """Return an exception of a class with this name."""
    error: Exception = type(name, (Exception,), {})(text)
    return error


def fails() -> NoReturn:
    """Raise an error, as a property or method of an exception can."""
    raise RuntimeError("a stream cannot be read")
