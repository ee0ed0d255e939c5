"""A journal in one SQLite file; safe with several processes and threads, and after `kill -9`."""

import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.errors import JournalError, OptionError
from langchain_batch_embed.journal.base import Found, JournalStats, Space
from langchain_batch_embed.journal.records import (
    CHUNK,
    Damages,
    age_limit,
    checksum_of,
    rows_of,
    stack,
    summarise,
)
from langchain_batch_embed.journal.sqlite_file import (
    Identities,
    connect,
    identities,
    is_replaced,
    remove_stale,
    sqlite_errors,
    touching,
)

__all__ = ["SQLiteJournal"]

logger = logging.getLogger(__name__)


class SQLiteJournal:
    """A journal in one SQLite file, for several processes and threads at once.

    When `put` returns, the batch survives `kill -9`. The file has mode 0600. It must be on a local
    disk, because SQLite's write-ahead log (WAL) needs memory that the processes share, which
    network drives do not offer. A journal may be pickled and may cross a fork. A copy opens the
    file again by its path.

    Each vector has a checksum. Vectors written by earlier releases have none, so only their
    dimensions and their numbers are checked.

    If an open file is deleted or replaced, the next `put` or `prune` notices. It copies the whole
    contents of the old file into the file at the path, which it makes if necessary. Vectors that
    are already in the new file stay. If the copy fails, the call raises a `JournalError`, and the
    old file stays open for the next attempt. To empty a journal in use, call `prune(max_bytes=0)`.

    Args:
        path: the file's path. The file is made if it is missing, but its folder must exist.
        timeout: seconds to wait for another writer before raising a `JournalError`.
        clock: returns the seconds since 1970; for tests.

    Raises:
        JournalError: the file cannot be opened, is damaged, is not a journal, or has another
            version. It stays unchanged, byte for byte.
        OptionError: the path is SQLite's `:memory:`.
    """

    persistent = True

    # One connection behind a lock, not one for each thread, because SQLite has only one writer at
    # a time anyway, and connections of short-lived worker threads would never be closed.
    _connection: sqlite3.Connection | None = None  # set here for __del__ if __init__ failed

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        timeout: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if ":memory:" in str(path):  # SQLite's name for no file, but here it would be a file's
            raise OptionError(
                f"a journal is a file, and {str(path)!r} is none; journal=None keeps vectors in "
                "memory until the call that needs them has succeeded"
            )
        self.path = Path(path).expanduser().absolute()  # because workers may run in another folder
        self._timeout = timeout
        self._clock = clock
        self._lock = threading.Lock()  # guards _connection and its use, and _opened
        self._opened: Identities = {}  # the files of the last connection
        with _forking:
            _journals.add(self)
        with self._connected():
            pass  # report errors of the file now, not after the first paid batch

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the path and the options without the connection."""
        return partial(type(self), self.path, timeout=self._timeout, clock=self._clock), ()

    def __del__(self) -> None:
        """Close the file if it is still open."""
        self._disconnect()

    def get(self, keys: Sequence[bytes]) -> Found:
        """Look up vectors; see `Journal.get`."""
        damages = Damages(f"the journal {self.path}")
        with self._connected() as connection:
            found = stack(_select(connection, keys, damages), len(keys), path=self.path)
        found = damages.drop_from(found)
        damages.log()
        return found

    def put(self, keys: Sequence[bytes], vectors: NDArray[np.float32], *, space: Space) -> None:
        """Store one batch in one transaction; see `Journal.put`.

        Raises:
            JournalError: nothing was stored, and the message says why. For example, the space has
                vectors with other dimensions, so the model has changed.
        """
        rows = rows_of(keys, vectors)
        if not len(rows):
            return
        with self._transaction() as connection:
            space_id = self._register(connection, space, dimensions=rows.shape[1])
            created = self._clock()
            connection.executemany(
                "INSERT OR REPLACE INTO vector (key, space, created, value, checksum) "
                "VALUES (?, ?, ?, ?, ?)",
                (
                    (key, space_id, created, row, checksum_of(key, row.data))
                    for key, row in zip(keys, rows, strict=True)
                ),
            )

    def stats(self) -> JournalStats:
        """Return statistics; see `Journal.stats`."""
        with self._connected() as connection:
            return summarise(connection.execute(_STATS))

    def prune(self, *, older_than: timedelta | None = None, max_bytes: int | None = None) -> int:
        """Delete the oldest vectors and shrink the file; see `Journal.prune`."""
        cutoff = age_limit(self._clock, older_than, max_bytes)
        deleted = 0
        with self._transaction() as connection:
            if cutoff is not None:
                deleted += connection.execute(_PRUNE_BY_AGE, (cutoff,)).rowcount
            if max_bytes is not None:
                deleted += connection.execute(_PRUNE_BY_SIZE, (max_bytes,)).rowcount
            connection.execute("DELETE FROM space WHERE id NOT IN (SELECT space FROM vector)")
        while self._shrink():
            pass  # in small steps, so that other threads and processes get their turn
        with self._connected() as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return deleted

    def _shrink(self) -> bool:
        """Give some free pages back to the file system; return whether there may be more."""
        with self._connected() as connection:
            before = connection.execute("PRAGMA freelist_count").fetchone()[0]
            connection.execute("PRAGMA incremental_vacuum(1000)").fetchall()
            return bool(connection.execute("PRAGMA freelist_count").fetchone()[0] < before)

    def close(self) -> None:
        """Release the file; see `Journal.close`."""
        with self._lock, sqlite_errors(self.path, self._timeout):
            self._disconnect()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection to read tables of other modules; hold it only for a short time."""
        with self._connected() as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection in a transaction, to write tables whose names begin with `job`.

        If the file is deleted or replaced, these tables are copied along with the vectors.
        """
        with self._transaction() as connection:
            yield connection

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        # Use the timeout here too, so that waiting threads do not add up their 30 s.
        if not self._lock.acquire(timeout=self._timeout):
            raise JournalError(
                f"the journal {self.path} was busy in another thread for {self._timeout:g} s; "
                "try again, or allow more time with SQLiteJournal(path, timeout=...)",
                path=str(self.path),
            )
        try:
            with sqlite_errors(self.path, self._timeout):
                yield self._connection or self._open()
        finally:
            self._lock.release()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connected() as connection:
            if is_replaced(self.path, self._opened):
                connection = self._follow(connection)  # noqa: PLW2901  # the file was replaced
            with connection:  # commits, or rolls back on an error
                connection.execute("BEGIN IMMEDIATE")  # wait for other writers now, not halfway
                yield connection

    def _open(self) -> sqlite3.Connection:
        if is_replaced(self.path, self._opened):  # while the journal was closed, as around a fork
            logger.warning(
                "the journal %s was deleted or replaced since it was last open; its earlier "
                "vectors are only in the old file",
                self.path,
            )
        self._connection = connect(self.path, self._timeout)
        self._opened = identities(self.path)
        return self._connection

    def _follow(self, old: sqlite3.Connection) -> sqlite3.Connection:
        """Open the file that is at the path now, and copy the old file's contents into it."""
        # This completes the old file, wherever it is now, so that it no longer needs its log.
        old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        remove_stale(self.path, self._opened)
        new = connect(self.path, self._timeout)
        try:
            opened = identities(self.path)
            with new:
                new.execute("BEGIN IMMEDIATE")
                new.executemany(_CARRY_SPACE, old.execute(_SPACES))
                new.executemany(_CARRY_VECTOR, old.execute(_VECTORS))
                _carry_jobs(old, new)
        except BaseException:
            new.close()
            raise
        self._connection, self._opened = new, opened
        old.close()
        logger.warning(
            "the journal %s was deleted or replaced while it was open; its contents have been "
            "copied into the file that is there now",
            self.path,
        )
        return new

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _register(self, connection: sqlite3.Connection, space: Space, *, dimensions: int) -> int:
        """Add the space to the file if it is new; return its id there."""
        connection.execute(
            "INSERT OR IGNORE INTO space (digest, name, width) VALUES (?, ?, ?)",
            (space.digest, space.name, dimensions),
        )
        row = connection.execute("SELECT id, width FROM space WHERE digest = ?", (space.digest,))
        space_id, known = row.fetchone()
        if dimensions != known:
            raise JournalError(
                f"{space.name} made vectors with {dimensions:,} dimensions, but its earlier "
                f"vectors in the journal {self.path} have {known:,}: the model has changed. Use "
                "another journal, or empty this one with prune(max_bytes=0)",
                path=str(self.path),
            )
        return int(space_id)


# A vector is not copied if the new file has vectors of the same space with other dimensions.
_SPACES = "SELECT digest, name, width FROM space"
_CARRY_SPACE = "INSERT OR IGNORE INTO space (digest, name, width) VALUES (?, ?, ?)"
_VECTORS = """
    SELECT vector.key, vector.created, vector.value, vector.checksum, space.digest, space.width
    FROM vector JOIN space ON space.id = vector.space ORDER BY vector.id
"""
_CARRY_VECTOR = """
    INSERT OR IGNORE INTO vector (key, created, value, checksum, space)
    SELECT ?, ?, ?, ?, id FROM space WHERE digest = ? AND width = ?
"""
_FIND = """
    SELECT vector.key, vector.value, vector.checksum, space.width
    FROM vector LEFT JOIN space ON space.id = vector.space WHERE vector.key IN
"""
_STATS = """
    SELECT space.name, count(*), sum(4 * space.width), min(vector.created), max(vector.created)
    FROM vector JOIN space ON space.id = vector.space GROUP BY space.id
"""
_PRUNE_BY_AGE = "DELETE FROM vector WHERE created < ?"
_PRUNE_BY_SIZE = """
    DELETE FROM vector WHERE id IN (
        SELECT id FROM (
            SELECT vector.id, sum(4 * space.width) OVER (
                ORDER BY vector.created DESC, vector.id DESC ROWS UNBOUNDED PRECEDING
            ) AS bytes_from_newest
            FROM vector JOIN space ON space.id = vector.space
        ) WHERE bytes_from_newest > ?
    )
"""


def _carry_jobs(old: sqlite3.Connection, new: sqlite3.Connection) -> None:
    """Copy the tables of jobs; their ids are random, so rows of different files do not clash."""
    made = {name for (name,) in new.execute("SELECT name FROM sqlite_master")}
    found = old.execute(
        "SELECT name, type, sql FROM sqlite_master WHERE name GLOB 'job*' AND sql IS NOT NULL "
        "ORDER BY type = 'index'"
    ).fetchall()
    for name, kind, statement in found:
        if name not in made:
            new.execute(statement)
        if kind == "table":
            rows = old.execute(f'SELECT * FROM "{name}"')  # noqa: S608  # of our own schema
            marks = ", ".join("?" * len(rows.description))
            new.executemany(f'INSERT OR IGNORE INTO "{name}" VALUES ({marks})', rows)  # noqa: S608


def _select(
    connection: sqlite3.Connection, keys: Sequence[bytes], damages: Damages
) -> Iterator[bytes | None]:
    for start in range(0, len(keys), CHUNK):
        chunk = keys[start : start + CHUNK]
        marks = ",".join("?" * len(chunk))
        query = f"{_FIND} ({marks})"
        found: dict[bytes, bytes] = {}
        for key, value, checksum, width in connection.execute(query, chunk):
            if (
                isinstance(value, bytes)
                and len(value) == 4 * (width or 0)
                and checksum in (None, checksum_of(key, value))  # None in earlier releases
            ):
                found[key] = value
            else:
                damages.count += 1
        yield from map(found.get, chunk)


# A SQLite connection must not cross a fork, not even to be closed in the child, because its locks
# stay with the parent. So all files are closed before a fork, and opened again at their next use.
_journals: "weakref.WeakSet[SQLiteJournal]" = weakref.WeakSet()
_forked: list[SQLiteJournal] = []
_forking = threading.Lock()  # guards _journals and _forked


def _before_fork() -> None:
    _forking.acquire()
    _forked[:] = _journals
    for journal in _forked:
        journal._lock.acquire()  # noqa: SLF001 - these hooks are a part of the class
        journal._disconnect()  # noqa: SLF001
    touching.acquire()


def _after_fork() -> None:
    touching.release()
    for journal in _forked:
        journal._lock.release()  # noqa: SLF001
    _forked.clear()
    _forking.release()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )
