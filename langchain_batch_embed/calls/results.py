"""The vectors of one call, collected row by row from many threads."""

import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.calls.dimensions import Dimensions
from langchain_batch_embed.errors import Failure
from langchain_batch_embed.providers.decoding import to_lists
from langchain_batch_embed.sending.work import Done, Outcome
from langchain_batch_embed.texts.inputs import Inputs

__all__ = ["Results"]

Vector = list[float] | NDArray[np.float32]

_CONVERTED = 512
"""Rows converted to lists at a time: 3 MB at 1,536 dimensions."""


class Results:
    """The vectors of one call that have arrived so far.

    Args:
        inputs: the inputs that are sent, and the texts that need them.
        dimensions: checks the dimensions and the model of the vectors; calls that must agree share
            one object.
        lists: the caller wants lists of floats; otherwise one array.

    Attributes:
        dimensions: as above.
        as_lists: whether the caller wants lists of floats.
        done: which rows have their vector, shape (rows,).
        lost: which rows are given up, shape (rows,).
    """

    def __init__(
        self, inputs: Inputs, *, dimensions: Dimensions | None = None, lists: bool = True
    ) -> None:
        self.dimensions = dimensions or Dimensions()
        self.as_lists = lists
        self.done = np.zeros(len(inputs.texts), dtype=np.bool_)
        self.lost = np.zeros(len(inputs.texts), dtype=np.bool_)
        self._inputs = inputs
        self._lock = threading.Lock()  # held while rows are added; guards `_is_abandoned`
        count = len(inputs.texts)
        self._store: _Lists | _Array = _Lists(count) if lists else _Array(count)
        self._errors: dict[int, BaseException] = {}
        self._owners: dict[int, list[int]] | None = None  # made for the first lost batch
        self._is_abandoned = False

    def add(self, rows: NDArray[np.intp], vectors: NDArray[np.float32]) -> bool:
        """Save the vectors of some rows; return whether the call still wants vectors.

        Args:
            rows: the rows, (k,).
            vectors: their vectors, (k, d), which have passed `Dimensions.check`.
        """
        with self._lock:
            # Otherwise the answer is too late, or is the slower copy of a hedged request.
            if not self._is_abandoned and not self.done[rows].any():
                self._store.add(rows, vectors)
                self.done[rows] = True
            return not self._is_abandoned

    def abandon(self) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Return all rows that are done, and their vectors; accept no vectors from now on."""
        with self._lock:
            self._is_abandoned = True
            rows = np.flatnonzero(self.done)
            return rows, self._store.get(rows.tolist())

    def settle(self, outcome: Outcome) -> None:
        """Convert a finished batch to the caller's form, or record the error of a lost batch."""
        if isinstance(outcome, Done):
            self._store.convert(outcome.rows)
        else:
            self.lost[outcome.rows] = True
            if self._owners is None:
                self._owners = self._inputs.owners()
            for row in outcome.rows.tolist():
                for text in (row, *self._owners.get(row, ())):
                    self._errors.setdefault(text, outcome.error)

    def has_vector(self) -> NDArray[np.bool_]:
        """Return whether each of the caller's texts has its vector, shape (n,)."""
        return self.done[self._inputs.row_of]

    def texts_done(self) -> int:
        """Return how many of the caller's texts have their vector."""
        return int(np.count_nonzero(self.has_vector()))

    def finish(self) -> list[Failure]:
        """Average the windows of over-long texts; return the failures, as `failures` does."""
        for row, mean in self._inputs.means(self._store.get, self.done):
            self.add(np.array([row]), mean[np.newaxis])
        return self.failures()

    def failures(self) -> list[Failure]:
        """Return the texts that failed, except those whose vector arrived after all."""
        row_of = self._inputs.row_of
        lost = np.flatnonzero(np.isin(row_of, list(self._errors)) & ~self.has_vector())
        return [Failure(index=i, error=self._errors[int(row_of[i])]) for i in lost.tolist()]

    def get(self, positions: Sequence[int]) -> NDArray[np.float32]:
        """Return the vectors of some of the caller's texts, (k, d); they must have arrived."""
        return self._store.get(self._inputs.row_of[positions].tolist())

    def array(self) -> NDArray[np.float32]:
        """Return the vectors in the caller's order, shape (n, d); all must have arrived."""
        assert isinstance(self._store, _Array)  # noqa: S101  # a call has one form only
        if self._keeps_order():
            return self._store.matrix[: self._inputs.unique]
        return self._store.matrix[self._inputs.row_of]

    def lists(self) -> list[list[float]]:
        """Return the vectors in the caller's order as lists of floats; all must have arrived."""
        vectors = [vector for vector in self.partial() if isinstance(vector, list)]
        assert len(vectors) == len(self._inputs.row_of)  # noqa: S101  # else they would shift
        return vectors

    def partial(self) -> list[Vector | None]:
        """Return one entry for each of the caller's texts, in order and in the wanted form.

        An entry is `None` if its vector has not arrived.
        """
        vectors = self._store.vectors(np.flatnonzero(self.done).tolist())
        if self._keeps_order():
            return vectors[: self._inputs.unique]
        return _unshared([vectors[row] for row in self._inputs.row_of.tolist()])

    def _keeps_order(self) -> bool:
        # No text occurs twice, so the caller's order is the order of the rows.
        return len(self._inputs.row_of) == self._inputs.unique


class _Store(Protocol):
    """Holds the vectors of the rows; `Results` does the rest."""

    def add(self, rows: NDArray[np.intp], vectors: NDArray[np.float32]) -> None:
        """Save the vectors of some rows, in the thread that received them."""

    def convert(self, rows: NDArray[np.intp]) -> None:
        """Convert saved vectors to the caller's form, in the caller's thread."""

    def get(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Return the vectors of some rows, shape (k, d); the rows must be done."""

    def vectors(self, done: Sequence[int]) -> list[Vector | None]:
        """Return an entry for each row, its vector or `None` if the row is not in `done`."""


class _Array(_Store):
    """One float32 matrix with one row for each input."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.matrix = np.empty((0, 0), dtype=np.float32)

    def add(self, rows: NDArray[np.intp], vectors: NDArray[np.float32]) -> None:
        is_whole = len(rows) == self._rows and np.array_equal(rows, np.arange(self._rows))
        if is_whole and vectors.flags.writeable:
            self.matrix = vectors  # all rows in order, as from a journal: no copy
            return
        if not self.matrix.size:
            self.matrix = np.empty((self._rows, vectors.shape[1]), dtype=np.float32)
        self.matrix[rows] = vectors

    def convert(self, rows: NDArray[np.intp]) -> None:
        pass

    def get(self, rows: Sequence[int]) -> NDArray[np.float32]:
        return self.matrix[list(rows)]

    def vectors(self, done: Sequence[int]) -> list[Vector | None]:
        vectors: list[Vector | None] = [None] * self._rows
        for row in done:
            vectors[row] = self.matrix[row]
        return vectors


class _Lists(_Store):
    """A list of Python floats for each row, made while other answers are awaited.

    A list is ten times as large as its float32 array. The array is dropped once the list is made,
    because keeping both would take noticeably more memory.
    """

    def __init__(self, rows: int) -> None:
        self._vectors: list[Vector | None] = [None] * rows

    def add(self, rows: NDArray[np.intp], vectors: NDArray[np.float32]) -> None:
        for row, vector in zip(rows.tolist(), vectors, strict=True):
            self._vectors[row] = vector

    def convert(self, rows: NDArray[np.intp]) -> None:
        for start in range(0, len(rows), _CONVERTED):
            part = rows[start : start + _CONVERTED].tolist()
            for row, vector in zip(part, to_lists(self.get(part)), strict=True):
                self._vectors[row] = vector

    def get(self, rows: Sequence[int]) -> NDArray[np.float32]:
        return np.array([self._vectors[row] for row in rows], dtype=np.float32)

    def vectors(self, done: Sequence[int]) -> list[Vector | None]:
        # Vectors from a journal and vectors of over-long texts are still arrays.
        left = [row for row in done if not isinstance(self._vectors[row], list)]
        self.convert(np.array(left, dtype=np.intp))
        return self._vectors


def _unshared(vectors: Sequence[Vector | None]) -> list[Vector | None]:
    """Give each text a vector of its own, because a caller may change one of them."""
    seen: set[int] = set()
    own: list[Vector | None] = []
    for vector in vectors:
        own.append(vector.copy() if vector is not None and id(vector) in seen else vector)
        seen.add(id(vector))
    return own
