"""Opens the vector store that the demo fills."""

import sqlite3
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from langchain_batch_embed.commands.messages import say

__all__ = ["empty_store"]


@contextmanager
def empty_store(embeddings: Embeddings) -> Iterator[VectorStore]:
    """Open an empty SQLiteVec in a temporary file, or an InMemoryVectorStore if that fails."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            connection = _connect(Path(folder) / "sections.db")
            with warnings.catch_warnings():
                # On import the package warns of its end of life, which would only distract here.
                warnings.simplefilter("ignore", DeprecationWarning)
                from langchain_community.vectorstores import SQLiteVec  # noqa: PLC0415
        except (ImportError, AttributeError, sqlite3.Error) as error:
            say(f"SQLiteVec is not available ({error}): using InMemoryVectorStore.")
            yield InMemoryVectorStore(embeddings)
            return
        with closing(connection):
            yield SQLiteVec("sections", connection, embeddings)


def _connect(file: Path) -> Any:
    """Open a database with sqlite-vec loaded.

    Raises:
        ImportError: sqlite-vec or a sqlite3 that loads extensions is missing.
        sqlite3.Error: the extension cannot be loaded.
    """
    import sqlite_vec  # noqa: PLC0415

    driver: Any = sqlite3
    if not hasattr(sqlite3.Connection, "enable_load_extension"):
        import pysqlite3  # noqa: PLC0415

        driver = pysqlite3
    connection = driver.connect(file)
    connection.row_factory = driver.Row  # SQLiteVec reads columns by name
    connection.enable_load_extension(True)
    sqlite_vec.load(connection)
    connection.enable_load_extension(False)
    return connection
