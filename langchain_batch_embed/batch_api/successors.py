"""Moves the lines of a part into new parts, and closes the old one in the same transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from langchain_batch_embed.batch_api.answers import isolated
from langchain_batch_embed.batch_api.packing import after, cut, group, within
from langchain_batch_embed.batch_api.records import Line, Part
from langchain_batch_embed.batch_api.tools import Tools, new_id

__all__ = ["Successors"]


class Successors:
    """Closes parts, and puts the lines that are sent again into new parts.

    Args:
        tools: the store, the service and the other tools of a job.
    """

    def __init__(self, tools: Tools) -> None:
        self._store = tools.store
        self._space = tools.space.digest
        self._now = tools.calendar.time

    def repack(self, part: Part, most: float) -> bool:
        """Split a part into files of at most `most` tokens; return whether it could be split."""
        lines = within(self._store.lines(part.id), max_tokens=most, name=new_id)
        files = group(lines, max_tokens=most)
        if len(files) <= 1:
            return False
        self.succeed(part, files, tries=part.tries, not_before=part.not_before)
        return True

    def renew(self, part: Part, lines: Sequence[Line]) -> None:
        """Put a part's lines into one new part, under new ids."""
        fresh = [cut(line, (), name=new_id, sent=line.sent)[0] for line in lines]
        self.succeed(part, [fresh], tries=part.tries, not_before=part.not_before)

    def isolate(self, part: Part, named: Mapping[int, str]) -> bool:
        """Cut the lines that a failed batch names, to send them again; return whether any exist.

        Args:
            part: the part.
            named: the numbers of the refused lines, from 1, and why each is refused.
        """
        lines = self._store.lines(part.id, only_open=False)
        if not named.keys() & set(range(1, len(lines) + 1)):
            return False
        self.succeed_or_fail(part, isolated(lines, named, name=new_id))
        return True

    def succeed(
        self, part: Part, files: Sequence[Sequence[Line]], *, tries: int = 0, not_before: float = 0
    ) -> None:
        """Close a part, and make one new part for each of these files."""
        successors = [
            (replace(after(part, lines, name=new_id), tries=tries, not_before=not_before), lines)
            for lines in files
        ]
        self._store.replace_lines(part, successors, space=self._space)

    def succeed_or_fail(self, part: Part, pieces: Sequence[Line], **values: Any) -> None:
        """Close a part; put its open lines into new parts, and record the others as final.

        Args:
            part: the part.
            pieces: the lines that replace the part's open lines.
            values: see `JobStore.replace_lines`.
        """
        files = group(
            (line for line in pieces if line.state == "open"),
            max_tokens=self._store.limit(self._space, now=self._now()),
        )
        self._store.replace_lines(
            part,
            [(after(part, lines, name=new_id), lines) for lines in files],
            [line for line in pieces if line.state != "open"],
            space=self._space,
            **values,
        )
