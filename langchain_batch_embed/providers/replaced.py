"""Warns about options of a wrapped object that act differently with this package."""

import logging
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from langchain_core.embeddings import Embeddings

from langchain_batch_embed.limits import Limits, attribute, set_by_user
from langchain_batch_embed.providers.identity import is_openai

__all__ = ["warn_of_replaced"]

logger = logging.getLogger(__name__)

_RETRIES = "BatchEmbeddings retries by itself (see its max_retries)"
_WHOLE = "BatchEmbeddings packs the requests (see its max_batch_size)"
_TOKENS = "BatchEmbeddings sends strings and counts tokens by itself"

# By option: what replaces it. Options that act as before are not listed.
_FATES: Mapping[str, str] = MappingProxyType(
    {
        "batch_size": _WHOLE,
        "max_batch_size": _WHOLE,
        "max_retries": _RETRIES,
        "retry_max_seconds": _RETRIES,
        "retry_min_seconds": _RETRIES,
    }
)
_FATES_AT_OPENAI: Mapping[str, str] = MappingProxyType(
    {
        "allowed_special": _TOKENS,
        "disallowed_special": _TOKENS,
        "http_async_client": "requests are sent from threads, through http_client",
        "tiktoken_enabled": _TOKENS,
    }
)


def warn_of_replaced(embeddings: Embeddings, limits: Limits) -> None:
    """Log one WARNING with all options that the user set and that now act differently.

    Args:
        embeddings: the wrapped object.
        limits: the limits of its requests.
    """
    said = [*_said(embeddings, limits)]
    if said:
        logger.warning("%s: %s", type(embeddings).__name__, "; ".join(said))


def _said(embeddings: Embeddings, limits: Limits) -> Iterator[str]:
    size = set_by_user(embeddings, "chunk_size")
    if isinstance(size, int):
        yield (
            f"chunk_size={size} is replaced by a limit of {limits.max_batch_size:,} texts a request"
        )
    fates = {**_FATES, **(_FATES_AT_OPENAI if is_openai(embeddings) else {})}
    if attribute(embeddings, "openai_proxy"):  # the class itself made that client
        fates.pop("http_async_client", None)
    for option, fate in fates.items():
        value = set_by_user(embeddings, option)
        if value is None or (
            option == "http_async_client" and attribute(embeddings, "http_client")
        ):
            continue
        shown = f"={value}" if isinstance(value, int | float) else ""  # other values may be long
        yield f"{option}{shown} is not used, because {fate}"
