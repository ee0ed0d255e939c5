"""What all output formats share: the order of the steps that write a file row by row.

Row n belongs to record n. The file gets its name only when it is complete. Its bytes depend only on
the records, because rows are written in blocks of a fixed size, however they arrive. Only one run
at a time writes it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.commands.output_errors import OutputError, output_errors
from langchain_batch_embed.commands.output_lock import only_run

__all__ = ["Output"]

BLOCK = 4096
"""How many rows make a block; at 1,536 dimensions they take 24 MB."""


class Output(ABC):
    """A file of vectors that is being written.

    Args:
        path: the name that the finished file gets.
        model: the model that makes the vectors.
    """

    def __init__(self, path: Path, *, model: str) -> None:
        self.path = path
        self.model = model
        self.part = path.with_name(f"{path.name}.part")
        self._dimensions: int | None = None
        self._ids: list[str] = []
        self._vectors: list[NDArray[np.float32] | None] = []
        self._rows = 0

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Create the unfinished files, and keep other runs from them until the end of the block.

        Files that are still unfinished at the end are deleted.

        Raises:
            OutputError: another run writes this output, the files cannot be written, or a file that
                this command did not write would be lost.
        """
        with only_run(self.path):
            self._check_replaced()
            try:
                with output_errors(self.path):
                    for part in self._parts():
                        part.unlink(missing_ok=True)  # left by a run that was killed
                        part.open("xb").close()
                    self._open()
                yield
            finally:
                with suppress(Exception):  # a full disk has been reported already
                    self._stop()
                for part in self._parts():
                    with suppress(OSError):
                        part.unlink(missing_ok=True)

    def add(self, record: str, vector: NDArray[np.float32] | None) -> None:
        """Add one row.

        Args:
            record: the record's id.
            vector: float32 of shape (d,); `None` if the record has no vector.

        Raises:
            OutputError: the file cannot be written.
        """
        self._ids.append(record)
        self._vectors.append(vector)
        with output_errors(self.path):
            if self._dimensions is None and vector is not None:
                self._dimensions = len(vector)
                self._begin(self._dimensions)
            if self._dimensions is not None and len(self._ids) >= BLOCK:
                self._flush()

    def finish(self) -> None:
        """Write the remaining rows, check the file, and give it its name.

        Raises:
            OutputError: no record has a vector, or the file cannot be written.
        """
        if self._dimensions is None:
            raise OutputError("nothing was written, as no text has a vector")
        with output_errors(self.path):
            self._flush()
            self._close(self._rows, self._dimensions)
            if not self._is_complete(self._rows):
                raise OutputError(
                    f"{self.part} was changed by another program while it was written, so "
                    f"{self.path} is left as it was; run the same command again"
                )
            self._name()

    def replaced(self) -> list[Path]:
        """Return the files that will be written, and replaced if they exist."""
        return [self.path, *self._parts()]

    def _parts(self) -> list[Path]:
        return [self.part]

    def _name(self) -> None:
        self.part.replace(self.path)

    def _flush(self) -> None:
        for begin in range(0, len(self._ids), BLOCK):
            block = slice(begin, begin + BLOCK)
            self._write(self._rows, self._ids[block], self._vectors[block])
            self._rows += len(self._ids[block])
        self._ids, self._vectors = [], []

    @abstractmethod
    def _check_replaced(self) -> None:
        """Raise `OutputError` if a file that this command did not write would be replaced."""

    @abstractmethod
    def _open(self) -> None:
        """Open the unfinished files, which exist and are empty."""

    @abstractmethod
    def _begin(self, dimensions: int) -> None:
        """Write what belongs at the beginning of the file."""

    @abstractmethod
    def _write(
        self, row: int, ids: Sequence[str], vectors: Sequence[NDArray[np.float32] | None]
    ) -> None:
        """Write one block of rows; `row` is the number of the first, from 0."""

    @abstractmethod
    def _close(self, rows: int, dimensions: int) -> None:
        """Write what belongs at the end of the file, and close it."""

    @abstractmethod
    def _is_complete(self, rows: int) -> bool:
        """Return whether the closed file holds what was written."""

    @abstractmethod
    def _stop(self) -> None:
        """Close all open files; can be called at any time, and more than once."""
