"""How one batch is really sent.

`OpenAIProvider` goes through the OpenAI SDK's raw response, for OpenAI, Azure and every
server that speaks their protocol: that gives the headers, and base64 without a detour over
Python floats. `WrappedProvider` calls `embed_documents` of any other class, after it has turned
off that class's own slicing and retrying as far as it has options for that.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from langchain_batch_embed.errors import DimensionsError
from langchain_batch_embed.journal import Space
from langchain_batch_embed.limits import Limits, model_of
from langchain_batch_embed.providers.decoding import as_array, check, read_answer
from langchain_batch_embed.providers.socket_deadline import limit_reads, time_limit
from langchain_batch_embed.providers.wrapped_object import (
    Connections,
    client_of,
    digest,
    embeds_its_own_way,
    is_openai,
    one_request_a_call,
    seconds_of,
    settings,
)

if TYPE_CHECKING:  # a wrapped OpenAIEmbeddings has imported both; nobody else needs them
    from langchain_openai import OpenAIEmbeddings

__all__ = ["Answer", "OpenAIProvider", "Provider", "WrappedProvider", "provider_for"]


_AROUND = 100
"""Tokens that a server may add to a text: two or three marks, and an instruction such as those of
E5, Qwen3 and Instructor models, of 10 to 40 tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A checked answer.

    Attributes:
        vectors: float32, one row a text, shape (n, d).
        tokens: tokens billed; `None` where the provider does not say, or says what cannot be.
        model: the model that the answer says it is from; `None` where it does not say.
        headers: the answer's HTTP headers, where they are known.
    """

    vectors: NDArray[np.float32]
    tokens: int | None = None
    model: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Provider(Protocol):
    """Sends one batch of texts.

    Attributes:
        model: the model's name, as far as it is known.
        encoding: the model or encoding to count tokens with; `None`: not known.
        timeout: seconds for one request that the wrapped object was given, if any.
        space: what tells these vectors from others in a journal.
        address: what messages call the server, without a key.
        is_known: the server is known to take any number of requests at a time.
    """

    model: str | None
    encoding: str | None
    timeout: float | None
    space: Space
    is_known: bool
    address: str

    def send(self, texts: Sequence[str], *, timeout: float) -> Answer:
        """Send one request that ends within `timeout` seconds, and check its answer.

        Raises:
            ResponseError: the answer cannot be believed.
            DimensionsError: the vectors have another width than was asked for.
            Exception: whatever the provider's SDK raises.
        """
        ...

    def send_query(self, texts: Sequence[str], *, timeout: float) -> Answer:
        """Send one query, a list of one text."""
        ...


class OpenAIProvider:
    """Sends through the OpenAI SDK, with its own retrying turned off."""

    def __init__(
        self,
        embeddings: "OpenAIEmbeddings",
        *,
        limits: Limits,
        model: str | None = None,
        connections: Connections = "ours",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        client = client_of(embeddings, connections)
        limit_reads(client._client)  # noqa: SLF001  # no public way to it
        self._create = client.embeddings.with_streaming_response.create
        self.model: str | None = model or embeddings.model
        self.encoding: str | None = embeddings.tiktoken_model_name or embeddings.model
        self.timeout = seconds_of(embeddings.request_timeout)
        self._clock = clock
        # Not a gateway or a server of one's own that only speaks the same protocol.
        host = (client.base_url.host or "").lower()
        port = "" if client.base_url.port is None else f":{client.base_url.port}"
        self.address = f"{client.base_url.scheme}://{host}{port}{client.base_url.path}"
        self.is_known = host == "api.openai.com" or host.endswith(".azure.com")
        self._dimensions = embeddings.dimensions
        # What OpenAIEmbeddings does with the texts of first-generation models.
        self._joins_lines = embeddings.model.endswith("001")
        self._options: dict[str, Any] = {**embeddings.model_kwargs, "model": embeddings.model}
        if embeddings.dimensions is not None:
            self._options["dimensions"] = embeddings.dimensions
        self.space = Space(
            provider=limits.provider,
            model=embeddings.model,
            dimensions=embeddings.dimensions,
            endpoint=str(client.base_url),
            variant=digest(embeddings.model_kwargs),
        )

    def send(self, texts: Sequence[str], *, timeout: float) -> Answer:
        """Send one request that ends within `timeout` seconds, and check its answer."""
        if self._joins_lines:
            texts = [text.replace("\n", " ") for text in texts]
        # The SDK inspects every item of `input`, which takes longer than sending them;
        # `extra_body` is put over it unseen.
        body = {**self._options.get("extra_body", {}), "input": texts}
        options = {**self._options, "extra_body": body, "encoding_format": "base64"}
        end = self._clock() + timeout
        chunks: list[bytes] = []
        with (
            time_limit(end, self._clock),
            self._create(input=[], timeout=timeout, **options) as response,
        ):
            for chunk in response.iter_bytes():
                chunks.append(chunk)
                # Also on connections that do not keep the time limit: the SDK's time-out is for
                # each read, and a server that drips never meets it.
                if self._clock() > end:
                    raise TimeoutError(f"the answer was not complete after {timeout:g} s")
            headers = response.headers
        vectors, tokens, model = read_answer(
            _joined(chunks), expected=len(texts), most_tokens=_most_tokens(texts)
        )
        if self._dimensions not in (None, vectors.shape[1]):
            raise DimensionsError(expected=self._dimensions, received=vectors.shape[1])
        return Answer(vectors=vectors, tokens=tokens, model=model, headers=headers)

    send_query = send
    """OpenAI embeds a query as it does a document."""


class WrappedProvider:
    """Sends through the wrapped object's own methods, and leaves the time-out to it."""

    encoding: str | None = "cl100k_base"
    """These providers' tokenizers are not at hand. What this one counts is nearer than bytes, and
    `limits.py` leaves room for the difference."""

    timeout: float | None = None
    is_known = False

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
        self.model = model or model_of(embeddings)
        self.address = f"the server of {type(embeddings).__name__}"
        kind = type(embeddings)
        self.space = Space(
            provider=limits.provider,
            model=self.model or "",
            variant=f"{kind.__module__}.{kind.__qualname__} {digest(settings(embeddings))}",
        )

    def send(self, texts: Sequence[str], *, timeout: float) -> Answer:  # noqa: ARG002
        """Embed the texts as documents, and check the answer."""
        return _checked(self._embeddings.embed_documents(list(texts)), expected=len(texts))

    def send_query(self, texts: Sequence[str], *, timeout: float) -> Answer:  # noqa: ARG002
        """Embed one query, a list of one text, and check the answer."""
        return _checked([self._embeddings.embed_query(texts[0])], expected=1)


def provider_for(
    embeddings: Embeddings,
    *,
    limits: Limits,
    model: str | None = None,
    timeout: float | None = None,
    connections: Connections = "ours",
) -> Provider:
    """Return the fastest way to send for an `Embeddings` object.

    A subclass of `OpenAIEmbeddings` with methods of its own, such as those that put a prefix before
    each text, is asked itself.

    Args:
        embeddings: the wrapped object.
        limits: of its provider.
        model: its model's name, where it does not tell that.
        timeout: seconds for one request, for a class that can be told.
        connections: whose those of the wrapped object are; those of another process are left to
            it.

    Raises:
        OptionError, BatchEmbeddingsError: see `client_of`.
    """
    if is_openai(embeddings) and not embeds_its_own_way(embeddings):
        wrapped = cast("OpenAIEmbeddings", embeddings)
        return OpenAIProvider(wrapped, limits=limits, model=model, connections=connections)
    return WrappedProvider(
        embeddings, limits=limits, model=model, timeout=timeout, connections=connections
    )


def _most_tokens(texts: Sequence[str]) -> int:
    """Return how many tokens texts can have at most, by any tokenizer.

    A token is at least a byte, and a character at most four of them in UTF-8. Added is room for
    what a server puts around each text.
    """
    return 4 * sum(map(len, texts)) + _AROUND * len(texts)


def _joined(chunks: list[bytes]) -> bytes:
    """Return the chunks as one, and drop them: an answer is 17 MB, and many are read at a time."""
    body = b"".join(chunks)
    chunks.clear()
    return body


def _checked(embeddings: Sequence[Sequence[float]], *, expected: int) -> Answer:
    return Answer(vectors=check(as_array(embeddings), expected=expected))
