"""Reads the texts and their ids from files one after another, with only a part in memory."""

import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_batch_embed.commands.corpus import cut
from langchain_batch_embed.commands.sources import Source, SourceError
from langchain_batch_embed.report import plural

__all__ = ["Reading", "Record", "read"]

_SURROGATES = re.compile("[\ud800-\udfff]")
"""Surrogates, halves of UTF-16 characters, which JSON can contain and UTF-8 cannot."""

_BLOCK = 1 << 24
"""How many bytes of a CSV file are read at a time; no row may be longer."""

_ROWS = 1024
"""How many rows of a Parquet file are read at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One text and its id.

    Attributes:
        id: the text's own id, or else the file and the number of the line or row.
        text: the text to embed; empty if the record has none.
    """

    id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How files are read.

    Attributes:
        field: the field of JSON lines that contains the text.
        column: the column of CSV, TSV and Parquet files that contains the text.
        id: the field or column that contains the id; it must be there. `None`: `id`, and where
            it is missing, the file and the number of the line or row are the id.
        whole: whether each text file is one text and is not cut into sections.
    """

    field: str = "text"
    column: str = "text"
    id: str | None = None
    whole: bool = False

    @property
    def id_name(self) -> str:
        """The field or column that contains the id if it is there."""
        return "id" if self.id is None else self.id


def read(source: Source, how: Reading) -> Iterator[Record]:
    """Yield the records of a file, in order.

    Raises:
        SourceError: the file cannot be read on; the records yielded before are valid.
        OSError: the file cannot be opened.
    """
    if source.format == "text":
        return _sections(source, how)
    if source.format == "jsonl":
        return _lines(source, how)
    return _rows(source, how)


def _sections(source: Source, how: Reading) -> Iterator[Record]:
    text = source.text()
    if how.whole:
        yield Record(id=source.name, text=text if text.strip() else "")
        return
    for section in cut(text, Path(source.name)):
        yield Record(id=f"{source.name}:{section.line}", text=section.text)


def _lines(source: Source, how: Reading) -> Iterator[Record]:
    is_first = True
    with source.path.open("rb") as file:
        lines: Iterable[bytes] = file
        if source.is_utf16:
            wide = io.TextIOWrapper(file, encoding="utf-16", errors="replace", newline="\n")
            lines = (each.encode(errors="replace") for each in wide)
        for number, octets in enumerate(lines, 1):
            line = octets.removeprefix(b"\xef\xbb\xbf") if number == 1 else octets
            if not line.strip():
                continue
            where = f"{source.name}, line {number:,}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:  # not chained: it could quote the line
                raise SourceError(f"{where} is not JSON ({type(error).__name__})") from None
            if not isinstance(value, dict):
                raise SourceError(f"{where} is not a JSON object, such as {{{how.field!r}: ...}}")
            if is_first and how.field not in value:
                raise SourceError(_missing(where, "field", how.field, list(value)))
            if is_first and how.id is not None and how.id not in value:
                raise SourceError(_missing(where, "field", how.id, list(value), option="id"))
            is_first = False
            yield Record(
                id=_id(value.get(how.id_name), f"{source.name}:{number}"),
                text=_text(value.get(how.field), where),
            )


def _rows(source: Source, how: Reading) -> Iterator[Record]:
    """Yield the rows of a CSV, TSV or Parquet file."""
    number = 0
    try:
        import pyarrow as pa  # noqa: PLC0415  # installed by an extra
    except ImportError:
        raise SourceError(
            f"{source.name} needs pyarrow: pip install 'langchain-batch-embed[files]'"
        ) from None
    try:
        for batch in _batches(source, how):
            columns = batch.to_pydict()
            texts = columns[how.column]
            ids = columns.get(how.id_name) or [None] * len(texts)
            for text, name in zip(texts, ids, strict=True):
                number += 1
                where = f"{source.name}, row {number:,}"
                yield Record(id=_id(name, f"{source.name}:{number}"), text=_text(text, where))
    except (pa.ArrowException, UnicodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the operating system: the file cannot be opened
        # Do not use its message, which could quote a row.
        what = "a complete Parquet file" if source.format == "parquet" else "CSV in UTF-8 or UTF-16"
        raise SourceError(
            f"{source.name} cannot be read after row {number:,} ({type(error).__name__}): is it "
            f"{what}?"
        ) from None


def _batches(source: Source, how: Reading) -> Iterator[Any]:
    if source.format == "parquet":
        from pyarrow import parquet  # noqa: PLC0415

        with parquet.ParquetFile(source.path) as file:
            columns = _columns(source, how, file.schema_arrow.names)
            yield from file.iter_batches(batch_size=_ROWS, columns=columns)
        return
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import csv  # noqa: PLC0415

    wrong: list[Any] = []

    def refuse(row: Any) -> str:
        wrong.append(row)
        return "error"

    options = {
        "read_options": csv.ReadOptions(
            block_size=_BLOCK,
            use_threads=False,
            encoding="utf-16" if source.is_utf16 else "utf8",
        ),
        "parse_options": csv.ParseOptions(
            delimiter="\t" if source.format == "tsv" else ",",
            newlines_in_values=True,
            invalid_row_handler=refuse,
        ),
    }
    if not source.path.stat().st_size:
        return
    try:
        yield from _parsed(source, how, options)
    except pa.ArrowInvalid:
        if not wrong:
            raise
        raise SourceError(_ragged(source, wrong[0])) from None


def _parsed(source: Source, how: Reading, options: dict[str, Any]) -> Iterator[Any]:
    """Yield the needed columns of a CSV or TSV file in batches of rows, all values as strings."""
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import csv  # noqa: PLC0415

    with csv.open_csv(source.path, **options) as table:
        columns = _columns(source, how, table.schema.names)
    as_they_stand = csv.ConvertOptions(
        include_columns=columns, column_types=dict.fromkeys(columns, pa.string())
    )
    with csv.open_csv(source.path, convert_options=as_they_stand, **options) as table:
        yield from table


def _columns(source: Source, how: Reading, names: list[str]) -> list[str]:
    """Return the columns to read: that of the text and, if it exists, that of the id."""
    if how.column not in names:
        raise SourceError(_missing(source.name, "column", how.column, names))
    if how.id is not None and how.id not in names:
        raise SourceError(_missing(source.name, "column", how.id, names, option="id"))
    return list(dict.fromkeys([how.column, *([how.id_name] if how.id_name in names else [])]))


def _ragged(source: Source, row: Any) -> str:
    where = "" if row.number is None else f", row {row.number - 1:,}"  # row 1 is the header
    return (
        f"{source.name}{where} has {plural(row.actual_columns, 'column')} instead of "
        f"{row.expected_columns}: put texts with "
        f"{'tabs' if source.format == 'tsv' else 'commas'} in double quotes"
    )


def _missing(where: str, kind: str, name: str, names: list[str], option: str = "") -> str:
    there = ", ".join(names) or "none"
    return f"{where} has no {kind} {name!r}; it has {there}: choose one with --{option or kind}"


def _text(value: object, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise SourceError(f"the text in {where} must be a string, not {type(value).__name__}")
    return _SURROGATES.sub("\ufffd", value) if value.strip() else ""


def _id(value: object, otherwise: str) -> str:
    if value is None or value != value:  # noqa: PLR0124  # NaN, as pandas writes a missing number
        return otherwise
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas makes floats of integers if one of them is missing
    elif isinstance(value, bytes):
        value = value.decode(errors="replace")
    elif isinstance(value, dict | list):
        return otherwise
    return _SURROGATES.sub("\ufffd", str(value)) or otherwise
