"""Makes embeddings from a name, such as `"openai:text-embedding-3-small"`."""

import importlib
import re
from typing import Any

from langchain_core.embeddings import Embeddings

from langchain_batch_embed.errors import OptionError

__all__ = ["named"]

_PACKAGES = ("langchain", "langchain_classic")
"""Packages that have `init_embeddings`; the second one has it for older programs."""

_INSTALL = re.compile(r"pip install ([\w-]+)")
_PROVIDER = re.compile(r"^\s*- ([a-z_]+)\b", re.MULTILINE)
_VARIABLE = re.compile(r"\b[A-Z]+(?:_[A-Z]+)*_(?:KEY|TOKEN)\b")
"""Environment variables that a message of LangChain's may name. Only matches of these three
patterns are repeated to the user, because some messages contain a key."""


def named(name: str, **options: Any) -> Embeddings:
    """Make the embeddings object for a name, as LangChain's `init_embeddings` does.

    Args:
        name: the provider, a colon, and the model.
        options: options of the provider's class.

    Raises:
        OptionError: the model, `langchain`, the provider's package or its key is missing, the
            provider does not exist, or its class does not have these options.
    """
    provider, _, model = name.partition(":")
    if not model:
        raise OptionError(
            f"{name!r} has no model; write PROVIDER:MODEL, for example "
            "'openai:text-embedding-3-small'"
        )
    try:
        made = _make(provider, model, options)
    except OptionError:
        raise
    except Exception as error:
        raise OptionError(_why(provider, options, error)) from error
    if not isinstance(made, Embeddings):
        raise OptionError(
            f"LangChain's init_embeddings makes no Embeddings object for provider {provider!r}; "
            "make the object yourself and wrap it"
        )
    return made


def _make(provider: str, model: str, options: dict[str, Any]) -> object:
    if provider == "openai":  # its package is a dependency
        return importlib.import_module("langchain_openai").OpenAIEmbeddings(model=model, **options)
    for package in _PACKAGES:
        try:
            module = importlib.import_module(f"{package}.embeddings")
        except ImportError:
            continue
        return module.init_embeddings(f"{provider}:{model}", **options)
    raise OptionError(
        f"provider {provider!r} needs LangChain's init_embeddings: pip install langchain; or wrap "
        "an object, for example OpenAIEmbeddings(...)"
    )


def _why(provider: str, options: dict[str, Any], error: Exception) -> str:
    """Return why the object could not be made, and what to do."""
    said = str(error)
    if isinstance(error, ImportError):
        package = _INSTALL.search(said)
        missing = package[1] if package else error.name or "its package"
        return f"provider {provider!r} needs {missing}: pip install {missing}"
    if "not supported" in said and (known := _PROVIDER.findall(said)):
        return (
            f"LangChain's init_embeddings does not know provider {provider!r}, only "
            f"{', '.join(known)}; for a model with a colon in its own name, write "
            f"'openai:{provider}:...'"
        )
    variables = dict.fromkeys(_VARIABLE.findall(said))
    reasons = [f"is {' or '.join(variables)} set?"] if variables else []
    if options:
        reasons.append(f"does its class take {' and '.join(options)}?")
    return (
        f"the Embeddings object of provider {provider!r} cannot be made "
        f"({type(error).__name__}): {' '.join(reasons) or 'make the object yourself and wrap it'}"
    )
