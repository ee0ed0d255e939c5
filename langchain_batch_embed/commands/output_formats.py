"""Chooses the format of an output by the suffix of its file."""

from pathlib import Path

from langchain_batch_embed.commands.output import Output
from langchain_batch_embed.commands.output_errors import OutputError
from langchain_batch_embed.commands.output_npy import NpyOutput
from langchain_batch_embed.commands.output_parquet import ParquetOutput
from langchain_batch_embed.commands.output_sqlite import SQLiteOutput

__all__ = ["SUFFIXES", "open_output"]

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
