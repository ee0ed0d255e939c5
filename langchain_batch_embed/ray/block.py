"""Embeds one block of a table: rows, nulls and errors; knows nothing of Ray."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from langchain_batch_embed.embeddings import BatchEmbeddings
from langchain_batch_embed.errors import InputError, InputTypeError, PartialEmbeddingsError
from langchain_batch_embed.report import Report

__all__ = ["Embedder", "OnFailure"]

OnFailure = Literal["raise", "null"]


@dataclass(kw_only=True)
class Embedder:
    """Adds a column of vectors to a table; one lives in each worker.

    Args:
        embeddings: makes the vectors.
        text_column: where the texts are.
        vector_column: what the new column is called.
        error_column: the one of error classes; `None`: a failure is raised.
        count: is told what each call did and cost.

    Attributes:
        dimensions: of the vectors, once they are known.
    """

    embeddings: BatchEmbeddings
    text_column: str
    vector_column: str
    error_column: str | None
    count: Callable[[Report], None]
    dimensions: int | None = field(default=None, init=False)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with its vectors, in the same order.

        Raises:
            PartialEmbeddingsError: texts failed, and that is to be raised; or all of several did.
            InputError: a text can never be embedded, likewise.
        """
        texts = table.column(self.text_column).to_pylist()
        errors: dict[int, BaseException] = {}
        rows, vectors = self._embed(texts, errors)
        if vectors is not None and vectors.shape[0]:
            self.dimensions = vectors.shape[1]
        column = self._column(len(texts), rows, vectors)
        added = table.append_column(self.vector_column, column)
        if self.error_column is None:
            return added
        names = [type(errors[row]).__name__ if row in errors else None for row in range(len(texts))]
        return added.append_column(self.error_column, pa.array(names, pa.string()))

    def _embed(
        self, texts: Sequence[str | None], errors: dict[int, BaseException]
    ) -> tuple[Sequence[int], NDArray[np.float32] | None]:
        """Return the rows that have a vector, and the vectors; note why others have none."""
        rows = list(range(len(texts)))
        if self.error_column is not None:
            for row in [row for row in rows if not isinstance(texts[row], str)]:
                errors[row] = InputTypeError("the text is null", indices=[row])
        while True:
            rows = [row for row in rows if row not in errors]
            try:
                return self._call(texts, rows, errors)
            except InputError as error:  # nothing was sent
                bad = [rows[index] for index in error.indices]
                if self.error_column is None or not bad:
                    raise
                errors |= dict.fromkeys(bad, error)

    def _call(
        self, texts: Sequence[str | None], rows: Sequence[int], errors: dict[int, BaseException]
    ) -> tuple[Sequence[int], NDArray[np.float32] | None]:
        if not rows:
            return [], None
        given: Any = [texts[row] for row in rows]  # what is no string is refused
        try:
            vectors = self.embeddings.embed_numpy(given)
        except PartialEmbeddingsError as error:
            self.count(error.report)
            # A wrong key or an outage fails all of them: that is no property of the rows.
            if self.error_column is None or (len(error.failures) == len(rows) > 1):
                raise
            errors |= {rows[failure.index]: failure.error for failure in error.failures}
            made = [vector for vector in error.embeddings if vector is not None]
            kept = [row for row in rows if row not in errors]
            return kept, np.array(made, dtype=np.float32) if made else None
        if (report := self.embeddings.last_report) is not None:
            self.count(report)
        return rows, vectors

    def _column(
        self, count: int, rows: Sequence[int], vectors: NDArray[np.float32] | None
    ) -> pa.Array:
        """Return a column of fixed-size lists of float32; a row without a vector is null."""
        if self.dimensions is None:
            return pa.nulls(count)
        if vectors is not None and len(rows) == count:
            return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), self.dimensions)
        full = np.zeros((count, self.dimensions), dtype=np.float32)
        is_null = np.ones(count, dtype=bool)
        if vectors is not None:
            full[rows] = vectors
            is_null[rows] = False
        flat = pa.array(full.ravel())
        return pa.FixedSizeListArray.from_arrays(flat, self.dimensions, mask=pa.array(is_null))
