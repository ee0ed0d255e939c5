"""Decides which files that exist a run may replace: those that an earlier run wrote."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from numpy.lib import format as npy

from langchain_batch_embed.commands.output_errors import OutputError, output_errors

__all__ = [
    "APPLICATION",
    "check_replaceable",
    "is_our_database",
    "is_our_npy",
    "is_our_parquet",
    "lists_failures",
    "lists_ids",
]

APPLICATION = 0x6C626531
"""The application id in the header of our SQLite files."""

_LINE = 1 << 20
"""At most this many bytes of a first line are read."""

_MATRIX = 2
"""How many axes our `.npy` files have."""


def check_replaceable(path: Path, is_ours: Callable[[Path], bool], hint: str = "") -> None:
    """Raise `OutputError` if a file exists, is not empty, and was not written by this command.

    Args:
        path: the file that would be replaced.
        is_ours: returns whether this command wrote a file.
        hint: words in parentheses that say what else the file may be.
    """
    with output_errors(path):
        if path.is_dir():
            raise OutputError(f"{path} is a folder: name another file with --out")
        if path.exists() and not path.is_file():
            raise OutputError(
                f"{path} is a device, a pipe or a socket: name an ordinary file with --out"
            )
        if path.exists() and path.stat().st_size and not is_ours(path):
            raise OutputError(
                f"{path} exists and was not written by this command{hint}; name another file with "
                "--out, or move it away"
            )


def is_our_npy(path: Path) -> bool:
    """Return whether a file is a matrix of float32, as this command writes it."""
    with path.open("rb") as file:
        try:
            if npy.read_magic(file) != (1, 0):
                return False
            shape, _, kind = npy.read_array_header_1_0(file)
        except ValueError:
            return False
    return len(shape) == _MATRIX and kind == "<f4"


def is_our_parquet(path: Path) -> bool:
    """Return whether a file is Parquet with our columns and the model in its metadata."""
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    with path.open("rb") as file:  # pyarrow accepts only UTF-8 file names
        try:
            schema = parquet.read_schema(file)
        except pa.ArrowException:
            return False
    return schema.names == ["id", "vector"] and b"model" in (schema.metadata or {})


def is_our_database(path: Path) -> bool:
    """Return whether a file is an SQLite database with our application id."""
    with path.open("rb"):
        pass  # raises if the file may not be read, which SQLite would not say
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        ) as found:
            number: int = found.execute("PRAGMA application_id").fetchone()[0]
            return number == APPLICATION
    except sqlite3.DatabaseError:
        return False


def lists_ids(path: Path) -> bool:
    """Return whether the first line of a file is a JSON string, as in our files of ids."""
    return isinstance(_first(path), str)


def lists_failures(path: Path) -> bool:
    """Return whether the first line of a file is a record of a failure."""
    value = _first(path)
    return isinstance(value, dict) and value.keys() == {"id", "error", "status"}


def _first(path: Path) -> object:
    """Return the JSON value in the first line of a file; `None` if there is none."""
    with path.open("rb") as file:
        try:
            value: object = json.loads(file.readline(_LINE))
        except (ValueError, RecursionError):
            return None
    return value
