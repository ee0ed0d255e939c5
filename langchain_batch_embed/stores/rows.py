"""Finds out which documents of a failed call to a store are stored.

Stores differ in what they can show. The answer for each document is `True`, `False`, or `None` if
it is not known.
"""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from langchain_core.documents import Document

from langchain_batch_embed.errors import OptionError
from langchain_batch_embed.stores.calls import StoreCalls
from langchain_batch_embed.stores.documents import Item
from langchain_batch_embed.stores.sqlite import connection_of, roll_back
from langchain_batch_embed.stores.traits import appends, core_of, implements, is_a

__all__ = ["Rows", "rows_of"]

logger = logging.getLogger(__name__)

Stored = list[bool | None]


class Rows(Protocol):
    """Shows which documents have a row in a store."""

    exact: bool
    """Whether the store can always show which documents of a failed call are stored."""

    def before(self, items: Sequence[Item], *, again: bool) -> None:
        """Prepare a call that writes these documents; remove the rows that they replace.

        Args:
            items: the documents.
            again: whether an earlier call with these documents failed.
        """

    def tidy(self) -> None:
        """Undo what a failed call left half done."""

    def stored(self, items: Sequence[Item]) -> Stored:
        """Return for each document of a failed call whether it is stored; `None` if unknown."""


def rows_of(calls: StoreCalls) -> Rows:
    """Return the `Rows` of a store, by its class.

    Raises:
        OptionError: the store is a damaged FAISS index.
    """
    core = core_of(calls.store)
    if is_a(core, "SQLiteVec", "SQLiteVSS"):
        return _SQLiteRows(core)
    if is_a(core, "FAISS"):
        return _FaissRows(core)
    if is_a(core, "SupabaseVectorStore"):
        return _SupabaseRows(calls, core)
    return _RowsById(calls, deletes=appends(core))


class _RowsById:
    """Rows that are read with `get_by_ids`, if the store has it."""

    exact = False

    def __init__(self, calls: StoreCalls, *, deletes: bool) -> None:
        self._calls = calls
        self._deletes = deletes
        self._shows = implements(core_of(calls.store), "get_by_ids")

    def before(self, items: Sequence[Item], *, again: bool) -> None:
        ids = [item.id for item in items if item.id is not None]
        if not self._deletes or not ids:
            return
        try:
            self._calls.delete(ids)
        except Exception as error:
            if again:  # or rows of the failed call could be there twice
                raise
            # Usually the table does not exist yet.
            logger.info("the store deleted no rows before the write (%s)", type(error).__name__)

    def tidy(self) -> None:
        roll_back(core_of(self._calls.store))

    def stored(self, items: Sequence[Item]) -> Stored:
        try:
            found = self._find([item.id for item in items if item.id is not None])
        except Exception as error:  # noqa: BLE001  # the answer is "not known"
            logger.info("the store cannot report which rows it holds (%s)", type(error).__name__)
            return [None] * len(items)
        by_id = {_plain(_id_of(document)): document for document in found or ()}
        is_unclear = found is None or "none" in by_id
        return [
            None
            if is_unclear or item.id is None
            else _is_there(item.document, by_id.get(_plain(item.id)))
            for item in items
        ]

    def _find(self, ids: list[Any]) -> list[Document] | None:
        return self._calls.get_by_ids(ids) if self._shows else None


class _SupabaseRows(_RowsById):
    """Supabase's store has no `get_by_ids`, but its client can read the table."""

    def __init__(self, calls: StoreCalls, core: Any) -> None:
        super().__init__(calls, deletes=False)
        self._core = core

    def _find(self, ids: list[Any]) -> list[Document] | None:
        table = self._core._client.from_(self._core.table_name)  # noqa: SLF001
        answer = table.select("id,content,metadata").in_("id", ids).execute()
        return [
            Document(id=row["id"], page_content=row["content"], metadata=row["metadata"] or {})
            for row in answer.data
        ]


class _SQLiteRows:
    """Rows of SQLiteVec, where each call is one transaction that appends to the table."""

    exact = True

    def __init__(self, core: Any) -> None:
        self._core = core
        self._last: int | None = None  # highest rowid before the call; `None` if not read

    def before(self, items: Sequence[Item], *, again: bool) -> None:
        del items, again
        self._last = None
        ((last,),) = self._select(f"SELECT max(rowid) FROM {self._core._table}")  # noqa: S608, SLF001
        self._last = last or 0

    def tidy(self) -> None:
        roll_back(self._core)

    def stored(self, items: Sequence[Item]) -> Stored:
        if self._last is None:
            return [False] * len(items)
        try:
            rows = self._select(
                f"SELECT text, metadata FROM {self._core._table} "  # noqa: S608, SLF001
                f"WHERE rowid > {self._last}"
            )
        except Exception as error:  # noqa: BLE001  # the answer is "not known"
            logger.info("SQLite cannot report which rows it holds (%s)", type(error).__name__)
            return [None] * len(items)
        there = Counter((text, _comparable(json.loads(metadata))) for text, metadata in rows)
        stored: Stored = []
        for item in items:
            row = item.document.page_content, _comparable(item.document.metadata)
            stored.append(there[row] > 0)
            there[row] -= 1
        return stored

    def _select(self, query: str) -> list[Any]:
        cursor = connection_of(self._core).cursor()
        cursor.row_factory = None  # plain tuples, whatever row factory the store has set
        rows: list[Any] = cursor.execute(query).fetchall()
        return rows


class _FaissRows:
    """Rows of FAISS, which adds vectors before it notices that an id is taken.

    Its searches then return wrong documents. So existing ids are deleted before a call, and vectors
    without a document are deleted after a failed call.
    """

    exact = True

    def __init__(self, core: Any) -> None:
        self._core = core
        vectors, documents = core.index.ntotal, len(core.index_to_docstore_id)
        if vectors != documents:
            raise OptionError(
                f"this FAISS store is damaged: it has {vectors:,} vectors but {documents:,} "
                "documents, so searches return wrong documents; build it again"
            )

    def before(self, items: Sequence[Item], *, again: bool) -> None:
        del again
        there = {document.id for document in self._find(items)}
        if there:
            self._core.delete(list(there))

    def tidy(self) -> None:
        core = self._core
        named = len(core.index_to_docstore_id)
        if core.index.ntotal > named:
            core.index.remove_ids(np.arange(named, core.index.ntotal, dtype=np.int64))
        known = getattr(core.docstore, "_dict", None)
        if isinstance(known, dict) and len(known) > named:
            lost = set(known) - set(core.index_to_docstore_id.values())
            core.docstore.delete(list(lost))

    def stored(self, items: Sequence[Item]) -> Stored:
        by_id = {document.id: document for document in self._find(items)}
        return [bool(_is_there(item.document, by_id.get(item.id))) for item in items]

    def _find(self, items: Sequence[Item]) -> list[Document]:
        found = (self._core.docstore.search(item.id) for item in items if item.id is not None)
        # In a store that an old version saved, documents have no `id` of their own.
        return [
            Document(id=item.id, page_content=document.page_content, metadata=document.metadata)
            for item, document in zip([i for i in items if i.id is not None], found, strict=True)
            if isinstance(document, Document)
        ]


def _is_there(wanted: Document, found: Document | None) -> bool | None:
    """Return whether a row holds this document, not an older one; `None` if that is unclear."""
    if found is None or found.page_content != wanted.page_content:
        return False
    # Compare only the wanted keys, because Qdrant adds keys of its own.
    same = ((key in found.metadata, found.metadata.get(key)) for key in wanted.metadata)
    if _comparable(list(same)) == _comparable([(True, v) for v in wanted.metadata.values()]):
        return True
    return None  # an older document, or the store alters metadata


def _id_of(document: Document) -> object:
    return document.id or document.metadata.get("_id")  # where Qdrant keeps it


def _comparable(metadata: object) -> str:
    return json.dumps(metadata, sort_keys=True, default=str)


def _plain(name: object) -> str:
    """Return an id in lower case without hyphens, so that all spellings of a UUID are equal."""
    return str(name).replace("-", "").lower()
