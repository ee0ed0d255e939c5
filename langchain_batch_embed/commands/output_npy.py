"""Writes vectors to a `.npy` file, and their ids to a file beside it."""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from langchain_batch_embed.commands.output import Output
from langchain_batch_embed.commands.replaceable import check_replaceable, is_our_npy, lists_ids

__all__ = ["NpyOutput"]

_PIECE = 1 << 20
"""How many bytes of a finished file are read at a time to check it."""


class NpyOutput(Output):
    """A `.npy` file of float32, shape (n, d), and a file of the ids, one JSON string a line.

    A record without a vector has a row of NaN.
    """

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
