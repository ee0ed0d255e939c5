"""Sends through the wrapped object's own methods, for every class except OpenAI's.

The class's own splitting and retrying is turned off first, if it has options for that.
"""

from collections.abc import Iterable, Sequence

from langchain_core.embeddings import Embeddings

from langchain_batch_embed.errors import BatchEmbeddingsError
from langchain_batch_embed.journal import Space
from langchain_batch_embed.limits import Limits, model_of
from langchain_batch_embed.providers.copies import Connections, one_request_a_call
from langchain_batch_embed.providers.coroutines import is_own, result_of
from langchain_batch_embed.providers.decoding import as_array, check
from langchain_batch_embed.providers.identity import digest, settings
from langchain_batch_embed.providers.provider import Answer
from langchain_batch_embed.providers.urls import address_of

__all__ = ["WrappedProvider"]


class WrappedProvider:
    """Sends through the wrapped object's own methods, and leaves the time-out to them."""

    encoding: str | None = "cl100k_base"
    """These providers' tokenizers are not available. This one comes closer than counting bytes, and
    `limits.py` leaves room for the difference."""

    timeout: float | None = None
    is_known = False
    shares_queries = False

    def __init__(
        self,
        embeddings: Embeddings,
        *,
        limits: Limits,
        model: str | None = None,
        timeout: float | None = None,
        connections: Connections = "ours",
    ) -> None:
        self._embeddings = one_request_a_call(
            embeddings, limits, timeout=timeout, connections=connections
        )
        kind = type(embeddings)
        self.model = model or model_of(embeddings)
        self.address = address_of(embeddings)
        self.class_name = kind.__name__
        self.name = limits.provider if limits.provider != "unknown" else kind.__name__
        self.space = Space(
            provider=limits.provider,
            model=self.model or "",
            variant=f"{kind.__module__}.{kind.__qualname__} {digest(settings(embeddings))}",
        )

    def send(self, texts: Sequence[str], *, timeout: float) -> Answer:
        """Embed the texts as documents, and check the answer."""
        try:
            vectors = self._embeddings.embed_documents(list(texts))
        except NotImplementedError:
            if not is_own(self._embeddings, "aembed_documents"):
                raise
            vectors = result_of(self._embeddings.aembed_documents(list(texts)), timeout)
        self._check_type(vectors, "embed_documents")
        return _checked(vectors, expected=len(texts))

    def send_query(self, texts: Sequence[str], *, timeout: float) -> Answer:
        """Embed one query, a list of one text, and check the answer."""
        try:
            vector = self._embeddings.embed_query(texts[0])
        except NotImplementedError:
            if not is_own(self._embeddings, "aembed_query"):
                raise
            vector = result_of(self._embeddings.aembed_query(texts[0]), timeout)
        self._check_type(vector, "embed_query")
        return _checked([vector], expected=1)

    def _check_type(self, value: object, method: str) -> None:
        """Raise an error if a method returned no list, which is a bug in its class."""
        if not isinstance(value, Iterable):
            raise BatchEmbeddingsError(
                f"{self.class_name}.{method} returned {type(value).__name__}, not a list"
            )


def _checked(embeddings: Sequence[Sequence[float]], *, expected: int) -> Answer:
    return Answer(vectors=check(as_array(embeddings), expected=expected))
