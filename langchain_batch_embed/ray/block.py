"""Embeds one block of a table, with its null and failing rows; independent of Ray."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from langchain_batch_embed.embeddings import BatchEmbeddings
from langchain_batch_embed.errors import (
    InputError,
    InputTypeError,
    OptionError,
    PartialEmbeddingsError,
)
from langchain_batch_embed.report import Report

__all__ = ["Embedder", "OnFailure", "existing_column", "missing_column"]

OnFailure = Literal["raise", "null"]


def missing_column(name: str, there: Iterable[str]) -> str:
    """Return the message for a column of texts that does not exist."""
    return f"the dataset has no column {name!r}, but {', '.join(there)}; name one with text_column="


def existing_column(name: str) -> str:
    """Return the message for a new column that exists already."""
    return (
        f"the dataset has a column {name!r} already; name another one with vector_column=, or drop "
        "it first with drop_columns"
    )


@dataclass(kw_only=True)
class Embedder:
    """Adds a column of vectors to a table; each worker has one `Embedder`.

    Args:
        embeddings: computes the vectors.
        text_column: name of the column with the texts.
        vector_column: name of the new column of vectors.
        error_column: name of the new column of error classes; `None` raises failures instead.
        count: receives the report of each call.

    Attributes:
        dimensions: width of the vectors; `None` until the first vectors arrive.
    """

    embeddings: BatchEmbeddings
    text_column: str
    vector_column: str
    error_column: str | None
    count: Callable[[Report], None]
    dimensions: int | None = field(default=None, init=False)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with the new columns, its rows in the same order.

        Raises:
            PartialEmbeddingsError: texts failed and there is no error column, or several texts
                were sent and all of them failed.
            InputError: a text can never be embedded, and there is no error column.
            OptionError: the column of texts is missing, or a new column is there already.
        """
        if self.text_column not in table.column_names:
            raise OptionError(missing_column(self.text_column, table.column_names))
        for new in filter(None, (self.vector_column, self.error_column)):
            if new in table.column_names:
                raise OptionError(existing_column(new))
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
        """Return the rows that have a vector, and the vectors; record other rows in `errors`."""
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
        given: Any = [texts[row] for row in rows]  # values that are not strings are refused
        try:
            vectors = self.embeddings.embed_numpy(given)
        except PartialEmbeddingsError as error:
            self.count(error.report)
            # If all texts fail, the cause is a wrong key or an outage, not the rows.
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
        """Return a column of fixed-size lists of float32, with null in rows without a vector."""
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
