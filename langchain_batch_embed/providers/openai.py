"""Sends through the OpenAI SDK: to OpenAI, Azure and every server that speaks their protocol.

The SDK's raw response gives the headers, and base64 without a detour over Python floats.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from langchain_batch_embed.errors import DimensionsError, OptionError
from langchain_batch_embed.journal import Space
from langchain_batch_embed.limits import Limits
from langchain_batch_embed.providers.copies import Connections, client_of
from langchain_batch_embed.providers.decoding import read_answer
from langchain_batch_embed.providers.identity import digest
from langchain_batch_embed.providers.provider import Answer
from langchain_batch_embed.providers.socket_deadline import limit_reads, time_limit

if TYPE_CHECKING:  # a wrapped OpenAIEmbeddings has imported it; nobody else needs it
    from langchain_openai import OpenAIEmbeddings

__all__ = ["OpenAIProvider", "seconds_of"]

_AROUND = 100
"""Tokens that a server may add to a text: two or three marks, and the instruction of E5, Qwen3 or
Instructor models, which has 10 to 40 tokens."""


_BESIDE_THE_BODY = frozenset({"extra_headers", "extra_query", "timeout"})
"""Options of the SDK that are not in the body of a request."""


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
        self.client = client = client_of(embeddings, connections)
        limit_reads(client._client)  # noqa: SLF001  # no public way to it
        self._create = client.embeddings.with_streaming_response.create
        self.model: str | None = model or embeddings.model
        self.encoding: str | None = embeddings.tiktoken_model_name or embeddings.model
        self.timeout = seconds_of(embeddings.request_timeout)
        self._clock = clock
        # A gateway or a private server only speaks the same protocol.
        host = (client.base_url.host or "").lower()
        port = "" if client.base_url.port is None else f":{client.base_url.port}"
        self.address = f"{client.base_url.scheme}://{host}{port}{client.base_url.path}"
        self.is_known = host == "api.openai.com" or host.endswith(".azure.com")
        self.dimensions = embeddings.dimensions
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
                # The SDK's time-out is for each read, and a server that drips never meets it. Some
                # connections do not keep the time limit either.
                if self._clock() > end:
                    raise TimeoutError(f"the answer was not complete after {timeout:g} s")
            headers = response.headers
        vectors, tokens, model = read_answer(
            _joined(chunks), expected=len(texts), most_tokens=_most_tokens(texts)
        )
        if self.dimensions not in (None, vectors.shape[1]):
            raise DimensionsError(expected=self.dimensions, received=vectors.shape[1])
        return Answer(vectors=vectors, tokens=tokens, model=model, headers=headers)

    def request_body(self) -> dict[str, Any]:
        """Return the JSON of a request but for its texts, for a batch.

        Raises:
            OptionError: a request has more than a body, or its texts are changed on their way.
        """
        options = dict(self._options)
        body = options.pop("extra_body", None) or {}
        others = sorted(name for name in options if name in _BESIDE_THE_BODY)
        if others:
            raise OptionError(
                f"the Batch API sends no {', '.join(others)}; leave them out of model_kwargs"
            )
        if self._joins_lines:
            raise OptionError("the Batch API is not for OpenAI's first-generation models")
        return {**options, **body, "encoding_format": "base64"}

    send_query = send
    """OpenAI embeds a query as it does a document."""


def seconds_of(timeout: Any) -> float | None:
    """Return the seconds for reading, from a time-out in any form that the SDK takes."""
    if isinstance(timeout, tuple):  # connect, read, and perhaps others
        timeout = timeout[1]
    timeout = getattr(timeout, "read", timeout)  # of `httpx.Timeout`
    return float(timeout) if isinstance(timeout, int | float) else None


def _most_tokens(texts: Sequence[str]) -> int:
    """Return how many tokens texts can have at most, by any tokenizer.

    A token has at least one byte, and a character at most four bytes in UTF-8. The rest is room for
    what a server adds to each text.
    """
    return 4 * sum(map(len, texts)) + _AROUND * len(texts)


def _joined(chunks: list[bytes]) -> bytes:
    """Join the chunks and drop them, as an answer has 17 MB and many are read at a time."""
    body = b"".join(chunks)
    chunks.clear()
    return body
