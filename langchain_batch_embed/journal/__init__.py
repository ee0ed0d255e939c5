"""Stores finished vectors by content, so that nothing is paid for twice.

A journal maps each input string to its vector. The keys are digests of the string and of the
`Space` that made the vector. The strings themselves are never stored.

    MemoryJournal       memory, until the call that needs the vectors has succeeded
    SQLiteJournal       a file; safe with several processes and threads, and after `kill -9`
    ByteStoreJournal    any LangChain `ByteStore`, such as `RedisStore`

A journal holds no text and no API key, but it is still confidential. Anyone who guesses a text can
check whether it is there, and a vector shows roughly what its text is about. For this reason the
file of a `SQLiteJournal` has mode 0600.
"""

import os

from langchain_core.stores import BaseStore, ByteStore

from langchain_batch_embed.errors import OptionError
from langchain_batch_embed.journal.base import Journal, JournalStats, Space, content_keys
from langchain_batch_embed.journal.byte_store import ByteStoreJournal
from langchain_batch_embed.journal.memory import MemoryJournal
from langchain_batch_embed.journal.redis_store import RedisStore
from langchain_batch_embed.journal.redis_url import shown_url
from langchain_batch_embed.journal.sqlite import SQLiteJournal
from langchain_batch_embed.journal.sqlite_file import sqlite_errors

__all__ = [
    "ByteStoreJournal",
    "Journal",
    "JournalStats",
    "MemoryJournal",
    "RedisStore",
    "SQLiteJournal",
    "Space",
    "content_keys",
    "open_journal",
    "shown_url",
    "sqlite_errors",
]


def open_journal(where: Journal | ByteStore | str | os.PathLike[str] | None) -> Journal:
    """Open the journal that a `journal=` option names.

    Args:
        where: a path for a `SQLiteJournal`, whose file is made if it is missing; a LangChain
            `ByteStore`; a journal that is already open; or `None` for a `MemoryJournal`.

    Raises:
        JournalError: the file cannot be opened, or is not a journal of this version.
        OptionError: `where` is of another type.
    """
    if where is None:
        return MemoryJournal()
    if isinstance(where, str | os.PathLike):
        return SQLiteJournal(where)
    if isinstance(where, BaseStore):
        return ByteStoreJournal(where)
    if isinstance(where, Journal):
        return where
    raise OptionError(
        f"journal= takes a path, a LangChain ByteStore or None, not {type(where).__name__}"
    )
