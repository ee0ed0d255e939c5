"""Commands run in the tests' own process here, and leave nothing behind."""

import logging
from collections.abc import Iterator

import pytest

from langchain_batch_embed.calls import logbook


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """Give back the levels and handlers that `embed` sets for its process."""
    loggers = [logging.getLogger(name) for name in ("langchain_batch_embed", logbook.__name__)]
    before = [(each, each.level, list(each.handlers)) for each in loggers]
    yield
    for each, level, handlers in before:
        each.setLevel(level)
        each.handlers[:] = handlers
