"""What each provider allows in one request, and which provider an `Embeddings` is.

A provider is recognised by the names of the wrapped object's classes, so that no
provider's package has to be imported, or even installed.

Sources, read in November 2026: the providers' API references, and the defaults of their
LangChain packages where the API reference names no number.
"""

from dataclasses import dataclass, fields, replace
from types import MappingProxyType

from langchain_core.embeddings import Embeddings

from langchain_batch_embed.errors import OptionError

__all__ = ["Limits", "limits_of"]

REMOTE_WORKERS = 64
"""Requests in flight at a hosted provider; measured, see "How many at once" in README."""

LOCAL_WORKERS = 1
"""Requests in flight at a model on this machine, which a second request only slows down."""

_REFUSED_ABOVE = frozenset({"max_batch_size", "max_tokens_per_request", "max_tokens_per_input"})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one provider allows.

    Attributes:
        provider: the provider's name, as reports and log lines show it.
        max_batch_size: texts in one request.
        max_tokens_per_request: tokens summed over one request; `None`: no such limit.
        max_tokens_per_input: tokens in one text before `long_inputs` applies; `None`: the
            wrapped class or the server deals with long texts itself.
        max_workers: how many requests may be in flight unless the user says otherwise.
        refuses_empty: whether an empty text makes the provider refuse its whole request.
        bytes_per_token: how the provider's rate limiter and request limit estimate tokens
            from UTF-8 bytes, beside counting them; `None`: tokens are counted.
        strict: whether the provider refuses more, so that a larger option can never work.
    """

    provider: str
    max_batch_size: int
    max_tokens_per_request: int | None = None
    max_tokens_per_input: int | None = None
    max_workers: int = REMOTE_WORKERS
    refuses_empty: bool = False
    bytes_per_token: float | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        """Refuse limits under which nothing could be sent."""
        for name in ("max_batch_size", "max_workers"):
            check_positive(name, getattr(self, name))
        for name in ("max_tokens_per_request", "max_tokens_per_input"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))

    def override(self, **options: int | None) -> "Limits":
        """Return these limits with the options that are not `None` put in their place.

        A text must fit into a request, so a smaller `max_tokens_per_request` lowers
        `max_tokens_per_input` with it.

        Raises:
            OptionError: a value is not a positive whole number, or is over the provider's
                own limit.
        """
        given = {name: value for name, value in options.items() if value is not None}
        known = {field.name for field in fields(self)}
        if not given.keys() <= known:
            raise OptionError(f"limits has no {sorted(given.keys() - known)}; it has {known}")
        changed = replace(self, **given)  # type: ignore[arg-type]  # checked when made
        for name in given.keys() & _REFUSED_ABOVE if self.strict else ():
            most = getattr(self, name)
            if most is not None and given[name] > most:
                raise OptionError(
                    f"{name}={given[name]:,} is more than {self.provider} takes; use {most:,} or "
                    "fewer, or describe a server that takes more with limits=Limits(...)"
                )
        budget, longest = changed.max_tokens_per_request, changed.max_tokens_per_input
        if budget is not None and longest is not None and longest > budget:
            changed = replace(changed, max_tokens_per_input=budget)
        return changed


def check_positive(name: str, value: object) -> None:
    """Raise `OptionError` unless the option is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionError(f"{name} must be a whole number, not {type(value).__name__}")
    if value < 1:
        raise OptionError(f"{name} must be at least 1, not {value}")


OPENAI = Limits(
    provider="OpenAI",
    max_batch_size=2048,  # "array length must be 2048 or less"
    strict=True,
    max_tokens_per_request=300_000,  # "maximum 300,000 tokens summed across all inputs"
    max_tokens_per_input=8191,  # 8,192 today; 8,191 is the older figure and safe for both
    refuses_empty=True,
    bytes_per_token=4,  # what the limiter charges in recorded traffic
)
AZURE = replace(OPENAI, provider="Azure OpenAI")  # old deployments: 16 texts, learnt when refused
VERTEX = Limits(provider="Vertex AI", max_batch_size=250, max_tokens_per_request=20_000)
HUGGING_FACE = Limits(
    provider="Hugging Face (local)", max_batch_size=1024, max_workers=LOCAL_WORKERS
)
UNKNOWN = Limits(provider="unknown", max_batch_size=100)

# By class name. A subclass is found through its bases, so a user's own subclass of
# OpenAIEmbeddings has OpenAI's limits.
_BY_CLASS = MappingProxyType(
    {
        "AzureOpenAIEmbeddings": AZURE,
        "OpenAIEmbeddings": OPENAI,
        "CohereEmbeddings": Limits(provider="Cohere", max_batch_size=96),
        # 120k is the smallest of Voyage's per-model limits (4-large, 3-large, code, context).
        "VoyageAIEmbeddings": Limits(
            provider="Voyage AI", max_batch_size=1000, max_tokens_per_request=120_000
        ),
        "MistralAIEmbeddings": Limits(
            provider="Mistral AI", max_batch_size=512, max_tokens_per_request=16_384
        ),
        "GoogleGenerativeAIEmbeddings": Limits(
            provider="Gemini API", max_batch_size=100, max_tokens_per_request=20_000
        ),
        "VertexAIEmbeddings": VERTEX,
        "JinaEmbeddings": Limits(provider="Jina AI", max_batch_size=2048),
        "BedrockEmbeddings": Limits(provider="Amazon Bedrock", max_batch_size=1),
        "NVIDIAEmbeddings": Limits(provider="NVIDIA NIM", max_batch_size=50),
        "HuggingFaceEndpointEmbeddings": Limits(
            provider="Hugging Face TEI", max_batch_size=32, max_tokens_per_request=16_384
        ),
        "InfinityEmbeddings": Limits(provider="infinity", max_batch_size=2048),
        "OllamaEmbeddings": Limits(
            provider="Ollama", max_batch_size=512, max_workers=LOCAL_WORKERS
        ),
        "HuggingFaceEmbeddings": HUGGING_FACE,
        "HuggingFaceBgeEmbeddings": HUGGING_FACE,
        "HuggingFaceInstructEmbeddings": HUGGING_FACE,
    }
)


def limits_of(embeddings: Embeddings) -> Limits:
    """Return the limits of the provider behind an `Embeddings` object.

    A class that is not known gets 100 texts a request and no token limit.
    """
    for base in type(embeddings).__mro__:
        if base.__name__ in _BY_CLASS:
            return _BY_CLASS[base.__name__]
    return UNKNOWN
