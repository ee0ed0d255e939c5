"""Finds text files and cuts them into sections."""

import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

__all__ = [
    "SKIPPED_FOLDERS",
    "SUFFIXES",
    "Section",
    "cut",
    "evenly",
    "sections",
    "standard_library",
    "text_files",
]

_T = TypeVar("_T")

SUFFIXES = frozenset(
    ".adoc .c .cpp .go .h .java .js .md .org .py .rs .rst .tex .ts .txt".split()  # noqa: SIM905
)
"""Suffixes of the files that `text_files` finds."""

# A section of at least `_ENOUGH` characters ends at the next empty line, and one of at least
# `_PLENTY` at the end of any line. For Python's standard library this makes sections of about 125
# tokens, so that 2,048 of them nearly fill a request of 300,000 tokens.
_ENOUGH = 350
_PLENTY = 600

# Folders of third-party code and of generated files, which are not worth a search.
SKIPPED_FOLDERS = frozenset({"__pycache__", "dist-packages", "node_modules", "site-packages"})
_TEST_FOLDERS = frozenset({"idle_test", "test", "tests"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A piece of a file.

    Attributes:
        text: whole lines, never empty.
        path: the file that it comes from.
        line: the number of its first line, from 1.
    """

    text: str
    path: Path
    line: int


def standard_library() -> tuple[Path, list[Path]]:
    """Return the folder of the running Python's standard library and its .py files, sorted.

    Its tests are left out, because many installations of Python do not have them.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    files = _find(folder, {".py"}, skipped=SKIPPED_FOLDERS | _TEST_FOLDERS)
    return folder, files


def text_files(folder: Path) -> list[Path]:
    """Return the text files in a folder and below it, sorted, without hidden ones."""
    return _find(folder, SUFFIXES, skipped=SKIPPED_FOLDERS)


def sections(paths: Iterable[Path], count: int | None = None) -> list[Section]:
    """Cut files into sections of a few hundred characters, at line ends.

    The same files always give the same sections. No two sections have the same text.

    Args:
        paths: the files; bytes that are not UTF-8 become replacement characters.
        count: the most sections to return, spread evenly over all of them; `None` for all.

    Raises:
        OSError: a file cannot be read.
        ValueError: `count` is below 1.
    """
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    unique: dict[str, Section] = {}
    for path in paths:
        for section in cut(path.read_text(encoding="utf-8", errors="replace"), path):
            unique.setdefault(section.text, section)
    found = list(unique.values())
    return found if count is None else evenly(found, count)


def evenly(items: Sequence[_T], count: int) -> list[_T]:
    """Return `count` of the items in order, evenly spaced, or all items if there are fewer."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def cut(text: str, path: Path) -> Iterator[Section]:
    """Yield the sections of a text, of a few hundred characters each, cut at line ends."""
    lines: list[str] = []
    size = 0
    # Not splitlines(), which also splits at form feeds and some other characters within a line.
    for number, line in enumerate(text.split("\n"), 1):
        is_empty = not line.strip()
        if size >= _PLENTY or (size >= _ENOUGH and is_empty):
            yield _section(lines, path, before=number)
            lines, size = [], 0
        if lines or not is_empty:
            lines.append(line)
            size += len(line) + 1
    if lines:
        yield _section(lines, path, before=number + 1)


def _section(lines: list[str], path: Path, *, before: int) -> Section:
    return Section(text="\n".join(lines).rstrip(), path=path, line=before - len(lines))


def _find(folder: Path, suffixes: Iterable[str], *, skipped: frozenset[str]) -> list[Path]:
    wanted = frozenset(suffixes)
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in wanted
        and path.is_file()
        and not any(
            part in skipped or part.startswith(".") for part in path.relative_to(folder).parts
        )
    )
