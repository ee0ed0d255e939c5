"""The vectors of one call, gathered row by row from many threads."""

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
"""Rows gathered at a time to become lists: 3 MB at 1,536 dimensions."""


class Results:
    """The vectors of one call that have come so far.

    Args:
        inputs: what is sent, and for which text.
        dimensions: those of the vectors, and their model; one object where calls must agree.
        lists: whether the caller wants lists of floats, or else one array.

    Attributes:
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
        self._lock = threading.Lock()  # guards the adding of rows, and `_is_abandoned`
        count = len(inputs.texts)
        self._store: _Lists | _Array = _Lists(count) if lists else _Array(count)
        self._errors: dict[int, BaseException] = {}
        self._is_abandoned = False

    def add(self, rows: NDArray[np.intp], vectors: NDArray[np.float32]) -> bool:
        """Save the vectors of some rows, (k,) and (k, d); return whether they are still wanted.

        They have passed `Dimensions.check`.
        """
        with self._lock:
            # Else it comes too late, or is the slower copy of a hedged request.
            if not self._is_abandoned and not self.done[rows].any():
                self._store.add(rows, vectors)
                self.done[rows] = True
            return not self._is_abandoned

    def abandon(self) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Return all rows that are done, and their vectors; later ones are not wanted."""
        with self._lock:
            self._is_abandoned = True
            rows = np.flatnonzero(self.done)
            return rows, self._store.get(rows.tolist())

    def settle(self, outcome: Outcome) -> None:
        """Make lists of a batch that is done, or note why a batch is lost."""
        if isinstance(outcome, Done):
            self._store.convert(outcome.rows)
        else:
            self.lost[outcome.rows] = True
            for row in outcome.rows.tolist():
                for text in self._inputs.owners(row):
                    self._errors.setdefault(text, outcome.error)

    def has_vector(self) -> NDArray[np.bool_]:
        """Tell for each of the caller's texts whether its vector is there, shape (n,)."""
        return self.done[self._inputs.row_of]

    def texts_done(self) -> int:
        """Return how many of the caller's texts have their vector."""
        return int(np.count_nonzero(self.has_vector()))

    def finish(self) -> list[Failure]:
        """Average the windows of over-long texts; return the texts without a vector."""
        for row, mean in self._inputs.means(self._store.get, self.done):
            self.add(np.array([row]), mean[np.newaxis])
        return self.failures()

    def failures(self) -> list[Failure]:
        """Return the texts that failed, without those whose answer came all the same."""
        row_of = self._inputs.row_of
        lost = np.flatnonzero(np.isin(row_of, list(self._errors)) & ~self.has_vector())
        return [Failure(index=i, error=self._errors[int(row_of[i])]) for i in lost.tolist()]

    def get(self, positions: Sequence[int]) -> NDArray[np.float32]:
        """Return the vectors of some of the caller's texts, (k, d); they must be there."""
        return self._store.get(self._inputs.row_of[positions].tolist())

    def array(self) -> NDArray[np.float32]:
        """Return the vectors in the caller's order, shape (n, d); all must be there."""
        assert isinstance(self._store, _Array)  # noqa: S101  # nobody asks for both forms
        if self._keeps_order():
            return self._store.matrix[: self._inputs.unique]
        return self._store.matrix[self._inputs.row_of]

    def lists(self) -> list[list[float]]:
        """Return the vectors in the caller's order as lists of floats; all must be there."""
        vectors = [vector for vector in self.partial() if isinstance(vector, list)]
        assert len(vectors) == len(self._inputs.row_of)  # noqa: S101  # else they would shift
        return vectors

    def partial(self) -> list[Vector | None]:
        """Return what is there, in the form that the caller wanted, `None` for what is not."""
        vectors = self._store.vectors(np.flatnonzero(self.done).tolist())
        if self._keeps_order():
            return vectors[: self._inputs.unique]
        return _unshared([vectors[row] for row in self._inputs.row_of.tolist()])

    def _keeps_order(self) -> bool:
        # No text twice: the order is the rows' order.
        return len(self._inputs.row_of) == self._inputs.unique


class _Store(Protocol):
    """Holds the vectors of the rows; `Results` does the rest."""

    def add(self, rows: NDArray[np.intp], vectors: NDArray[np.float32]) -> None:
        """Save the vectors of some rows, in the thread that received them."""

    def convert(self, rows: NDArray[np.intp]) -> None:
        """Put vectors that were added into the caller's form, in the thread of the caller."""

    def get(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Return the vectors of some rows that are there, shape (k, d)."""

    def vectors(self, done: Sequence[int]) -> list[Vector | None]:
        """Return a vector for each row, and `None` for those that are not done."""


class _Array(_Store):
    """One matrix of float32 with a row an input."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.matrix = np.empty((0, 0), dtype=np.float32)

    def add(self, rows: NDArray[np.intp], vectors: NDArray[np.float32]) -> None:
        if len(rows) == self._rows and vectors.flags.writeable:
            self.matrix = vectors  # everything at once, from a journal: no second copy
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
    """A list of Python floats for each row, made while other answers are on their way.

    A list is ten times as large as its float32 array. The array is dropped then, as both together
    would take noticeably more memory.
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
        # Vectors from a journal and of over-long texts are still arrays.
        left = [row for row in done if not isinstance(self._vectors[row], list)]
        self.convert(np.array(left, dtype=np.intp))
        return self._vectors


def _unshared(vectors: Sequence[Vector | None]) -> list[Vector | None]:
    """Give each text a list of its own: a caller may change one of them."""
    seen: set[int] = set()
    own: list[Vector | None] = []
    for vector in vectors:
        own.append(vector.copy() if vector is not None and id(vector) in seen else vector)
        seen.add(id(vector))
    return own
