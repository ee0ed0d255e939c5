"""A journal in any LangChain `ByteStore`."""

import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from zlib import crc32

import numpy as np
from langchain_core.stores import ByteStore
from numpy.typing import NDArray

from langchain_batch_embed.errors import JournalError
from langchain_batch_embed.journal.base import Found, JournalStats, Space
from langchain_batch_embed.journal.records import (
    CHUNK,
    Damages,
    Entry,
    age_limit,
    oldest,
    rows_of,
    stack,
    summarise,
)

__all__ = ["ByteStoreJournal"]


class ByteStoreJournal:
    """A journal in a LangChain `ByteStore`, such as one in memory, in files or on Redis.

    A record is a header (mark, checksum, time, name of the space) followed by the float32 numbers.
    A key is "lbe1-" followed by hexadecimal digits, which every store accepts. A record counts as
    not found if it is cut short, was written by another program, belongs to another key, or has
    numbers that are all zeros or not finite. One line in the log gives the number of such records.

    `stats` and `prune` read every record, because a store does not know how old a record is. The
    store decides whether a stored batch survives `kill -9`, and who may read the records. For a
    `LocalFileStore`, set `chmod_file=0o600`.

    Args:
        store: the store, which must allow calls from several threads at once, as LangChain's own
            stores do.
        clock: returns the seconds since 1970; for tests.
    """

    persistent = True

    _PREFIX = "lbe1-"
    _MARK = b"LBE1"
    _CHECKSUM = struct.Struct("<4sI")  # mark, CRC-32 of the key and the rest of the record
    _ORIGIN = struct.Struct("<dH")  # time of writing, length of the space's name in bytes

    def __init__(self, store: ByteStore, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock

    def get(self, keys: Sequence[bytes]) -> Found:
        """Look up vectors; see `Journal.get`."""
        damages = Damages("the ByteStore used as journal")
        records = self._read([self._PREFIX + key.hex() for key in keys], damages)
        found = stack((record and record[1] for record in records), len(keys))
        found = damages.drop_from(found)
        damages.log()
        return found

    def put(self, keys: Sequence[bytes], vectors: NDArray[np.float32], *, space: Space) -> None:
        """Store one batch; see `Journal.put`.

        The store decides how much of a failed batch remains.
        """
        name = space.name.encode()
        origin = self._ORIGIN.pack(self._clock(), len(name)) + name
        records = []
        for key, row in zip(keys, rows_of(keys, vectors), strict=True):
            name_in_store = self._PREFIX + key.hex()
            body = origin + row.tobytes()
            checksum = crc32(body, crc32(name_in_store.encode()))
            records.append((name_in_store, self._CHECKSUM.pack(self._MARK, checksum) + body))
        with _store_errors():
            self._store.mset(records)

    def stats(self) -> JournalStats:
        """Read all vectors, and return statistics; see `Journal.stats`."""
        return summarise(map(Entry.group, self._entries().values()))

    def prune(self, *, older_than: timedelta | None = None, max_bytes: int | None = None) -> int:
        """Read all vectors, and delete the oldest; see `Journal.prune`."""
        cutoff = age_limit(self._clock, older_than, max_bytes)
        doomed = oldest(self._entries(), cutoff, max_bytes)
        with _store_errors():
            self._store.mdelete(doomed)
        return len(doomed)

    def close(self) -> None:
        """Do nothing, because the store belongs to the user."""

    def _entries(self) -> dict[str, Entry]:
        # No prefix= here, because LocalFileStore takes a prefix as the name of a folder.
        with _store_errors():
            names = [n for n in self._store.yield_keys() if n.startswith(self._PREFIX)]
        records = zip(names, self._read(names), strict=True)
        return {name: record[0] for name, record in records if record is not None}

    def _read(
        self, names: Sequence[str], damages: Damages | None = None
    ) -> Iterator[tuple[Entry, bytes] | None]:
        """Yield the record of each name, or `None` if there is no sound one; read in chunks."""
        for start in range(0, len(names), CHUNK):
            chunk = names[start : start + CHUNK]
            with _store_errors():
                # Strict, because one missing record would give every later text a wrong vector.
                records = list(zip(chunk, self._store.mget(chunk), strict=True))
            for name, record in records:
                parsed = self._parse(name, record)
                if damages is not None and parsed is None and record is not None:
                    damages.count += 1
                yield parsed

    def _parse(self, name: str, record: bytes | None) -> tuple[Entry, bytes] | None:
        if not isinstance(record, bytes) or len(record) < self._CHECKSUM.size:
            return None
        mark, checksum = self._CHECKSUM.unpack_from(record)
        body = record[self._CHECKSUM.size :]
        if mark != self._MARK or checksum != crc32(body, crc32(name.encode())):
            return None
        created, length = self._ORIGIN.unpack_from(body)
        start = self._ORIGIN.size + length
        space, value = body[self._ORIGIN.size : start].decode(), body[start:]
        return Entry(created, space, len(value)), value


@contextmanager
def _store_errors() -> Iterator[None]:
    """Turn a store's errors, which may be of any class, into a `JournalError`."""
    try:
        yield
    except Exception as error:
        raise JournalError(
            f"the ByteStore used as journal failed ({type(error).__name__}); its own error is "
            "attached"
        ) from error
