"""The model, server and account that commands use, from their options and the environment."""

import argparse
import os
import sys
from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed.commands.arguments import positive
from langchain_batch_embed.embeddings import BatchEmbeddings
from langchain_batch_embed.limits import attribute, model_of
from langchain_batch_embed.providers.named import named

__all__ = ["MODEL", "add_model", "add_server", "batched", "model_name", "unasked", "wrapped_of"]

MODEL = "text-embedding-3-small"
"""The model if the command line names none."""

_OPENAI = "openai"


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add `--model`."""
    parser.add_argument(
        "--model",
        metavar="NAME",
        default=MODEL,
        help="OpenAI's, or PROVIDER:NAME as LangChain's init_embeddings takes it, such as "
        "ollama:bge-m3 (default: %(default)s)",
    )


def add_server(parser: argparse.ArgumentParser) -> None:
    """Add `--dimensions` and `--base-url`."""
    parser.add_argument(
        "--dimensions", type=positive, metavar="N", help="of the vectors (default: the model's)"
    )
    parser.add_argument(
        "--base-url",
        metavar="URL",
        help="of the server (default: OPENAI_BASE_URL, or the provider's own)",
    )


def model_name(options: argparse.Namespace) -> str:
    """Return the name of the model, without that of the provider."""
    return _parts(options.model)[1]


def wrapped_of(options: argparse.Namespace) -> Embeddings:
    """Return the object to wrap, made from `--model`, `--dimensions` and `--base-url`.

    Raises:
        SystemExit: there is no key for OpenAI, or the provider's class ignores an option.
        OptionError: no object can be made from the model's name.
    """
    provider, model = _parts(options.model)
    told: dict[str, Any] = {"dimensions": options.dimensions, "base_url": options.base_url}
    given = {name: value for name, value in told.items() if value is not None}
    if provider == _OPENAI and not os.environ.get("OPENAI_API_KEY"):
        sys.exit("OPENAI_API_KEY is not set; a server that needs no key takes any")
    made = named(f"{provider}:{model}", **given)
    for name, value in given.items() if provider != _OPENAI else ():
        if attribute(made, name) != value:  # some classes ignore unknown options
            flag = f"--{name.replace('_', '-')}"
            sys.exit(f"{type(made).__name__} of provider {provider!r} takes no {flag}")
    return made


def batched(wrapped: Embeddings, options: argparse.Namespace, **own: Any) -> BatchEmbeddings:
    """Return a `BatchEmbeddings` of the wrapped object, with a model name for its journal.

    The name comes from the command line if the wrapped object does not have one.

    Args:
        wrapped: the object to wrap.
        options: of the command line.
        own: options of `BatchEmbeddings`, such as `journal`.

    Raises:
        OptionError: an option has a value that cannot work.
        JournalError: the journal cannot be opened.
    """
    model = None if model_of(wrapped) else model_name(options)
    return BatchEmbeddings(wrapped, model=model, **own)


def unasked(name: str) -> Embeddings:
    """Return an object of a model that will send nothing, so that OpenAI's class needs no key.

    Args:
        name: the model, in the form that `--model` accepts.

    Raises:
        OptionError: no object can be made from the name.
    """
    provider, model = _parts(name)
    if provider != _OPENAI:
        return named(f"{provider}:{model}")
    # The user's environment variables must not interfere.
    return OpenAIEmbeddings(
        model=model, api_key=SecretStr("never sent"), openai_api_type=None, openai_proxy=""
    )


def _parts(name: str) -> tuple[str, str]:
    """Return the provider and the model that a name consists of; OpenAI if it has no colon."""
    provider, colon, model = name.partition(":")
    return (provider, model) if colon else (_OPENAI, name)
