"""The files that a command is given: which of them it reads, as what, and which it leaves out."""

import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from langchain_batch_embed.commands.corpus import SKIPPED_FOLDERS, SUFFIXES
from langchain_batch_embed.report import plural

__all__ = ["DATA_SUFFIXES", "STDIN", "Format", "Skipped", "Source", "SourceError", "find"]

Format = Literal["text", "jsonl", "csv", "tsv", "parquet"]

STDIN = Path("-")
"""Stands for standard input."""

DATA_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".tsv": "tsv",
}
"""The files with one text a row."""

_BEGINNING = 65_536
"""Bytes by which a file is judged."""

_ODD = 0.05
"""Share of characters that are no text, from which on a file is none. Random bytes have some 60 %,
a text with a few damaged characters a tenth of a percent."""

_MARKS = (b"\xff\xfe", b"\xfe\xff")
"""With which UTF-16 begins, whose bytes look like no text."""

_CONTROL = frozenset(range(32)) - {9, 10, 12, 13, 27}


class SourceError(Exception):
    """A file cannot be read; the message says which one, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file.

    Attributes:
        path: where it is.
        name: what ids and messages call it.
        format: what is in it.
        is_named: the user named it, and not the folder that it is in.
    """

    path: Path
    name: str
    format: Format
    is_named: bool = True

    def text(self) -> str:
        """Return the whole text of it.

        Raises:
            SourceError: it is no text.
        """
        octets = self.path.read_bytes()
        if octets[:2] in _MARKS:
            return octets.decode("utf-16", errors="replace")
        if is_binary(octets):
            raise SourceError(
                f"{self.name} is no UTF-8 text: it is binary, or has another encoding"
            )
        return octets.decode("utf-8-sig", errors="replace")


@dataclass(slots=True)
class Skipped:
    """What was found in a folder and is not read.

    Attributes:
        suffixes: how many files have each suffix that is not known.
        folders: names of folders whose contents are left out.
        files: what is wrong with other files.
    """

    suffixes: Counter[str] = field(default_factory=Counter)
    folders: Counter[str] = field(default_factory=Counter)
    files: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Say it in one line; an empty text: nothing is left out."""
        parts = []
        if self.suffixes:
            kinds = ", ".join(f"{n:,} {s or 'without a suffix'}" for s, n in _sorted(self.suffixes))
            parts.append(f"{plural(self.suffixes.total(), 'file')} ({kinds})")
        if self.folders:
            names = ", ".join(name for name, _ in _sorted(self.folders))
            parts.append(f"{plural(self.folders.total(), 'folder')} ({names})")
        parts += self.files
        return f"skipped: {'; '.join(parts)}" if parts else ""


def _sorted(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))


@contextmanager
def find(
    paths: Iterable[Path],
    *,
    format: Format | None = None,  # noqa: A002  # as the option is called
) -> Iterator[tuple[list[Source], Skipped]]:
    """Find the files to read.

    Standard input and other pipes are copied into temporary files, as each file is read twice: to
    see that all of it can be read before anything is paid for, and to embed it.

    Args:
        paths: files, folders and `STDIN`.
        format: of the files that are named; `None`: by suffix, or else by content.

    Raises:
        SourceError: a named file is binary, or standard input is closed.
    """
    with tempfile.TemporaryDirectory() as folder:
        sources: list[Source] = []
        skipped = Skipped()
        for path in paths:
            if path == STDIN:
                if sys.stdin is None:
                    raise SourceError("standard input is closed: give a file in place of -")
                copy = _copied(sys.stdin.buffer, Path(folder) / f"{len(sources)}")
                sources.append(_named(copy, "stdin", format))
            elif path.is_dir():
                sources += _below(path, skipped)
            elif not path.is_file():  # <(zcat texts.jsonl.gz)
                with path.open("rb") as pipe:
                    copy = _copied(pipe, Path(folder) / f"{len(sources)}{path.suffix}")
                sources.append(_named(copy, _shown(path), format))
            else:
                sources.append(_named(path, _shown(path), format))
        yield sources, skipped


def is_binary(octets: bytes) -> bool:
    """Tell whether the beginning of a file is no text."""
    beginning = octets[:_BEGINNING]
    if beginning[:2] in _MARKS:
        return False
    if b"\0" in beginning:
        return True
    text = beginning.decode("utf-8", errors="replace")
    odd = text.count("\ufffd") + sum(ord(c) in _CONTROL for c in text)
    return odd > max(1, _ODD * len(text))  # the last character may be cut in two


def _shown(path: Path) -> str:
    """Return a path as text: a name may have bytes that are no UTF-8, and ids may not."""
    return os.fsencode(path).decode(errors="replace")


def _copied(pipe: BinaryIO, copy: Path) -> Path:
    with copy.open("wb") as file:
        shutil.copyfileobj(pipe, file)
    return copy


def _named(path: Path, name: str, format: Format | None) -> Source:  # noqa: A002
    kind = format or DATA_SUFFIXES.get(path.suffix.lower()) or _guess(path, name)
    return Source(path=path, name=name, format=kind)


def _guess(path: Path, name: str) -> Format:
    """Say what is in a file whose suffix does not tell.

    Raises:
        SourceError: it is binary, or JSON in one piece.
    """
    with path.open("rb") as file:
        beginning = file.read(_BEGINNING)
    if beginning[:4] == b"PAR1":
        return "parquet"
    if is_binary(beginning):
        raise SourceError(f"{name} is no UTF-8 text: it is binary, or has another encoding")
    first = beginning.lstrip().partition(b"\n")[0]
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return "jsonl"
    if path.suffix.lower() == ".json":
        raise SourceError(
            f"{name} is JSON in one piece: make it JSON lines, one object a line (jq -c '.[]')"
        )
    return "text"


def _below(folder: Path, skipped: Skipped) -> Iterator[Source]:
    """Yield the files in a folder and below it, sorted; note what is left out."""
    for place, folders, files in os.walk(folder):
        for name in list(folders):
            if name in SKIPPED_FOLDERS or name.startswith("."):
                folders.remove(name)
                skipped.folders[name] += 1
        folders.sort()
        for name in sorted(files):
            path = Path(place) / name
            suffix = path.suffix.lower()
            kind: Format | None = "text" if suffix in SUFFIXES else DATA_SUFFIXES.get(suffix)
            if name.startswith(".") or kind is None or not path.is_file():
                skipped.suffixes[suffix] += 1
                continue
            try:
                with path.open("rb") as file:
                    beginning = file.read(_BEGINNING)
            except OSError as error:
                skipped.files.append(f"{path} ({error.strerror})")
                continue
            if kind != "parquet" and is_binary(beginning):
                skipped.files.append(f"{path} (no UTF-8 text)")
                continue
            yield Source(path=path, name=_shown(path), format=kind, is_named=False)
