"""How one batch is really sent.

`OpenAIProvider` goes through the OpenAI SDK's raw response, for OpenAI, Azure and every
server that speaks their protocol: that gives the headers, and base64 without a detour over
Python floats. `WrappedProvider` calls `embed_documents` of any other class, after it has turned
off that class's own slicing and retrying as far as it has options for that.
"""

import copy
import hashlib
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from langchain_batch_embed.errors import BatchEmbeddingsError, DimensionsError, OptionError
from langchain_batch_embed.journal import Space
from langchain_batch_embed.limits import Limits, model_of
from langchain_batch_embed.vectors import as_array, check, read_answer

if TYPE_CHECKING:  # a wrapped OpenAIEmbeddings has imported both; nobody else needs them
    import openai
    from langchain_openai import OpenAIEmbeddings

__all__ = ["Answer", "Connections", "OpenAIProvider", "Provider", "WrappedProvider", "provider_for"]

logger = logging.getLogger(__name__)

Connections = Literal["ours", "perhaps theirs", "theirs"]
"""Whether another process has the connections of an HTTP client too: after a fork, if it has used
them before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A checked answer.

    Attributes:
        vectors: float32, one row a text, shape (n, d).
        tokens: tokens billed; `None` where the provider does not say.
        headers: the answer's HTTP headers, where they are known.
    """

    vectors: NDArray[np.float32]
    tokens: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Provider(Protocol):
    """Sends one batch of texts.

    Attributes:
        model: the model's name, as far as it is known.
        encoding: the model or encoding to count tokens with; `None`: not known.
        timeout: seconds for one request that the wrapped object was given, if any.
        space: what tells these vectors from others in a journal.
    """

    model: str | None
    encoding: str | None
    timeout: float | None
    space: Space

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
        client = _client(embeddings, connections)
        self._create = client.embeddings.with_streaming_response.create
        self.model: str | None = model or embeddings.model
        self.encoding: str | None = embeddings.tiktoken_model_name or embeddings.model
        self.timeout = _seconds(embeddings.request_timeout)
        self._clock = clock
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
            variant=_digest(embeddings.model_kwargs),
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
        with self._create(input=[], timeout=timeout, **options) as response:
            for chunk in response.iter_bytes():
                chunks.append(chunk)
                # The SDK's time-out is for each read: a server that drips never meets it.
                if self._clock() > end:
                    raise TimeoutError(f"the answer was not complete after {timeout:g} s")
            headers = response.headers
        vectors, tokens = read_answer(_joined(chunks), expected=len(texts))
        if self._dimensions not in (None, vectors.shape[1]):
            raise DimensionsError(expected=self._dimensions, received=vectors.shape[1])
        return Answer(vectors=vectors, tokens=tokens, headers=headers)

    send_query = send
    """OpenAI embeds a query as it does a document."""


class WrappedProvider:
    """Sends through the wrapped object's own methods, and leaves the time-out to it."""

    encoding: str | None = "cl100k_base"
    """These providers' tokenizers are not at hand. What this one counts is nearer than bytes, and
    `limits.py` leaves room for the difference."""

    timeout: float | None = None

    def __init__(
        self,
        embeddings: Embeddings,
        *,
        limits: Limits,
        model: str | None = None,
        timeout: float | None = None,
        connections: Connections = "ours",
    ) -> None:
        self._embeddings = _one_request_a_call(embeddings, limits)
        if _is_openai(embeddings):
            options = {} if timeout is None else {"timeout": timeout}
            client = _client(cast("OpenAIEmbeddings", embeddings), connections, **options)
            changes = {"client": client.embeddings}
            self._embeddings = cast("Any", self._embeddings).model_copy(update=changes)
        self.model = model or model_of(embeddings)
        kind = type(embeddings)
        self.space = Space(
            provider=limits.provider,
            model=self.model or "",
            variant=f"{kind.__module__}.{kind.__qualname__} {_digest(_settings(embeddings))}",
        )

    def send(self, texts: Sequence[str], *, timeout: float) -> Answer:  # noqa: ARG002
        """Embed the texts as documents, and check the answer."""
        return _checked(self._embeddings.embed_documents(list(texts)), expected=len(texts))

    def send_query(self, texts: Sequence[str], *, timeout: float) -> Answer:  # noqa: ARG002
        """Embed one query, a list of one text, and check the answer."""
        return _checked([self._embeddings.embed_query(texts[0])], expected=1)


# By class name: the options that stop a class from retrying. tenacity counts attempts, the first
# one too, so 1 is none; `MistralAIEmbeddings` asks tenacity only where there is a number.
_NO_RETRIES: Mapping[str, Mapping[str, int | None]] = MappingProxyType(
    {
        "CohereEmbeddings": {"max_retries": 1},
        "MistralAIEmbeddings": {"max_retries": None},
        "VertexAIEmbeddings": {"max_retries": 1},
        "VoyageEmbeddings": {"max_retries": 1},
    }
)

# By class name: the option with the number of texts at which a class cuts a call into requests.
_SLICES = MappingProxyType(
    {
        "NVIDIAEmbeddings": "max_batch_size",
        "OpenAIEmbeddings": "chunk_size",  # of a subclass, see `provider_for`
        "VoyageAIEmbeddings": "batch_size",
        "VoyageEmbeddings": "batch_size",
    }
)

# By class name: what cannot be turned off in the object that we are given.
_LEFT_ON = MappingProxyType(
    {
        "BedrockEmbeddings": "botocore retries by itself; make it with "
        'config=Config(retries={"total_max_attempts": 1}, max_pool_connections=64)',
        "CohereEmbeddings": "the cohere SDK sends a failed request up to twice more by itself",
        "GoogleGenerativeAIEmbeddings": "it cuts a call where it counts 20,000 tokens itself",
        "MistralAIEmbeddings": "it cuts a call where it counts 16,000 tokens itself",
    }
)


def _one_request_a_call(embeddings: Embeddings, limits: Limits) -> Embeddings:
    """Return the object, or a copy of it whose own retrying and slicing is turned off.

    Two layers that retry would multiply, and hammer a limiter; a call that is cut into several
    requests is throttled, retried and paid for as a whole. The user's own object stays as it is.
    """
    names = [base.__name__ for base in type(embeddings).__mro__]
    wanted: dict[str, int | None] = {}
    for name in names:
        wanted |= _NO_RETRIES.get(name, {})
        if name in _SLICES:
            wanted[_SLICES[name]] = limits.max_batch_size
        if name in _LEFT_ON:
            logger.info("%s: %s", name, _LEFT_ON[name])
    # An older or newer version of the class may not have the option.
    changes = {
        option: value
        for option, value in wanted.items()
        if hasattr(embeddings, option) and getattr(embeddings, option) != value
    }
    if not changes:
        return embeddings
    logger.info("%s: %s, in a copy of the object", names[0], changes)
    if hasattr(embeddings, "model_copy"):  # pydantic, whose fields may be frozen or validated
        return cast("Embeddings", embeddings.model_copy(update=changes))
    own = copy.copy(embeddings)
    for option, value in changes.items():
        setattr(own, option, value)
    return own


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
        OptionError, BatchEmbeddingsError: see `_client`.
    """
    if _is_openai(embeddings) and not _embeds_its_own_way(embeddings):
        wrapped = cast("OpenAIEmbeddings", embeddings)
        return OpenAIProvider(wrapped, limits=limits, model=model, connections=connections)
    return WrappedProvider(
        embeddings, limits=limits, model=model, timeout=timeout, connections=connections
    )


def pack_up(embeddings: Embeddings) -> object:
    """Return something that can be pickled and that `unpack` makes the object of again.

    An `OpenAIEmbeddings` holds HTTP clients, which cannot be pickled: its class, the fields that
    the user set, and plain private attributes of a subclass stand for it. A key that came from the
    environment is read there again.
    """
    if not _is_openai(embeddings):
        return embeddings
    wrapped = cast("OpenAIEmbeddings", embeddings)
    names = wrapped.model_fields_set - {"client", "async_client"}
    options = {name: getattr(wrapped, name) for name in names}
    private = {
        name: value
        for name, value in (wrapped.__pydantic_private__ or {}).items()
        if (plain := _plain(value)) is not _NOT_PLAIN and plain == value
    }
    return type(wrapped), options, private, _address(wrapped)


def unpack(packed: Any) -> Embeddings:
    """Make the object again from what `pack_up` returned.

    Raises:
        OptionError: it would send to another server, as the user gave it a client of his own.
    """
    if isinstance(packed, Embeddings):
        return packed
    kind, options, private, address = packed
    made: OpenAIEmbeddings = kind(**options)
    if private:
        (made.__pydantic_private__ or {}).update(private)
    if _address(made) != address:
        raise OptionError(
            f"a copy of this {kind.__name__} would not send to the same server; make it with "
            "base_url= rather than with client="
        )
    return made


def _address(embeddings: "OpenAIEmbeddings") -> str | None:
    client = embeddings.client
    return None if client is None else str(client._client.base_url)  # noqa: SLF001


def _is_openai(embeddings: Embeddings) -> bool:
    # langchain-community has a class of the same name that is built differently.
    return any(
        base.__name__ == "OpenAIEmbeddings" and base.__module__.startswith("langchain_openai.")
        for base in type(embeddings).__mro__
    )


def _embeds_its_own_way(embeddings: Embeddings) -> bool:
    """Tell whether a subclass of `OpenAIEmbeddings` overrides what we go around."""
    owners = (
        next(kind for kind in type(embeddings).__mro__ if name in vars(kind))
        for name in ("embed_documents", "embed_query")
    )
    return not all(owner.__module__.startswith("langchain_openai.") for owner in owners)


def _client(
    embeddings: "OpenAIEmbeddings", connections: Connections, **options: Any
) -> "openai.OpenAI":
    """Return the SDK's client that sends each request once.

    One layer owns the retries: ours. Two would multiply, and hammer a limiter.

    Args:
        embeddings: whose client it is.
        connections: whose those are that it has; on another process's we would read its answers.
        options: others of the client's.

    Raises:
        OptionError: there is no client to send with in a thread.
        BatchEmbeddingsError: the connections are another process's, and the user's own.
    """
    if embeddings.client is None:
        raise OptionError(
            "OpenAIEmbeddings has no sync client, because its api_key is an async function; "
            "give it a string or a plain function"
        )
    client: openai.OpenAI = embeddings.client._client  # noqa: SLF001  # no public way to it
    # By name: the class is not public. A user's own may have a proxy, or what not.
    is_default = type(client._client).__name__ == "SyncHttpxClientWrapper"  # noqa: SLF001
    if connections != "ours" and is_default:
        options["http_client"] = sys.modules["openai"].DefaultHttpxClient()
    elif connections == "theirs":
        raise BatchEmbeddingsError(
            "after a fork an http_client would share its connections with the parent process; "
            "make OpenAIEmbeddings and BatchEmbeddings anew in each process"
        )
    return client.with_options(max_retries=0, **options)


def _seconds(timeout: Any) -> float | None:
    """Return the seconds to read in a time-out in any of the forms that the SDK takes."""
    if isinstance(timeout, tuple):  # connect, read, and perhaps others
        timeout = timeout[1]
    timeout = getattr(timeout, "read", timeout)  # of `httpx.Timeout`
    return float(timeout) if isinstance(timeout, int | float) else None


def _joined(chunks: list[bytes]) -> bytes:
    """Return the chunks as one, and drop them: an answer is 17 MB, and many are read at a time."""
    body = b"".join(chunks)
    chunks.clear()
    return body


def _checked(embeddings: Sequence[Sequence[float]], *, expected: int) -> Answer:
    return Answer(vectors=check(as_array(embeddings), expected=expected))


def _settings(embeddings: Embeddings) -> dict[str, Any]:
    """Return the plain attributes of an object: any of them may change its vectors.

    A time-out does not, and then a journal is paid for anew; the other mistake, another server's or
    another prefix' vectors, would be a wrong one. What looks like a secret is left out.
    """
    attributes = {
        **getattr(embeddings, "__dict__", {}),
        **(getattr(embeddings, "__pydantic_private__", None) or {}),
    }
    plain: dict[str, Any] = _plain(
        {
            name: value
            for name, value in attributes.items()
            # Private numbers count or time something, private collections are caches.
            if not _SECRET.search(name) and (name[:1] != "_" or isinstance(value, str | bool))
        }
    )
    return plain


_SECRET = re.compile(r"key|token$|secret|password|credential", re.IGNORECASE)

_NOT_PLAIN = object()


def _plain(value: Any) -> Any:
    """Return a value without what is not plain in it, at any depth."""
    if isinstance(value, Mapping):
        names = [name for name in value if _plain(name) is not _NOT_PLAIN]
        parts = {name: _plain(value[name]) for name in names}
        return {name: part for name, part in parts.items() if part is not _NOT_PLAIN}
    if isinstance(value, list | tuple):
        kept = [part for part in map(_plain, value) if part is not _NOT_PLAIN]
        return kept if isinstance(value, list) else tuple(kept)
    return value if value is None or isinstance(value, str | int | float) else _NOT_PLAIN


def _digest(options: Mapping[str, Any]) -> str:
    """Return a short digest of options that can change the vectors."""
    if not options:
        return ""
    return hashlib.blake2b(repr(sorted(options.items())).encode(), digest_size=8).hexdigest()
