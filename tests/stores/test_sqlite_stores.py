"""What an ingest does for stores that write through their own SQLite connection."""

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
    """A subclass of the connection, as some packages make."""


@pytest.fixture(params=[sqlite3.Connection, Renamed])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Open a database in a file."""
    connection = sqlite3.connect(tmp_path / "rows.db", factory=request.param)
    yield connection
    connection.close()


def store_of(connection: object) -> Any:
    """Return an object that keeps its connection where SQLiteVec does."""
    return SimpleNamespace(_connection=connection)


def cache_of(connection: sqlite3.Connection) -> int:
    """Return the size of the page cache, in KiB if negative, in pages if positive."""
    ((size,),) = connection.execute("PRAGMA cache_size").fetchall()
    return int(size)


class TestLargePageCache:
    """The page cache is large enough for a chunk of vectors while an ingest writes."""

    @pytest.mark.parametrize("before", [-2000, 100, 0, -(PAGE_CACHE - 1)])
    def test_a_small_one_is_enlarged_and_restored(
        self, connection: sqlite3.Connection, before: int
    ) -> None:
        """A small cache is enlarged and then restored, whether set in KiB or in pages."""
        connection.execute(f"PRAGMA cache_size = {before}")
        with large_page_cache(store_of(connection)):
            assert cache_of(connection) == -PAGE_CACHE
        assert cache_of(connection) == before

    @pytest.mark.parametrize("before", [-PAGE_CACHE, -10 * PAGE_CACHE, 10_000])
    def test_a_large_one_stays(self, connection: sqlite3.Connection, before: int) -> None:
        """A large cache stays as the user set it; 10,000 pages are 40,000 KiB."""
        connection.execute(f"PRAGMA cache_size = {before}")
        with large_page_cache(store_of(connection)):
            assert cache_of(connection) == before
        assert cache_of(connection) == before

    @pytest.mark.parametrize("other", [-500_000, -10])
    def test_one_that_is_set_meanwhile_stays(
        self, connection: sqlite3.Connection, other: int
    ) -> None:
        """A cache size that the user sets during the ingest is not reset afterwards."""
        with large_page_cache(store_of(connection)):
            connection.execute(f"PRAGMA cache_size = {other}")
        assert cache_of(connection) == other

    def test_it_is_restored_after_an_error(self, connection: sqlite3.Connection) -> None:
        """The cache size is restored after an error, and the error is raised."""
        before = cache_of(connection)
        with pytest.raises(KeyError), large_page_cache(store_of(connection)):
            raise KeyError
        assert cache_of(connection) == before

    def test_rows_may_be_anything(self, connection: sqlite3.Connection) -> None:
        """The cache is enlarged even if the store has its rows made into dictionaries."""
        connection.row_factory = lambda cursor, row: {cursor.description[0][0]: row[0]}
        with large_page_cache(store_of(connection)):
            (found,) = connection.execute("PRAGMA cache_size").fetchall()
        assert found == {"cache_size": -PAGE_CACHE}

    def test_an_open_transaction_stays_open(self, connection: sqlite3.Connection) -> None:
        """A transaction that is open stays open: nothing is committed and nothing is lost."""
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (1)")
        with large_page_cache(store_of(connection)):
            assert connection.in_transaction
        connection.rollback()
        assert connection.execute("SELECT * FROM t").fetchall() == []

    def test_a_connection_that_cannot_be_used_is_the_stores_to_report(
        self, connection: sqlite3.Connection, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A closed connection is only logged, because the store itself will report it."""
        caplog.set_level(logging.INFO, "langchain_batch_embed.stores.sqlite")
        connection.close()
        with large_page_cache(store_of(connection)):
            pass
        assert "ProgrammingError" in caplog.text

    def test_it_may_be_closed_meanwhile(self, connection: sqlite3.Connection) -> None:
        """The connection may be closed during the ingest, and no error is raised."""
        with large_page_cache(store_of(connection)):
            connection.close()

    def test_other_connections_are_left_alone(self, mocker: MockerFixture) -> None:
        """Connections other than SQLite's receive no PRAGMA, which is specific to SQLite."""
        other = mocker.Mock()
        with large_page_cache(store_of(other)), large_page_cache(SimpleNamespace()):
            pass
        assert other.mock_calls == []

    def test_a_store_may_refuse_to_show_its_connection(self) -> None:
        """A store that raises when its connection is read is left alone."""

        class Closed:
            @property
            def _connection(self) -> sqlite3.Connection:
                raise RuntimeError("the store is closed")

        with large_page_cache(Closed()):
            roll_back(Closed())


class TestRollBack:
    """The rows that a failed call has written are rolled back."""

    def test_an_open_transaction_is_undone(self, connection: sqlite3.Connection) -> None:
        """An open transaction is rolled back, because the next call would commit its rows."""
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (1)")
        roll_back(store_of(connection))
        connection.commit()
        assert connection.execute("SELECT * FROM t").fetchall() == []

    def test_its_own_failure_is_not_heard_of(self, connection: sqlite3.Connection) -> None:
        """A failing rollback raises nothing, so that the user sees the error of the call."""
        connection.close()
        roll_back(store_of(connection))

    def test_any_connection_is_rolled_back(self, mocker: MockerFixture) -> None:
        """Any connection is rolled back, as other databases refuse calls after a failure."""
        other = mocker.Mock()
        roll_back(store_of(other))
        other.rollback.assert_called_once_with()

    def test_stores_without_a_connection_are_left_alone(self) -> None:
        """Most stores have no connection, and rolling back raises nothing for them."""
        roll_back(SimpleNamespace())
