"""Lines and files keep every limit and lose no text."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.batch_api.files import octets_of, texts_in, written
from langchain_batch_embed.batch_api.packing import group, lines_of, parted, within
from langchain_batch_embed.batch_api.records import Line
from langchain_batch_embed.journal import Space, content_keys

SPACE = Space(provider="OpenAI", model="m")


def names() -> Callable[[], str]:
    """Return a function that returns a new name each time."""
    numbers = itertools.count()
    return lambda: f"line{next(numbers)}"


def line_of(tokens: list[int], *, sent: int = 0) -> Line:
    """Return a line whose texts have these tokens."""
    return Line(
        id="line",
        keys=tuple(bytes([i]) * 20 for i in range(len(tokens))),
        places=np.arange(len(tokens), dtype=np.int32),
        tokens=np.array(tokens, dtype=np.int32),
        sent=sent,
    )


def lines(tokens: list[int], max_items: int = 2048, max_tokens: int = 300_000) -> list[Line]:
    """Cut texts with these tokens into lines."""
    return lines_of(
        [i.to_bytes(20) for i in range(len(tokens))],
        np.arange(len(tokens), dtype=np.int32),
        np.array(tokens, dtype=np.int32),
        max_items=max_items,
        max_tokens=max_tokens,
        name=names(),
    )


@given(st.lists(st.integers(1, 100), max_size=60), st.integers(1, 10), st.integers(100, 300))
def test_lines_keep_the_limits_of_a_request(
    tokens: list[int], max_items: int, max_tokens: int
) -> None:
    """Lines keep the limits of a request, and every text is in one line, in order."""
    made = lines(tokens, max_items, max_tokens)
    assert [place for line in made for place in line.places.tolist()] == list(range(len(tokens)))
    assert all(len(line.keys) <= max_items and line.weight <= max_tokens for line in made)
    assert len({line.id for line in made}) == len(made)


@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=60),
    st.integers(100, 400),
    st.integers(10, 30),
    st.integers(1000, 4000),
)
def test_files_keep_the_limits_of_a_batch(
    tokens: list[int], max_tokens: int, max_inputs: int, max_octets: int
) -> None:
    """Files keep the limits of a batch, and every line is in one file, in order."""
    made = lines(tokens, 10, 100)
    files = group(
        made,
        max_tokens=max_tokens,
        octets=lambda line: 7 * len(line.keys),
        max_inputs=max_inputs,
        max_octets=max_octets,
    )
    assert [line.id for file in files for line in file] == [line.id for line in made]
    for file in files:
        assert sum(line.weight for line in file) <= max_tokens
        assert sum(len(line.keys) for line in file) <= max_inputs
        assert sum(7 * len(line.keys) + 400 for line in file) <= max_octets


def test_a_line_over_every_limit_stands_alone() -> None:
    """A line above every limit gets its own file, so the server refuses it and it is not lost."""
    assert [len(file) for file in group([line_of([500]), line_of([500])], max_tokens=10)] == [1, 1]


@given(st.lists(st.integers(1, 100), min_size=1, max_size=40), st.integers(1, 300))
def test_a_line_is_split_by_tokens(tokens: list[int], most: int) -> None:
    """A line is split into pieces of at most this many tokens, or of one text."""
    line = line_of(tokens, sent=3)
    pieces = within([line], max_tokens=most, name=names())
    assert [key for piece in pieces for key in piece.keys] == list(line.keys)
    assert all(piece.weight <= most or len(piece.keys) == 1 for piece in pieces)
    assert {piece.sent for piece in pieces} == {3}


def test_lines_are_parted_by_their_texts() -> None:
    """Splitting lines by their texts keeps each text's data together and leaves no empty line."""
    mixed, whole = line_of([5, 6, 7], sent=2), line_of([8])  # its key is that of the first text
    belongs = {mixed.keys[0], mixed.keys[2]}.__contains__
    inside, outside = parted([mixed, whole], belongs, name=names())
    assert [(line.places.tolist(), line.tokens.tolist()) for line in inside] == [
        ([0, 2], [5, 7]),
        ([0], [8]),
    ]
    assert (inside[0].keys, inside[0].sent) == ((mixed.keys[0], mixed.keys[2]), 2)
    assert [(line.places.tolist(), line.tokens.tolist()) for line in outside] == [([1], [6])]


@pytest.mark.parametrize(
    "texts",
    [
        ["plain"],
        ['"quoted" \\ and\n two\tlines\r\n', "\x00\x1f"],
        ["one\u2028two\u2029three\x85four\x0bfive\x0csix\x1cseven"],
        ["\ufeffmark", "日本語 🎉", " "],
        ["", " ", "more"],
    ],
)
def test_a_file_gives_its_texts_back(texts: list[str]) -> None:
    """A file returns its texts whatever characters are in them.

    None of these may end a line for any program.
    """
    keys = content_keys(texts, SPACE)
    line = Line(
        id="line",
        keys=tuple(keys),
        places=np.zeros(len(texts), dtype=np.int32),
        tokens=np.ones(len(texts), dtype=np.int32),
    )
    (content,) = written([line], dict(zip(keys, texts, strict=True)), {"model": "m"}, empty=" ")
    assert b'""' not in content
    assert len(content.decode().splitlines()) == 1
    assert not content.startswith(b"\xef\xbb\xbf")
    assert sum(octets_of(texts)) >= len(content) - 400
    found = dict(texts_in([content], SPACE, set(keys[:-1]).__contains__))
    assert found == dict(zip(keys[:-1], texts[:-1], strict=True))
