"""Writes files of vectors row by row: `.npy`, Parquet or an SQLite database.

Row n belongs to record n. A record without a vector has a row of NaN in a `.npy` file, and NULL in
the others. The file gets its name only when it is complete. Its bytes depend only on the records,
because rows are written in blocks of a fixed size, however they arrive. Only one run at a time
writes it.
"""

import json
import sqlite3
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from langchain_batch_embed.commands.output_errors import OutputError, output_errors
from langchain_batch_embed.commands.output_lock import only_run
from langchain_batch_embed.commands.replaceable import (
    APPLICATION,
    check_replaceable,
    is_our_database,
    is_our_npy,
    is_our_parquet,
    lists_ids,
)

__all__ = ["SUFFIXES", "Output", "open_output"]

BLOCK = 4096
"""How many rows make a block; at 1,536 dimensions they take 24 MB."""

_PAGE = 32_768
"""Bytes in a page of SQLite; smaller pages would leave a quarter of a file empty, at 1,536
dimensions."""

_PIECE = 1 << 20
"""How many bytes of a finished file are read at a time to check it."""


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


class NpyOutput(Output):
    """A `.npy` file of float32, shape (n, d), and a file of the ids, one JSON string a line."""

    def __init__(self, path: Path, *, model: str) -> None:
        super().__init__(path, model=model)
        self.ids_path = path.with_suffix(".ids.jsonl")
        self._ids_part = self.ids_path.with_name(f"{self.ids_path.name}.part")
        self._file: BinaryIO | None = None
        self._ids_file: BinaryIO | None = None
        self._begins_at = 0
        self._checksum = self._ids_checksum = 0

    def replaced(self) -> list[Path]:
        """Return the files that will be written, including that of the ids."""
        return [*super().replaced(), self.ids_path]

    def _check_replaced(self) -> None:
        def is_ours(path: Path) -> bool:
            return self.ids_path.exists() and is_our_npy(path)

        hint = "" if self.ids_path.exists() else f" (there is no {self.ids_path.name} beside it)"
        check_replaceable(self.path, is_ours, hint)
        check_replaceable(self.ids_path, lists_ids)

    def _parts(self) -> list[Path]:
        return [self.part, self._ids_part]

    def _open(self) -> None:
        self._file = self.part.open("wb")
        self._ids_file = self._ids_part.open("wb")

    def _begin(self, dimensions: int) -> None:
        if self._file is not None:
            _write_header(self._file, 0, dimensions)
            self._begins_at = self._file.tell()

    def _write(
        self, row: int, ids: Sequence[str], vectors: Sequence[NDArray[np.float32] | None]
    ) -> None:
        del row
        if self._file is None or self._ids_file is None:
            return
        block = np.full((len(ids), self._dimensions or 0), np.nan, dtype="<f4")
        for i, vector in enumerate(vectors):
            if vector is not None:
                block[i] = vector
        octets = block.tobytes()
        names = "".join(f"{json.dumps(each)}\n" for each in ids).encode()
        self._file.write(octets)
        self._ids_file.write(names)
        self._checksum = zlib.crc32(octets, self._checksum)
        self._ids_checksum = zlib.crc32(names, self._ids_checksum)

    def _close(self, rows: int, dimensions: int) -> None:
        if self._file is not None:
            self._file.seek(0)
            _write_header(self._file, rows, dimensions)  # as long as the first header
        self._stop()

    def _is_complete(self, rows: int) -> bool:
        del rows  # the checksum covers all of them
        return (
            _checksum(self.part, self._begins_at) == self._checksum
            and _checksum(self._ids_part) == self._ids_checksum
        )

    def _stop(self) -> None:
        for file in (self._file, self._ids_file):
            if file is not None:
                file.close()

    def _name(self) -> None:
        self._ids_part.replace(self.ids_path)
        super()._name()


class ParquetOutput(Output):
    """A Parquet file with the columns `id`, a string, and `vector`, a list of d float32."""

    def __init__(self, path: Path, *, model: str) -> None:
        super().__init__(path, model=model)
        try:
            import pyarrow as pa  # noqa: F401, PLC0415  # installed by an extra
        except ImportError:
            raise OutputError(
                f"{path.name} needs pyarrow: pip install 'langchain-batch-embed[files]'"
            ) from None
        self._schema: Any = None
        self._octets: BinaryIO | None = None
        self._file: Any = None

    def _check_replaced(self) -> None:
        check_replaceable(self.path, is_our_parquet)

    def _open(self) -> None:
        self._octets = self.part.open("wb")  # pyarrow accepts only UTF-8 file names

    def _begin(self, dimensions: int) -> None:
        import pyarrow as pa  # noqa: PLC0415
        from pyarrow import parquet  # noqa: PLC0415

        fields = [
            pa.field("id", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), dimensions)),
        ]
        self._schema = pa.schema(fields, metadata={"model": self.model})
        self._file = parquet.ParquetWriter(self._octets, self._schema)

    def _write(
        self, row: int, ids: Sequence[str], vectors: Sequence[NDArray[np.float32] | None]
    ) -> None:
        import pyarrow as pa  # noqa: PLC0415

        del row
        dimensions = self._dimensions or 0
        there = np.array([vector is not None for vector in vectors])
        values = np.zeros((len(ids), dimensions), dtype=np.float32)
        for i, vector in enumerate(vectors):
            if vector is not None:
                values[i] = vector
        lists = pa.FixedSizeListArray.from_arrays(
            pa.array(values.ravel()), type=self._schema.field("vector").type, mask=pa.array(~there)
        )
        self._file.write_table(
            pa.Table.from_arrays([pa.array(ids, pa.string()), lists], schema=self._schema)
        )

    def _close(self, rows: int, dimensions: int) -> None:
        del rows, dimensions
        self._stop()

    def _is_complete(self, rows: int) -> bool:
        import pyarrow as pa  # noqa: PLC0415
        from pyarrow import parquet  # noqa: PLC0415

        with self.part.open("rb") as file:
            try:
                found: int = parquet.read_metadata(file).num_rows
            except pa.ArrowException:
                return False
        return found == rows

    def _stop(self) -> None:
        try:
            if self._file is not None:
                self._file.close()
        finally:
            if self._octets is not None:
                self._octets.close()


class SQLiteOutput(Output):
    """An SQLite database of vectors.

    ```sql
    CREATE TABLE vectors (row INTEGER PRIMARY KEY, id TEXT NOT NULL, vector BLOB);
    CREATE TABLE about (model TEXT NOT NULL, dimensions INTEGER NOT NULL);
    ```

    `row` counts from 0. `vector` is d little-endian float32 numbers, which
    `np.frombuffer(vector, "<f4")` reads, or NULL.
    """

    def __init__(self, path: Path, *, model: str) -> None:
        super().__init__(path, model=model)
        self._connection: sqlite3.Connection | None = None

    def _check_replaced(self) -> None:
        check_replaceable(self.path, is_our_database, " (it may be a journal)")

    def _open(self) -> None:
        connection = self._connection = sqlite3.connect(self.part, isolation_level=None)
        # After a crash nobody needs the unfinished file, so it can do without journal and syncs.
        connection.executescript(
            f"""
            PRAGMA page_size = {_PAGE};
            PRAGMA journal_mode = OFF;
            PRAGMA synchronous = OFF;
            PRAGMA application_id = {APPLICATION};
            CREATE TABLE vectors (row INTEGER PRIMARY KEY, id TEXT NOT NULL, vector BLOB);
            CREATE TABLE about (model TEXT NOT NULL, dimensions INTEGER NOT NULL);
            """
        )

    def _begin(self, dimensions: int) -> None:
        if self._connection is not None:
            self._connection.execute("INSERT INTO about VALUES (?, ?)", (self.model, dimensions))

    def _write(
        self, row: int, ids: Sequence[str], vectors: Sequence[NDArray[np.float32] | None]
    ) -> None:
        if self._connection is None:
            return
        self._connection.execute("BEGIN")
        self._connection.executemany(
            "INSERT INTO vectors VALUES (?, ?, ?)",
            (
                (row + i, record, None if vector is None else vector.astype("<f4").tobytes())
                for i, (record, vector) in enumerate(zip(ids, vectors, strict=True))
            ),
        )
        self._connection.execute("COMMIT")

    def _close(self, rows: int, dimensions: int) -> None:
        del rows, dimensions
        if self._connection is not None:
            self._connection.execute("CREATE INDEX vectors_id ON vectors (id)")
        self._stop()

    def _is_complete(self, rows: int) -> bool:
        size = self.part.stat().st_size
        written = f"{self.part.absolute().as_uri()}?mode=ro"
        try:
            with closing(sqlite3.connect(written, uri=True)) as connection:
                (found,) = connection.execute("SELECT count(*) FROM vectors").fetchone()
                (pages,) = connection.execute("PRAGMA page_count").fetchone()
        except sqlite3.DatabaseError:
            return False
        return bool(found == rows and pages * _PAGE == size)

    def _stop(self) -> None:
        if self._connection is not None:
            self._connection.close()


SUFFIXES: dict[str, type[Output]] = {
    ".npy": NpyOutput,
    ".parquet": ParquetOutput,
    ".db": SQLiteOutput,
}
"""Maps the suffix of an output file to the class that writes it."""


def open_output(path: Path, *, model: str) -> Output:
    """Return an output of the kind that the path's suffix names; nothing is written yet.

    Raises:
        OutputError: the suffix is not known, the folder does not exist, the path is a folder, or
            a package is missing.
    """
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise OutputError(f"--out must end in {', '.join(SUFFIXES)}, not {path.name!r}")
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist")
    if path.is_dir():
        raise OutputError(f"{path} is a folder: name a file with --out")
    return kind(path, model=model)


def _write_header(file: BinaryIO, rows: int, dimensions: int) -> None:
    # NumPy pads the header for any number of rows, so that it can be overwritten at the end.
    npy.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": (rows, dimensions)}
    )


def _checksum(path: Path, begin: int = 0) -> int:
    """Return the CRC-32 of a file's bytes from `begin` to the end."""
    checksum = 0
    with path.open("rb") as file:
        file.seek(begin)
        while piece := file.read(_PIECE):
            checksum = zlib.crc32(piece, checksum)
    return checksum
