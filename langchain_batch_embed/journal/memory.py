"""A journal in memory, for the time between a failed call and the next one."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.journal.base import Found, JournalStats, Space
from langchain_batch_embed.journal.records import (
    Entry,
    age_limit,
    oldest,
    rows_of,
    stack,
    summarise,
)

__all__ = ["MemoryJournal"]


class MemoryJournal:
    """A journal in memory that keeps a failed call's vectors until a later call has used them.

    A pickled copy starts empty, because other processes do not need this one's vectors.

    Args:
        clock: returns the seconds since 1970; for tests.
    """

    persistent = False

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards _entries and _values, which have the same keys
        self._entries: dict[bytes, Entry] = {}
        self._values: dict[bytes, bytes] = {}

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without the lock and the vectors."""
        return partial(type(self), clock=self._clock), ()

    def get(self, keys: Sequence[bytes]) -> Found:
        """Look up vectors; see `Journal.get`."""
        with self._lock:
            values = [self._values.get(key) for key in keys]
        return stack(values, len(keys))

    def put(self, keys: Sequence[bytes], vectors: NDArray[np.float32], *, space: Space) -> None:
        """Store one batch; see `Journal.put`."""
        # Copy the rows one by one, because a view would keep its whole batch in memory.
        values = [row.tobytes() for row in rows_of(keys, vectors)]
        created, name = self._clock(), space.name
        entries = [Entry(created, name, len(value)) for value in values]
        with self._lock:
            self._values.update(zip(keys, values, strict=True))
            self._entries.update(zip(keys, entries, strict=True))

    def keys(self, space: Space) -> list[bytes]:
        """Return the keys of all vectors of a space, in the order of their first `put`."""
        with self._lock:
            return [key for key, entry in self._entries.items() if entry.space == space.name]

    def discard(self, keys: Iterable[bytes]) -> None:
        """Delete the vectors of these keys; unknown keys are ignored."""
        with self._lock:
            for key in keys:
                self._entries.pop(key, None)
                self._values.pop(key, None)

    def stats(self) -> JournalStats:
        """Return statistics; see `Journal.stats`."""
        with self._lock:
            return summarise(map(Entry.group, self._entries.values()))

    def prune(self, *, older_than: timedelta | None = None, max_bytes: int | None = None) -> int:
        """Delete the oldest vectors; see `Journal.prune`."""
        cutoff = age_limit(self._clock, older_than, max_bytes)
        with self._lock:
            doomed = oldest(self._entries, cutoff, max_bytes)
            for key in doomed:
                del self._entries[key], self._values[key]
        return len(doomed)

    def close(self) -> None:
        """Do nothing, because there is nothing to release."""
