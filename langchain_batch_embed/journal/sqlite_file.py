"""Makes, checks and opens the file of a `SQLiteJournal`, and explains its errors."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from langchain_batch_embed.errors import JournalError

__all__ = [
    "Identities",
    "connect",
    "identities",
    "is_replaced",
    "remove_stale",
    "sqlite_errors",
    "touching",
]

Identities = dict[str, tuple[int, int]]
"""Device and inode of each of a journal's files, by the file's suffix ("" for the main file)."""

touching = threading.Lock()
"""Lock to hold while a file is opened and closed without SQLite; see `connect`."""

_APPLICATION_ID = int.from_bytes(b"LBEJ")
_VERSION = 1

# `width` is the number of dimensions, so that sizes can be added up without reading a vector.
# `checksum` covers the key and the vector; it is NULL in rows written by earlier releases.
_SCHEMA = (
    """
    CREATE TABLE space (
        id INTEGER PRIMARY KEY,
        digest BLOB NOT NULL UNIQUE,
        name TEXT NOT NULL,
        width INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE vector (
        id INTEGER PRIMARY KEY,
        key BLOB NOT NULL UNIQUE,
        space INTEGER NOT NULL REFERENCES space,
        created REAL NOT NULL,
        value BLOB NOT NULL,
        checksum INTEGER
    )
    """,
    # Statistics and pruning read only this index.
    "CREATE INDEX vector_by_age ON vector (created, space)",
)

_ADVICE = {
    sqlite3.SQLITE_BUSY: "another process kept it locked for {timeout:g} s; let that one finish, "
    "or wait longer with SQLiteJournal(path, timeout=...)",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check that its folder is there and that you "
    "may write in it",
    sqlite3.SQLITE_CORRUPT: "it is damaged; move it away and start a new one (`sqlite3 FILE "
    ".recover` can save the rest)",
    sqlite3.SQLITE_FULL: "the disk is full; make room, or name a journal on another disk",
    sqlite3.SQLITE_IOERR: "it could not be read or written; check the disk, and that "
    "this is a plain file on a local drive",
    sqlite3.SQLITE_NOTADB: "it is not a journal; it was left as it is, name another file",
    sqlite3.SQLITE_READONLY: "it may not be written; change its permissions, or name another file",
}


@contextmanager
def sqlite_errors(path: Path, timeout: float) -> Iterator[None]:
    """Turn errors of SQLite and of the file system into a `JournalError` that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the higher bits hold details
        advice = _ADVICE.get(code, "SQLite refused; its own error is attached")
        raise JournalError(
            f"the journal {path} failed: {advice.format(timeout=timeout)}", path=str(path)
        ) from error
    except OSError as error:
        advice = _ADVICE[sqlite3.SQLITE_CANTOPEN]
        raise JournalError(
            f"the journal {path} failed ({error.strerror}): {advice}", path=str(path)
        ) from error


def connect(path: Path, timeout: float) -> sqlite3.Connection:
    """Open a journal's file; make the file and its tables if they are missing."""
    if path.is_dir():
        raise JournalError(f"{path} is a folder; name a file in it", path=str(path))
    if path.exists() and not path.is_file():  # it would get a file's permissions, or hang
        raise JournalError(
            f"{path} is a device, a pipe or a socket; name an ordinary file", path=str(path)
        )
    # SQLite gives its -wal and -shm files the mode of this file. `touching` is held because closing
    # a file drops all POSIX locks that this process has on it, including SQLite's.
    with suppress(FileExistsError), touching:
        path.touch(mode=0o600, exist_ok=False)
    if path.stat().st_size:
        _check_unopened(path)
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=rw",
        uri=True,
        timeout=timeout,
        isolation_level=None,  # transactions begin only where the code begins them
        check_same_thread=False,
    )
    try:
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def identities(path: Path) -> Identities:
    """Return the identity of each of a journal's files, if the system provides one."""
    found: Identities = {}
    for end in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            status = path.with_name(path.name + end).stat()
            if status.st_ino:  # it can be 0 on Windows, where open files cannot be deleted
                found[end] = status.st_dev, status.st_ino
    return found


def is_replaced(path: Path, opened: Identities) -> bool:
    """Return whether the file at a journal's path is no longer the one that was opened."""
    if "" not in opened:
        return False
    try:
        status = path.stat()
    except FileNotFoundError:
        return True
    return (status.st_dev, status.st_ino) != opened[""]


def remove_stale(path: Path, opened: Identities) -> None:
    """Delete the log of a journal's file that is no longer at its path.

    SQLite finds a log by its name, and would replay the old log into the file that is there now.
    Processes that have the old log open keep it.
    """
    now = identities(path)
    for end in ("-wal", "-shm"):
        if end in now and now[end] == opened.get(end):
            path.with_name(path.name + end).unlink(missing_ok=True)


def _check_unopened(path: Path) -> None:
    """Raise if a file is not a journal, without changing it or making files beside it.

    The file is opened as immutable, because even a read-only connection makes files beside a
    database in WAL mode. SQLite reads the header itself, because closing a file opened without
    SQLite would drop this process's locks on it; see `connect`.
    """
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        # Without this, a file that another process is extending would count as damaged.
        connection.execute("PRAGMA writable_schema = ON")
        _check(connection, path)
    finally:
        connection.close()


def _check(connection: sqlite3.Connection, path: Path) -> None:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application_id != _APPLICATION_ID:
        raise JournalError(
            f"{path} is not a journal but something else; it was left as it is, name another file",
            path=str(path),
        )
    if version != _VERSION:
        raise JournalError(
            f"the journal {path} has version {version}, and this release of "
            f"langchain-batch-embed knows version {_VERSION}; it was left as it is. Install the "
            "release that wrote it, or name another file",
            path=str(path),
        )


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables if the file is empty, and set the connection's options."""
    # A page of 32 KiB holds five vectors of 1,536 dimensions. Files are 20 % smaller than with
    # pages of 4 to 16 KiB, where one vector takes a page or two, and batches are written twice as
    # fast.
    connection.execute("PRAGMA page_size = 32768")
    if _is_empty(connection):
        with connection:
            # Not IMMEDIATE, because auto_vacuum must be set before the first page is made. It must
            # be set inside the transaction, or the page would be written without our application
            # id, and other processes would take the file for another program's.
            connection.execute("BEGIN")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            if _is_empty(connection):  # otherwise another process has just made the tables
                path.chmod(0o600)  # an empty file made by the user can have any mode
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {_VERSION}")
                for statement in _SCHEMA:
                    connection.execute(statement)
    _check(connection, path)
    _add_checksums(connection)
    try:
        # Switch after the tables are made, so that the ids are in the file and not in its -wal.
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
    except sqlite3.OperationalError as error:
        # Processes that open a new file at the same time can keep each other from switching. The
        # one that succeeds switches for all, and without WAL the journal is only slower.
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
    # Every commit reaches the operating system, so it survives the death of this process. A crash
    # of the system can lose the last commits, but in WAL mode it never damages the file.
    connection.execute("PRAGMA synchronous = NORMAL")
    # Move the log into the file after each large batch, for steady times and a short log.
    connection.execute("PRAGMA wal_autocheckpoint = 200")
    # Read once, so that the -wal and -shm files exist when `identities` looks at them.
    connection.execute("SELECT 1 FROM sqlite_master").fetchone()


def _add_checksums(connection: sqlite3.Connection) -> None:
    """Add the checksum column to a journal of an earlier release.

    The version stays the same. Earlier releases name their columns in each statement, so they can
    still use the file, and they write rows without a checksum.
    """

    def lacks_it() -> bool:
        columns = connection.execute("PRAGMA table_info(vector)")
        return all(name != "checksum" for _, name, *_ in columns)

    if lacks_it():
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            if lacks_it():  # otherwise another process has just added it
                connection.execute("ALTER TABLE vector ADD COLUMN checksum INTEGER")


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None
