"""Commands run in the tests' own process, and leave nothing behind."""

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from langchain_batch_embed.calls import logbook
from langchain_batch_embed.commands.main import main
from tests.support import LocalServer


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """Restore the log levels and handlers that `embed` sets for its process."""
    loggers = [logging.getLogger(name) for name in ("langchain_batch_embed", logbook.__name__)]
    before = [(each, each.level, list(each.handlers)) for each in loggers]
    yield
    for each, level, handlers in before:
        each.setLevel(level)
        each.handlers[:] = handlers


@pytest.fixture
def command(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., int]:
    """Run the command line in this process, in a folder of its own; return its exit status."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> int:
        try:
            main([str(each) for each in arguments])
        except SystemExit as end:
            if isinstance(end.code, str):
                sys.stderr.write(end.code)
                return 1
            return end.code or 0
        return 0

    return call
