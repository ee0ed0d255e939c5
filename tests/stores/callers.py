"""Typical user code that fills a vector store, one function for each store.

No function knows which embeddings it receives. Settings come from the environment, as they do in a
deployed program. Every function imports its own packages, so a missing package costs only its own
store.
"""
# ruff: noqa: PLC0415

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

__all__ = ["CALLERS", "Caller"]

Caller = Callable[[list[Document], Embeddings], VectorStore]


def sqlite_vec(documents: list[Document], embeddings: Embeddings) -> VectorStore:
    """Fill a SQLite database in a file."""
    import sqlite_vec
    from langchain_community.vectorstores import SQLiteVec

    try:
        import pysqlite3 as sqlite3  # can load extensions, unlike many builds of sqlite3
    except ImportError:
        import sqlite3

    path = Path(os.environ["STORE_FOLDER"]) / "vec.db"
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.enable_load_extension(True)
    sqlite_vec.load(connection)
    store = SQLiteVec("documents", connection, embeddings)
    store.add_documents(documents)
    return store


def supabase(documents: list[Document], embeddings: Embeddings) -> VectorStore:
    """Fill Supabase through its client."""
    from langchain_community.vectorstores import SupabaseVectorStore
    from supabase import create_client

    return SupabaseVectorStore.from_documents(
        documents,
        embeddings,
        client=create_client(os.environ["SUPABASE_URL"], os.environ["SUPABASE_KEY"]),
        table_name="documents",
        query_name="match_documents",
    )


def in_memory(documents: list[Document], embeddings: Embeddings) -> VectorStore:
    """Fill LangChain's own store."""
    return InMemoryVectorStore.from_documents(documents, embeddings)


def chroma(documents: list[Document], embeddings: Embeddings) -> VectorStore:
    """Fill a Chroma database in a folder."""
    from langchain_chroma import Chroma

    folder = str(Path(os.environ["STORE_FOLDER"]) / "chroma")
    return Chroma.from_documents(documents, embeddings, persist_directory=folder)


def faiss(documents: list[Document], embeddings: Embeddings) -> VectorStore:
    """Fill a FAISS index."""
    from langchain_community.vectorstores import FAISS

    return FAISS.from_documents(documents, embeddings)


def qdrant(documents: list[Document], embeddings: Embeddings) -> VectorStore:
    """Fill a Qdrant database that needs no server."""
    from langchain_qdrant import QdrantVectorStore
    from qdrant_client.models import Distance

    return QdrantVectorStore.from_documents(
        documents,
        embeddings,
        location=":memory:",
        collection_name="documents",
        distance=Distance.DOT,  # with "cosine" Qdrant would scale the vectors again
    )


def pgvector(documents: list[Document], embeddings: Embeddings) -> VectorStore:
    """Fill PostgreSQL directly."""
    from langchain_postgres import PGVector

    return PGVector.from_documents(
        documents,
        embeddings,
        connection=os.environ["DATABASE_URL"],
        collection_name="documents",
        pre_delete_collection=True,
    )


CALLERS: Mapping[str, Caller] = MappingProxyType(
    {
        caller.__name__: caller
        for caller in (sqlite_vec, supabase, in_memory, chroma, faiss, qdrant, pgvector)
    }
)
