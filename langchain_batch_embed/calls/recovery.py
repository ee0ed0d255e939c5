"""Keeps what is paid for: the journal before, during and after a call.

With a persistent journal every answer is written by the thread that received it, before
anybody else sees it. Without one, the vectors of a call that fails stay in memory, on the
instance, until a later call that needs them has succeeded. So do those that a journal cannot take,
until it can.
"""

import contextlib
import logging
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.calls.dimensions import Width, same_model
from langchain_batch_embed.calls.results import Results
from langchain_batch_embed.errors import JournalError
from langchain_batch_embed.journal import Journal, MemoryJournal, Space, content_keys
from langchain_batch_embed.providers.provider import Answer
from langchain_batch_embed.texts.inputs import Inputs

__all__ = ["Recovery", "Safe"]

logger = logging.getLogger(__name__)

_MENDED = 1024
"""Vectors written in one piece to a journal that can be written again: 6 MB at 1,536 dimensions."""


class Recovery:
    """The journal of one instance, and the memory that stands in for it."""

    def __init__(self, journal: Journal, space: Space) -> None:
        self.journal = journal
        self.space = space
        self.memory = journal if isinstance(journal, MemoryJournal) else MemoryJournal()
        self.remembers = False  # whether anything was ever put into `memory`
        self._width: int | None = None  # of the vectors in `memory`
        self.memory_model: str | None = None  # that of those, where it is known
        self._model: str | None = None  # that the last answers named, unless it is in doubt
        # With the journal, as it was logged; while there is some, `memory` has what it should hold.
        self._troubles: set[str] = set()
        self._lock = threading.RLock()  # guards `_troubles`, `_width` and what goes into `memory`

    def begin(self, inputs: Inputs, results: Results, *, query: bool) -> "Safe":
        """Return the safe for one call; a query is neither looked up nor kept."""
        results.width.expect_model(self._model)
        return Safe(self, inputs, results, query=query)

    def put(self, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Write one answer to the journal, or keep it in memory as long as that cannot be done."""
        try:
            self.journal.put(keys, vectors, space=self.space)
        except JournalError as error:
            # The vectors are good and paid for: the call goes on with them.
            with self._lock:
                self.remember(keys, vectors)
                if str(error) not in self._troubles:
                    logger.error("%s. Finished vectors stay in memory meanwhile", error)
                self._troubles.add(str(error))
        else:
            self.mend(accepted=vectors.shape[1])

    def mend(self, *, accepted: int | None = None) -> None:
        """Write to the journal what it missed, if it can be written again.

        Args:
            accepted: the width of vectors that it has just taken: those of another one are of no
                use any more.
        """
        if not self._troubles:  # nearly always, and then no answer waits for the lock
            return
        with self._lock, contextlib.suppress(JournalError):  # then another time
            if accepted not in (None, self._width):
                self.memory.discard(self.memory.keys(self.space))
            missed = self.memory.keys(self.space)
            for start in range(0, len(missed), _MENDED):
                keys = missed[start : start + _MENDED]
                positions, vectors = self.memory.get(keys)
                there = [keys[position] for position in positions.tolist()]
                self.journal.put(there, vectors, space=self.space)
                self.memory.discard(there)
            if self._troubles:
                self._troubles.clear()
                logger.warning("the journal can be written again, and has what it missed")

    def remember(
        self, keys: Sequence[bytes], vectors: NDArray[np.float32], *, model: str | None = None
    ) -> None:
        """Keep vectors in memory; those of another width or model are of no use any more."""
        self.remembers = True
        with self._lock:
            known = self.memory_model
            changed = model is not None and known is not None and not same_model(model, known)
            if changed or self._width not in (None, vectors.shape[1]):
                self.memory.discard(self.memory.keys(self.space))
                self.memory_model = None
            self._width = vectors.shape[1]
            self.memory_model = model or self.memory_model
            self.memory.put(keys, vectors, space=self.space)

    def learn_model(self, width: Width) -> None:
        """Hold later calls to the model that the answers of a call named, unless it is in doubt."""
        self._model = None if width.model_in_doubt else width.model or self._model

    def forget(self, keys: Sequence[bytes]) -> None:
        """Drop vectors from memory, unless the journal has yet to get them."""
        with self._lock:
            if not self._troubles:
                self.memory.discard(keys)


class Safe:
    """What one call has to keep.

    Args:
        shared: the instance's journal and memory.
        inputs: what the call sends.
        results: where its vectors are gathered.
        query: neither look up nor keep anything.
    """

    def __init__(self, shared: Recovery, inputs: Inputs, results: Results, *, query: bool) -> None:
        self._shared = shared
        self._query = query
        self._inputs = inputs
        self._results = results
        self._keys: list[bytes] | None = None
        self._lock = threading.Lock()  # guards the making of _keys

    def recall(self) -> int:
        """Fill in the vectors that are kept from before; return for how many unique texts.

        Raises:
            JournalError: the journal cannot be read.
            DimensionsError: they have another width than those of earlier calls.
            ModelError: those in memory are of another model than the answers of earlier calls.
        """
        if self._query:
            return 0
        before = self._inputs.settled(self._results.done)
        journals: list[Journal] = [self._shared.memory] if self._shared.remembers else []
        if self._shared.journal.persistent:
            journals.append(self._shared.journal)
        for journal in journals:
            rows = self._inputs.missing(self._results.done)
            if not rows.size:
                break
            positions, vectors = journal.get(self._keys_of(rows))
            if positions.size:
                remembered = journal is self._shared.memory
                model = self._shared.memory_model if remembered else None
                self._results.add(rows[positions], vectors, model=model)
                if remembered:
                    self._shared.mend()  # no answer may come of this call that does it
        return self._inputs.settled(self._results.done) - before

    def keep(self, rows: NDArray[np.intp], answer: Answer) -> None:
        """Keep the vectors of one answer; called by the thread that received it.

        Raises:
            ResponseError, DimensionsError, ModelError: see `Width.check`.
        """
        vectors, width = answer.vectors, self._results.width
        wanted = self._results.add(rows, vectors, answer=True, model=answer.model)
        self._shared.learn_model(width)
        if self._query:
            return
        if self._shared.journal.persistent:
            self._shared.put(self._keys_of(rows), vectors)
        elif not wanted:
            self._shared.remember(self._keys_of(rows), vectors, model=width.model)

    def failed(self) -> None:
        """Keep what is done of a call that fails, and what still arrives of it."""
        rows, vectors = self._results.abandon()
        width = self._results.width
        self._shared.learn_model(width)
        if self._query or self._shared.journal.persistent:
            return
        if width.is_refuted:  # else the next call would meet the same contradiction
            self._forget()
        elif rows.size:
            self._shared.remember(self._keys_of(rows), vectors, model=width.model)

    def succeeded(self) -> None:
        """Forget what was kept in memory for this call alone."""
        if not self._query:
            self._forget()

    def _forget(self) -> None:
        if self._shared.remembers:
            self._shared.forget(self._keys_of(np.arange(len(self._inputs.texts))))

    def _keys_of(self, rows: NDArray[np.intp]) -> list[bytes]:
        with self._lock:
            if self._keys is None:
                self._keys = content_keys(self._inputs.texts, self._shared.space)
        return [self._keys[row] for row in rows.tolist()]
