"""Keeps what is paid for: the journal before, during and after a call.

With a persistent journal, the thread that receives an answer writes it before anybody else sees it.
Without one, the vectors of a call that fails stay in memory, on the instance, until a later call
that needs them has succeeded. Vectors that a journal cannot take stay there too, until it can.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.calls.dimensions import Dimensions, same_model
from langchain_batch_embed.calls.results import Results
from langchain_batch_embed.errors import JournalError
from langchain_batch_embed.journal import Journal, MemoryJournal, Space, content_keys
from langchain_batch_embed.providers import Answer
from langchain_batch_embed.texts.inputs import Inputs

__all__ = ["CallRecovery", "Recovery"]

logger = logging.getLogger(__name__)

WRITTEN_AT_ONCE = 1024
"""Vectors written in one piece to a journal that works again: 6 MB at 1,536 dimensions."""


class Recovery:
    """The journal of one instance, and the memory that stands in for it.

    Args:
        journal: where finished vectors are kept.
        space: what made them.
        others: returns other spaces in which the journal may have the same vectors; `None`: there
            are none.

    Attributes:
        journal: where finished vectors are kept.
        space: what made them.
        memory: the stand-in; the journal itself where that is in memory.
        memory_model: the model of the vectors in `memory`, where it is known.
        remembers: whether anything was ever put into `memory`.
    """

    def __init__(
        self,
        journal: Journal,
        space: Space,
        *,
        others: Callable[[], Sequence[Space]] | None = None,
    ) -> None:
        self.journal = journal
        self.others = others
        self.space = space
        self.memory = journal if isinstance(journal, MemoryJournal) else MemoryJournal()
        self.memory_model: str | None = None
        self.remembers = False
        self._memory_dimensions: int | None = None
        self._model: str | None = None  # of the last answers, unless it is in doubt
        # Errors of the journal, as logged. While there are any, `memory` has what it should hold.
        self._troubles: set[str] = set()
        self._lock = threading.RLock()  # guards `_troubles` and `memory` with all about it

    def for_call(self, inputs: Inputs, results: Results, *, query: bool) -> "CallRecovery":
        """Return the recovery of one call; a query is neither looked up nor kept."""
        results.dimensions.expect_model(self._model)
        return CallRecovery(self, inputs, results, query=query)

    def write(self, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Write one answer to the journal, or keep it in memory while the journal fails."""
        try:
            self.journal.put(keys, vectors, space=self.space)
        except JournalError as error:
            # The vectors are good and paid for: the call goes on with them.
            with self._lock:
                self.remember(keys, vectors)
                if str(error) not in self._troubles:
                    logger.error(
                        "%s. Until it can be written, finished vectors stay in memory", error
                    )
                self._troubles.add(str(error))
        else:
            self.catch_up(accepted=vectors.shape[1])

    def catch_up(self, *, accepted: int | None = None) -> None:
        """Write what the journal missed, if it can be written again.

        Args:
            accepted: the dimensions of vectors that it has just taken; vectors with others are of
                no more use.
        """
        if not self._troubles:  # nearly always, and then no answer waits for the lock
            return
        with self._lock, contextlib.suppress(JournalError):  # then another time
            if accepted not in (None, self._memory_dimensions):
                self.memory.discard(self.memory.keys(self.space))
            missed = self.memory.keys(self.space)
            for start in range(0, len(missed), WRITTEN_AT_ONCE):
                keys = missed[start : start + WRITTEN_AT_ONCE]
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
        """Keep vectors in memory, and drop those with other dimensions or of another model."""
        self.remembers = True
        with self._lock:
            known = self.memory_model
            changed = model is not None and known is not None and not same_model(model, known)
            if changed or self._memory_dimensions not in (None, vectors.shape[1]):
                self.memory.discard(self.memory.keys(self.space))
                self.memory_model = None
            self._memory_dimensions = vectors.shape[1]
            self.memory_model = model or self.memory_model
            self.memory.put(keys, vectors, space=self.space)

    def remember_texts(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep vectors of a prefetch that has failed, where no journal does."""
        if not self.journal.persistent:
            self.remember(content_keys(texts, self.space), vectors)

    def learn_model(self, dimensions: Dimensions) -> None:
        """Hold later calls to the model that a call's answers named, unless it is in doubt."""
        self._model = dimensions.model_after(self._model)

    def forget(self, keys: Sequence[bytes]) -> None:
        """Drop vectors from memory, unless the journal has yet to get them."""
        with self._lock:
            if not self._troubles:
                self.memory.discard(keys)


class CallRecovery:
    """Looks up and keeps the vectors of one call.

    Args:
        shared: the instance's journal and memory.
        inputs: what the call sends.
        results: where its vectors are gathered.
        query: neither look up nor keep anything.

    Attributes:
        from_memory: how many unique texts an earlier call that failed has left vectors of.
    """

    def __init__(self, shared: Recovery, inputs: Inputs, results: Results, *, query: bool) -> None:
        self._shared = shared
        self._query = query
        self._inputs = inputs
        self._results = results
        self.from_memory = 0
        self._keys: list[bytes] | None = None
        self._lock = threading.Lock()  # guards the making of _keys

    def recall(self) -> int:
        """Fill in the vectors that are kept from before; return for how many unique texts.

        Raises:
            JournalError: the journal cannot be read.
            DimensionsError: kept vectors have other dimensions than those of earlier calls.
            ModelError: vectors in memory are of another model than the answers of earlier calls.
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
            self._recall_from(journal, rows)
            if journal is self._shared.memory:
                self.from_memory = self._inputs.settled(self._results.done) - before
        if self._shared.others is not None:
            self._recall_from_others(self._shared.others())
        return self._inputs.settled(self._results.done) - before

    def _recall_from(self, journal: Journal, rows: NDArray[np.intp]) -> None:
        positions, vectors = journal.get(self._keys_of(rows))
        if not positions.size:
            return
        is_memory = journal is self._shared.memory
        model = self._shared.memory_model if is_memory else None
        self._results.dimensions.check(vectors.shape[1], answer=False, model=model)
        self._results.add(rows[positions], vectors)
        if is_memory:
            self._shared.catch_up()  # perhaps no answer of this call comes to do it

    def _recall_from_others(self, spaces: Sequence[Space]) -> None:
        for space in spaces:
            rows = self._inputs.missing(self._results.done)
            texts = [self._inputs.texts[row] for row in rows.tolist()]
            positions, vectors = self._shared.journal.get(content_keys(texts, space))
            if positions.size:
                self._results.dimensions.check(vectors.shape[1], answer=False)
                self._results.add(rows[positions], vectors)

    def keep(self, rows: NDArray[np.intp], answer: Answer) -> None:
        """Check the vectors of one answer, then save them; runs in the thread that received it.

        Raises:
            ResponseError, DimensionsError, ModelError: see `Dimensions.check`; nothing is saved.
        """
        vectors, dimensions = answer.vectors, self._results.dimensions
        dimensions.check(vectors.shape[1], answer=True, model=answer.model)
        is_wanted = self._results.add(rows, vectors)
        self._shared.learn_model(dimensions)
        if self._query:
            return
        if self._shared.journal.persistent:
            self._shared.write(self._keys_of(rows), vectors)
        elif not is_wanted:
            self._shared.remember(self._keys_of(rows), vectors, model=dimensions.model)

    def failed(self, *, but: NDArray[np.bool_] | None = None) -> None:
        """Keep what is done of a call that fails, and what still arrives.

        Args:
            but: rows that are not to be kept, (n,); others hold their vectors.
        """
        rows, vectors = self._results.abandon()
        if but is not None:
            new = ~np.isin(rows, np.flatnonzero(but))
            rows, vectors = rows[new], vectors[new]
        dimensions = self._results.dimensions
        self._shared.learn_model(dimensions)
        if self._query or self._shared.journal.persistent:
            return
        if dimensions.is_refuted:  # else the next call would meet the same contradiction
            self.forget(np.arange(len(self._inputs.texts)))
        elif rows.size:
            self._shared.remember(self._keys_of(rows), vectors, model=dimensions.model)

    def succeeded(self) -> None:
        """Forget what was kept in memory for this call alone."""
        if not self._query:
            self.forget(np.arange(len(self._inputs.texts)))

    def forget(self, rows: NDArray[np.intp]) -> None:
        """Forget what was kept in memory of these rows: somebody else has their vectors now."""
        if self._shared.remembers:
            self._shared.forget(self._keys_of(rows))

    def _keys_of(self, rows: NDArray[np.intp]) -> list[bytes]:
        with self._lock:
            if self._keys is None:
                self._keys = content_keys(self._inputs.texts, self._shared.space)
        return [self._keys[row] for row in rows.tolist()]
