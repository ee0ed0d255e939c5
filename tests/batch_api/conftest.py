"""Embeddings for the local server, with a journal in a file."""

from pathlib import Path

import pytest

from tests.batch_api.support import Half, make
from tests.support import LocalServer


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Return the path of the vectors' file."""
    return tmp_path / "vectors.db"


@pytest.fixture
def half(server: LocalServer, journal: Path) -> Half:
    """Return a maker of embeddings for the local server, with the journal."""
    return lambda **options: make(server.url, journal, **options)
