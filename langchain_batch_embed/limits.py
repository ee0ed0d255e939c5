"""What each provider allows in one request, and which provider an `Embeddings` object uses.

The provider is recognised by the class names of the wrapped object. So no provider's package has to
be imported, or even installed.

Sources, as of November 2026: the limits that the providers publish, limits quoted in public bug
reports, and the code of the LangChain packages if it allows less.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from langchain_core.embeddings import Embeddings

from langchain_batch_embed.errors import OptionError

__all__ = [
    "FIRST_REQUESTS",
    "Limits",
    "attribute",
    "common",
    "is_hosted_by_openai",
    "limits_of",
    "model_of",
    "plain",
    "positive",
    "set_by_user",
]

REMOTE_WORKERS = 128
"""Requests in flight at a hosted provider; a measured value, see "How many at once" in
tests/benchmarks/README.md."""

LOCAL_WORKERS = 1
"""Requests in flight at a model on this machine. A second request would only slow it down."""

FIRST_REQUESTS = 8
"""Requests sent before an answer shows the quota, for a provider whose quotas are not known."""

ESTIMATED = 0.5
"""Share of a request's token limit that is used where token counts are estimates.

Most providers' tokenizers are not available, so OpenAI's cl100k_base counts their tokens. Two of
Mistral's tokenizers, with 32,000 and 131,000 entries, were compared with cl100k_base. On a
paragraph in each of 13 languages and on source code they produced 0.4 to 1.4 times as many tokens.
On a table of digits, the worst case, they produced 1.97 times as many. No other tokenizer was
available for a comparison. A request that is refused all the same is halved.
"""

_REFUSED_ABOVE = frozenset({"max_batch_size", "max_tokens_per_request", "max_tokens_per_input"})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one provider allows.

    Attributes:
        provider: the provider's name, as shown in reports and log lines.
        max_batch_size: maximum number of texts in one request.
        max_tokens_per_request: maximum number of tokens in one request, as counted by this
            package; `None` if there is no limit.
        max_tokens_per_input: maximum number of tokens in one text; `long_inputs` applies to longer
            texts. `None` if the wrapped class or the server handles long texts itself.
        max_workers: maximum number of requests in flight, unless the user sets another.
        first_requests: how many requests are sent before an answer shows the quota.
        refuses_empty: whether the provider refuses a whole request because of one empty text.
        bytes_per_token: UTF-8 bytes that the provider's rate limiter and request limit take as one
            token, in addition to counting tokens; `None` if they only count tokens.
        is_remote: whether the provider is a hosted service, where a late request may be sent twice.
        strict: whether the provider refuses anything above these limits, so that a larger option
            can never work.
    """

    provider: str
    max_batch_size: int
    max_tokens_per_request: int | None = None
    max_tokens_per_input: int | None = None
    max_workers: int = REMOTE_WORKERS
    first_requests: int = FIRST_REQUESTS
    refuses_empty: bool = False
    bytes_per_token: float | None = None
    strict: bool = False
    is_remote: bool = True

    def __post_init__(self) -> None:
        """Reject limits that would not allow any request."""
        for name in ("max_batch_size", "max_workers", "first_requests"):
            object.__setattr__(self, name, positive(name, getattr(self, name)))
        for name in ("max_tokens_per_request", "max_tokens_per_input"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, positive(name, getattr(self, name)))

    def override(self, **options: int | None) -> "Limits":
        """Return these limits with the given options in place of their own; `None` changes nothing.

        A text must fit into a request, so a smaller `max_tokens_per_request` lowers
        `max_tokens_per_input` as well.

        Raises:
            OptionError: a value is not a positive whole number, or exceeds the provider's own
                limit.
        """
        given = {name: value for name, value in options.items() if value is not None}
        known = {field.name for field in fields(self)}
        if not given.keys() <= known:
            raise OptionError(
                f"Limits has no fields {', '.join(sorted(given.keys() - known))}; it has "
                f"{', '.join(sorted(known))}"
            )
        changed = replace(self, **given)  # type: ignore[arg-type]  # checked by __post_init__
        for name in given.keys() & _REFUSED_ABOVE if self.strict else ():
            most = getattr(self, name)
            if most is not None and given[name] > most:
                raise OptionError(
                    f"{name}={given[name]:,} is more than {self.provider} accepts; use {most:,} "
                    "or fewer, or describe a server that accepts more with limits=Limits(...)"
                )
        budget, longest = changed.max_tokens_per_request, changed.max_tokens_per_input
        if budget is not None and longest is not None and longest > budget:
            changed = replace(changed, max_tokens_per_input=budget)
        return changed


def plain(value: Any) -> Any:
    """Return NumPy's number or truth value as a plain Python one, and anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def positive(name: str, value: object) -> int:
    """Return an option's value as a plain whole number.

    Raises:
        OptionError: it is not a whole number of at least 1.
    """
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionError(f"{name} must be a whole number, not {type(value).__name__}")
    if value < 1:
        raise OptionError(f"{name} must be at least 1, not {value}")
    return value


OPENAI = Limits(
    provider="OpenAI",
    max_batch_size=2048,  # "array length must be 2048 or less"
    strict=True,
    max_tokens_per_request=300_000,  # "maximum 300,000 tokens summed across all inputs"
    max_tokens_per_input=8191,  # 8,192 today; 8,191 is the older figure and safe for both
    # Each has at most 14,000 tokens, and some 12,000 with texts of usual lengths. Together they use
    # three quarters of what the lowest paid tier admits at once. Its quota is 1,000,000 tokens and
    # 3,000 requests per minute (platform.openai.com/docs/guides/rate-limits).
    first_requests=64,
    refuses_empty=True,
    bytes_per_token=4,  # what the limiter charges in recorded traffic
)
AZURE = replace(  # old deployments accept only 16 texts, which shows when they refuse more
    OPENAI, provider="Azure OpenAI", first_requests=16
)
VOYAGE = Limits(  # docs.voyageai.com/reference/embeddings-api
    provider="Voyage AI",
    max_batch_size=1000,
    max_tokens_per_request=int(ESTIMATED * 120_000),  # the smallest limit of all its models
)
VERTEX = Limits(  # cloud.google.com/vertex-ai/generative-ai/docs/embeddings/get-text-embeddings
    provider="Vertex AI", max_batch_size=250, max_tokens_per_request=int(ESTIMATED * 20_000)
)
HUGGING_FACE = Limits(
    provider="Hugging Face (local)",
    max_batch_size=1024,
    max_workers=LOCAL_WORKERS,
    is_remote=False,
)
LLAMA_CPP = Limits(
    provider="llama.cpp (local)", max_batch_size=512, max_workers=LOCAL_WORKERS, is_remote=False
)
UNKNOWN = Limits(provider="unknown", max_batch_size=100, is_remote=False)

# Limits by class name. A subclass is found through its base classes, so a user's own subclass of
# OpenAIEmbeddings gets OpenAI's limits.
_BY_CLASS = MappingProxyType(
    {
        "AzureOpenAIEmbeddings": AZURE,
        "OpenAIEmbeddings": OPENAI,
        # docs.cohere.com/reference/embed
        "CohereEmbeddings": Limits(provider="Cohere", max_batch_size=96),
        "VoyageAIEmbeddings": VOYAGE,
        "VoyageEmbeddings": VOYAGE,
        # "Too many tokens in batch. Max is 16384"; the class splits its requests at 16,000
        "MistralAIEmbeddings": Limits(
            provider="Mistral AI",
            max_batch_size=512,
            max_tokens_per_request=int(ESTIMATED * 16_000),
        ),
        # "at most 100 requests can be in one batch"; the class splits requests at 20,000 tokens
        "GoogleGenerativeAIEmbeddings": Limits(
            provider="Gemini API",
            max_batch_size=100,
            max_tokens_per_request=int(ESTIMATED * 20_000),
        ),
        "VertexAIEmbeddings": VERTEX,
        "JinaEmbeddings": Limits(provider="Jina AI", max_batch_size=2048),
        # Titan and Nova take one text per request; for Cohere's models see `_BY_MODEL`
        "BedrockEmbeddings": Limits(provider="Amazon Bedrock", max_batch_size=1),
        # The class splits calls at 50 texts; each NIM has its own limit.
        "NVIDIAEmbeddings": Limits(provider="NVIDIA NIM", max_batch_size=50),
        # --max-client-batch-size and --max-batch-tokens of text-embeddings-inference
        "HuggingFaceEndpointEmbeddings": Limits(
            provider="Hugging Face TEI",
            max_batch_size=32,
            max_tokens_per_request=int(ESTIMATED * 16_384),
        ),
        # The server takes 2,048 texts, but the class splits calls at 128 texts and sends the parts
        # from 32 threads of its own, which would ignore max_workers.
        "InfinityEmbeddings": Limits(provider="infinity", max_batch_size=128),
        # No published limit was found, so this number is our choice.
        "OllamaEmbeddings": Limits(
            provider="Ollama", max_batch_size=512, max_workers=LOCAL_WORKERS, is_remote=False
        ),
        "HuggingFaceEmbeddings": HUGGING_FACE,
        "HuggingFaceBgeEmbeddings": HUGGING_FACE,
        "HuggingFaceInstructEmbeddings": HUGGING_FACE,
        "LlamaCppEmbeddings": LLAMA_CPP,  # has one context, which two threads must not share
    }
)

# Limits that differ between a provider's models, by a pattern for the model's name.
_BY_MODEL: Mapping[str, Mapping[str, Mapping[str, int]]] = MappingProxyType(
    {
        "Voyage AI": {
            r"^voyage-(4|3\.5)-lite$": {"max_tokens_per_request": int(ESTIMATED * 1_000_000)},
            r"^voyage-(4|3\.5|2)$": {"max_tokens_per_request": int(ESTIMATED * 320_000)},
        },
        # "250 input texts for non-Gemini models, and a single input text for Gemini"
        "Vertex AI": {r"gemini-embedding": {"max_batch_size": 1}},
        "Amazon Bedrock": {r"cohere\.embed": {"max_batch_size": 96}},
    }
)

_MODEL_ATTRIBUTES = ("model", "model_name", "model_id", "deployment", "repo_id")

# By class name, the option for the number of texts at which a class splits a call into requests. A
# user who sets the option wants no larger requests. Voyage's classes set theirs by themselves.
_CUT_AT = MappingProxyType({"OpenAIEmbeddings": "chunk_size", "NVIDIAEmbeddings": "max_batch_size"})

# OpenAI's own hosts, by region too, and those of Azure OpenAI in its public and sovereign clouds.
_OPENAIS_HOSTS = (
    ".api.openai.com",
    ".openai.azure.com",
    ".cognitiveservices.azure.com",
    ".services.ai.azure.com",
    ".openai.azure.us",
    ".cognitiveservices.azure.us",
    ".openai.azure.cn",
    ".cognitiveservices.azure.cn",
)

_WORKER_COUNTS = ("parallel", "num_workers", "n_workers", "num_processes", "n_jobs")
"""Options for the number of a class's own workers; 0 and -1 mean one worker per processor."""

WHOLE = 1_000_000_000
"""A batch size so large that a class with workers of its own gets all texts in one call."""


def limits_of(embeddings: Embeddings) -> Limits:
    """Return the limits of the provider and model that an `Embeddings` object uses.

    An unknown class gets 100 texts per request and no token limit. For `OpenAIEmbeddings`, the
    limit of one text is its `embedding_ctx_length`; there is none if it sends texts unchecked.
    """
    names = [base.__name__ for base in type(embeddings).__mro__]
    limits = next((_BY_CLASS[name] for name in names if name in _BY_CLASS), UNKNOWN)
    if limits.provider == "Gemini API" and attribute(embeddings, "_use_vertexai"):
        limits = replace(VERTEX, max_batch_size=limits.max_batch_size)  # the class splits here
    if limits in (OPENAI, AZURE):
        limits = _of_openais_class(embeddings, limits)
    for pattern, changes in _BY_MODEL.get(limits.provider, {}).items():
        if re.search(pattern, model_of(embeddings) or ""):
            limits = replace(limits, **changes)  # type: ignore[arg-type]  # checked by __post_init__
            break
    if _has_own_workers(embeddings, limits):
        return replace(
            limits, max_batch_size=WHOLE, max_tokens_per_request=None, max_workers=LOCAL_WORKERS
        )
    option = next((_CUT_AT[name] for name in names if name in _CUT_AT), None)
    size = None if option is None else set_by_user(embeddings, option)
    if isinstance(size, int) and 0 < size < limits.max_batch_size:
        limits = replace(limits, max_batch_size=size)
    return limits


def _of_openais_class(embeddings: Embeddings, limits: Limits) -> Limits:
    """Return the limits of an `OpenAIEmbeddings` object, adjusted to its options and its server."""
    length = attribute(embeddings, "embedding_ctx_length")
    if attribute(embeddings, "check_embedding_ctx_length") is False:
        limits = replace(limits, max_tokens_per_input=None)  # the class sends texts whole
    elif isinstance(length, int) and length > 0:
        limits = replace(limits, max_tokens_per_input=length)  # the class splits longer texts
    # Another server may accept more than OpenAI; its refusals show how much.
    url = attribute(attribute(attribute(embeddings, "client"), "_client"), "base_url")
    return limits if url is None or is_hosted_by_openai(str(url)) else replace(limits, strict=False)


def common(limits: Sequence[Limits]) -> Limits:
    """Return limits that hold for a request whichever of several deployments receives it."""

    def least(name: str) -> Any:
        return min((n for each in limits if (n := getattr(each, name)) is not None), default=None)

    return replace(
        limits[0],
        max_batch_size=min(each.max_batch_size for each in limits),
        max_tokens_per_request=least("max_tokens_per_request"),
        max_tokens_per_input=least("max_tokens_per_input"),
        max_workers=min(each.max_workers for each in limits),
        refuses_empty=any(each.refuses_empty for each in limits),
        first_requests=min(each.first_requests for each in limits),
        bytes_per_token=least("bytes_per_token"),
        strict=any(each.strict for each in limits),
        is_remote=any(each.is_remote for each in limits),
    )


def is_hosted_by_openai(url: str) -> bool:
    """Return whether an address is OpenAI's or Azure's, not just any server with the same API.

    A virtual machine that Azure hosts, `*.cloudapp.azure.com`, is just any server.
    """
    host = (urlsplit(url).hostname or "").lower()
    return f".{host}".endswith(_OPENAIS_HOSTS)


def _has_own_workers(embeddings: Embeddings, limits: Limits) -> bool:
    """Return whether the class splits each call among workers that it starts itself.

    With `multi_process` Sentence Transformers starts a pool of processes, as FastEmbed does with
    `parallel`.
    """
    if attribute(embeddings, "multi_process") is True:
        return True
    counts = (attribute(embeddings, name) for name in _WORKER_COUNTS)
    return not limits.is_remote and any(type(count) is int and count != 1 for count in counts)


def model_of(embeddings: Embeddings) -> str | None:
    """Return the name of the model that an `Embeddings` object uses, if it has one."""
    names = (attribute(embeddings, name) for name in _MODEL_ATTRIBUTES)
    return next((name for name in names if isinstance(name, str)), None)


def attribute(owner: object, name: str, default: Any = None) -> Any:
    """Return an attribute of a third-party object, or the default if reading it fails."""
    try:
        return getattr(owner, name, default)
    except Exception:  # noqa: BLE001  # a property can raise anything
        return default


def set_by_user(embeddings: Embeddings, option: str) -> Any:
    """Return the value of a pydantic object's option if the user changed it from its default.

    Return `None` if the option has its default, or if that cannot be determined.
    """
    field = attribute(type(embeddings), "model_fields", {}).get(option)
    if field is None or option not in attribute(embeddings, "model_fields_set", ()):
        return None
    value = attribute(embeddings, option)
    return None if field.is_required() or value == field.get_default() else value
