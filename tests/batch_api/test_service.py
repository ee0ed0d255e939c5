"""Answers of another form, from a proxy or a wrong address, are recognised."""

from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import pytest

from langchain_batch_embed import OptionError
from langchain_batch_embed.batch_api.faults import passes
from langchain_batch_embed.batch_api.service import BatchService, is_doubtful
from langchain_batch_embed.errors import ResponseError

PAGE = "<html>busy</html>"
OTHER = MagicMock(id=None, status=None)
"""An SDK object made from JSON that has none of its fields."""

CALLS: dict[str, Callable[[BatchService], object]] = {
    "upload": lambda service: service.upload("name", b"{}"),
    "find_file": lambda service: service.find_file("name", 2),
    "create": lambda service: service.create("file", "intent"),
    "find": lambda service: service.find("intent", None),
    "retrieve": lambda service: service.retrieve("batch"),
}


def service_that_answers(answer: object) -> BatchService:
    """Return a service whose every request receives this answer."""
    client: Any = MagicMock()
    client.files.create.return_value = answer
    client.files.list.return_value = answer
    client.batches.create.return_value = answer
    client.batches.list.return_value = answer
    client.batches.retrieve.return_value = answer
    return BatchService(client, "http://server/v1")


@pytest.mark.parametrize("call", list(CALLS.values()), ids=list(CALLS))
def test_a_page_is_an_answer_that_failed(call: Callable[[BatchService], object]) -> None:
    """A web page counts as a failed answer that may pass and whose request may have succeeded."""
    with pytest.raises(ResponseError, match="did not come from the Batch API") as caught:
        call(service_that_answers(PAGE) if call is not CALLS["find_file"] else _broken_list())
    assert passes(caught.value)
    assert is_doubtful(caught.value)


def _broken_list() -> BatchService:
    """Return a service whose SDK fails on a page in place of a list, as openai 3 does."""
    service = service_that_answers(PAGE)
    service._client.files.list = MagicMock(side_effect=AttributeError)  # type: ignore[method-assign]
    return service


@pytest.mark.parametrize("name", ["upload", "create", "retrieve"])
def test_so_is_one_without_an_id(name: str) -> None:
    """An answer without an id is refused too, since any JSON becomes an SDK object."""
    with pytest.raises(ResponseError, match="did not come from the Batch API"):
        CALLS[name](service_that_answers(OTHER))


def test_a_page_at_the_beginning_is_no_batch_api() -> None:
    """A web page in answer to the first request is reported as a missing Batch API at once."""
    with pytest.raises(OptionError, match="has no Batch API") as caught:
        service_that_answers(PAGE).newest()
    assert not passes(caught.value)


@pytest.mark.parametrize("pieces", [[b"<ht", b"ml>"], [b"\n", b" <!doctype html>"]])
def test_a_page_is_no_output(pieces: list[bytes]) -> None:
    """A web page is not read as output, or all texts would be sent and paid for again."""
    client: Any = MagicMock()
    response = client.files.with_streaming_response.content.return_value.__enter__.return_value
    response.iter_bytes.return_value = pieces
    with pytest.raises(ResponseError) as caught:
        list(BatchService(client, "http://server/v1").lines("file"))
    assert passes(caught.value)
