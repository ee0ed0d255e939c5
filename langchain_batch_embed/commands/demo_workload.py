"""What the demo embeds: sections of text, the number of their tokens, and a query."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_batch_embed.commands import corpus
from langchain_batch_embed.commands.corpus import Section
from langchain_batch_embed.texts.tokens import counter_for

__all__ = ["Workload", "first_line", "read_workload"]

_SAMPLE = 20  # number of sections that are sent one by one
_QUERY = "the median of numeric data"  # something that the standard library contains


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The sections to embed and the query.

    Attributes:
        folder: the folder that the sections' files are in.
        sections: the sections.
        tokens: the number of tokens of each section.
        query: what to search for.
    """

    folder: Path
    sections: Sequence[Section]
    tokens: Sequence[int]
    query: str

    @property
    def texts(self) -> list[str]:
        """The text of each section."""
        return [section.text for section in self.sections]

    @property
    def sample(self) -> list[str]:
        """The texts that are sent one by one, spread evenly over all."""
        return corpus.evenly(self.texts, _SAMPLE)

    @property
    def origins(self) -> list[dict[str, Any]]:
        """The file and line of each section, as metadata for the vector store."""
        return [
            {"file": section.path.relative_to(self.folder).as_posix(), "line": section.line}
            for section in self.sections
        ]


def read_workload(count: int, path: Path | None, query: str | None, *, model: str) -> Workload:
    """Cut files into sections and count their tokens.

    Args:
        count: the most sections to return.
        path: the file or folder that they come from. `None`: Python's standard library.
        query: what to search for. `None`: words that the sections contain.
        model: the model whose tokens are counted.

    Raises:
        SystemExit: there is no text; the message says what to do.
    """
    if path is None:
        folder, files = corpus.standard_library()
    elif path.is_file():
        folder, files = path.parent, [path]
    else:
        folder, files = path, corpus.text_files(path)
    sections = corpus.sections(files, count)
    if not sections:
        suffixes = " ".join(sorted(corpus.SUFFIXES))
        found = f"no text found in {path or folder}"
        raise SystemExit(f"{found}; --path takes a text file, or a folder of {suffixes} files")
    # Nothing is known about the user's files, but a line of one of them is sure to be found.
    default = _QUERY if path is None else first_line(sections[len(sections) // 2].text)
    tokens = counter_for(model).count([section.text for section in sections])
    return Workload(
        folder=folder, sections=sections, tokens=tokens.tolist(), query=query or default
    )


def first_line(text: str) -> str:
    """Return the first line that is not empty, without the spaces around it."""
    return text.strip().partition("\n")[0].rstrip()
