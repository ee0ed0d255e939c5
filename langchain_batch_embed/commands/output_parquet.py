"""Writes vectors and their ids to a Parquet file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.commands.output import Output
from langchain_batch_embed.commands.output_errors import OutputError
from langchain_batch_embed.commands.replaceable import check_replaceable, is_our_parquet

__all__ = ["ParquetOutput"]


class ParquetOutput(Output):
    """A Parquet file with the columns `id`, a string, and `vector`, a list of d float32.

    A record without a vector has NULL in its place.
    """

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
