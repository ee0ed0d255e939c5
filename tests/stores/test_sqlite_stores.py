"""What an ingest does for stores that write through a SQLite connection of their own."""

import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytest_mock import MockerFixture

from langchain_batch_embed.stores.sqlite import PAGE_CACHE, large_page_cache, roll_back


class Renamed(sqlite3.Connection):
    """A subclass, as some packages make one."""


@pytest.fixture(params=[sqlite3.Connection, Renamed])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Open a database in a file."""
    connection = sqlite3.connect(tmp_path / "rows.db", factory=request.param)
    yield connection
    connection.close()


def store_of(connection: object) -> Any:
    """Return something that keeps its connection where SQLiteVec does."""
    return SimpleNamespace(_connection=connection)


def cache_of(connection: sqlite3.Connection) -> int:
    """Return the size of the page cache: KiB below zero, pages above."""
    ((size,),) = connection.execute("PRAGMA cache_size").fetchall()
    return int(size)


class TestLargePageCache:
    """The page cache holds a chunk of vectors while an ingest writes."""

    @pytest.mark.parametrize("before", [-2000, 100, 0, -(PAGE_CACHE - 1)])
    def test_a_small_one_is_enlarged_and_restored(
        self, connection: sqlite3.Connection, before: int
    ) -> None:
        """Whether it was given in KiB or in pages."""
        connection.execute(f"PRAGMA cache_size = {before}")
        with large_page_cache(store_of(connection)):
            assert cache_of(connection) == -PAGE_CACHE
        assert cache_of(connection) == before

    @pytest.mark.parametrize("before", [-PAGE_CACHE, -10 * PAGE_CACHE, 10_000])
    def test_a_large_one_stays(self, connection: sqlite3.Connection, before: int) -> None:
        """Somebody has chosen it; 10,000 pages are 40,000 KiB."""
        connection.execute(f"PRAGMA cache_size = {before}")
        with large_page_cache(store_of(connection)):
            assert cache_of(connection) == before
        assert cache_of(connection) == before

    @pytest.mark.parametrize("other", [-500_000, -10])
    def test_one_that_is_set_meanwhile_stays(
        self, connection: sqlite3.Connection, other: int
    ) -> None:
        """Somebody has chosen that too."""
        with large_page_cache(store_of(connection)):
            connection.execute(f"PRAGMA cache_size = {other}")
        assert cache_of(connection) == other

    def test_it_is_restored_after_an_error(self, connection: sqlite3.Connection) -> None:
        """Which gets out."""
        before = cache_of(connection)
        with pytest.raises(KeyError), large_page_cache(store_of(connection)):
            raise KeyError
        assert cache_of(connection) == before

    def test_rows_may_be_anything(self, connection: sqlite3.Connection) -> None:
        """A store can have its rows made into dictionaries."""
        connection.row_factory = lambda cursor, row: {cursor.description[0][0]: row[0]}
        with large_page_cache(store_of(connection)):
            (found,) = connection.execute("PRAGMA cache_size").fetchall()
        assert found == {"cache_size": -PAGE_CACHE}

    def test_an_open_transaction_stays_open(self, connection: sqlite3.Connection) -> None:
        """Nothing is committed, and nothing lost."""
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (1)")
        with large_page_cache(store_of(connection)):
            assert connection.in_transaction
        connection.rollback()
        assert connection.execute("SELECT * FROM t").fetchall() == []

    def test_a_connection_that_cannot_be_used_is_the_stores_to_report(
        self, connection: sqlite3.Connection, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is closed, say, or belongs to another thread."""
        caplog.set_level(logging.INFO, "langchain_batch_embed.stores.sqlite")
        connection.close()
        with large_page_cache(store_of(connection)):
            pass
        assert "ProgrammingError" in caplog.text

    def test_it_may_be_closed_meanwhile(self, connection: sqlite3.Connection) -> None:
        """By whoever wrote with it."""
        with large_page_cache(store_of(connection)):
            connection.close()

    def test_other_connections_are_left_alone(self, mocker: MockerFixture) -> None:
        """PRAGMA is SQLite's; another database may do anything with it."""
        other = mocker.Mock()
        with large_page_cache(store_of(other)), large_page_cache(SimpleNamespace()):
            pass
        assert other.mock_calls == []

    def test_a_store_may_refuse_to_show_its_connection(self) -> None:
        """It is asked for, not counted on."""

        class Closed:
            @property
            def _connection(self) -> sqlite3.Connection:
                raise RuntimeError("the store is closed")

        with large_page_cache(Closed()):
            roll_back(Closed())


class TestRollBack:
    """What a failed call has written is undone."""

    def test_an_open_transaction_is_undone(self, connection: sqlite3.Connection) -> None:
        """Its rows would be committed by the next call."""
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (1)")
        roll_back(store_of(connection))
        connection.commit()
        assert connection.execute("SELECT * FROM t").fetchall() == []

    def test_its_own_failure_is_not_heard_of(self, connection: sqlite3.Connection) -> None:
        """The error of the call is what the user has to see."""
        connection.close()
        roll_back(store_of(connection))

    def test_any_connection_is_rolled_back(self, mocker: MockerFixture) -> None:
        """Another database's next call would fail in a transaction that has failed."""
        other = mocker.Mock()
        roll_back(store_of(other))
        other.rollback.assert_called_once_with()

    def test_stores_without_a_connection_are_left_alone(self) -> None:
        """Most stores."""
        roll_back(SimpleNamespace())
