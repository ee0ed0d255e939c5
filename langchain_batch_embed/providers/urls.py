"""Formats server addresses for messages, without anything that may be a key."""

from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

from langchain_core.embeddings import Embeddings

from langchain_batch_embed.limits import attribute

__all__ = ["address_of", "shown"]

# Attributes in which LangChain's classes keep the address of a server.
_NAMES = (
    "base_url",
    "openai_api_base",
    "azure_endpoint",
    "endpoint_url",
    "endpoint",
    "api_base",
    "api_url",
    "server_url",
    "infinity_api_url",
    "api_host",
    "url",
    "model",  # HuggingFaceEndpointEmbeddings accepts an address as its model
)


def shown(url: str) -> str:
    """Return an address without user name, password, query and fragment."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # an invalid port, or an incomplete IPv6 address
        return "the server"
    host = f"[{host}]" if ":" in host else host
    place = host if port is None else f"{host}:{port}"
    return urlunsplit((parts.scheme, place, parts.path, "", "")) or "the server"


def address_of(embeddings: Embeddings) -> str:
    """Return the address of an object's server, or a phrase that says whose server it is."""
    return next(_addresses(embeddings), f"the server of {type(embeddings).__name__}")


def _addresses(embeddings: Embeddings) -> Iterator[str]:
    for name in _NAMES:
        url = attribute(embeddings, name)
        if isinstance(url, str) and url.startswith(("http://", "https://")):
            yield shown(url)
