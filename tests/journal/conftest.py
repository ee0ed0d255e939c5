"""A journal of each kind, with time handed in."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_classic.storage import LocalFileStore
from langchain_core.stores import InMemoryByteStore

from langchain_batch_embed.journal import (
    ByteStoreJournal,
    Journal,
    MemoryJournal,
    SQLiteJournal,
)
from tests.journal.support import Clock


@pytest.fixture
def clock() -> Clock:
    """Give the time to a journal."""
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a file that is not there yet."""
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(
    request: pytest.FixtureRequest, path: Path, tmp_path: Path, clock: Clock
) -> Iterator[Journal]:
    """Make the journal that the test asks for."""
    made: Journal
    match getattr(request, "param", "sqlite"):
        case "memory":
            made = MemoryJournal(clock=clock)
        case "bytestore":
            made = ByteStoreJournal(InMemoryByteStore(), clock=clock)
        case "files":
            made = ByteStoreJournal(LocalFileStore(tmp_path / "store"), clock=clock)
        case _:
            made = SQLiteJournal(path, clock=clock)
    yield made
    made.close()
