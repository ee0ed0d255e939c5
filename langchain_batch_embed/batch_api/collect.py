"""Reads the output of an ended batch into the journal, line by line."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import jiter
import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.batch_api import decisions
from langchain_batch_embed.batch_api.answers import Read, Verdict, again, read_line
from langchain_batch_embed.batch_api.records import JobRecord, Line, Part
from langchain_batch_embed.batch_api.service import is_gone
from langchain_batch_embed.batch_api.successors import Successors
from langchain_batch_embed.batch_api.tools import Tools, new_id

__all__ = ["Collector"]

logger = logging.getLogger(__name__)

WRITTEN_AT_ONCE = 2048
"""Vectors to collect before each write to the journal: 12 MB at 1,536 dimensions."""


class Collector:
    """Puts the answers of a batch into the journal, and unanswered lines into new parts.

    Args:
        tools: the store, the service and the other tools of a job.
        successors: moves lines into new parts.
    """

    def __init__(self, tools: Tools, successors: Successors) -> None:
        self._tools = tools
        self._store = tools.store
        self._successors = successors

    def collect(self, job: JobRecord, part: Part) -> None:
        """Read the answers of a part's batch into the journal, and close the part."""
        self._tools.expect_model(job.answered_by)
        left = {line.id: line for line in self._store.lines(part.id)}
        before = len(left)
        reads: dict[str, Read] = {}
        for file_id in (part.output_id, part.error_id):
            for line, read in self._reads(job.id, file_id, left):
                if read.verdict is not Verdict.ANSWERED:  # an answer is in the journal already
                    reads[line.id] = read
        unread = Read(verdict=Verdict.FAILED, error="no answer in the output")
        if part.status != "completed":
            unread = Read(verdict=Verdict.UNANSWERED, error=part.status or "")
        pieces: list[Line] = []
        for line in left.values():
            if job.cancelled is not None:
                pieces.append(replace(line, id=new_id(), state="cancelled"))
            else:
                pieces += again(line, reads.get(line.id, unread), name=new_id)
        is_fruitful = len(left) < before or any(
            read.verdict in (Verdict.REFUSED, Verdict.TOO_LARGE) for read in reads.values()
        )
        barren = 0 if is_fruitful else job.barren + (not part.is_cancelling)
        self._successors.succeed_or_fail(
            part,
            pieces,
            unneeded=(part.output_id, part.error_id),
            barren=barren,
            half_tokens=sum(read.tokens for read in reads.values()),
        )
        for line in left.values():
            self._note_usage(line, reads.get(line.id, unread))
        fatal = decisions.hopeless(barren, f"batches (last status: {part.status})")
        if fatal is not None:
            self._store.change_job(job.id, fatal=fatal)

    def _reads(
        self, job_id: str, file_id: str | None, left: dict[str, Line]
    ) -> Iterator[tuple[Line, Read]]:
        """Yield each line of a file with its result; answers are written to the journal first.

        Args:
            job_id: the job of the lines.
            file_id: the output or the error file of a batch; `None` if the batch has none.
            left: open lines by their ids; answered lines are removed from it.
        """
        if not file_id:
            return
        waiting: list[tuple[Line, Read]] = []
        texts = 0
        try:
            for row in self._tools.service.lines(file_id):
                found = self._read_one(row, left)
                if found is None:
                    continue
                line, read = found
                if read.verdict is not Verdict.ANSWERED:
                    yield found
                    continue
                waiting.append(found)
                del left[line.id]
                texts += len(line.keys)
                if texts >= WRITTEN_AT_ONCE:
                    self._write(job_id, waiting)
                    yield from waiting
                    waiting, texts = [], 0
        except Exception as error:
            self._write(job_id, waiting)  # these answers are paid for
            if not is_gone(error):
                raise
            logger.warning(
                "the server no longer has a batch's output; the texts without an answer are "
                "sent again"
            )
            return
        self._write(job_id, waiting)
        yield from waiting

    def _read_one(self, row: bytes, left: Mapping[str, Line]) -> tuple[Line, Read] | None:
        try:
            parsed = jiter.from_json(row)
        except ValueError:
            return None  # the line counts as unanswered
        line = left.get(str(parsed.get("custom_id"))) if isinstance(parsed, dict) else None
        if line is None:
            return None
        tools = self._tools
        return line, read_line(parsed, line, dimensions=tools.dimensions, agree=tools.agree)

    def _write(self, job_id: str, found: Sequence[tuple[Line, Read]]) -> None:
        """Put vectors into the journal, and record that their lines are done."""
        if not found:
            return
        keys = [key for line, _ in found for key in line.keys]
        answers = [read.answer for _, read in found if read.answer is not None]
        vectors: NDArray[np.float32] = (
            answers[0].vectors
            if len(answers) == 1
            else np.concatenate([answer.vectors for answer in answers])
        )
        self._tools.journal.put(keys, vectors, space=self._tools.space)
        self._store.finish_lines(
            job_id,
            [line.id for line, _ in found],
            answered_by=answers[0].model,
            half_tokens=sum(read.tokens for _, read in found),
        )
        for line, read in found:
            self._note_usage(line, read)

    def _note_usage(self, line: Line, read: Read) -> None:
        """Report the usage of a line, if it was billed."""
        if read.tokens:
            model = None if read.answer is None else read.answer.model
            self._tools.note_usage(model, len(line.keys), read.tokens)
