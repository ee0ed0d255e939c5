"""Keeps what is paid for: the journal before, during and after a call.

With a persistent journal every answer is written by the thread that received it, before
anybody else sees it. Without one, the vectors of a call that fails stay in memory, on the
instance, until a later call that needs them has succeeded.
"""

import logging
import threading

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.errors import JournalError
from langchain_batch_embed.inputs import Inputs
from langchain_batch_embed.journal import Journal, MemoryJournal, Space, content_keys
from langchain_batch_embed.results import Results

__all__ = ["Recovery", "Safe"]

logger = logging.getLogger(__name__)


class Recovery:
    """The journal of one instance, and the memory that stands in for it."""

    def __init__(self, journal: Journal, space: Space) -> None:
        self.journal = journal
        self.space = space
        self.memory = journal if isinstance(journal, MemoryJournal) else MemoryJournal()
        self.remembers = False  # whether anything was ever put into `memory`
        self.broken = threading.Event()  # the journal's failure was logged

    def begin(self, inputs: Inputs, results: Results, *, query: bool) -> "Safe":
        """Return the safe for one call; a query is neither looked up nor kept."""
        return Safe(self, inputs, results, empty=query)


class Safe:
    """What one call has to keep.

    Args:
        shared: the instance's journal and memory.
        inputs: what the call sends.
        results: where its vectors are gathered.
        empty: keep nothing.
    """

    def __init__(self, shared: Recovery, inputs: Inputs, results: Results, *, empty: bool) -> None:
        self._shared = shared
        self._empty = empty
        self._inputs = inputs
        self._results = results
        self._keys: list[bytes] | None = None
        self._lock = threading.Lock()  # guards the making of _keys

    def recall(self) -> int:
        """Fill in the vectors that are kept from before; return how many.

        Raises:
            JournalError: the journal cannot be read.
        """
        if self._empty:
            return 0
        found = 0
        journals: list[Journal] = [self._shared.memory] if self._shared.remembers else []
        if self._shared.journal.persistent:
            journals.append(self._shared.journal)
        for journal in journals:
            rows = self._inputs.missing(self._results.done)
            if not rows.size:
                break
            positions, vectors = journal.get(self._keys_of(rows))
            if positions.size:
                self._results.add(rows[positions], vectors)
                found += len(positions)
        return found

    def keep(self, rows: NDArray[np.intp], vectors: NDArray[np.float32]) -> None:
        """Keep the vectors of one answer; called by the thread that received it."""
        wanted = self._results.add(rows, vectors, answer=True)
        if self._empty:
            return
        if self._shared.journal.persistent:
            try:
                self._shared.journal.put(self._keys_of(rows), vectors, space=self._shared.space)
            except JournalError as error:
                # The vectors are good and paid for: the call goes on with them.
                self._remember(rows, vectors)
                if not self._shared.broken.is_set():
                    self._shared.broken.set()
                    logger.error("%s. Finished vectors stay in memory meanwhile", error)
        elif not wanted:
            self._remember(rows, vectors)

    def failed(self) -> None:
        """Keep what is done of a call that fails, and what still arrives of it."""
        rows, vectors = self._results.abandon()
        if rows.size and not self._empty and not self._shared.journal.persistent:
            self._remember(rows, vectors)

    def succeeded(self) -> None:
        """Forget what was kept in memory for this call alone."""
        if self._shared.remembers and not self._empty and not self._shared.broken.is_set():
            self._shared.memory.discard(self._keys_of(np.arange(len(self._inputs.texts))))

    def _remember(self, rows: NDArray[np.intp], vectors: NDArray[np.float32]) -> None:
        self._shared.remembers = True
        self._shared.memory.put(self._keys_of(rows), vectors, space=self._shared.space)

    def _keys_of(self, rows: NDArray[np.intp]) -> list[bytes]:
        with self._lock:
            if self._keys is None:
                self._keys = content_keys(self._inputs.texts, self._shared.space)
        return [self._keys[row] for row in rows.tolist()]
