"""A journal of each kind, with a clock that the test controls."""

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
    """Return the clock of a journal."""
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a file that does not exist yet."""
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(
    request: pytest.FixtureRequest, path: Path, tmp_path: Path, clock: Clock
) -> Iterator[Journal]:
    """Make the journal that the test requests."""
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
