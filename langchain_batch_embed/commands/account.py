"""The model, server and account that commands use, from their options and the environment."""

import argparse
import os
import sys
from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed.commands.arguments import ArgumentsError, positive
from langchain_batch_embed.commands.shell_words import shell_words
from langchain_batch_embed.embeddings import BatchEmbeddings
from langchain_batch_embed.errors import OptionError
from langchain_batch_embed.limits import attribute, model_of
from langchain_batch_embed.providers.named import named
from langchain_batch_embed.report import DOLLARS_PER_MILLION_TOKENS

__all__ = [
    "MODEL",
    "add_model",
    "add_server",
    "batched",
    "check_priced",
    "model_name",
    "unasked",
    "wrapped_of",
]

MODEL = "text-embedding-3-small"
"""The model if the command line names none."""

_OPENAI = "openai"


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add `--model`."""
    parser.add_argument(
        "--model",
        metavar="NAME",
        default=MODEL,
        help="name of an OpenAI model, or PROVIDER:NAME as in LangChain's init_embeddings, such "
        "as ollama:bge-m3 (default: %(default)s)",
    )


def add_server(parser: argparse.ArgumentParser) -> None:
    """Add `--dimensions` and `--base-url`."""
    parser.add_argument(
        "--dimensions",
        type=positive,
        metavar="N",
        help="size of the vectors (default: the model's)",
    )
    parser.add_argument(
        "--base-url",
        metavar="URL",
        help="base URL of the server (default: OPENAI_BASE_URL, or the provider's own)",
    )


def model_name(options: argparse.Namespace) -> str:
    """Return the name of the model, without that of the provider."""
    return _parts(options.model)[1]


def check_priced(options: argparse.Namespace) -> None:
    """Raise `ArgumentsError` if `--max-dollars` is given for a model whose price is not known."""
    name = model_name(options)
    if options.max_dollars is not None and name not in DOLLARS_PER_MILLION_TOKENS:
        raise ArgumentsError(
            "--max-dollars needs the model's price, which is known only for "
            f"{', '.join(DOLLARS_PER_MILLION_TOKENS)}, not for {name!r}; leave it out"
        )


def wrapped_of(options: argparse.Namespace) -> Embeddings:
    """Return the object to wrap, made from `--model`, `--dimensions` and `--base-url`.

    Raises:
        SystemExit: there is no key for OpenAI, or the provider's class ignores an option.
        ArgumentsError: no object can be made from the model's name.
    """
    provider, model = _parts(options.model)
    told: dict[str, Any] = {"dimensions": options.dimensions, "base_url": options.base_url}
    given = {name: value for name, value in told.items() if value is not None}
    if provider == _OPENAI and not os.environ.get("OPENAI_API_KEY"):
        sys.exit("OPENAI_API_KEY is not set; for a server that needs no key, set it to any value")
    made = _made(provider, model, **given)
    for name, value in given.items() if provider != _OPENAI else ():
        if attribute(made, name) != value:  # some classes ignore unknown options
            flag = f"--{name.replace('_', '-')}"
            sys.exit(
                f"{type(made).__name__} of provider {provider!r} does not support {flag}; leave "
                "it out"
            )
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
        ArgumentsError: no object can be made from the name.
    """
    provider, model = _parts(name)
    if provider != _OPENAI or not model:
        return _made(provider, model)
    # The user's environment variables must not interfere.
    return OpenAIEmbeddings(
        model=model, api_key=SecretStr("never sent"), openai_api_type=None, openai_proxy=""
    )


def _made(provider: str, model: str, **given: Any) -> Embeddings:
    try:
        return named(f"{provider}:{model}", **given)
    except OptionError as error:
        raise ArgumentsError(shell_words(error)) from error


def _parts(name: str) -> tuple[str, str]:
    """Return the provider and the model that a name consists of; OpenAI if it has no colon."""
    provider, colon, model = name.partition(":")
    return (provider, model) if colon else (_OPENAI, name)
