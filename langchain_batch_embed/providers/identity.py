"""Identifies a wrapped object, and what distinguishes its vectors from others."""

import hashlib
import inspect
import re
from collections.abc import Mapping
from types import FunctionType
from typing import Any

from langchain_core.embeddings import Embeddings

from langchain_batch_embed.limits import attribute, model_of

__all__ = [
    "NOT_PLAIN",
    "account_of",
    "digest",
    "dimensions_of",
    "embeds_its_own_way",
    "is_openai",
    "plain",
    "settings",
    "told_model",
]

_SECRET = re.compile(r"key|token$|secret|password|credential", re.IGNORECASE)
_KEY = re.compile(r"key", re.IGNORECASE)

NOT_PLAIN = object()
"""What `plain` returns for a value that is not plain."""


def is_openai(embeddings: Embeddings) -> bool:
    """Return whether an object is langchain-openai's `OpenAIEmbeddings`, or of a subclass."""
    # langchain-community has a class of the same name that is built differently.
    return any(
        base.__name__ == "OpenAIEmbeddings" and base.__module__.startswith("langchain_openai.")
        for base in type(embeddings).__mro__
    )


def embeds_its_own_way(embeddings: Embeddings) -> bool:
    """Return whether a method that embeds is not langchain-openai's own.

    A subclass may override it, and a test or a tracer may have replaced it in the class itself.
    """
    methods = (
        inspect.getattr_static(embeddings, name) for name in ("embed_documents", "embed_query")
    )
    return not all(_is_of_openai(method) for method in methods)


def _is_of_openai(method: object) -> bool:
    # Not `__module__`: a wrapper, and a mock with `autospec`, copies that of the original.
    scope = method.__globals__ if isinstance(method, FunctionType) else {}
    return str(scope.get("__name__")).startswith("langchain_openai.")


def told_model(embeddings: Embeddings) -> str | None:
    """Return the model that the user named for an object.

    `None` if an `OpenAIEmbeddings` has its default model, or if the object names a server instead,
    as a class for endpoints may.
    """
    model = model_of(embeddings)
    if is_openai(embeddings) and "model" not in attribute(embeddings, "model_fields_set", ()):
        return None
    return None if model is None or model.startswith(("http://", "https://")) else model


def dimensions_of(embeddings: Embeddings) -> int | None:
    """Return the dimensions that an object asks for; `None` for the model's own."""
    number = attribute(embeddings, "dimensions")
    return number if isinstance(number, int) else None


def settings(embeddings: Embeddings) -> dict[str, Any]:
    """Return the plain attributes of an object, any of which may change its vectors.

    Some, such as a time-out, do not. If one of those changes, texts are only paid for again. If an
    attribute that matters were left out, the vectors of another server or prefix would be returned.
    Anything that looks like a secret is left out.
    """
    attributes = {
        **(attribute(embeddings, "__dict__") or {}),
        **(attribute(embeddings, "__pydantic_private__") or {}),
    }
    kept: dict[str, Any] = plain(
        {
            name: value
            for name, value in attributes.items()
            # Private numbers are counts or times, and private collections are caches.
            if not _SECRET.search(name) and (name[:1] != "_" or isinstance(value, str | bool))
        }
    )
    return kept


def account_of(embeddings: Embeddings, *, address: str, model: str | None) -> str:
    """Return a digest that identifies an account's quota by the server, the model and the key.

    Tokens that are renewed every hour identify no account, so only attributes named "key" count.
    """
    attributes = getattr(embeddings, "__dict__", {})
    keys = [
        (name, str(getattr(value, "get_secret_value", lambda value=value: value)()))
        for name, value in sorted(attributes.items())
        if _KEY.search(name) and (isinstance(value, str) or hasattr(value, "get_secret_value"))
    ]
    named = repr((address, model, keys)).encode()
    return hashlib.blake2b(named, digest_size=16, person=b"batch-embed").hexdigest()


def digest(options: Mapping[str, Any]) -> str:
    """Return a short digest of options that can change the vectors."""
    if not options:
        return ""
    return hashlib.blake2b(repr(sorted(options.items())).encode(), digest_size=8).hexdigest()


def plain(value: Any) -> Any:
    """Return a value without the parts that are not plain, at any depth."""
    if isinstance(value, Mapping):
        names = [name for name in value if plain(name) is not NOT_PLAIN]
        parts = {name: plain(value[name]) for name in names}
        return {name: part for name, part in parts.items() if part is not NOT_PLAIN}
    if isinstance(value, list | tuple):
        kept = [part for part in map(plain, value) if part is not NOT_PLAIN]
        return kept if isinstance(value, list) else tuple(kept)
    return value if value is None or isinstance(value, str | int | float) else NOT_PLAIN
