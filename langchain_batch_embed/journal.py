"""Finished vectors by content, so that nothing is paid for twice.

A journal maps what was sent, one input string, to the vector that came back. Its keys are
digests of the string and of the `Space` that made the vector; the strings are never stored.

    MemoryJournal       on the instance, until the call that needs the vectors has succeeded
    SQLiteJournal       a file, safe with several processes and threads, and after `kill -9`
    ByteStoreJournal    any LangChain `ByteStore`

A journal holds no text and no API key, yet it is not public: whoever can guess a text can
check whether it is there, and a vector tells roughly what its text was about. Hence the
file mode 0600.
"""

import json
import os
import re
import sqlite3
import struct
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import blake2b
from itertools import starmap
from math import inf
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable
from zlib import crc32

import numpy as np
from langchain_core.stores import BaseStore, ByteStore
from numpy.typing import NDArray

from langchain_batch_embed.errors import JournalError, OptionError

__all__ = [
    "ByteStoreJournal",
    "Journal",
    "JournalStats",
    "MemoryJournal",
    "SQLiteJournal",
    "Space",
    "content_keys",
    "open_journal",
]

Found = tuple[NDArray[np.intp], NDArray[np.float32]]
"""Positions of the keys that were found, ascending, shape (k,), and their vectors, (k, d)."""

_K = TypeVar("_K")

_FLOAT32 = np.dtype("<f4")
"""Vectors are stored little-endian, so that a journal can move between machines."""

_KEY_BYTES = 20
"""160 bits: two texts made to collide, so that one gets the other's vector, cost 2**80 tries."""

_CHUNK = 250
"""Keys looked up at once. Fastest of 100, 250, 500 and 900 for 19,207 vectors of 1,536."""


_ENDPOINT = re.compile(r"^([\w+.-]+://)?(?:[^/?#]*@)?([^/?#]*)([^?#]*)")
"""Scheme, host with port, and path of an address, without user name, password and query."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """What made a vector: the same text has another vector in another space.

    Never put an API key in a field. `endpoint` is reduced to scheme, host and path, since
    user names, passwords and keys travel in its other parts.

    Attributes:
        provider: for example `"openai"`.
        model: the model's name, as sent.
        dimensions: the width asked for; `None` where the model's own is taken.
        endpoint: the server's address; `None` for the provider's own.
        variant: anything else that changes a vector, such as the split policy of long
            texts or the input type ("query", "document").
    """

    provider: str
    model: str
    dimensions: int | None = None
    endpoint: str | None = None
    variant: str = ""

    def __post_init__(self) -> None:
        """Keep only the parts of the endpoint that say which server it is."""
        if self.endpoint is not None:
            scheme, host, path = _ENDPOINT.findall(self.endpoint)[0]
            endpoint = f"{scheme.lower()}{host.lower()}{path.rstrip('/')}"
            object.__setattr__(self, "endpoint", endpoint)

    @property
    def digest(self) -> bytes:
        """32 bytes that tell this space from every other."""
        fields = [self.provider, self.model, self.dimensions, self.endpoint, self.variant]
        return blake2b(json.dumps(fields).encode(), digest_size=32).digest()

    @property
    def name(self) -> str:
        """What a person calls this space; stored in the journal to group its statistics."""
        parts = [f"{self.provider} {self.model}"]
        if self.dimensions is not None:
            parts.append(f"{self.dimensions} dimensions")
        if self.endpoint is not None:
            _, host, _ = _ENDPOINT.findall(self.endpoint)[0]
            parts.append(host)  # without the path, which can hold account numbers
        if self.variant:
            parts.append(self.variant)
        return ", ".join(parts)


def content_keys(texts: Sequence[str], space: Space) -> list[bytes]:
    """Give each text its key in the journal: 20 bytes that depend on the text and the space.

    The text cannot be computed from its key, but a guess at it can be checked.
    """
    digest = space.digest
    return [
        # A lone surrogate is a legal Python string; the journal is no place to refuse it.
        blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES, key=digest).digest()
        for text in texts
    ]


@dataclass(frozen=True, kw_only=True)
class JournalStats:
    """What a journal holds.

    Attributes:
        vectors: how many.
        bytes: of the vectors alone, four a number. A SQLite file with vectors of 1,536
            numbers is about 8 % larger (measured).
        oldest: when the oldest one was written, in UTC; `None` if there are none.
        newest: when the newest one was written, in UTC; `None` if there are none.
        spaces: vectors by the name of their space.
    """

    vectors: int
    bytes: int
    oldest: datetime | None
    newest: datetime | None
    spaces: Mapping[str, int]


@runtime_checkable
class Journal(Protocol):
    """Where finished vectors are kept; every method may be called from any thread.

    Every method raises `JournalError` if the journal cannot be read or written.
    """

    @property
    def persistent(self) -> bool:
        """Whether the vectors outlive this object."""

    def get(self, keys: Sequence[bytes]) -> Found:
        """Look up vectors.

        Returns:
            The positions in `keys` that were found, ascending, shape (k,), and their
            vectors, float32, shape (k, d); shape (0, 0) if none was found.

        Raises:
            JournalError: the vectors found differ in width. Which of them are right cannot
                be known, and mixing them would put wrong rows in somebody's database.
        """

    def put(self, keys: Sequence[bytes], vectors: NDArray[np.float32], *, space: Space) -> None:
        """Store one batch: all of it, or nothing if an exception is raised.

        A key that is there already gets the new vector.

        Args:
            keys: from `content_keys`, n of them.
            vectors: shape (n, d).
            space: the one that the keys were made with.
        """

    def stats(self) -> JournalStats:
        """Count what is there."""

    def prune(self, *, older_than: timedelta | None = None, max_bytes: int | None = None) -> int:
        """Delete the oldest vectors, so that the journal does not grow forever.

        Age counts from when a vector was written, not from its last use: reading then
        never has to wait for a writer. `prune(max_bytes=0)` empties the journal.

        Args:
            older_than: delete every vector written longer ago than this.
            max_bytes: keep the newest vectors that fit, counted as `JournalStats.bytes`.

        Returns:
            How many vectors were deleted.

        Raises:
            ValueError: neither is given, or one is negative.
        """

    def close(self) -> None:
        """Release files; may be called twice. A later use opens them again."""


def open_journal(where: Journal | ByteStore | str | os.PathLike[str] | None) -> Journal:
    """Open the journal that a `journal=` option names.

    Args:
        where: a path (`SQLiteJournal`, made if missing), a LangChain `ByteStore`, a journal
            that is already open, or `None` for `MemoryJournal`.

    Raises:
        JournalError: the file cannot be opened or is not a journal of this version.
        OptionError: `where` is something else.
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


class _Entry(NamedTuple):
    """What statistics and pruning need to know of one stored vector."""

    created: float  # seconds since 1970
    space: str  # its name
    bytes: int

    def group(self) -> "_Group":
        return self.space, 1, self.bytes, self.created, self.created


_Group = tuple[str, int, int, float, float]
"""Name of a space, vectors, bytes, times of the oldest and of the newest."""


class MemoryJournal:
    """A journal in memory: a failed call's vectors, kept until a later call has used them.

    A pickled copy starts empty: what one process still needs is no use to its workers.

    Args:
        clock: seconds since 1970; for tests.
    """

    persistent = False

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards _entries and _values, which have the same keys
        self._entries: dict[bytes, _Entry] = {}
        self._values: dict[bytes, bytes] = {}

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without lock and vectors."""
        return partial(type(self), clock=self._clock), ()

    def get(self, keys: Sequence[bytes]) -> Found:
        """Look up vectors; see `Journal.get`."""
        with self._lock:
            values = [self._values.get(key) for key in keys]
        return _stack(values, len(keys))

    def put(self, keys: Sequence[bytes], vectors: NDArray[np.float32], *, space: Space) -> None:
        """Store one batch; see `Journal.put`."""
        # Copied one by one: a view would keep its whole batch in memory.
        values = [row.tobytes() for row in _rows(keys, vectors)]
        created, name = self._clock(), space.name
        entries = [_Entry(created, name, len(value)) for value in values]
        with self._lock:
            self._values.update(zip(keys, values, strict=True))
            self._entries.update(zip(keys, entries, strict=True))

    def discard(self, keys: Iterable[bytes]) -> None:
        """Forget these vectors; keys that are not there are passed over."""
        with self._lock:
            for key in keys:
                self._entries.pop(key, None)
                self._values.pop(key, None)

    def stats(self) -> JournalStats:
        """Count what is there; see `Journal.stats`."""
        with self._lock:
            return _summarise(map(_Entry.group, self._entries.values()))

    def prune(self, *, older_than: timedelta | None = None, max_bytes: int | None = None) -> int:
        """Delete the oldest vectors; see `Journal.prune`."""
        cutoff = _cutoff(self._clock, older_than, max_bytes)
        with self._lock:
            doomed = _oldest(self._entries, cutoff, max_bytes)
            for key in doomed:
                del self._entries[key], self._values[key]
        return len(doomed)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


class ByteStoreJournal:
    """A journal in a LangChain `ByteStore`: memory, files, Redis, or what else there is.

    A record is a header (mark, checksum, time, name of the space) and the float32 numbers.
    Keys are "lbe1-" and hexadecimal digits, which every store takes. A record that is cut
    short, was written by somebody else or belongs to another key counts as not found.

    `stats` and `prune` read every record, since a store cannot say how old a record is.
    Whether a put survives `kill -9`, and who may read it, is the store's affair
    (`LocalFileStore`: `chmod_file=0o600`).

    Args:
        store: must allow calls from several threads at once, as LangChain's own do.
        clock: seconds since 1970; for tests.
    """

    persistent = True

    _PREFIX = "lbe1-"
    _MARK = b"LBE1"
    _CHECKSUM = struct.Struct("<4sI")  # mark, CRC-32 of the key and of all that follows
    _ORIGIN = struct.Struct("<dH")  # time of writing, length of the space's name in bytes

    def __init__(self, store: ByteStore, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock

    def get(self, keys: Sequence[bytes]) -> Found:
        """Look up vectors; see `Journal.get`."""
        records = self._read([self._PREFIX + key.hex() for key in keys])
        return _stack((record and record[1] for record in records), len(keys))

    def put(self, keys: Sequence[bytes], vectors: NDArray[np.float32], *, space: Space) -> None:
        """Store one batch; see `Journal.put`, but how much a failed one left is up to the store."""
        name = space.name.encode()
        origin = self._ORIGIN.pack(self._clock(), len(name)) + name
        records = []
        for key, row in zip(keys, _rows(keys, vectors), strict=True):
            name_in_store = self._PREFIX + key.hex()
            body = origin + row.tobytes()
            checksum = crc32(body, crc32(name_in_store.encode()))
            records.append((name_in_store, self._CHECKSUM.pack(self._MARK, checksum) + body))
        with _store_errors():
            self._store.mset(records)

    def stats(self) -> JournalStats:
        """Count what is there, reading all of it; see `Journal.stats`."""
        return _summarise(map(_Entry.group, self._entries().values()))

    def prune(self, *, older_than: timedelta | None = None, max_bytes: int | None = None) -> int:
        """Delete the oldest vectors, reading all of them first; see `Journal.prune`."""
        cutoff = _cutoff(self._clock, older_than, max_bytes)
        doomed = _oldest(self._entries(), cutoff, max_bytes)
        with _store_errors():
            self._store.mdelete(doomed)
        return len(doomed)

    def close(self) -> None:
        """Do nothing: the store belongs to whoever made it."""

    def _entries(self) -> dict[str, _Entry]:
        # Without prefix=: LocalFileStore takes a prefix for the name of a folder.
        with _store_errors():
            names = [n for n in self._store.yield_keys() if n.startswith(self._PREFIX)]
        records = zip(names, self._read(names), strict=True)
        return {name: record[0] for name, record in records if record is not None}

    def _read(self, names: Sequence[str]) -> Iterator[tuple[_Entry, bytes] | None]:
        """Read records a chunk at a time; `None` where there is no sound one."""
        for start in range(0, len(names), _CHUNK):
            chunk = names[start : start + _CHUNK]
            with _store_errors():
                # Strict: one record short, and every later text would get a wrong vector.
                records = list(zip(chunk, self._store.mget(chunk), strict=True))
            yield from starmap(self._parse, records)

    def _parse(self, name: str, record: bytes | None) -> tuple[_Entry, bytes] | None:
        if not isinstance(record, bytes) or len(record) < self._CHECKSUM.size:
            return None
        mark, checksum = self._CHECKSUM.unpack_from(record)
        body = record[self._CHECKSUM.size :]
        if mark != self._MARK or checksum != crc32(body, crc32(name.encode())):
            return None
        created, length = self._ORIGIN.unpack_from(body)
        start = self._ORIGIN.size + length
        space, value = body[self._ORIGIN.size : start].decode(), body[start:]
        return _Entry(created, space, len(value)), value


class SQLiteJournal:
    """A journal in one SQLite file, for several processes and threads at once.

    When `put` returns, the batch survives `kill -9`. The file is made with mode 0600. It
    must be on a local disk: SQLite's write-ahead log (WAL) needs memory that the processes
    share, which network drives do not give. It may be pickled and may cross a fork: the
    copy opens the file again by its path.

    Args:
        path: of the file; made if missing, while its folder must be there.
        timeout: seconds to wait for another writer before `JournalError`.
        clock: seconds since 1970; for tests.

    Raises:
        JournalError: the file cannot be opened, is damaged, is not a journal, or is one of
            another version. It is left as it was, byte for byte.
    """

    persistent = True

    # One connection behind a lock, and not one a thread: SQLite has one writer at a time in
    # any case, and connections of short-lived worker threads would never be closed.
    _connection: sqlite3.Connection | None = None  # set here for __del__ if __init__ failed

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        timeout: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = Path(path).expanduser().absolute()  # workers may run in another folder
        self._timeout = timeout
        self._clock = clock
        self._lock = threading.Lock()  # guards _connection and its use
        with _forking:
            _journals.add(self)
        with self._connected():
            pass  # what is wrong with the file is told now, not after the first paid batch

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the path, not the connection."""
        return partial(type(self), self.path, timeout=self._timeout, clock=self._clock), ()

    def __del__(self) -> None:
        """Close the file of a journal that nobody closed."""
        self._disconnect()

    def get(self, keys: Sequence[bytes]) -> Found:
        """Look up vectors; see `Journal.get`."""
        with self._connected() as connection:
            return _stack(_select(connection, keys), len(keys), path=self.path)

    def put(self, keys: Sequence[bytes], vectors: NDArray[np.float32], *, space: Space) -> None:
        """Store one batch in one transaction; see `Journal.put`.

        Raises:
            JournalError: nothing was stored; the message says why. One reason is that the
                space has vectors of another width, so the model is no longer the same.
        """
        rows = _rows(keys, vectors)
        if not len(rows):
            return
        with self._transaction() as connection:
            space_id = self._register(connection, space, width=rows.shape[1])
            created = self._clock()
            connection.executemany(
                "INSERT OR REPLACE INTO vector (key, space, created, value) VALUES (?, ?, ?, ?)",
                ((key, space_id, created, row) for key, row in zip(keys, rows, strict=True)),
            )

    def stats(self) -> JournalStats:
        """Count what is there; see `Journal.stats`."""
        with self._connected() as connection:
            return _summarise(connection.execute(_STATS))

    def prune(self, *, older_than: timedelta | None = None, max_bytes: int | None = None) -> int:
        """Delete the oldest vectors and shrink the file; see `Journal.prune`."""
        cutoff = _cutoff(self._clock, older_than, max_bytes)
        deleted = 0
        with self._transaction() as connection:
            if cutoff is not None:
                deleted += connection.execute(_PRUNE_BY_AGE, (cutoff,)).rowcount
            if max_bytes is not None:
                deleted += connection.execute(_PRUNE_BY_SIZE, (max_bytes,)).rowcount
            connection.execute("DELETE FROM space WHERE id NOT IN (SELECT space FROM vector)")
        with self._connected() as connection:
            # In small steps, so that other writers get their turn.
            while connection.execute("PRAGMA freelist_count").fetchone()[0]:
                connection.execute("PRAGMA incremental_vacuum(1000)").fetchall()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return deleted

    def close(self) -> None:
        """Release the file; see `Journal.close`."""
        with self._lock, _sqlite_errors(self.path, self._timeout):
            self._disconnect()

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        # With the time-out: threads must not queue for one 30 s wait after the other.
        if not self._lock.acquire(timeout=self._timeout):
            raise JournalError(
                f"the journal {self.path} was busy in another thread for {self._timeout:g} s; "
                "try again, or give it longer with SQLiteJournal(path, timeout=...)",
                path=str(self.path),
            )
        try:
            with _sqlite_errors(self.path, self._timeout):
                if self._connection is None:
                    self._connection = _connect(self.path, self._timeout)
                yield self._connection
        finally:
            self._lock.release()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connected() as connection, connection:  # commits, or rolls back
            connection.execute("BEGIN IMMEDIATE")  # wait for other writers now, not half way
            yield connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _register(self, connection: sqlite3.Connection, space: Space, *, width: int) -> int:
        """Give the space its number in the file."""
        connection.execute(
            "INSERT OR IGNORE INTO space (digest, name, width) VALUES (?, ?, ?)",
            (space.digest, space.name, width),
        )
        row = connection.execute("SELECT id, width FROM space WHERE digest = ?", (space.digest,))
        space_id, known = row.fetchone()
        if width != known:
            raise JournalError(
                f"{space.name} gave vectors of {width:,} numbers, but the journal {self.path} "
                f"has vectors of {known:,} from it: the model has changed. Name another "
                "journal, or empty this one with prune(max_bytes=0)",
                path=str(self.path),
            )
        return int(space_id)


_APPLICATION_ID = int.from_bytes(b"LBEJ")
_VERSION = 1

# `width` is the number of dimensions, so that sizes can be counted without reading a vector.
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
        value BLOB NOT NULL
    )
    """,
    # Statistics and pruning read this index alone.
    "CREATE INDEX vector_by_age ON vector (created, space)",
)

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
def _sqlite_errors(path: Path, timeout: float) -> Iterator[None]:
    """Turn the errors of SQLite and of the file system into ones that say what to do."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the other bits hold the details
        advice = _ADVICE.get(code, "SQLite refused; its own error is attached")
        raise JournalError(
            f"the journal {path} failed: {advice.format(timeout=timeout)}", path=str(path)
        ) from error
    except OSError as error:
        advice = _ADVICE[sqlite3.SQLITE_CANTOPEN]
        raise JournalError(
            f"the journal {path} failed ({error.strerror}): {advice}", path=str(path)
        ) from error


@contextmanager
def _store_errors() -> Iterator[None]:
    """Turn a store's errors, which can be of any kind, into ours."""
    try:
        yield
    except Exception as error:
        raise JournalError(
            f"the ByteStore used as journal failed ({type(error).__name__}); its own error is "
            "attached"
        ) from error


def _connect(path: Path, timeout: float) -> sqlite3.Connection:
    """Open a journal's file; make it if it is missing or empty."""
    # SQLite gives its -wal and -shm files the mode of this one. The lock is needed as closing
    # a file drops all POSIX locks that this process has on it, SQLite's included.
    with suppress(FileExistsError), _touching:
        path.touch(mode=0o600, exist_ok=False)
    if path.stat().st_size:
        _check_unopened(path)
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=rw",
        uri=True,
        timeout=timeout,
        isolation_level=None,  # transactions begin where the code says so
        check_same_thread=False,
    )
    try:
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_unopened(path: Path) -> None:
    """Raise if this is not a journal, without leaving a trace on it or beside it.

    Opened as immutable, since even a read-only connection makes files beside a database in
    WAL mode. It must be SQLite that reads the header: see `_connect` on closing files.
    """
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        # Otherwise a file that another process is just making longer would count as damaged.
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
    # 32 KiB pages hold five vectors of 1,536 numbers: files 20 % smaller than with 4 to
    # 16 KiB, where one vector takes a page or two, and batches written twice as fast.
    connection.execute("PRAGMA page_size = 32768")
    if _is_empty(connection):
        with connection:
            # Not IMMEDIATE: auto_vacuum must come before the first page is made. And not
            # outside: it would write that page without our id, and others would take the
            # file for somebody else's.
            connection.execute("BEGIN")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            if _is_empty(connection):  # else another process has made the tables meanwhile
                path.chmod(0o600)  # an empty file of the user's can have any mode
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {_VERSION}")
                for statement in _SCHEMA:
                    connection.execute(statement)
    _check(connection, path)
    try:
        # After the tables, so that the ids are in the file itself and not in its -wal.
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
    except sqlite3.OperationalError as error:
        # Processes that open a new file at once can refuse each other the switch. Nothing
        # is wrong then: who succeeds switches for all, and without WAL it is only slower.
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
    # A commit is handed to the operating system, so it outlives this process. A crash of the
    # system can lose the last commits, but in WAL mode it never damages the file.
    connection.execute("PRAGMA synchronous = NORMAL")
    # Move the log into the file after each large batch: even times, a short log.
    connection.execute("PRAGMA wal_autocheckpoint = 200")


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None


def _select(connection: sqlite3.Connection, keys: Sequence[bytes]) -> Iterator[bytes | None]:
    for start in range(0, len(keys), _CHUNK):
        chunk = keys[start : start + _CHUNK]
        marks = ",".join("?" * len(chunk))
        query = f"SELECT key, value FROM vector WHERE key IN ({marks})"  # noqa: S608 - "?,?,?"
        rows = connection.execute(query, chunk)
        yield from map(dict(rows).get, chunk)


# SQLite must not be taken across a fork, not even to close it there: its locks stay with the
# parent. So the files are closed before, and opened again by who uses them after.
_journals: "weakref.WeakSet[SQLiteJournal]" = weakref.WeakSet()
_forked: list[SQLiteJournal] = []
_forking = threading.Lock()  # guards _journals and _forked
_touching = threading.Lock()


def _before_fork() -> None:
    _forking.acquire()
    _forked[:] = _journals
    for journal in _forked:
        journal._lock.acquire()  # noqa: SLF001 - these hooks are a part of the class
        journal._disconnect()  # noqa: SLF001
    _touching.acquire()


def _after_fork() -> None:
    _touching.release()
    for journal in _forked:
        journal._lock.release()  # noqa: SLF001
    _forked.clear()
    _forking.release()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )


def _rows(keys: Sequence[bytes], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Check a batch and give it the stored type."""
    if vectors.shape[:-1] != (len(keys),) or (len(keys) and not vectors.shape[-1]):
        raise ValueError(
            f"{len(keys):,} keys need vectors of shape ({len(keys)}, d), not {vectors.shape}"
        )
    return np.ascontiguousarray(vectors, _FLOAT32)


def _stack(values: Iterable[bytes | None], count: int, path: Path | None = None) -> Found:
    """Copy stored vectors, `None` where there is none, into one array."""
    positions = np.empty(count, np.intp)
    found = width = 0
    buffer = np.empty(0, np.uint8)
    for position, value in enumerate(values):
        if value is None:
            continue
        if not found:
            width = len(value)
            # Room for all: pages that are never written take no memory.
            buffer = np.empty(count * width, np.uint8)
            target = buffer.data
        if len(value) != width or width % _FLOAT32.itemsize:
            raise JournalError(
                f"the journal{f' {path}' if path else ''} has vectors of different widths for "
                "one model, so it cannot be told which are right; name another journal, or "
                "empty this one with prune(max_bytes=0)",
                path=str(path) if path else None,
            )
        target[found * width : (found + 1) * width] = value
        positions[found] = position
        found += 1
    vectors = buffer[: found * width].view(_FLOAT32).reshape(found, width // _FLOAT32.itemsize)
    return positions[:found], vectors.astype(np.float32, copy=False)


def _summarise(groups: Iterable[_Group]) -> JournalStats:
    spaces: Counter[str] = Counter()
    size, oldest, newest = 0, inf, -inf
    for name, vectors, group_size, group_oldest, group_newest in groups:
        spaces[name] += vectors
        size += group_size
        oldest, newest = min(oldest, group_oldest), max(newest, group_newest)
    return JournalStats(
        vectors=spaces.total(),
        bytes=size,
        oldest=datetime.fromtimestamp(oldest, UTC) if spaces else None,
        newest=datetime.fromtimestamp(newest, UTC) if spaces else None,
        spaces=dict(spaces),
    )


def _cutoff(
    clock: Callable[[], float], older_than: timedelta | None, max_bytes: int | None
) -> float | None:
    """Check what `prune` was given; vectors written before this time have to go."""
    if older_than is None and max_bytes is None:
        raise ValueError("prune() needs older_than= or max_bytes=")
    if (older_than or timedelta()) < timedelta() or (max_bytes or 0) < 0:
        raise ValueError("older_than= and max_bytes= must not be negative")
    return None if older_than is None else clock() - older_than.total_seconds()


def _oldest(entries: Mapping[_K, _Entry], cutoff: float | None, max_bytes: int | None) -> list[_K]:
    """Choose the keys that have to go."""
    doomed, total = [], 0
    for key, entry in sorted(entries.items(), key=lambda item: item[1].created, reverse=True):
        total += entry.bytes
        too_old = cutoff is not None and entry.created < cutoff
        if too_old or (max_bytes is not None and total > max_bytes):
            doomed.append(key)
    return doomed
