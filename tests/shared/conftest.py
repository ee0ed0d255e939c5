"""One Valkey server for all tests of this folder."""

from collections.abc import Iterator

import pytest

from .places import Server, running


@pytest.fixture(scope="session")
def valkey() -> Iterator[Server]:
    """The server; each test uses an account of its own."""
    with running() as server:
        yield server
