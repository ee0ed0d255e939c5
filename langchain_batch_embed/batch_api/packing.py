"""Cuts inputs into lines, and groups lines into files. Pure arithmetic."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.batch_api.records import Line, Part
from langchain_batch_embed.texts.packing import pack

__all__ = [
    "MAX_INPUTS",
    "MAX_OCTETS",
    "after",
    "cut",
    "group",
    "lines_of",
    "new_part",
    "parted",
    "within",
]

MAX_INPUTS = 50_000
"""Most inputs over all lines of a batch, from the Batch API's guide."""

MAX_OCTETS = 190_000_000
"""Most bytes of a batch's file. The guide allows 200 MB; the rest is room to split lines later."""

LINE_OCTETS = 400
"""Bytes of a line besides its texts, with room for the options of the request."""


def lines_of(
    keys: Sequence[bytes],
    places: NDArray[np.int32],
    tokens: NDArray[np.int32],
    *,
    max_items: int,
    max_tokens: int | None,
    name: Callable[[], str],
) -> list[Line]:
    """Cut inputs into the fewest lines that keep the limits of a request.

    Args:
        keys: the key of each input.
        places: the index of each input's text in the caller's list, shape (n,).
        tokens: tokens of each input, by the stricter count, shape (n,).
        max_items: most inputs in one line.
        max_tokens: most tokens in one line; `None` if there is no limit.
        name: returns an id that no other line has.
    """
    runs = pack(tokens.astype(np.int64), max_items=max_items, max_tokens=max_tokens, workers=1)
    return [
        Line(
            id=name(),
            keys=tuple(keys[run.start : run.stop]),
            places=places[run.start : run.stop],
            tokens=tokens[run.start : run.stop],
        )
        for run in runs
    ]


def group(
    lines: Iterable[Line],
    *,
    max_tokens: float,
    octets: Callable[[Line], int] = lambda _: 0,
    max_inputs: int = MAX_INPUTS,
    max_octets: int = MAX_OCTETS,
) -> list[list[Line]]:
    """Group lines into files, in order, with as many lines in each as the limits allow.

    Args:
        lines: the lines.
        max_tokens: most tokens in a file, because more may not be enqueued at a time.
        octets: returns the bytes of a line's texts.
        max_inputs: most inputs in a file.
        max_octets: most bytes in a file.
    """
    files: list[list[Line]] = []
    inputs = size = 0
    tokens = 0.0
    for line in lines:
        more = len(line.keys), octets(line) + LINE_OCTETS, line.weight
        fits = (
            inputs + more[0] <= max_inputs
            and size + more[1] <= max_octets
            and tokens + more[2] <= max_tokens
        )
        if not files or not fits:
            files.append([])
            inputs = size = 0
            tokens = 0.0
        files[-1].append(line)
        inputs, size, tokens = inputs + more[0], size + more[1], tokens + more[2]
    return files


def cut(line: Line, borders: Iterable[int], *, name: Callable[[], str], sent: int) -> list[Line]:
    """Cut a line into new lines, before each of the texts at `borders`."""
    edges = sorted({0, len(line.keys), *borders})
    return [
        Line(
            id=name(),
            keys=line.keys[start:stop],
            places=line.places[start:stop],
            tokens=line.tokens[start:stop],
            sent=sent,
        )
        for start, stop in pairwise(edges)
    ]


def within(lines: Iterable[Line], *, max_tokens: float, name: Callable[[], str]) -> list[Line]:
    """Cut lines so that each has at most `max_tokens` tokens, or a single text."""
    return [
        piece
        for line in lines
        for piece in cut(line, _splits(line, max_tokens), name=name, sent=line.sent)
    ]


def parted(
    lines: Iterable[Line], belongs: Callable[[bytes], bool], *, name: Callable[[], str]
) -> tuple[list[Line], list[Line]]:
    """Split lines into those with the texts that belong, and those with the other texts.

    Args:
        lines: the lines.
        belongs: returns whether a text belongs, given its key.
        name: returns an id that no other line has.
    """
    inside: list[Line] = []
    outside: list[Line] = []
    for line in lines:
        is_inside = np.array([belongs(key) for key in line.keys])
        for found, positions in (
            (inside, np.flatnonzero(is_inside)),
            (outside, np.flatnonzero(~is_inside)),
        ):
            if positions.size:
                found.append(_chosen(line, positions, name=name))
    return inside, outside


def new_part(
    lines: Sequence[Line],
    *,
    job: str,
    number: int,
    name: Callable[[], str],
    source: str | None = None,
) -> Part:
    """Return a new part of a job, made of these lines."""
    return Part(
        id=name(),
        job=job,
        number=number,
        source=source,
        texts=sum(len(line.keys) for line in lines),
        tokens=sum(line.weight for line in lines),
    )


def after(part: Part, lines: Sequence[Line], *, name: Callable[[], str]) -> Part:
    """Return a part that takes over lines of another part, whose file holds their texts."""
    source = part.id if part.file_id is not None else part.source
    return new_part(lines, job=part.job, number=part.number, name=name, source=source)


def _chosen(line: Line, positions: NDArray[np.intp], *, name: Callable[[], str]) -> Line:
    """Return a new line with the texts at these positions of a line."""
    return Line(
        id=name(),
        keys=tuple(line.keys[position] for position in positions.tolist()),
        places=line.places[positions],
        tokens=line.tokens[positions],
        sent=line.sent,
    )


def _splits(line: Line, max_tokens: float) -> Iterator[int]:
    """Yield the positions at which to cut a line into pieces of at most `max_tokens` tokens."""
    total = 0.0
    for position, tokens in enumerate(line.tokens.tolist()):
        if total and total + tokens > max_tokens:
            yield position
            total = 0.0
        total += tokens
