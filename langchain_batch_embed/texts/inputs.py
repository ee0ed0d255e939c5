"""Turns the caller's texts into the inputs that are sent, and maps the vectors back to the texts.

Identical texts become one input. An over-long text becomes several inputs, its windows. The rows
of one matrix hold the vectors: first a row for each unique text, then a row for each window. So in
the common case the answer to the caller is the first rows of the matrix, without a copy.
"""

from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.errors import InputError, InputTypeError
from langchain_batch_embed.limits import Limits
from langchain_batch_embed.report import name_indices
from langchain_batch_embed.texts.packing import Sizes
from langchain_batch_embed.texts.tokens import (
    TokenCounter,
    WindowError,
    count_bytes,
    weighted_mean,
    windows,
)

__all__ = ["Inputs", "LongInputs", "check_query", "check_texts", "prepare"]

LongInputs = Literal["average", "truncate", "error"]

_MISSING = frozenset({"NAType", "NaTType", "NoneType"})
"""Types of the values that pandas and its users put where a text is missing."""

_Windows = tuple[list[int], list[int]]
"""The rows of a text's windows, and the tokens of each window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The inputs to send for a list of texts, one row per input.

    Attributes:
        texts: the string of each row; the rows of over-long texts themselves are never sent.
        tokens: tokens of each row, shape (rows,).
        charges: what the provider's limiter charges for each row, in tokens, shape (rows,).
        octets: UTF-8 bytes of each row, shape (rows,).
        unique: number of rows for unique texts; the rows after them are windows.
        row_of: the row of each text that the caller gave, shape (n,).
        windows: maps the row of an over-long text to the rows and weights of its windows.
    """

    texts: list[str]
    tokens: NDArray[np.int64]
    charges: NDArray[np.int64]
    octets: NDArray[np.int64]
    unique: int
    row_of: NDArray[np.intp]
    windows: dict[int, _Windows]

    @property
    def sizes(self) -> Sizes:
        """The cost of each row, where `tokens` is the larger of `tokens` and `charges`."""
        tokens = np.maximum(self.tokens, self.charges)
        return Sizes(tokens=tokens, charges=self.charges, octets=self.octets)

    def means(
        self, get: Callable[[list[int]], NDArray[np.float32]], done: NDArray[np.bool_]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the row and vector, (d,), of each over-long text whose windows are all done.

        Args:
            get: returns the vectors of some rows, shape (k, d).
            done: which rows have their vector, shape (rows,).
        """
        for row, (rows, weights) in self.windows.items():
            if not done[row] and done[rows].all():
                yield row, weighted_mean(get(rows), weights)

    def missing(self, done: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Return the rows that still have to be sent, shape (m,), given those that are done."""
        needed = np.zeros(len(self.texts), dtype=np.bool_)
        needed[: self.unique] = True
        for row, (rows, _) in self.windows.items():
            needed[row] = False
            if not done[row]:
                needed[rows] = True
        return np.flatnonzero(needed & ~done)

    def settled(self, done: NDArray[np.bool_]) -> int:
        """Return how many unique texts need nothing more sent, given the rows that are done."""
        texts = done[: self.unique].copy()
        for row, (rows, _) in self.windows.items():
            texts[row] |= done[rows].all()
        return int(np.count_nonzero(texts))

    def owners(self) -> dict[int, list[int]]:
        """Return for the row of each window the rows of the over-long texts that it is part of."""
        owners: dict[int, list[int]] = {}
        for text, (rows, _) in self.windows.items():
            for row in dict.fromkeys(rows):
                owners.setdefault(row, []).append(text)
        return owners


def check_texts(texts: Iterable[Any]) -> list[str]:
    """Return the texts as a list.

    Raises:
        InputTypeError: one string was given instead of a list, or some texts are not strings.
    """
    kind = type(texts)
    if hasattr(kind, "columns") or hasattr(kind, "data_vars"):  # pandas yields names of columns
        raise InputTypeError(
            f"a list of texts is needed, not a {kind.__name__}; pass its column of texts, as in "
            'table["text"]'
        )
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        given = "None" if texts is None else f"one {kind.__name__}"
        raise InputTypeError(f"a list of texts is needed, not {given}{_instead_of(texts)}")
    if kind.__name__ == "Document":  # LangChain's yields its fields
        raise InputTypeError(
            "a list of texts is needed, not one Document; pass [document.page_content]"
        )
    if getattr(texts, "ndim", 1) == 0:
        raise InputTypeError(
            "a list of texts is needed, not an array without axes; pass [array.item()]"
        )
    listed = list(texts)
    if set(map(type, listed)) <= {str}:
        return listed
    wrong = [i for i, text in enumerate(listed) if not isinstance(text, str)]
    if wrong:
        values = [listed[i] for i in wrong]
        kinds = ", ".join(sorted({type(value).__name__ for value in values}))
        which = f"is {kinds} (index" if len(wrong) == 1 else f"are {kinds} (indices"
        raise InputTypeError(
            f"every text must be a str, but {len(wrong):,} of {len(listed):,} {which} "
            f"{name_indices(wrong)}){_advice(values)}",
            indices=wrong,
        )
    return listed


def check_query(text: Any) -> str:
    """Return the text of a query.

    Raises:
        InputTypeError: it is not a string.
    """
    if isinstance(text, str):
        return text
    kind = type(text).__name__
    hint = "; pass its page_content" if kind == "Document" else ""
    if isinstance(text, Iterable) and not isinstance(text, bytes) and not hint:
        hint = "; embed_documents takes several texts"
    raise InputTypeError(f"a query must be a str, not {'None' if text is None else kind}{hint}")


def _instead_of(texts: object) -> str:
    """Return what to pass in place of an object that is no list of texts."""
    if isinstance(texts, str):
        return "; pass [text], or use embed_query(text)"
    if isinstance(texts, AsyncIterable):
        return "; collect it first: [text async for text in texts]"
    return "; pass what it returns" if callable(texts) else ""


def _advice(wrong: Sequence[object]) -> str:
    """Return what to do about entries that are not strings."""
    kinds = {type(value).__name__ for value in wrong}
    advice = []
    if "Document" in kinds:
        advice.append("pass page_content for documents")
    if kinds & _MISSING or any(isinstance(value, float) and value != value for value in wrong):  # noqa: PLR0124  # NaN
        advice.append("leave out missing texts, in pandas with table.dropna(subset=[column])")
    if "bytes" in kinds:
        advice.append("decode bytes")
    return f"; {', and '.join(advice)}" if advice else ""


def prepare(
    texts: Sequence[str],
    *,
    counter: TokenCounter,
    limits: Limits,
    long_inputs: LongInputs,
    server: str | None = None,
) -> Inputs:
    """Return the inputs to send for the texts.

    Args:
        texts: what the caller gave.
        counter: counts their tokens.
        limits: the provider's limits.
        long_inputs: what to do with a text that is too long.
        server: what messages call the server; `None` for the provider's name.

    Raises:
        InputError: a text is empty and the provider refuses that; a text has more than
            `limits.max_tokens_per_input` tokens and `long_inputs` is `"error"`; or a single
            character has more tokens than that limit.
    """
    rows: dict[str, int] = {}
    row_of = np.fromiter((rows.setdefault(text, len(rows)) for text in texts), np.intp, len(texts))
    if limits.refuses_empty and "" in rows:
        empty = [i for i, text in enumerate(texts) if not text]
        name = server or limits.provider
        raise InputError(
            f"{_which(empty, texts, 'empty')}, which {name} "
            f"{'refuses' if name == limits.provider else 'may refuse'}; leave such texts out, or "
            'pass empty="skip-vector", which gives them a vector',
            indices=empty,
        )
    unique = list(rows)
    try:
        octets = count_bytes(unique)
    except UnicodeEncodeError:
        unique = [_replace_surrogates(text) for text in unique]
        octets = count_bytes(unique)
    tokens = counter.count(unique)
    count = len(unique)
    parts: dict[int, _Windows] = {}
    long = limits.max_tokens_per_input
    if long is not None and (over := np.flatnonzero(tokens > long)).size:
        if long_inputs == "error":
            wrong = np.flatnonzero(np.isin(row_of, over)).tolist()
            raise InputError(
                f"{_which(wrong, texts, f'over {long:,} tokens')}; split these, or pass "
                'long_inputs="average" or "truncate"',
                indices=wrong,
            )
        truncate = long_inputs == "truncate"
        parts, impossible = _cut(unique, over.tolist(), long, counter, truncate=truncate)
        if impossible:
            wrong = np.flatnonzero(np.isin(row_of, impossible)).tolist()
            raise InputError(
                f"{_which(wrong, texts, f'impossible to cut into {long} tokens')}: one character "
                "can have 4 tokens; raise max_tokens_per_input",
                indices=wrong,
            )
        # Count the strings that were truncated or added.
        changed = over.tolist() if truncate else range(count, len(unique))
        fresh = [unique[row] for row in changed]
        tokens, octets = (
            _put(tokens, changed, counter.count(fresh), len(unique)),
            _put(octets, changed, count_bytes(fresh), len(unique)),
        )
    charges = tokens
    if limits.bytes_per_token is not None:
        charges = np.ceil(octets / limits.bytes_per_token).astype(np.int64)
    return Inputs(
        texts=unique,
        tokens=tokens,
        charges=charges,
        octets=octets,
        unique=count,
        row_of=row_of,
        windows=parts,
    )


def _cut(
    unique: list[str], over: Sequence[int], long: int, counter: TokenCounter, *, truncate: bool
) -> tuple[dict[int, _Windows], list[int]]:
    """Cut the over-long texts in `unique`, which is changed in place.

    Either each such text is truncated, or those of its windows that are new are appended.

    Returns:
        The windows of each text that was not truncated, and the rows that are impossible to cut.
    """
    rows = {} if truncate else {text: row for row, text in enumerate(unique)}
    parts: dict[int, _Windows] = {}
    impossible: list[int] = []
    for row in over:
        cut = windows(unique[row], long, counter)
        try:
            whole = [next(cut)] if truncate else list(cut)
        except WindowError:
            impossible.append(row)
            continue
        if truncate:
            unique[row] = whole[0].text
            continue
        for window in whole:
            if rows.setdefault(window.text, len(unique)) == len(unique):
                unique.append(window.text)
        parts[row] = [rows[window.text] for window in whole], [window.tokens for window in whole]
    return parts, impossible


def _which(wrong: Sequence[int], texts: Sequence[str], what: str) -> str:
    """Return a phrase for how many texts are wrong, and which; a single text needs neither."""
    if len(texts) == 1:
        return f"the text is {what}"
    if len(wrong) == 1:
        return f"1 of {len(texts):,} texts is {what} (index {wrong[0]})"
    return f"{len(wrong):,} of {len(texts):,} texts are {what} (indices {name_indices(wrong)})"


def _put(
    old: NDArray[np.int64], rows: Sequence[int], values: NDArray[np.int64], size: int
) -> NDArray[np.int64]:
    new = np.zeros(size, np.int64)
    new[: len(old)] = old
    new[list(rows)] = values
    return new


def _replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, by U+FFFD as tiktoken does."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
