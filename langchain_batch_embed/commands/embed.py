"""The command `embed`: the texts of files into one file of vectors, by way of a journal."""

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
from langchain_batch_embed.commands.records import Reading, Record, read
from langchain_batch_embed.commands.sources import Skipped, Source, SourceError
from langchain_batch_embed.commands.writing import Output
from langchain_batch_embed.embeddings import BatchEmbeddings
from langchain_batch_embed.errors import BudgetError, root_of
from langchain_batch_embed.report import amount, plural

__all__ = ["Contents", "Failed", "Outcome", "StoppedError", "embed", "list_failures", "survey"]

AHEAD = 8_000
"""Records that are read ahead: 48 MB of vectors at 1,536 dimensions."""

PORTION = 1_024
"""Records that are written at a time."""

HOPELESS = 256
"""When this many texts in a row fail, and none of a whole portion is embedded, the cause is not the
texts."""


class StoppedError(Exception):
    """Everything fails, or the dollars are used up, so nothing more is sent.

    Attributes:
        cause: why.
    """

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.cause = cause


@dataclass(slots=True)
class Contents:
    """What is in some files.

    Attributes:
        records: in order of the files.
        blank: those without a text.
        octets: UTF-8 bytes of all texts.
    """

    records: int = 0
    blank: int = 0
    octets: int = 0

    @property
    def tokens(self) -> int:
        """About how many tokens the texts have."""
        return math.ceil(self.octets / 4)

    def __str__(self) -> str:
        """Say it in a few words."""
        empty = f" ({self.blank:,} of them without a text)" if self.blank else ""
        tokens = "1 token" if self.tokens == 1 else f"{amount(self.tokens)} tokens"
        return f"{plural(self.records, 'record')}{empty}, about {tokens}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A record that has a text and no vector.

    Attributes:
        id: its own.
        error: the class of the cause.
        status: the HTTP status of the cause; `None`: it has none.
    """

    id: str
    error: str
    status: int | None

    def __str__(self) -> str:
        """The id and the cause, and no text."""
        return f"{self.id}  {self.error}{f' ({self.status})' if self.status else ''}"


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of the records.

    Attributes:
        written: how many have a vector.
        blank: how many have no text.
        failed: those that have a text and no vector.
    """

    written: int = 0
    blank: int = 0
    failed: list[Failed] = field(default_factory=list)


def survey(sources: list[Source], how: Reading, skipped: Skipped) -> Contents:
    """Read all files once, so that a wrong one is found before anything is paid for.

    A file in a folder that cannot be read is left out, and noted; one that the user named is an
    error.

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
    """Embed records and write their vectors, while the next ones are on their way.

    Args:
        embeddings: with a journal, so that nothing is paid for twice.
        records: in order.
        output: where the vectors go.
        total: how many there are.
        shown: show a bar.

    Raises:
        StoppedError: nothing can be embedded any more.
    """
    outcome = Outcome()
    in_a_row = 0
    pipeline = embeddings._pipeline  # noqa: SLF001  # the same package
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
    """Yield the records in order, each with its vector or why it has none."""
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
    """Write what failed into a file, one JSON object a line; delete the file where nothing did."""
    if not failed:
        path.unlink(missing_ok=True)
        return
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(asdict(each))}\n" for each in failed)
