"""The journal's protocol, keys and statistics."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Found", "Journal", "JournalStats", "Space", "content_keys"]

Found = tuple[NDArray[np.intp], NDArray[np.float32]]
"""Positions of the keys that were found, ascending, shape (k,), and their vectors, (k, d)."""

_KEY_BYTES = 20
"""160 bits. To make two texts collide, so that one gets the other's vector, takes 2**80 tries."""

_ENDPOINT = re.compile(r"^([\w+.-]+://)?(?:[^/?#]*@)?([^/?#]*)([^?#]*)")
"""Scheme, host with port, and path of an address, without user name, password and query."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """What made a vector. The same text has another vector in another space.

    Never put an API key in a field. `endpoint` is reduced to scheme, host and path, because its
    other parts may hold user names, passwords and keys.

    Attributes:
        provider: for example `"openai"`.
        model: the model's name, as sent.
        dimensions: the number in the request; `None`: the model's own.
        endpoint: the server's address; `None` for the provider's own.
        variant: anything else that changes a vector, such as the split policy of long
            texts or the input type ("query", "document").
    """

    provider: str
    model: str
    dimensions: int | None = None
    endpoint: str | None = None
    variant: str = ""

    def __post_init__(self) -> None:
        """Keep only the parts of the endpoint that identify the server."""
        if self.endpoint is not None:
            scheme, host, path = _ENDPOINT.findall(self.endpoint)[0]
            endpoint = f"{scheme.lower()}{host.lower()}{path.rstrip('/')}"
            object.__setattr__(self, "endpoint", endpoint)

    @property
    def digest(self) -> bytes:
        """32 bytes that distinguish this space from every other."""
        fields = [self.provider, self.model, self.dimensions, self.endpoint, self.variant]
        return blake2b(json.dumps(fields).encode(), digest_size=32).digest()

    @property
    def name(self) -> str:
        """The space's name for people, stored in the journal to group its statistics."""
        parts = [f"{self.provider} {self.model}"]
        if self.dimensions is not None:
            parts.append(f"{self.dimensions} dimensions")
        if self.endpoint is not None:
            _, host, _ = _ENDPOINT.findall(self.endpoint)[0]
            parts.append(host)  # without the path, which can hold account numbers
        if self.variant:
            parts.append(self.variant)
        return ", ".join(parts)


def content_keys(texts: Sequence[str], space: Space) -> list[bytes]:
    """Return the key of each text: 20 bytes that depend on the text and the space.

    The text cannot be computed from its key, but a guess can be checked.
    """
    digest = space.digest
    return [
        # A lone surrogate is a legal Python string; the journal is no place to refuse it.
        blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES, key=digest).digest()
        for text in texts
    ]


@dataclass(frozen=True, kw_only=True)
class JournalStats:
    """What a journal holds.

    Attributes:
        vectors: how many.
        bytes: of the vectors alone, four a number. A SQLite file with vectors of 1,536
            numbers is about 8 % larger (measured).
        oldest: when the oldest one was written, in UTC; `None` if there are none.
        newest: when the newest one was written, in UTC; `None` if there are none.
        spaces: vectors by the name of their space.
    """

    vectors: int
    bytes: int
    oldest: datetime | None
    newest: datetime | None
    spaces: Mapping[str, int]


@runtime_checkable
class Journal(Protocol):
    """Keeps finished vectors; every method may be called from any thread.

    Every method raises `JournalError` if the journal cannot be read or written.
    """

    @property
    def persistent(self) -> bool:
        """Whether the vectors outlive this object."""

    def get(self, keys: Sequence[bytes]) -> Found:
        """Look up vectors.

        A damaged vector counts as not found, and one line in the log gives their number. A journal
        is checked like an answer.

        Returns:
            The positions in `keys` that were found, ascending, shape (k,), and their
            vectors, float32, shape (k, d); shape (0, 0) if none was found.

        Raises:
            JournalError: the vectors found differ in dimensions. It cannot be known which are
                right, and mixing them would put wrong rows in a database.
        """

    def put(self, keys: Sequence[bytes], vectors: NDArray[np.float32], *, space: Space) -> None:
        """Store one batch: all of it, or nothing if an exception is raised.

        A known key gets the new vector.

        Args:
            keys: from `content_keys`, n of them.
            vectors: shape (n, d).
            space: the one that the keys were made with.
        """

    def stats(self) -> JournalStats:
        """Count the vectors."""

    def prune(self, *, older_than: timedelta | None = None, max_bytes: int | None = None) -> int:
        """Delete the oldest vectors, so that the journal does not grow without bound.

        Age counts from when a vector was written, not from its last use, so that readers never wait
        for a writer. `prune(max_bytes=0)` empties the journal.

        Args:
            older_than: delete every vector written longer ago than this.
            max_bytes: keep the newest vectors that fit, counted as `JournalStats.bytes`.

        Returns:
            How many vectors were deleted.

        Raises:
            ValueError: neither is given, or one is negative.
        """

    def close(self) -> None:
        """Release files. It may be called twice, and a later use opens them again."""
