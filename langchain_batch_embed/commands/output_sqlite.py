"""Writes vectors and their ids to an SQLite database."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.commands.output import Output
from langchain_batch_embed.commands.replaceable import (
    APPLICATION,
    check_replaceable,
    is_our_database,
)

__all__ = ["SQLiteOutput"]

_PAGE = 32_768
"""Bytes in a page of SQLite; smaller pages would leave a quarter of a file empty, at 1,536
dimensions."""


class SQLiteOutput(Output):
    """An SQLite database of vectors.

    ```sql
    CREATE TABLE vectors (row INTEGER PRIMARY KEY, id TEXT NOT NULL, vector BLOB);
    CREATE TABLE about (model TEXT NOT NULL, dimensions INTEGER NOT NULL);
    ```

    `row` counts from 0. `vector` is d little-endian float32 numbers, which
    `np.frombuffer(vector, "<f4")` reads, or NULL for a record without a vector.
    """

    def __init__(self, path: Path, *, model: str) -> None:
        super().__init__(path, model=model)
        self._connection: sqlite3.Connection | None = None

    def _check_replaced(self) -> None:
        check_replaceable(self.path, is_our_database, " (it may be a journal)")

    def _open(self) -> None:
        connection = self._connection = sqlite3.connect(self.part, isolation_level=None)
        # After a crash nobody needs the unfinished file, so it can do without journal and syncs.
        connection.executescript(
            f"""
            PRAGMA page_size = {_PAGE};
            PRAGMA journal_mode = OFF;
            PRAGMA synchronous = OFF;
            PRAGMA application_id = {APPLICATION};
            CREATE TABLE vectors (row INTEGER PRIMARY KEY, id TEXT NOT NULL, vector BLOB);
            CREATE TABLE about (model TEXT NOT NULL, dimensions INTEGER NOT NULL);
            """
        )

    def _begin(self, dimensions: int) -> None:
        if self._connection is not None:
            self._connection.execute("INSERT INTO about VALUES (?, ?)", (self.model, dimensions))

    def _write(
        self, row: int, ids: Sequence[str], vectors: Sequence[NDArray[np.float32] | None]
    ) -> None:
        if self._connection is None:
            return
        self._connection.execute("BEGIN")
        self._connection.executemany(
            "INSERT INTO vectors VALUES (?, ?, ?)",
            (
                (row + i, record, None if vector is None else vector.astype("<f4").tobytes())
                for i, (record, vector) in enumerate(zip(ids, vectors, strict=True))
            ),
        )
        self._connection.execute("COMMIT")

    def _close(self, rows: int, dimensions: int) -> None:
        del rows, dimensions
        if self._connection is not None:
            self._connection.execute("CREATE INDEX vectors_id ON vectors (id)")
        self._stop()

    def _is_complete(self, rows: int) -> bool:
        size = self.part.stat().st_size
        written = f"{self.part.absolute().as_uri()}?mode=ro"
        try:
            with closing(sqlite3.connect(written, uri=True)) as connection:
                (found,) = connection.execute("SELECT count(*) FROM vectors").fetchone()
                (pages,) = connection.execute("PRAGMA page_count").fetchone()
        except sqlite3.DatabaseError:
            return False
        return bool(found == rows and pages * _PAGE == size)

    def _stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
