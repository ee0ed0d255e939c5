"""Database errors are classified by their own words, never by words quoted from a document."""

import sqlite3
from types import SimpleNamespace
from typing import Any

import pytest

from langchain_batch_embed.errors import PartialEmbeddingsError
from langchain_batch_embed.stores.troubles import Trouble, read_trouble


class ApiError(Exception):
    """An error like postgrest's, with the database's own code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{{'message': '{message}', 'code': '{code}', 'hint': None}}")
        self.code = code


class HttpError(Exception):
    """An error like Qdrant's `UnexpectedResponse`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"Unexpected Response: {status}\nRaw response content:\n{message}")
        self.status_code = status


class SqlError(Exception):
    """An error like psycopg's."""

    def __init__(self, sqlstate: str, message: str = "") -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


def wrapped(error: Exception) -> Exception:
    """Return an error as SQLAlchemy would wrap it."""
    statement = "[SQL: VALUES ('permission denied', 'batch too large', 'timed out')]"
    outer = RuntimeError(f"({type(error).__name__}) {error}\n{statement}")
    outer.__cause__ = error
    return outer


PASSING: list[Exception] = [
    ConnectionResetError("Connection reset by peer"),
    ConnectionError("the database is gone"),
    BrokenPipeError(),
    sqlite3.OperationalError("database is locked"),
    sqlite3.OperationalError("database table is locked: documents"),
    SqlError("40P01", "deadlock detected"),
    SqlError("40001", "could not serialize access due to concurrent update"),
    SqlError("57P01", "terminating connection due to administrator command"),
    SqlError("57P03", "the database system is starting up"),
    SqlError("53300", "too many clients already"),
    SqlError("55P03", "canceling statement due to lock timeout"),
    wrapped(SqlError("08006", "server closed the connection unexpectedly")),
    RuntimeError("server closed the connection unexpectedly"),
    ApiError("PGRST001", "Could not connect with the database"),
    HttpError(503, "Service Unavailable"),
    HttpError(500, "Internal Server Error"),
    HttpError(429, "Too many requests"),
]
TIMED_OUT: list[Exception] = [
    ApiError("57014", "canceling statement due to statement timeout"),
    wrapped(SqlError("57014", "canceling statement due to statement timeout")),
    TimeoutError("The read operation timed out"),
    type("ReadTimeout", (Exception,), {})(""),
    RuntimeError("{'code': '57014', 'message': 'canceling statement due to statement timeout'}"),
    RuntimeError("context deadline exceeded"),
]
TOO_LARGE: list[Exception] = [
    ValueError("Batch size of 6000 is greater than max batch size of 5461"),
    ValueError(
        "Cannot submit more than 5,461 embeddings at once. Batch size 6,000 exceeds the maximum"
    ),
    RuntimeError("The embeddings count, 501 is more than the [bulk_size], 500."),
    HttpError(413, "Request Entity Too Large"),
    HttpError(400, "Error, message length too large: found 2400000 bytes, the limit is: 2097152"),
    HttpError(400, "Vector count and batch payload: request size is larger than 2MB"),
    sqlite3.OperationalError("too many SQL variables"),
    RuntimeError("the number of query arguments cannot exceed 32767"),
    RuntimeError("number of parameters must be between 0 and 65535"),
    HttpError(400, "Payload error: JSON payload (33554432) is larger than allowed (limit: 3355)"),
]
FATAL: list[Exception] = [
    HttpError(401, "Unauthorized"),
    HttpError(403, "Forbidden"),
    HttpError(404, "Not found: Collection `documents` doesn't exist!"),
    HttpError(400, "Wrong input: Vector dimension error: expected dim: 8, got 1536"),
    ValueError("Collection expecting embedding with dimension of 8, got 1536"),
    ApiError("22000", "expected 8 dimensions, not 1536"),
    wrapped(SqlError("22000", "expected 8 dimensions, not 1536")),
    sqlite3.OperationalError(
        'Dimension mismatch for inserted vector for the "text_embedding" column. '
        "Expected 8 dimensions but received 1536."
    ),
    RuntimeError("Vector dimension 1536 does not match the dimension of the index 8"),
    sqlite3.OperationalError("no such table: documents"),
    sqlite3.OperationalError("attempt to write a readonly database"),
    sqlite3.OperationalError("database or disk is full"),
    SqlError("42P01", 'relation "documents" does not exist'),
    SqlError("28P01", "password authentication failed"),
    SqlError("53100", "could not extend file: No space left on device"),
    ApiError("PGRST205", "Could not find the table public.documents in the schema cache"),
    ApiError("PGRST301", "JWT expired"),
    PermissionError(13, "Permission denied"),
    NotImplementedError("Sync methods are not implemented for AsyncPGVectorStore."),
    AssertionError("This method must be called without async_mode"),
]
REFUSED: list[Exception] = [
    ValueError("A string literal cannot contain NUL (0x00) characters."),
    SqlError("22021", 'invalid byte sequence for encoding "UTF8": 0x00'),
    ApiError("22P05", "unsupported Unicode escape sequence"),
    ApiError("23505", "duplicate key value violates unique constraint"),
    ApiError("21000", "ON CONFLICT DO UPDATE command cannot affect row a second time"),
    sqlite3.IntegrityError("refused by the database"),
    UnicodeEncodeError("utf-8", "x", 0, 1, "surrogates not allowed"),
    HttpError(422, "metadata value must be a string"),
    TypeError("Object of type datetime is not JSON serializable"),
]
UNKNOWN: list[Exception] = [RuntimeError("no"), Exception(), sqlite3.OperationalError("odd")]


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (error, trouble)
        for trouble, errors in (
            (Trouble.PASSING, PASSING),
            (Trouble.TIMED_OUT, TIMED_OUT),
            (Trouble.TOO_LARGE, TOO_LARGE),
            (Trouble.FATAL, FATAL),
            (Trouble.REFUSED, REFUSED),
            (Trouble.UNKNOWN, UNKNOWN),
        )
        for error in errors
    ],
    ids=lambda value: f"{type(value).__name__} {str(value)[:40]!r}",
)
def test_an_error_says_what_helps(error: Exception, trouble: Trouble) -> None:
    """Errors are classified correctly by the words and codes that drivers and clients use."""
    assert read_trouble(error, ["a document about gardens"]) is trouble


@pytest.mark.parametrize(
    "text",
    [
        "permission denied for table documents, says the manual",
        "Collection expecting embedding with dimension of 8, got 1536",
        "statement timeout: what to do when the database is locked",
        "too many SQL variables in one request that is too large",
    ],
)
@pytest.mark.parametrize("quote", ["bad value: '{}'", "Failing row contains (7, {}, null)."])
def test_what_is_quoted_of_a_document_decides_nothing(text: str, quote: str) -> None:
    """Text that an error quotes from a document does not affect the class.

    A database manual is a document, too.
    """
    assert read_trouble(ValueError(quote.format(text)), ["another one", text]) is Trouble.REFUSED


def test_a_failure_of_the_embeddings_within_the_store_is_read_too() -> None:
    """An embeddings error inside the store's call is classified too, here a wrong key as fatal.

    A store that changes texts asks for others than those that were prefetched.
    """
    report: Any = SimpleNamespace()
    error = PartialEmbeddingsError([None], [], report)
    error.__cause__ = HttpError(401, "Incorrect API key")
    assert read_trouble(error, []) is Trouble.FATAL
