"""The lock that lets only one process at a time work on the jobs of a journal."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from langchain_batch_embed.journal import sqlite_errors

__all__ = ["jobs_lock", "lock_file"]


def lock_file(journal: Path) -> Path:
    """Return the path of the lock; the first job of a journal makes this file."""
    return journal.with_name(f"{journal.name}-jobs")


@contextmanager
def jobs_lock(journal: Path) -> Iterator[bool]:
    """Hold the lock of a journal's jobs if it is free; yield whether this call holds it.

    The lock is SQLite's own, on an empty file beside the journal. The operating system releases it
    however the process ends, so there is no lease that a slow process could outlive.

    Args:
        journal: the journal's file.
    """
    path = lock_file(journal)
    with sqlite_errors(path, 0.0):
        with suppress(FileExistsError):
            path.touch(mode=0o600, exist_ok=False)
        connection = sqlite3.connect(path, timeout=0.0, isolation_level=None)
    try:
        yield _begin(connection, path)
    finally:
        connection.close()


def _begin(connection: sqlite3.Connection, path: Path) -> bool:
    with sqlite_errors(path, 0.0):
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            return False
        return True
