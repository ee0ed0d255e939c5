"""Counts the tokens of texts, and cuts an over-long text into windows.

Counts are exact where the vocabulary is at hand. `toktok-rs` counts cl100k_base and its
successors without building the ids, without the GIL and without a download. `tiktoken` counts
with encodings that a plug-in has added or that are already loaded, including cl100k_base and its
successors where `toktok-rs` is not installed. In all other cases the UTF-8 bytes are counted. A
byte-level tokenizer never makes more tokens than bytes, so that is an upper bound: requests get
smaller than they could be, never too large.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import tiktoken
import tiktoken.model
import tiktoken.registry
from numpy.typing import NDArray

try:
    import toktok
except ImportError:  # there is no wheel for musl or for Windows on ARM
    toktok = None

__all__ = [
    "ByteCounter",
    "TiktokenCounter",
    "TokenCounter",
    "ToktokCounter",
    "Window",
    "WindowError",
    "count_bytes",
    "counter_for",
    "weighted_mean",
    "windows",
]

logger = logging.getLogger(__name__)

_TOKTOK_ENCODINGS = frozenset({"cl100k_base", "o200k_base", "o200k_harmony"})

# langchain-openai counts with this encoding for a model that tiktoken does not know. With the same
# encoding, an over-long text has the same windows, and so the same vector.
_OPENAI_FALLBACK = "cl100k_base"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A part of an over-long text.

    Attributes:
        text: the part, which holds only whole characters.
        tokens: its length in tokens, which is its weight in the mean of the windows' vectors.
    """

    text: str
    tokens: int


class TokenCounter(Protocol):
    """Counts the tokens of texts and finds where each token begins."""

    def count(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return the number of tokens of each text, shape (n,)."""
        ...

    def starts(self, text: str) -> Sequence[int]:
        """Return for each token the position of the character that it begins with.

        A token that begins inside a character has the same position as the token in which that
        character began.
        """
        ...


class ToktokCounter:
    """Counts exactly, with the vocabulary that toktok-rs includes."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        # Load the vocabulary now. That blocks all threads for 0.1 s, including an event loop, which
        # is worse in the middle of the first call.
        self.count([""])

    def count(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return the number of tokens of each text, shape (n,); special tokens count as text."""
        return np.array(toktok.batch_count(texts, self._encoding), dtype=np.int64)

    def starts(self, text: str) -> Sequence[int]:
        """Return for each token the position of the character that it begins with."""
        # The public functions only count and truncate. Cutting with them would tokenize the rest
        # of the text again for each window, with other borders than tiktoken's.
        _, spans = toktok._encoding(self._encoding).encode_with_offsets(text, unit="char")  # noqa: SLF001
        starts: list[int] = []
        for begin, end in spans:
            # An empty span is a token inside a character, which belongs to the previous token.
            starts.append(starts[-1] if begin == end and starts else begin)
        return starts


class TiktokenCounter:
    """Counts exactly, with an encoding that is loaded in tiktoken."""

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self._encoding = encoding

    def count(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return the number of tokens of each text, shape (n,); special tokens count as text."""
        batch = self._encoding.encode_ordinary_batch(list(texts))
        return np.fromiter(map(len, batch), dtype=np.int64, count=len(texts))

    def starts(self, text: str) -> Sequence[int]:
        """Return for each token the position of the character that it begins with."""
        _, starts = self._encoding.decode_with_offsets(self._encoding.encode_ordinary(text))
        return starts


class ByteCounter:
    """Counts UTF-8 bytes, which are never fewer than the tokens of a byte-level tokenizer."""

    def count(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return the number of UTF-8 bytes of each text, shape (n,)."""
        return count_bytes(texts)

    def starts(self, text: str) -> Sequence[int]:
        """Return for each byte the position of the character that it belongs to."""
        return [i for i, character in enumerate(text) for _ in character.encode()]


def count_bytes(texts: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of UTF-8 bytes of each text, shape (n,)."""
    return np.fromiter((len(text.encode()) for text in texts), dtype=np.int64, count=len(texts))


def counter_for(model: str | None) -> TokenCounter:
    """Return the best counter for an OpenAI model or a tiktoken encoding.

    Nothing is downloaded. `None` stands for an unknown tokenizer, for which bytes are counted.
    """
    if model is None:
        return ByteCounter()
    name = _encoding_name(model)
    is_missing = toktok is None and name in _TOKTOK_ENCODINGS
    if name in _TOKTOK_ENCODINGS and not is_missing:
        return ToktokCounter(name)
    encoding = _loaded_encoding(name)
    if encoding is not None:
        if is_missing:
            _log_once(
                logging.INFO, "toktok-rs is not installed, so tiktoken counts tokens, more slowly"
            )
        return TiktokenCounter(encoding)
    remedy = f"call tiktoken.get_encoding({name!r}) first, which loads it"
    _log_once(
        logging.WARNING,
        f"no vocabulary available for the encoding {name}: counting UTF-8 bytes instead of "
        "tokens, which is safe but makes smaller requests; "
        + (f"install toktok-rs, which has it, or {remedy}" if is_missing else remedy),
    )
    return ByteCounter()


@cache
def _log_once(level: int, message: str) -> None:
    """Log a message once per process, because it concerns the installation and not one object."""
    logger.log(level, message)


def _encoding_name(model: str) -> str:
    try:
        return tiktoken.model.encoding_name_for_model(model)
    except KeyError:
        return model if model in tiktoken.list_encoding_names() else _OPENAI_FALLBACK


def _loaded_encoding(name: str) -> tiktoken.Encoding | None:
    """Return a tiktoken encoding if that needs no download, else `None`."""
    if name in tiktoken.registry.ENCODINGS:
        return tiktoken.registry.ENCODINGS[name]
    constructors = tiktoken.registry.ENCODING_CONSTRUCTORS or {}
    constructor = constructors.get(name)
    # tiktoken's own encodings download their vocabulary; those of plug-ins include it.
    if constructor is None or constructor.__module__ == "tiktoken_ext.openai_public":
        return None
    return tiktoken.get_encoding(name)


class WindowError(ValueError):
    """A window is too small to hold one character."""


def windows(text: str, size: int, counter: TokenCounter) -> Iterator[Window]:
    """Cut a text into consecutive windows of at most `size` tokens.

    The windows joined together are the text. Borders are where `OpenAIEmbeddings` has them, every
    `size` tokens. A border inside a character moves to the start of that character, and a window
    that has more tokens when it stands alone is shortened.

    Raises:
        WindowError: `size` is too small to hold one character.
    """
    starts = counter.starts(text)
    begin = 0
    while begin < len(starts):
        end = min(begin + size, len(starts))
        while True:
            while begin < end < len(starts) and starts[end] == starts[end - 1]:
                end -= 1
            if end <= begin:
                raise WindowError(f"a window of {size} tokens cannot hold one character")
            stop = starts[end] if end < len(starts) else len(text)
            part = text[starts[begin] : stop]
            # Without its surroundings, white space can tokenize into more tokens.
            excess = int(counter.count([part])[0]) - size
            if excess <= 0:
                break
            end -= excess
        yield Window(text=part, tokens=end - begin)
        begin = end


def weighted_mean(vectors: NDArray[np.float32], weights: Sequence[int]) -> NDArray[np.float32]:
    """Return the unit-length mean of the windows' vectors, (k, d) to (d,), weighted by tokens."""
    mean = np.average(vectors.astype(np.float64), axis=0, weights=weights)
    norm = np.linalg.norm(mean)
    return (mean / norm if norm else mean).astype(np.float32)
