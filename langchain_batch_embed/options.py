"""The options of `BatchEmbeddings`: their names, types, defaults and checks."""

import difflib
import math
import os
import random
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Generic, Literal, Never, Self, TypeVar, get_args, overload

from langchain_core.embeddings import Embeddings
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.stores import ByteStore

from langchain_batch_embed.clock import SYSTEM_CALENDAR, SYSTEM_CLOCK, Calendar, Clock
from langchain_batch_embed.errors import FixedOptionError, OptionError, UnknownOptionError
from langchain_batch_embed.journal import Journal
from langchain_batch_embed.limits import Limits, attribute, common, limits_of, plain
from langchain_batch_embed.pacing.pacer import MAX_OUTAGE
from langchain_batch_embed.providers.copies import BARS
from langchain_batch_embed.providers.named import named
from langchain_batch_embed.report import Usage
from langchain_batch_embed.shared.quota import SharedQuota
from langchain_batch_embed.texts.inputs import LongInputs

__all__ = ["OPTIONS", "Empty", "Option", "Options", "amount", "check_names", "deployments_of"]

_T = TypeVar("_T")

Empty = Literal["error", "skip-vector"]

TIMEOUT = 120.0
"""Seconds for one request if neither the user nor the wrapped object sets a time-out.

OpenAI answers the largest request in about 2 s, but one answer in a hundred takes many times as
long. A local server on a small machine can take minutes.
"""

_AMOUNTS = (
    "requests_per_minute",
    "tokens_per_minute",
    "timeout",
    "deadline",
    "max_outage",
    "max_dollars",
)
_IN_SECONDS = frozenset({"timeout", "deadline", "max_outage"})
_HANDED_IN = frozenset({"calendar", "clock", "draw"})
"""Fields that only tests set; no message suggests them."""

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
"""Matches the beginning of an address. A single letter is a drive of Windows."""

_ALIKE = 0.7
"""How similar two names must be for a suggestion; unrelated short words reach 0.67."""

_MEANT: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                "batch",
                "batch_size",
                "chunk",
                "chunk_size",
                "embed_batch_size",
                "max_batch_items",
                "max_texts_per_batch",
                "max_texts_per_request",
                "texts_per_batch",
                "texts_per_request",
            ),
            "max_batch_size",
        ),
        **dict.fromkeys(("max_batch_tokens", "batch_tokens"), "max_tokens_per_request"),
        **dict.fromkeys(
            ("max_tokens", "embedding_ctx_length", "max_length", "max_seq_length"),
            "max_tokens_per_input",
        ),
        **dict.fromkeys(
            (
                "concurrency",
                "max_concurrency",
                "max_concurrent",
                "max_concurrent_requests",
                "max_in_flight",
                "max_parallel",
                "n_jobs",
                "num_workers",
                "parallelism",
                "threads",
                "workers",
            ),
            "max_workers",
        ),
        **dict.fromkeys(("rpm", "rpm_limit", "requests_per_min"), "requests_per_minute"),
        **dict.fromkeys(("tpm", "tpm_limit", "tokens_per_min"), "tokens_per_minute"),
        **dict.fromkeys(("limiter", "ratelimiter"), "rate_limiter"),
        **dict.fromkeys(("redis", "redis_url", "shared_quota"), "quota"),
        **dict.fromkeys(
            ("on_long_input", "on_long_inputs", "truncate", "truncation"), "long_inputs"
        ),
        **dict.fromkeys(
            ("retry", "retries", "num_retries", "max_attempts", "attempts"), "max_retries"
        ),
        **dict.fromkeys(("request_timeout", "time_out"), "timeout"),
        **dict.fromkeys(("max_time", "total_timeout", "time_limit"), "deadline"),
        **dict.fromkeys(
            (
                "byte_store",
                "cache",
                "cache_dir",
                "cache_path",
                "checkpoint",
                "database",
                "db",
                "document_embedding_cache",
                "resume",
                "sqlite",
                "store",
            ),
            "journal",
        ),
        **dict.fromkeys(("model_name", "namespace"), "model"),
        **dict.fromkeys(("progress", "progress_bar", "show_progress_bar", "tqdm"), "show_progress"),
        **dict.fromkeys(("hedging", "speculative"), "hedge"),
        **dict.fromkeys(("skip_empty", "empty_texts", "on_empty"), "empty"),
        **dict.fromkeys(
            ("query_cache", "cache_size", "query_embedding_cache", "query_cache_maxsize"),
            "query_cache_size",
        ),
        **dict.fromkeys(("callback", "usage_callback"), "on_usage"),
        **dict.fromkeys(("budget", "max_cost", "max_budget", "cost_limit"), "max_dollars"),
    }
)
"""Maps the names that other packages use for an option to ours."""

_ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                "api_key",
                "api_version",
                "azure_deployment",
                "azure_endpoint",
                "base_url",
                "default_headers",
                "dimensions",
                "encoding_format",
                "http_client",
                "model_kwargs",
                "normalize",
                "openai_api_base",
                "openai_api_key",
                "openai_proxy",
                "organization",
                "proxy",
            ),
            "set it on the wrapped object: BatchEmbeddings(OpenAIEmbeddings({name}=...))",
        ),
        "tier": "the quota is read from the server's answers; plan(texts, tier=1) accepts a tier, "
        "and requests_per_minute= and tokens_per_minute= set a quota",
        **dict.fromkeys(
            ("dim", "dims", "embedding_dim", "output_dimensionality", "truncate_dim"),
            "set the width of the vectors on the wrapped object: "
            "BatchEmbeddings(OpenAIEmbeddings(dimensions=...))",
        ),
        **dict.fromkeys(
            ("device", "encode_kwargs", "tiktoken_enabled", "tiktoken_model_name", "tokenizer"),
            "set it on the wrapped object",
        ),
        **dict.fromkeys(
            ("errors", "ignore_errors", "on_error", "on_failure", "raise_on_error", "skip_errors"),
            "if some texts fail, PartialEmbeddingsError holds the vectors of all others",
        ),
        **dict.fromkeys(
            ("backoff", "retry_delay", "retry_max_seconds", "retry_min_seconds", "sleep", "wait"),
            "pauses follow the server's answers; max_outage and deadline limit them",
        ),
        "requests_per_second": "use requests_per_minute, with 60 times the value",
        "tokens_per_second": "use tokens_per_minute, with 60 times the value",
        "requests_per_day": "use requests_per_minute; a call ends when a daily quota is used up",
        **dict.fromkeys(
            ("verbose", "debug", "logger", "log_level"),
            "use show_progress=True, or the logger 'langchain_batch_embed' at level INFO",
        ),
        **dict.fromkeys(
            ("callbacks", "callback_manager"),
            "use show_progress=True during a call, and last_report after it",
        ),
        **dict.fromkeys(
            ("ids", "metadatas", "vectorstore", "vector_store"),
            "pass it to ingest(store, documents)",
        ),
        "max_buffered": "pass it to prefetch(texts) or ingest(store, documents)",
        "price": "pass it to plan(texts)",
    }
)
"""Maps names that are not options here to a hint where to set them instead."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of one `BatchEmbeddings`.

    The docstring of `BatchEmbeddings` describes them. They are checked here, except that `Limits`
    checks the sizes and `open_journal` checks the journal.

    Attributes:
        clock: gives the time and waits, in seconds; for requests.
        calendar: gives the time of day and waits, in seconds; for jobs, which take hours.
        draw: returns a random number from 0 to 1, for jitter.

    Raises:
        OptionError: an option has a value that cannot work.
    """

    max_batch_size: int | None = None
    max_tokens_per_request: int | None = None
    max_tokens_per_input: int | None = None
    max_workers: int | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    long_inputs: LongInputs = "average"
    max_retries: int = 8
    timeout: float | None = None
    deadline: float | None = None
    journal: Journal | ByteStore | str | os.PathLike[str] | None = None
    model: str | None = None
    limits: Limits | None = None
    show_progress: bool | None = None
    hedge: bool | None = None
    max_outage: float = MAX_OUTAGE
    empty: Empty | None = None
    rate_limiter: BaseRateLimiter | None = None
    query_cache_size: int = 0
    on_usage: Callable[[Usage], object] | None = None
    max_dollars: float | None = None
    quota: SharedQuota | None = None
    clock: Clock = SYSTEM_CLOCK
    calendar: Calendar = SYSTEM_CALENDAR
    draw: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        """Check the values; raise `OptionError` for one that cannot work."""
        self._make_plain()
        self._check_objects()
        for name in _AMOUNTS:
            amount(name, getattr(self, name))
        if not isinstance(self.model, str | None):
            raise OptionError(f"model must be a name, not {type(self.model).__name__}")
        if self.model == "":
            raise OptionError("model must be a name, not an empty string; leave it out for none")
        for name in ("max_retries", "query_cache_size"):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise OptionError(f"{name} must be a whole number of at least 0, not {count!r}")
        if self.long_inputs not in get_args(LongInputs):
            allowed = ", ".join(map(repr, get_args(LongInputs)))
            raise OptionError(f"long_inputs must be one of {allowed}, not {self.long_inputs!r}")
        for name in ("hedge", "show_progress"):
            if not isinstance(value := getattr(self, name), bool | None):
                raise OptionError(f"{name} must be True, False or None, not {value!r}")
        if self.empty is not None and self.empty not in get_args(Empty):
            allowed = ", ".join(map(repr, get_args(Empty)))
            raise OptionError(f"empty must be one of {allowed}, not {self.empty!r}")

    def _make_plain(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))

    def _check_objects(self) -> None:
        if isinstance(self.journal, str) and _ADDRESS.match(self.journal):
            # The address may hold a password, so it is not quoted.
            raise OptionError(
                "journal takes the path of a file, not an address; for Redis pass "
                'journal=RedisStore("redis://host:6379/0", prefix="vectors:")'
            )
        if isinstance(self.journal, str) and (not self.journal or "\0" in self.journal):
            raise OptionError(
                "journal must be the path of a file, not an empty string or one with a zero byte; "
                "leave it out for none"
            )
        if not isinstance(self.limits, Limits | None):
            raise OptionError("limits must be a Limits object: limits=Limits(provider=..., ...)")
        if self.on_usage is not None and not callable(self.on_usage):
            raise OptionError("on_usage must be a function of one argument, a Usage")
        if not isinstance(self.quota, SharedQuota | None):
            raise OptionError(
                'quota must be a SharedQuota: quota=SharedQuota("redis://host:6379/0")'
            )
        if not isinstance(self.rate_limiter, BaseRateLimiter | None):
            raise OptionError(
                "rate_limiter must be a BaseRateLimiter of langchain_core, such as "
                f"InMemoryRateLimiter(requests_per_second=5), not {self.rate_limiter!r}"
            )

    def limits_for(self, embeddings: Embeddings) -> Limits:
        """Return the limits of a wrapped object's provider, with the user's options applied.

        Raises:
            OptionError: a size is not a positive whole number, or is more than the provider
                accepts.
        """
        limits = (self.limits or limits_of(embeddings)).override(
            max_batch_size=self.max_batch_size,
            max_tokens_per_request=self.max_tokens_per_request,
            max_tokens_per_input=self.max_tokens_per_input,
            max_workers=self.max_workers,
        )
        if self.empty == "error":
            return replace(limits, refuses_empty=True)
        return replace(limits, refuses_empty=False) if self.replaces_empty(embeddings) else limits

    def limits_for_all(self, deployments: Sequence[Embeddings]) -> Limits:
        """Return limits that suit every deployment, so that a text can be sent to any of them.

        Raises:
            OptionError: a size is not a positive whole number, or is more than a provider accepts.
        """
        limits = [self.limits_for(each) for each in deployments]
        return limits[0] if len(limits) == 1 else common(limits)

    def replaces_empty(self, embeddings: Embeddings) -> bool:
        """Return whether an empty text gets a vector even if the server refuses empty texts."""
        if self.empty is None:
            return attribute(embeddings, "skip_empty") is True
        return self.empty == "skip-vector"

    def shows_progress(self, embeddings: Embeddings) -> bool:
        """Return whether to show a progress bar; by default if the wrapped object is set to."""
        if self.show_progress is None:
            return any(attribute(embeddings, name) is True for name in BARS)
        return self.show_progress

    def requests_a_minute(self) -> float | None:
        """Return the user's quota of requests a minute; `None` if the user has not set one.

        It is the option, or else the rate of the rate limiter if that has one.
        """
        if self.requests_per_minute is None and self.rate_limiter is not None:
            second = attribute(self.rate_limiter, "requests_per_second")
            return 60.0 * second if isinstance(second, int | float) and second > 0 else None
        return self.requests_per_minute

    def timeout_for(self, own: float | None) -> float:
        """Return the time-out for one request, in seconds.

        Args:
            own: the wrapped object's own time-out in seconds; `None` if it has none.
        """
        return self.timeout or own or TIMEOUT

    def hedges(self, limits: Limits) -> bool:
        """Return whether late requests are sent a second time; by default at hosted providers.

        With a rate limiter the default is not to, because a request may be late only because it
        waits for the limiter.
        """
        if self.hedge is None:
            return limits.is_remote and self.rate_limiter is None
        return self.hedge


OPTIONS = tuple(field.name for field in fields(Options) if field.name not in _HANDED_IN)
"""The names of all options that a user can set."""


class Option(Generic[_T]):
    """A read-only attribute that shows the value of an option.

    Args:
        read: returns the value, given the object.
        doc: the attribute's docstring.
        make: how to make an object with another value; `None` to name the option.
    """

    def __init__(
        self, read: Callable[[Any], _T], doc: str = "", *, make: str | None = None
    ) -> None:
        self._read = read
        self._make = make
        self._name = ""
        self.__doc__ = doc or (
            "The value in use, whether set by the user, read from the wrapped object, or a default."
        )

    def __set_name__(self, owner: type, name: str) -> None:
        """Store the option's name for the error message."""
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type) -> _T: ...

    def __get__(self, instance: object | None, owner: type) -> "_T | Self":
        """Return the value; on the class, return this descriptor itself."""
        return self if instance is None else self._read(instance)

    def __set__(self, instance: object, value: Never) -> None:
        """Refuse to change the option, because requests in flight rely on it.

        The type `Never` makes type checkers report the assignment, too.

        Raises:
            FixedOptionError: always.
        """
        make = self._make or f"BatchEmbeddings(wrapped, {self._name}=...)"
        raise FixedOptionError(
            f"{self._name} cannot be changed after the object is made; make a new one: {make}"
        )


def check_names(unknown: Collection[str]) -> None:
    """Refuse options that do not exist, and suggest the name or the place that may be meant.

    Raises:
        UnknownOptionError: `unknown` is not empty; the error is about its first name.
    """
    for name in unknown:
        raise UnknownOptionError(f"BatchEmbeddings has no option {name!r}; {_hint(name)}")


def _hint(name: str) -> str:
    plain = name.lower().strip("_")
    if plain in _ELSEWHERE:
        return _ELSEWHERE[plain].replace("{name}", plain)
    meant = _MEANT.get(plain) or next((option for option in OPTIONS if option in plain), None)
    if meant is None:
        names = [*OPTIONS, *_MEANT, *_ELSEWHERE]
        close = next(iter(difflib.get_close_matches(plain, names, n=1, cutoff=_ALIKE)), "")
        if close in _ELSEWHERE:
            return _hint(close)
        meant = _MEANT.get(close, close)
    return f"did you mean {meant!r}?" if meant else f"the options are {', '.join(OPTIONS)}"


def deployments_of(wrapped: object, wrapper: type[Embeddings]) -> tuple[Embeddings, ...]:
    """Return the objects to wrap: one, or several deployments of one model.

    Args:
        wrapped: an object or a name (see `_embeddings_of`), or an iterable of them.
        wrapper: the wrapping class, which must not be wrapped again.

    Raises:
        OptionError: the iterable is empty, or one of the objects cannot be wrapped.
    """
    is_one = isinstance(wrapped, Embeddings | str | type | Mapping)
    if is_one or not isinstance(wrapped, Iterable):
        return (_embeddings_of(wrapped, wrapper),)
    several = tuple(_embeddings_of(each, wrapper) for each in wrapped)
    if not several:
        raise OptionError(
            "BatchEmbeddings needs an Embeddings object, or several deployments of one model, "
            "but the list is empty"
        )
    return several


def _embeddings_of(wrapped: object, wrapper: type[Embeddings]) -> Embeddings:
    """Return the object to wrap; make it if only its name is given.

    Args:
        wrapped: an `Embeddings` object, or a name such as `"openai:text-embedding-3-small"`.
        wrapper: the wrapping class, which must not be wrapped again.

    Raises:
        OptionError: `wrapped` is a class, a `wrapper`, a name from which no object can be made, or
            anything else that is not an `Embeddings` object.
    """
    if isinstance(wrapped, str) and ":" in wrapped:
        return named(wrapped)
    if isinstance(wrapped, type):
        raise OptionError(
            f"BatchEmbeddings wraps an object, not a class: make one, {wrapped.__name__}(...)"
        )
    if isinstance(wrapped, str):
        raise OptionError(
            "BatchEmbeddings wraps an Embeddings object, for example OpenAIEmbeddings(model=...), "
            "or a name with its provider, for example 'openai:text-embedding-3-small'"
        )
    if not isinstance(wrapped, Embeddings):
        raise OptionError(
            "BatchEmbeddings wraps an Embeddings object, for example OpenAIEmbeddings(...), not "
            f"{type(wrapped).__name__}"
        )
    if isinstance(wrapped, wrapper):
        raise OptionError(
            "BatchEmbeddings around BatchEmbeddings would batch twice; use the inner object, or "
            "wrap its .embeddings"
        )
    return wrapped


def amount(name: str, value: object) -> float | None:
    """Return the value of the option `name`, a finite number above 0, as a plain number.

    `None` is allowed for all options but `max_outage`.

    Raises:
        OptionError: the value is not such a number.
    """
    value = plain(value)
    if value is None and name != "max_outage":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        unit = " of seconds" if name in _IN_SECONDS else ""
        raise OptionError(f"{name} must be a number{unit}, not {type(value).__name__}")
    if not math.isfinite(value):
        raise OptionError(
            f"{name} must be a finite number above 0, not {value}; leave it out for the default"
        )
    if value <= 0:
        raise OptionError(f"{name} must be more than 0, not {value}; leave it out for the default")
    return value
