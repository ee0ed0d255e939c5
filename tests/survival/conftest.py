"""Fixtures of the survival tests: embeddings on an endpoint of a test's own."""

from collections.abc import Callable, Iterator

import pytest
from langchain_openai import OpenAIEmbeddings

from tests.support import FakeClock
from tests.survival.support import Asked, Endpoint, Reply

Serve = Callable[[Callable[[Asked], Reply | None]], Endpoint]


@pytest.fixture
def serve(clock: FakeClock) -> Iterator[Serve]:
    """Return a function that starts an endpoint whose answers the test decides.

    The endpoint ends with the test.
    """
    started: list[Endpoint] = []

    def start(decide: Callable[[Asked], Reply | None]) -> Endpoint:
        started.append(Endpoint(decide, clock).__enter__())
        return started[-1]

    yield start
    for endpoint in started:
        endpoint.__exit__(None, None, None)


@pytest.fixture
def wrapped(
    openai_embeddings: Callable[..., OpenAIEmbeddings],
) -> Callable[[Endpoint], OpenAIEmbeddings]:
    """Return a function that makes `OpenAIEmbeddings` for an endpoint."""
    return lambda endpoint: openai_embeddings(base_url=endpoint.url)
