"""Finds the files that a command reads, their formats, and the files that it leaves out."""

import json
import os
import shutil
import stat
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
"""The path that stands for standard input."""

DATA_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".tsv": "tsv",
}
"""Maps the suffixes of files with one text a row to their formats."""

_BEGINNING = 65_536
"""How many bytes at the beginning of a file decide what it is."""

_ODD = 0.05
"""A file counts as binary if more than this share of its characters is not text. In random bytes
the share is about 60 %, in a text with a few damaged characters 0.1 %."""

_MARKS = (b"\xff\xfe", b"\xfe\xff")
"""The byte order marks of UTF-16 files, which are text although their bytes look binary."""

_CONTROL = frozenset(range(32)) - {9, 10, 12, 13, 27}


class SourceError(Exception):
    """A file cannot be read; the message names it, and says why or what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file to read.

    Attributes:
        path: where the file is.
        name: its name in ids and messages.
        format: its format.
        is_named: whether the user named the file itself, and not a folder that contains it.
    """

    path: Path
    name: str
    format: Format
    is_named: bool = True

    @property
    def is_utf16(self) -> bool:
        """Whether the file begins with a byte order mark of UTF-16.

        Raises:
            OSError: the file cannot be opened.
        """
        with self.path.open("rb") as file:
            return file.read(2) in _MARKS

    def text(self) -> str:
        """Return the whole text of the file, which is UTF-8, or UTF-16 with a byte order mark.

        Invalid bytes become U+FFFD.

        Raises:
            SourceError: the file is binary.
        """
        octets = self.path.read_bytes()
        if octets[:2] in _MARKS:
            return octets.decode("utf-16", errors="replace")
        if is_binary(octets):
            raise SourceError(
                f"{self.name} is not UTF-8 text: it is binary, or has another encoding"
            )
        return octets.decode("utf-8-sig", errors="replace")


@dataclass(slots=True)
class Skipped:
    """What is left out, of the files and folders that were found.

    Attributes:
        suffixes: by suffix, the number of files that are hidden or have an unknown suffix.
        folders: by name, the number of folders whose contents are left out.
        files: for each other file that is left out, its name and the reason.
    """

    suffixes: Counter[str] = field(default_factory=Counter)
    folders: Counter[str] = field(default_factory=Counter)
    files: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return one line that names what is left out; empty if nothing is."""
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
    format: Format | None = None,  # noqa: A002  # named like the option
) -> Iterator[tuple[list[Source], Skipped]]:
    """Find the files to read, and yield them with what is left out.

    Every file is read twice, first to check that all of it can be read before anything is paid for,
    and then to embed it. Standard input and other pipes are therefore copied into temporary files,
    which exist until the end of the `with` block.

    Args:
        paths: files, folders and `STDIN`.
        format: the format of the files that are named. `None`: found by suffix, or else by content.

    Raises:
        SourceError: a named file is binary or JSON in one piece, or standard input is closed.
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
            elif not path.is_file():  # a pipe, such as <(zcat texts.jsonl.gz)
                with path.open("rb") as pipe:
                    copy = _copied(pipe, Path(folder) / f"{len(sources)}{path.suffix}")
                sources.append(_named(copy, _shown(path), format))
            else:
                sources.append(_named(path, _shown(path), format))
        yield sources, skipped


def is_binary(octets: bytes) -> bool:
    """Return whether the bytes at the beginning of a file are not text."""
    beginning = octets[:_BEGINNING]
    if beginning[:2] in _MARKS:
        return False
    if b"\0" in beginning:
        return True
    text = beginning.decode("utf-8", errors="replace")
    odd = text.count("\ufffd") + sum(ord(c) in _CONTROL for c in text)
    return odd > max(1, _ODD * len(text))  # the last character may be cut off


def _shown(path: Path) -> str:
    """Return a path as valid UTF-8 text, which ids need; bytes that are not UTF-8 become U+FFFD."""
    return os.fsencode(path).decode(errors="replace")


def _copied(pipe: BinaryIO, copy: Path) -> Path:
    with copy.open("wb") as file:
        shutil.copyfileobj(pipe, file)
    return copy


def _named(path: Path, name: str, format: Format | None) -> Source:  # noqa: A002
    kind = format or DATA_SUFFIXES.get(path.suffix.lower()) or _guess(path, name)
    return Source(path=path, name=name, format=kind)


def _guess(path: Path, name: str) -> Format:
    """Return the format of a file whose suffix does not show it, judged by its beginning.

    Raises:
        SourceError: the file is binary, or JSON in one piece.
    """
    with path.open("rb") as file:
        beginning = file.read(_BEGINNING)
    if beginning[:4] == b"PAR1":
        return "parquet"
    if is_binary(beginning):
        raise SourceError(f"{name} is not UTF-8 text: it is binary, or has another encoding")
    first = beginning.lstrip().partition(b"\n")[0]
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return "jsonl"
    if path.suffix.lower() == ".json":
        raise SourceError(
            f"{name} is a single JSON value; convert it to JSON Lines, one object a line (jq -c "
            "'.[]')"
        )
    return "text"


def _below(folder: Path, skipped: Skipped) -> Iterator[Source]:
    """Yield the files in a folder and below it, sorted; record in `skipped` what is left out.

    Raises:
        SourceError: the folder itself cannot be read.
    """

    def leave_out(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise SourceError(f"{_shown(folder)} cannot be read: {error.strerror}") from None
        skipped.files.append(f"{_shown(Path(error.filename))} ({error.strerror})")

    for place, folders, files in os.walk(folder, onerror=leave_out):
        for name in list(folders):
            if name in SKIPPED_FOLDERS or name.startswith("."):
                folders.remove(name)
                skipped.folders[name] += 1
            elif (Path(place) / name).is_symlink():  # os.walk does not follow it
                skipped.files.append(f"{_shown(Path(place) / name)} (a link to a folder)")
        folders.sort()
        for name in sorted(files):
            path = Path(place) / name
            suffix = path.suffix.lower()
            kind: Format | None = "text" if suffix in SUFFIXES else DATA_SUFFIXES.get(suffix)
            if name.startswith(".") or kind is None:
                skipped.suffixes[suffix] += 1
                continue
            if reason := _unreadable(path, kind):
                skipped.files.append(f"{_shown(path)} ({reason})")
            else:
                yield Source(path=path, name=_shown(path), format=kind, is_named=False)


def _unreadable(path: Path, kind: Format) -> str | None:
    """Return why a file of a folder cannot be read; `None` if it can."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # the wait for a pipe could last forever
            return "not a regular file"
        with path.open("rb") as file:
            beginning = file.read(_BEGINNING)
    except OSError as error:
        return error.strerror
    return "not UTF-8 text" if kind != "parquet" and is_binary(beginning) else None
