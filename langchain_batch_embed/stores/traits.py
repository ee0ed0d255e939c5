"""What is known of a store without asking it: its class, its signatures, its attributes.

No store's package is imported. Classes are known by name, and a subclass counts as its parent.
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
"""Documents in one call of a store that names no size, at most. sqlite-vec keeps vectors in chunks
of this many."""

_ADDING: Final = ("add_documents", "add_texts", "aadd_documents", "aadd_texts")
_SIZES: Final = ("chunk_size", "bulk_size")
"""Where stores keep how many rows they write in one statement; OpenSearch refuses more."""

_PLACES: Final = ("collection_name", "_collection_name", "table_name", "_table_name", "index_name")

_APPENDING: Final = frozenset({"FAISS", "LanceDB", "Milvus", "SKLearnVectorStore", "DuckDB"})
"""Stores that take ids, and add a second row for one that is there already: `tbl.add` of LanceDB,
`insert` of Milvus' server, `INSERT INTO` of DuckDB, lists of the others."""

_WRAPPED: Final = 3
"""Look through this many stores around a store."""


def check_store(store: object, embeddings: object, *, is_async: bool) -> None:
    """Refuse what is no store for these embeddings, before anything is read.

    Raises:
        OptionError: with a word on what to pass instead.
    """
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
    # SQLiteVec, for one, has no `embeddings`, but keeps them where most stores do.
    used = getattr(store, "embeddings", None) or getattr(store, "_embedding", embeddings)
    if used is not embeddings:
        raise OptionError(
            f"this {name} does not use these embeddings; make the store with "
            "this BatchEmbeddings object"
        )
    core = core_of(store)
    if not is_async and getattr(core, "async_mode", False) is True:
        raise OptionError(f"this {name} is asynchronous: await aingest(store, documents)")
    if is_a(core, "LanceDB") and getattr(core, "mode", None) == "overwrite":
        raise OptionError("each call of this LanceDB replaces its whole table; set mode='append'")


def batch_size_of(store: object) -> int:
    """Return how many documents to give to one call of the store.

    Some stores, such as Supabase's, write a call in statements of `chunk_size` rows each. One
    statement is all or nothing. Of several, some may have succeeded when another one fails.
    """
    named = (getattr(store, name, None) for name in _SIZES)
    sizes = [size for size in named if isinstance(size, int) and size > 0]
    return min(sizes, default=BATCH_SIZE)


def place_of(store: object) -> str:
    """Return the name of the table or collection that a store writes to, as far as it tells."""
    named = (getattr(store, name, None) for name in _PLACES)
    return next((name for name in named if isinstance(name, str)), "")


def is_a(store: object, *names: str) -> bool:
    """Tell whether a store is of a class with one of these names, or of a subclass."""
    return any(kind.__name__ in names for kind in type(store).__mro__)


def core_of(store: object) -> Any:
    """Return the store that does the work: itself, or the one inside a wrapper around it."""
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
    """Tell whether a row that is written again takes the place of the one with its id.

    The store's methods take ids, as their signatures or code show. Where it would add a second
    row, the first one can be deleted.
    """
    core = core_of(store)
    takes_ids = any(_names_ids(function) for function in _functions(core))
    return takes_ids and (not appends(store) or implements(core, "delete"))


def appends(store: object) -> bool:
    """Tell whether a second row with an id is added to the first one, and does not replace it."""
    return is_a(core_of(store), *_APPENDING)


def implements(store: object, name: str) -> bool:
    """Tell whether a store's class has a method that LangChain's base only names."""
    kinds = (kind for kind in type(store).__mro__ if kind is not VectorStore)
    return any(name in vars(kind) or f"a{name}" in vars(kind) for kind in kinds)


def _values(store: object) -> list[object]:
    return list(getattr(store, "__dict__", {}).values())


def _functions(store: object) -> Iterator[Callable[..., Any]]:
    """Yield the methods that add rows, of all classes but LangChain's own base."""
    for kind in type(store).__mro__:
        if kind is not VectorStore:
            yield from (vars(kind)[name] for name in _ADDING if callable(vars(kind).get(name)))


def _names_ids(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # compiled
        return False
    if "ids" in parameters:
        return True
    # `kwargs["ids"]` and `kwargs.get("ids")` are in the code's constants.
    code = getattr(function, "__code__", None)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return takes_any and "ids" in islice(getattr(code, "co_consts", ()), 200)
