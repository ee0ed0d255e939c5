"""Converts vectors between the wire, numpy and plain lists, and checks them.

Every answer is checked before it is used. Anything but one valid vector per text raises a
`ResponseError`, which is retried, so no wrong row reaches a database.
"""

import gc
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jiter
import numpy as np
import pybase64
from numpy.typing import NDArray

from langchain_batch_embed.errors import DimensionsError, ResponseError
from langchain_batch_embed.report import plural

__all__ = ["OrderError", "as_array", "check", "read_answer", "read_parsed", "to_lists", "usage_of"]

_INDEX = re.compile(r"[0-9]{1,9}")
"""Matches an index written as a string. No list needs more digits."""

_ERROR_NAMES = ("errors", "detail", "message", "msg", "error_msg", "error_message", "error_code")

_DECIMALS = 10
"""Decimal places to which floats of unit vectors are rounded. Nearly all convert back to the same
float32, and print shorter."""

_STEP = 64
"""Vectors decoded, or turned into lists, in one step, which takes at most 4 ms and 800 KB at 1,536
dimensions."""

_MANY = 16_384
"""From this many floats, about 10 vectors, managing the garbage collector pays off. A single query
has fewer."""

_FROZEN = 1000
"""If this many objects are frozen, the program itself has frozen them, so they stay frozen. Python
3.12 starts with about 400."""


class OrderError(ResponseError):
    """An answer does not show which vector belongs to which text."""


def read_answer(
    body: bytes, *, expected: int, dimensions: int | None = None, most_tokens: float = math.inf
) -> tuple[NDArray[np.float32], int | None, str | None]:
    """Read the body of an OpenAI-compatible answer.

    Vectors may be base64 (little-endian float32) or lists of numbers. They may come in any order if
    each has its `index`, counted from 0. Indices in ascending order may start at another number. An
    index may be a string of digits.

    Args:
        body: the JSON document.
        expected: how many texts were sent.
        dimensions: dimensions that the request asked for; `None` accepts any.
        most_tokens: most tokens that the texts can have; a larger number in the answer is ignored.

    Returns:
        The vectors in the order of the texts, shape (n, d); the tokens billed, or `None` if the
        answer has no possible number; and the model that the answer names, or `None`.

    Raises:
        ResponseError: the answer is not one valid vector per text.
        DimensionsError: the vectors have other dimensions than the request asked for.
    """
    try:
        answer = jiter.from_json(body)
    except ValueError as error:
        raise ResponseError(
            f"the answer is not JSON ({len(body):,} bytes)",
            is_page=body.lstrip()[:1] not in (b"{", b"["),  # otherwise it was cut off
        ) from error
    del body  # the parsed form is as large, so drop this one now
    return read_parsed(answer, expected=expected, dimensions=dimensions, most_tokens=most_tokens)


def read_parsed(
    answer: object, *, expected: int, dimensions: int | None = None, most_tokens: float = math.inf
) -> tuple[NDArray[np.float32], int | None, str | None]:
    """Read an answer whose JSON is already parsed, as `read_answer` does, and remove its vectors.

    Raises:
        ResponseError, DimensionsError: see `read_answer`.
    """
    if not isinstance(answer, dict):
        raise ResponseError(f"the answer is a JSON {type(answer).__name__}, not an object")
    data = answer.get("data")
    if answer.get("error") or (not data and _is_an_error(answer)):
        raise ResponseError("the server sent an error under status 200", body=answer)
    if not isinstance(data, list) or len(data) != expected:
        count = len(data) if isinstance(data, list) else 0
        raise ResponseError(
            f"{_sent(expected)}, but {plural(count, 'vector')} came back",
            expected=expected,
            received=count,
        )
    try:
        order = _order([item.get("index") for item in data])
        vectors = _matrix([item.pop("embedding", None) for item in data])
    except AttributeError as error:
        raise ResponseError("the answer's data does not hold JSON objects") from error
    if order is not None:
        vectors = vectors[order]
    vectors = check(vectors, expected=expected)
    if dimensions not in (None, vectors.shape[1]):
        raise DimensionsError(expected=dimensions, received=vectors.shape[1])
    model = answer.get("model")
    return (
        vectors,
        usage_of(answer, most_tokens),
        model.strip() or None if isinstance(model, str) else None,
    )


def _sent(count: int) -> str:
    return f"{plural(count, 'text')} {'was' if count == 1 else 'were'} sent"


def _is_an_error(answer: Mapping[str, Any]) -> bool:
    """Return whether an answer without vectors holds an error, as of FastAPI, vLLM or Baidu."""
    return answer.get("object") == "error" or any(answer.get(name) for name in _ERROR_NAMES)


def usage_of(answer: object, most: float = math.inf) -> int | None:
    """Return the tokens billed, or `None` if the answer has no number or an impossible one.

    Args:
        answer: the answer's JSON, which may be invalid otherwise.
        most: most tokens that its texts can have.
    """
    usage = answer.get("usage") if isinstance(answer, Mapping) else None
    tokens = usage.get("prompt_tokens") if isinstance(usage, Mapping) else None
    # Check the exact type, because `True` is an `int` too.
    return tokens if type(tokens) is int and 0 <= tokens <= most else None


def _order(indices: list[Any]) -> NDArray[np.intp] | None:
    """Return the positions that sort the items by text; `None` if they are in order already.

    Numbers that ascend by one through the answer, such as 1, 2, 3, are unambiguous wherever they
    start. Otherwise each number from 0 must occur once.
    """
    if all(index is None for index in indices):
        return None
    if all(type(index) is str and _INDEX.fullmatch(index) for index in indices):
        indices = [int(index) for index in indices]
    if all(type(index) is int for index in indices):
        n, first = len(indices), min(indices, default=0)
        if indices == list(range(first, first + n)):
            return None
        if sorted(indices) == list(range(n)):
            return np.argsort(indices)
    raise OrderError("the answer's index numbers do not name each text once")


def _matrix(embeddings: list[Any]) -> NDArray[np.float32]:
    try:
        if all(type(embedding) is str for embedding in embeddings):
            return _decoded(embeddings)
        with np.errstate(over="ignore"):  # gives infinity, which `check` refuses
            return np.array(embeddings, dtype=np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        # Not chained, because messages of numpy and base64 may quote what they could not read.
        raise ResponseError(
            f"the answer's vectors cannot be read ({type(error).__name__})"
        ) from None


def _decoded(embeddings: list[str]) -> NDArray[np.float32]:
    """Decode vectors from base64 step by step, and drop the strings to free memory."""
    matrix = np.empty((0, 0), dtype=np.float32)
    for start in range(0, len(embeddings), _STEP):
        raw = [
            pybase64.b64decode(text, validate=True) for text in embeddings[start : start + _STEP]
        ]
        embeddings[start : start + len(raw)] = [""] * len(raw)
        if not start:
            matrix = np.empty((len(embeddings), len(raw[0]) // 4), dtype=np.float32)
        if {len(vector) for vector in raw} != {4 * matrix.shape[1]}:
            raise ResponseError("the answer's vectors differ in dimensions, or are not float32")
        matrix[start : start + len(raw)].reshape(-1)[:] = np.frombuffer(b"".join(raw), dtype="<f4")
    return matrix


def check(vectors: NDArray[np.float32], *, expected: int) -> NDArray[np.float32]:
    """Return the vectors if they are `expected` rows of finite numbers, none of them all zeros.

    A vector of zeros is equally near to every text. Servers send one for a text that they failed
    to embed.

    Raises:
        ResponseError: the vectors are anything else.
    """
    if vectors.ndim != 2 or vectors.shape[0] != expected or not vectors.shape[1]:  # noqa: PLR2004
        count = len(vectors) if vectors.ndim else None
        raise ResponseError(
            f"{_sent(expected)}, but an array of shape {vectors.shape} came back",
            expected=None if count == expected else expected,
            received=None if count == expected else count,
        )
    if not np.isfinite(vectors).all():
        raise ResponseError("a vector holds numbers that are not finite")
    suspects = vectors[vectors[:, 0] == 0]  # nearly always empty, so the check is cheap
    if not suspects.any(axis=1).all():
        raise ResponseError("a vector is all zeros")
    return vectors


def to_lists(vectors: NDArray[np.float32]) -> list[list[float]]:
    """Return the vectors, shape (n, d), as lists of Python floats that print short.

    Each float converts back to the same float32. A float32 written as a Python float has up to 17
    digits, but ten decimal places are enough for nearly all. Clients that write JSON, such as
    Supabase's, then send about a third less.
    """
    rows: list[list[float]] = []
    with _out_of_sight_of_gc(vectors.size):
        # Small steps stay in the processor's cache, and let other threads, such as that of an
        # event loop, run in between.
        for start in range(0, len(vectors), _STEP):
            step = vectors[start : start + _STEP]
            plain = step.astype(np.float64)
            short = np.round(plain, _DECIMALS)
            inexact = short.astype(np.float32) != step
            np.copyto(short, plain, where=inexact)
            rows.extend(short.tolist())
    return rows


class _Collector:
    """Whether this module has switched the cyclic garbage collector off."""

    is_off = False

    def switch_on(self) -> None:
        """Switch it on in a child process, where the thread that would do so does not exist."""
        if self.is_off:
            self.is_off = False
            gc.enable()


_collector = _Collector()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_collector.switch_on)


@contextmanager
def _out_of_sight_of_gc(numbers: int) -> Iterator[None]:
    """Keep the cyclic garbage collector from scanning millions of new floats.

    Lists of floats hold no cycles, but the collector visits every float of every young list while
    all threads wait. That takes half of the time, and with 20,000 vectors it blocks an event loop
    for 100 to 300 ms at a time. So the collector is off while the lists are made, and afterwards
    they count as old objects, which it seldom scans. If two threads do this at once, the first to
    finish switches the collector on again, which only slows the other one down.
    """
    if not gc.isenabled():
        yield
        return
    many = numbers >= _MANY and gc.get_freeze_count() < _FROZEN
    if many:
        gc.collect(1)  # present garbage must not grow old with the lists
    _collector.is_off = True
    gc.disable()
    try:
        yield
    finally:
        if many:
            gc.freeze()
            gc.unfreeze()  # moves all objects to the oldest generation, unscanned
        gc.enable()
        _collector.is_off = False


def as_array(embeddings: Sequence[Sequence[float]]) -> NDArray[np.float32]:
    """Convert what an `Embeddings` class returned to float32, shape (n, d).

    Raises:
        ResponseError: the rows hold anything but numbers, or differ in length.
    """
    return _matrix(list(embeddings))
