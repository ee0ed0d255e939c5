"""Checks the options of `BatchEmbeddings` when it is made, so that mistakes show at once."""

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, get_args

from langchain_core.embeddings import Embeddings

from langchain_batch_embed.errors import OptionError, UnknownOptionError
from langchain_batch_embed.limits import Limits
from langchain_batch_embed.texts.inputs import LongInputs

__all__ = ["check_options"]

_AMOUNTS = ("requests_per_minute", "tokens_per_minute", "timeout", "deadline", "max_outage")


def check_options(
    function: Callable[..., None], options: Mapping[str, Any], unknown: Mapping[str, Any]
) -> None:
    """Check what was passed to a constructor.

    Limits are checked by `Limits`, and the journal by `open_journal`.

    Args:
        function: the constructor, whose keyword parameters are the options there are.
        options: the options by name.
        unknown: what was passed by any other name.

    Raises:
        UnknownOptionError: an option does not exist.
        OptionError: an option cannot work.
    """
    for name in unknown:
        known = [p.name for p in inspect.signature(function).parameters.values()]
        names = [n for n in known if not n.startswith("_") and n not in ("self", "unknown")]
        close = [n for n in names if n in name] or difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"
        raise UnknownOptionError(f"BatchEmbeddings has no option {name!r}; {hint}")
    _check_wrapped(function, options["embeddings"])
    if not isinstance(options["limits"], Limits | None):
        raise OptionError("limits must be a Limits object: limits=Limits(provider=..., ...)")
    for name in _AMOUNTS:
        value = options[name]
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise OptionError(f"{name} must be a number, not {type(value).__name__}")
        if not (0 < value < math.inf):
            raise OptionError(
                f"{name} must be more than 0, not {value}; leave it out for the default"
            )
    if not isinstance(options["model"], str | None):
        raise OptionError(f"model must be a name, not {type(options['model']).__name__}")
    retries = options["max_retries"]
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise OptionError("max_retries must be a whole number of at least 0")
    if options["long_inputs"] not in get_args(LongInputs):
        allowed = ", ".join(map(repr, get_args(LongInputs)))
        raise OptionError(f"long_inputs must be one of {allowed}")


def _check_wrapped(function: Callable[..., None], wrapped: object) -> None:
    if isinstance(wrapped, type):
        raise OptionError(
            f"BatchEmbeddings wraps an object, not a class: make one, {wrapped.__name__}(...)"
        )
    if not isinstance(wrapped, Embeddings):
        raise OptionError(
            "BatchEmbeddings wraps an Embeddings object, for example OpenAIEmbeddings(...), not "
            f"{type(wrapped).__name__}"
        )
    if any(vars(kind).get("__init__") is function for kind in type(wrapped).__mro__):
        raise OptionError(
            "BatchEmbeddings around BatchEmbeddings would batch twice; wrap the inner one's "
            ".embeddings, or use that one"
        )
