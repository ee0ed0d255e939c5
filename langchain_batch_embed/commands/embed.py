"""The work of the command `embed`: texts of files become one file of vectors, via a journal."""

import json
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.calls.pipeline import Pipeline
from langchain_batch_embed.calls.prefetch import RUNS
from langchain_batch_embed.calls.prefetch_progress import watched
from langchain_batch_embed.commands.output import Output
from langchain_batch_embed.commands.records import Reading, Record, read
from langchain_batch_embed.commands.sources import Skipped, Source, SourceError
from langchain_batch_embed.embeddings import BatchEmbeddings
from langchain_batch_embed.errors import BudgetError, root_of
from langchain_batch_embed.report import amount, plural

__all__ = ["Contents", "Failed", "Outcome", "StoppedError", "embed", "list_failures", "survey"]

AHEAD = 8_000
"""How many records are read ahead; their vectors take 48 MB at 1,536 dimensions."""

PORTION = 1_024
"""How many records are written at a time."""

HOPELESS = 256
"""After this many failures in a row, and a whole portion without a vector, the texts are not the
cause: stop."""


class StoppedError(Exception):
    """Nothing more is sent, because every text fails or the budget is used up.

    Attributes:
        cause: the error that explains why.
    """

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.cause = cause


@dataclass(slots=True)
class Contents:
    """Counts of what some files contain.

    Attributes:
        records: the number of records.
        blank: how many of them have no text.
        octets: the UTF-8 bytes of all texts.
    """

    records: int = 0
    blank: int = 0
    octets: int = 0

    @property
    def tokens(self) -> int:
        """An estimate of the tokens of all texts, at 4 bytes a token."""
        return math.ceil(self.octets / 4)

    def __str__(self) -> str:
        """Return the counts in a few words."""
        empty = f" ({self.blank:,} of them without a text)" if self.blank else ""
        tokens = "1 token" if self.tokens == 1 else f"{amount(self.tokens)} tokens"
        return f"{plural(self.records, 'record')}{empty}, about {tokens}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A record that has a text but no vector.

    Attributes:
        id: the record's id.
        error: the name of the cause's class.
        status: the HTTP status of the cause; `None` if it has none.
    """

    id: str
    error: str
    status: int | None

    def __str__(self) -> str:
        """Return the id and the cause, but not the text."""
        return f"{self.id}  {self.error}{f' ({self.status})' if self.status else ''}"


@dataclass(slots=True, kw_only=True)
class Outcome:
    """The outcome for all records.

    Attributes:
        written: how many have a vector.
        blank: how many have no text.
        failed: the records that have a text but no vector.
    """

    written: int = 0
    blank: int = 0
    failed: list[Failed] = field(default_factory=list)


def survey(sources: list[Source], how: Reading, skipped: Skipped) -> Contents:
    """Read all files once, so that an unreadable one is found before anything is paid for.

    An unreadable file that was found in a folder is removed from `sources` and listed in `skipped`.
    One that the user named is an error.

    Args:
        sources: the files; changed in place.
        how: how they are read.
        skipped: lists the files that are left out; changed in place.

    Returns:
        Counts of what the remaining files contain.

    Raises:
        SourceError: a named file cannot be read.
    """
    total = Contents()
    for source in list(sources):
        found = Contents()
        try:
            for record in read(source, how):
                found.records += 1
                found.blank += not record.text
                found.octets += len(record.text.encode())
        except (SourceError, OSError) as error:
            reason = getattr(error, "strerror", None)
            cause = SourceError(f"{source.name} cannot be read: {reason}") if reason else error
            if source.is_named:
                raise cause from None
            sources.remove(source)
            skipped.files.append(str(cause))
            continue
        total.records += found.records
        total.blank += found.blank
        total.octets += found.octets
    return total


def embed(
    embeddings: BatchEmbeddings,
    records: Iterable[Record],
    output: Output,
    *,
    total: int,
    shown: bool,
) -> Outcome:
    """Embed records and write their vectors, while the next records are being embedded.

    Args:
        embeddings: has a journal, so that nothing is paid for twice.
        records: the records, in the order of the output's rows.
        output: the file that the vectors are written to.
        total: how many records there are.
        shown: whether to show a bar.

    Raises:
        StoppedError: every text fails, or the budget is used up.
    """
    outcome = Outcome()
    in_a_row = 0
    pipeline = embeddings._pipeline  # noqa: SLF001  # within the same package
    for portion in _portions(pipeline, records, total=total, shown=shown):
        for record, vector, error in portion:
            output.add(record.id, vector)
            if vector is not None:
                outcome.written += 1
                in_a_row = 0
            elif error is None:
                outcome.blank += 1
            else:
                status = getattr(error, "status_code", None)
                name = type(error).__name__
                outcome.failed.append(Failed(id=record.id, error=name, status=status))
                in_a_row += 1
        errors = [error for _, _, error in portion if error is not None]
        spent = next((error for error in errors if isinstance(error, BudgetError)), None)
        if spent is not None:
            raise StoppedError(spent) from spent
        is_last = outcome.written + outcome.blank + len(outcome.failed) >= total
        has_none = errors and not any(vector is not None for _, vector, _ in portion)
        if has_none and (in_a_row >= HOPELESS or (is_last and not outcome.written)):
            cause = root_of(errors)
            raise StoppedError(cause) from cause
    return outcome


_Row = tuple[Record, NDArray[np.float32] | None, BaseException | None]


def _portions(
    pipeline: Pipeline, records: Iterable[Record], *, total: int, shown: bool
) -> Iterator[Sequence[_Row]]:
    """Yield the records in order, in portions, each with its vector or its error."""
    left = iter(records)
    waiting: deque[Record] = deque()
    prefetches = pipeline.prefetches
    with (
        prefetches.open(max_buffered=AHEAD, until_released=True) as prefetch,
        watched(pipeline, prefetch, total=total, unit="text", shown=shown) as bar,
    ):
        while True:
            while len(waiting) <= AHEAD - AHEAD // RUNS:
                read_now = list(islice(left, AHEAD // RUNS))
                if not read_now:
                    break
                waiting.extend(read_now)
                prefetch.announce([record.text for record in read_now if record.text])
            if not waiting:
                return
            portion = [waiting.popleft() for _ in range(min(PORTION, len(waiting)))]
            texts = [record.text for record in portion if record.text]
            failed = prefetches.complete(prefetch, texts)
            good = [text for i, text in enumerate(texts) if i not in failed]
            vectors = prefetch.peek(good) if good else None
            yield _rows(portion, failed, vectors)
            prefetch.release(texts)
            bar.update(len(portion))


def _rows(
    portion: Sequence[Record],
    failed: dict[int, BaseException],
    vectors: NDArray[np.float32] | None,
) -> list[_Row]:
    rows: list[_Row] = []
    text = row = 0
    for record in portion:
        if not record.text:
            rows.append((record, None, None))
            continue
        error = failed.get(text)
        if error is None and vectors is not None:
            rows.append((record, vectors[row], None))
            row += 1
        else:
            rows.append((record, None, error))
        text += 1
    return rows


def list_failures(failed: Sequence[Failed], path: Path) -> None:
    """Write the failed records to a file, one JSON object a line; delete it if none failed."""
    if not failed:
        path.unlink(missing_ok=True)
        return
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(asdict(each))}\n" for each in failed)
