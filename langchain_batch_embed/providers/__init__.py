"""Sends one batch, through OpenAI's SDK or through any other embeddings class."""

from typing import TYPE_CHECKING, cast

from langchain_core.embeddings import Embeddings

from langchain_batch_embed.limits import Limits
from langchain_batch_embed.providers.copies import Connections, sdk_client, with_sync_client
from langchain_batch_embed.providers.identity import embeds_its_own_way, is_openai
from langchain_batch_embed.providers.openai import OpenAIProvider
from langchain_batch_embed.providers.provider import Answer, Provider
from langchain_batch_embed.providers.wrapped import WrappedProvider

if TYPE_CHECKING:  # only a wrapped OpenAIEmbeddings needs it, and has imported it
    from langchain_openai import OpenAIEmbeddings

__all__ = ["Answer", "Connections", "Provider", "provider_for"]


def provider_for(
    embeddings: Embeddings,
    *,
    limits: Limits,
    model: str | None = None,
    timeout: float | None = None,
    connections: Connections = "ours",
    replaces_empty: bool = False,
) -> Provider:
    """Return the provider that sends fastest for an `Embeddings` object.

    A subclass of `OpenAIEmbeddings` that overrides a method, for example to put a prefix before
    each text, sends through that method. So does an object whose client is not the SDK's.

    Args:
        embeddings: the wrapped object.
        limits: the limits of its provider.
        model: the model's name, for an object that has none.
        timeout: seconds for one request, for a class that has such an option.
        connections: who opened the wrapped object's connections. Another process's are not used.
        replaces_empty: whether to send a space for an empty text that the server refuses.

    Raises:
        OptionError: see `with_sync_client`.
        BatchEmbeddingsError: see `client_of`.
    """
    if is_openai(embeddings) and not embeds_its_own_way(embeddings):
        embeddings = wrapped = with_sync_client(cast("OpenAIEmbeddings", embeddings))
        if sdk_client(wrapped) is not None:
            return OpenAIProvider(
                wrapped,
                limits=limits,
                model=model,
                connections=connections,
                replaces_empty=replaces_empty,
            )
    return WrappedProvider(
        embeddings, limits=limits, model=model, timeout=timeout, connections=connections
    )
