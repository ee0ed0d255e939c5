"""Finds out what a store can do from its class, signatures and attributes, without calling it.

No store's package is imported. Classes are identified by name, and a subclass counts as its parent.
"""

import inspect
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final

from langchain_core.vectorstores import VectorStore

from langchain_batch_embed.errors import OptionError

__all__ = [
    "BATCH_SIZE",
    "appends",
    "batch_size_of",
    "check_store",
    "core_of",
    "implements",
    "is_a",
    "place_of",
    "replaces_by_id",
]

BATCH_SIZE = 1024
"""Largest number of documents in one call to a store that names no size of its own. sqlite-vec
keeps vectors in chunks of this many."""

_ADDING: Final = ("add_documents", "add_texts", "aadd_documents", "aadd_texts")
_SIZES: Final = ("chunk_size", "bulk_size")
"""Attributes with the number of rows that a store writes in one statement. OpenSearch refuses a
call with more."""

_PLACES: Final = ("collection_name", "_collection_name", "table_name", "_table_name", "index_name")

_APPENDING: Final = frozenset({"FAISS", "LanceDB", "Milvus", "SKLearnVectorStore", "DuckDB"})
"""Stores that take ids, but add a second row for an id that exists already. LanceDB calls
`tbl.add`, Milvus the server's `insert`, DuckDB `INSERT INTO`, and the others append to lists."""

_WRAPPED: Final = 3
"""Look through at most this many wrappers around a store."""


def check_store(store: object, embeddings: object, *, is_async: bool) -> None:
    """Check that `store` is a vector store that uses these embeddings, before anything is read.

    Raises:
        OptionError: it is not, or it cannot be used in this way; the message says what to do.
    """
    if isinstance(store, type):
        raise OptionError(
            f"ingest takes a vector store, not a class: make one, {store.__name__}(...)"
        )
    name = type(store).__name__
    if not all(
        callable(getattr(store, method, None)) for method in ("add_documents", "similarity_search")
    ):
        within = getattr(store, "vectorstore", None)
        if isinstance(within, VectorStore):
            raise OptionError(f"ingest takes a vector store, not a {name}; pass its .vectorstore")
        hint = (
            " first, and then the documents" if isinstance(store, list | tuple | Iterator) else ""
        )
        raise OptionError(
            f"ingest takes a vector store{hint}: ingest(store, documents), not {name}"
        )
    # Some stores, such as SQLiteVec, have no `embeddings` property, only this attribute.
    used = getattr(store, "embeddings", None) or getattr(store, "_embedding", embeddings)
    if used is not embeddings:
        raise OptionError(
            f"this {name} does not use these embeddings; make the store with "
            "this BatchEmbeddings object"
        )
    core = core_of(store)
    if not is_async and getattr(core, "async_mode", False) is True:
        raise OptionError(f"this {name} is asynchronous; use await aingest(store, documents)")
    if is_a(core, "LanceDB") and getattr(core, "mode", None) == "overwrite":
        raise OptionError("each call of this LanceDB replaces its whole table; set mode='append'")


def batch_size_of(store: object) -> int:
    """Return how many documents to pass to the store in one call, so that it is one statement.

    Some stores, such as Supabase's, split a call into statements of `chunk_size` rows each. A
    single statement succeeds or fails as a whole. Of several, some may have succeeded when another
    one fails.
    """
    named = (getattr(store, name, None) for name in _SIZES)
    sizes = [
        size for size in named if isinstance(size, int) and not isinstance(size, bool) and size > 0
    ]
    return min(sizes, default=BATCH_SIZE)


def place_of(store: object) -> str:
    """Return the name of a store's table or collection, or an empty string if it is not known."""
    named = (getattr(store, name, None) for name in _PLACES)
    return next((name for name in named if isinstance(name, str)), "")


def is_a(store: object, *names: str) -> bool:
    """Return whether a store's class, or one of its base classes, has one of these names."""
    return any(kind.__name__ in names for kind in type(store).__mro__)


def core_of(store: object) -> Any:
    """Return the store that does the work: the store itself, or the one that it wraps."""
    for _ in range(_WRAPPED):
        owner = getattr(getattr(store, "add_documents", None), "__self__", store)
        if owner is store and isinstance(store, VectorStore):
            inner = [value for value in _values(store) if isinstance(value, VectorStore)]
            owner = inner[0] if len(inner) == 1 else store
        if owner is store or not hasattr(owner, "add_documents"):
            break
        store = owner
    return store


def replaces_by_id(store: object) -> bool:
    """Return whether writing a row again can replace the row with the same id.

    The store's methods must take ids, as their signatures or code show. If the store would add a
    second row, it must be able to delete the first one.
    """
    core = core_of(store)
    takes_ids = any(_names_ids(function) for function in _functions(core))
    return takes_ids and (not appends(store) or implements(core, "delete"))


def appends(store: object) -> bool:
    """Return whether a second row with the same id is added instead of replacing the first."""
    return is_a(core_of(store), *_APPENDING)


def implements(store: object, name: str) -> bool:
    """Return whether a store's class implements a method that LangChain's base only declares."""
    kinds = (kind for kind in type(store).__mro__ if kind is not VectorStore)
    return any(name in vars(kind) or f"a{name}" in vars(kind) for kind in kinds)


def _values(store: object) -> list[object]:
    return list(getattr(store, "__dict__", {}).values())


def _functions(store: object) -> Iterator[Callable[..., Any]]:
    """Yield the methods that add rows, of all base classes except LangChain's own."""
    for kind in type(store).__mro__:
        if kind is not VectorStore:
            yield from (vars(kind)[name] for name in _ADDING if callable(vars(kind).get(name)))


def _names_ids(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # compiled code may have no signature
        return False
    if "ids" in parameters:
        return True
    # `kwargs["ids"]` and `kwargs.get("ids")` leave "ids" among the code's constants.
    code = getattr(function, "__code__", None)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return takes_any and "ids" in islice(getattr(code, "co_consts", ()), 200)
