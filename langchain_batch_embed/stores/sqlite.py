"""Helps `ingest` with stores that write through their own connection, as SQLiteVec does.

The connection is read from the attribute in which SQLiteVec keeps it. Other stores are left alone.
A failed call is rolled back on any connection, but settings are changed only on SQLite's.
"""

import contextlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["PAGE_CACHE", "connection_of", "large_page_cache", "roll_back"]

logger = logging.getLogger(__name__)

PAGE_CACHE = 32_000
"""KiB of the database that SQLite keeps in memory during an ingest; its own default is 2,000.

sqlite-vec keeps vectors in chunks of 1,024, which take 6 MB at 1,536 dimensions and 12 MB at 3,072.
To add a vector, SQLite follows the list of a chunk's pages from its start, and reads the pages that
its cache does not hold. Measured with `python -m tests.benchmarks.ingest cache`, 19,207 vectors of
1,536 dimensions take 7.4 s with a cache of 2,000 KiB, 2.6 s with 8,000, and 2.0 s with 16,000 and
with 32,000.
"""

_MODULES = {"sqlite3", "pysqlite3", "sqlcipher3", "sqlean"}
"""Packages for SQLite whose connections have the interface of Python's own `sqlite3`."""


def roll_back(store: object) -> None:
    """Undo what a failed call left in an open transaction.

    SQLiteVec inserts row by row and commits at the end. Without a rollback, the next call would
    commit the rows inserted before the failure, and they would be stored twice.
    """
    with contextlib.suppress(Exception):  # the user must see the error of the call instead
        rollback = getattr(connection_of(store), "rollback", None)
        if callable(rollback):
            rollback()


@contextmanager
def large_page_cache(store: object) -> Iterator[None]:
    """Let SQLite keep more of the database in memory during a `with` block.

    Only the connection's setting changes, and it is restored afterwards. A larger cache is left as
    it is, and so is a size that is set inside the block. If two blocks use one connection, only the
    first one changes and restores the setting.
    """
    connection: Any = None
    before: int | None = None
    try:
        connection = connection_of(store)
        if _is_sqlite(connection):
            before = _enlarge(connection)
    except Exception as error:  # noqa: BLE001  # without it the ingest is only slower
        logger.info("the page cache of SQLite could not be enlarged (%s)", type(error).__name__)
    try:
        yield
    finally:
        if before is not None:
            with contextlib.suppress(Exception):  # it may have been closed
                if _cache_size(connection.cursor()) == -PAGE_CACHE:
                    connection.execute(f"PRAGMA cache_size = {before}")


def _enlarge(connection: Any) -> int | None:
    """Enlarge the cache; return its former size, or `None` if it was large enough."""
    cursor = connection.cursor()
    size = _cache_size(cursor)
    ((page,),) = cursor.execute("PRAGMA page_size").fetchall()
    # A negative size is in KiB, a positive one in pages (sqlite.org/pragma.html#pragma_cache_size).
    kibibytes = -size if size < 0 else size * page / 1024
    if kibibytes >= PAGE_CACHE:
        return None
    cursor.execute(f"PRAGMA cache_size = {-PAGE_CACHE}")
    return size


def _cache_size(cursor: Any) -> int:
    cursor.row_factory = None  # plain tuples, whatever row factory the store has set
    ((size,),) = cursor.execute("PRAGMA cache_size").fetchall()
    return int(size)


def connection_of(store: object) -> Any:
    """Return the connection that a store keeps, or `None`."""
    return getattr(store, "_connection", None)


def _is_sqlite(connection: object) -> bool:
    return any(kind.__module__.partition(".")[0] in _MODULES for kind in type(connection).__mro__)
