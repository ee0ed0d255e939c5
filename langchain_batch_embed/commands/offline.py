"""Loads tiktoken's cl100k_base without a download, for the demo and the tests.

`OpenAIEmbeddings` tokenizes with tiktoken, which downloads its vocabulary on first use. toktok-rs
contains the same vocabulary, so the demo and the tests work without a network.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tiktoken
import tiktoken.load
import tiktoken_ext.openai_public  # type: ignore[import-untyped]

__all__ = ["use_offline_tiktoken"]

_ENCODING = "cl100k_base"


class _WouldDownloadError(Exception):
    """tiktoken does not have the vocabulary in its cache."""


def use_offline_tiktoken() -> None:
    """Load cl100k_base into tiktoken without a download.

    The vocabulary comes from tiktoken's cache, or from toktok-rs if it is not in the cache. An
    encoding that tiktoken has already loaded stays as it is. Call this before any thread uses
    tiktoken.

    Raises:
        ImportError: the vocabulary is not in tiktoken's cache, and toktok-rs is not installed.
    """
    # tiktoken's own function makes and registers the encoding, with its pattern and special tokens.
    # Only the function that reads the vocabulary is replaced.
    with _replaced(tiktoken_ext.openai_public, "load_tiktoken_bpe", _load_offline):
        tiktoken.get_encoding(_ENCODING)


def _load_offline(url: str, expected_hash: str | None = None) -> dict[bytes, int]:
    """Return the vocabulary, token to id, from tiktoken's cache or else from toktok-rs."""
    try:
        with _replaced(tiktoken.load, "read_file", _refuse):
            return tiktoken.load.load_tiktoken_bpe(url, expected_hash)
    except _WouldDownloadError:
        import toktok  # noqa: PLC0415  # not installed everywhere, and needed only here

        tokens = toktok._encoding(_ENCODING).token_byte_values()  # noqa: SLF001 - there is no public function
        return {token: number for number, token in enumerate(tokens)}


def _refuse(blobpath: str) -> bytes:
    raise _WouldDownloadError(blobpath)


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute of a module during a `with` block."""
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)
