"""Keeps the vectors that are paid for, in the journal or in memory, for later calls.

With a persistent journal, the thread that receives an answer writes it before it reports success.
Without one, the vectors of a call that fails stay in memory, on the instance, until a later call
that needs them has succeeded. Vectors that a journal cannot take also stay in memory, until it can.
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

__all__ = ["CallRecovery", "NoteMissing", "Recovery"]

logger = logging.getLogger(__name__)

WRITTEN_AT_ONCE = 1024
"""Vectors per write when a journal that works again catches up: 6 MB at 1,536 dimensions."""

NoteMissing = Callable[[Sequence[bytes], Space], object]
"""A function that learns the journal keys of texts without a kept vector, and their space."""


class Recovery:
    """The journal of one instance, and the memory that stands in for it.

    Args:
        journal: where finished vectors are kept.
        space: identifies what makes the vectors, so that the journal never mixes models.
        others: returns other spaces in which the journal may have the same vectors; `None` if
            there are none.
        note_missing: called with the keys of the texts that a call is about to send, and their
            space.

    Attributes:
        journal: where finished vectors are kept.
        space: identifies what makes the vectors.
        others: as above.
        note_missing: as above.
        memory: the stand-in for the journal; the journal itself if it is in memory.
        memory_model: the model of the vectors in `memory`, if known.
        remembers: whether anything was ever put into `memory`.
    """

    def __init__(
        self,
        journal: Journal,
        space: Space,
        *,
        others: Callable[[], Sequence[Space]] | None = None,
        note_missing: NoteMissing = lambda *_: None,
    ) -> None:
        self.note_missing = note_missing
        self.journal = journal
        self.others = others
        self.space = space
        self.memory = journal if isinstance(journal, MemoryJournal) else MemoryJournal()
        self.memory_model: str | None = None
        self.remembers = False
        self._memory_dimensions: int | None = None
        self._model: str | None = None  # of the latest answers, unless in doubt
        # The journal's errors, as logged. While there are any, `memory` holds what it missed.
        self._troubles: set[str] = set()
        self._lock = threading.RLock()  # guards `_troubles`, `memory` and what describes it

    def for_call(self, inputs: Inputs, results: Results, *, query: bool) -> "CallRecovery":
        """Return the `CallRecovery` of one call; a query is neither looked up nor kept."""
        results.dimensions.expect_model(self._model)
        return CallRecovery(self, inputs, results, query=query)

    def write(self, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Write one answer to the journal, or keep it in memory while the journal fails."""
        try:
            self.journal.put(keys, vectors, space=self.space)
        except JournalError as error:
            # The vectors are valid and paid for, so the call goes on with them.
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
        """Write the vectors that the journal missed, if it can be written again.

        Args:
            accepted: the dimensions of vectors that the journal has just taken; missed vectors with
                other dimensions are dropped.
        """
        if not self._troubles:  # nearly always; no answer then waits for the lock
            return
        with self._lock, contextlib.suppress(JournalError):  # then try again later
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
                logger.warning(
                    "the journal can be written again, and the vectors that it missed have been "
                    "added"
                )

    def remember(
        self, keys: Sequence[bytes], vectors: NDArray[np.float32], *, model: str | None = None
    ) -> None:
        """Keep vectors in memory, and drop older ones with other dimensions or another model.

        Args:
            keys: the journal keys of the vectors.
            vectors: the vectors, (k, d).
            model: the model that made them; `None` if it is not known.
        """
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
        """Keep the vectors of a failed prefetch in memory, unless a persistent journal has them."""
        if not self.journal.persistent:
            self.remember(content_keys(texts, self.space), vectors)

    def learn_model(self, dimensions: Dimensions) -> None:
        """Make later calls expect the model that a call's answers named, unless it is in doubt."""
        self._model = dimensions.model_after(self._model)

    def forget(self, keys: Sequence[bytes]) -> None:
        """Drop vectors from memory, unless they still have to be written to the journal."""
        with self._lock:
            if not self._troubles:
                self.memory.discard(keys)


class CallRecovery:
    """Looks up and keeps the vectors of one call.

    Args:
        shared: the instance's journal and memory.
        inputs: the inputs of the call.
        results: collects the vectors of the call.
        query: the text is a query, so nothing is looked up or kept.

    Attributes:
        from_memory: how many unique texts have a vector that a failed earlier call left in memory.
    """

    def __init__(self, shared: Recovery, inputs: Inputs, results: Results, *, query: bool) -> None:
        self._shared = shared
        self._query = query
        self._inputs = inputs
        self._results = results
        self.from_memory = 0
        self._keys: list[bytes] | None = None
        self._lock = threading.Lock()  # guards the creation of `_keys`

    def recall(self) -> int:
        """Fill in the vectors that are kept from before; return how many unique texts they cover.

        Raises:
            JournalError: the journal cannot be read.
            DimensionsError: kept vectors have other dimensions than those of earlier calls.
            ModelError: vectors in memory are from another model than the answers of earlier calls.
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
        missing = self._inputs.missing(self._results.done)
        if missing.size and self._shared.journal.persistent:
            self._shared.note_missing(self._keys_of(missing), self._shared.space)
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
            self._shared.catch_up()  # this call may send nothing, so no answer would

    def _recall_from_others(self, spaces: Sequence[Space]) -> None:
        for space in spaces:
            rows = self._inputs.missing(self._results.done)
            texts = [self._inputs.texts[row] for row in rows.tolist()]
            positions, vectors = self._shared.journal.get(content_keys(texts, space))
            if positions.size:
                self._results.dimensions.check(vectors.shape[1], answer=False)
                self._results.add(rows[positions], vectors)

    def keep(self, rows: NDArray[np.intp], answer: Answer) -> None:
        """Check and save the vectors of one answer, in the thread that received it.

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
        """Keep the vectors of a call that fails, those that it has and those that still arrive.

        Args:
            but: a mask of rows not to keep, (n,), because their vectors are held elsewhere.
        """
        rows, vectors = self._results.abandon()
        if but is not None:
            new = ~np.isin(rows, np.flatnonzero(but))
            rows, vectors = rows[new], vectors[new]
        dimensions = self._results.dimensions
        self._shared.learn_model(dimensions)
        if self._query or self._shared.journal.persistent:
            return
        if dimensions.is_refuted:  # otherwise the next call would fail in the same way
            self.forget(np.arange(len(self._inputs.texts)))
        elif rows.size:
            self._shared.remember(self._keys_of(rows), vectors, model=dimensions.model)

    def succeeded(self) -> None:
        """Drop the vectors of this call's texts from memory: the caller has them now."""
        if not self._query:
            self.forget(np.arange(len(self._inputs.texts)))

    def forget(self, rows: NDArray[np.intp]) -> None:
        """Drop the vectors of these rows from memory, because another holder has them now."""
        if self._shared.remembers:
            self._shared.forget(self._keys_of(rows))

    def _keys_of(self, rows: NDArray[np.intp]) -> list[bytes]:
        with self._lock:
            if self._keys is None:
                self._keys = content_keys(self._inputs.texts, self._shared.space)
        return [self._keys[row] for row in rows.tolist()]
