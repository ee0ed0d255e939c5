"""Gathers the vectors of one call, row by row, from many threads."""

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.dispatch import Done, Outcome
from langchain_batch_embed.errors import Failure, ResponseError
from langchain_batch_embed.inputs import Inputs
from langchain_batch_embed.vectors import to_lists

__all__ = ["Results"]

Vector = list[float] | NDArray[np.float32]


class Results:
    """One matrix of float32 with a row an input, filled as the answers come.

    Lists of Python floats, ten times as large, are made batch by batch while other requests
    are still under way, and only if the caller wants lists.

    Args:
        inputs: what is sent, and for which text.
        width: the vectors' width, where it is known from earlier calls.
        lists: whether the caller wants lists.
    """

    def __init__(self, inputs: Inputs, *, width: int | None = None, lists: bool = True) -> None:
        self._wants_lists = lists
        self.width = width
        self.done = np.zeros(len(inputs.texts), dtype=np.bool_)
        self._inputs = inputs
        self._lock = threading.Lock()  # guards the making of _vectors, and `abandoned`
        self._vectors = np.empty((0, 0), dtype=np.float32)
        self._lists: list[list[float] | None] = [None] * inputs.unique
        self._errors: dict[int, BaseException] = {}
        self._abandoned = False

    def add(self, rows: NDArray[np.intp], vectors: NDArray[np.float32]) -> bool:
        """Take the vectors of some rows, (k,) and (k, d); return whether they are wanted still.

        Raises:
            ResponseError: they are not as wide as those that came before.
        """
        with self._lock:
            if self.width not in (None, vectors.shape[1]):
                raise ResponseError(
                    f"vectors of {vectors.shape[1]} numbers came after vectors of {self.width}"
                )
            self.width = vectors.shape[1]
            if len(rows) == len(self.done) and vectors.flags.writeable:
                self._vectors = vectors  # everything at once, from a journal: no second copy
            else:
                if not self._vectors.size:
                    self._vectors = np.empty((len(self.done), self.width), dtype=np.float32)
                self._vectors[rows] = vectors
            self.done[rows] = True
            return not self._abandoned

    def abandon(self) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Return all rows that are done, and their vectors; later ones are not wanted."""
        with self._lock:
            self._abandoned = True
            rows = np.flatnonzero(self.done)
            return rows, self._vectors[rows]

    def take(self, outcome: Outcome) -> None:
        """Take note of a batch that is done or lost."""
        if isinstance(outcome, Done):
            if self._wants_lists:
                self._convert(outcome.rows, outcome.vectors)
        else:
            for row in outcome.rows.tolist():
                for text in self._inputs.owners(row):
                    self._errors.setdefault(text, outcome.error)

    def texts_done(self) -> int:
        """Return how many of the caller's texts have their vector."""
        return int(np.count_nonzero(self.done[self._inputs.row_of]))

    def finish(self) -> list[Failure]:
        """Put the windows of over-long texts together; return the texts without a vector."""
        self._inputs.finish(self._vectors, self.done)
        lost = np.flatnonzero(np.isin(self._inputs.row_of, list(self._errors)))
        row_of = self._inputs.row_of
        return [Failure(index=i, error=self._errors[int(row_of[i])]) for i in lost.tolist()]

    def array(self) -> NDArray[np.float32]:
        """Return the vectors in the caller's order, shape (n, d); all must be there."""
        unique = self._inputs.unique
        if len(self._inputs.row_of) == unique:  # no text twice: the order is the rows' order
            return self._vectors[:unique]
        return self._vectors[self._inputs.row_of]

    def lists(self) -> list[list[float]]:
        """Return the vectors in the caller's order as lists of floats; all must be there."""
        return [vector for vector in self._all_lists() if vector is not None]

    def partial(self) -> list[Vector | None]:
        """Return what is there, in the form that the caller wanted, `None` for what is not."""
        if self._wants_lists:
            return list(self._all_lists())
        row_of = self._inputs.row_of.tolist()
        return [self._vectors[row] if self.done[row] else None for row in row_of]

    def _all_lists(self) -> list[list[float] | None]:
        unique = self._inputs.unique
        done = np.flatnonzero(self.done[:unique])
        rows = np.array([row for row in done.tolist() if self._lists[row] is None], dtype=np.intp)
        if rows.size:  # from the journal, or over-long
            self._convert(rows, self._vectors[rows])
        if len(self._inputs.row_of) == unique:
            return self._lists
        return _unshared([self._lists[row] for row in self._inputs.row_of.tolist()])

    def _convert(self, rows: NDArray[np.intp], vectors: NDArray[np.float32]) -> None:
        lists = to_lists(vectors)
        for row, vector in zip(rows.tolist(), lists, strict=True):
            if row < self._inputs.unique:
                self._lists[row] = vector


def _unshared(vectors: Sequence[list[float] | None]) -> list[list[float] | None]:
    """Copy the lists that stand for several texts: a caller may change one of them."""
    seen: set[int] = set()
    own: list[list[float] | None] = []
    for vector in vectors:
        own.append(vector.copy() if vector is not None and id(vector) in seen else vector)
        seen.add(id(vector))
    return own
