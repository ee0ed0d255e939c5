"""The account that commands use: OPENAI_API_KEY and OPENAI_BASE_URL say which."""

import argparse
import os
import sys

from langchain_openai import OpenAIEmbeddings

__all__ = ["wrapped_of"]


def wrapped_of(options: argparse.Namespace) -> OpenAIEmbeddings:
    """Return what is wrapped, from `--model` and `--dimensions`.

    Raises:
        SystemExit: there is no key.
    """
    if not os.environ.get("OPENAI_API_KEY"):
        sys.exit("OPENAI_API_KEY is not set; a server that needs no key takes any")
    return OpenAIEmbeddings(model=options.model, dimensions=options.dimensions)
