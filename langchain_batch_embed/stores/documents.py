"""Reads documents as they are needed, and gives each one its id."""

import asyncio
import json
import uuid
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal

from langchain_core.documents import Document

from langchain_batch_embed.errors import InputTypeError, OptionError
from langchain_batch_embed.report import plural

__all__ = [
    "Ids",
    "Item",
    "Reader",
    "Take",
    "check_ids",
    "content_id",
    "take_from",
    "take_from_async",
]

Ids = Iterable[str] | Literal["content"] | None
"""The ids that the user gives; `"content"` generates them from text and metadata."""

Take = Callable[[int], tuple[list[object], Exception | None]]
"""Returns at most this many further documents, and the error that stopped their iterator."""

_NAMESPACE: Final = uuid.UUID("6f0d3c1e-6a51-5b0c-9d5e-3f6a8f1c2b47")
"""Keeps the ids of `content_id` apart from all other UUIDs. Any fixed value would do."""

_END: Final = object()


@dataclass(frozen=True, slots=True)
class Item:
    """A document on its way into the store.

    Attributes:
        index: its position among the documents that the user gave.
        document: the document itself.
        id: its id, or `None` if it has none.
        made: whether this package generated the id, from text and metadata.
    """

    index: int
    document: Document
    id: str | None
    made: bool = False


class Reader:
    """Reads documents and gives them ids: the user's, else the document's own, else generated ones.

    A generated id depends on the content, so it is the same in each run. If the store replaces rows
    by id, a second run replaces the rows of the first. Equal documents get different ids, except
    with `ids="content"`, which gives every document the id of its content.

    Args:
        take: returns the next documents.
        ids: what the user gave.
        make_ids: whether to generate ids for documents that have none.
        place: the table or collection of the store. It is part of each generated id, because
            PGVector's ids must be unique across all its collections.

    Attributes:
        broken: the error that the documents or their ids raised, or `None`.
        count: documents read so far.
    """

    def __init__(self, take: Take, ids: Ids, *, make_ids: bool, place: str) -> None:
        self.broken: Exception | None = None
        self.count = 0
        self._take = take
        self._by_content = isinstance(ids, str)  # "content", as `check_ids` has found
        self._ids: Iterator[str] | None = None if ids is None or isinstance(ids, str) else iter(ids)
        self._make_ids = make_ids
        self._place = place
        self._copies: dict[int, int] = {}  # documents with the same content, by half of their id

    def next(self, count: int) -> list[Item]:
        """Return the next `count` documents, or fewer at the end and before an error."""
        items: list[Item] = []
        if self.broken is None:
            documents, self.broken = self._take(count)
            at_end = len(documents) < count and self.broken is None
            try:
                for document in documents:
                    items.append(self._item(document))  # noqa: PERF401  # keep what came before
                if at_end and self._ids is not None and next(self._ids, _END) is not _END:
                    raise _uneven(self.count, "document")
            except Exception as error:  # noqa: BLE001  # a generator can raise anything
                self.broken = error
        return items

    def _item(self, document: object) -> Item:
        own: Any = None
        if self._ids is not None and (own := next(self._ids, _END)) is _END:
            raise _uneven(self.count, "id")
        if not isinstance(document, Document):
            raise InputTypeError(
                f"ingest takes documents, but number {self.count:,} is a "
                f"{type(document).__name__}; make it a Document(page_content=...)"
            )
        index, self.count = self.count, self.count + 1
        if self._by_content:
            return Item(index, document, content_id(document, self._place), made=True)
        _check_id(own, index)
        own = document.id if own is None else own
        if own is not None or not self._make_ids:
            return Item(index, document, own)
        return Item(index, document, self._own_id(document), made=True)

    def _own_id(self, document: Document) -> str:
        made = content_id(document, self._place)
        key = uuid.UUID(made).int >> 64
        copy = self._copies[key] = self._copies.get(key, 0) + 1
        return made if copy == 1 else str(uuid.uuid5(uuid.UUID(made), str(copy)))


def content_id(document: Document, place: str) -> str:
    """Return a UUID that depends only on text, metadata and place."""
    try:
        metadata = json.dumps(document.metadata, sort_keys=True, default=str)
    except (TypeError, ValueError):  # keys of mixed types, or a circular reference
        metadata = repr(document.metadata)
    name = json.dumps([place, document.page_content, metadata])
    return str(uuid.uuid5(_NAMESPACE, name))


def check_ids(documents: object, ids: Ids) -> None:
    """Check that the ids fit the documents, before anything is stored.

    Raises:
        OptionError: `ids` is neither an iterable nor `"content"`, an id is not a string, or both
            have a length and there are not as many ids as documents.
    """
    if isinstance(ids, str):
        if ids != "content":
            raise OptionError(f"ids must be one a document, or 'content', not {ids[:40]!r}")
    elif ids is not None and not isinstance(ids, Iterable):
        raise OptionError(f"ids must be one a document, or 'content', not {type(ids).__name__}")
    elif isinstance(ids, Sized) and isinstance(documents, Sized) and len(ids) != len(documents):
        few = min(len(ids), len(documents))
        raise _uneven(few, "id" if few == len(ids) else "document")
    elif isinstance(ids, Sized):
        for number, each in enumerate(ids):
            _check_id(each, number)


def _check_id(given: object, number: int) -> None:
    if not isinstance(given, str | None):
        raise OptionError(
            f"ids must be strings, but number {number:,} is {type(given).__name__}; pass "
            "[str(id) for id in ids]"
        )


def take_from(documents: Iterable[object]) -> Take:
    """Return a function that reads from an iterable.

    Raises:
        InputTypeError: `documents` is not an iterable of documents.
    """
    if hasattr(type(documents), "columns"):  # pandas yields names of columns
        raise InputTypeError(
            f"ingest takes an iterable of documents, not {_kind(documents)}; make a "
            "Document(page_content=...) of each row"
        )
    if not isinstance(documents, Iterable):
        hint = "; pass what it returns" if callable(documents) else ""
        raise InputTypeError(f"ingest takes an iterable of documents, not {_kind(documents)}{hint}")
    if isinstance(documents, Document | str):  # whose fields or letters would be documents
        raise InputTypeError(
            f"ingest takes an iterable of documents, not one {type(documents).__name__}; pass "
            "[document]"
        )
    iterator = iter(documents)

    def take(count: int) -> tuple[list[object], Exception | None]:
        found: list[object] = []
        try:
            for document in islice(iterator, count):  # one by one, to keep those before an error
                found.append(document)  # noqa: PERF402
        except Exception as error:  # noqa: BLE001  # a generator can raise anything
            return found, error
        return found, None

    return take


def take_from_async(documents: AsyncIterable[object], wait: Callable[[Any], Any]) -> Take:
    """Return a function that reads from an asynchronous iterable.

    Args:
        documents: the iterable.
        wait: runs a coroutine in the event loop and returns its result.
    """
    iterator = aiter(documents)

    async def read(count: int, iterator: AsyncIterator[object]) -> list[object]:
        while len(found) < count:
            try:
                found.append(await anext(iterator))
            except StopAsyncIteration:
                break
        return list(found)

    found: deque[object] = deque()

    def take(count: int) -> tuple[list[object], Exception | None]:
        found.clear()
        try:
            return wait(read(count, iterator)), None
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  # a generator can raise anything
            return list(found), error

    return take


def _uneven(count: int, noun: str) -> OptionError:
    verb = "is" if count == 1 else "are"
    return OptionError(f"ids must be one a document, but there {verb} only {plural(count, noun)}")


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
