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
"""Positions of the found keys, ascending, shape (k,), and their vectors, shape (k, d)."""

_KEY_BYTES = 20
"""Bytes of a key (160 bits).

It takes 2**80 tries to find two texts that collide, so that one gets the other's vector.
"""

_ENDPOINT = re.compile(r"^([\w+.-]+://)?(?:[^/?#]*@)?([^/?#]*)([^?#]*)")
"""Matches the scheme, the host with port, and the path, without user name, password and query."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """Identifies what made a vector; the same text has a different vector in another space.

    Never put an API key into a field. `endpoint` is reduced to its scheme, host and path, because
    the other parts may hold user names, passwords and keys.

    Attributes:
        provider: the provider's name, for example `"openai"`.
        model: the model's name, as sent in the request.
        dimensions: the number of dimensions in the request; `None` for the model's default.
        endpoint: the server's address; `None` for the provider's default.
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
        """A digest of 32 bytes that distinguishes this space from every other."""
        fields = [self.provider, self.model, self.dimensions, self.endpoint, self.variant]
        return blake2b(json.dumps(fields).encode(), digest_size=32).digest()

    @property
    def name(self) -> str:
        """A readable name of the space, stored in the journal to group its statistics."""
        parts = [f"{self.provider} {self.model}"]
        if self.dimensions is not None:
            parts.append(f"{self.dimensions} dimensions")
        if self.endpoint is not None:
            _, host, _ = _ENDPOINT.findall(self.endpoint)[0]
            parts.append(host)  # no path, because it can hold account numbers
        if self.variant:
            parts.append(self.variant)
        return ", ".join(parts)


def content_keys(texts: Sequence[str], space: Space) -> list[bytes]:
    """Return the key of each text: 20 bytes that depend on the text and the space.

    The text cannot be computed from its key, but a guess can be checked.
    """
    digest = space.digest
    return [
        # A lone surrogate is legal in a Python string, so the journal must accept it.
        blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES, key=digest).digest()
        for text in texts
    ]


@dataclass(frozen=True, kw_only=True)
class JournalStats:
    """The contents of a journal.

    Attributes:
        vectors: how many vectors the journal holds.
        bytes: bytes of the vectors alone, four for each number. A SQLite file with vectors of 1,536
            dimensions is about 8 % larger (measured).
        oldest: when the oldest vector was written, in UTC; `None` if there are no vectors.
        newest: when the newest vector was written, in UTC; `None` if there are no vectors.
        spaces: name of each space -> how many vectors it has.
    """

    vectors: int
    bytes: int
    oldest: datetime | None
    newest: datetime | None
    spaces: Mapping[str, int]


@runtime_checkable
class Journal(Protocol):
    """Stores finished vectors; every method may be called from any thread.

    Every method raises `JournalError` if the journal cannot be read or written.
    """

    @property
    def persistent(self) -> bool:
        """Whether the vectors outlive this object."""

    def get(self, keys: Sequence[bytes]) -> Found:
        """Look up vectors.

        Stored vectors are checked like the answer of a server. A damaged vector counts as not
        found, and one line in the log gives the number of damaged vectors.

        Returns:
            The positions in `keys` that were found, ascending, shape (k,), and their vectors,
            float32, shape (k, d). If none was found, the vectors have shape (0, 0).

        Raises:
            JournalError: the vectors found differ in dimensions. Which are right cannot be known,
                and mixing them would put wrong rows into a database.
        """

    def put(self, keys: Sequence[bytes], vectors: NDArray[np.float32], *, space: Space) -> None:
        """Store one batch completely, or nothing of it if an exception is raised.

        If a key is already stored, the new vector replaces the old one.

        Args:
            keys: n keys from `content_keys`.
            vectors: the vectors, shape (n, d).
            space: the space that the keys were made with.
        """

    def stats(self) -> JournalStats:
        """Return how many vectors there are, their size, age and spaces."""

    def prune(self, *, older_than: timedelta | None = None, max_bytes: int | None = None) -> int:
        """Delete the oldest vectors, so that the journal does not grow without bound.

        A vector's age counts from when it was written, not from its last use, so that readers never
        wait for a writer. `prune(max_bytes=0)` empties the journal.

        Args:
            older_than: delete every vector written longer ago than this.
            max_bytes: keep the newest vectors that fit, counted as `JournalStats.bytes`.

        Returns:
            How many vectors were deleted.

        Raises:
            ValueError: neither argument is given, or one is negative.
        """

    def close(self) -> None:
        """Release the journal's files; it may be called twice, and later use opens them again."""
