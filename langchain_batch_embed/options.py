"""The options of `BatchEmbeddings`: their names, types and defaults, checked when they are set."""

import difflib
import math
import os
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from typing import get_args

from langchain_core.embeddings import Embeddings
from langchain_core.stores import ByteStore

from langchain_batch_embed.clock import SYSTEM_CLOCK, Clock
from langchain_batch_embed.errors import OptionError, UnknownOptionError
from langchain_batch_embed.journal import Journal
from langchain_batch_embed.limits import Limits, limits_of
from langchain_batch_embed.pacing.pacer import MAX_OUTAGE
from langchain_batch_embed.shared.quota import SharedQuota
from langchain_batch_embed.texts.inputs import LongInputs

__all__ = ["Options", "check_names", "check_wrapped"]

TIMEOUT = 120.0
"""Seconds for one request where neither the user nor the wrapped object sets a time-out.

OpenAI answers the largest request in about 2 s, and one in a hundred takes many times that. A small
machine's own server can take minutes.
"""

_AMOUNTS = ("requests_per_minute", "tokens_per_minute", "timeout", "deadline", "max_outage")
_HANDED_IN = frozenset({"clock", "draw"})
"""Fields for tests, which no message offers."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of one `BatchEmbeddings`, which describes them for users.

    `Limits` checks the sizes, and `open_journal` the journal.

    Attributes:
        clock: time and waiting.
        draw: returns a random number from 0 to 1, for jitter.

    Raises:
        OptionError: an option cannot work.
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
    show_progress: bool = False
    hedge: bool | None = None
    max_outage: float = MAX_OUTAGE
    quota: SharedQuota | None = None
    clock: Clock = SYSTEM_CLOCK
    draw: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        """Check the values."""
        if not isinstance(self.limits, Limits | None):
            raise OptionError("limits must be a Limits object: limits=Limits(provider=..., ...)")
        for name in _AMOUNTS:
            _check_amount(name, getattr(self, name))
        if not isinstance(self.model, str | None):
            raise OptionError(f"model must be a name, not {type(self.model).__name__}")
        retries = self.max_retries
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise OptionError("max_retries must be a whole number of at least 0")
        if self.long_inputs not in get_args(LongInputs):
            allowed = ", ".join(map(repr, get_args(LongInputs)))
            raise OptionError(f"long_inputs must be one of {allowed}")
        if not isinstance(self.quota, SharedQuota | None):
            raise OptionError(
                'quota must be a SharedQuota: quota=SharedQuota("redis://host:6379/0")'
            )
        if not isinstance(self.hedge, bool | None):
            raise OptionError(f"hedge must be True, False or None, not {self.hedge!r}")

    def limits_for(self, embeddings: Embeddings) -> Limits:
        """Return the limits of the wrapped object's provider, or those that the user sets.

        Raises:
            OptionError: a size is not a positive whole number, or the provider refuses it.
        """
        return (self.limits or limits_of(embeddings)).override(
            max_batch_size=self.max_batch_size,
            max_tokens_per_request=self.max_tokens_per_request,
            max_tokens_per_input=self.max_tokens_per_input,
            max_workers=self.max_workers,
        )

    def timeout_for(self, own: float | None) -> float:
        """Return the seconds for one request.

        Args:
            own: the time-out that the wrapped object has; `None`: none.
        """
        return self.timeout or own or TIMEOUT

    def hedges(self, limits: Limits) -> bool:
        """Tell whether a straggler is sent a second time: by default at hosted providers."""
        return limits.is_remote if self.hedge is None else self.hedge


def check_names(unknown: Collection[str]) -> None:
    """Refuse options that do not exist, and offer the name that may be meant.

    Raises:
        UnknownOptionError: there is one.
    """
    names = [field.name for field in fields(Options) if field.name not in _HANDED_IN]
    for name in unknown:
        close = [n for n in names if n in name] or difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"
        raise UnknownOptionError(f"BatchEmbeddings has no option {name!r}; {hint}")


def check_wrapped(wrapped: object, wrapper: type[Embeddings]) -> None:
    """Refuse to wrap anything but an `Embeddings` object that is not wrapped yet.

    Raises:
        OptionError: it is a class, something else, or a `wrapper`.
    """
    if isinstance(wrapped, type):
        raise OptionError(
            f"BatchEmbeddings wraps an object, not a class: make one, {wrapped.__name__}(...)"
        )
    if not isinstance(wrapped, Embeddings):
        raise OptionError(
            "BatchEmbeddings wraps an Embeddings object, for example OpenAIEmbeddings(...), not "
            f"{type(wrapped).__name__}"
        )
    if isinstance(wrapped, wrapper):
        raise OptionError(
            "BatchEmbeddings around BatchEmbeddings would batch twice; wrap the inner one's "
            ".embeddings, or use that one"
        )


def _check_amount(name: str, value: object) -> None:
    if value is None and name != "max_outage":
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise OptionError(f"{name} must be a number, not {type(value).__name__}")
    if not 0 < value < math.inf:
        raise OptionError(f"{name} must be more than 0, not {value}; leave it out for the default")
