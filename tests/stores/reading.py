"""What LangChain's stores do not offer: reading their rows as stored, and closing them."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from langchain_core.documents import Document

from tests.stores.corpus import QUERIES
from tests.support import assert_right

__all__ = ["Row", "assert_right_rows", "close", "results_of", "rows_of"]


class Row(NamedTuple):
    """One row of a store, with plain fields so that rows can be compared and sorted.

    Attributes:
        text: the document's text.
        metadata: the document's metadata, as JSON.
        vector: float32, little-endian, as bytes.
    """

    text: str
    metadata: str
    vector: bytes


def rows_of(name: str, store: Any) -> list[Row]:
    """Return all rows of the store that the caller of this name filled, sorted."""
    return sorted(
        Row(text, _as_json(metadata), np.asarray(vector, dtype="<f4").tobytes())
        for text, metadata, vector in _READERS[name](store)
    )


def assert_right_rows(rows: list[Row], documents: list[Document]) -> None:
    """Check that the rows are the documents, each with the server's vector bit for bit."""
    expected = [(doc.page_content, _as_json(doc.metadata)) for doc in documents]
    assert sorted(expected) == [(row.text, row.metadata) for row in rows]
    stored = np.stack([np.frombuffer(row.vector, dtype="<f4") for row in rows])
    assert_right(stored, [row.text for row in rows])


def results_of(store: Any) -> list[tuple[str, str]]:
    """Return text and metadata, as JSON, of the best document for each of `QUERIES`."""
    # Only the best document, because it has no equal. The order of further ones that are equally
    # near is up to PostgreSQL, and Chroma's approximate index may miss some, with either class.
    found = [store.similarity_search(query, k=1)[0] for query in QUERIES]
    return [(document.page_content, _as_json(document.metadata)) for document in found]


def close(name: str, store: Any) -> None:
    """Close the connections of the store that the caller of this name filled."""
    if name == "sqlite_vec":
        store._connection.close()
    elif name == "supabase":
        store._client.postgrest.aclose()  # closes at once, in spite of its name
    elif name == "qdrant":
        store.client.close()
    elif name == "pgvector":
        store._engine.dispose()


def _as_json(metadata: Mapping[str, Any]) -> str:
    return json.dumps(metadata, sort_keys=True)


_Found = Iterable[tuple[str, Mapping[str, Any], Any]]


def _sqlite_vec(store: Any) -> _Found:
    # The vectors of the virtual table, because searches use those.
    query = """
        SELECT d.text, d.metadata, v.text_embedding
        FROM documents AS d JOIN documents_vec AS v ON v.rowid = d.rowid
    """
    for text, metadata, vector in store._connection.execute(query):
        yield text, json.loads(metadata), np.frombuffer(vector, dtype="<f4")


def _supabase(_: Any) -> _Found:
    return _select("SELECT content, metadata, embedding::real[] FROM documents")


def _in_memory(store: Any) -> _Found:
    return [(row["text"], row["metadata"], row["vector"]) for row in store.store.values()]


def _chroma(store: Any) -> _Found:
    found = store.get(include=["documents", "metadatas", "embeddings"])
    return zip(found["documents"], found["metadatas"], found["embeddings"], strict=True)


def _faiss(store: Any) -> _Found:
    for position, vector in enumerate(store.index.reconstruct_n(0, store.index.ntotal)):
        document = store.docstore.search(store.index_to_docstore_id[position])
        yield document.page_content, document.metadata, vector


def _qdrant(store: Any) -> _Found:
    points, _ = store.client.scroll("documents", limit=1_000_000, with_vectors=True)
    return [
        (point.payload["page_content"], point.payload["metadata"], point.vector) for point in points
    ]


def _pgvector(_: Any) -> _Found:
    return _select("SELECT document, cmetadata, embedding::real[] FROM langchain_pg_embedding")


def _select(query: str) -> _Found:
    import psycopg  # noqa: PLC0415 - only where the store is a PostgreSQL

    # PostgreSQL prints a real so that it reads back as the same float32.
    with psycopg.connect(os.environ["DATABASE_URL"].replace("+psycopg", "")) as connection:
        return connection.execute(query.encode()).fetchall()


_READERS: Mapping[str, Callable[[Any], _Found]] = MappingProxyType(
    {
        "sqlite_vec": _sqlite_vec,
        "supabase": _supabase,
        "in_memory": _in_memory,
        "chroma": _chroma,
        "faiss": _faiss,
        "qdrant": _qdrant,
        "pgvector": _pgvector,
    }
)
