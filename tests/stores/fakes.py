"""Embeddings and stores in this process, for cases that real ones cannot produce."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langchain_batch_embed import BatchEmbeddings
from tests.support import FakeClock

__all__ = [
    "CountingEmbeddings",
    "ListStore",
    "NoIdsStore",
    "TableStore",
    "batching",
    "documents",
    "rows_of",
    "texts_of",
]


class CountingEmbeddings(Embeddings):
    """Embeddings that make a unit vector of each text, always the same one.

    Args:
        size: dimensions of the vectors.
        before: called with the texts of each call.

    Attributes:
        sent: number of texts that were embedded.
    """

    def __init__(
        self, size: int = 16, before: Callable[[list[str]], object] = lambda _: None
    ) -> None:
        self.sent = 0
        self._size = size
        self._before = before
        self._lock = threading.Lock()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each text."""
        self._before(texts)
        with self._lock:
            self.sent += len(texts)
        return [self._vector(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a text."""
        return self._vector(text)

    def _vector(self, text: str) -> list[float]:
        seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
        vector = np.random.default_rng(seed).standard_normal(self._size)
        unit: list[float] = (vector / np.linalg.norm(vector)).tolist()
        return unit


class _FakeStore(VectorStore):
    """A store that holds rows in memory; a call writes all of its documents or none.

    Args:
        embedding: makes the vectors.
        before: called with the texts of each call, and may refuse them.

    Attributes:
        rows: text by id.
        calls: number of documents in each call, including the refused calls.
    """

    def __init__(
        self, embedding: Embeddings, before: Callable[[list[str]], object] = lambda _: None
    ) -> None:
        self._embedding = embedding
        self._before = before
        self.rows: dict[str, str] = {}
        self.calls: list[int] = []

    @property
    def embeddings(self) -> Embeddings:
        """Return the embeddings that make the vectors."""
        return self._embedding

    def write(self, texts: Iterable[str], names: list[str] | None) -> list[str]:
        """Add or replace rows."""
        listed = list(texts)
        self.calls.append(len(listed))
        assert len(self._embedding.embed_documents(listed)) == len(listed)
        self._before(listed)
        names = names or [f"row {len(self.rows) + i}" for i in range(len(listed))]
        self.rows |= dict(zip(names, listed, strict=True))
        return names

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Raise an error, because no test searches."""
        raise NotImplementedError

    @classmethod
    def from_texts(cls, *_: Any, **__: Any) -> "_FakeStore":
        """Raise an error, because no test makes a store this way."""
        raise NotImplementedError


class TableStore(_FakeStore):
    """A store that replaces rows by id, as most stores do."""

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add or replace rows."""
        del metadatas, kwargs
        return self.write(texts, ids)


class NoIdsStore(_FakeStore):
    """A store that always adds rows and makes its own ids, like SQLiteVec."""

    def add_texts(
        self, texts: Iterable[str], metadatas: list[dict[str, Any]] | None = None, **kwargs: Any
    ) -> list[str]:
        """Add rows."""
        del metadatas, kwargs
        return self.write(texts, None)


class ListStore(VectorStore):
    """A store that keeps rows in a list, in the order in which they were written.

    Args:
        embedding: makes the vectors.
        before: called with the texts of each call before they are embedded.
    """

    def __init__(
        self, embedding: Embeddings, before: Callable[[list[str]], object] = lambda _: None
    ) -> None:
        self._embedding = embedding
        self._before = before
        self.texts: list[str] = []
        self.vectors: list[list[float]] = []
        self.ids: list[str | None] = []
        self.calls: list[int] = []

    @property
    def embeddings(self) -> Embeddings:
        """Return the embeddings that make the vectors."""
        return self._embedding

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add all rows, or none if `before` raises."""
        del metadatas, kwargs
        listed = list(texts)
        self._before(listed)
        self.calls.append(len(listed))
        self.vectors += self._embedding.embed_documents(listed)
        self.texts += listed
        names = ids or [f"row {len(self.ids) + i}" for i in range(len(listed))]
        self.ids += names
        return names

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Raise an error, because no test searches."""
        raise NotImplementedError

    @classmethod
    def from_texts(cls, *_: Any, **__: Any) -> "ListStore":
        """Raise an error, because no test makes a store this way."""
        raise NotImplementedError


def batching(
    wrapped: Embeddings | None = None, clock: FakeClock | None = None, **options: Any
) -> BatchEmbeddings:
    """Wrap embeddings so that no wait takes real time."""
    made = {"_clock": clock or FakeClock(), "hedge": False, **options}
    return BatchEmbeddings(wrapped or CountingEmbeddings(), **made)


def documents(count: int, *, ids: bool = False) -> list[Document]:
    """Return documents that all differ."""
    return [
        Document(f"section {i}", id=f"id {i}" if ids else None, metadata={"number": i})
        for i in range(count)
    ]


def texts_of(given: Iterable[Document]) -> list[str]:
    """Return the texts of documents."""
    return [document.page_content for document in given]


def rows_of(store: Any) -> list[tuple[str, int]]:
    """Return the text and the number of each row of a SQLiteVec, in order."""
    found = store._connection.execute("SELECT text, metadata FROM documents ORDER BY rowid")
    return [(row["text"], json.loads(row["metadata"])["number"]) for row in found]
