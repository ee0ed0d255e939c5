"""Copies a wrapped object, for sending, for pickling, and for use in a forked process."""

import copy
import inspect
import logging
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast

from langchain_core.embeddings import Embeddings

from langchain_batch_embed.errors import BatchEmbeddingsError, OptionError
from langchain_batch_embed.limits import Limits, attribute
from langchain_batch_embed.providers.coroutines import from_thread
from langchain_batch_embed.providers.identity import NOT_PLAIN, is_openai, plain

if TYPE_CHECKING:  # only a wrapped OpenAIEmbeddings needs them, and has imported both
    import openai
    from langchain_openai import OpenAIEmbeddings

__all__ = [
    "BARS",
    "Connections",
    "client_of",
    "one_request_a_call",
    "pack_up",
    "sdk_address",
    "sdk_client",
    "unpack",
    "with_sync_client",
]

logger = logging.getLogger(__name__)

Connections = Literal["ours", "perhaps theirs", "theirs"]
"""Who opened the connections of a wrapped object. After a fork it is the parent process, if any
were open. That is certain only if this package had sent something."""

# By class name: the options that stop a class from retrying. tenacity counts the first attempt too,
# so 1 means no retry. `MistralAIEmbeddings` uses tenacity only if the option is a number.
_NO_RETRIES: Mapping[str, Mapping[str, int | None]] = MappingProxyType(
    {
        "CohereEmbeddings": {"max_retries": 1},
        "MistralAIEmbeddings": {"max_retries": None},
        "VertexAIEmbeddings": {"max_retries": 1},
        "VoyageEmbeddings": {"max_retries": 1},
    }
)

# By class name: the option for the number of texts per request, if the class splits a call.
_SLICES = MappingProxyType(
    {
        "NVIDIAEmbeddings": "max_batch_size",
        "OpenAIEmbeddings": "chunk_size",  # for subclasses, see `provider_for`
        "VoyageAIEmbeddings": "batch_size",
        "VoyageEmbeddings": "batch_size",
    }
)

BARS = ("show_progress_bar", "show_progress")
"""Attributes in which wrapped classes store whether to show a progress bar."""

# By class name: what cannot be turned off once the object is made.
_LEFT_ON = MappingProxyType(
    {
        "BedrockEmbeddings": "botocore retries by itself; make it with "
        'config=Config(retries={"total_max_attempts": 1}, max_pool_connections=64)',
        "CohereEmbeddings": "the cohere SDK sends a failed request up to twice more by itself",
        "GoogleGenerativeAIEmbeddings": "it splits a call at 20,000 tokens by its own count",
        "MistralAIEmbeddings": "it splits a call at 16,000 tokens by its own count",
    }
)


def one_request_a_call(
    embeddings: Embeddings, limits: Limits, *, timeout: float | None, connections: Connections
) -> Embeddings:
    """Return the object, or a copy of it that neither retries nor splits a call.

    Two layers of retries would multiply and hammer the rate limiter. A call that the class splits
    into several requests is throttled, retried and paid for as a whole. The user's own object is
    not changed. A copy of an `OpenAIEmbeddings` gets its own client, which does not retry, has the
    given time-out in seconds, and uses no other process's connections.
    """
    names = [base.__name__ for base in type(embeddings).__mro__]
    wanted: dict[str, int | None] = {}
    for name in names:
        wanted |= _NO_RETRIES.get(name, {})
        if name in _SLICES:
            wanted[_SLICES[name]] = limits.max_batch_size
        if name in _LEFT_ON:
            logger.info("%s: %s", name, _LEFT_ON[name])
    # This package's progress bar counts everything; the object's own would only flash up.
    wanted |= {bar: False for bar in BARS if attribute(embeddings, bar) is True}
    # An older or newer version of the class may not have the option.
    changes: dict[str, Any] = {
        option: value
        for option, value in wanted.items()
        if attribute(embeddings, option, value) != value
    }
    if changes:
        logger.info("%s: using a copy of the object with %s", names[0], changes)
    if is_openai(embeddings) and sdk_client(embeddings) is not None:
        options = {} if timeout is None else {"timeout": timeout}
        client = client_of(cast("OpenAIEmbeddings", embeddings), connections, **options)
        changes["client"] = client.embeddings
    if not changes:
        return embeddings
    if hasattr(embeddings, "model_copy"):  # pydantic, whose fields may be frozen or validated
        return cast("Embeddings", embeddings.model_copy(update=changes))
    own = copy.copy(embeddings)
    for option, value in changes.items():
        setattr(own, option, value)
    return own


def pack_up(embeddings: Embeddings) -> object:
    """Return a form of the object that can be pickled, and that `unpack` turns back into an object.

    An `OpenAIEmbeddings` holds HTTP clients, which cannot be pickled. The form holds its class, the
    fields that the user set, the plain private attributes of a subclass, and the server's address.
    A key from the environment is not included; `unpack` reads it from the environment again.
    """
    if not is_openai(embeddings):
        return embeddings
    wrapped = cast("OpenAIEmbeddings", embeddings)
    private = {
        name: value
        for name, value in (wrapped.__pydantic_private__ or {}).items()
        if (kept := plain(value)) is not NOT_PLAIN and kept == value
    }
    return type(wrapped), _given_options(wrapped), private, sdk_address(wrapped)


def _given_options(embeddings: "OpenAIEmbeddings") -> dict[str, Any]:
    """Return the options that the user set, without the clients that the class made."""
    names = embeddings.model_fields_set - {"client", "async_client"}
    if attribute(embeddings, "openai_proxy"):  # the class makes both clients
        names -= {"http_client", "http_async_client"}
    return {name: getattr(embeddings, name) for name in names}


def unpack(packed: Any) -> Embeddings:
    """Make an object from the form that `pack_up` returned.

    Raises:
        OptionError: it would send to another server, because the original has the user's own
            client.
    """
    if isinstance(packed, Embeddings):
        return packed
    kind, options, private, address = packed
    made: OpenAIEmbeddings = kind(**options)
    if private:
        (made.__pydantic_private__ or {}).update(private)
    if sdk_address(made) != address:
        raise OptionError(
            f"a copy of this {kind.__name__} would not send to the same server; make it with "
            "base_url= rather than with client="
        )
    return made


def sdk_address(embeddings: Embeddings) -> str | None:
    """Return the address that an `OpenAIEmbeddings` sends to; `None` if it has no sync client."""
    client = attribute(attribute(embeddings, "client"), "_client")
    return None if client is None else str(attribute(client, "base_url"))


_TOKEN_TIMEOUT = 60.0
"""Seconds for the user's function that fetches a token; a sign-in service answers within a few."""


def with_sync_client(embeddings: "OpenAIEmbeddings") -> "OpenAIEmbeddings":
    """Return the object, or a copy with a sync client if it has only an async one.

    Requests are sent from threads. If only an async function provides the key or the token, the
    function runs in a separate event loop.

    Raises:
        OptionError: no sync client can be made.
    """
    if attribute(embeddings, "client") is not None:
        return embeddings
    name = type(embeddings).__name__
    key = attribute(embeddings, "openai_api_key")
    token = attribute(embeddings, "azure_ad_async_token_provider")
    options: dict[str, Any] = {}
    if token is not None:
        options["azure_ad_token_provider"] = from_thread(token, _TOKEN_TIMEOUT)
    elif inspect.iscoroutinefunction(key):
        options["openai_api_key"] = from_thread(key, _TOKEN_TIMEOUT)
    if options:
        made = type(embeddings)(**{**_given_options(embeddings), **options})
        made.__pydantic_private__ = embeddings.__pydantic_private__
        if attribute(made, "client") is not None:
            return made
    if attribute(embeddings, "azure_endpoint") is not None:
        raise OptionError(
            f"{name} has no sync client; give it azure_ad_token_provider=, azure_ad_token= or "
            "api_key="
        )
    raise OptionError(f"{name} has no sync client; give it an api_key= that is a string")


def sdk_client(embeddings: Embeddings) -> "openai.OpenAI | None":
    """Return the SDK's client that an `OpenAIEmbeddings` sends with.

    `None` if it sends with something else, such as a wrapper that traces its calls or a test's
    fake, which only the object's own methods know how to use.
    """
    resource = attribute(embeddings, "client")
    client = attribute(resource, "_client")
    sdk = sys.modules.get("openai")
    is_plain = (
        sdk is not None
        and type(resource).__module__.startswith("openai.")
        and "create" not in attribute(resource, "__dict__", {})  # patched by a tracing package
        and isinstance(client, sdk.OpenAI)
    )
    return client if is_plain else None


def client_of(
    embeddings: "OpenAIEmbeddings", connections: Connections, **options: Any
) -> "openai.OpenAI":
    """Return an SDK client that sends each request only once.

    Only this package retries. Two layers of retries would multiply and hammer the rate limiter.

    Args:
        embeddings: the object whose client is copied; it must have an `sdk_client`.
        connections: who opened the client's connections. On connections of another process, this
            process would read answers that belong to the other one.
        options: other options of the client.

    Raises:
        BatchEmbeddingsError: another process opened the connections of the user's own client.
    """
    client = cast("openai.OpenAI", sdk_client(embeddings))
    # By name, because the class is not public. A user's own client may have a proxy or the like.
    is_default = type(client._client).__name__ == "SyncHttpxClientWrapper"  # noqa: SLF001
    proxy = attribute(embeddings, "openai_proxy")
    if connections != "ours" and (is_default or proxy):
        proxied = {"proxy": proxy} if proxy else {}  # as the class itself does
        options["http_client"] = sys.modules["openai"].DefaultHttpxClient(**proxied)
    elif connections == "theirs":
        raise BatchEmbeddingsError(
            "after a fork an http_client would share its connections with the parent process; "
            "make OpenAIEmbeddings and BatchEmbeddings in each process"
        )
    return client.with_options(max_retries=0, **options)
