"""A line of a batch's output is classified, and its texts are sent again or settled."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from langchain_batch_embed.batch_api.answers import (
    MOST_FAILURES,
    Read,
    Verdict,
    again,
    isolated,
    read_line,
)
from langchain_batch_embed.batch_api.records import Line
from langchain_batch_embed.errors import DimensionsError, ResponseError


def line_of(count: int, *, sent: int = 0) -> Line:
    """Return a line with this many texts."""
    return Line(
        id="line",
        keys=tuple(bytes([i]) * 20 for i in range(count)),
        places=np.arange(count, dtype=np.int32),
        tokens=np.full(count, 10, dtype=np.int32),
        sent=sent,
    )


def answer(*vectors: list[float] | None, **changes: Any) -> dict[str, Any]:
    """Return an output line with vectors."""
    data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)]
    body = {"data": data, "model": "m", "usage": {"prompt_tokens": 7}, **changes}
    return {"custom_id": "line", "response": {"status_code": 200, "body": body}, "error": None}


def refusal(status: int, **error: Any) -> dict[str, Any]:
    """Return an output line with an HTTP error."""
    return {"response": {"status_code": status, "body": {"error": error}}, "error": None}


def read(
    parsed: Mapping[str, Any], line: Line | None = None, dimensions: int | None = None
) -> Read:
    """Read a line of the output."""
    return read_line(parsed, line or line_of(2), dimensions=dimensions, agree=lambda *_: None)


def test_an_answer_is_read() -> None:
    """An answer is read with its vectors in the order of the texts, and with its tokens."""
    parsed = answer([1.0, 2.0], [3.0, 4.0])
    parsed["response"]["body"]["data"].reverse()
    found = read(parsed)
    assert found.verdict is Verdict.ANSWERED
    assert found.answer is not None
    assert found.answer.vectors.tolist() == [[1, 2], [3, 4]]
    assert (found.answer.model, found.tokens) == ("m", 7)


def test_an_answer_without_usage_costs_what_was_counted() -> None:
    """An answer without a usage costs the tokens that were counted here."""
    assert read(answer([1.0], [2.0], usage=None)).tokens == 20


@pytest.mark.parametrize(
    "parsed",
    [
        answer([1.0]),
        answer([1.0], [2.0], [3.0]),
        answer([1.0], None),
        answer([1.0], [0.0]),
        answer([1.0], [float("nan")]),
        answer([1.0], [2.0, 3.0]),
        answer([1.0], [2.0], data=None),
        answer([1.0], [2.0], error={"message": "no"}),
        {"response": {"status_code": 200, "body": None}},
    ],
)
def test_an_answer_that_is_not_sound_is_paid_for_and_sent_again(parsed: dict[str, Any]) -> None:
    """An invalid answer is paid for and sent again.

    Count, index, width and numbers are checked as in any answer.
    """
    found = read(parsed)
    assert found.verdict is Verdict.FAILED
    assert found.answer is None
    assert found.tokens > 0


def test_other_dimensions_than_asked_for_are_an_error() -> None:
    """Vectors of another width than requested raise an error, as no retry can help."""
    with pytest.raises(DimensionsError):
        read(answer([1.0], [2.0]), dimensions=2)


def test_vectors_that_do_not_go_with_earlier_ones_are_not_used() -> None:
    """Vectors that do not match earlier ones are not used.

    The caller's `agree` knows the earlier ones and raises.
    """

    def disagree(number: int, model: str | None) -> None:
        assert (number, model) == (1, "m")
        raise ResponseError("another model")

    found = read_line(answer([1.0], [2.0]), line_of(2), dimensions=None, agree=disagree)
    assert found.verdict is Verdict.FAILED


@pytest.mark.parametrize(
    ("parsed", "verdict", "at"),
    [
        ({"response": None, "error": {"code": "batch_expired"}}, Verdict.UNANSWERED, None),
        ({"response": None, "error": {"code": "batch_cancelled"}}, Verdict.UNANSWERED, None),
        ({"response": None, "error": None}, Verdict.FAILED, None),
        ({"response": None, "error": {"code": "odd", "message": "m"}}, Verdict.FAILED, None),
        ({"response": {"status_code": 0, "body": {}}, "error": None}, Verdict.FAILED, None),
        ({"response": {"status_code": None}, "error": None}, Verdict.FAILED, None),
        (refusal(500, message="oops"), Verdict.FAILED, None),
        (refusal(503, message="overloaded"), Verdict.FAILED, None),
        (refusal(429, message="Rate limit reached", type="tokens"), Verdict.FAILED, None),
        (refusal(400, message="rejected by our safety system"), Verdict.REFUSED, None),
        (refusal(400, message="Invalid 'input[1]': too odd", param="input[1]"), Verdict.REFUSED, 1),
        (
            refusal(400, message="Invalid 'input[7]': too odd", param="input[7]"),
            Verdict.REFUSED,
            None,
        ),
        (refusal(403, message="Forbidden"), Verdict.REFUSED, None),
        (
            refusal(400, message="Requested 468160 tokens, max 300000 tokens per request"),
            Verdict.TOO_LARGE,
            None,
        ),
        (
            refusal(404, message="The model `x` does not exist", code="model_not_found"),
            Verdict.BARRED,
            None,
        ),
        (refusal(401, message="Incorrect API key provided"), Verdict.BARRED, None),
        (refusal(429, code="insufficient_quota", message="You exceeded"), Verdict.BARRED, None),
        (refusal(400, message="Invalid 'dimensions'", param="dimensions"), Verdict.BARRED, None),
    ],
)
def test_an_error_is_sorted(parsed: dict[str, Any], verdict: Verdict, at: int | None) -> None:
    """An error is classified by its remedy: to send it again, alone, in halves, or not at all."""
    found = read(parsed)
    assert (found.verdict, found.at) == (verdict, at)
    assert found.tokens == 0


def test_no_word_of_the_server_is_kept() -> None:
    """The server's words are not kept, because they may quote a text."""
    found = read(refusal(400, message="cannot embed 'my secret'", code="bad"))
    assert "secret" not in found.error
    assert "400" in found.error


def pieces(verdict: Verdict, count: int, *, at: int | None = None, sent: int = 0) -> list[Line]:
    """Return the lines that replace a line."""
    numbers = itertools.count()
    return again(
        line_of(count, sent=sent),
        Read(verdict=verdict, at=at, error="e"),
        name=lambda: str(next(numbers)),
    )


@pytest.mark.parametrize(
    ("verdict", "count", "at", "sizes", "state"),
    [
        (Verdict.UNANSWERED, 4, None, [4], "open"),
        (Verdict.FAILED, 4, None, [4], "open"),
        (Verdict.TOO_LARGE, 5, None, [2, 3], "open"),
        (Verdict.REFUSED, 4, None, [1, 1, 1, 1], "open"),
        (Verdict.REFUSED, 5, 2, [2, 1, 2], "open"),
        (Verdict.REFUSED, 5, 0, [1, 4], "open"),
        (Verdict.REFUSED, 1, None, [1], "failed"),
        (Verdict.TOO_LARGE, 1, None, [1], "failed"),
        (Verdict.BARRED, 4, None, [4], "open"),
    ],
)
def test_a_line_goes_on_in_lines(
    verdict: Verdict, count: int, at: int | None, sizes: list[int], state: str
) -> None:
    """A line is replaced by lines that contain each of its texts once."""
    found = pieces(verdict, count, at=at)
    assert [len(piece.keys) for piece in found] == sizes
    assert [key for piece in found for key in piece.keys] == list(line_of(count).keys)
    assert {piece.state for piece in found} == {state}


def test_a_line_that_always_fails_ends() -> None:
    """A line that always fails is first cut into single texts and is given up in the end.

    One of the texts may be the cause.
    """
    sizes = [
        [len(piece.keys) for piece in pieces(Verdict.FAILED, 3, sent=sent)] for sent in range(3)
    ]
    assert sizes == [[3], [1, 1, 1], [1, 1, 1]]
    assert pieces(Verdict.FAILED, 1, sent=MOST_FAILURES - 2)[0].state == "open"
    assert pieces(Verdict.FAILED, 1, sent=MOST_FAILURES - 1)[0].state == "failed"


def test_a_refusal_of_every_request_ends_after_the_second() -> None:
    """A refusal of every request ends after the second one, without cutting the line."""
    (piece,) = pieces(Verdict.BARRED, 200, sent=1)
    assert (piece.state, len(piece.keys)) == ("failed", 200)


def test_what_was_not_executed_may_be_sent_as_often_as_it_takes() -> None:
    """A line that was not executed may be sent any number of times, as it is not at fault."""
    (piece,) = pieces(Verdict.UNANSWERED, 2, sent=3)
    assert (piece.state, piece.sent) == ("open", 3)


def test_of_a_batch_that_is_refused_for_some_lines_these_alone_are_cut() -> None:
    """If a batch is refused for some lines, only those are cut.

    Lines are numbered from 1, including those that were answered before.
    """
    lines = [replace(line_of(2), state="done"), line_of(3), line_of(4)]
    names = itertools.count()
    pieces = isolated(lines, {1: "one", 2: "two"}, name=lambda: str(next(names)))
    assert [len(piece.keys) for piece in pieces] == [1, 1, 1, 4]
    assert {piece.state for piece in pieces} == {"open"}


def test_a_line_of_one_text_that_a_batch_names_has_failed() -> None:
    """A line of one text that a batch's refusal names has failed, with the code as its reason."""
    (piece,) = isolated([line_of(1)], {1: "invalid_request"}, name=lambda: "new")
    assert (piece.state, piece.error) == ("failed", "invalid_request")
